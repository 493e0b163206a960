"""What a topic refuses is written in a smaller form, and the bridge stops at no single record."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from pydantic import SecretStr

from port.client import PortClient
from streams.bridge import LEFT_OUT_HEADER, SOURCE_HEADER, Bridge, SourceError, copied_from, left_out_of
from streams.cluster import Identity
from streams.fitting import Form, NothingFitsError, letter_forms, sizes, write_largest
from streams.incidents import Incidents
from streams.producers import InvalidRecordError
from streams.records import DeadLetter, Source
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

RUNS, LETTERS = "org.runs", "org.port-runs.dead-letters"
LIMIT = 1_048_588
"""Kafka's default."""
SETTINGS = Settings.model_validate(
    {
        "port_org_id": "org",
        "port_client_id": "client",
        "port_client_secret": "secret",
        "handlers": "some",
        "source_brokers": "port:9196",
        "source_security_protocol": "PLAINTEXT",
    }
)
OURS = b'{"context":{"nodeRunId":"wfnr_1","workflowRunId":"wfr_1"},"payload":{"type":"seen","text":"%s"}}'
Refuse: TypeAlias = Callable[[Form], Exception | None]
Record: TypeAlias = ConsumerRecord[bytes, bytes]


def too_large(form: Form) -> Exception | None:
    size = len(form.value or b"") + len(form.key or b"") + sum(len(n) + len(v) for n, v in form.headers) + 80
    if size <= LIMIT:
        return None
    return cast("Exception", MessageSizeTooLargeError())


def without_key(form: Form) -> Exception | None:
    return InvalidRecordError() if form.key is None else None


def everything(form: Form) -> Exception | None:
    return cast("Exception", InvalidTimestampError())


@dataclass
class Topics:
    """Brokers that refuse what they are told to, by topic."""

    refuse: dict[str, Refuse] = field(default_factory=dict)
    written: dict[str, list[Form]] = field(default_factory=dict)
    sends: int = 0
    at_once: bool = False
    """Whether the client finds out by itself."""

    async def send(
        self, topic: str, value: bytes | None, key: bytes | None = None, headers: Any = ()
    ) -> asyncio.Future[object]:
        self.sends += 1
        form = Form(key, value, list(headers))
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        refused = self.refuse[topic](form) if topic in self.refuse else None
        if refused is not None and self.at_once:
            raise refused
        if refused is not None:
            answer.set_exception(refused)
        else:
            self.written.setdefault(topic, []).append(form)
            answer.set_result(None)
        return answer


def record(offset: int, value: bytes | None, key: bytes | None = b"k", headers: Any = ()) -> Record:
    return ConsumerRecord(
        topic=RUNS,
        partition=3,
        offset=offset,
        timestamp=1_700_000_000_123,
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(headers),
    )


async def copy(topics: Topics, *records: Record) -> list[Form]:
    bridge = Bridge(SETTINGS, RUNS, "a-worker", PortClient("http://127.0.0.1:1", "x", SecretStr("y")), Incidents())
    producer: AIOKafkaProducer = topics
    await bridge._pass_on({TopicPartition(RUNS, 3): list(records)}, producer)
    return topics.written.get(RUNS, [])


