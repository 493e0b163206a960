"""The OpenAPI document of what programs may ask: made of one list of operations and of the models of the views.

A test compares the list with the routes of the application, so that neither has what the other lacks.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from tables.state import State
from web.actions import AgainBody, Done, ItemEndBody, NoBody, RunBody, RunEndBody
from web.answers import AFTER, DEFAULT_ITEMS, DEFAULT_LIMIT, MOST_CHARACTERS, MOST_FIRST, MOST_LIMIT
from web.auth import CSRF_HEADER, SESSION_COOKIE
from web.callbacks import Taken, Word
from web.data import ErrorShown, NodeRunList, NodeRunShown, SessionShown, WorkersShown
from web.export import MISSING, MOST_EXPORTED, Format, NodeRunExport
from web.grouping import GROUP
from web.handlers import HandlerList
from web.letterbox import AuditList, LetterList
from web.letters import BulkBody, DiscardBody, LetterShown, RedriveBody
from web.overview import OverviewShown
from web.search import FailureList, FoundNodeRuns, Within
from web.series import SeriesShown
from web.stuck import StuckList, Why
from web.trials import PublishBody, TriedShown, TryBody

PATH: Final = "/api/openapi.json"
Fields = dict[str, JsonValue]


class Access(StrEnum):
    """What an operation needs of who asks, where there is a token at all."""

    NONE = "none"
    SEE = "see"
    ACT = "act"


@dataclass(frozen=True)
class Parameter:
    """A parameter of the query."""

    name: str
    schema: Fields
    meaning: str = ""


@dataclass(frozen=True)
class Operation:
    """Something to ask for."""

    path: str
    """As the router has it, without patterns."""
    summary: str
    answer: type[BaseModel] | None
    """None: a text, or this document."""
    query: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None
    """With a body it is a POST."""
    refusals: tuple[int, ...] = ()
    """Statuses of answers that are none, beside those of the guard."""
    answers: tuple[int, ...] = (200,)
    media: tuple[str, ...] = ("application/json",)
    access: Access = Access.SEE

    @property
    def method(self) -> str:
        """The HTTP method, as the document has it."""
        return "get" if self.body is None else "post"


def _integer(least: int, most: int, default: int | None = None) -> Fields:
    schema: Fields = {"type": "integer", "minimum": least, "maximum": most}
    return schema if default is None else schema | {"default": default}


_TEXT: Final[Fields] = {"type": "string", "maxLength": MOST_CHARACTERS}
_TIME: Final[Fields] = {"type": "string", "format": "date-time"}
_FLAG: Final[Fields] = {"enum": ["0", "1"], "default": "0"}
_LIMIT: Final = Parameter("limit", _integer(1, MOST_LIMIT, DEFAULT_LIMIT), "How many at most.")
_SCOPE: Final = Parameter("scope", {"enum": ["worker"]}, "worker: what is at the worker that is asked, and no more.")
_STATE: Final = Parameter("state", {"enum": [state.value for state in State]}, "Only node runs in this state.")
_FILTERS: Final = (
    _STATE,
    Parameter("eventType", _TEXT, "Only node runs with an item of this event type."),
    Parameter("workflow", _TEXT, "Only node runs of the workflow with this identifier."),
    Parameter("since", _TIME, "Only what was received then or later. Without an offset it is UTC."),
    Parameter("until", _TIME, "Only what was received before then."),
    Parameter("repeated", _FLAG, "1: only node runs of which an item was called more than once."),
    Parameter("text", _TEXT, "The beginning of an id, wfnr_... or wfr_..., or the whole identifier of a node."),
    Parameter("failure", {"type": "string", "pattern": f"^{GROUP}$"}, "Only those with a failure of this group."),
)
_AFTER: Final = Parameter("after", {"type": "string", "pattern": f"^{AFTER}$"}, "What the page before says as `after`.")
_IN_PATH: Final[dict[str, tuple[Fields, str]]] = {
    "node_run_id": ({"type": "string", "pattern": "^wfnr_[A-Za-z0-9_-]{1,64}$"}, "The id of a node run."),
    "index": (_integer(0, 99_999_999), "The number of an item, from 0."),
    "event_type": ({"type": "string", "minLength": 1}, "An event type that has a handler."),
    "partition": (_integer(0, 999_999), "The partition of the dead-letter topic."),
    "offset": (_integer(0, 10**18 - 1), "The offset in it."),
    "token": ({"type": "string", "minLength": 1}, "What the handler was given."),
}
_RUN: Final = "/api/node-runs/{node_run_id}"
_ITEM: Final = f"{_RUN}/items/{{index}}"
_LETTER: Final = "/api/dead-letters/{partition}/{offset}"
_LETTERS: Final = (
    Parameter("text", _TEXT, "Only letters with this in the reason or in their beginning."),
    Parameter("reason", _TEXT, "Only letters with this in the reason."),
    Parameter("topic", _TEXT, "Only letters of records that stood in this topic."),
    Parameter("since", _TIME, "Only letters of then or later. Without an offset it is UTC."),
    Parameter("until", _TIME, "Only letters from before then."),
    Parameter("all", _FLAG, "1: those redriven and discarded, too."),
    _LIMIT,
    _AFTER,
)
_ACTIONS: Final = (
    Parameter("who", _TEXT, "Only what was done by whoever has this in the name."),
    Parameter("what", _TEXT, "Only what was this, such as `retry item`."),
    Parameter("of", _TEXT, "Only what was done to this node run, event type or letter."),
    _LIMIT,
    _AFTER,
)
_WITHIN: Final = Parameter(
    "within", {"enum": [one.value for one in Within], "default": Within.ALL.value}, "Only failures so far back."
)
_WHY: Final = Parameter("why", {"enum": [one.value for one in Why]}, "Only what waits for this reason.")
_HANDLER: Final = "/api/handlers/{event_type}"
_TEXT_ONLY: Final = ("text/plain",)


def _acts(path: str, summary: str, body: type[BaseModel]) -> Operation:
    # 200: at least one thing was done. 202: what came of it is not known yet. 409: none was, and why.
    of_run = path.startswith(_RUN)
    refusals = (404, 413, 421, 422, 502, 503) if of_run else (404, 413, 422, 503)
    query = (_SCOPE,) if of_run else ()
    return Operation(path, summary, Done, query, body, refusals, (200, 202, 409), access=Access.ACT)


OPERATIONS: Final = (
    Operation(
        "/api/overview",
        "Whether it is well, and why not; what waits, runs and has failed",
        OverviewShown,
        (_LIMIT, _STATE, _SCOPE),
    ),
    Operation(
        "/api/node-runs", "The latest node runs, and how many stand where", NodeRunList, (_LIMIT, _STATE, _SCOPE)
    ),
    Operation(
        "/api/search",
        "Node runs by filters, page by page",
        FoundNodeRuns,
        (
            *_FILTERS,
            _LIMIT,
            _SCOPE,
            _AFTER,
        ),
    ),
    Operation(
        "/api/node-runs/export",
        "All node runs that the filters find, as one file",
        NodeRunExport,
        (
            *_FILTERS,
            Parameter("format", {"enum": [form.value for form in Format], "default": Format.CSV.value}),
            Parameter("limit", _integer(1, MOST_EXPORTED, MOST_EXPORTED), "How many at most."),
        ),
        refusals=(503,),
        media=("application/json", "text/csv"),
    ),
    Operation(
        _RUN,
        "A node run with its items and messages",
        NodeRunShown,
        (
            Parameter("from", _integer(0, MOST_FIRST, 0), "The first item to show."),
            Parameter("limit", _integer(1, MOST_LIMIT, DEFAULT_ITEMS), "How many items at most."),
            _SCOPE,
        ),
        refusals=(404, 421, 502, 503),
    ),
    _acts(f"{_RUN}/retry", "Call FAILED items again, or send a report again: one that was refused, or waits", RunBody),
    _acts(f"{_RUN}/give-up", "Send a report no more that Port has neither taken nor refused", RunBody),
    _acts(f"{_RUN}/cancel", "Cancel what has not ended", RunBody),
    _acts(f"{_RUN}/complete", "Say how all items ended that have not", RunEndBody),
    _acts(f"{_ITEM}/retry", "Call the handler of an item again", AgainBody),
    _acts(f"{_ITEM}/complete", "Say how an item ended", ItemEndBody),
    Operation("/api/failures", "The most frequent failures", FailureList, (_WITHIN, _LIMIT, _SCOPE)),
    Operation(
        "/api/stuck", "What waits, and which reports Port fails at or has refused", StuckList, (_WHY, _LIMIT, _SCOPE)
    ),
    Operation("/api/handlers", "The handlers, what they have to do, and which are paused", HandlerList, (_SCOPE,)),
    Operation(_HANDLER, "One handler, and how it does at each worker", HandlerList, (_SCOPE,), refusals=(404,)),
    _acts(f"{_HANDLER}/pause", "Have the items of a handler wait, on all workers", NoBody),
    _acts(f"{_HANDLER}/resume", "Have them wait no more", NoBody),
    Operation(
        f"{_HANDLER}/try",
        "Call a handler for a payload, without the ledger and Port (WEB_TEST_MESSAGES)",
        TriedShown,
        body=TryBody,
        refusals=(404, 409, 413, 422, 503),
        access=Access.ACT,
    ),
    _acts(f"{_HANDLER}/publish", "Write a test message for a node run that waits at Port", PublishBody),
    Operation("/api/dead-letters", "The latest dead letters", LetterList, _LETTERS),
    Operation(_LETTER, "A dead letter", LetterShown, refusals=(404, 503)),
    _acts(f"{_LETTER}/redrive", "Have the message of a letter enter, as it is or edited", RedriveBody),
    _acts(f"{_LETTER}/discard", "Take note that nothing is to become of a letter", DiscardBody),
    _acts("/api/dead-letters/bulk", "Redrive or discard the letters that are named", BulkBody),
    Operation("/api/audit", "What people did, the latest first", AuditList, _ACTIONS),
    Operation("/api/workers", "The workers of the group, and who is missing", WorkersShown, (_SCOPE,)),
    Operation("/api/series", "The last hour, in steps of ten seconds", SeriesShown, (_SCOPE,)),
    Operation("/api/session", "Who asks, and what its actions must bring along", SessionShown),
    Operation(PATH, "This document", None),
    Operation("/metrics", "The metrics of this worker, for Prometheus", None, media=_TEXT_ONLY),
    Operation(
        "/healthz",
        "Whether whatever has work makes progress",
        None,
        answers=(200, 503),
        media=_TEXT_ONLY,
        access=Access.NONE,
    ),
    Operation("/readyz", "Whether the worker is ready", None, answers=(200, 503), media=_TEXT_ONLY, access=Access.NONE),
    Operation(
        "/callbacks/{token}",
        "Say how an item ended that waits for another system",
        Taken,
        body=Word,
        refusals=(404, 409, 413, 415, 422, 503),
        answers=(200, 202),
        access=Access.NONE,
    ),
)


@cache
def document(*, asks: bool) -> bytes:
    """Return the document as JSON; `asks`: a token is needed. Takes some milliseconds the first time."""
    refs, schemas = _schemas(OPERATIONS)
    paths: defaultdict[str, Fields] = defaultdict(dict)
    for one in OPERATIONS:
        paths[one.path][one.method] = _operation(one, refs, asks=asks)
    described: Fields = {
        "openapi": "3.1.0",
        "info": {
            "title": "port-runs",
            "version": version("port-runs"),
            "description": "Node runs of Port's Kafka action nodes, of all workers, whichever one is asked.",
        },
        "paths": {**paths},
        "components": {"schemas": schemas, "securitySchemes": _schemes(asks=asks)},
    }
    return json.dumps(described).encode()


Refs = dict[type[BaseModel], Fields]


def _schemas(operations: Iterable[Operation]) -> tuple[Refs, Fields]:
    """Return where the schema of each model is, and the schemas."""
    shown = {one.answer for one in operations if one.answer is not None} | {ErrorShown}
    read = {one.body for one in operations if one.body is not None}
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "serialization") for model in sorted(shown, key=str)),
        *((model, "validation") for model in sorted(read, key=str)),
    ]
    found, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    return {model: found[model, mode] for model, mode in wanted}, definitions["$defs"]


def _operation(one: Operation, refs: Refs, *, asks: bool) -> Fields:
    names = re.findall(r"\{(\w+)\}", one.path)
    described: Fields = {
        "operationId": "_".join((one.method, *re.findall(r"\w+", one.path.removeprefix("/api")))),
        "summary": one.summary,
        "parameters": [*map(_in_path, names), *map(_in_query, one.query)],
        "responses": _responses(one, refs, asks=asks),
        "security": _security(one.access, asks=asks),
    }
    if one.body is not None:
        content: Fields = {"application/json": {"schema": refs[one.body]}}
        described["requestBody"] = {"required": bool(one.body.model_json_schema().get("required")), "content": content}
    return described


def _in_path(name: str) -> Fields:
    schema, meaning = _IN_PATH[name]
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": meaning}


def _in_query(one: Parameter) -> Fields:
    # A form of a page sends what was left empty, too.
    return {
        "name": one.name,
        "in": "query",
        "schema": one.schema,
        "description": one.meaning,
        "allowEmptyValue": True,
    }


def _responses(one: Operation, refs: Refs, *, asks: bool) -> Fields:
    refusal, refusals = refs[ErrorShown], {*one.refusals}
    # A body that breaks off, or is packed in a way that cannot be undone.
    if one.query or one.body is not None:
        refusals.add(400)
    if one.access is not Access.NONE:
        # Without a token: a name that is none of the loopback interface.
        refusals |= {401} if asks else {403}
    if one.access is Access.ACT:
        refusals |= {403}
    answers = {status: [_answer_schema(one, refs)] for status in one.answers}
    for status in refusals:
        answers.setdefault(status, []).append(refusal)
    if one.access is Access.ACT and 409 in one.answers:
        # Nothing to do, or too much at a time.
        answers[409].append(refusal)
    return {str(status): _response(one, status, answers[status], refusal) for status in sorted(answers)}


def _answer_schema(one: Operation, refs: Refs) -> Fields:
    if one.answer is not None:
        return refs[one.answer]
    return {"type": "object"} if one.media == ("application/json",) else {"type": "string"}


def _response(one: Operation, status: int, schemas: Sequence[Fields], refusal: Fields) -> Fields:
    media = one.media if status in one.answers else ("application/json",)
    schema: Fields = schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}
    content: Fields = {name: {"schema": schema if "json" in name else {"type": "string"}} for name in media}
    described: Fields = {"description": HTTPStatus(status).phrase, "content": content}
    if one.answer is NodeRunExport and schemas[0] != refusal:
        described["headers"] = {
            MISSING: {
                "description": "Partitions that nobody showed when the file began, separated by commas.",
                "schema": {"type": "string", "pattern": "^[0-9]+(,[0-9]+)*$"},
            }
        }
    return described


def _schemes(*, asks: bool) -> Fields:
    csrf: Fields = {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "What /api/session says as csrfToken.",
    }
    if not asks:
        return {"csrf": csrf}
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "WEB_TOKEN; WEB_READ_TOKEN, only to see."},
        "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": "What /login gives."},
        "csrf": csrf,
    }


def _security(access: Access, *, asks: bool) -> list[JsonValue]:
    if access is Access.NONE or (access is Access.SEE and not asks):
        return []
    csrf: Fields = {"csrf": []} if access is Access.ACT else {}
    return [{"bearer": []}, {"session": [], **csrf}] if asks else [csrf]
