"""The worker: Faust's app with the settings that this application depends on, and the checks around its start."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, cast

import faust
from aiokafka.errors import KafkaError
from faust import streams as faust_streams
from faust.types import TP, AgentT, ProducerT
from faust.types.auth import CredentialsT
from yarl import URL

from port.budget import Budget
from port.client import PortClient
from streams.assignor import Assignor
from streams.beginning import begin
from streams.bridge import Bridge
from streams.clients import Contact
from streams.cluster import Cluster
from streams.creation import ClusterAwayError, TopicsError, ensure_topics
from streams.exits import WRONG_SETTING, stop_process
from streams.incidents import Incidents
from streams.kafka_health import KafkaHealth, reach
from streams.logs import quieten
from streams.membership import Group
from streams.metrics import API_CALLS, API_SECONDS
from streams.offsets import EveryOffset, KafkaLog
from streams.open_transactions import OpenTransactions
from streams.outbox import Outbox
from streams.partition_counts import Misfit, misfit
from streams.producers import UNENDING_MS
from streams.settings import LOOPBACK, WILDCARDS, Settings
from streams.standstill import StandStill
from streams.topic_configs import unfit_topics
from streams.topics import MAX_RECORD_BYTES, Topics, topics_of
from streams.transport import Consumer, Producer, install
from streams.unknown_settings import unknown_settings

logger = logging.getLogger(__name__)

GC_THRESHOLDS: Final = (20_000, 20, 50)
"""New objects before the garbage collector looks at them, and how often it looks at older ones. Python's own (700, 10,
10) have it look through every open node run again and again: 7 % of a burst, and pauses of tens of milliseconds."""

SESSION_TIMEOUT: Final = 15.0
"""Seconds after which the group takes a silent worker for dead."""
MAX_STANDSTILL: Final = 0.7 * SESSION_TIMEOUT
"""Seconds after which a process that stood still ends: its partitions may have other owners by now."""
LOOK_SECONDS: Final = 5.0
"""How often the logs of this worker's partitions are looked at: whether they are still those that they were."""
STOP_SECONDS: Final = 10.0
"""Time that Faust gets for its own stop, once running items have ended. With Kafka there it takes about two seconds."""


class FailStop(faust.Sensor):
    """Ends the process when a record that must not fail was not written. Faust only logs it, and would commit."""

    def on_send_error(self, producer: object, exc: BaseException, state: object) -> None:
        """Called by Faust when the broker refused a record, or did not take it in time."""
        stop_process(f"a record could not be written: {type(exc).__name__}: {exc}")


# Looking a metric up by its labels costs more than counting.
_calls, _seconds = lru_cache(API_CALLS.labels), lru_cache(API_SECONDS.labels)


def _count(call: str, status: int | None, took: float) -> None:
    _calls(call, "none" if status is None else str(status)).inc()
    _seconds(call).observe(took)


def incarnation_id() -> str:
    """Return a fresh identity for this start of the process: the host's name and 8 random hex digits."""
    return f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"


