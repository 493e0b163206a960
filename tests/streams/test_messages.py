"""What a message on `<orgId>.runs` is: every row of the table, every known form, and whatever else may come."""

import gc
import json
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.message_text import HALVES, NOT_FINITE, digest_of
from streams.messages import (
    EVENT_TYPE_FIELDS,
    MAX_KEPT_BYTES,
    Bad,
    Foreign,
    Message,
    NodeRunMessage,
    NotOurs,
    Unsure,
    event_type,
    items_of,
    sort_out,
)
from tests.streams.conftest import unhurried

NODE_RUN = "wfnr_Ab-12_x"
WORKFLOW_RUN = "wfr_Cd-34_y"
ITEM = {"eventType": "deployment.started", "service": "shop"}

SHAPES: dict[str, dict[str, object] | list[object]] = {
    "deployment": {
        "eventType": "deployment.started",
        "service": "shop",
        "version": "1.2",
        "environment": "prod",
        "timestamp": "2026-01-01T00:00:00Z",
    },
    "service": {
        "event": "service.deployed",
        "data": {"serviceId": "shop", "version": "1.2", "environment": "prod"},
        "metadata": {"timestamp": "2026-01-01T00:00:00Z"},
    },
    "infrastructure": {
        "action": "provision-infrastructure",
        "parameters": {"cloudProvider": "aws", "region": "eu-west-1", "instanceType": "t3", "count": "3"},
        "callback": {"url": "https://example.com"},
    },
    "notifications": [
        {"type": "notification", "channel": "slack", "message": "hello"},
        {"type": "notification", "channel": "email", "message": "hello"},
    ],
}

# Every place where the ids are known to stand in a message on `{orgId}.runs`.
FORMS: dict[str, dict[str, object]] = {
    "both ids in the context": {"context": {"workflowRunId": WORKFLOW_RUN, "nodeRunId": NODE_RUN}},
    "workflowNodeRunId": {"context": {"workflowRunId": WORKFLOW_RUN, "workflowNodeRunId": NODE_RUN}},
    "runId is the workflow run": {"context": {"runId": WORKFLOW_RUN, "nodeRunId": NODE_RUN}},
    "runId is the node run": {
        "headers": {"X-Port-Signature": "v1,abc", "X-Port-Timestamp": "1"},
        "context": {"runId": NODE_RUN},
        "workflowRun": {"identifier": WORKFLOW_RUN},
    },
    "objects beside the payload": {
        "workflowRun": {"identifier": WORKFLOW_RUN, "createdAt": "…"},
        "workflowNodeRun": {"identifier": NODE_RUN, "createdAt": "…"},
    },
    "identifiers": {"context": {"workflowRunIdentifier": WORKFLOW_RUN, "nodeRunIdentifier": NODE_RUN}},
    "ids at the root": {"workflowRunId": WORKFLOW_RUN, "nodeRunId": NODE_RUN},
    "run ids at the root": {"runId": NODE_RUN, "workflowRunIdentifier": WORKFLOW_RUN, "context": None},
    "other names at the root": {"workflowNodeRunId": NODE_RUN, "runId": WORKFLOW_RUN, "context": {"by": "me"}},
    "objects in the context": {
        "context": {"workflowRun": {"identifier": WORKFLOW_RUN}, "workflowNodeRun": {"identifier": NODE_RUN}}
    },
    "an action run's frame": {
        "action": "run",
        "resourceType": "run",
        "status": "TRIGGERED",
        "trigger": {"at": "2026-01-01T00:00:00Z"},
        "context": {"runId": NODE_RUN, "workflowRunId": WORKFLOW_RUN},
    },
    "the same id in several places": {
        "context": {"runId": NODE_RUN, "nodeRunId": NODE_RUN, "workflowRunId": WORKFLOW_RUN},
        "nodeRunIdentifier": NODE_RUN,
        "workflowNodeRun": {"identifier": NODE_RUN},
    },
    "another node run somewhere else": {
        "context": {"workflowRunId": WORKFLOW_RUN, "nodeRunId": NODE_RUN, "previous": "wfnr_before"},
        "note": "after wfnr_before",
    },
    "unknown fields everywhere": {
        "context": {"workflowRunId": WORKFLOW_RUN, "nodeRunId": NODE_RUN, "new": {"deep": [1]}},
        "model_config": {"extra": "forbid"},
        "workflow_run": 5,
        "": None,
    },
}


def raw(payload: object = ITEM, **parts: object) -> bytes:
    return json.dumps({"context": {"nodeRunId": NODE_RUN}, "payload": payload} | parts, ensure_ascii=False).encode()


def ours(message: Message) -> NodeRunMessage:
    assert isinstance(message, NodeRunMessage), message
    return message


