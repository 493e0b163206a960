"""Whatever may arrive on `<orgId>.runs`, in one go: each message ends as its row of the table says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from faust.types import TP

from local.kafka import EmbeddedKafka, free_port
from tests.batches import GZIP, NO_UTF_8, NONE, Unsent, send_batch
from tests.e2e.messages import (
    COMPLETED,
    CUT,
    DEAD_LETTERS,
    FAILED,
    KEPT,
    KEPT_KEY,
    NOT_OURS,
    OUTPUT_REFUSED,
    SENDINGS,
    TOO_LARGE,
    TOPIC_LIMIT,
    UNKNOWN,
    UNREADABLE,
    UNSURE,
    Sending,
    ours,
)
from tests.e2e.record import Call, Record
from tests.processes import STARTS_WITHIN, Cluster, Process, call, eventually, ready

HANDLERS = """
import hashlib
import json
from agents import handles

@handles("seen", concurrency=100)
async def seen(event: dict) -> dict:
    return {"sha256": hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()}

@handles("echo")
async def echo(event: dict) -> dict:
    return {"echo": event}
"""
WITHIN: Final = 240.0
PARTITIONS: Final = 8
GUESSED: Final = ("failed: payload under another name", "unknown: at the root")
NO_TEXT: Final = [name for name, value in UNREADABLE.items() if value.decode(errors="replace").encode() != value]
HEADERS_ROOM: Final = 16_384
"""What a dead letter leaves free of its topic's limit."""
GOOD: Final = ours(b'{"type": "seen", "good": true}')
MANY: Final = ours(b"[" + b'{"type": "seen"},' * 9_999 + b'{"type": "seen"}]')
ALL: Final[Mapping[str, bytes | None]] = (
    {f"dead letter: {name}": value for name, (value, _) in DEAD_LETTERS.items()}
    | {f"unsure: {name}": value for name, (value, _) in UNSURE.items()}
    | {f"unreadable: {name}": value for name, value in UNREADABLE.items()}
    | {f"cut: {name}": value for name, (value, *_) in CUT.items()}
    | {f"not ours: {name}": value for name, (value, _) in NOT_OURS.items()}
    | {f"failed: {name}": value for name, (value, _) in FAILED.items()}
    | {f"too large: {name}": value for name, (value, _) in TOO_LARGE.items()}
    | {f"unknown: {name}": value for name, (value, _) in UNKNOWN.items()}
    | {f"completed: {name}": value for name, value in COMPLETED.items()}
)
FOR_OTHERS: Final[Mapping[str, bytes]] = {name: value for name, (value, _) in UNKNOWN.items()}
PARTLY_FOR_OTHERS: Final = ours(b'[{"type": "nobody.knows"}, {"type": "seen"}, {"n": 1}]')


@dataclass
class Sent:
    """A message as it was sent, its ids, and where it stands."""

    value: bytes | None
    workflow_run_id: str
    node_run_id: str
    sending: Sending
    place: tuple[int, int] = (-1, -1)