class Worker(faust.App):
    """The Faust app of one worker process.

    Attributes:
        settings: the settings it was built from.
        incarnation: its identity, new at every start of the process; its Kafka client id.
        port: the client of Port's API, one for the whole process.
        bridge: copies the runs topic from another cluster; None where it is on the own one.
        topic_specs: every topic that it reads or writes.
        offsets: follows the offsets of its streams.
        incidents: what was found to be wrong with their topics.
        transactions: those of producers that keep its partitions from being read.
        kafka: whether the own Kafka answers.
        topic_problems: what is wrong with own topics and does not keep it from working, by topic or what is done there.
        owned: the partitions of the ledger that it owns, by its present assignment.
        on_lost: called with each partition of the ledger that went to another worker, before anything else happens.
        before_rebalance: called, in order, when partitions are revoked, and waited for: no other worker reads their
            changelogs before that.
        on_settled: called, in order, at the moment when the tables are recovered and the streams run again.
        after_rebalance: called, in order, from then on.
        before_start: called, in order, before Faust's consumer starts.
        before_stop: called, in order, before Faust stops anything.
        after_stop: called, in order, when all else has stopped.
        room: for topics of which not all is taken at any time: how many records more may be. Asked from another thread.
        settled: set but while a rebalance goes on, and when the worker leaves: who owns what is not known then, and
            nothing may be written.
        outbox: what is on its way to the outcomes topic; empty before the worker leaves the group.
    """

    def __init__(self, settings: Settings, *, autodiscover: Iterable[str]) -> None:
        install()
        self.settings = settings
        self.incarnation = incarnation_id()
        self.topic_specs: Topics = topics_of(settings)
        self.standstill = StandStill(MAX_STANDSTILL)
        self.group = Group(settings.app_id, settings.own.client(), self.topic_specs.consumed)
        self.port = PortClient(
            settings.port_api_base_url,
            settings.port_client_id,
            settings.client_secrets[0],
            connections=settings.report_concurrency,
            connection=settings.port_connection,
            on_call=_count,
            budget=Budget(settings.api_calls_per_second),
        )
        runs = self.topic_specs.runs.name
        self.incidents = Incidents()
        self.bridge = Bridge(settings, runs, self.incarnation, self.port, self.incidents) if settings.source else None
        self.log_reader = KafkaLog(settings.app_id, settings.own.client())
        self.transactions = OpenTransactions()
        self.offsets = EveryOffset(self.log_reader, self.incidents)
        self.topic_problems: dict[str, str] = {}
        self.owned: frozenset[int] = frozenset()
        self.room: dict[str, Callable[[], int]] = {}
        self._settling = asyncio.Lock()
        self._stopping = False
        self.kafka = KafkaHealth(self._silent, self._refused, self._reach_anew)
        self._leaving = False
        self.settled = asyncio.Event()
        self.outbox = Outbox(stop_process)
        self.on_lost: list[Callable[[int], None]] = []
        self.before_rebalance: list[Callable[[], Awaitable[None]]] = []
        self.on_settled: list[Callable[[], None]] = []
        self.after_rebalance: list[Callable[[], Awaitable[None]]] = []
        self.before_start: list[Callable[[], Awaitable[None]]] = []
        self.before_stop: list[Callable[[], Awaitable[None]]] = []
        self.after_stop: list[Callable[[], Awaitable[None]]] = []
        super().__init__(
            settings.app_id,
            autodiscover=list(autodiscover),
            origin="streams",
            # Faust would prefer variables of the environment to what is given here: WEB_HOST, which is ours, too, and
            # BROKER_URL, PRODUCER_ACKS or PROCESSING_GUARANTEE, which nobody means for this.
            env={},
            broker=[URL(f"kafka://{broker}") for broker in settings.kafka_brokers],
            broker_credentials=_credentials(settings.own),
            broker_client_id=self.incarnation,
            broker_session_timeout=SESSION_TIMEOUT,
            broker_heartbeat_interval=3.0,
            broker_rebalance_timeout=60.0,
            broker_commit_interval=0.5,
            # Past it Faust leaves the group and never comes back; the largest that fits Kafka's int32 milliseconds.
            broker_max_poll_interval=2_000_000.0,
            broker_max_poll_records=100,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=MAX_RECORD_BYTES,
            consumer_metadata_max_age_ms=10_000,
            stream_buffer_maxsize=4096,
            stream_wait_empty=True,
            producer_acks=-1,
            # Kafka may be away for as long as it takes; `streams.clients` limits single requests.
            producer_request_timeout=UNENDING_MS / 1000,
            producer_linger=0.01,
            producer_max_batch_size=131_072,
            producer_max_request_size=MAX_RECORD_BYTES,
            key_serializer="raw",
            value_serializer="raw",
            PartitionAssignor=Assignor,
            store="rocksdb://",
            # A store belongs to one group: found by another it would be taken for its own.
            datadir=str(settings.data_dir / settings.app_id),
            table_standby_replicas=0,
            topic_partitions=settings.partitions,
            topic_allow_declare=False,
            topic_disable_leader=True,
            # The other workers of the group are told this URL.
            canonical_url=settings.web_url or None,
            web_host=socket.gethostname() if settings.web_host in WILDCARDS else settings.web_host,
            web_bind=settings.web_host,
            web_port=settings.web_port,
            web_router_enabled=False,
            web_tables_enabled=False,
            web_stats_enabled=False,
            web_graph_enabled=False,
            web_metrics_enabled=False,
            worker_redirect_stdouts=False,
        )
        self.sensors.add(FailStop())
        self.timer(interval=LOOK_SECONDS)(self._look_at_logs)
        self.on_partitions_assigned.connect(cast("Any", self._assigned))

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop, or has stopped: it drains, and takes nothing on."""
        return self._stopping or bool(self.should_stop)

    def _silent(self) -> dict[str, float]:
        """Return for how many seconds each of its clients has had no answer of Kafka, by what it does."""
        consumer, producer = cast("Consumer", self.consumer), cast("Producer", self.producer)
        found: dict[str, list[Contact | None]] = {"consumer": [consumer.contact], "producer": [producer.contact]}
        found |= {"reader of offsets": [*self.log_reader.contacts], "reader of the group": [*self.group.contacts]}
        return {
            what: max((one.silent_seconds() for one in contacts if one is not None), default=0.0)
            for what, contacts in found.items()
        }

    def _refused(self) -> float:
        return cast("Producer", self.producer).refused_seconds()

    async def _reach_anew(self) -> None:
        await reach(self.settings.own, self.settings.app_id, self.topic_specs.consumed)

    def misfit(self) -> Misfit | None:
        """Return what is wrong with the partitions of the own topics, as Kafka told the consumer last."""
        found = cast("Consumer", self.consumer).partition_counts(self.topic_specs.consumed)
        used, surplus = self.settings.partitions, self.settings.ignores_surplus
        return misfit(self.topic_specs, found, used, surplus=surplus, used=used)

    async def on_first_start(self) -> None:
        """Check the installation, create the topics and connect the clients, all before Faust's consumer starts."""
        quieten()
        for unknown in unknown_settings(os.environ):
            logger.warning("settings: %s", unknown)
        _collect_less_often()
        _refuse_slow_streams()
        _refuse_open_web(self)
        _refuse_busy_port(self)
        try:
            self.settings.data_dir.mkdir(parents=True, exist_ok=True)
            await ensure_topics(self.settings, self.topic_specs)
            await self._check_configs()
            if self.bridge is None:
                own = self.settings.own.client()
                await begin(own, self.settings.app_id, self.topic_specs.runs.name, self.settings.source_start)
        except OSError as wrong:
            stop_process(f"DATA_DIR: {wrong}", status=WRONG_SETTING)
        except (ClusterAwayError, KafkaError) as away:
            stop_process(str(away))
        except TopicsError as wrong:
            stop_process(str(wrong), status=WRONG_SETTING)
        for step in self.before_start:
            await step()
        self.standstill.start()
        await self.log_reader.start()
        await self.group.start()
        if self.bridge is not None:
            await self.bridge.start()
        self.add_future(self.kafka.run())
        await super().on_first_start()

    async def _check_configs(self) -> None:
        """Refuse what would lose state or end the worker at a record; tell of what it can do without."""
        unfit = await unfit_topics(self.settings, self.topic_specs)
        for name, wrong in unfit.fatal.items():
            raise TopicsError(f"topic {name}: {wrong.found}; {wrong.remedy}")
        for name, wrong in unfit.others.items():
            self.topic_problems[name] = f"{name}: {wrong.found}; {wrong.remedy}"
            logger.error("topic %s", self.topic_problems[name])

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.settled.clear()
        self.offsets.revoked()
        await super()._on_partitions_revoked(revoked)
        for step in self.before_rebalance:
            await step()

    def _on_rebalance_when_stopped(self) -> None:
        """Called by Faust at a rebalance, once it stops. Its own closes the consumer here, on another thread's loop:
        the worker then could not leave the group, and the others would wait for the end of its session.
        """

    async def _assigned(self, app: object, assigned: Iterable[TP], **_: object) -> None:
        changelog = self.topic_specs.changelog.name
        before = self.owned
        self.owned = frozenset(tp.partition for tp in self.assignor.assigned_actives() if tp.topic == changelog)
        for partition in sorted(before - self.owned):
            for step in self.on_lost:
                step(partition)
        streams = {spec.name for spec in (self.topic_specs.runs, self.topic_specs.arrivals, self.topic_specs.outcomes)}
        followed = [tp for tp in assigned if tp.topic in streams]
        await self.offsets.assigned(followed, cast("Consumer", self.consumer).go_back)

    async def _look_at_logs(self) -> None:
        """Look at the logs of this worker's partitions, and have those read again that went back."""
        if self.rebalancing or self.should_stop:
            return
        consumer = cast("Consumer", self.consumer)
        self.transactions.saw({tp: consumer.open_transaction(tp) for tp in self.offsets.expected})
        if back := await self.offsets.look_back():
            await consumer.read_again(back)

    async def _on_agent_error(self, agent: AgentT[Any], exc: BaseException) -> None:
        # Faust would start the agent again behind the event that it failed at, and so lose that event.
        logger.error("agent %s failed", agent.name, exc_info=exc)
        stop_process(f"agent {agent.name} failed: {type(exc).__name__}: {exc}")

    async def maybe_start_producer(self) -> ProducerT:
        """Return the producer, started. Called by Faust for every send.

        Faust's own lets concurrent callers wait for one of them, which under load costs each send a turn of the event
        loop: measured, 3 ms of every send, and a third of the throughput.
        """
        await self.producer.maybe_start()
        return self.producer

    def on_rebalance_return(self) -> None:
        """Called by Faust when it has taken note of its partitions; with nothing to recover the rebalance has ended by
        then, and Faust's own would warn of that.
        """
        if self._rebalancing_sensor_state:
            super().on_rebalance_return()

    def on_rebalance_end(self) -> None:
        """Called by Faust when the tables are recovered and the streams run again."""
        super().on_rebalance_end()
        if self._leaving:
            return
        self.settled.set()
        if self._stopping:
            # It takes nothing on any more: the next owner need not wait for the word, or the death, of one that had.
            return
        for step in self.on_settled:
            step()
        self.add_future(self._settle())

    async def _settle(self) -> None:
        async with self._settling:
            for step in self.after_rebalance:
                await step()
        if (missing := await self.group.unassigned()) is not None:
            there = await self.log_reader.topics()
            stop_process("; ".join(_why_without_reader(topic, there) for topic in sorted(missing)))

    async def stop(self) -> None:
        """Stop taking work up, then stop Faust; past STOP_SECONDS the process ends without it."""
        self._stopping = True
        try:
            for step in self.before_stop:
                await step()
        finally:
            with _limited(self.kafka.why_nothing_moves):
                async with contextlib.AsyncExitStack() as last:
                    # Whatever fails on the way, the rest is stopped too.
                    for stop in reversed(self.after_stop):
                        last.push_async_callback(stop)
                    for stop in (self.port.close, self.group.stop, self.log_reader.stop, super().stop):
                        last.push_async_callback(stop)
                    if self.bridge is not None:
                        last.push_async_callback(self.bridge.stop)
                    # No store is closed while a row is on its way to it.
                    self._leaving = True
                    self.settled.clear()
                    for step in self.before_rebalance:
                        await step()


