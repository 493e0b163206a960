"""What people do by hand to node runs and handlers: by forms on the pages, and by the API.

Each is an event to the ledger, through its topic, so that it stands there whatever happens; the answer says what the
ledger made of it. 200: at least one thing was done. 409: none was, and why. 202: the ledger has it, and what came of it
is not known here yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import quote

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic_core import from_json

from agents.asked import AskedEvent, Became, new_action
from agents.callbacks import word
from agents.execution import MAX_ERROR_CHARACTERS, MAX_OUTPUT_BYTES
from agents.pausing import Pausing
from port.models import Result
from streams.records import Action, By, ItemAgain, ReportAgain, ReportStopped, RunCancelled, Settled, TypePaused
from tables.rows import NotOwnedError
from tables.state import GONE_ON, Item, NodeRun, Note, seen_of
from tables.unreadable import UnreadableRowError
from web.answers import DEFAULT_ITEMS, node_run_id_of, refused, unreadable
from web.auth import CSRF_FIELD
from web.connections import read_body
from web.data import Shown
from web.here import Here, NotHereError
from web.notices import Notice
from web.others import Question, is_local
from web.owners import Owners, passed_on
from web.pages import Pages

SECONDS: Final = 10.0
"""How long an answer waits for the broker, and then for the ledger."""
MOST_ITEMS: Final = 1000
"""How many items of a node run one request acts on."""
_AT_ONCE: Final = 50
_JSON: Final = ("output", "payload")
"""Fields of forms that hold JSON."""
_MOST_ACTOR: Final = 60

Handler = Callable[[web.Request], Awaitable[web.Response]]
Ask = Callable[[AskedEvent, Action, float], Awaitable[Became | None]]
AskToPause = Callable[[TypePaused, float], Awaitable[int]]
B = TypeVar("B", bound="Body")


def asker(request: web.Request) -> str:
    """Return who asks, for the audit: as the request says itself, else `web` for a form and `api` for a program.

    That it is allowed to, the guard has checked before.
    """
    actor = "".join(filter(str.isprintable, request.headers.get("X-Actor", "")))[:_MOST_ACTOR]
    return actor.strip() or ("api" if request.path.startswith("/api/") else "web")


class Body(BaseModel):
    """Base of the bodies of actions."""

    # 1e999 is a number of JSON, and no float.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class NoBody(Body):
    """The body of an action that needs none."""


class RunBody(Body):
    """The body of an action on a node run."""

    seen: str | None = None
    """What the asker saw, as the node run shows it: where it has gone on since, nothing is done."""


class AgainBody(Body):
    """The body of a retry of an item. `attempt` is what the asker saw: where it has gone on since, nothing is done."""

    attempt: int | None = None

    @field_validator("attempt", mode="before")
    @classmethod
    def _is_a_number(cls, value: object) -> object:
        # A form has it as a text; pydantic takes true for 1.
        if isinstance(value, bool):
            raise ValueError("it is no number")
        return value


class EndBody(Body):
    """The body of a completion by hand."""

    result: Literal["SUCCESS", "FAILED"] = "SUCCESS"
    output: dict[str, JsonValue] | None = None
    error: Annotated[str, Field(max_length=MAX_ERROR_CHARACTERS)] | None = None
    """Why it FAILED; required then, and not allowed else."""


class RunEndBody(EndBody, RunBody):
    """The body of a completion by hand of what has not ended of a node run."""


class ItemEndBody(EndBody, AgainBody):
    """The body of a completion by hand of an item. `attempt` is what the asker saw, as of a retry."""


class Done(Shown):
    """What became of an action."""

    outcome: str
    """`applied`, `refused`, `late`, `duplicate`; `pending` where it is not known yet."""
    counts: dict[str, int]
    """How many events had which outcome: an action on a node run may be one for each of its items."""
    message: str


@dataclass(frozen=True)
class Actions:
    """The actions on node runs and handlers."""

    here: Here
    owners: Owners
    pages: Pages
    pausing: Pausing
    handlers: Collection[str]
    """What they are declared for."""
    ask: Ask
    ask_to_pause: AskToPause

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes: each action for programs, and for forms without `/api`."""
        run, item = "/node-runs/{node_run_id}", "/node-runs/{node_run_id}/items/{index:[0-9]{1,8}}"
        # Braces, too, which aiohttp by itself takes for no part of a name.
        handler = "/handlers/{event_type:[^/]+}"
        actions: dict[str, Handler] = {
            f"{run}/retry": self._of_run(RunBody, self.retry),
            f"{run}/cancel": self._of_run(RunBody, self.cancel),
            f"{run}/give-up": self._of_run(RunBody, self.give_up),
            f"{run}/complete": self._of_run(RunEndBody, self.complete),
            f"{item}/retry": self._of_run(AgainBody, self.retry_item),
            f"{item}/complete": self._of_run(ItemEndBody, self.complete_item),
            f"{handler}/pause": self.pause,
            f"{handler}/resume": self.resume,
        }
        return [web.post(f"{root}{path}", act) for root in ("", "/api") for path, act in actions.items()]

    # Node runs.

    def _of_run(self, model: type[B], act: Callable[[web.Request, B], Awaitable[Done]]) -> Handler:
        """Return what answers a request to act on a node run: here, or at the worker that has it."""

        async def answer(request: web.Request) -> web.Response:
            node_run_id, local = node_run_id_of(request), is_local(request)
            body = await body_of(request, model)
            try:
                done = await act(request, body)
            except NotOwnedError:
                away = NotHereError(self.here.partition_of(node_run_id), owned=False)
                if local:
                    raise self.owners.not_here(away) from None
                done = await self._of_owner(away, request, body)
            return self.answer(request, done, _page_of(request, node_run_id))

        return answer

    async def _of_owner(self, away: NotHereError, request: web.Request, body: Body) -> Done:
        path = f"/api{request.path.removeprefix('/api')}"
        said = body.model_dump_json(exclude_unset=True).encode()
        answer = await self.owners.ask(away, Question(path, body=said, actor=asker(request)))
        try:
            return Done.model_validate_json(answer.body)
        except ValidationError:
            raise passed_on(answer) from None

    async def retry(self, request: web.Request, body: RunBody) -> Done:
        """Call the handlers of all FAILED items again; where there is none, and Port refused the report, send it.

        A report that waits for its next try is sent now: it is fixed, and nothing else can be done again.
        """
        who, (partition, run) = asker(request), self._run(request)
        _require_seen(run, body)
        if run.covered is not None and run.settled is None:
            return await self._send(run, who)
        _require_few(run.failed)
        items = [item for item in self._items(partition, run) if item.result is Result.FAILED]
        if items:
            return await self._done((_again(run, item, new_action(who)) for item in items), len(items))
        if run.settled is not Settled.REFUSED:
            raise refused(HTTPStatus.CONFLICT, "nothing-to-do", "no item has FAILED, and no report is refused")
        return await self._send(run, who)

    async def _send(self, run: NodeRun, who: str) -> Done:
        action = new_action(who)
        event = ReportAgain(node_run_id=run.node_run_id, report=run.report, action=action, at=time.time())
        return await self._done([(event, action)])

    async def give_up(self, request: web.Request, body: RunBody) -> Done:
        """Send a report no more that Port has neither taken nor refused: the node run counts as refused."""
        (_, run), action = self._run(request), new_action(asker(request))
        _require_seen(run, body)
        if run.covered is None or run.settled is not None:
            raise refused(HTTPStatus.CONFLICT, "nothing-to-do", "it has no report that waits for Port")
        tries = self.here.tries_of(run.node_run_id)
        latest = None if tries is None or not tries.latest else tries.latest[-1]
        event = ReportStopped(
            node_run_id=run.node_run_id,
            report=run.report,
            status=None if latest is None else latest.status,
            reason="" if latest is None else latest.reason or "none came",
            tries=tries,
            action=action,
            at=time.time(),
        )
        return await self._done([(event, action)])

    async def cancel(self, request: web.Request, body: RunBody) -> Done:
        """Cancel what has not ended, and report the node run as CANCELLED."""
        (_, run), action = self._run(request), new_action(asker(request))
        _require_seen(run, body)
        event = RunCancelled(node_run_id=run.node_run_id, over=False, action=action, seen=body.seen, at=time.time())
        return await self._done([(event, action)])

    async def complete(self, request: web.Request, body: RunEndBody) -> Done:
        """Say of all items that have not ended how they did."""
        who, (partition, run) = asker(request), self._run(request)
        _require_seen(run, body)
        _require_few(run.items - run.succeeded - run.failed - run.cancelled)
        known = {item.index: item for item in self._items(partition, run)}
        open_items = [index for index in range(run.items) if index not in known or known[index].result is None]
        if not open_items:
            raise refused(HTTPStatus.CONFLICT, "nothing-to-do", "every item has ended already")
        return await self._done((_word(run, index, body, new_action(who)) for index in open_items), len(open_items))

    async def retry_item(self, request: web.Request, body: AgainBody) -> Done:
        """Call the handler of one item again: of one that has FAILED, or that waits for a retry."""
        partition, run = self._run(request)
        index = _index(request, run)
        item = self.here.node_runs.item(partition, run, index) or Item(index=index, message=index)
        _require_attempt(item, body)
        return await self._done([_again(run, item, new_action(asker(request)))])

    async def complete_item(self, request: web.Request, body: ItemEndBody) -> Done:
        """Say how one item ended."""
        partition, run = self._run(request)
        index = _index(request, run)
        _require_attempt(self.here.node_runs.item(partition, run, index) or Item(index=index, message=index), body)
        return await self._done([_word(run, index, body, new_action(asker(request)))])

    def _run(self, request: web.Request) -> tuple[int, NodeRun]:
        """Return the partition and the node run. Raises NotOwnedError, or RefusedError (404)."""
        node_run_id = request.match_info["node_run_id"]
        partition = self.here.partition_of(node_run_id)
        try:
            run = self.here.node_runs.run(partition, node_run_id)
        except UnreadableRowError as wrong:
            raise unreadable(wrong) from None
        if run is None:
            raise refused(HTTPStatus.NOT_FOUND, "unknown", f"no node run {node_run_id[:80]}")
        return partition, run

    def _items(self, partition: int, run: NodeRun) -> Iterator[Item]:
        return self.here.node_runs.items(partition, run)

    async def _done(self, events: Iterable[tuple[AskedEvent, Action]], number: int = 1) -> Done:
        _require_few(number)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(event: AskedEvent, action: Action) -> Became | None:
            async with turns:
                return await self.ask(event, action, SECONDS)

        return _summed(await in_time(asyncio.gather(*(one(event, action) for event, action in events))))

    # Handlers.

    async def pause(self, request: web.Request) -> web.Response:
        """Have the items of a handler wait, on all workers. What runs, runs on."""
        return await self._pause(request, paused=True)

    async def resume(self, request: web.Request) -> web.Response:
        """Have them wait no more."""
        return await self._pause(request, paused=False)

    async def _pause(self, request: web.Request, *, paused: bool) -> web.Response:
        action = new_action(asker(request))
        await body_of(request, NoBody)
        event_type = request.match_info["event_type"]
        if event_type not in self.handlers:
            raise refused(HTTPStatus.NOT_FOUND, "unknown", f"no handler for event type {event_type[:80]!r}")
        event = TypePaused(event_type=event_type, paused=paused, action=action, at=time.time())
        told, partitions = await in_time(self.ask_to_pause(event, SECONDS)), self.here.worker.settings.partitions
        verb = "paused" if paused else "resumed"
        message = f"{event_type} is {verb} in {told} of {partitions} partitions"
        if told < partitions:
            message += "; the workers that have the others are told"
        outcome = Note.APPLIED.value if told else "pending"
        counts = {Note.APPLIED.value: told, "pending": partitions - told}
        return self.answer(
            request, Done(outcome=outcome, counts=counts, message=message), f"/handlers/{quote(event_type, safe='')}"
        )

    def answer(self, request: web.Request, done: Done, back: str, about: str = "") -> web.Response:
        """Return what became of an action: JSON for programs; after a form, the way to the page of what was acted on.

        That page tells it. Loaded again, it does nothing again.
        """
        if request.path.startswith("/api/"):
            status = _STATUS.get(done.outcome, HTTPStatus.CONFLICT)
            return web.Response(status=status, body=done.to_json(), content_type="application/json")
        place = self.pages.notices.address(Notice(done.outcome, done.message, done.counts, back, about))
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": place})