@dataclass
class Organization:
    """One organization, its worker, and what was sent to it."""

    cluster: Cluster
    worker: Process
    started: int = 0
    """How long its log was when it was ready."""
    sent: dict[str, Sent] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    """The calls of Port's API, by the node run in their paths."""
    letters: dict[tuple[int, int], ConsumerRecord[bytes, bytes]] = field(default_factory=dict)
    """The dead letters, by where their messages stand."""
    kept: dict[str, bytes] = field(default_factory=dict)
    """The texts of the first messages, by node run, as the changelog has them."""
    foreign: dict[str, int] = field(default_factory=dict)

    def incarnation(self) -> str:
        [worker] = self.worker.get("/api/node-runs?scope=worker").json["workers"]
        return str(worker["worker"])

    def shown(self, name: str) -> dict[str, Any]:
        """Return a node run as the web view shows it."""
        got = self.worker.get(f"/api/node-runs/{self.sent[name].node_run_id}")
        assert got.status == 200, got.text[:500]
        shown: dict[str, Any] = got.json
        return shown

    def output(self, name: str, result: str) -> dict[str, Any]:
        """Return the output of the one report of a node run, which Port took at once; it has this result."""
        calls = self.calls.get(self.sent[name].node_run_id, [])
        assert [(one["call"], one["status"], one["changed"]) for one in calls] == [("report", 200, True)]
        body = calls[0]["body"]
        assert (body["status"], body["result"]) == ("COMPLETED", result), str(body)[:500]
        output: dict[str, Any] = body["output"]
        return output

    def left_alone(self, name: str) -> bool:
        """Whether there is no call, no dead letter and nothing in the ledger."""
        sent = self.sent[name]
        unknown = self.worker.get(f"/api/node-runs/{sent.node_run_id}").status == 404
        return unknown and sent.node_run_id not in self.calls and sent.place not in self.letters

    async def send(self, messages: Mapping[str, bytes | None], sendings: Mapping[str, Sending]) -> None:
        """Send messages, each with ids that Port knows, a good one behind each."""
        names = [one for name in messages for one in (name, f"good: after {name}")]
        ids = register(self.cluster, len(names))
        producer = AIOKafkaProducer(
            bootstrap_servers=self.cluster.kafka.bootstrap, max_request_size=2 * TOPIC_LIMIT, linger_ms=5
        )
        async with producer:
            placing = []
            for name, (run, node) in zip(names, ids, strict=True):
                value = messages.get(name, GOOD)
                value = value.replace(b"RUN", run.encode()).replace(b"NODE", node.encode()) if value else value
                how = sendings.get(name, Sending(key=name.encode()))
                topic, headers = f"{self.cluster.org}.runs", list(how.headers)
                placing.append(
                    await producer.send(topic, value, key=how.key, headers=headers, timestamp_ms=how.timestamp_ms)
                )
                self.sent[name] = Sent(value, run, node, how)
            for name, placed in zip(names, await asyncio.gather(*placing), strict=True):
                self.sent[name].place = placed.partition, placed.offset


def register(cluster: Cluster, count: int) -> list[tuple[str, str]]:
    """Make node runs known to the emulator; returns the ids, all of one length."""
    ids = [(f"wfr_{secrets.token_hex(8)}", f"wfnr_{secrets.token_hex(8)}") for _ in range(count)]
    body = {"nodeRuns": [{"workflowRunId": run, "nodeRunId": node} for run, node in ids]}
    assert call(cluster.emulator_port, "POST", "/emulator/node-runs/register", body=body).status == 200
    return ids


async def read(cluster: Cluster, topic: str) -> AsyncIterator[ConsumerRecord[bytes, bytes]]:
    """Yield what a topic holds."""
    async with AIOKafkaConsumer(bootstrap_servers=cluster.kafka.bootstrap, group_id=None) as consumer:
        partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for one in records:
                    yield one


async def dead_letters(cluster: Cluster) -> dict[tuple[int, int], ConsumerRecord[bytes, bytes]]:
    """Return the dead letters by where their messages stand."""
    letters = {}
    async for letter in read(cluster, f"{cluster.org}.port-runs.dead-letters"):
        source = json.loads(dict(letter.headers)["source"])
        letters[source["partition"], source["offset"]] = letter
    return letters


async def kept_texts(cluster: Cluster) -> dict[str, bytes]:
    """Return the text of the first message of each node run, as the changelog of the ledger has it."""
    texts = {}
    async for one in read(cluster, f"{cluster.org}.port-runs-ledger-changelog"):
        kind, node_run_id, *_ = one.key.decode().split("/")
        row = json.loads(one.value) if one.value is not None and kind in "mof" else {}
        message = row if kind == "m" else row.get("message")
        if message is not None and message["first"] == 0:
            texts[node_run_id] = message["text"].encode()
    return texts


