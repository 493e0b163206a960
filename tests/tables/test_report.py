"""The bodies that complete node runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_core import to_json

from port.models import NodeRunUpdate, Result, Status
from streams.records import Body
from tables.report import MAX_BODY_BYTES, report_body
from tables.state import Item, NodeRun, apply, apply_arrival
from tests.tables.examples import arrival, ended, finished, reporting


def body_of(run: NodeRun, items: list[Item] | Iterator[Item]) -> Any:
    body = report_body(run, items)
    assert len(body) <= MAX_BODY_BYTES
    return json.loads(body)


def covering(count: int, *, failed: bool = False) -> NodeRun:
    result = Result.FAILED if failed else Result.SUCCESS
    return reporting(count=2).model_copy(update={"items": count, "covered": count, "result": result})


def small(run: NodeRun) -> NodeRun:
    return run.model_copy(update={"body": Body.SMALL})


class TestOneObject:
    def test_the_output_is_the_handlers(self) -> None:
        item = ended(0, output='{"url":"https://example.com","none":null,"list":[1,2.5,"é"]}')
        assert body_of(reporting(), [item]) == {
            "status": "COMPLETED",
            "result": "SUCCESS",
            "output": {"url": "https://example.com", "none": None, "list": [1, 2.5, "é"]},
        }

    @pytest.mark.parametrize(
        "output",
        [
            '{"a":null,"b":[1e300,-0.0,1.5,123456789012345678901234567890]}',
            '{"\\u0000":"\\ud83d\\ude80 \u2028<>&"}',
            "{}",
        ],
    )
    def test_it_is_written_as_the_model_of_the_api_is(self, output: str) -> None:
        update = NodeRunUpdate(status=Status.COMPLETED, result=Result.SUCCESS, output=json.loads(output))
        assert report_body(reporting(), [ended(0, output=output)]) == update.to_json()

    def test_a_failure_says_why(self) -> None:
        assert body_of(reporting(failing=1), [ended(0, error="no such service")]) == {
            "status": "COMPLETED",
            "result": "FAILED",
            "output": {"error": {"message": "no such service"}},
        }

    def test_a_failure_without_words_has_some(self) -> None:
        assert body_of(reporting(failing=1), [ended(0, error="")])["output"] == {"error": {"message": "failed"}}

    def test_a_failure_may_have_an_output(self) -> None:
        item = ended(0, error="the plan is invalid").model_copy(update={"output": '{"step":3,"error":"mine"}'})
        output = body_of(reporting(failing=1), [item])["output"]
        assert output == {"step": 3, "error": {"message": "the plan is invalid"}}

    def test_the_output_of_a_failure_that_is_too_large_is_replaced_by_a_note(self) -> None:
        large = '{"a":"' + "x" * MAX_BODY_BYTES + '"}'
        item = ended(0, error="the plan is invalid").model_copy(update={"output": large})
        output = body_of(reporting(failing=1), [item])["output"]
        assert output["note"].startswith("The output is larger than Port takes (")
        assert output["error"] == {"message": "the plan is invalid"}

    def test_an_output_that_is_too_large_is_replaced_by_a_note(self) -> None:
        output = body_of(reporting(), [ended(0, output='{"a":"' + "x" * MAX_BODY_BYTES + '"}')])["output"]
        assert output == {"note": "The output is larger than Port takes (1,048,584 bytes) and is left out."}

    @pytest.mark.parametrize("text", ["", "no JSON", '{"a":"\\ud800"}', "[1]", '{"a":' * 300 + "1" + "}" * 300])
    def test_an_output_that_cannot_be_read_does_not_stop_the_report(self, text: str) -> None:
        body = body_of(reporting(), [ended(0, output=text)])
        assert body["output"] == ({"note": "The output is left out: it cannot be read."} if text else {})

    @pytest.mark.parametrize(
        "value",
        [
            "é" * 600_000,
            "😀" * 400_000,
            "\x01" * 300_000,
            [1e-5] * 140_000,
            [float("nan")] * 250_000,
            [1e300] * 200_000,
        ],
        ids=["two bytes", "four bytes", "control characters", "small numbers", "not a number", "large numbers"],
    )
    def test_its_size_is_measured_as_it_is_sent(self, value: object) -> None:
        text = to_json({"a": value}, inf_nan_mode="null").decode()
        body_of(reporting(), [ended(0, output=text)])
        fits = len(text.encode()) <= MAX_BODY_BYTES - 16_384
        assert ("note" in body_of(reporting(), [ended(0, output=text)])["output"]) is not fits


class TestSeveralItems:
    def test_a_summary_with_each_output_in_order(self) -> None:
        items = [ended(0, output='{"n":0}'), ended(1, output='{"n":1}')]
        assert body_of(reporting(count=2), items)["output"] == {
            "succeeded": 2,
            "failed": 0,
            "items": [
                {"index": 0, "result": "SUCCESS", "eventType": "type 0", "output": {"n": 0}},
                {"index": 1, "result": "SUCCESS", "eventType": "type 0", "output": {"n": 1}},
            ],
        }

    def test_failures_are_counted_and_the_first_is_told(self) -> None:
        items = [ended(0), ended(1, error="second"), ended(2, error="third")]
        output = body_of(covering(3, failed=True), items)["output"]
        assert output["error"] == {"message": "2 of 3 items failed; item 1 (type 0): second"}
        assert [entry.get("error") for entry in output["items"]] == [None, {"message": "second"}, {"message": "third"}]

    def test_a_failure_stands_with_its_output_as_long_as_that_fits(self) -> None:
        failure = ended(0, error="first").model_copy(update={"output": '{"step":3}'})
        large = ended(1, error="second").model_copy(update={"output": '{"a":"' + "x" * MAX_BODY_BYTES + '"}'})
        entries = body_of(covering(2, failed=True), [failure, large])["output"]["items"]
        assert (entries[0]["error"], entries[0]["output"]) == ({"message": "first"}, {"step": 3})
        assert (entries[1]["error"], "note" in entries[1]) == ({"message": "second"}, True)

    def test_an_array_of_one_is_a_summary_too(self) -> None:
        run = reporting().model_copy(update={"array": True})
        assert len(body_of(run, [ended(0)])["output"]["items"]) == 1

    def test_an_output_that_does_not_fit_is_left_out_and_later_ones_stand(self) -> None:
        items = [ended(0, output='{"a":"' + "x" * MAX_BODY_BYTES + '"}'), ended(1)]
        entries = body_of(reporting(count=2), items)["output"]["items"]
        assert entries[0]["note"] == "The output is left out: it is larger than fits."
        assert entries[1]["output"] == {"done": True}

    def test_twenty_thousand_items(self) -> None:
        items = (ended(index, output='{"a":"' + "é" * 40 + '"}') for index in range(20_000))
        output = body_of(covering(20_000), items)["output"]
        left_out = 20_000 - len(output["items"])
        assert output["succeeded"] == 20_000
        assert output["note"] == f"{left_out} items are left out: the output is larger than Port takes."
        assert [entry["index"] for entry in output["items"][:100]] == list(range(100))

    def test_twenty_thousand_failures(self) -> None:
        items = (ended(index, error="\x01" * 2000) for index in range(20_000))
        output = body_of(covering(20_000, failed=True), items)["output"]
        assert output["failed"] == 20_000

    def test_many_large_outputs_cost_no_more_than_they_take_up(self) -> None:
        large = ended(0, output=to_json({"a": ["x"] * 240_000}).decode())
        began = time.process_time()
        body_of(covering(5_000), (large.model_copy(update={"index": index}) for index in range(5_000)))
        # All of them parsed and written once more would take longer than a minute.
        assert time.process_time() - began < 10


class TestSmallBody:
    def test_it_says_that_the_output_was_refused(self) -> None:
        assert body_of(small(reporting()), [ended(0)]) == {
            "status": "COMPLETED",
            "result": "SUCCESS",
            "output": {"note": "Port refused the output of this node run; it is kept where the handlers run."},
        }

    def test_a_failure_stays_a_failure(self) -> None:
        body = body_of(small(reporting(count=2, failing=1)), [ended(0, error="broken"), ended(1)])
        assert (body["result"], body["output"]["error"]) == ("FAILED", {"message": "1 of 2 items failed"})


@pytest.mark.parametrize("kind", Body)
@pytest.mark.parametrize("failing", [0, 1])
def test_the_same_bytes_after_late_items(kind: Body, failing: int) -> None:
    run = reporting(count=2, failing=failing).model_copy(update={"body": kind})
    items = [ended(0, error="broken" if failing else None), ended(1)]
    before = report_body(run, items)
    late = apply_arrival(run, None, arrival(1, count=2, array=True)).run
    for index in (2, 3):
        late = apply(late, None, finished(index, error="late")).run
    assert late is not None
    assert (late.items, late.failed) == (4, 2 + failing)
    assert report_body(late, items) == before
