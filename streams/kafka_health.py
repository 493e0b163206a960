"""Whether the own Kafka answers this worker, and since when not.

A worker waits an outage out: its calls go on, what they end with is written when Kafka is back, and its clients find
brokers whose addresses have changed (`streams.clients`). It ends only where that is of use: where a client that is made
anew reaches Kafka, and those of this process still do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from streams.cluster import Cluster
from streams.exits import stop_process

logger = logging.getLogger(__name__)

AWAY_SECONDS: Final = 10.0
"""A broker that was restarted is back before, or another one leads its partitions."""
GIVE_UP_SECONDS: Final = 90.0
"""By then every client of this process has asked the bootstrap servers anew, more than once."""
LOOK_SECONDS: Final = 1.0
NEW_CLIENT_SECONDS: Final = 10.0
"""How often a client is made anew, and how long it may take."""
NEW_CLIENTS: Final = 3
"""So many in a row have to reach Kafka: one alone may have come at its very return."""
_MOMENT_SECONDS: Final = 3.0
_REQUEST_MS: Final = 5_000


class KafkaHealth:
    """Looks whether Kafka answers.

    Args:
        silent: returns for how many seconds each client of this process has had no answer, by what it does.
        refused: returns for how many seconds Kafka, which answers, has taken no records.
        reach: reaches Kafka with a new client, as all of this process would; raises KafkaError or OSError.
        give_up: seconds of silence after which `reach` is tried.
        stop: ends the process.
        now: epoch seconds.
    """

    def __init__(
        self,
        silent: Callable[[], Mapping[str, float]],
        refused: Callable[[], float],
        reach: Callable[[], Awaitable[None]],
        *,
        give_up: float = GIVE_UP_SECONDS,
        stop: Callable[[str], object] = stop_process,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._silent = silent
        self._refused = refused
        self._reach = reach
        self._give_up = give_up
        self._stop = stop
        self._now = now
        self._suspected = False
        self._tried = 0.0
        self._reached = 0
        self.since: float | None = None
        """Epoch seconds from which on Kafka is away for this worker; None where it answers."""
        self.problem: str | None = None
        """What Kafka does not do, as the end of a sentence that begins with `Kafka`; None where all is well."""

    @property
    def away(self) -> bool:
        """Whether Kafka is away."""
        return self.since is not None

    def away_seconds(self) -> float:
        """Return for how long it has been away; 0 where it is there."""
        return 0.0 if self.since is None else max(0.0, self._now() - self.since)

    async def look(self) -> None:
        """Take note of how it is now; where Kafka is away for long, see whether a new client reaches it."""
        found = self._found(AWAY_SECONDS)
        if found is None:
            self._answers()
            return
        if not self._suspected:
            # What has come may just not have had its turn: the event loop was blocked, and so was this look.
            self._suspected = True
            return
        self.problem, seconds = found
        if self.since is None:
            self.since = self._now() - seconds
            logger.error("%s; this worker waits for it", self.sentence())
        if max(self._missed(AWAY_SECONDS).values(), default=0.0) >= self._give_up:
            await self._try_anew()

    def _found(self, least: float) -> tuple[str, float] | None:
        """Return what Kafka does not do, and for how many seconds; None where that is for less than `least`."""
        if silent := self._missed(least):
            return f"does not answer ({', '.join(sorted(silent))})", max(silent.values())
        refused = self._refused()
        return ("answers, and takes no records", refused) if refused >= least else None

    def _missed(self, least: float) -> dict[str, float]:
        return {what: seconds for what, seconds in self._silent().items() if seconds >= least}

    def _answers(self) -> None:
        if self.since is not None:
            logger.warning("Kafka is back; it was away for %.0f s", self.away_seconds())
        self.since, self.problem = None, None
        self._suspected, self._reached = False, 0

    async def _try_anew(self) -> None:
        if self._now() - self._tried < NEW_CLIENT_SECONDS:
            return
        self._tried = self._now()
        try:
            async with asyncio.timeout(NEW_CLIENT_SECONDS):
                await self._reach()
        except (KafkaError, OSError) as error:
            logger.info("a new client does not reach Kafka either: %s: %s", type(error).__name__, error)
            self._reached = 0
            return
        self._reached += 1
        if self._reached >= NEW_CLIENTS and (still := self._missed(AWAY_SECONDS)):
            names = ", ".join(sorted(still))
            self._stop(f"new clients reach Kafka, but the {names} of this process has not since {_time(self.since)}")

    def sentence(self) -> str | None:
        """Return since when Kafka does not do what; None where all is well."""
        return None if self.problem is None else f"Kafka {self.problem} since {_time(self.since)}"

    def why_nothing_moves(self) -> str | None:
        """Return the same at this moment, also of what is not an outage yet: for whoever cannot wait longer."""
        found = self._found(_MOMENT_SECONDS)
        return None if found is None else f"Kafka {found[0]} since {_time(self._now() - found[1])}"

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # What cannot be looked at is no reason to end a worker that is well.
                logger.exception("whether Kafka answers cannot be looked at")
            await asyncio.sleep(LOOK_SECONDS)


def _time(at: float | None) -> str:
    return "now" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def reach(cluster: Cluster, group: str, topics: frozenset[str]) -> None:
    """Ask with new clients what those of a worker ask: the group's coordinator, and the leader of every partition.

    Raises KafkaError or OSError where one of them does not answer.
    """
    options = {**cluster.client(), "request_timeout_ms": _REQUEST_MS}
    admin = AIOKafkaAdminClient(client_id=f"{group}.anew", **options)
    consumer = AIOKafkaConsumer(client_id=f"{group}.anew", group_id=None, enable_auto_commit=False, **options)
    async with contextlib.AsyncExitStack() as clients:
        clients.push_async_callback(admin.close)
        clients.push_async_callback(_stop, consumer)
        await admin.start()
        [answer] = await admin.describe_consumer_groups([group])
        if failed := answer.groups[0][0]:
            raise for_code(failed)(group)
        await consumer.start()
        described = await admin.describe_topics(sorted(topics))
        places = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in described
            for partition in topic["partitions"]
        ]
        await consumer.end_offsets(places)


async def _stop(consumer: AIOKafkaConsumer) -> None:
    # In a task of its own: aiokafka 0.14 may raise CancelledError from it, though nobody cancelled.
    await asyncio.wait([asyncio.create_task(consumer.stop())], timeout=_REQUEST_MS / 1000)