def calls_by_node_run(record: Record) -> dict[str, list[Call]]:
    calls: dict[str, list[Call]] = {}
    for one in record.read_on():
        if one["call"] != "auth":
            calls.setdefault(one["path"].rsplit("/", 1)[-1], []).append(one)
    return calls


def settled(organization: Organization, record: Record, names: Sequence[str], dead: int) -> bool:
    """Whether the node runs are completed, and there are so many dead letters."""
    done = {node_run_id for node_run_id, calls in calls_by_node_run(record).items() if calls[-1]["changed"]}
    missing = {organization.sent[name].node_run_id for name in names} - done
    metrics = organization.worker.get("/metrics").text.splitlines()
    letters = ('port_runs_messages_total{what="dead letter"}', 'port_runs_messages_total{what="unsure"}')
    counted = [float(line.split()[-1]) for line in metrics if line.startswith(letters)]
    return not missing and sum(counted) >= dead


def wait(organization: Organization, names: Sequence[str], dead: int) -> None:
    """Wait for the end of all; what is missing then, its own test will say. Read what became of each."""
    record, until = Record(organization.cluster), time.monotonic() + WITHIN
    while time.monotonic() < until and not settled(organization, record, names, dead):
        time.sleep(0.2)
    organization.calls = calls_by_node_run(record)
    organization.foreign = organization.worker.get("/api/node-runs").json["foreign"]["counts"]


@pytest.fixture(scope="module")
def running(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Organization]]:
    """Two organizations: in the second one, event types without a handler are for others."""
    with ExitStack() as stack:
        organizations = []
        for unknown_events in ("fail", "ignore"):
            folder: Path = tmp_path_factory.mktemp(f"input-{unknown_events}")
            cluster = Cluster(kafka, folder.name, folder, free_port(), HANDLERS)
            stack.enter_context(cluster.emulator())
            worker = stack.enter_context(cluster.worker("worker", UNKNOWN_EVENTS=unknown_events))
            organizations.append(Organization(cluster, worker))
        for organization in organizations:
            eventually(partial(ready, organization.worker), "the worker is ready", STARTS_WITHIN)
            organization.started = organization.worker.log.stat().st_size
        yield organizations


@pytest.fixture(scope="module")
def failing(running: list[Organization]) -> Organization:
    """The first organization when everything was sent to it, and has ended."""
    organization = running[0]
    before = organization.incarnation()
    well = {f"sent well: {name}": GOOD for name in SENDINGS}
    ill = {f"sent ill: {name}": b"\xff" + name.encode() for name in SENDINGS}
    sendings = {f"{what}: {name}": how for name, how in SENDINGS.items() for what in ("sent well", "sent ill")}
    sendings |= {f"cut: {name}": how for name, (_, how, _) in CUT.items()}
    # The many items last: all others would wait behind them.
    messages = {"output refused": OUTPUT_REFUSED, **ALL, **well, **ill, "10,000 items": MANY}
    asyncio.run(organization.send(messages, sendings))
    left = ("dead letter: ", "unsure: ", "cut: ", "not ours: ", "sent ill: ")
    dead = len(DEAD_LETTERS) + len(UNSURE) + len(CUT) + len(ill)
    wait(organization, [name for name in organization.sent if not name.startswith(left)], dead)
    assert organization.incarnation() == before
    organization.letters = asyncio.run(dead_letters(organization.cluster))
    organization.kept = asyncio.run(kept_texts(organization.cluster))
    return organization


@pytest.fixture(scope="module")
def ignoring(running: list[Organization]) -> Organization:
    """The second organization when messages with unknown event types were sent to it, and have ended."""
    organization = running[1]
    before = organization.incarnation()
    asyncio.run(organization.send({**FOR_OTHERS, "partly": PARTLY_FOR_OTHERS}, {}))
    wait(organization, [name for name in organization.sent if name not in FOR_OTHERS], 0)
    assert organization.incarnation() == before
    organization.letters = asyncio.run(dead_letters(organization.cluster))
    return organization


