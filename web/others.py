"""The other workers: a node run is asked of its owner, and lists are gathered from all of them, within a time limit.

Who they are is what the group says (Kafka's DescribeGroups): incarnation, URL, partitions. What each answers is signed,
and says which partitions it shows. So a URL that somebody else put into the group gets nothing to sign in with
elsewhere, and brings nothing into an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr, ValidationError
from yarl import URL

from web.answers import query_of
from web.connections import read_body
from web.data import MissingWorker, Shown

logger = logging.getLogger(__name__)

SECONDS: Final = 2.0
"""How long other workers have to answer."""
ACT_SECONDS: Final = 30.0
"""How long they have where something is to be done: the broker has to take it, and the ledger to apply it."""
MOST_BYTES: Final = 32 * 1024 * 1024
"""The largest answer that is taken: a node run of as much as one answer shows, written as JSON."""
_GOOD_FOR: Final = 60.0
"""Seconds for which a request may be sent; the clocks of two machines differ."""
_FRESH: Final = 1.0
"""Seconds for which the group is not asked again."""
_CONNECTIONS: Final = 64
_SCHEME: Final = "PortRunsWorker"
_ANSWER: Final = "X-Port-Runs-Answer"
_PARTITIONS: Final = "X-Port-Runs-Partitions"
_ACTOR: Final = "X-Actor"
_KEY_BYTES: Final = 32

_ASKED: Final = web.RequestKey("asked", tuple[str, frozenset[int]])
"""The token of another worker's request, and the partitions that were shown when it came."""
Query = Mapping[str, str | int]
M = TypeVar("M", bound=Shown)


@dataclass(frozen=True)
class Peer:
    """A worker of the group, as the group has it."""

    worker: str
    """Its incarnation."""
    url: str
    partitions: frozenset[int]
    """The partitions of the ledger that it was assigned."""


@dataclass(frozen=True)
class Question:
    """What another worker is asked; all of it is signed."""

    path: str
    """Of the JSON API."""
    query: Query = field(default_factory=dict)
    body: bytes | None = None
    """JSON; what to do. With a body it is a POST, else a GET."""
    actor: str = ""
    """Who asks for it to be done."""

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "GET" if self.body is None else "POST"


@dataclass(frozen=True)
class Answer:
    """What another worker answered; it is that worker's own word."""

    peer: Peer
    status: int
    body: bytes
    partitions: frozenset[int]
    """The partitions that it shows."""


class Missing(Shown):
    """What is not in an answer."""

    partitions: list[int]
    """Partitions that nobody shows."""
    workers: list[MissingWorker]
    """Workers of the group that gave no answer."""


@dataclass(frozen=True)
class Gathered(Generic[M]):
    """What the other workers answered, and what is missing; the answers in no order."""

    answers: tuple[M, ...]
    missing: Missing


class NoAnswerError(Exception):
    """A worker gave no answer; the text says why. `asked`: it may have been asked all the same, and have done it."""

    def __init__(self, peer: Peer, why: str, *, asked: bool = True) -> None:
        self.peer = peer
        self.why = why
        self.asked = asked
        super().__init__(f"worker {peer.worker} at {peer.url or 'no URL'}: {why}")


class Seal:
    """Signs what workers say to each other. The key is made of the client secret, so that all have it.

    A request's token is good for one method, path, query, body and actor, at one URL, for one incarnation, for a
    minute. It names itself by a number of its own, so that what is to be done is done once, however often it comes.
    """

    def __init__(self, client_secret: SecretStr, app_id: str, clock: Callable[[], float] = time.time) -> None:
        hkdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=app_id.encode(), info=b"port-runs workers")
        self._key = hkdf.derive(client_secret.get_secret_value().encode())
        self._clock = clock

    def token(self, worker: str, url: str, method: str, target: str, actor: str = "", body: bytes = b"") -> str:
        """Return what lets a request for `target` (path and query) in, at that worker alone."""
        heading = f"{int(self._clock() + _GOOD_FOR)}.{secrets.token_hex(8)}.{_digest(body)}"
        return f"{heading}.{self._signature('request', heading, worker, url, method, target, actor)}"

    def is_token(self, given: str, worker: str, url: str, method: str, target: str, actor: str = "") -> bool:
        """Whether `given` is the token of this request, and still good. Takes the same time whatever it finds.

        Its body is to be compared when it has been read: see `is_body`.
        """
        heading, _, signature = given.rpartition(".")
        right = self._signature("request", heading, worker, url, method, target, actor)
        if not hmac.compare_digest(signature.encode(errors="replace"), right.encode()):
            return False
        return 0 < int(heading.partition(".")[0]) - self._clock() <= 2 * _GOOD_FOR

    def is_body(self, token: str, body: bytes) -> bool:
        """Whether the request with this token, which was found good, has this body."""
        return hmac.compare_digest(token.split(".")[2], _digest(body))

    def answer(self, token: str, status: int, partitions: str, body: bytes) -> str:
        """Return the signature of the answer to the request that had this token."""
        return self._signature("answer", token, str(status), partitions, _digest(body))

    def _signature(self, *parts: str) -> str:
        # No part holds a line break, so no two lists of parts are the same text.
        text = "\n".join(parts).encode(errors="backslashreplace")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


