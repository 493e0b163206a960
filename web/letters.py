"""The dead letters, and the audit of what people did: pages, API, and what can be done to a letter.

What was done to a letter stands in the audit topic alone. A redriven message enters as an arrival, in the place of the
source that the letter names: a message that comes again is then known by its digest, and a signature that is missing,
or was broken by the edit, does not send it back here. Who may act here vouches for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Final, Literal

from aiohttp import web
from aiokafka.errors import KafkaError
from pydantic import Field
from yarl import URL

from agents.asked import new_action
from streams.encodings import text_of
from streams.messages import Bad, Message, NodeRunMessage, NotOurs, Unsure
from streams.records import Audited, Source
from streams.tail import Taken
from tables.state import Note
from web.actions import SECONDS, Actions, Body, Done, asker, body_of, in_time
from web.answers import RefusedError, after_of, limit_of, refused
from web.auth import access_of
from web.data import Shown, instant
from web.letterbox import (
    START_CHARACTERS,
    AuditQuery,
    LetterLine,
    LetterQuery,
    Letters,
    Place,
    header_of,
    kind_of,
    name_of,
    source_of,
    topic_of,
)
from web.masking import masked_text
from web.notices import FIELD
from web.pages import Pages

_MOST_BULK: Final = 500
_SHOWN_CHARACTERS: Final = 50_000
_HEX_BYTES: Final = 1024
_FILTERS: Final = ("text", "reason", "topic", "since", "until", "all")
_AUDIT_FILTERS: Final = ("who", "what", "of")
_PARTITION: Final = "[0-9]{1,6}"
_OFFSET: Final = "[0-9]{1,18}"

LetterName = Annotated[str, Field(pattern=f"^{_PARTITION}/{_OFFSET}$")]
ReadLetter = Callable[[int, int], Awaitable[Taken | None]]
Enter = Callable[[NodeRunMessage, Source], Awaitable[None]]
Write = Callable[[Audited], Awaitable[None]]


class LetterShown(LetterLine):
    """A dead letter."""

    key: str | None
    headers: dict[str, str]
    text: str
    """The message with secrets masked."""
    hexdump: str | None
    """The first bytes of what is no text in UTF-8; null where it is, or where there is a secret in it."""
    editable: bool
    """Whether the page can edit it: not where a secret is masked in it, or it is long."""


class RedriveBody(Body):
    """The body of a redrive. Without `text` the letter goes as it is.

    `node_run_id` says whose message it is, where that cannot be read in it, or not with certainty.
    """

    text: str | None = None
    node_run_id: Annotated[str | None, Field(max_length=100)] = None
    note: Annotated[str, Field(max_length=500)] = ""


@dataclass(frozen=True)
class Redrive:
    """How a letter is to enter: as it is, with another text, as a message of a node run that is named."""

    text: str | None = None
    node_run_id: str | None = None
    note: str = ""

    @property
    def changes(self) -> tuple[str, ...]:
        """Return what is not as it is in the letter, for the audit."""
        edited = () if self.text is None else ("edited",)
        return edited if self.node_run_id is None else (*edited, "the node run was named by hand")


class DiscardBody(Body):
    """The body of a discard."""

    note: Annotated[str, Field(min_length=1, max_length=500)]


class BulkBody(Body):
    """The letters of one action. They are named one by one, so that nothing newer is caught."""

    what: Literal["redrive", "discard"]
    letters: Annotated[list[LetterName], Field(min_length=1, max_length=_MOST_BULK)]
    note: Annotated[str, Field(max_length=500)] = ""


class PreviewBody(Body):
    """The body of a look at what one action would be done to: letters by name, or all that match a search."""

    what: Literal["redrive", "discard"]
    letters: Annotated[list[LetterName], Field(max_length=_MOST_BULK)] = []
    all: Literal["1"] | None = None
    text: str | None = None
    reason: str | None = None
    topic: str | None = None
    since: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class LetterViews:
    """The views of dead letters and audit.

    Args:
        read: reads one letter from its topic.
        enter: has a message enter as an arrival; returns when the broker has it.
        write: writes to the audit topic, likewise.
        decode: says what a message is; of one whose node run was named, with that.
    """

    letters: Letters
    pages: Pages
    actions: Actions
    read: ReadLetter
    enter: Enter
    write: Write
    decode: Callable[[bytes | None, str | None], Message]
    _busy: set[Place] = field(default_factory=set)
    """Letters that something is being done to, here: what comes meanwhile would be done, too."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        one = f"/dead-letters/{{partition:{_PARTITION}}}/{{offset:{_OFFSET}}}"
        gets = {"/dead-letters": self.list, one: self.one, "/audit": self.audit}
        posts = {f"{one}/redrive": self.redrive, f"{one}/discard": self.discard, "/dead-letters/bulk": self.bulk}
        roots = ("", "/api")
        return [
            *(web.get(f"{root}{path}", view) for root in roots for path, view in gets.items()),
            *(web.post(f"{root}{path}", act) for root in roots for path, act in posts.items()),
            web.post("/dead-letters/preview", self.preview),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Show the latest letters; with `?all=1` those too that something was done to."""
        query = LetterQuery.of(request.query)
        shown = await asyncio.to_thread(self.letters.listed, query, limit_of(request), after_of(request))
        return self._page(request, shown, "dead_letters.html", _FILTERS, shown.after)

    async def audit(self, request: web.Request) -> web.Response:
        """Show what people did."""
        query = AuditQuery.read(request.query)
        shown = await asyncio.to_thread(self.letters.audit, query, limit_of(request), after_of(request))
        return self._page(request, shown, "audit.html", _AUDIT_FILTERS, shown.after)

    async def one(self, request: web.Request) -> web.Response:
        """Show one letter."""
        record = await self._read(_place(request))
        shown = await asyncio.to_thread(self._shown, record)
        return self._answer(request, shown, "dead_letter.html", letter=shown)

    def _page(
        self, request: web.Request, shown: Shown, template: str, filters: Sequence[str], after: str | None
    ) -> web.Response:
        asked = {name: request.query.get(name, "") for name in filters}
        return self._answer(request, shown, template, list=shown, asked=asked, next=_next(request, after))

    def _answer(self, request: web.Request, shown: Shown, template: str, **values: object) -> web.Response:
        if request.path.startswith("/api/"):
            return web.Response(body=shown.to_json(), content_type="application/json")
        return self.pages.answer(template, status=HTTPStatus.OK, access=access_of(request), **values)

    def _shown(self, record: Taken) -> LetterShown:
        raw, place = record.value or b"", (record.partition, record.offset)
        text = text_of(raw)
        shown = masked_text(text[:_SHOWN_CHARACTERS])
        hides = shown != text[:_SHOWN_CHARACTERS]
        is_text = text.encode() == raw
        return LetterShown(
            letter=name_of(place),
            at=instant(record.timestamp / 1000),
            reason=masked_text(header_of(record, "reason")),
            topic=topic_of(record),
            size=len(raw),
            start=shown[:START_CHARACTERS],
            kind=kind_of(record),
            handled=self.letters.shown_handled(place),
            key=None if record.key is None else masked_text(record.key.decode(errors="replace")[:START_CHARACTERS]),
            headers={name: masked_text(value.decode(errors="replace")) for name, value in record.headers},
            text=shown,
            hexdump=None if is_text or hides else raw[:_HEX_BYTES].hex(" ", 1),
            editable=is_text and not hides and len(text) <= _SHOWN_CHARACTERS,
        )

    # What can be done to a letter.

    async def redrive(self, request: web.Request) -> web.Response:
        """Have the message enter, as it is or edited."""
        who, body, place = asker(request), await body_of(request, RedriveBody), _place(request)
        text = None if body.text is None else body.text.replace("\r\n", "\n")
        asked = Redrive(text, body.node_run_id or None, body.note)
        done = await in_time(self._alone(place, self._redrive(who, place, asked)))
        return self.actions.answer(request, done, f"/dead-letters/{name_of(place)}")

    async def discard(self, request: web.Request) -> web.Response:
        """Take note that nothing is to become of it."""
        who, body, place = asker(request), await body_of(request, DiscardBody), _place(request)
        done = await in_time(self._alone(place, self._discard(who, place, body.note)))
        return self.actions.answer(request, done, f"/dead-letters/{name_of(place)}")

    async def preview(self, request: web.Request) -> web.Response:
        """Show the letters that were chosen, or match, and what is to be done to them, to be confirmed.

        The confirmation names each, so what is done is what was shown, whatever comes meanwhile.
        """
        body = await body_of(request, PreviewBody)
        query = LetterQuery.of({name: getattr(body, name) or "" for name in _FILTERS if name != "all"})
        if body.all:
            heads = await asyncio.to_thread(self.letters.matching, query)
        elif body.letters:
            heads = [head for place in _places(body.letters) if (head := self.letters.head(place)) is not None]
        else:
            message = "no letter was chosen: go back and tick some"
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", message)
        left = [head for head in heads if self.letters.handled(head.place) is None]
        return self.pages.answer(
            "dead_letters_bulk.html",
            what=body.what,
            lines=[self.letters.line(head) for head in left[:_MOST_BULK]],
            more=max(0, len(left) - _MOST_BULK),
            access=access_of(request),
        )

    async def bulk(self, request: web.Request) -> web.Response:
        """Do one thing to the letters that are named."""
        who, body = asker(request), await body_of(request, BulkBody)
        if body.what == "discard" and not body.note:
            raise refused(HTTPStatus.UNPROCESSABLE_ENTITY, "wrong-body", "a discard needs a note")
        counts, reasons = {Note.APPLIED.value: 0, Note.REFUSED.value: 0}, []
        for place in _places(body.letters):
            act = (
                self._alone(place, self._redrive(who, place, Redrive(note=body.note)))
                if body.what == "redrive"
                else None
            )
            try:
                done = await in_time(act or self._alone(place, self._discard(who, place, body.note)))
            except RefusedError as error:
                # What was done to the others is done.
                done = _refusal(error.shown.message)
            counts[done.outcome] += 1
            if done.outcome != Note.APPLIED:
                reasons.append(f"{name_of(place)}: {done.message}")
        outcome = Note.APPLIED.value if counts[Note.APPLIED.value] else Note.REFUSED.value
        more = f"; refused: {'; '.join(reasons[:20])}" if reasons else ""
        message = f"{body.what}: {counts[Note.APPLIED.value]} of {len(body.letters)} letters{more}"
        return self.actions.answer(request, Done(outcome=outcome, counts=counts, message=message), "/dead-letters")

    async def _alone(self, place: Place, act: Coroutine[object, object, Done]) -> Done:
        if place in self._busy:
            act.close()
            return _refusal("somebody else is at it just now: look again")
        self._busy.add(place)
        try:
            return await act
        finally:
            self._busy.discard(place)

    async def _redrive(self, who: str, place: Place, asked: Redrive) -> Done:
        record = await self._read(place)
        if (done := self.letters.handled(place)) is not None:
            return _refusal(f"{done.what} already, by {done.who}")
        raw = record.value if asked.text is None else asked.text.encode(errors="replace")
        message, source = self.decode(raw, asked.node_run_id), source_of(record)
        if not isinstance(message, NodeRunMessage):
            return _refusal(_why_not(message))
        if source is None:
            return _refusal("the letter does not say where it came from")
        async with asyncio.timeout(SECONDS):
            await self.enter(message, source)
        why = "; ".join(filter(None, (*asked.changes, asked.note)))
        await self._note(who, "redrive dead letter", place, why, message.node_run_id)
        said = f"{message.node_run_id} has entered the ledger"
        return Done(outcome=Note.APPLIED.value, counts={Note.APPLIED.value: 1}, message=said)

    async def _discard(self, who: str, place: Place, note: str) -> Done:
        await self._read(place)
        if (done := self.letters.handled(place)) is not None:
            return _refusal(f"{done.what} already, by {done.who}")
        await self._note(who, "discard dead letter", place, note, None)
        return Done(outcome=Note.APPLIED.value, counts={Note.APPLIED.value: 1}, message="discarded")

    async def _note(self, who: str, what: str, place: Place, why: str, node_run_id: str | None) -> None:
        audited = Audited(
            id=new_action(who).id,
            at=time.time(),
            who=who,
            what=what,
            outcome=Note.APPLIED.value,
            why=masked_text(why),
            node_run_id=node_run_id,
            letter=name_of(place),
        )
        async with asyncio.timeout(SECONDS):
            await self.write(audited)
        self.letters.add(audited)

    async def _read(self, place: Place) -> Taken:
        try:
            record = await self.read(*place)
        except (TimeoutError, KafkaError, OSError):
            message = "the dead letters cannot be read now"
            raise refused(HTTPStatus.SERVICE_UNAVAILABLE, "not-now", message, {"Retry-After": "5"}) from None
        if record is None:
            raise refused(HTTPStatus.NOT_FOUND, "unknown", f"no dead letter {name_of(place)}, or none any more")
        return record


def _why_not(message: NotOurs | Unsure | Bad) -> str:
    if isinstance(message, NotOurs):
        return f"it is no message of a Kafka action node: {message.why.value}"
    if isinstance(message, Unsure):
        return f"{message.reason}: say which node run it is for, or edit it"
    return message.reason


def _refusal(why: str) -> Done:
    return Done(outcome=Note.REFUSED.value, counts={Note.REFUSED.value: 1}, message=f"refused: {why}")


def _next(request: web.Request, after: str | None) -> str | None:
    """Return the address of the next page."""
    given = {name: value for name, value in request.query.items() if value and name != FIELD}
    return None if after is None else str(URL(request.path).with_query(given | {"after": after}))


def _place(request: web.Request) -> Place:
    return int(request.match_info["partition"]), int(request.match_info["offset"])


def _places(letters: Sequence[str]) -> list[Place]:
    names = (name.split("/") for name in dict.fromkeys(letters))
    return [(int(partition), int(offset)) for partition, offset in names]