def is_kept(organization: Organization, name: str, reason: str) -> None:
    """Assert that a message stands in the dead letters, as much of it as fits there, and was told to nobody."""
    sent, letter = organization.sent[name], organization.letters[organization.sent[name].place]
    headers = dict(letter.headers)
    source = json.loads(headers["source"])
    key = sent.sending.key if len(sent.sending.key or b"") <= KEPT_KEY else None
    room = TOPIC_LIMIT - HEADERS_ROOM - len(key or b"")
    assert (letter.value, letter.key) == (sent.value and sent.value[:room], key)
    assert headers["reason"].decode().startswith(reason) or reason in headers["reason"].decode()[:60]
    assert source["topic"] == f"{organization.cluster.org}.runs"
    assert source["cluster"] == organization.cluster.kafka.bootstrap
    assert (source["partition"], source["offset"]) == sent.place
    assert sent.node_run_id not in organization.calls


@pytest.mark.parametrize("name", DEAD_LETTERS)
def test_what_cannot_be_read_is_kept_as_it_came(failing: Organization, name: str) -> None:
    is_kept(failing, f"dead letter: {name}", DEAD_LETTERS[name][1])


@pytest.mark.parametrize("name", UNSURE)
def test_what_looks_like_ours_is_kept_and_told_to_nobody(failing: Organization, name: str) -> None:
    is_kept(failing, f"unsure: {name}", "unsure: ")
    headers = dict(failing.letters[failing.sent[f"unsure: {name}"].place].headers)
    assert UNSURE[name][1] in headers["reason"].decode()
    assert headers["kind"] == b"unsure"


def test_what_looks_like_ours_is_a_problem_until_somebody_names_its_node_run(failing: Organization) -> None:
    counted = f"port_runs_unsure_messages_total {len(UNSURE)}.0"
    assert counted in failing.worker.get("/metrics").text.splitlines()

    def shown() -> bool:
        problems = [one["text"] for one in failing.worker.get("/api/overview").json["problems"]]
        return any(text.startswith(f"{len(UNSURE)} messages may be of Kafka action nodes") for text in problems)

    eventually(shown, "the overview says so")
    sent = failing.sent["unsure: id under another name"]
    letters = failing.worker.get("/api/dead-letters?reason=unsure&text=noderunid").json["letters"]
    [letter] = [one["letter"] for one in letters if sent.node_run_id in one["start"]]
    path = f"/api/dead-letters/{letter}/redrive"
    token = failing.worker.get("/api/session").json["csrfToken"]
    headers = {"Content-Type": "application/json", "X-CSRF-Token": token}
    assert call(failing.worker.port, "POST", path, headers, {}).status == 409
    named = {"node_run_id": sent.node_run_id}
    assert call(failing.worker.port, "POST", path, headers, named).status == 200
    report = Record(failing.cluster).completed(sent.node_run_id)
    assert report["result"] == "SUCCESS"


@pytest.mark.parametrize("name", CUT)
def test_what_is_too_large_for_the_dead_letters_is_cut_and_says_so(failing: Organization, name: str) -> None:
    is_kept(failing, f"cut: {name}", "not JSON")
    reason = dict(failing.letters[failing.sent[f"cut: {name}"].place].headers)["reason"].decode()
    assert f"; {CUT[name][2]}" in reason


@pytest.mark.parametrize("name", NOT_OURS)
def test_what_is_not_ours_is_left_alone(failing: Organization, name: str) -> None:
    assert failing.left_alone(f"not ours: {name}")