class TestOurs:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("form", FORMS)
    def test_each_shape_in_each_form(self, form: str, shape: str) -> None:
        value = json.dumps(FORMS[form] | {"payload": SHAPES[shape]}).encode()
        message = ours(sort_out(value))
        payload = SHAPES[shape]
        assert (message.node_run_id, message.workflow_run_id) == (NODE_RUN, WORKFLOW_RUN)
        assert message.problem is None
        assert message.array is isinstance(payload, list)
        assert list(message.items) == (payload if isinstance(payload, list) else [payload])
        assert message.text == value.decode()
        assert items_of(message.text) == message.items

    def test_the_node_run_id_alone_is_enough(self) -> None:
        message = ours(sort_out(raw()))
        assert (message.node_run_id, message.workflow_run_id, message.workflow, message.node) == (
            NODE_RUN,
            None,
            None,
            None,
        )

    def test_names_of_workflow_and_node_are_shown_in_part(self) -> None:
        context = {"nodeRunId": NODE_RUN, "workflowIdentifier": "deploy", "nodeIdentifier": "n" * 1000}
        message = ours(sort_out(raw(context=context)))
        assert (message.workflow, message.node) == ("deploy", "n" * 200)

    @pytest.mark.parametrize("wrong", ["wfr_", "wfr_" + "x" * 65, "wfr_../../x", "wfnr_x", 5, None, {}])
    def test_a_malformed_workflow_run_id_counts_as_absent(self, wrong: object) -> None:
        message = ours(sort_out(raw(context={"nodeRunId": NODE_RUN, "workflowRunId": wrong})))
        assert message.workflow_run_id is None

    @pytest.mark.parametrize(
        ("payload", "problem"),
        [
            (None, "the payload is no object or array, but null"),
            (7, "the payload is no object or array, but a number"),
            (0.5, "the payload is no object or array, but a number"),
            ("text", "the payload is no object or array, but a string"),
            (True, "the payload is no object or array, but a boolean"),
            ({}, "the payload is empty"),
            ([], "the payload is empty"),
            ([ITEM, 3], "item 1 of the payload is no object, but a number"),
            (["a"], "item 0 of the payload is no object, but a string"),
            ([ITEM, ITEM, None], "item 2 of the payload is no object, but null"),
            ([[ITEM]], "item 0 of the payload is no object, but an array"),
            ([ITEM, False], "item 1 of the payload is no object, but a boolean"),
        ],
    )
    def test_a_payload_that_cannot_be_handled_is_ours_with_the_problem(self, payload: object, problem: str) -> None:
        message = ours(sort_out(raw(payload)))
        assert (message.problem, message.items) == (problem, ())
        assert message.text == raw(payload).decode()

    def test_a_missing_payload(self) -> None:
        message = ours(sort_out(json.dumps({"context": {"nodeRunId": NODE_RUN}}).encode()))
        assert (message.problem, message.items) == ("the message has no payload", ())

    @pytest.mark.parametrize(
        "number",
        ["1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 4000, "1e300", "-0.0", "123456789012345678901234567890"],
    )
    def test_large_numbers_are_kept(self, number: str) -> None:
        value = raw().replace(b'"shop"', number.encode())
        message = ours(sort_out(value))
        assert message.items[0]["service"] == json.loads(number)
        assert items_of(message.text) == message.items

    @pytest.mark.parametrize("number", ["1e400", "-1e400", "1e999", "1" * 400 + ".5", "[[2E+0000309]]"])
    def test_a_number_that_no_float_holds_is_a_problem(self, number: str) -> None:
        value = raw().replace(b'"shop"', number.encode())
        message = ours(sort_out(value))
        assert (message.problem, message.items, message.text) == (NOT_FINITE, (), value.decode())

    def test_a_number_that_is_smaller_than_any_float_is_none(self) -> None:
        message = ours(sort_out(raw().replace(b'"shop"', b"1e-999")))
        assert (message.problem, message.items[0]["service"]) == (None, 0.0)

    def test_of_duplicate_keys_the_last_counts_each_time(self) -> None:
        for text in (
            '{"context":{"nodeRunId":"wfnr_first"},"context":{"nodeRunId":"wfnr_last"},"payload":{"a":1}}',
            '{"context":{"nodeRunId":"wfnr_first","nodeRunId":"wfnr_last"},"payload":{"a":1}}',
            '{"payload":{"a":2},"context":{"nodeRunId":"wfnr_last"},"payload":{"a":0,"a":1}}',
        ):
            message = ours(sort_out(text.encode()))
            assert (message.node_run_id, message.items) == ("wfnr_last", ({"a": 1},))
            assert items_of(message.text) == message.items

    @pytest.mark.parametrize("text", ["ключ 🚀 \x7f", '"\\/\b\f\n\r\t', "\u2028\u2029\ufeff"])
    def test_any_text_is_kept(self, text: str) -> None:
        message = ours(sort_out(raw({"eventType": text, text: text})))
        assert message.items == ({"eventType": text, text: text},)
        assert items_of(message.text) == message.items


class TestSize:
    def sized(self, size: int, letter: str = "x") -> bytes:
        frame = raw({"eventType": ""})
        fill, rest = divmod(size - len(frame), len(letter.encode()))
        return raw({"eventType": letter * fill + "x" * rest})

    @pytest.mark.parametrize("letter", ["x", "ä", "🚀"])
    @pytest.mark.parametrize("size", [900_000, 1_048_588, MAX_KEPT_BYTES])
    def test_up_to_the_limit_a_message_is_kept(self, size: int, letter: str) -> None:
        value = self.sized(size, letter)
        message = ours(sort_out(value))
        assert (len(value), message.problem, message.text) == (size, None, value.decode())

    @pytest.mark.parametrize("letter", ["x", "ä", "🚀"])
    def test_above_it_ours_without_text_and_with_the_problem(self, letter: str) -> None:
        message = ours(sort_out(self.sized(MAX_KEPT_BYTES + 1, letter)))
        assert message.problem == "the message is larger than can be kept (1,900,000 bytes)"
        assert (message.text, message.items, message.node_run_id) == ("", (), NODE_RUN)

    def test_with_as_many_items_as_are_allowed_it_is_handled(self) -> None:
        message = ours(sort_out(raw([{"type": "a"}] * 3), max_items=3))
        assert (message.problem, len(message.items), message.is_kept) == (None, 3, True)

    @pytest.mark.parametrize("items", [[{"type": "a"}] * 4, [{"type": "a"}, {}, {}, "no object"], [{}] * 1000])
    def test_with_more_it_is_one_problem_without_items(self, items: list[object]) -> None:
        message = ours(sort_out(raw(items), max_items=3))
        assert message.problem == f"the payload has {len(items):,} items, and MAX_ITEMS allows 3 in one message"
        assert (message.text, message.items, message.is_kept) == ("", (), False)
        assert message.names == (("a",) if items[0] else ())

    def test_by_default_ten_thousand_are_allowed(self) -> None:
        assert ours(sort_out(raw([{}] * 10_000))).problem is None
        assert ours(sort_out(raw([{}] * 10_001))).problem is not None

    @pytest.fixture
    def no_collection(self) -> Iterator[None]:
        """The garbage collector's work depends on what else the process holds."""
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.usefixtures("no_collection")
    def test_the_cost_grows_linearly_with_the_items(self) -> None:
        def best_time(value: bytes) -> float:
            times = []
            for _ in range(7):
                start = time.process_time()
                message = ours(sort_out(value))
                assert message.event_types
                assert items_of(message.text)
                times.append(time.process_time() - start)
            return min(times)

        few, many = ([ITEM | {"n": n, "type": f"t{n}"} for n in range(count)] for count in (1_000, 10_000))
        assert best_time(raw(many)) < 20 * best_time(raw(few))


class TestSpread:
    """The payload at the root, beside Port's own members."""

    @pytest.mark.parametrize("shape", ["deployment", "service", "infrastructure"])
    def test_each_shape(self, shape: str) -> None:
        payload = SHAPES[shape]
        assert isinstance(payload, dict)
        ports = {
            "headers": {"X-Port-Signature": "v1,abc", "X-Port-Timestamp": "1"},
            "context": {"workflowRunId": WORKFLOW_RUN, "runId": NODE_RUN, "by": {"email": "a@b.c"}},
            "resourceType": "run",
            "nodeRunId": NODE_RUN,
            "workflowRun": {"identifier": WORKFLOW_RUN},
        }
        message = ours(sort_out(json.dumps(payload | ports).encode()))
        assert (message.node_run_id, message.workflow_run_id) == (NODE_RUN, WORKFLOW_RUN)
        assert (message.items, message.problem, message.guessed, message.array) == ((payload,), None, True, False)
        assert items_of(message.text) == message.items

    def test_a_member_of_the_payload_that_is_only_called_like_an_id_stays(self) -> None:
        payload = {"eventType": "x", "runId": "build-7", "workflowRun": {"number": 3}, "nodeRunId": 5}
        message = ours(sort_out(json.dumps(payload | {"context": {"runId": NODE_RUN}}).encode()))
        assert message.items == (payload,)

    def test_where_there_is_a_payload_nothing_is_guessed(self) -> None:
        message = ours(sort_out(raw(eventType="x")))
        assert (message.items, message.guessed) == ((ITEM,), False)

    def test_without_an_event_type_there_is_no_payload_and_that_is_a_guess(self) -> None:
        context = {"nodeRunId": NODE_RUN, "workflowRunId": WORKFLOW_RUN}
        message = ours(sort_out(json.dumps({"context": context, "service": "x"}).encode()))
        assert (message.problem, message.guessed) == ("the message has no payload", True)

    def test_what_would_fail_on_a_guess_without_a_run_to_look_at_is_unsure(self) -> None:
        message = sort_out(json.dumps({"context": {"nodeRunId": NODE_RUN}, "service": "x"}).encode())
        assert isinstance(message, Unsure)
        assert NODE_RUN in message.reason

    def test_another_kind_of_invocation_at_the_root(self) -> None:
        spread = {"eventType": "x", "action": {"invocationMethod": {"type": "WEBHOOK"}}, "context": {"runId": NODE_RUN}}
        assert sort_out(json.dumps(spread).encode()) == NotOurs(Foreign.WEBHOOK_INVOCATION)


class TestNotOurs:
    @pytest.mark.parametrize(
        ("why", "parts"),
        [
            # Self-service action runs.
            (Foreign.ACTION_RUN, {"context": {"runId": "r_AbCd1234"}}),
            (Foreign.ACTION_RUN, {"context": {"runId": "r_1", "entity": "x", "blueprint": "y"}}),
            (Foreign.ACTION_RUN, {"context": {"runId": "r_1", "nodeRunId": NODE_RUN}}),
            (Foreign.ACTION_RUN, {"context": {"runId": "r_1"}, "diff": {}}),
            (Foreign.RESOURCE_TYPE, {"resourceType": "run", "context": {"runId": "r_1"}}),
            (Foreign.RESOURCE_TYPE, {"resourceType": "run", "context": {}}),
            (
                Foreign.RESOURCE_TYPE,
                {
                    "resourceType": "run",
                    "context": {"runId": "r_1"},
                    "payload": {"action": {"invocationMethod": {"type": "KAFKA"}}, "properties": {}},
                },
            ),
            # Invocations of another kind, even for a node run.
            (Foreign.WEBHOOK_INVOCATION, {"payload": {"action": {"invocationMethod": {"type": "WEBHOOK"}}}}),
            (Foreign.WEBHOOK_INVOCATION, {"payload": {"action": {"invocationMethod": {"type": "GITHUB"}}}}),
            (
                Foreign.WEBHOOK_INVOCATION,
                {"context": {"runId": NODE_RUN}, "payload": {"action": {"invocationMethod": {"agent": True}}, "x": 1}},
            ),
            (
                Foreign.WEBHOOK_INVOCATION,
                {"payload": {"action": {"invocationMethod": {"type": "KAFKA", "agent": True}}}},
            ),
            # Change-log events.
            (Foreign.CHANGE_LOG, {"resourceType": "entity", "diff": {"before": None, "after": {}}, "action": "CREATE"}),
            (Foreign.CHANGE_LOG, {"diff": {"before": {}, "after": None}}),
            (Foreign.CHANGE_LOG, {"resourceType": "blueprint", "diff": None, "context": {}}),
            (Foreign.CHANGE_LOG, {"diff": {"after": {"note": "wfnr_1"}}, "context": {}}),
            # No node-run id in any of its places, or something else there.
            (Foreign.NO_NODE_RUN_ID, {"context": {}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"runId": WORKFLOW_RUN}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"nodeRunId": ""}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"nodeRunId": None, "workflowNodeRunId": ""}}),
            (Foreign.NO_NODE_RUN_ID, {"context": None, "nodeRunId": "mine", "runId": "build-7"}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"runId": 7}, "workflowNodeRun": 8, "workflowRun": True}),
            (Foreign.NO_NODE_RUN_ID, {"context": {}, "workflowNodeRun": {"identifier": None}}),
            # In the payload alone an id is what its sender speaks of.
            (Foreign.NO_NODE_RUN_ID, {"context": {}, "payload": {"nodeRunId": NODE_RUN, "type": "x"}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {}, "payload": [NODE_RUN]}),
        ],
    )
    def test_the_marks_of_other_consumers(self, why: Foreign, parts: dict[str, object]) -> None:
        assert sort_out(raw(**parts)) == NotOurs(why)

    @pytest.mark.parametrize("text", ["[]", "{}", "7", "null", '"wf"', "true", "1.5", '[{"context":{"runId":"r_x"}}]'])
    def test_any_other_json(self, text: str) -> None:
        assert sort_out(text.encode()) == NotOurs(Foreign.NO_NODE_RUN_ID)

    @pytest.mark.parametrize("value", [b"\xef\xbb\xbf{}", b'{"a":"\\ud800"}', b'{"\\udfff":1}'])
    def test_unusual_json_of_others(self, value: bytes) -> None:
        assert sort_out(value) == NotOurs(Foreign.NO_NODE_RUN_ID)

    @pytest.mark.parametrize(
        "action",
        [
            "provision",
            {"name": "x"},
            [{"invocationMethod": 1}],
            None,
            {"invocationMethod": {"type": "KAFKA"}},
            {"invocationMethod": {"type": "kafka", "agent": False, "payload": {"a": 1}}},
            {"invocationMethod": "by hand"},
            {"invocationMethod": {"name": "by hand"}},
            {"invocationMethod": {"type": None}},
            {"invocationMethod": None},
        ],
    )
    def test_an_action_that_names_no_other_kind_is_ours(self, action: object) -> None:
        assert ours(sort_out(raw({"action": action}))).problem is None
        assert ours(sort_out(raw([{"action": action}]))).problem is None

    def test_a_resource_type_beside_a_node_run_id_is_ours(self) -> None:
        for resource_type in ("run", "workflowNodeRun", None, 5):
            assert ours(sort_out(raw(resourceType=resource_type))).node_run_id == NODE_RUN


