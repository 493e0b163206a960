"""The typed schema, through Faust's own topics: bytes to values, never an exception."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.types.tuples import TP, ConsumerMessage

from streams.messages import Bad, Foreign, NotOurs
from streams.records import Arrival, Source, Tick
from streams.settings import Settings
from streams.topics import Topics, TopicSpec, topics_of

PROJECT = Path(__file__).parents[2]
SOURCE = Source(cluster="a:1", topic="org.runs", partition=0, offset=0, timestamp=1.5)
ARRIVAL = Arrival(node_run_id="wfnr_1", source=SOURCE, digest="d", text="{}")


@pytest.fixture
def topics(environment: pytest.MonkeyPatch) -> Topics:
    for name in ("PORT_ORG_ID", "PORT_CLIENT_ID", "PORT_CLIENT_SECRET", "HANDLERS"):
        environment.setenv(name, "x")
    return topics_of(Settings())


@pytest.fixture
def app() -> faust.App:
    return faust.App("test", key_serializer="raw", value_serializer="raw")


def message(value: bytes | None, key: bytes | None = b"k") -> ConsumerMessage:
    return ConsumerMessage("t", 0, 5, 1.5, 0, [], key, value, None, tp=TP("t", 0))


async def decoded(app: faust.App, spec: TopicSpec[Any], value: bytes | None, key: bytes | None = b"k") -> Any:
    """What a stream on the topic gets for these bytes."""
    topic: Any = app.topic(spec.name, schema=spec.schema)
    event = await topic.decode(message(value, key), propagate=True)
    assert (event.key, event.message.value) == (key, value)
    return event.value


@pytest.mark.parametrize("key", [b"wfnr_1", b"", b"\xff", None])
async def test_a_record_becomes_its_value_whatever_its_key(app: faust.App, topics: Topics, key: bytes | None) -> None:
    assert await decoded(app, topics.arrivals, ARRIVAL.encode(), key) == ARRIVAL
    assert await decoded(app, topics.outcomes, Tick().encode(), key) == Tick()
    assert await decoded(app, topics.runs, b"{}", key) == NotOurs(Foreign.NO_NODE_RUN_ID)


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b"{}", b'{"v":1,"kind":"unheard_of"}', b"[" * 50_000])
async def test_an_unreadable_record_becomes_a_value_with_its_bytes(
    app: faust.App, topics: Topics, value: bytes | None
) -> None:
    for spec in (topics.arrivals, topics.outcomes):
        bad = await decoded(app, spec, value)
        assert isinstance(bad, Bad)
        assert bad.raw is value
        assert bad.reason


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b"[" * 50_000])
async def test_an_unreadable_message_becomes_a_value_with_its_bytes(
    app: faust.App, topics: Topics, value: bytes | None
) -> None:
    bad = await decoded(app, topics.runs, value)
    assert isinstance(bad, Bad)
    assert bad.raw is value


@pytest.mark.parametrize("value", [None, b"", b"\xff"])
async def test_a_topic_of_raw_bytes_passes_them(app: faust.App, topics: Topics, value: bytes | None) -> None:
    assert await decoded(app, topics.dead_letters, value) == value


async def test_a_record_is_sent_as_its_bytes(app: faust.App, topics: Topics) -> None:
    topic: Any = app.topic(topics.arrivals.name, schema=topics.arrivals.schema)
    for value, sent in ((ARRIVAL, ARRIVAL.encode()), (b"raw", b"raw"), (None, None)):
        assert topic.prepare_value(value, None, topic.schema, {"h": b"1"}) == (sent, {"h": b"1"})
    assert topic.prepare_key(b"wfnr_1", None, topic.schema, {}) == (b"wfnr_1", {})


async def test_faust_has_its_own_way_to_decode_still(app: faust.App, topics: Topics) -> None:
    schema: Any = topics.outcomes.schema
    assert (await schema.decode(app, message(Tick().encode()))).value == Tick()


@pytest.mark.parametrize("spec", ["arrivals", "outcomes"])
def test_a_newer_format_ends_the_process_with_status_70(tmp_path: Path, spec: str) -> None:
    program = f"""
from streams.settings import Settings
from streams.topics import topics_of
settings = Settings(port_org_id="org", port_client_id="x", port_client_secret="x", handlers="x")
value = topics_of(settings).{spec}.schema.value_of(b'{{"v":3}}', "org.x, partition 1, offset 7")
print("went on with", value)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr == (
        "port-runs: stopped: org.x, partition 1, offset 7: format version 3; this application knows up to 2; "
        "upgrade this worker\n"
    )