def _page_of(request: web.Request, node_run_id: str) -> str:
    """Return the page that shows the node run, and the item that was acted on."""
    index = int(request.match_info.get("index", 0))
    return f"/node-runs/{node_run_id}" + (f"?from={index}" if index >= DEFAULT_ITEMS else "")


_STATUS: Final = {Note.APPLIED.value: HTTPStatus.OK, "pending": HTTPStatus.ACCEPTED}
T = TypeVar("T")


async def in_time(asked: Awaitable[T]) -> T:
    """Return what was asked for. Raises RefusedError (503) where the broker did not take it in time."""
    try:
        return await asked
    except TimeoutError:
        message = "Kafka did not take it in time; whether it will is not known: look before you ask again"
        raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "not-now", message, {"Retry-After": "5"}) from None


async def body_of(request: web.Request, model: type[B]) -> B:
    """Read the body of an action: JSON, or a form, whose empty fields count as absent. Raises RefusedError (4xx)."""
    if request.content_length is not None and request.content_length > MAX_OUTPUT_BYTES:
        raise refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"more than {MAX_OUTPUT_BYTES:,} bytes")
    try:
        return model.model_validate(await _fields(request))
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        message = f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"
    except (ValueError, LookupError) as wrong:
        # The charset of a form may be none.
        message = f"the body: {str(wrong)[:200]}"
    raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", message)


