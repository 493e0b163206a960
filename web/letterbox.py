"""The heads of the latest dead letters, and what people did: kept in memory, searched and shown in pages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from streams.encodings import text_of
from streams.records import Audited, LetterKind, NewerFormatError, Source, UnreadableError, read
from streams.tail import Taken
from tables.state import Note
from web.answers import Cursor, flag_in, text_in, time_in, written
from web.data import Shown, instant
from web.masking import masked_text

MOST_LETTERS: Final = 10_000
"""How many of the latest dead letters are listed."""
MOST_AUDITED: Final = 5_000
START_CHARACTERS: Final = 200
_MOST_HANDLED: Final = 50_000
_KINDS: Final = frozenset(LetterKind)
_AUDITED: Final[TypeAdapter[Audited]] = TypeAdapter(Audited)

Place = tuple[int, int]
"""Partition and offset of a letter."""
T = TypeVar("T")


class Handled(Shown):
    """What was done to a dead letter."""

    what: str
    who: str
    at: datetime | None
    note: str


class LetterLine(Shown):
    """A dead letter in the list."""

    letter: str
    """`partition/offset` on the dead-letter topic."""
    at: datetime | None
    reason: str
    topic: str | None
    """Where the record stood that became this letter; null where it does not say so."""
    size: int
    """Bytes."""
    start: str
    """How it begins, with secrets masked."""
    kind: LetterKind | None
    """Why it is here, in one word; null where it does not say so."""
    handled: Handled | None


class LetterList(Shown):
    """A page of the latest dead letters, the latest first."""

    letters: list[LetterLine]
    total: int
    """How many are known: at most as many as are kept in memory."""
    open: int
    """How many of them nothing was done to."""
    matching: int
    """How many of them are as they were asked for."""
    topics: list[str]
    """Where they stood."""
    after: str | None
    """Where the next page begins: to be given as `after`; null where this is the last."""


class AuditShown(Shown):
    """What somebody did."""

    id: str
    at: datetime | None
    who: str
    what: str
    outcome: str
    why: str
    node_run_id: str | None
    index: int | None
    event_type: str | None
    letter: str | None


class AuditList(Shown):
    """A page of what people did, the latest first."""

    actions: list[AuditShown]
    whats: list[str]
    """What was done at all."""
    after: str | None
    """Where the next page begins; null where this is the last."""


@dataclass(frozen=True)
class Head:
    """What is kept of a letter."""

    place: Place
    name: str
    """The place, as `partition/offset`."""
    at: float
    reason: str
    """With secrets masked, as what follows."""
    topic: str | None
    size: int
    start: str
    kind: LetterKind | None


@dataclass(frozen=True)
class LetterQuery:
    """Which letters are asked for."""

    text: str | None = None
    """In the reason, or in how it begins; capitals or not."""
    reason: str | None = None
    topic: str | None = None
    since: float | None = None
    until: float | None = None
    everything: bool = False
    """Those, too, that something was done to."""

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> LetterQuery:
        """Read it. Raises RefusedError (400)."""
        return cls(
            text=text_in(asked, "text"),
            reason=text_in(asked, "reason"),
            topic=text_in(asked, "topic"),
            since=time_in(asked, "since"),
            until=time_in(asked, "until"),
            everything=flag_in(asked, "all"),
        )

    def fits(self, head: Head) -> bool:
        """Whether a letter is asked for, whatever was done to it."""
        if self.topic is not None and head.topic != self.topic:
            return False
        if (self.since is not None and head.at < self.since) or (self.until is not None and head.at >= self.until):
            return False
        reason = head.reason.casefold()
        if self.reason is not None and self.reason.casefold() not in reason:
            return False
        return self.text is None or self.text.casefold() in reason or self.text.casefold() in head.start.casefold()


@dataclass(frozen=True)
class AuditQuery:
    """What is asked for of what people did."""

    who: str | None = None
    what: str | None = None
    of: str | None = None
    """Of what: a node run's id, an event type, or a letter."""

    @classmethod
    def read(cls, asked: Mapping[str, str]) -> AuditQuery:
        """Read it. Raises RefusedError (400)."""
        return cls(text_in(asked, "who"), text_in(asked, "what"), text_in(asked, "of"))

    def fits(self, one: Audited) -> bool:
        """Whether it is asked for."""
        if self.who is not None and self.who.casefold() not in one.who.casefold():
            return False
        if self.what is not None and self.what != one.what:
            return False
        return self.of is None or self.of in (one.node_run_id, one.event_type, one.letter)


