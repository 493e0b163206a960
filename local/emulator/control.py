"""The emulator's own calls, below `/emulator`: the record, the faults, and the workflow side."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Annotated, Final, Literal
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local.emulator.config import EmulatorConfig
from local.emulator.faults import Faults, FaultSettings
from local.emulator.http import Reply, ok, refuse
from local.emulator.record import CallRecord
from local.emulator.state import Conflict, NodeRunSpec, State
from local.emulator.tokens import Tokens
from local.emulator.validation import Body
from local.emulator.workflow import Published, Publisher, PublishError, PublishRequest, new_spec, render_messages
from port.errors import RenderError

_MOST_RENDERINGS: Final = 4
_LONGEST_LIST: Final = 10_000

NodeRunId = Annotated[str, Field(pattern="^wfnr_[A-Za-z0-9_-]{1,64}$")]
WorkflowRunId = Annotated[str, Field(pattern="^wfr_[A-Za-z0-9_-]{1,64}$")]


class Registration(BaseModel):
    """A node run whose message somebody else publishes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    node_run_id: Annotated[NodeRunId, Field(alias="nodeRunId")]
    workflow_run_id: Annotated[WorkflowRunId, Field(alias="workflowRunId")]
    node_identifier: Annotated[str, Field(alias="nodeIdentifier")] = "kafka"
    workflow_identifier: Annotated[str, Field(alias="workflowIdentifier")] = "workflow"
    on_failure: Annotated[Literal["terminate", "continue"], Field(alias="onFailure")] = "terminate"

    def spec(self) -> NodeRunSpec:
        """The same for the state."""
        return NodeRunSpec(
            self.node_run_id, self.workflow_run_id, self.node_identifier, self.workflow_identifier, self.on_failure
        )


class Registrations(BaseModel):
    """The body of `POST /emulator/node-runs/register`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    node_runs: Annotated[list[Registration], Field(alias="nodeRuns")]


class Control:
    """Answers the calls below `/emulator`. They are not recorded, and no fault strikes them."""

    def __init__(
        self,
        config: EmulatorConfig,
        state: State,
        tokens: Tokens,
        faults: Faults,
        calls: CallRecord,
        publisher: Publisher | None,
    ) -> None:
        self._config = config
        self._state = state
        self._tokens = tokens
        self._faults = faults
        self._calls = calls
        self._publisher = publisher
        self._rendering = asyncio.Semaphore(_MOST_RENDERINGS)
        self._routes: dict[tuple[str, str], Callable[[str, bytes], Awaitable[Reply]]] = {
            ("GET", "/emulator"): self._about,
            ("GET", "/emulator/calls"): self._list_calls,
            ("DELETE", "/emulator/calls"): self._clear_calls,
            ("GET", "/emulator/faults"): self._get_faults,
            ("PUT", "/emulator/faults"): self._put_faults,
            ("POST", "/emulator/tokens/revoke"): self._revoke,
            ("GET", "/emulator/node-runs"): self._list_node_runs,
            ("POST", "/emulator/node-runs"): self._post_node_run,
            ("POST", "/emulator/node-runs/register"): self._register,
        }

    async def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """Process one call. Every wrong one gets a 4xx with a reason."""
        handler = self._routes.get((method, path.rstrip("/")))
        try:
            if handler is not None:
                return await handler(query, body)
        except ValidationError as error:
            return refuse(422, _reason(error))
        except Conflict as error:
            return refuse(409, str(error))
        except RenderError as error:
            return refuse(422, str(error))
        except PublishError as error:
            return refuse(error.status, str(error))
        if method == "GET" and path.startswith("/emulator/node-runs/"):
            return self._show_node_run(path.removeprefix("/emulator/node-runs/"))
        known = any(path == route for _, route in self._routes)
        return refuse(405 if known else 404, "no such call")

    async def publish(self, request: PublishRequest) -> Published:
        """Start a node run and publish its messages. Raises RenderError, PublishError."""
        spec = new_spec(request)
        async with self._rendering:
            messages = await render_messages(request, spec, self._config.client_secret, self._config.form)
        if self._publisher is None:
            self._state.register(spec)
            return Published(spec.workflow_run_id, spec.node_run_id, messages, ())
        await self._publisher.connect()
        # Known before it is published: its report may come before this goes on.
        self._state.register(spec)
        try:
            places = await self._publisher.publish(spec.node_run_id, messages)
        except PublishError as error:
            if error.kept:
                raise PublishError(f"{error}; {_kept(spec)}", error.status, kept=True) from error
            self._state.withdraw(spec.node_run_id)
            raise
        return Published(spec.workflow_run_id, spec.node_run_id, messages, places)

    async def _about(self, _query: str, _body: bytes) -> Reply:
        completed = sum(node_run.status == "COMPLETED" for node_run in self._state.node_runs.values())
        return ok(
            orgId=self._config.org_id,
            topic=self._config.topic,
            kafka=self._config.kafka,
            nodeRuns=len(self._state.node_runs),
            completed=completed,
            calls=self._calls.last,
        )

    async def _list_calls(self, query: str, _body: bytes) -> Reply:
        calls = self._calls.after(_number(query, "after", 0), _number(query, "limit", _LONGEST_LIST))
        last = calls[-1].seq if calls else self._calls.last
        lines = b",".join(call.to_json() for call in calls)
        return Reply(200, b'{"ok":true,"calls":[' + lines + b'],"last":' + str(last).encode() + b"}")

    async def _clear_calls(self, _query: str, _body: bytes) -> Reply:
        self._calls.clear()
        return ok()

    async def _get_faults(self, _query: str, _body: bytes) -> Reply:
        return Reply(200, self._faults.settings.model_dump_json().encode())

    async def _put_faults(self, query: str, body: bytes) -> Reply:
        self._faults.set(FaultSettings.model_validate_json(body or b"{}"))
        return await self._get_faults(query, body)

    async def _revoke(self, _query: str, _body: bytes) -> Reply:
        self._tokens.revoke()
        return ok()

    async def _list_node_runs(self, query: str, _body: bytes) -> Reply:
        """In the order in which they started; `after` of them are skipped."""
        start = _number(query, "after", 0)
        wanted = islice(self._state.node_runs.values(), start, start + _number(query, "limit", _LONGEST_LIST))
        return ok(nodeRuns=[node_run.summary() for node_run in wanted], total=len(self._state.node_runs))

    def _show_node_run(self, node_run_id: str) -> Reply:
        node_run = self._state.node_runs.get(node_run_id)
        return refuse(404, "no such node run") if node_run is None else ok(nodeRun=node_run.detail())

    async def _post_node_run(self, _query: str, body: bytes) -> Reply:
        published = await self.publish(PublishRequest.model_validate_json(body))
        answer: Body = published.to_json()
        return ok(**answer)

    async def _register(self, _query: str, body: bytes) -> Reply:
        registrations = Registrations.model_validate_json(body)
        for registration in registrations.node_runs:
            self._state.register(registration.spec())
        return ok(registered=len(registrations.node_runs))


def _kept(spec: NodeRunSpec) -> str:
    return (
        f"a message of it may have been written, so the node run {spec.node_run_id} of {spec.workflow_run_id} is kept"
    )


def _number(query: str, name: str, default: int) -> int:
    given = parse_qs(query).get(name, [""])[0]
    return int(given) if given.isascii() and given.isdigit() else default


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else str(first["msg"])