class TestUnsure:
    def unsure(self, value: bytes) -> str:
        message = sort_out(value)
        assert isinstance(message, Unsure), message
        assert len(message.reason) <= 400
        return message.reason

    @pytest.mark.parametrize(
        "parts",
        [
            {"context": {"noderunid": NODE_RUN}},
            {"context": {"node": {"run": {"id": NODE_RUN}}}},
            {"context": [NODE_RUN]},
            {"context": NODE_RUN},
            {"context": {NODE_RUN: 1}},
            {"context": json.dumps({"nodeRunId": NODE_RUN})},
            {"context": {"url": f"https://app.example.com/runs/{NODE_RUN}?x"}},
            {"context": {}, "workflowNodeRun": [NODE_RUN]},
            {"context": {}, "workflowNodeRun": NODE_RUN},
            {"context": {"workflowRunId": NODE_RUN}},
            {"context": {}, "headers": {"X-Port-Node-Run": NODE_RUN}},
            {"context": {}, "resourceType": "run", "run": {"node": NODE_RUN}},
            {"context": {}, "Payload": {"x": NODE_RUN}},
        ],
    )
    def test_a_node_run_id_elsewhere(self, parts: dict[str, object]) -> None:
        assert NODE_RUN in self.unsure(raw(**parts))

    @pytest.mark.parametrize(
        "text",
        [
            '"wfnr_x"',
            '[{"context":{"nodeRunId":"wfnr_x"},"payload":{}}]',
            '{"value":{"context":{"nodeRunId":"wfnr_x"},"payload":{}}}',
            '{"value":"{\\"context\\":{\\"nodeRunId\\":\\"wfnr_x\\"}}"}',
            '{"eventType":"x","about":"wfnr_x"}',
            '{"context":{"id":"\\u0077fnr_x"},"payload":{}}',
            # Of two members with one name the last counts.
            '{"context":{"nodeRunId":"wfnr_x"},"context":{},"payload":{}}',
            '{"payload":{"x":"wfnr_x"},"payload":{"y":1}}',
        ],
    )
    def test_whatever_else_speaks_of_one(self, text: str) -> None:
        assert "wfnr_x" in self.unsure(text.encode())

    @pytest.mark.parametrize(
        "parts",
        [
            {"context": {"nodeRunId": NODE_RUN, "runId": "wfnr_2"}},
            {"context": {"nodeRunId": NODE_RUN}, "nodeRunId": "wfnr_2"},
            {"context": {"nodeRunId": NODE_RUN}, "workflowNodeRun": {"identifier": "wfnr_2"}},
            {"context": {"nodeRunId": NODE_RUN, "runId": "wfnr_../2"}},
        ],
    )
    def test_two_different_ids(self, parts: dict[str, object]) -> None:
        reason = self.unsure(raw(**parts))
        assert NODE_RUN in reason
        assert "2" in reason

    @pytest.mark.parametrize(
        "value",
        [
            b"<message><nodeRunId>wfnr_x</nodeRunId></message>",
            b"{'context': {'nodeRunId': 'wfnr_x'}}",
            b"\x00\x00\x00\x00\x07\x02\x0awfnr_x",
            b'{"context":{"nodeRunId":"wfnr_x',
            b'{"context":{"id":"wfnr_x"},"payload":{',
            b'{"context":{"nodeRunId":"wfnr_x","runId":"wfnr_y"},"payload":{',
            b'{"context":{"nodeRunId":"wfnr_x","note":"after wfnr_y"},"payload":{',
            b'{"payload":{"nodeRunId":"wfnr_x"},"context":{',
            b'{"payload":[{"a":{"nodeRunId":"wfnr_x"}}],"context":{',
            # Broken, and maybe for somebody else.
            b'{"context":{"runId":"wfnr_x"},"payload":{"action":{"invocationMethod":{"type":"WEBHOOK"',
            b'{"context":{"nodeRunId":"wfnr_x","runId":"r_1"},"payload":{',
            b'{"diff":{"before":{}},"context":{"nodeRunId":"wfnr_x"},"payload":{',
        ],
    )
    def test_what_is_no_json_and_speaks_of_one(self, value: bytes) -> None:
        assert self.unsure(value).startswith("not JSON in UTF-8: ")

    def test_a_large_one_costs_little(self) -> None:
        values = [
            raw({"x": "y" * 900_000}, context={"id": NODE_RUN}),
            b'{"x":"' + b'\\"' * 450_000 + b'wfnr_x","nodeRunId":"wfnr_x"',
            b'{"a":{' * 200_000 + b'"nodeRunId":"wfnr_x"',
            b'"nodeRunId":"wfnr_x",' * 50_000,
        ]
        for value in values:
            start = time.process_time()
            assert isinstance(sort_out(value), Unsure | NodeRunMessage)
            assert time.process_time() - start < 2.0


