"""Faust's Kafka transport, with what cannot be set from outside set here.

Kept apart, because it leans on how faust-streaming 0.15.3 and aiokafka 0.14 behave.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

FETCH_MAX_WAIT_MS: Final = 50
"""How long the broker may hold a fetch that finds nothing. Faust's is 1500, and aiokafka has one fetch under way for
each broker: a partition whose records were just being consumed is not in it, and would wait for its end.
"""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that holds aiokafka's consumer."""

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's name
        max_records: int | None = None,
    ) -> Any:
        """Return what was fetched of the active partitions, a fair share of each.

        - Records are taken only at a moment when the flow is active, and never by a call that has waited through a
          rebalance. Faust's own takes them whenever they come; and it hands aiokafka its live set of active partitions,
          which is empty during a rebalance, and "none" means "all" to aiokafka. What is taken so Faust throws away: it
          is the record that a stream, or the recovery of a table, then lacks.
        - aiokafka hands out all it has of one partition before the next: behind a backlog of arrivals the outcomes
          would wait for half a minute.
        """
        fetcher, loop = consumer._fetcher, asyncio.get_running_loop()
        app, ends = self.consumer.app, loop.time() + (timeout or 0.0)
        generation = app.consumer_generation_id
        with fetcher._subscriptions.fetch_context():
            while self.consumer.flow_active and app.consumer_generation_id == generation:
                if consumer._closed or fetcher._closed:
                    raise ConsumerStoppedError
                found = await _taken(fetcher, active_partitions, max_records or 1)
                left = ends - loop.time()
                if found or left <= 0:
                    return found
                await _wait_for_more(fetcher, left)
        return {}


async def _taken(fetcher: Any, active: set[TP], max_records: int) -> dict[Any, Any]:
    """Take what is there; nothing is awaited that is not ready."""
    if fetcher._subscriptions.reassignment_in_progress:
        return {}
    ready = [tp for tp in list(fetcher._records) if tp in active]
    share = max(1, max_records // max(1, len(ready)))
    found: dict[Any, Any] = {}
    for tp in ready:
        found.update(await fetcher.fetched_records([tp], timeout=0, max_records=share))
    return found


async def _wait_for_more(fetcher: Any, seconds: float) -> None:
    waiter = fetcher._create_fetch_waiter()
    done, _ = await asyncio.wait({waiter}, timeout=seconds)
    if done:
        waiter.result()  # an error of the group's coordination
    else:
        waiter.cancel()


class Consumer(driver.Consumer):
    """Faust's consumer."""

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class Producer(driver.Producer):
    """Faust's producer."""

    async def on_start(self) -> None:
        """Start; from then on nothing is sent by a process that stood still: others may own what it writes."""
        await super().on_start()
        client, check = cast("Any", self._producer).client, cast("Any", self.app).standstill.check
        send = client.send

        async def checked(*args: Any, **kwargs: Any) -> Any:
            check()
            return await send(*args, **kwargs)

        client.send = checked

    async def flush(self) -> None:
        """Wait until the broker has what was sent so far.

        Faust's own also waits for the buffer of table writes to be empty, which under load takes ten seconds, and each
        commit waits for it. Here an event is acknowledged when its own writes are on the broker, so that no commit
        needs to wait for others'.
        """
        if self._producer is not None:
            await self._producer.flush()


def install() -> None:
    """Have every Faust app of this process use what is above; called before one is built."""
    driver.Transport.Consumer = Consumer
    driver.Transport.Producer = Producer