async def _fields(request: web.Request) -> JsonValue:
    if request.content_type == "application/json":
        raw = await read_body(request)
        return from_json(raw, allow_inf_nan=False) if raw else {}
    await read_body(request)
    form = await request.post()
    fields: dict[str, JsonValue] = {}
    for name in form:
        if name == CSRF_FIELD:
            continue
        given = [value for value in form.getall(name) if isinstance(value, str) and value]
        if name in _JSON and given:
            fields[name] = from_json(given[0], allow_inf_nan=False)
        elif given:
            fields[name] = list(given) if name.endswith("s") else given[0]
    return fields


def _require_few(number: int) -> None:
    if number > MOST_ITEMS:
        message = f"that would be {number:,} items; one request takes {MOST_ITEMS:,}: do it item by item"
        raise refused(HTTPStatus.CONFLICT, "too-many", message)


def _require_seen(run: NodeRun, body: RunBody) -> None:
    if body.seen is not None and body.seen != seen_of(run):
        raise refused(HTTPStatus.CONFLICT, "gone-on", f"nothing was done: {GONE_ON}")


def _require_attempt(item: Item, body: AgainBody) -> None:
    if body.attempt is not None and body.attempt != item.attempt:
        raise refused(HTTPStatus.CONFLICT, "gone-on", f"nothing was done: {GONE_ON}")