class TestNamed:
    """A message whose node run a person has named."""

    def test_it_is_of_that_node_run_whatever_it_says(self) -> None:
        message = ours(sort_out(raw(context={"id": "wfnr_other", "workflowRunId": WORKFLOW_RUN}), NODE_RUN))
        assert (message.node_run_id, message.workflow_run_id) == (NODE_RUN, WORKFLOW_RUN)
        assert (message.items, message.guessed) == ((ITEM,), False)

    def test_its_payload_may_stand_at_the_root(self) -> None:
        message = ours(sort_out(json.dumps(ITEM).encode(), NODE_RUN))
        assert (message.items, message.guessed) == ((ITEM,), False)
        assert items_of(message.text) == message.items

    @pytest.mark.parametrize(
        ("value", "named", "reason"),
        [
            (b"[]", NODE_RUN, "the message is no object, but an array"),
            (b'{"a":1}', NODE_RUN, "the message has no payload"),
            (b'{"payload":[]}', NODE_RUN, "the payload is empty"),
            (b'{"payload":{"a":NaN}}', NODE_RUN, "not JSON in UTF-8"),
            (b'{"payload":', NODE_RUN, "not JSON in UTF-8"),
            (b'{"payload":{"a":1}}', "wfnr_../x", "malformed node-run id"),
        ],
    )
    def test_what_has_no_payload_to_handle_has_to_be_edited(self, value: bytes, named: str, reason: str) -> None:
        message = sort_out(value, named)
        assert isinstance(message, Bad)
        assert message.reason.startswith(reason)


