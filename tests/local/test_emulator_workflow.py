import asyncio
import json
import time
from typing import cast

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import JsonValue, SecretStr

from local.emulator import Emulator, EmulatorConfig, PublishError, PublishRequest
from local.examples import NAMES, load_example, load_examples
from local.kafka import EmbeddedKafka
from port.nodes import Form, parse_node
from port.signature import refusal
from streams.messages import NodeRunMessage, sort_out
from tests.local.calls import COMPLETED, Body, Caller

NODE: Body = {"identifier": "publish", "config": {"type": "KAFKA", "payload": {"service": "{{ .outputs.trigger.s }}"}}}


def _part(value: JsonValue, *path: str | int) -> JsonValue:
    """The value that stands at `path`."""
    for step in path:
        value = cast(dict[str | int, JsonValue], value)[step]
    return value


# Without Kafka


async def test_a_node_becomes_a_node_run_and_a_message(caller: Caller) -> None:
    body: Body = {"node": NODE, "trigger": {"s": "checkout"}, "workflowIdentifier": "deploy"}
    got = await caller.call("POST", "/emulator/node-runs", body)
    assert got.status == 200
    run_id, node_run_id = got.body["workflowRunId"], got.body["nodeRunId"]
    assert got.body["message"] == {
        "context": {
            "workflowRunId": run_id,
            "nodeRunId": node_run_id,
            "workflowIdentifier": "deploy",
            "nodeIdentifier": "publish",
        },
        "payload": {"service": "checkout"},
    }
    assert (got.body["partition"], got.body["offset"]) == (None, None)
    assert (await caller.report(str(node_run_id), COMPLETED, str(run_id))).status == 200
    listed = (await caller.call("GET", "/emulator/node-runs")).body
    assert (listed["total"], _part(listed, "nodeRuns", 0, "nodeIdentifier")) == (1, "publish")
    assert _part((await caller.call("GET", f"/v1/workflows/runs/{run_id}")).body, "run", "workflow") == {
        "identifier": "deploy",
        "version": "1",
    }


async def test_the_headers_form_is_signed_and_has_the_node_run_id_alone(caller: Caller, emulator: Emulator) -> None:
    body: Body = {"node": NODE, "trigger": {"s": "é"}, "form": "headers"}
    got = (await caller.call("POST", "/emulator/node-runs", body)).body
    message = cast(Body, got["message"])
    assert list(message) == ["headers", "context", "payload"]
    assert message["context"] == {"runId": got["nodeRunId"]}
    wire, now = orjson.dumps(message), time.time()
    assert refusal(wire, now, [emulator.config.client_secret], required=True) is None
    assert refusal(wire, now, [SecretStr("another")], required=True) == "its signature is wrong"


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("name", NAMES)
async def test_a_worker_takes_each_example_in_each_form(emulator: Emulator, name: str, form: Form) -> None:
    plain, wrapped = [
        await emulator.publish(PublishRequest.model_validate({**load_example(name), "form": one}))
        for one in (Form.CONTEXT, form)
    ]
    messages = [sort_out(orjson.dumps(message)) for message in wrapped.messages]
    payload = plain.messages[0]["payload"]
    items: list[object] = []
    for message in messages:
        assert isinstance(message, NodeRunMessage)
        assert (message.node_run_id, message.problem) == (wrapped.node_run_id, None)
        assert message.guessed is form.is_spread
        assert message.workflow_run_id in (wrapped.workflow_run_id, None)
        items += message.items
    assert [set(item) for item in items if isinstance(item, dict)] == [
        set(one) for one in (payload if isinstance(payload, list) else [payload]) if isinstance(one, dict)
    ]


async def test_the_emulators_own_form_holds_where_a_request_names_none() -> None:
    async with Emulator(EmulatorConfig(form=Form.OBJECTS)) as emulator:
        example = load_example("notifications")
        own = await emulator.publish(PublishRequest.model_validate(example))
        named = await emulator.publish(PublishRequest.model_validate({**example, "form": "identifiers"}))
    assert list(own.messages[0]) == ["workflowRun", "workflowNodeRun", "payload"]
    assert "nodeRunIdentifier" in cast("Body", named.messages[0]["context"])


