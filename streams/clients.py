"""aiokafka's client, for everything in this process that speaks to Kafka: it finds its brokers again.

aiokafka 0.14 asks the bootstrap servers once, at the start, and after that only the brokers that it was told of. Where
their addresses change while none of them answers, it never finds them again. Here a client that has reached no broker
for `REBOOTSTRAP_SECONDS` asks the bootstrap servers anew, and it knows for how long it has had no answer.

Kept apart, because it leans on how aiokafka 0.14 behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from aiokafka import client as aiokafka_client
from aiokafka.admin import client as admin_client
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.consumer import consumer as consumer_client
from aiokafka.errors import KafkaError, RequestTimedOutError
from aiokafka.producer import producer as producer_client
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest

logger = logging.getLogger(__name__)

REBOOTSTRAP_SECONDS: Final = 30.0
"""After so long without any broker a client asks the bootstrap servers anew; so the Java client does by default after
300 s (`metadata.recovery.rebootstrap.trigger.ms`), but a worker's session is 15."""
CONNECT_SECONDS: Final = 10.0
"""How long a connection may take, with the log-in: aiokafka gives it the whole time of a request, up to 20 minutes."""
ANSWER_SECONDS: Final = 15.0
"""How long a broker may take for what it answers at once."""
PRODUCE_SECONDS: Final = 30.0
"""How long it may take to write a batch to all replicas. After that the batch is sent again: nothing is written twice,
because our producers are idempotent."""
_AGAIN_SECONDS: Final = 1.0
"""How soon a client that has reached no broker tries again, by itself."""
_FORGET_SECONDS: Final = 20.0
"""A broker that nobody has tried for so long is not missed: another one leads its partitions, most likely."""
_WAITS: Final = (JoinGroupRequest, SyncGroupRequest)
"""What a broker answers when other members of the group are ready."""
_LIMITS: Final[dict[type, float]] = dict.fromkeys(
    (
        FetchRequest,
        FindCoordinatorRequest,
        HeartbeatRequest,
        OffsetCommitRequest,
        OffsetFetchRequest,
        OffsetRequest,
    ),
    ANSWER_SECONDS,
) | {ProduceRequest: PRODUCE_SECONDS}


@dataclass
class _Failing:
    since: float
    last: float


