"""Test messages (`WEB_TEST_MESSAGES`): a handler is called for a payload that somebody has written.

By itself that is a dry run: the handler is called here and does what it does, and neither the ledger nor Port knows of
it. With the ids of a node run that waits at Port it is a message on `<orgId>.runs`, like Port's own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

import orjson
from aiohttp import web
from pydantic import Field, JsonValue, field_validator
from pydantic_core import to_json

from agents.asked import new_action
from agents.patterns import takes
from agents.sending import SendingError, Sent
from agents.trying import MOST_SECONDS, TrialError, Tried
from port.ids import is_node_run_id, is_workflow_run_id
from port.models import LogLevel, Result
from streams.messages import event_type
from streams.records import Audited
from tables.state import Note
from web.actions import SECONDS, Actions, Body, Done, asker, body_of, in_time
from web.answers import RefusedError, refused
from web.auth import access_of
from web.data import Shown
from web.declared import Declaration
from web.masking import masked, masked_text
from web.pages import Pages

TEST_MESSAGE: Final = "test-message"
"""The workflow and the node that a test message names."""
_MOST_KEPT: Final = 10
_PATH: Final = "/handlers/{event_type:[^/]+}"
_NOT_ALLOWED: Final = "test messages are not allowed here: set WEB_TEST_MESSAGES=on, and restart the worker"

Payload = Mapping[str, JsonValue]
TryOut = Callable[[str, Payload], Awaitable[Tried]]
Publish = Callable[[Payload, str, str], Awaitable[Sent]]
Write = Callable[[Audited], Awaitable[None]]


class TryBody(Body):
    """The body of a dry run."""

    payload: dict[str, JsonValue]

    @field_validator("payload")
    @classmethod
    def _can_be_written(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        # 1e999 is a number of JSON, and no float; and what is written on Kafka has integers of 64 bits.
        json.dumps(value, allow_nan=False)
        try:
            orjson.dumps(value)
        except TypeError as wrong:
            raise ValueError(str(wrong)) from None
        return value


class PublishBody(TryBody):
    """The body of a message for a node run that waits at Port."""

    node_run_id: Annotated[str, Field(alias="nodeRunId")]
    workflow_run_id: Annotated[str, Field(alias="workflowRunId")]


class LineShown(Shown):
    """A line that the handler has logged."""

    level: LogLevel
    message: str


class TriedShown(Shown):
    """How a dry run went. Nothing of it was reported to Port."""

    dry_run: bool = True
    worker: str
    """Where the handler was called."""
    result: Result | None
    """Null where the item would be called again, or wait for another system."""
    output: JsonValue
    error: str | None
    trace: str | None
    retry_in_seconds: float | None
    deferred_seconds: float | None
    seconds: float
    lines: list[LineShown]
    lines_left_out: int


@dataclass(frozen=True)
class Trials:
    """Does it.

    Args:
        allowed: `WEB_TEST_MESSAGES`.
        handlers: by event type.
        try_out: calls a handler. Raises TrialError.
        publish: writes a message to the runs topic. Raises SendingError.
        note: takes note of what somebody does, in the audit.
    """

    allowed: bool
    worker: str
    pages: Pages
    actions: Actions
    handlers: Mapping[str, Declaration]
    try_out: TryOut
    publish: Publish
    note: Write
    _kept: OrderedDict[str, tuple[str, TriedShown, Payload]] = field(default_factory=OrderedDict)
    """How the last dry runs from pages went, here."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        acts = {f"{_PATH}/try": self.dry_run, f"{_PATH}/publish": self.send}
        posts = [web.post(f"{root}{path}", act) for root in ("", "/api") for path, act in acts.items()]
        return [*posts, web.get(f"{_PATH}/tried/{{id:[0-9a-f]{{16}}}}", self.tried)]

    @staticmethod
    def seconds(declaration: Declaration) -> float:
        """Return how long a dry run may take."""
        return min(declaration.deadline_seconds, MOST_SECONDS)

    async def dry_run(self, request: web.Request) -> web.Response:
        """Call the handler, and show how that went."""
        name = self._handler(request)
        try:
            body = await body_of(request, TryBody)
            await in_time(self._note(request, name, "dry run"))
            tried = await self.try_out(name, body.payload)
        except TrialError as error:
            wrong = refused(HTTPStatus.CONFLICT, "not-tried", str(error))
        except RefusedError as error:
            wrong = error
        else:
            # Large ones take their time.
            shown = await asyncio.to_thread(self._shown, tried)
            return self._answer(request, name, shown, body.payload)
        if request.path.startswith("/api/"):
            raise wrong
        return await self._again(request, name, wrong)

    def _answer(self, request: web.Request, name: str, shown: TriedShown, payload: Payload) -> web.Response:
        if request.path.startswith("/api/"):
            return web.Response(body=shown.to_json(), content_type="application/json")
        key = secrets.token_hex(8)
        self._kept[key] = (name, shown, payload)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        # A page that is loaded again calls nothing again.
        place = f"/handlers/{quote(name, safe='')}/tried/{key}"
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": place})

    async def tried(self, request: web.Request) -> web.Response:
        """Show how a dry run went, as long as this worker remembers it."""
        name = self._handler(request)
        kept = self._kept.get(request.match_info["id"])
        if kept is None or kept[0] != name:
            message = "how that dry run went is not known here any more: each worker remembers its last few"
            raise refused(HTTPStatus.NOT_FOUND, "unknown", message)
        _, shown, payload = kept
        text = await asyncio.to_thread(lambda: to_json(payload, indent=2).decode())
        return await asyncio.to_thread(self._page, request, name, text, shown=shown)

    async def _again(self, request: web.Request, name: str, error: RefusedError) -> web.Response:
        """Show what is wrong, with the text as it was given: nobody has to write it again."""
        given = (await request.post()).get("payload", "")
        text = given if isinstance(given, str) else ""
        return self._page(request, name, text, status=error.status, error=error.shown)

    def _page(self, request: web.Request, name: str, text: str, status: int = 200, **values: Shown) -> web.Response:
        return self.pages.answer(
            "tried.html",
            status=status,
            event_type=name,
            seconds=self.seconds(self.handlers[name]),
            text=text,
            access=access_of(request),
            **({"shown": None, "error": None} | values),
        )

    async def send(self, request: web.Request) -> web.Response:
        """Publish a message for a node run that waits at Port."""
        name = self._handler(request)
        body = await body_of(request, PublishBody)
        if not (is_node_run_id(body.node_run_id) and is_workflow_run_id(body.workflow_run_id)):
            message = "ids are wfnr_ and wfr_ with up to 64 letters, digits, _ or -: copy both from Port"
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", message)
        named = event_type(body.payload)
        if named is None or not takes(name, named):
            message = f"the payload's event type is {str(named)[:80]!r}, which is not for this handler: correct it"
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", message)
        await in_time(self._note(request, name, "publish test message", body.node_run_id))
        try:
            sent = await self.publish(body.payload, body.node_run_id, body.workflow_run_id)
        except SendingError as error:
            raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "not-now", str(error), {"Retry-After": "5"}) from None
        message = f"published: {sent.place}"
        done = Done(outcome=Note.APPLIED.value, counts={Note.APPLIED.value: 1}, message=message)
        # It may not be in the ledger yet: a page of the node run would not find it.
        about = f"/node-runs/{body.node_run_id}"
        return self.actions.answer(request, done, f"/handlers/{quote(name, safe='')}", about)

    def _handler(self, request: web.Request) -> str:
        """Return what the handler is declared for. Raises RefusedError (403, 404)."""
        if not self.allowed:
            raise refused(HTTPStatus.FORBIDDEN, "not-allowed", _NOT_ALLOWED)
        name = request.match_info["event_type"]
        if name not in self.handlers:
            raise refused(HTTPStatus.NOT_FOUND, "unknown", f"this worker has no handler for {name[:80]!r}")
        return name

    async def _note(self, request: web.Request, name: str, what: str, node_run_id: str | None = None) -> None:
        # Before it is done: what was called is known, whatever becomes of the worker meanwhile.
        who = asker(request)
        audited = Audited(
            id=new_action(who).id,
            at=time.time(),
            who=who,
            what=what,
            outcome="asked",
            node_run_id=node_run_id,
            event_type=name,
        )
        async with asyncio.timeout(SECONDS):
            await self.note(audited)

    def _shown(self, tried: Tried) -> TriedShown:
        outcome = tried.outcome
        return TriedShown(
            worker=self.worker,
            result=outcome.result,
            output=masked(outcome.output),
            error=None if outcome.error is None else masked_text(outcome.error),
            trace=None if tried.trace is None else masked_text(tried.trace),
            retry_in_seconds=outcome.retry_in,
            deferred_seconds=outcome.deferred,
            seconds=round(tried.seconds, 3),
            lines=[LineShown(level=line.level, message=masked_text(line.message)) for line in tried.lines],
            lines_left_out=tried.left_out,
        )