class Others:
    """Asks the other workers.

    Args:
        incarnation: of this worker.
        url: returns the URL that this worker has in the group.
        partitions: returns the partitions that this worker shows now.
        count: how many partitions there are.
        roster: returns the members of the group, this worker among them; None where they are not known now.
        seal: signs requests and answers.
        seconds: the time limit.
    """

    def __init__(
        self,
        incarnation: str,
        url: Callable[[], str],
        partitions: Callable[[], Collection[int]],
        count: int,
        roster: Callable[[], Awaitable[Iterable[Peer] | None]],
        seal: Seal,
        seconds: float = SECONDS,
    ) -> None:
        self._incarnation = incarnation
        self._url = url
        self._partitions = partitions
        self._count = count
        self._roster = Roster(roster)
        self._seal = seal
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None
        # What was to be done, by token, and until when that token would be good.
        self._taken: dict[str, float] = {}

    async def close(self) -> None:
        """Close the connections to the other workers."""
        await self._roster.close()
        if self._session is not None:
            await self._session.close()

    # Asking.

    async def gather(self, path: str, model: type[M], query: Query | None = None) -> Gathered[M]:
        """Ask all other workers at once, and return what came within the time limit, and what is missing.

        An answer with another status than 200, or that is not of the model, counts as none. Path and query are those of
        the JSON API.
        """
        own, question = frozenset(self._partitions()), Question(path, query or {})
        until = time.monotonic() + self._seconds
        peers = await self._peers()
        outcomes = await asyncio.gather(*(self._try(peer, question, model, until) for peer in peers))
        told = [one for one in outcomes if not isinstance(one, NoAnswerError)]
        failed = [one for one in outcomes if isinstance(one, NoAnswerError)]
        # What has come or gone while the others were asked may not be in what is shown.
        shown = (own & frozenset(self._partitions())).union(*(answer.partitions for answer, _ in told))
        missing = Missing(
            partitions=sorted(set(range(self._count)) - shown), workers=[_missing(error) for error in failed]
        )
        return Gathered(tuple(read for _, read in told), missing)

    async def ask_owner(self, partition: int, question: Question) -> Answer | None:
        """Ask the worker that has a partition; None where no other worker is known to have it.

        Raises:
            NoAnswerError: it gave no answer within the time limit: that for acts, where something is to be done.
        """
        until = time.monotonic() + self._limit(question)
        owners = [peer for peer in await self._peers() if partition in peer.partitions]
        return await self._ask(owners[0], question, until) if owners else None

    async def _peers(self) -> list[Peer]:
        peers = await self._roster.read(self._seconds / 2)
        return [peer for peer in peers if peer.worker != self._incarnation]

    async def _try(
        self, peer: Peer, question: Question, model: type[M], until: float
    ) -> tuple[Answer, M] | NoAnswerError:
        try:
            answer = await self._ask(peer, question, until)
            if answer.status != web.HTTPOk.status_code:
                raise NoAnswerError(peer, f"it answers {answer.status}")
            # Large ones take their time.
            return answer, await asyncio.to_thread(model.model_validate_json, answer.body)
        except NoAnswerError as error:
            logger.info("%s", error)
            return error
        except ValidationError:
            # While one worker after the other is replaced, say.
            return NoAnswerError(peer, "it answers as another release does")

    async def _ask(self, peer: Peer, question: Question, until: float) -> Answer:
        try:
            url = URL(peer.url).with_path(question.path).with_query(dict(question.query))
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(peer.url)
        except ValueError:
            raise NoAnswerError(peer, "what it says is its URL is none", asked=False) from None
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._send(peer, url, question)
        except TimeoutError:
            raise NoAnswerError(peer, f"no answer within {self._limit(question):g} s") from None
        except aiohttp.ClientConnectorError:
            raise NoAnswerError(peer, "nobody listens there", asked=False) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswerError(peer, f"the connection failed: {type(error).__name__}") from None

    def _limit(self, question: Question) -> float:
        return self._seconds if question.body is None else ACT_SECONDS

    async def _send(self, peer: Peer, url: URL, question: Question) -> Answer:
        method, actor, body = question.method, question.actor, question.body
        token = self._seal.token(peer.worker, peer.url, method, url.raw_path_qs, actor, body or b"")
        headers = {"Authorization": f"{_SCHEME} {token}"}
        if body is not None:
            headers |= {"Content-Type": "application/json", _ACTOR: actor}
        async with self._client().request(method, url, data=body, headers=headers, allow_redirects=False) as got:
            answered = await _body(peer, got)
            partitions = got.headers.get(_PARTITIONS, "")
            right = self._seal.answer(token, got.status, partitions, answered)
            if not hmac.compare_digest(got.headers.get(_ANSWER, "").encode(errors="replace"), right.encode()):
                raise NoAnswerError(peer, "what answers there is not that worker")
            return Answer(peer, got.status, answered, frozenset(map(int, filter(None, partitions.split(",")))))

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A proxy of the environment would be sent what is for the workers alone.
                trust_env=False,
            )
        return self._session

    # Being asked.

    async def admits(self, request: web.Request) -> bool | None:
        """Whether a request is of another worker and may be answered; None where it is of somebody else.

        One that is admitted is answered from here alone (`is_asked`): so no request goes around. It may act, too: that
        whoever wants so may, the worker has checked that asks.
        """
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != _SCHEME:
            return None
        target, actor = request.rel_url.raw_path_qs, request.headers.get(_ACTOR, "")
        right = self._seal.is_token(token, self._incarnation, self._url(), request.method, target, actor)
        if not right or not request.path.startswith("/api/"):
            return False
        if request.method != "GET" and not await self._is_new(request, token):
            return False
        request[_ASKED] = (token, frozenset(self._partitions()))
        return True

    async def _is_new(self, request: web.Request, token: str) -> bool:
        """Whether what is to be done was not asked for before, and is what was signed."""
        now = time.monotonic()
        self._taken = {one: until for one, until in self._taken.items() if until > now}
        if token in self._taken:
            return False
        self._taken[token] = now + 2 * _GOOD_FOR
        return self._seal.is_body(token, await read_body(request))

    def sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Sign the answer to a request of another worker; leave others alone."""
        if not is_asked(request) or not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
            return
        token, before = request[_ASKED]
        partitions = ",".join(map(str, sorted(before & frozenset(self._partitions()))))
        answer.headers[_PARTITIONS] = partitions
        answer.headers[_ANSWER] = self._seal.answer(token, answer.status, partitions, answer.body)


class Roster:
    """The members of the group, as they were told last: while the group is not stable they are not known anew."""

    def __init__(self, ask: Callable[[], Awaitable[Iterable[Peer] | None]]) -> None:
        self._ask = ask
        self._known: tuple[Peer, ...] = ()
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def read(self, seconds: float) -> tuple[Peer, ...]:
        """Return the members; after so many seconds those that were known before. All askers share one question."""
        if self._asking is None and time.monotonic() - self._asked_at > _FRESH:
            self._asking = asyncio.get_running_loop().create_task(self._renew())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=seconds)
        return self._known

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _renew(self) -> None:
        try:
            told = await self._ask()
            if told is not None:
                self._known = tuple(told)
        except Exception:
            logger.exception("the workers of the group cannot be told")
        finally:
            self._asked_at = time.monotonic()
            self._asking = None


def is_asked(request: web.Request) -> bool:
    """Whether another worker asks, who wants what is here alone."""
    return _ASKED in request


def is_local(request: web.Request) -> bool:
    """Whether what is here alone is asked for: by another worker, or with `?scope=worker`.

    Raises:
        RefusedError: 400, for another scope.
    """
    return query_of(request.query, "scope", False, {"worker": True}.__getitem__, "worker, or left out") or is_asked(
        request
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _missing(error: NoAnswerError) -> MissingWorker:
    peer = error.peer
    return MissingWorker(worker=peer.worker, url=peer.url, partitions=sorted(peer.partitions), why=error.why)


async def _body(peer: Peer, got: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in got.content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise NoAnswerError(peer, f"its answer is larger than {MOST_BYTES:,} bytes")
    return bytes(body)