@contextlib.contextmanager
def _limited(why: Callable[[], str | None]) -> Iterator[None]:
    """End the process where the block takes too long: Faust waits for Kafka to take its commits, without limit.

    Nothing is lost by that. What was not acknowledged is read again. `why` says what keeps it, where that is known.
    """

    def give_up() -> None:
        late = why() or f"Faust did not stop within {STOP_SECONDS:g} s"
        stop_process(f"{late}; what is not committed is read again at the next start")

    limit = asyncio.get_running_loop().call_later(STOP_SECONDS, give_up)
    try:
        yield
    finally:
        limit.cancel()


def _why_without_reader(topic: str, there: frozenset[str] | None) -> str:
    """Return why no worker reads a topic, and what happens next; `there` are the topics, None where not known."""
    if there is not None and topic not in there:
        return (
            f"topic {topic} was deleted while the workers ran; the next start makes it again, empty: what stood there "
            "and was not handled is lost, unless it is published again"
        )
    return (
        f"no worker of the group reads topic {topic}: it was made, or deleted and made again, while the workers ran; "
        "the next start reads it from its beginning"
    )


def _credentials(own: Cluster) -> CredentialsT | None:
    context = own.ssl_context()
    if own.protocol.sasl:
        return faust.SASLCredentials(
            mechanism=own.mechanism,
            username=own.username,
            password=own.password.get_secret_value(),
            ssl_context=context,
        )
    return faust.SSLCredentials(context=context) if context is not None else None


