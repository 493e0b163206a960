"""Workflow runs and node runs of the emulated organization: in memory, and in a journal where asked for.

A run is started with its node runs, and is COMPLETED when the last of them is, or with the first that FAILED under
`onFailure: terminate`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from pydantic import JsonValue

from local.emulator.journal import Journal, JournalError
from local.emulator.validation import Body, parse_object, parse_report


class Conflict(ValueError):
    """A node run is registered again with another workflow run, or in one that is cancelled."""


@dataclass(frozen=True, slots=True)
class NodeRunSpec:
    """What is known of a node run when it starts."""

    node_run_id: str
    workflow_run_id: str
    node_identifier: str = "kafka"
    workflow_identifier: str = "workflow"
    on_failure: str = "terminate"


@dataclass(slots=True)
class NodeRun:
    """A node run. Bodies are kept as the bytes that came: `progress` the latest update, `final` the completion."""

    spec: NodeRunSpec
    created_at: float
    status: str = "IN_PROGRESS"
    result: str | None = None
    updated_at: float = 0.0
    completed_at: float | None = None
    progress: bytes | None = None
    final: bytes | None = None
    logs: list[JsonValue] | None = None

    def summary(self) -> Body:
        """The node run without what it put out."""
        return {
            "nodeRunId": self.spec.node_run_id,
            "workflowRunId": self.spec.workflow_run_id,
            "nodeIdentifier": self.spec.node_identifier,
            "status": self.status,
            "result": self.result,
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "completedAt": iso(self.completed_at),
        }

    def detail(self) -> Body:
        """The node run as `GET /emulator/node-runs/{id}` shows it."""
        return {**self.summary(), **self._said(), "logs": list(self.logs or [])}

    def in_run(self) -> Body:
        """The node run as the API shows it inside its workflow run."""
        summary = self.summary()
        kept = {name: summary[name] for name in ("status", "result", "createdAt", "updatedAt", "completedAt")}
        return {
            "identifier": self.spec.node_run_id,
            "node": {"identifier": self.spec.node_identifier},
            **kept,
            **self._said(),
        }

    def _said(self) -> Body:
        said: Body = {"output": None, "links": [], "externalRunId": None}
        for raw in (self.progress, self.final):
            if raw is not None:
                body = parse_object(raw)
                said.update({name: body[name] for name in said if name in body})
        return said


@dataclass(slots=True)
class WorkflowRun:
    """A workflow run; `cancelling` is set between a cancel and the end of its node runs."""

    workflow_run_id: str
    workflow_identifier: str
    created_at: float
    node_run_ids: list[str] = field(default_factory=list)
    status: str = "IN_PROGRESS"
    result: str | None = None
    updated_at: float = 0.0
    completed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an update came to: the HTTP status, a reason for people, and whether something changed."""

    status: int
    message: str
    changed: bool = False