def test_what_is_not_ours_is_counted(failing: Organization) -> None:
    expected: dict[str, int] = {}
    for _, why in NOT_OURS.values():
        [counted] = [reason for reason in failing.foreign if why in reason] or [f"nothing for {why}"]
        expected[counted] = expected.get(counted, 0) + 1
    assert failing.foreign == expected


@pytest.mark.parametrize("name", FAILED)
def test_a_payload_that_cannot_be_handled_has_failed(failing: Organization, name: str) -> None:
    message, error = FAILED[name]
    assert failing.output(f"failed: {name}", "FAILED") == {"error": {"message": error}}
    sent, shown = failing.sent[f"failed: {name}"], failing.shown(f"failed: {name}")
    assert failing.kept[sent.node_run_id] == sent.value
    assert [item["error"] for item in shown["items"]] == [error]
    if b"1e999" not in message:
        assert [one["message"] for one in shown["messages"]] == [json.loads(sent.value or b"")]


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_json_has_failed_where_its_id_can_be_read(failing: Organization, name: str) -> None:
    error = failing.output(f"unreadable: {name}", "FAILED")["error"]["message"]
    assert error.startswith("not JSON in UTF-8: ")
    sent, shown = failing.sent[f"unreadable: {name}"], failing.shown(f"unreadable: {name}")
    if name in NO_TEXT:
        assert failing.letters[sent.place].value == sent.value
    else:
        assert failing.kept[sent.node_run_id] == sent.value
    assert [item["error"] for item in shown["items"]] == [error]
    assert shown["messages"][0]["note"]


def test_half_a_surrogate_pair_is_noted(failing: Organization) -> None:
    [message] = failing.shown("completed: lone surrogate in a value")["messages"]
    assert message["note"] == "half a surrogate pair stands in a text of it; handlers get U+FFFD in its place"
    assert message["message"]["payload"]["x"] == "\ufffd"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_larger_than_can_be_kept_has_failed(failing: Organization, name: str) -> None:
    error = TOO_LARGE[name][1]
    assert failing.output(f"too large: {name}", "FAILED") == {"error": {"message": error}}
    [shown] = failing.shown(f"too large: {name}")["messages"]
    assert (shown["source"]["partition"], shown["source"]["offset"]) == failing.sent[f"too large: {name}"].place
    assert shown["note"] == "the message is not kept here: its bytes stand in the dead letters"
    assert failing.letters[failing.sent[f"too large: {name}"].place].value == failing.sent[f"too large: {name}"].value


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_event_type_that_nobody_handles_has_failed(failing: Organization, name: str) -> None:
    output = failing.output(f"unknown: {name}", "FAILED")
    assert output["error"]["message"].startswith(UNKNOWN[name][1])
    assert len(output["error"]["message"]) < 1000
    sent = failing.sent[f"unknown: {name}"]
    value = sent.value or b""
    # What is kept is what handlers get: U+FFFD in the place of half a surrogate pair.
    text = value.replace(rb"\ud800", rb"\ufffd").replace(rb"\udc00", rb"\ufffd")
    assert failing.kept[sent.node_run_id] == (text if len(value) <= KEPT else b"")


def expected_output(payload: Any) -> Any:
    """Return the output that the handlers give for a payload, as it stands in JSON."""
    items = payload if isinstance(payload, list) else [payload]
    outputs = [_expected_output(item) for item in items]
    return outputs if isinstance(payload, list) else outputs[0]


def finite(text: str) -> float | None:
    """Read a number as it comes back: what no float holds is none."""
    return None if math.isinf(float(text)) else float(text)


def _expected_output(item: dict[str, Any]) -> Any:
    if item["type"] == "echo":
        return {"echo": item}
    return {"sha256": hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()}


