"""Port's API as it is emulated: which call a path is, and what it does. Nothing here waits."""

from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs

from local.emulator.config import EmulatorConfig
from local.emulator.faults import Bucket, Faults
from local.emulator.http import Reply, Request, ok, refuse
from local.emulator.state import NodeRun, NodeRunSpec, State
from local.emulator.tokens import Tokens
from local.emulator.validation import Invalid, parse_logs, parse_object, parse_report
from port.ids import is_node_run_id, is_workflow_run_id

_BODY_LIMIT: Final = 1024 * 1024
_UPDATED: Final = Reply(200, b'{"ok":true}', changed=True)


def route(method: str, path: str, query: str, body: bytes, authorization: str | None) -> Request:
    """Name the call. A path that is none of the API gets the name `unknown`, a wrong method `unknown-method`."""
    request = Request("unknown", method, path, query, body, authorization)
    match path.split("/")[2:]:
        case ["workflows", "runs", run_id, "nodes", node_run_id]:
            return _named(request, "PATCH", "report", run_id, node_run_id)
        case ["workflows", "nodes", "runs", node_run_id]:
            return _named(request, "PATCH", "report", None, node_run_id)
        case ["workflows", "nodes", "runs", node_run_id, "logs"]:
            return _named(request, "POST", "logs", None, node_run_id)
        case ["workflows", "runs", run_id]:
            return _named(request, "GET", "run", run_id)
        case ["workflows", "runs", run_id, "cancel"]:
            return _named(request, "POST", "cancel", run_id)
        case ["auth", "access_token"]:
            return _named(request, "POST", "auth")
        case ["kafka-credentials"]:
            return _named(request, "GET", "credentials")
    return request


def _named(
    request: Request, method: str, name: str, run_id: str | None = None, node_run_id: str | None = None
) -> Request:
    kind = name if request.method == method else "unknown-method"
    return Request(
        kind, request.method, request.path, request.query, request.body, request.authorization, run_id, node_run_id
    )


class PortApi:
    """Answers the calls of the API from the state of the emulated organization."""

    def __init__(self, config: EmulatorConfig, state: State, tokens: Tokens, faults: Faults) -> None:
        self._config = config
        self._state = state
        self._tokens = tokens
        self._faults = faults
        self._bucket: Bucket | None = None
        self._calls = {
            "report": self._report,
            "logs": self._logs,
            "run": self._run,
            "cancel": self._cancel,
            "credentials": self._credentials,
        }

    def answer(self, request: Request) -> Reply:
        """Process one call, in the order in which Port is taken to check: token, rate limit, size, ids, content."""
        if request.name == "auth":
            return self._auth(request)
        if request.name not in self._calls:
            return refuse(405 if request.name == "unknown-method" else 404, "no such call")
        if not self._tokens.accepts(request.authorization):
            return refuse(401, "the access token is missing, expired or revoked")
        bucket = self._current_bucket()
        if bucket is None:
            return self._process(request)
        if not bucket.take():
            return refuse(429, "too many requests", bucket.headers())
        return replace(self._process(request), headers=bucket.headers())

    def _current_bucket(self) -> Bucket | None:
        """The rate limit in force; a full one whenever the limit was changed."""
        limit = self._faults.rate_limit or self._config.rate_limit
        if limit is None:
            self._bucket = None
        elif self._bucket is None or self._bucket.limit != limit:
            self._bucket = Bucket(limit, self._config.clock)
        return self._bucket

    def _process(self, request: Request) -> Reply:
        if len(request.body) > _BODY_LIMIT:
            return refuse(413, "the body is larger than 1 MiB")
        try:
            return self._calls[request.name](request)
        except Invalid as error:
            return refuse(422, str(error))

    def _auth(self, request: Request) -> Reply:
        try:
            body = parse_object(request.body)
        except Invalid as error:
            return refuse(422, str(error))
        token = self._tokens.issue(body.get("clientId"), body.get("clientSecret"))
        if token is None:
            return refuse(401, "wrong client id or client secret")
        return ok(accessToken=token[0], expiresIn=token[1], tokenType="Bearer")

    def _report(self, request: Request) -> Reply:
        node_run = self._node_run(request) or self._create_unknown(request)
        if node_run is None:
            return refuse(404, "no such node run")
        outcome = self._state.update(node_run, parse_report(request.body), request.body)
        if outcome.changed:
            return _UPDATED
        return ok() if outcome.status == 200 else refuse(outcome.status, outcome.message)

    def _logs(self, request: Request) -> Reply:
        node_run = self._node_run(request)
        if node_run is None:
            return refuse(404, "no such node run")
        self._state.append_logs(node_run, parse_logs(request.body))
        return _UPDATED

    def _run(self, request: Request) -> Reply:
        run = self._state.runs.get(request.workflow_run_id or "")
        return refuse(404, "no such workflow run") if run is None else ok(run=self._state.describe_run(run))

    def _cancel(self, request: Request) -> Reply:
        run = self._state.runs.get(request.workflow_run_id or "")
        if run is None:
            return refuse(404, "no such workflow run")
        outcome = self._state.cancel(run, force=parse_qs(request.query).get("force") == ["true"])
        return _UPDATED if outcome.changed else refuse(outcome.status, outcome.message)

    def _credentials(self, _: Request) -> Reply:
        brokers = self._config.kafka_advertised or self._config.kafka
        if brokers is None:
            return refuse(404, "the emulator was started without Kafka")
        return ok(
            credentials={
                "brokers": list(brokers.split(",")),
                "username": self._config.kafka_username,
                "password": self._config.kafka_password.get_secret_value(),
            }
        )

    def _node_run(self, request: Request) -> NodeRun | None:
        """The node run of the path; None where there is none, or none in that workflow run."""
        node_run = self._state.node_runs.get(request.node_run_id or "")
        if node_run is None or request.workflow_run_id in (None, node_run.spec.workflow_run_id):
            return node_run
        return None

    def _create_unknown(self, request: Request) -> NodeRun | None:
        """With the switch for it: a node run that nobody registered, made from the ids of a valid report."""
        node_run_id = request.node_run_id or ""
        run_id = request.workflow_run_id or "wfr_" + node_run_id.removeprefix("wfnr_")
        known = node_run_id in self._state.node_runs
        if known or not self._config.accept_unknown or not (is_node_run_id(node_run_id) and is_workflow_run_id(run_id)):
            return None
        parse_report(request.body)
        return self._state.register(NodeRunSpec(node_run_id, run_id))
