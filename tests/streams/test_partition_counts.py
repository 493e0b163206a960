"""What is said of the numbers of partitions of the own topics, whatever combination there is."""

import itertools
import re
from typing import Final

import pytest

from streams.partition_counts import misfit
from streams.settings import Settings
from streams.topics import topics_of

A, O, C = "org.port-runs.arrivals", "org.port-runs.outcomes", "org.port-runs-ledger-changelog"  # noqa: E741
NUMBERS: Final = (None, 1, 8, 12)


def said(
    arrivals: int | None,
    outcomes: int | None,
    changelog: int | None,
    partitions: int = 8,
    *,
    surplus: bool = False,
    used: int | None = None,
) -> str | None:
    settings = Settings(
        port_org_id="org", port_client_id="x", port_client_secret="x", handlers=("x",), partitions=partitions
    )
    # Topics that may have any number have one that nobody else has.
    found = {"org.runs": 3, "org.port-runs.audit": 5, "org.port-runs.dead-letters": 7}
    found |= {name: n for name, n in zip((A, O, C), (arrivals, outcomes, changelog), strict=True) if n is not None}
    found_wrong = misfit(topics_of(settings), found, partitions, surplus=surplus, used=used)
    return None if found_wrong is None else str(found_wrong)


def test_what_fits_is_fine() -> None:
    assert said(8, 8, 8) is None
    assert said(8, None, None) is None
    assert said(None, None, None) is None


def test_another_setting_than_the_topics_were_made_with() -> None:
    other = "; the number is fixed once topics exist: set PARTITIONS=8, or change it as docs/operations.md says"
    assert said(8, 8, 8, 12) == f"topics {A}, {O}, {C} have 8 partitions, PARTITIONS is 12{other}"
    assert said(8, 8, 8, 4) == f"topics {A}, {O}, {C} have 8 partitions, PARTITIONS is 4{other}"
    assert said(None, None, 8, 4) == f"topic {C} has 8 partitions, PARTITIONS is 4{other}"


@pytest.mark.parametrize(
    ("counts", "partitions", "named", "setting"),
    [
        ((12, 8, 8), 8, [A], "set SURPLUS_PARTITIONS=ignore"),
        ((8, 12, 8), 8, [O], "set SURPLUS_PARTITIONS=ignore"),
        ((8, 8, 12), 8, [C], "set SURPLUS_PARTITIONS=ignore"),
        ((12, 12, 8), 8, [A, O], "set SURPLUS_PARTITIONS=ignore"),
        ((12, 8, 12), 8, [A, C], "set SURPLUS_PARTITIONS=ignore"),
        # As somebody may do who was told only of the first.
        ((12, 8, 8), 12, [A], "set PARTITIONS=8 and SURPLUS_PARTITIONS=ignore"),
        ((12, 12, 8), 12, [A, O], "set PARTITIONS=8 and SURPLUS_PARTITIONS=ignore"),
        ((8, 12, 8), 4, [O], "set PARTITIONS=8 and SURPLUS_PARTITIONS=ignore"),
        ((8, 8, 12), 4, [C], "set PARTITIONS=8 and SURPLUS_PARTITIONS=ignore"),
    ],
)
def test_partitions_that_were_added(
    counts: tuple[int, int, int], partitions: int, named: list[str], setting: str
) -> None:
    text = said(*counts, partitions)
    assert text is not None
    assert all(f"topic {name} has 12 partitions" in text for name in named)
    assert all(name not in text for name in {A, O, C} - set(named))
    assert "where the own topics were made with 8: partitions were added, which Kafka cannot take back" in text
    assert setting in text


def test_a_topic_that_somebody_made_with_fewer() -> None:
    text = said(1, 8, 8)
    assert text == (
        f"topic {A} has 1 partition where the own topics have 8: delete {A} while no worker runs, and nothing of it is "
        "still to be read (`check` says that); the next start makes it with 8"
    )
    assert said(1, 8, 8, surplus=True) == text


def test_all_topics_may_have_been_raised_together() -> None:
    """Only what was used tells that: with twelve, the node runs of eight would not be found again."""
    text = said(12, 12, 12, 8, used=8)
    assert text is not None
    assert "where the own topics were made with 8" in text
    assert "set SURPLUS_PARTITIONS=ignore" in text
    assert said(12, 12, 12, 8, used=8, surplus=True) is None
    assert "set PARTITIONS=12" in (said(12, 12, 12, 8, used=12) or "")


def test_who_does_what_is_said_is_told_nothing_more() -> None:
    """In every combination: no advice leads to another one."""
    for arrivals, outcomes, changelog in itertools.product(NUMBERS, repeat=3):
        for partitions, used in itertools.product((1, 8, 12), (None, 0, 5, 8)):
            written = used if changelog is not None and changelog >= (used or 0) else None
            follow((arrivals, outcomes, changelog), partitions, written)


def follow(counts: tuple[int | None, int | None, int | None], partitions: int, used: int | None) -> None:
    """Do what is said, and ask again."""
    text = said(*counts, partitions, used=used)
    if text is None:
        return
    now = {
        name: None if re.search(f"delete [^:;]*{name}", text) else number
        for name, number in zip((A, O, C), counts, strict=True)
    }
    told = re.search(r"(?<!SURPLUS_)PARTITIONS=(\d+)", text)
    setting = partitions if told is None else int(told[1])
    ignore = "SURPLUS_PARTITIONS=ignore" in text
    assert said(now[A], now[O], now[C], setting, surplus=ignore, used=used) is None, text