@pytest.mark.parametrize("at_once", [False, True], ids=["the broker refuses", "the client refuses"])
class TestBridge:
    async def test_a_record_that_is_too_large_is_cut_until_it_fits(self, at_once: bool) -> None:
        large = os.urandom(1_048_500)
        copies = await copy(Topics({RUNS: too_large}, at_once=at_once), record(0, large), record(1, b"after"))
        by_offset = {source.offset: form for form in copies if (source := copied_from(form.headers))}
        assert by_offset[1].value == b"after"
        kept = by_offset[0].value or b""
        assert large.startswith(kept)
        assert len(kept) > 500_000
        left_out = left_out_of(by_offset[0].headers)
        assert left_out is not None
        assert f"the first {len(kept):,} of its 1,048,500 bytes are kept" in left_out.reason
        assert "raise its max.message.bytes" in left_out.reason

    async def test_the_node_run_that_waits_for_it_is_named(self, at_once: bool) -> None:
        [form] = await copy(
            Topics({RUNS: too_large}, at_once=at_once), record(0, OURS % os.urandom(700_000).hex().encode())
        )
        left_out = left_out_of(form.headers)
        assert left_out is not None
        assert (left_out.node_run_id, left_out.workflow_run_id, left_out.names) == ("wfnr_1", "wfr_1", ("seen",))
        assert left_out.digest

    async def test_headers_that_are_too_large_are_left_out_alone(self, at_once: bool) -> None:
        [form] = await copy(Topics({RUNS: too_large}, at_once=at_once), record(0, b"{}", headers=[("h", b"x" * LIMIT)]))
        assert (form.key, form.value, [name for name, _ in form.headers]) == (b"k", b"{}", [SOURCE_HEADER])

    @pytest.mark.parametrize("key", [None, b"x" * LIMIT])
    async def test_a_key_that_cannot_be_is_replaced(self, at_once: bool, key: bytes | None) -> None:
        topics = Topics({RUNS: lambda form: too_large(form) or without_key(form)}, at_once=at_once)
        [form] = await copy(topics, record(7, b"{}", key=key))
        assert (form.key, form.value) == (b"3/7", b"{}")
        assert left_out_of(form.headers) is None

    async def test_a_limit_of_a_few_bytes_keeps_the_coordinates(self, at_once: bool) -> None:
        def tiny(form: Form) -> Exception | None:
            return RecordListTooLargeError() if len(form.value or b"") > 100 else None

        [form] = await copy(Topics({RUNS: tiny}, at_once=at_once), record(0, OURS % (b"x" * 5000)))
        left_out, stood = left_out_of(form.headers), copied_from(form.headers)
        assert left_out is not None
        assert stood is not None
        assert (form.value, stood.partition, stood.offset, left_out.node_run_id) == (b"", 3, 0, "wfnr_1")

    async def test_what_the_own_topic_takes_not_at_all_is_a_dead_letter(self, at_once: bool) -> None:
        topics = Topics({RUNS: everything}, at_once=at_once)
        assert await copy(topics, record(0, b"{}")) == []
        [letter] = topics.written[LETTERS]
        said = dict(letter.headers)
        assert (letter.key, letter.value) == (b"k", b"{}")
        assert b"org.runs does not take it (InvalidTimestampError" in said["reason"]
        assert json.loads(said["source"])["offset"] == 0

    async def test_where_no_topic_takes_anything_it_says_so(self, at_once: bool) -> None:
        topics = Topics({RUNS: everything, LETTERS: everything}, at_once=at_once)
        with pytest.raises(SourceError, match="take no record at all"):
            await copy(topics, record(0, b"{}"))

    async def test_a_cluster_that_is_away_is_no_fault_of_a_record(self, at_once: bool) -> None:
        topics = Topics({RUNS: lambda _: KafkaConnectionError()}, at_once=at_once)
        with pytest.raises(KafkaConnectionError):
            await copy(topics, record(0, b"{}"))
        assert topics.sends == 1


async def test_neighbours_in_a_batch_that_is_refused_come_whole() -> None:
    first = {b"a", b"b"}

    def once(form: Form) -> Exception | None:
        refused = form.value in first
        first.discard(form.value or b"")
        return MessageSizeTooLargeError() if refused else None

    copies = await copy(Topics({RUNS: once}), record(0, b"a", headers=[("h", b"1")]), record(1, b"b"))
    assert sorted(form.value or b"" for form in copies) == [b"a", b"b"]
    assert all(left_out_of(form.headers) is None for form in copies)


async def test_what_only_a_bridge_may_say_is_not_taken_from_the_source() -> None:
    forged = [(LEFT_OUT_HEADER, b'{"reason":"x","node_run_id":"wfnr_other"}'), (SOURCE_HEADER, b"{"), ("mine", b"1")]
    [form] = await copy(Topics(), record(0, b"{}", headers=forged))
    assert [name for name, _ in form.headers] == ["mine", SOURCE_HEADER]
    assert left_out_of(form.headers) is None