def _collect_less_often() -> None:
    gc.collect()
    # What stands here lives as long as the process: modules, handlers, settings.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _refuse_slow_streams() -> None:
    # The one written in Python acknowledges events of an assignment that has ended.
    if cast("Any", faust_streams)._CStreamIterator is None:
        stop_process(
            "Faust's compiled stream iterator (faust._cython.streams) is not in use. Unset NO_CYTHON; if it is not "
            "installed, install a C compiler, then: pip install --force-reinstall --no-binary faust-streaming "
            "faust-streaming==0.15.3",
            status=WRONG_SETTING,
        )


def _refuse_busy_port(app: Worker) -> None:
    where = (app.conf.web_bind, app.conf.web_port)
    try:
        socket.create_server(where, family=socket.AF_INET6 if ":" in app.conf.web_bind else socket.AF_INET).close()
    except OSError as busy:
        stop_process(
            f"WEB_HOST, WEB_PORT: cannot listen on {where[0]}:{where[1]}: {os.strerror(busy.errno or 0)}", WRONG_SETTING
        )


def _refuse_open_web(app: Worker) -> None:
    # `faust worker --web-bind` and `--web-host` win over the settings, so the settings' own check is not enough.
    if app.conf.web_bind not in LOOPBACK and not app.settings.web_token.get_secret_value():
        stop_process(
            f"WEB_TOKEN: needed to listen on {app.conf.web_bind}, beyond loopback; set a long random value",
            WRONG_SETTING,
        )