def _index(request: web.Request, run: NodeRun) -> int:
    index = int(request.match_info["index"])
    if index >= run.items:
        raise refused(HTTPStatus.NOT_FOUND, "unknown", f"the node run has {run.items} items, counted from 0")
    return index


def _again(run: NodeRun, item: Item, action: Action) -> tuple[AskedEvent, Action]:
    event = ItemAgain(
        node_run_id=run.node_run_id,
        index=item.index,
        attempt=item.attempt,
        ended_at=item.ended_at,
        action=action,
        at=time.time(),
    )
    return event, action


def _word(run: NodeRun, index: int, body: EndBody, action: Action) -> tuple[AskedEvent, Action]:
    if (body.result == "FAILED") != (body.error is not None):
        raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", "error goes with FAILED, and says why")
    try:
        event = word(run.node_run_id, index, Result(body.result), _by(action.who), output=body.output, error=body.error)
    except ValueError as wrong:
        # 1e999 is a number of JSON, and no float.
        raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", f"output: {wrong}") from None
    if len((event.output or "").encode()) > MAX_OUTPUT_BYTES:
        raise refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"more than {MAX_OUTPUT_BYTES:,} bytes")
    return event.model_copy(update={"action": action}), action


def _by(who: str) -> By:
    """Return by what way somebody asks, of how the asker is known."""
    if who == By.WEB:
        return By.WEB
    return By.CLI if who.startswith(By.CLI) else By.API


def _summed(became: list[Became | None]) -> Done:
    counts = Counter("pending" if one is None else one.note.value for one in became)
    outcome = next(word for word in (Note.APPLIED.value, "pending", *counts) if counts[word])
    reasons = sorted({one.why for one in became if one is not None and one.why})
    number = "" if len(became) == 1 else f"{counts[outcome]} of {len(became)} "
    message = f"{number}{_SAID.get(outcome, outcome)}{': ' if reasons else ''}{'; '.join(reasons[:3])}"
    return Done(outcome=outcome, counts=dict(counts), message=message)


_SAID: Final = {
    Note.APPLIED.value: "done: the ledger has applied it",
    "pending": "taken: the ledger has it, and its outcome is not known yet",
    Note.DUPLICATE.value: "nothing changed: it was so before",
    Note.REFUSED.value: "refused",
    Note.LATE.value: "the item is not known",
}
