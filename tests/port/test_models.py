import pytest
from pydantic import ValidationError

from port.models import (
    AccessToken,
    KafkaCredentialsAnswer,
    LogLevel,
    LogLine,
    NodeRunUpdate,
    Result,
    Status,
    WorkflowRun,
)

CANARY = "canary-5f2c"


def test_an_update_is_written_with_ports_names() -> None:
    update = NodeRunUpdate(
        status=Status.COMPLETED, result=Result.FAILED, output={"error": {"message": "é"}}, external_run_id="e1"
    )
    assert update.to_json() == (
        '{"status":"COMPLETED","result":"FAILED","output":{"error":{"message":"é"}},"externalRunId":"e1"}'.encode()
    )


@pytest.mark.parametrize(("status", "result"), [(Status.COMPLETED, None), (Status.IN_PROGRESS, Result.SUCCESS)])
def test_a_result_stands_exactly_with_completed(status: Status, result: Result | None) -> None:
    with pytest.raises(ValidationError, match="result is required with COMPLETED"):
        NodeRunUpdate(status=status, result=result)


@pytest.mark.parametrize(
    "wrap", [lambda run: run, lambda run: {"ok": True, "run": run}, lambda run: {"workflowRun": run}]
)
def test_a_run_is_read_bare_or_wrapped_and_keeps_what_is_unknown(wrap: object) -> None:
    assert callable(wrap)
    run = WorkflowRun.model_validate(
        wrap(
            {
                "identifier": "wfr_1",
                "status": "CANCELLING",
                "nodeRuns": [{"identifier": "wfnr_1", "status": "COMPLETED", "result": "SUCCESS", "new": 1}],
            }
        )
    )
    node = run.node_run("wfnr_1")
    assert node is not None
    assert (run.status, node.result, node.model_extra) == ("CANCELLING", "SUCCESS", {"new": 1})
    assert run.node_run("wfnr_2") is None


def test_a_log_line_knows_ports_levels_only() -> None:
    assert LogLine(level=LogLevel.WARN, message="m").model_dump(mode="json") == {"level": "WARN", "message": "m"}
    with pytest.raises(ValidationError):
        LogLine.model_validate({"level": "TRACE", "message": "m"})


def test_secrets_stay_out_of_reprs() -> None:
    token = AccessToken.model_validate({"ok": True, "accessToken": CANARY, "expiresIn": 10800, "tokenType": "Bearer"})
    kafka = KafkaCredentialsAnswer.model_validate(
        {"credentials": {"brokers": ["b:9196"], "username": "u", "password": CANARY}}
    )
    assert CANARY not in f"{token!r}{token}{kafka!r}{kafka}"
    assert kafka.credentials.password.get_secret_value() == CANARY