async def test_everything_that_templates_can_read_is_there(caller: Caller) -> None:
    payload: list[JsonValue] = [
        "{{ .outputs.trigger.a }}",
        '{{ .outputs["build-image"].tag }}',
        '{{ .secrets["the-key"] }}',
        "{{ .workflow.identifier }} {{ .workflow.versionIdentifier }}",
        "{{ .workflowRun.identifier }}",
        "{{ .workflowNodeRun.identifier }}",
        "{{ .workflowRun.trigger.by | keys }}",
        '{{ [.workflowRun.createdAt, .workflowNodeRun.createdAt] | all(endswith("Z")) }}',
    ]
    got = (
        await caller.call(
            "POST",
            "/emulator/node-runs",
            {
                "node": {"identifier": "n", "config": {"type": "KAFKA", "payload": payload}},
                "trigger": {"a": 1},
                "outputs": {"build-image": {"tag": "v1"}},
                "secrets": {"the-key": "k"},
                "workflowIdentifier": "w",
            },
        )
    ).body
    by: list[JsonValue] = ["email", "firstName", "lastName"]
    expected = [1, "v1", "k", "w 1", got["workflowRunId"], got["nodeRunId"], by, True]
    assert _part(got, "message", "payload") == expected


async def test_an_array_can_be_split_into_messages_of_one_node_run(emulator: Emulator) -> None:
    example = {**load_example("notifications"), "split": True}
    published = await emulator.publish(PublishRequest.model_validate(example))
    assert [_part(message, "payload", "channel") for message in published.messages] == ["slack", "email"]
    assert {_part(message, "context", "nodeRunId") for message in published.messages} == {published.node_run_id}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"node": NODE, "trigger": {}, "more": 1}, 422, "more"),
        ({"trigger": {}}, 422, "node"),
        ({"node": {"identifier": "n", "config": {"type": "WEBHOOK", "payload": {}}}}, 422, "node.config.type"),
        ({"node": {"identifier": "n", "config": {"type": "KAFKA", "payload": {"a": "{{ error }}"}}}}, 422, "payload.a"),
        ({"node": NODE, "split": True}, 422, "split needs a payload that is an array"),
        ({"node": {"identifier": "n", "config": {"type": "KAFKA", "payload": []}}, "split": True}, 422, "split"),
        (b"[", 422, "JSON"),
    ],
)
async def test_what_cannot_be_published_is_refused_by_name(
    caller: Caller, body: JsonValue | bytes, status: int, reason: str
) -> None:
    got = await caller.call("POST", "/emulator/node-runs", body)
    assert got.status == status
    assert reason in got.message
    assert caller.emulator.state.node_runs == {}


async def test_node_runs_can_be_registered_in_bulk(caller: Caller) -> None:
    pairs: list[JsonValue] = [{"workflowRunId": f"wfr_{n}", "nodeRunId": f"wfnr_{n}"} for n in range(1000)]
    for _ in range(2):
        got = await caller.call("POST", "/emulator/node-runs/register", {"nodeRuns": pairs})
        assert (got.status, got.body["registered"]) == (200, 1000)
    assert (await caller.report("wfnr_999", COMPLETED, "wfr_999")).status == 200
    page = (await caller.call("GET", "/emulator/node-runs?after=998&limit=5")).body
    assert [_part(one, "nodeRunId") for one in cast(list[JsonValue], page["nodeRuns"])] == ["wfnr_998", "wfnr_999"]
    for wrong, status in (
        ({"workflowRunId": "wfr_other", "nodeRunId": "wfnr_1"}, 409),
        ({"workflowRunId": "wfr_1", "nodeRunId": "1"}, 422),
        ({"workflowRunId": "wfr_1"}, 422),
        ({"workflowRunId": "wfr_1", "nodeRunId": "wfnr_1", "onFailure": "retry"}, 422),
    ):
        body: Body = {"nodeRuns": [cast(JsonValue, wrong)]}
        assert (await caller.call("POST", "/emulator/node-runs/register", body)).status == status


async def test_other_calls_do_not_exist(caller: Caller) -> None:
    assert (await caller.call("GET", "/emulator/node-runs/wfnr_0")).status == 404
    assert (await caller.call("GET", "/emulator/nothing")).status == 404
    assert (await caller.call("POST", "/emulator/calls")).status == 405
    assert (await caller.call("GET", "/")).status == 404


# The examples


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_a_node_and_a_request(name: str) -> None:
    example = load_example(name)
    parse_node(example["node"])
    PublishRequest.model_validate(example)


def test_an_example_of_another_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        load_example("../pyproject")


