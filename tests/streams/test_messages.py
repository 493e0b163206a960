"""What a message on `<orgId>.runs` is: every row of the table, every known form, and whatever else may come."""

import gc
import json
import math
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.messages import (
    EVENT_TYPE_FIELDS,
    MAX_KEPT_BYTES,
    Bad,
    Foreign,
    Message,
    NodeRunMessage,
    NotOurs,
    digest,
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

    @pytest.mark.parametrize(("number", "expected"), [("1e400", math.inf), ("-1e400", -math.inf), ("1e-999", 0.0)])
    def test_what_no_float_can_hold_is_the_nearest_one(self, number: str, expected: float) -> None:
        message = ours(sort_out(raw().replace(b'"shop"', number.encode())))
        assert message.items[0]["service"] == expected
        assert items_of(message.text) == message.items

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


class TestNotOurs:
    @pytest.mark.parametrize(
        ("why", "parts"),
        [
            # Self-service action runs.
            (Foreign.ACTION_RUN, {"context": {"runId": "r_AbCd1234"}}),
            (Foreign.ACTION_RUN, {"context": {"runId": "r_1", "entity": "x", "blueprint": "y"}}),
            (Foreign.ACTION_RUN, {"context": {"runId": "r_1", "nodeRunId": NODE_RUN}}),
            (Foreign.RESOURCE_TYPE, {"resourceType": "run", "context": {"runId": "r_1"}}),
            (Foreign.RESOURCE_TYPE, {"resourceType": "run"}),
            (Foreign.RESOURCE_TYPE, {"resourceType": None, "context": {"nodeRunId": NODE_RUN}}),
            # Agent-mode webhook invocations, even for a node run.
            (Foreign.WEBHOOK_INVOCATION, {"payload": {"action": {"invocationMethod": {"type": "WEBHOOK"}}}}),
            (Foreign.WEBHOOK_INVOCATION, {"payload": {"action": {"invocationMethod": None}}}),
            (
                Foreign.WEBHOOK_INVOCATION,
                {"context": {"runId": NODE_RUN}, "payload": {"action": {"invocationMethod": {"agent": True}}, "x": 1}},
            ),
            # Change-log events.
            (Foreign.CHANGE_LOG, {"resourceType": "entity", "diff": {"before": None, "after": {}}, "action": "CREATE"}),
            (Foreign.CHANGE_LOG, {"diff": {"before": {}, "after": None}}),
            (Foreign.CHANGE_LOG, {"resourceType": "blueprint", "diff": None, "context": {}}),
            # No node-run id in any of its places, or something else there.
            (Foreign.NO_NODE_RUN_ID, {"context": {}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"runId": WORKFLOW_RUN}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"nodeRunId": ""}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"nodeRunId": None, "workflowNodeRunId": ""}}),
            (Foreign.NO_NODE_RUN_ID, {"context": [NODE_RUN]}),
            (Foreign.NO_NODE_RUN_ID, {"context": NODE_RUN}),
            (Foreign.NO_NODE_RUN_ID, {"context": None}),
            (Foreign.NO_NODE_RUN_ID, {"context": {"runId": 7}, "workflowNodeRun": 8, "workflowRun": True}),
            (Foreign.NO_NODE_RUN_ID, {"context": {}, "workflowNodeRun": {"identifier": None}}),
            (Foreign.NO_NODE_RUN_ID, {"context": {}, "workflowNodeRun": [NODE_RUN]}),
        ],
    )
    def test_the_marks_of_other_consumers(self, why: Foreign, parts: dict[str, object]) -> None:
        assert sort_out(raw(**parts)) == NotOurs(why)

    @pytest.mark.parametrize(
        "text", ["[]", "{}", "7", "null", '"wfnr_x"', "true", "1.5", '[{"context":{"nodeRunId":"wfnr_x"}}]']
    )
    def test_any_other_json(self, text: str) -> None:
        assert sort_out(text.encode()) == NotOurs(Foreign.NO_NODE_RUN_ID)

    def test_an_action_of_ours_is_no_invocation(self) -> None:
        for action in ("provision", {"name": "x"}, [{"invocationMethod": 1}], None):
            assert ours(sort_out(raw({"action": action}))).problem is None
        assert ours(sort_out(raw([{"action": {"invocationMethod": 1}}]))).problem is None


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
            # UTF-8 of a surrogate, a half, and one in an escape.
            b'{"a":"\xed\xa0\x80"}',
            b'{"a":"\\ud800"}',
            b'{"a":"\\udc00\\ud800"}',
            b'{"\\udfff":1}',
            # A byte order mark.
            b"\xef\xbb\xbf{}",
            b"\xef\xbb\xbf" + raw(),
            b"\xfe\xff",
            # No numbers of JSON.
            b'{"a":NaN}',
            b'{"a":-Infinity}',
            b"Infinity",
            # 50,000 levels.
            b"[" * 50_000,
            b"[" * 50_000 + b"]" * 50_000,
            b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
            raw().replace(b'"shop"', b"[" * 50_000 + b"]" * 50_000),
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
            ([NODE_RUN], "an array"),
            ([], "an array"),
            ({"identifier": NODE_RUN}, "an object"),
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
    def test_it_is_stable(self) -> None:
        # Kept in tables: another value would take a repeated message for a new item.
        assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb924"
        assert digest(raw()) == digest(bytes(raw()))

    def test_another_message_has_another(self) -> None:
        assert len({digest(value) for value in (b"{}", b"{} ", b"[]", raw(), raw({"n": 1}))}) == 5


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
        case NodeRunMessage(problem=None, items=items, text=text):
            assert items
            assert items_of(text) == items
            assert text.encode() == value
        case NodeRunMessage(problem=problem, items=items):
            assert problem
            assert items == ()


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