@dataclass
class Letters:
    """The heads of the latest dead letters, and what people did, as their topics say."""

    _heads: OrderedDict[Place, Head] = field(default_factory=OrderedDict)
    _handled: OrderedDict[str, Audited] = field(default_factory=OrderedDict)
    _audited: OrderedDict[str, Audited] = field(default_factory=OrderedDict)

    def take_letter(self, record: Taken) -> None:
        """Take note of a dead letter."""
        place, value = (record.partition, record.offset), record.value or b""
        start = masked_text(text_of(value[: 4 * START_CHARACTERS])[:START_CHARACTERS])
        reason, topic = masked_text(header_of(record, "reason")), topic_of(record)
        at, kind = record.timestamp / 1000, kind_of(record)
        self._heads[place] = Head(place, name_of(place), at, reason, topic, len(value), start, kind)
        if len(self._heads) > MOST_LETTERS:
            self._heads.popitem(last=False)

    def take_audited(self, record: Taken) -> None:
        """Take note of what somebody did. What a newer version has written is left out."""
        try:
            self.add(read(_AUDITED, record.value))
        except (UnreadableError, NewerFormatError):
            return

    def add(self, audited: Audited) -> None:
        """Take note of it. The first of an id counts."""
        self._audited.setdefault(audited.id, audited)
        if len(self._audited) > MOST_AUDITED:
            self._audited.popitem(last=False)
        if audited.letter is not None and audited.outcome == Note.APPLIED:
            self._handled.setdefault(audited.letter, audited)
            if len(self._handled) > _MOST_HANDLED:
                self._handled.popitem(last=False)

    def handled(self, place: Place) -> Audited | None:
        """Return what was done to a letter."""
        return self._handled.get(name_of(place))

    def matching(self, query: LetterQuery) -> list[Head]:
        """Return the letters that are asked for, the latest first."""
        newest = sorted(self._heads.values(), key=lambda head: (head.at, head.place), reverse=True)
        return [head for head in newest if (query.everything or head.name not in self._handled) and query.fits(head)]

    def open_since(self, since: float) -> int:
        """Return how many letters have come since then (epoch seconds) that nothing was done to; unsure ones apart."""
        return sum(
            head.at >= since and head.kind is not LetterKind.UNSURE and self.handled(place) is None
            for place, head in self._heads.items()
        )

    def unsure(self) -> int:
        """Return how many letters look like messages of ours, and nothing was done to them, whenever they came."""
        return sum(
            head.kind is LetterKind.UNSURE and self.handled(place) is None for place, head in self._heads.items()
        )

    def listed(self, query: LetterQuery, limit: int, after: Cursor | None = None) -> LetterList:
        """Return a page of the letters that are asked for. Takes its time with many: may be called in a thread."""
        known = list(self._heads.values())
        heads = self.matching(query)
        rest = heads if after is None else [head for head in heads if (head.at, head.place) < _letter_after(after)]
        lines = [self.line(head) for head in rest[:limit]]
        done = sum(head.name in self._handled for head in known)
        return LetterList(
            letters=lines,
            total=len(known),
            open=len(known) - done,
            matching=len(heads),
            topics=sorted({head.topic for head in known if head.topic is not None}),
            after=written((rest[limit - 1].at, rest[limit - 1].name)) if len(rest) > limit else None,
        )

    def line(self, head: Head) -> LetterLine:
        """Return a letter as it is listed."""
        return LetterLine(
            letter=head.name,
            at=instant(head.at),
            reason=head.reason,
            topic=head.topic,
            size=head.size,
            start=head.start,
            kind=head.kind,
            handled=self.shown_handled(head.place),
        )

    def head(self, place: Place) -> Head | None:
        """Return the head of a letter, if it is among the latest."""
        return self._heads.get(place)

    def shown_handled(self, place: Place) -> Handled | None:
        """Return what was done to a letter, to be shown."""
        done = self.handled(place)
        return None if done is None else Handled(what=done.what, who=done.who, at=instant(done.at), note=done.why)

    def audit(self, query: AuditQuery, limit: int, after: Cursor | None = None) -> AuditList:
        """Return a page of what people did, of what is asked for, the latest first."""
        newest = sorted(
            filter(query.fits, list(self._audited.values())), key=lambda one: (one.at, one.id), reverse=True
        )
        rest = newest if after is None else [one for one in newest if (one.at, one.id) < after]
        return AuditList(
            actions=list(_shown(rest[:limit])),
            whats=sorted({one.what for one in list(self._audited.values())}),
            after=written((rest[limit - 1].at, rest[limit - 1].id)) if len(rest) > limit else None,
        )


def _shown(audited: Iterable[Audited]) -> Iterator[AuditShown]:
    for one in audited:
        yield AuditShown.model_validate(one.model_dump(exclude={"v", "at"}) | {"at": instant(one.at)})


def _letter_after(cursor: Cursor) -> tuple[float, Place]:
    partition, _, offset = cursor[1].partition("/")
    # Whatever else somebody has written comes after all letters of that time.
    return cursor[0], (int(partition), int(offset)) if partition.isdecimal() and offset.isdecimal() else (-1, -1)


def name_of(place: Place) -> str:
    """Return a letter's name."""
    return f"{place[0]}/{place[1]}"


def header_of(record: Taken, name: str) -> str:
    """Return a header of a letter, empty where there is none."""
    return _headers(record).get(name, b"").decode(errors="replace")


def kind_of(record: Taken) -> LetterKind | None:
    """Return what a letter says that it is; None where it does not say so."""
    said = header_of(record, "kind")
    return LetterKind(said) if said in _KINDS else None


def _headers(record: Taken) -> Mapping[str, bytes]:
    return dict(record.headers)


def source_of(record: Taken) -> Source | None:
    """Return where a letter says that its message stood."""
    try:
        return Source.model_validate_json(_headers(record).get("source", b""))
    except ValidationError:
        return None


def topic_of(record: Taken) -> str | None:
    """Return the topic of that place, with secrets masked."""
    source = source_of(record)
    return None if source is None else masked_text(source.topic)