class Contact:
    """What one client knows of the brokers that it needs: since when one of them has not answered.

    Written by the client, read from other threads, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: dict[object, float] = {}
        self._failing: dict[Hashable, _Failing] = {}
        self._refused: dict[Hashable, float] = {}

    @contextlib.contextmanager
    def asking(self, broker: Hashable, *, waits: bool = False) -> Iterator[None]:
        """Note what becomes of a request: answered, or not. `waits`: it may take long, and says nothing meanwhile."""
        began, request = self._clock(), object()
        if not waits:
            self._asked[request] = began
        try:
            yield
        except (KafkaError, OSError):
            self.failed(broker, began)
            raise
        else:
            self.answered(broker)
        finally:
            self._asked.pop(request, None)

    def failed(self, broker: Hashable, began: float | None = None) -> None:
        """Take note that a broker did not answer what it was asked at `began`."""
        now = self._clock()
        self._failing.setdefault(broker, _Failing(now if began is None else began, now)).last = now

    def answered(self, broker: Hashable) -> None:
        """Take note that a broker answers."""
        self._failing.pop(broker, None)

    def wrote(self, partition: Hashable, *, taken: bool) -> None:
        """Take note that a broker has answered a batch of records: it took it, or asks to try again later."""
        if taken:
            self._refused.pop(partition, None)
        else:
            self._refused.setdefault(partition, self._clock())

    def refused_seconds(self) -> float:
        """Return for how long records of a partition have been refused, to be tried again; 0 where none are."""
        now = self._clock()
        return now - min(list(self._refused.values()), default=now)

    def silent_seconds(self) -> float:
        """Return for how long a broker that this client needs has not answered; 0 where all do."""
        now = self._clock()
        since = list(self._asked.values())
        since += [one.since for one in list(self._failing.values()) if now - one.last < _FORGET_SECONDS]
        return now - min(since, default=now)


class Client(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's client. `contact` knows whether its brokers answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.contact = Contact()
        self._lost: float | None = None

    async def send(self, node_id: Any, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """Send a request and return the answer. Raises KafkaError, also where a broker leaves it unanswered."""
        limit = _LIMITS.get(type(request))
        with self.contact.asking((node_id, group), waits=isinstance(request, _WAITS)):
            try:
                async with asyncio.timeout(limit):
                    return await super().send(node_id, request, group=group)
            except TimeoutError:
                self._hang_up(node_id, group)
                raise RequestTimedOutError(f"no answer within {limit:g} s") from None

    def _hang_up(self, node_id: Any, group: ConnectionGroup) -> None:
        """Close a connection on which nothing comes any more; whatever else waits on it fails, and is tried again."""
        if (connection := self._conns.get((node_id, group))) is not None:
            connection.close(reason=aiokafka_client.CloseReason.CONNECTION_TIMEOUT)

    def _hang_up_on_the_silent(self) -> None:
        # Not on the group's coordinator: that one may be silent for the whole of a rebalance.
        for (node_id, group), connection in list(self._conns.items()):
            waits = connection._requests and time.monotonic() - connection._last_action >= ANSWER_SECONDS
            if waits and group is ConnectionGroup.DEFAULT:
                self._hang_up(node_id, group)

    async def _get_conn(
        self, node_id: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> Any:
        known, broker = self._conns.get((node_id, group)), (node_id, group)
        if known is not None and known.connected():
            return known
        began = time.monotonic()
        connection = await super()._get_conn(node_id, group=group, no_hint=no_hint)
        if connection is None:
            self.contact.failed(broker, began)
        else:
            self.contact.answered(broker)
        return connection

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Ask the known brokers where everything is; the bootstrap servers, where none of those answers for long."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                updated = bool(await super()._metadata_update(cluster_metadata, topics))
        except TimeoutError:
            updated = False
            self._hang_up_on_the_silent()
        if updated:
            self._lost = None
            return True
        self._lost = began if self._lost is None else self._lost
        self._loop.call_later(_AGAIN_SECONDS, self._try_again)
        if cluster_metadata is self.cluster and time.monotonic() - self._lost >= REBOOTSTRAP_SECONDS:
            return await self._bootstrap_anew(topics)
        return False

    def _try_again(self) -> None:
        # Left to itself a client that nobody uses looks again after minutes. A closed one has no such task.
        if self._sync_task is not None:
            self.force_metadata_update()

    async def _bootstrap_anew(self, topics: Iterable[str] | None) -> bool:
        """Learn the brokers' addresses from the bootstrap servers, and drop all connections to the old ones."""
        for host, port, _ in self.hosts:
            try:
                metadata = await self._asked_at(host, port, topics)
            except (OSError, KafkaError) as error:
                logger.info("bootstrap server %s:%s does not answer: %s", host, port, error)
                continue
            if not metadata.brokers:
                continue
            logger.warning("%s found Kafka again through its bootstrap server %s:%s", self._client_id, host, port)
            for connection in self._conns.values():
                connection.close()
            self._conns.clear()
            self.cluster.update_metadata(metadata)
            self._lost = None
            return True
        return False

    async def _asked_at(self, host: str, port: int, topics: Iterable[str] | None) -> Any:
        # All that is known of the topics is asked for at once: an answer without them would look as if they had gone.
        connection = await _connected(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_kerberos_service_name=self._sasl_kerberos_service_name,
            sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await connection.send(MetadataRequest(list(topics) if topics else None))
        finally:
            connection.close()


def contacts_of(*clients: Any) -> list[Contact]:
    """Return what consumers and admin clients of aiokafka know of their brokers."""
    return [cast("Contact", client._client.contact) for client in clients]


async def _connected(host: str, port: int, **options: Any) -> Any:
    async with asyncio.timeout(CONNECT_SECONDS):
        return await create_conn(host, port, **options)


def install() -> None:
    """Have all of aiokafka's consumers, producers and admin clients of this process use it.

    Called before the first one is built.
    """
    aiokafka_client.create_conn = _connected
    for module in (admin_client, consumer_client, producer_client):
        module.AIOKafkaClient = Client