class TestJavaScript:
    """What a JavaScript program may write, and what stands before it."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (r"\ud83d", "\ufffd"),
            (r"a\uDE80b", "a\ufffdb"),
            (r"Deploy \ud83d\ude80 done \ud83d", "Deploy \U0001f680 done \ufffd"),
            (r"\ude80\ud83d", "\ufffd\ufffd"),
            (r"\ud83d\ud83d\ude80", "\ufffd\U0001f680"),
            (r"\\ud83d \ud83dx", "\\ud83d \ufffdx"),
            ("\u00fc \\ud83d", "\u00fc \ufffd"),
        ],
    )
    def test_half_a_pair_is_replaced_and_noted(self, text: str, expected: str) -> None:
        frame = r'{"context":{"nodeRunId":"wfnr_1"},"payload":{"eventType":"seen","title":"%s","k%s":1}}'
        value = (frame % (text, text)).encode()
        message = ours(sort_out(value))
        assert message.items == ({"eventType": "seen", "title": expected, f"k{expected}": 1},)
        assert (message.problem, message.note) == (None, HALVES)
        assert items_of(message.text) == message.items
        # Another half is another message.
        assert message.digest != ours(sort_out(value.replace(b"8", b"9"))).digest

    def test_a_whole_pair_is_nothing_to_note(self) -> None:
        message = ours(sort_out(raw().replace(b"shop", rb"\ud83d\ude80")))
        assert (message.items[0]["service"], message.note) == ("\U0001f680", None)

    @pytest.mark.parametrize(
        "before",
        [
            b"\xef\xbb\xbf",
            b"\x00\x00\x00\x00\x07",
            b"\x00\x7b\x22\x7b\x22",
            b"\x00\x00\x00\x01\x00\x00",
            b"\x00\x00\x00\x00\x07\x02\x02",
        ],
    )
    def test_what_stands_before_it_is_skipped(self, before: bytes) -> None:
        message = ours(sort_out(before + raw()))
        assert (message.items, message.problem) == ((ITEM,), None)
        assert message.text == raw().decode()
        assert message.digest == ours(sort_out(raw())).digest

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_another_encoding(self, encoding: str) -> None:
        message = ours(sort_out(raw({"eventType": "\u00fc"}).decode().encode(encoding)))
        assert (message.items, message.problem) == (({"eventType": "\u00fc"},), None)


class TestProblem:
    """Ours, though it cannot be handled: the node run is told so."""

    @pytest.mark.parametrize(
        "value",
        [
            raw().replace(b'"shop"', b"NaN"),
            raw().replace(b'"shop"', b"-Infinity"),
            raw().replace(b'"shop"', b"1" * 900_000),
            raw().replace(b'"shop"', b"[" * 201 + b"]" * 201),
            raw().replace(b'"shop"', b"[" * 50_000 + b"]" * 50_000),
            raw().replace(b'"shop"', b"[" * 50_000),
            raw().replace(b'"shop"', b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
            raw()[:-1],
            raw() + b"x",
            raw() + b"\x00",
            raw() * 2,
            raw() + b"\n" + raw() + b"\n",
            raw().replace(b'"shop"', b'"a\nb"'),
            raw().replace(b'"shop"', b'"a\x00b"'),
            raw().replace(b'"shop"', rb'"\x73hop"'),
            raw().replace(b'"shop"', rb'"\ud8"'),
            raw().replace(b'"shop"', b"007"),
            raw().replace(b'"shop"', b"None"),
            raw().replace(b'"shop"', b'"shop",'),
            raw().replace(b'"shop"', b"{{ .outputs.trigger }}"),
            b'{"payload":{"a":{"b":[1,{"c":2}]},"d":"}{"},"context":{"nodeRunId": "wfnr_Ab-12_x"',
            b'{"workflowNodeRun":{"identifier":"wfnr_Ab-12_x"},"payload":{',
        ],
        ids=lambda value: f"{len(value)} bytes, {value[-24:]!r}",
    )
    def test_what_is_no_json_with_one_id(self, value: bytes) -> None:
        start = time.process_time()
        message = ours(sort_out(value))
        assert time.process_time() - start < 2.0
        assert message.node_run_id == NODE_RUN
        assert (message.problem or "").startswith("not JSON in UTF-8: ")
        assert (message.items, message.text, message.guessed) == ((), value.decode(), False)

    @pytest.mark.parametrize(
        "value",
        [
            raw().replace(b"shop", b"Z\xfcrich"),
            raw().replace(b"shop", b"\xed\xa0\x80"),
            raw().replace(b"shop", b"\xc3"),
            raw()[:-1] + b"\xff",
            b"\xef\xbb\xbf" + raw()[:-1],
        ],
    )
    def test_what_is_no_text_is_not_kept_as_one(self, value: bytes) -> None:
        message = ours(sort_out(value))
        assert (message.problem or "").startswith("not JSON in UTF-8: ")
        # They are kept as a dead letter.
        assert (message.text, message.is_kept) == ("", False)

    def test_the_run_id_is_read_where_it_is_the_only_one(self) -> None:
        one = b'{"context":{"workflowRunId":"wfr_1","nodeRunId":"wfnr_1"},"payload":'
        assert ours(sort_out(one)).workflow_run_id == "wfr_1"
        two = one.replace(b'"payload"', b'"runId":"wfr_2","payload"')
        assert ours(sort_out(two)).workflow_run_id is None

    def test_above_the_limit_nothing_of_it_is_kept(self) -> None:
        value = raw({"x": "\u00fc" * MAX_KEPT_BYTES})[:-1]
        message = ours(sort_out(value))
        assert (message.text, message.items) == ("", ())
        assert message.problem


class TestBad:
    def bad(self, value: bytes | None) -> Bad:
        message = sort_out(value)
        assert isinstance(message, Bad), message
        assert message.raw is value
        assert message.reason
        assert len(message.reason) <= 200
        return message

    def test_a_tombstone(self) -> None:
        assert self.bad(None).reason == "the record has no value (a tombstone)"

    @pytest.mark.parametrize(
        "value",
        [
            # Not JSON.
            b"",
            b" ",
            b"{",
            b'{"a":1}{"b":2}',
            b"{'a': 1}",
            b"\x00\x01\x02",
            # 900 KB of what is no JSON.
            b"x" * 900_000,
            b'{"a":"' + b"x" * 900_000,
            b"[" + b"1," * 450_000,
            # Numbers without end.
            b'{"a":' + b"1" * 900_000 + b"}",
            # Not UTF-8.
            b'{"a":"\xff"}',
            b'{"a":"\xc3\x28"}',
            "{}".encode("utf-16"),
            "{}".encode("utf-16-le"),
            # UTF-8 of a surrogate.
            b'{"a":"\xed\xa0\x80"}',
            # A byte order mark, and nothing behind it.
            b"\xef\xbb\xbf",
            b"\xfe\xff",
            # No numbers of JSON.
            b'{"a":NaN}',
            b'{"a":-Infinity}',
            b"Infinity",
            # 50,000 levels.
            b"[" * 50_000,
            b"[" * 50_000 + b"]" * 50_000,
            b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        ],
        ids=lambda value: f"{len(value)} bytes, {value[:12]!r}",
    )
    def test_what_cannot_be_decoded_keeps_its_bytes(self, value: bytes) -> None:
        start = time.process_time()
        self.bad(value)
        assert time.process_time() - start < 1.0

    @pytest.mark.parametrize(
        "node_run_id",
        [
            "wfnr_../../x",
            "wfnr_",
            "wfnr_" + "x" * 65,
            "wfnr_a b",
            "wfnr_a\n",
            "wfnr_ä",
            "wfnr_a%2F",
            "wfr_x",
            "WFNR_x",
            "x",
            " " + NODE_RUN,
            "wfnr_" + "x" * 900_000,
        ],
        ids=lambda node_run_id: repr(node_run_id[:20]),
    )
    @pytest.mark.parametrize("place", ["nodeRunId", "workflowNodeRunId"])
    def test_a_malformed_node_run_id(self, place: str, node_run_id: str) -> None:
        value = raw(context={place: node_run_id})
        assert self.bad(value).reason.startswith("malformed node-run id ")

    @pytest.mark.parametrize(
        ("node_run_id", "kind"),
        [
            (12345, "a number"),
            (0, "a number"),
            (1.5, "a number"),
            (False, "a boolean"),
            ([], "an array"),
            ({"identifier": "x"}, "an object"),
        ],
    )
    def test_a_node_run_id_that_is_no_text(self, node_run_id: object, kind: str) -> None:
        places: list[dict[str, object]] = [
            {"context": {"nodeRunId": node_run_id}},
            {"context": {"workflowNodeRunId": node_run_id}},
            {"context": {"nodeRunId": "", "workflowNodeRunId": node_run_id}},
            {"context": {}, "workflowNodeRun": {"identifier": node_run_id}},
        ]
        for place in places:
            assert self.bad(raw(**place)).reason == f"malformed node-run id: {kind}"

    @pytest.mark.parametrize("node_run_id", [[NODE_RUN], {"identifier": NODE_RUN}])
    def test_with_the_id_within_it_is_unsure(self, node_run_id: object) -> None:
        message = sort_out(raw(context={"nodeRunId": node_run_id}))
        assert isinstance(message, Unsure)
        assert message.reason.startswith("malformed node-run id: a")

    @pytest.mark.parametrize("place", ["context", "workflowRun", "workflowNodeRun"])
    def test_depth_where_an_id_belongs(self, place: str) -> None:
        names = b'{"nodeRunId": DEEP, "identifier": DEEP}'.replace(b"DEEP", b"[" * 190 + b"]" * 190)
        value = b'{"%s": %s, "payload": {}}' % (place.encode(), names)
        if place == "workflowRun":
            assert sort_out(value) == NotOurs(Foreign.NO_NODE_RUN_ID)
        else:
            assert self.bad(value).reason == "malformed node-run id: an array"

    def test_a_text_in_another_place_counts_before_it(self) -> None:
        message = ours(sort_out(raw(context={"nodeRunId": 7, "runId": NODE_RUN}, workflowNodeRun=8)))
        assert message.node_run_id == NODE_RUN

    @pytest.mark.parametrize("run_id", ["wfnr_../../x", "wfnr_", "wfnr_a/b"])
    def test_a_malformed_node_run_id_as_run_id(self, run_id: str) -> None:
        assert self.bad(raw(context={"runId": run_id})).reason.startswith("malformed node-run id ")
        assert self.bad(raw(context={}, workflowNodeRun={"identifier": run_id})).reason.startswith("malformed")


class TestEventType:
    def test_the_order_of_preference(self) -> None:
        item: dict[str, object] = {name: f"from {name}" for name in reversed(EVENT_TYPE_FIELDS)}
        for name in EVENT_TYPE_FIELDS:
            [found] = ours(sort_out(raw(item))).items
            assert event_type(found) == f"from {name}"
            del item[name]
        assert event_type({"other": "x"}) is None

    @pytest.mark.parametrize("wrong", ["", None, 5, True, ["x"], {"name": "x"}])
    def test_only_a_text_counts(self, wrong: str | None) -> None:
        assert event_type({"eventType": wrong, "type": "next"}) == "next"
        assert event_type({"eventType": wrong}) is None

    def test_the_first_few_different_ones_are_shown(self) -> None:
        payload = [{"type": f"{n % 20}" + "x" * 300} for n in range(100)] + [{}]
        assert ours(sort_out(raw(payload))).event_types == tuple(f"{n}" + "x" * 199 for n in range(8))


class TestDigest:
    def test_of_what_is_no_object_it_is_that_of_the_bytes(self) -> None:
        # Kept in tables: another value would take a repeated message for a new item.
        assert digest_of(b"").text == "e3b0c44298fc1c149afbf4c8996fb924"
        assert digest_of(b"[1]") != digest_of(b"[1] ")

    def test_it_is_stable(self) -> None:
        assert digest_of(b'{"b":1.50,"a":["\xc3\xbc"]}').text == "90ec458017dbb31dd96b4634329a8247"

    @pytest.mark.parametrize(
        "same",
        [
            b'{"payload":{"n":1.50,"a":["x",{"c":null,"b":-1e2}]},"context":{"nodeRunId":"wfnr_1"}}',
            b' { "context": {"nodeRunId": "wfnr_1"},\n"payload": {"a": ["x", {"b": -1e2, "c": null}], "n": 1.50} } ',
            b'{"context":{"nodeRunId":"wfnr_1"},"headers":{},"payload":{"a":["\\u0078",{"b":-1e2,"c":null}],"n":1.50}}',
            b'{"context":{"nodeRunId":"wfnr_1"},"headers":{"X-Port-Signature":"v1,a","X-Port-Timestamp":"1"},'
            b'"payload":{"a":["x",{"b":-1e2,"c":null}],"n":1.50}}',
            b'\xef\xbb\xbf{"context":{"nodeRunId":"wfnr_1"},"payload":{"a":["x",{"b":-1e2,"c":null}],"n":1.50}}',
        ],
    )
    def test_the_same_content_has_the_same(self, same: bytes) -> None:
        plain = b'{"context":{"nodeRunId":"wfnr_1"},"payload":{"a":["x",{"b":-1e2,"c":null}],"n":1.50}}'
        assert digest_of(same) == digest_of(plain)

    def test_signed_anew_with_half_a_pair_and_a_large_number_it_is_the_same(self) -> None:
        for odd in (rb'"\ud83d"', b"1e999", b"1" * 5000, b"[" * 300 + b"]" * 300, b"NaN"):
            frame = b'{"headers":{"X-Port-Signature":"%s","X-Port-Timestamp":"%s"},"payload":{"x":' + odd + b"}}"
            assert digest_of(frame % (b"v1,a", b"1")) == digest_of(frame % (b"v1,b", b"2"))
            assert digest_of(frame % (b"v1,a", b"1")) == digest_of(b'{"payload":{"x":' + odd + b"}}")

    def test_another_content_has_another(self) -> None:
        values = [
            *(b'{"n":%s}' % n for n in (b"1", b"1.0", b"1.00", b"1e0", b'"1"', b"10", b"-0", b"0", b"[1]", b"null")),
            *(b'{"n":%s}' % n for n in (b"9007199254740993", b"9007199254740993.0", b"9007199254740992", b"1e999")),
            *(
                b'{"n":%s}' % n
                for n in (b"1e998", rb'"\ud83d"', rb'"\ud83e"', rb'"\ufffd"', rb'"\\ud83d"', rb'"\u0000"')
            ),
            b"{}",
            b"[]",
            b'{"headers":{"x":1}}',
            b'{"payload":{"headers":{"X-Port-Signature":"a"}}}',
            b'{"payload":{"headers":{}}}',
            b'{"a":{"b":1},"c":2}',
            b'{"a":{"b":1,"c":2}}',
        ]
        assert len({digest_of(value).text for value in values}) == len(values)

    def test_the_order_in_an_array_counts(self) -> None:
        assert digest_of(b'{"a":[1,2]}') != digest_of(b'{"a":[2,1]}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=12,
)
IDS = st.sampled_from([NODE_RUN, WORKFLOW_RUN, "r_1", "wfnr_", "wfnr_../../x", ""]) | JSON
NAMES = st.sampled_from(["runId", "nodeRunId", "workflowNodeRunId", "workflowRunId", "identifier", "invocationMethod"])
PARTS = st.dictionaries(NAMES, IDS, max_size=3) | JSON
PAYLOADS = st.dictionaries(st.sampled_from([*EVENT_TYPE_FIELDS, "x"]), PARTS, max_size=3)
MESSAGES = st.dictionaries(
    st.sampled_from(["context", "payload", "workflowRun", "workflowNodeRun", "resourceType", "diff", "headers", "x"]),
    PARTS | PAYLOADS | st.lists(PAYLOADS, max_size=3),
    max_size=6,
)


def holds(value: bytes) -> None:
    """What is true of every message."""
    message = sort_out(value)
    assert message == sort_out(value)
    match message:
        case Bad(raw=kept, reason=reason):
            assert kept is value
            assert reason
        case NotOurs(why=why):
            assert why in Foreign
        case Unsure(reason=reason):
            assert reason
        case NodeRunMessage(problem=None, items=items, text=text, note=note):
            assert items
            assert items_of(text) == items
            assert note is not None or value.endswith(text.encode())
        case NodeRunMessage(problem=problem, items=items, text=text):
            assert problem
            assert items == ()
            assert text.encode() in (value, b"")


@unhurried
@given(st.binary(max_size=200))
@example(b"\xff")
@example(raw())
def test_any_bytes_give_exactly_one_outcome(value: bytes) -> None:
    holds(value)


@unhurried
@given(JSON | MESSAGES, st.booleans())
def test_any_json_gives_exactly_one_outcome_and_is_decodable(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    holds(text)
    message = sort_out(text)
    assert not isinstance(message, Bad) or message.reason.startswith("malformed node-run id")


@unhurried
@given(st.sampled_from(sorted(FORMS)), PAYLOADS | JSON, st.data())
def test_a_damaged_message_never_raises(form: str, payload: object, data: st.DataObject) -> None:
    value = bytearray(json.dumps(FORMS[form] | {"payload": payload}).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    holds(bytes(value))


def test_the_outcomes_are_told_apart_without_a_look_at_the_rest() -> None:
    outcomes: list[Callable[[], Message]] = [lambda: sort_out(raw()), lambda: sort_out(b"{}"), lambda: sort_out(b"")]
    assert [type(outcome()) for outcome in outcomes] == [NodeRunMessage, NotOurs, Bad]


class Mutation:
    """A change of a message's bytes, as a bad disk, a cut or a careless program makes it."""

    def __init__(self, data: st.DataObject, value: bytes) -> None:
        self.data, self.value = data, value

    def place(self) -> int:
        return self.data.draw(st.integers(0, len(self.value)))

    def made(self) -> bytes:
        at, until, value = self.place(), self.place(), self.value
        first, last = min(at, until), max(at, until)
        piece = self.data.draw(st.binary(max_size=4) | st.sampled_from(PIECES))
        kinds = {
            "cut off": value[:at],
            "begun late": value[at:],
            "hole": value[:first] + value[last:],
            "inserted": value[:at] + piece + value[at:],
            "replaced": value[:at] + piece + value[at + len(piece) :],
            "repeated": value[:last] + value[first:],
            "twice": value + piece + value,
        }
        return kinds[self.data.draw(st.sampled_from(sorted(kinds)))]


PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\",
        b"\n",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"1e999",
        b"NaN",
        b"-",
    ),
    *(rb"\ud83d", rb"\u00", b'"a":1,', b'"":null,', b"[" * 300, b"9" * 5000, b"null", b"'", b"/*", b"\xed\xa0\x80"),
]
ORIGINALS = [
    raw({"eventType": "x", "t": "\u00fc \U0001f680", "n": [1.5, -2, {"": None}]}, headers={"X-Port-Signature": "v1,a"}),
    json.dumps({"payload": [ITEM, ITEM], "context": {"runId": NODE_RUN, "workflowRunId": WORKFLOW_RUN}}).encode(),
    json.dumps({"eventType": "x", "n": 1, "nodeRunIdentifier": NODE_RUN, "workflowRunId": WORKFLOW_RUN}).encode(),
]
READABLE = f'"{NODE_RUN}"'.encode()


@settings(unhurried, max_examples=300)
@given(st.sampled_from(ORIGINALS), st.data())
def test_no_mutation_of_ours_makes_an_id_that_can_be_read_end_in_silence(original: bytes, data: st.DataObject) -> None:
    value = Mutation(data, Mutation(data, original).made()).made()
    holds(value)
    message = sort_out(value)
    if READABLE not in value:
        return
    match message:
        case NodeRunMessage(node_run_id=node_run_id):
            # A doubled message may carry two ids, one of them mutilated.
            assert node_run_id.encode() in value
        case Bad(reason=reason):
            assert reason.startswith("malformed node-run id")
        case NotOurs(why=why):
            # It stands in the payload alone, or the mutation has made a mark of others.
            assert why.is_certain or value.find(b'"payload"') < value.find(READABLE)