async def test_the_examples_render_to_the_documented_shapes(emulator: Emulator) -> None:
    payloads = {}
    for name, example in load_examples().items():
        published = await emulator.publish(PublishRequest.model_validate(example))
        payloads[name] = published.messages[0]["payload"]
        assert "{{" not in json.dumps(published.messages)
    assert {
        name: _part(payloads[name], key) for name, key in zip(NAMES[:3], ("eventType", "event", "action"), strict=True)
    } == {
        "deployment-started": "deployment.started",
        "service-deployed": "service.deployed",
        "provision-infrastructure": "provision-infrastructure",
    }
    started = cast(Body, payloads["deployment-started"])
    assert {**started, "timestamp": None} == {
        "eventType": "deployment.started",
        "service": "checkout",
        "version": "2.4.1",
        "environment": "production",
        "timestamp": None,
    }
    assert _part(payloads["service-deployed"], "data") == {
        "serviceId": "checkout",
        "version": "2.4.1",
        "environment": "staging",
    }
    assert _part(payloads["provision-infrastructure"], "parameters") == {
        "cloudProvider": "aws",
        "region": "eu-west-1",
        "instanceType": "m5.2xlarge",
        "count": "3",
    }
    assert [_part(one, "channel") for one in cast(list[JsonValue], payloads["notifications"])] == ["slack", "email"]


# With Kafka


async def _create_topic(brokers: str, topic: str, settings: dict[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    finally:
        await admin.close()


async def _read(brokers: str, topic: str, count: int) -> list[tuple[int, int, bytes, Body]]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            records = [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()
    return [(record.partition, record.offset, record.key, json.loads(record.value)) for record in records]


async def test_messages_are_published_as_they_are_shown(kafka: EmbeddedKafka, unique: str) -> None:
    await _create_topic(kafka.bootstrap, f"{unique}.runs")
    shown: list[tuple[int, int, bytes, Body]] = []
    async with Emulator(EmulatorConfig(kafka=kafka.bootstrap, org_id=unique)) as emulator, Caller(emulator) as caller:
        for variant in ({}, {"form": "headers"}, {"split": True}):
            got = await caller.call("POST", "/emulator/node-runs", {**load_example("notifications"), **variant})
            assert got.status == 200, got.message
            key = str(got.body["nodeRunId"]).encode()
            for one in cast(list[Body], got.body["messages"]):
                partition, offset = one["partition"], one["offset"]
                assert isinstance(partition, int)
                assert isinstance(offset, int)
                shown.append((partition, offset, key, cast(Body, one["message"])))
    assert await _read(kafka.bootstrap, f"{unique}.runs", 4) == shown


async def test_the_topic_can_be_created(kafka: EmbeddedKafka, unique: str) -> None:
    config = EmulatorConfig(kafka=kafka.bootstrap, org_id=unique, topic_partitions=3)
    for _ in range(2):
        async with Emulator(config) as emulator:
            await emulator.publish(PublishRequest.model_validate(load_example("deployment-started")))
    consumer = AIOKafkaConsumer(f"{unique}.runs", bootstrap_servers=kafka.bootstrap)
    await consumer.start()
    try:
        assert consumer.partitions_for_topic(f"{unique}.runs") == {0, 1, 2}
    finally:
        await consumer.stop()


async def test_a_topic_that_is_not_there_is_told_at_once_and_used_as_soon_as_it_is(
    kafka: EmbeddedKafka, unique: str
) -> None:
    request = PublishRequest.model_validate(load_example("deployment-started"))
    async with Emulator(EmulatorConfig(kafka=kafka.bootstrap, org_id=unique)) as emulator:
        with pytest.raises(PublishError, match=f"the topic {unique}.runs does not exist"):
            await emulator.publish(request)
        await _create_topic(kafka.bootstrap, f"{unique}.runs")
        assert [place.offset for place in (await emulator.publish(request)).places] == [0]


async def test_a_message_that_the_topic_does_not_allow_is_told(kafka: EmbeddedKafka, unique: str) -> None:
    await _create_topic(kafka.bootstrap, f"{unique}.runs", {"max.message.bytes": "2000"})
    large: Body = {"node": {"identifier": "n", "config": {"type": "KAFKA", "payload": {"a": "x" * 3000}}}}
    async with Emulator(EmulatorConfig(kafka=kafka.bootstrap, org_id=unique)) as emulator, Caller(emulator) as caller:
        got = await caller.call("POST", "/emulator/node-runs", large)
    assert (got.status, got.message) == (413, "the message is larger than the topic allows")


async def test_a_kafka_that_is_not_there_is_told(unused_tcp_port: int) -> None:
    async with Emulator(EmulatorConfig(kafka=f"127.0.0.1:{unused_tcp_port}")) as emulator:
        with pytest.raises(PublishError, match=f"Kafka at 127.0.0.1:{unused_tcp_port}: ") as caught:
            await emulator.publish(PublishRequest.model_validate(load_example("deployment-started")))
    assert caught.value.status == 503