class TestLoop:
    COPY = Source(cluster="somewhere", topic=RUNS, partition=0, offset=0, timestamp=1.0).model_dump_json().encode()

    async def test_a_copy_in_the_source_stops_the_bridge_with_the_reason(self) -> None:
        topics = Topics()
        with pytest.raises(SourceError, match=r"SOURCE_BROKERS: org.runs\[3\] offset 1 is a copy by a bridge"):
            await copy(topics, record(0, b"{}"), record(1, b"{}", headers=[(SOURCE_HEADER, self.COPY)]))
        assert topics.sends == 0

    async def test_a_copy_of_another_topic_is_none_of_ours(self) -> None:
        other = self.COPY.replace(RUNS.encode(), b"other.runs")
        assert len(await copy(Topics(), record(0, b"{}", headers=[(SOURCE_HEADER, other)]))) == 1


class TestLetters:
    LETTER = DeadLetter(reason="no JSON", source=Source(cluster="c", topic=RUNS, partition=3, offset=5, timestamp=1.0))

    async def kept(self, refuse: Refuse, key: bytes | None, raw: bytes | None) -> tuple[Form, str]:
        async def send(form: Form) -> None:
            if (refused := refuse(form)) is not None:
                raise refused

        form = await write_largest(send, letter_forms(self.LETTER, key, raw, MAX_RECORD_BYTES))
        return form, dict(form.headers)["reason"].decode()

    async def test_it_is_whole_where_it_may_be(self) -> None:
        form, reason = await self.kept(too_large, b"k", b"x")
        assert (form.key, form.value, reason) == (b"k", b"x", "no JSON")

    async def test_it_is_cut_to_what_the_topic_takes(self) -> None:
        form, reason = await self.kept(too_large, b"k", b"x" * 3_000_000)
        assert len(form.value or b"") == 750_000
        assert reason == "no JSON; the first 750,000 of its 3,000,000 bytes are kept"

    async def test_a_compacted_topic_gets_a_key(self) -> None:
        form, _ = await self.kept(without_key, None, b"x")
        assert (form.key, form.value) == (b"3/5", b"x")

    async def test_at_last_its_coordinates_are_kept(self) -> None:
        form, reason = await self.kept(
            lambda form: too_large(form) if not form.value else InvalidRecordError(), b"k", b"x"
        )
        assert (form.key, form.value) == (b"3/5", b"")
        assert reason.startswith("no JSON; none of its 1 bytes are kept")

    async def test_a_topic_that_takes_nothing(self) -> None:
        with pytest.raises(NothingFitsError, match="InvalidTimestampError"):
            await self.kept(everything, b"k", b"x")


def test_the_sizes_begin_with_all_that_may_be_and_end_small() -> None:
    assert next(sizes(5_000_000, 2_000_000)) == 2_000_000
    assert list(sizes(2000, 10_000)) == [1000, 500]
    assert list(sizes(0, 10_000)) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a", {"h:1", "h:2"}), ("a", {"h:2", "h:3"}), True),
        (("a", {"h:1"}), ("a", {"h:9"}), False),
        (("a", {"h:1"}), ("b", {"h:1"}), False),
        ((None, {"h:1"}), (None, {"h:1"}), False),
        ((None, {"h:1"}), ("a", {"h:1"}), False),
    ],
    ids=["overlap", "a recipe's id", "other ids", "unknown", "one unknown"],
)
def test_which_clusters_are_certainly_one(
    one: tuple[str | None, set[str]], other: tuple[str | None, set[str]], same: bool
) -> None:
    assert Identity(one[0], frozenset(one[1])).same(Identity(other[0], frozenset(other[1]))) is same


@pytest.mark.parametrize("id_", [None, ""])
def test_an_id_that_is_not_told_is_unknown(id_: str | None) -> None:
    described = {"cluster_id": id_, "brokers": [{"host": "Kafka", "port": 9092}]}
    assert Identity.of(described, ["boot:1"]) == Identity(None, frozenset({"kafka:9092", "boot:1"}))