class State:
    """All runs. Times come from `clock`, in seconds since the epoch."""

    def __init__(
        self, clock: Callable[[], float], *, identical_status: int = 409, journal: Journal | None = None
    ) -> None:
        """Replays the journal. Raises JournalError where it cannot be read."""
        self.node_runs: dict[str, NodeRun] = {}
        self.runs: dict[str, WorkflowRun] = {}
        self._clock = clock
        self._identical_status = identical_status
        self._journal: Journal | None = None
        if journal is not None:
            for line in journal.replay():
                self._replay(line)
            self._journal = journal

    def register(self, spec: NodeRunSpec) -> NodeRun:
        """Start a node run, and its workflow run where that is new. Registering the same again changes nothing.

        Raises Conflict where the node run exists in another workflow run, or that is cancelled: no further one begins.
        """
        known = self.node_runs.get(spec.node_run_id)
        if known is not None:
            if known.spec.workflow_run_id != spec.workflow_run_id:
                raise Conflict(f"{spec.node_run_id} is registered in {known.spec.workflow_run_id}")
            return known
        run = self.runs.get(spec.workflow_run_id)
        if run is not None and (run.status == "CANCELLING" or run.result == "CANCELLED"):
            raise Conflict(f"{spec.workflow_run_id} is cancelled: no further node run begins in it")
        now = self._clock()
        self._write(
            {
                "node": [
                    spec.node_run_id,
                    spec.workflow_run_id,
                    spec.node_identifier,
                    spec.workflow_identifier,
                    spec.on_failure,
                ],
                "at": now,
            }
        )
        return self._register(spec, now)

    def withdraw(self, node_run_id: str) -> None:
        """Forget a node run that was registered in vain, and its workflow run where it was the only one."""
        self._write({"withdraw": node_run_id})
        self._withdraw(node_run_id)

    def update(self, node_run: NodeRun, body: Body, raw: bytes) -> Outcome:
        """Apply a checked report to a node run; `raw` is the body as it came."""
        if node_run.status == "COMPLETED":
            return self._after_the_end(node_run, body)
        now = self._clock()
        self._write({"update": node_run.spec.node_run_id, "body": raw.decode(), "at": now})
        self._update(node_run, body, raw, now)
        return Outcome(200, "updated", changed=True)

    def append_logs(self, node_run: NodeRun, lines: list[JsonValue]) -> Outcome:
        """Add lines to a node run's log; allowed after its end too."""
        self._write({"log": node_run.spec.node_run_id, "lines": lines})
        node_run.logs = [*(node_run.logs or ()), *lines]
        return Outcome(200, "added", changed=True)

    def cancel(self, run: WorkflowRun, *, force: bool) -> Outcome:
        """Cancel a run: CANCELLING until its node runs end; with `force` they FAIL at once."""
        if run.status == "COMPLETED":
            return Outcome(422, "the workflow run is completed")
        now = self._clock()
        self._write({"cancel": run.workflow_run_id, "force": force, "at": now})
        self._cancel(run, force, now)
        return Outcome(200, "cancelled", changed=True)

    def describe_run(self, run: WorkflowRun) -> Body:
        """The run as `GET /v1/workflows/runs/{id}` shows it."""
        return {
            "identifier": run.workflow_run_id,
            "status": run.status,
            "result": run.result,
            "nodeRuns": [self.node_runs[node_run_id].in_run() for node_run_id in run.node_run_ids],
            "variables": {},
            "workflow": {"identifier": run.workflow_identifier, "version": "1"},
            "createdAt": iso(run.created_at),
            "updatedAt": iso(run.updated_at),
            "completedAt": iso(run.completed_at),
            "createdBy": "emulator",
        }

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def _after_the_end(self, node_run: NodeRun, body: Body) -> Outcome:
        if body["status"] != "COMPLETED":
            return Outcome(422, "the node run is completed: it cannot be IN_PROGRESS again")
        if node_run.final is not None and orjson.loads(node_run.final) == body:
            return Outcome(self._identical_status, "the node run was completed with the same before")
        return Outcome(409, "the node run was completed before")

    def _register(self, spec: NodeRunSpec, now: float) -> NodeRun:
        node_run = self.node_runs[spec.node_run_id] = NodeRun(spec, now, updated_at=now)
        run = self.runs.get(spec.workflow_run_id)
        if run is None:
            run = WorkflowRun(spec.workflow_run_id, spec.workflow_identifier, now, updated_at=now)
            self.runs[spec.workflow_run_id] = run
        run.node_run_ids.append(spec.node_run_id)
        return node_run

    def _withdraw(self, node_run_id: str) -> None:
        run = self.runs[self.node_runs.pop(node_run_id).spec.workflow_run_id]
        run.node_run_ids.remove(node_run_id)
        if not run.node_run_ids:
            del self.runs[run.workflow_run_id]

    def _update(self, node_run: NodeRun, body: Body, raw: bytes, now: float) -> None:
        node_run.updated_at = now
        if body["status"] == "IN_PROGRESS":
            node_run.progress = raw
            return
        node_run.final = raw
        self._complete(node_run, str(body["result"]), now)
        self._settle(self.runs[node_run.spec.workflow_run_id], now)

    def _complete(self, node_run: NodeRun, result: str, now: float) -> None:
        node_run.status, node_run.result = "COMPLETED", result
        node_run.updated_at = node_run.completed_at = now

    def _settle(self, run: WorkflowRun, now: float) -> None:
        """End the run where it is over."""
        nodes = [self.node_runs[node_run_id] for node_run_id in run.node_run_ids]
        if run.status != "COMPLETED" and _is_over(nodes):
            result = "CANCELLED" if run.status == "CANCELLING" else _result(nodes)
            run.status, run.result = "COMPLETED", result
            run.updated_at = run.completed_at = now

    def _cancel(self, run: WorkflowRun, force: bool, now: float) -> None:
        run.status, run.updated_at = "CANCELLING", now
        if force:
            for node_run_id in run.node_run_ids:
                node_run = self.node_runs[node_run_id]
                if node_run.status != "COMPLETED":
                    self._complete(node_run, "FAILED", now)
        self._settle(run, now)

    def _write(self, line: Body) -> None:
        if self._journal is not None:
            self._journal.append(line)

    def _replay(self, line: Body) -> None:
        try:
            self._replay_one(line)
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(f"a line that this version does not know: {str(line)[:200]}") from error

    def _replay_one(self, line: Body) -> None:
        if "node" in line:
            names = line["node"]
            if not isinstance(names, list):
                raise TypeError("node must be an array")
            self._register(NodeRunSpec(*map(str, names)), _time(line))
        elif "withdraw" in line:
            self._withdraw(str(line["withdraw"]))
        elif "update" in line:
            raw = str(line["body"]).encode()
            self._update(self.node_runs[str(line["update"])], parse_report(raw), raw, _time(line))
        elif "log" in line:
            node_run, lines = self.node_runs[str(line["log"])], line["lines"]
            node_run.logs = [*(node_run.logs or ()), *(lines if isinstance(lines, list) else ())]
        else:
            self._cancel(self.runs[str(line["cancel"])], line["force"] is True, _time(line))


def _is_over(nodes: list[NodeRun]) -> bool:
    terminated = any(node.result == "FAILED" and node.spec.on_failure == "terminate" for node in nodes)
    return terminated or all(node.status == "COMPLETED" for node in nodes)


def _result(nodes: list[NodeRun]) -> str:
    if any(node.result == "FAILED" and node.spec.on_failure == "terminate" for node in nodes):
        return "FAILED"
    return "CANCELLED" if any(node.result == "CANCELLED" for node in nodes) else "SUCCESS"


def _time(line: Body) -> float:
    at = line["at"]
    if not isinstance(at, int | float):
        raise TypeError("at must be a number")
    return float(at)


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as Port writes times: ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
