"""Whether the application's own topics have the partitions that they must have, and in words what to do where not.

A node run stands in the partition of its id, in the same one of every own topic. Kafka can add partitions to a topic
and cannot take them back. How many there were shows in the changelog: whoever takes a partition writes a row there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer

from streams.beginning import partitions_of
from streams.topics import Topics


@dataclass(frozen=True)
class Misfit:
    """What is wrong with the numbers of partitions, and what to do."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}: {self.remedy}"


def misfit(
    topics: Topics, found: Mapping[str, int], partitions: int, *, surplus: bool, used: int | None = None
) -> Misfit | None:
    """Return what is wrong with the numbers of partitions, and what to do; None where they fit.

    Args:
        topics: which of them need the same number.
        found: how many partitions each topic has; those that are not there are left out.
        partitions: what PARTITIONS says.
        surplus: whether more than that are taken as they are, and left unused.
        used: how many have been used so far, where that is known: then it is no guess which topics were changed.
    """
    fixed = {spec.name: found[spec.name] for spec in topics.all if spec.partitions is not None and spec.name in found}
    known = used in fixed.values() or used == partitions
    first = used if used and known else _first(fixed, found.get(topics.changelog.name), partitions)
    wrong = {name: number for name, number in fixed.items() if number != first}
    if surplus:
        wrong = {name: number for name, number in wrong.items() if number < first}
    if not wrong:
        return None if first == partitions else _other_setting(list(fixed), first, partitions)
    return _changed_topics(wrong, first, partitions, made_anew=topics.changelog.name not in wrong)


async def used_partitions(consumer: AIOKafkaConsumer, topics: Topics) -> int:
    """Return how many partitions of the changelog were ever written; 0 where it is new, or not there.

    Raises KafkaError.
    """
    places = await partitions_of(consumer, topics.changelog.name)
    ends = await consumer.end_offsets(places) if places else {}
    return max((tp.partition + 1 for tp, end in ends.items() if end > 0), default=0)


def _first(fixed: Mapping[str, int], changelog: int | None, partitions: int) -> int:
    """Return how many partitions the topics were made with. The changelog has the state, so its number counts most."""
    others = {number for number in fixed.values() if number != changelog}
    if changelog is None:
        return partitions if partitions in others or not others else min(others)
    if changelog <= partitions or not others:
        return changelog
    # It has more than the setting: it was added to, where another topic still has what the setting says.
    if partitions in others:
        return partitions
    alike = len(others) == 1 and len(fixed) - sum(number == changelog for number in fixed.values()) > 1
    return min(changelog, *others) if alike else changelog


def _other_setting(names: Sequence[str], first: int, partitions: int) -> Misfit:
    are = f"topic {names[0]} has" if len(names) == 1 else f"topics {', '.join(names)} have"
    return Misfit(
        f"{are} {_counted(first)}, PARTITIONS is {partitions}; the number is fixed once topics exist",
        f"set PARTITIONS={first}, or change it as docs/operations.md says",
    )


def _changed_topics(wrong: Mapping[str, int], first: int, partitions: int, *, made_anew: bool) -> Misfit:
    more = {name: number for name, number in wrong.items() if number > first}
    fewer = {name: number for name, number in wrong.items() if number < first}
    setting = f"PARTITIONS={first}" if first != partitions else ""
    found, steps = [], []
    if more:
        found.append(f"{_listed(more)} where the own topics were made with {first}")
        both = " and ".join(filter(None, (setting, "SURPLUS_PARTITIONS=ignore")))
        steps.append(
            f"partitions were added, which Kafka cannot take back; set {both}, and the first {first} are used as "
            "before, with nothing in the others"
        )
    if fewer:
        found.append(f"{_listed(fewer)} where the own topics have {first}")
        anew = f"delete {', '.join(fewer)} while no worker runs"
        lost = "and nothing of it is still to be read (`check` says that)" if made_anew else "what is in it is lost"
        steps.append(f"{anew}, {lost}; the next start makes it with {first}")
        if setting and not more:
            steps.append(f"set {setting}")
    return Misfit("; ".join(found), "; ".join(steps))


def _listed(topics: Mapping[str, int]) -> str:
    return ", ".join(f"topic {name} has {_counted(number)}" for name, number in topics.items())


def _counted(number: int) -> str:
    return f"{number} partition{'' if number == 1 else 's'}"