@pytest.mark.parametrize("name", COMPLETED)
def test_what_is_ours_and_well_formed_runs_to_its_end(failing: Organization, name: str) -> None:
    sent = failing.sent[f"completed: {name}"]
    output = failing.output(f"completed: {name}", "SUCCESS")
    text = (sent.value or b"").removeprefix(b"\xef\xbb\xbf").removeprefix(b"\x00\x00\x00\x00\x07")
    payload = json.loads(text.replace(rb"\ud800", rb"\ufffd"), parse_float=finite)["payload"]
    if isinstance(payload, list):
        assert (output["succeeded"], output["failed"]) == (len(payload), 0)
        assert [item["output"] for item in output["items"]] == expected_output(payload)
    else:
        assert output == expected_output(payload)
    assert failing.shown(f"completed: {name}")["state"] == "reported"


def test_an_array_of_10_000_runs_to_its_end(failing: Organization) -> None:
    output = failing.output("10,000 items", "SUCCESS")
    assert (output["succeeded"], output["failed"]) == (10_000, 0)
    assert {item["output"]["sha256"] for item in output["items"]} == {_expected_output({"type": "seen"})["sha256"]}


def test_an_output_that_port_does_not_take_is_told_as_a_note(failing: Organization) -> None:
    sent = failing.sent["output refused"]
    calls = [(one["call"], one["status"]) for one in failing.calls[sent.node_run_id]]
    assert calls == [("report", 422), ("report", 200)]
    body = failing.calls[sent.node_run_id][-1]["body"]
    assert body["result"] == "SUCCESS"
    assert list(body["output"]) == ["note"]


@pytest.mark.parametrize("name", SENDINGS)
def test_keys_headers_and_times_of_any_kind_change_nothing(failing: Organization, name: str) -> None:
    assert "sha256" in failing.output(f"sent well: {name}", "SUCCESS")
    is_kept(failing, f"sent ill: {name}", "not JSON")


def test_the_good_ones_between_them_are_completed(failing: Organization, ignoring: Organization) -> None:
    for organization in (failing, ignoring):
        good = [name for name in organization.sent if name.startswith("good: ")]
        expected = expected_output({"type": "seen", "good": True})
        assert [name for name in good if organization.output(name, "SUCCESS") != expected] == []


def test_no_message_ends_in_two_ways(failing: Organization) -> None:
    dead = ("dead letter: ", "unsure: ", "cut: ", "sent ill: ")
    # These have FAILED, and their bytes are kept there.
    not_kept = {f"too large: {name}" for name in TOO_LARGE} | {f"unreadable: {name}" for name in NO_TEXT}
    not_kept |= {f"unknown: {name}" for name, (value, _) in UNKNOWN.items() if len(value) > KEPT}
    expected = {sent.place for name, sent in failing.sent.items() if name.startswith(dead) or name in not_kept}
    assert set(failing.letters) == expected
    # Port is asked before FAILED is reported on a guess of a message's form.
    looked_up = {failing.sent[name].workflow_run_id for name in ("output refused", *GUESSED)}
    assert set(failing.calls) <= {sent.node_run_id for sent in failing.sent.values()} | looked_up


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_event_type_that_nobody_handles_is_left_to_others_where_that_is_set(
    ignoring: Organization, name: str
) -> None:
    assert ignoring.left_alone(name)


def test_a_message_that_is_partly_for_others_is_ours(ignoring: Organization) -> None:
    output = ignoring.output("partly", "FAILED")
    assert [item["result"] for item in output["items"]] == ["FAILED", "SUCCESS", "FAILED"]
    assert ignoring.foreign == {"no handler, and UNKNOWN_EVENTS=ignore": len(UNKNOWN)}


def test_the_workers_live_and_nothing_is_out_of_order_in_their_logs(
    failing: Organization, ignoring: Organization
) -> None:
    for organization in (failing, ignoring):
        assert organization.worker.child.poll() is None
        log = organization.worker.log.read_bytes()[organization.started :].decode(errors="replace")
        assert [line for line in log.splitlines() if "Traceback" in line or "ERROR" in line] == []


def test_each_node_run_has_its_page(failing: Organization) -> None:
    shown = [one for name, one in failing.sent.items() if name.startswith(("failed: ", "unknown: ", "completed: "))]
    paths = ["/", *(f"/node-runs/{one.node_run_id}" for one in shown if len(one.value or b"") < 100_000)]
    pages = [failing.worker.get(path, {"Accept": "text/html"}) for path in paths]
    assert [(path, page.status) for path, page in zip(paths, pages, strict=True) if page.status != 200] == []
    assert not any("<script>alert" in page.text for page in pages)


async def test_the_same_message_again_changes_nothing_and_another_one_is_a_further_item(failing: Organization) -> None:
    [(run, node)] = register(failing.cluster, 1)
    context = {"workflowRunId": run, "nodeRunId": node}
    same, other = (json.dumps({"context": context, "payload": {"type": "seen", "n": n}}).encode() for n in (1, 2))
    record = Record(failing.cluster)

    def shown(items: int, duplicates: int) -> bool:
        got = failing.worker.get(f"/api/node-runs/{node}")
        counted = f'port_runs_ledger_events_total{{note="duplicate"}} {duplicates}.0'
        known = got.status == 200 and (got.json["itemCount"], got.json["succeeded"]) == (items, items)
        return known and counted in failing.worker.get("/metrics").text.splitlines()

    async with AIOKafkaProducer(bootstrap_servers=failing.cluster.kafka.bootstrap) as producer:
        topic = f"{failing.cluster.org}.runs"
        # With other keys they stand in other partitions of the source.
        for key in (b"a", b"b", b"c"):
            await producer.send_and_wait(topic, same, key=key)
        await asyncio.to_thread(eventually, lambda: shown(1, 2), "one item, and two duplicates")
        await asyncio.to_thread(record.completed, node)
        for key in (b"d", b"e"):
            await producer.send_and_wait(topic, other, key=key)
        await asyncio.to_thread(eventually, lambda: shown(2, 3), "two items, and three duplicates")
        await producer.send_and_wait(topic, same, key=b"f")
        await asyncio.to_thread(eventually, lambda: shown(2, 4), "two items, and four duplicates")
    record.read_on()
    assert [one["status"] for one in record.reports(node)] == [200]


async def test_a_header_whose_name_is_no_utf_8_changes_nothing(failing: Organization) -> None:
    before, record = failing.incarnation(), Record(failing.cluster)
    topic, [*ids] = f"{failing.cluster.org}.runs", register(failing.cluster, 12)
    values = [GOOD.replace(b"RUN", run.encode()).replace(b"NODE", node.encode()) for run, node in ids]
    dead: dict[tuple[int, int], bytes] = {}
    async with AIOKafkaProducer(bootstrap_servers=failing.cluster.kafka.bootstrap) as producer:
        # The same partition: what is good stands before, between and behind what is not.
        for compression, (first, second, third, fourth) in ((NONE, values[:4]), (GZIP, values[4:8])):
            ill = b"\xff of compression %d" % compression
            records = [Unsent(first), Unsent(second, NO_UTF_8), Unsent(ill, NO_UTF_8), Unsent(third)]
            offset = await send_batch(producer, TP(topic, 0), [*records, Unsent(fourth, NO_UTF_8)], compression)
            dead[0, offset + 2] = ill
        for value in values[8:11]:
            await send_batch(producer, TP(topic, 0), [Unsent(value, NO_UTF_8)])
        await producer.send_and_wait(topic, values[11], partition=0)
    for _, node in ids:
        await asyncio.to_thread(record.completed, node)
    async with asyncio.timeout(60):
        while not dead.keys() <= (letters := await dead_letters(failing.cluster)).keys():
            pass
    assert {place: letters[place].value for place in dead} == dead
    assert [[one["status"] for one in record.reports(node)] for _, node in ids] == [[200]] * 12
    assert (failing.worker.child.poll(), failing.incarnation()) == (None, before)
