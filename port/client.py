"""The client of Port's API: one session, one cached token, and answers in place of exceptions for reports.

Whether and when to send a report again is the caller's decision: it alone knows what stands durably. So `report`,
`append_logs` and `get_run` send once (twice after a 401, with a new token) and say what came of it. Retries live here
only where nothing else can go on without the answer: `kafka_credentials`. When a call may go out is decided by the
budget (`port.budget`), for all calls of the process.
"""

import asyncio
import email.utils
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import stamina
from pydantic import BaseModel, SecretStr, ValidationError

from port.budget import Budget, RateLimit, Urgency
from port.connection import Connection
from port.errors import PortRefused, PortUnavailable
from port.ids import require_node_run_id, require_workflow_run_id
from port.models import AccessToken, KafkaCredentials, KafkaCredentialsAnswer, LogLine, WorkflowRun
from port.trouble import Trouble, TroubleKind, Troubles, trouble_of_error, trouble_of_status

OnCall = Callable[[str, int | None, float], None]
"""Told of every HTTP call: its name (`auth`, `report`, `logs`, `run`, `kafka-credentials`), the status (None if no
answer came) and the seconds it took. Must not raise."""

Before = Callable[[], None]
"""Called when the turn of a call has come, immediately before it is sent. What it raises ends the call, unsent."""

Model = TypeVar("Model", bound=BaseModel)

_REASON_CHARACTERS: Final = 500
_REASON_BYTES: Final = 64 * 1024
_LARGE_BYTES: Final = 256 * 1024
_RUN_BYTES: Final = 64 * 1024 * 1024
_EPOCH_FROM: Final = 10_000
_OK: Final = b'{"ok":true}'
_LONGEST_WAIT: Final = 3600.0
_FORGOTTEN_AFTER: Final = 600.0
"""Longer than anybody waits before the next try. Where none was made for so long, nobody knows whether Port is away."""
_CLOSED: Final = "the client was closed"
FIRST_REFUSAL: Final = 1.0
"""Seconds without a call for a token after Port has refused the credentials; twice as long after each further time."""
LONGEST_REFUSAL: Final = 60.0
_TOKEN_SECONDS: Final = 1.0
"""How long a token is used past its end. Port counts whole seconds, and gives the same token again as long as it lives:
asked any earlier, it would be asked twice."""


class AnswerKind(Enum):
    """What came of a call to Port, as the one who must go on needs to tell it apart."""

    ACCEPTED = "accepted"
    """2xx: it is done."""
    CONFLICT = "conflict"
    """409: the node run was completed before."""
    INVALID = "invalid"
    """422 and every other 4xx without a name here: the same call will fail again."""
    TOO_LARGE = "too large"
    """413: the body is over Port's limit (1 MiB)."""
    NOT_FOUND = "not found"
    """404: Port does not know the node run."""
    UNAUTHORIZED = "unauthorized"
    """403, or 401 with a new token too, or the credentials were refused."""
    RATE_LIMITED = "rate limited"
    """429: wait for `retry_after`. The client does so by itself before its next call."""
    UNAVAILABLE = "unavailable"
    """5xx, time-out, broken connection, a redirect, an answer that is not Port's: wait and try again."""


_UNSENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""Errors that come before anything was sent to Port."""
_KINDS: Final = {
    401: AnswerKind.UNAUTHORIZED,
    403: AnswerKind.UNAUTHORIZED,
    404: AnswerKind.NOT_FOUND,
    408: AnswerKind.UNAVAILABLE,
    409: AnswerKind.CONFLICT,
    413: AnswerKind.TOO_LARGE,
    425: AnswerKind.UNAVAILABLE,
    429: AnswerKind.RATE_LIMITED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call.

    `status` is None where no answer came. `reason` is at most 500 characters for people, without secrets.
    `retry_after` is the number of seconds that Port asks to wait, None if it does not say. `maybe_arrived` is True
    where Port may have acted although it did not say so: a time-out or break after sending, a 5xx. `remaining` is
    what Port says is left of the organization's rate limit, None if it does not say.
    """

    kind: AnswerKind
    status: int | None
    reason: str
    retry_after: float | None = None
    maybe_arrived: bool = False
    remaining: int | None = None
    trouble: TroubleKind | None = None
    """What is wrong, where that may hold for all calls."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer together with the body it came with."""

    answer: Answer
    body: bytes = b""
    told: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the API, to be sent with a token."""

    name: str
    method: str
    path: str
    body: bytes | None = None
    before: Before | None = None
    urgency: Urgency = Urgency.FIRST


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    used_until: float


class PortClient:
    """A client for one organization. Use it as an async context manager, or call `close`.

    `base_url` is `https://host` without credentials in it (ValueError otherwise); `timeout` in seconds holds for each
    call as a whole, waiting for a free connection included, from the moment when the `budget` lets it go out; without
    one that is given the client has its own. A `session` that is handed in is not closed; else
    `connection` says how one is opened.

    Attributes:
        budget: what every call passes. One for a token goes out within the turn of the call that needs it.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: SecretStr,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        *,
        connections: int = 100,
        connection: Connection | None = None,
        on_call: OnCall | None = None,
        budget: Budget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget or Budget()
        self._closed = False
        open_session = partial((connection or Connection()).session, limit=connections)
        self._http = _Http(_checked_base_url(base_url), session or open_session, timeout, on_call, self.budget)
        self._http.hide(client_secret.get_secret_value())
        self._tokens = _Tokens(self._http, client_id, client_secret, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"PortClient({self._http.base_url!r})"

    async def close(self) -> None:
        """Close the session. Calls that are under way, or wait for their turn, end as UNAVAILABLE."""
        self._closed = True
        self.budget.close()
        await self._tokens.close()
        await self._http.close()

    async def log_in(self) -> Answer:
        """Fetch an access token, unless a valid one is there: ACCEPTED, or why there is none. Waits as `report` does.

        Never raises. Source: Port API reference, "Create an access token".
        """
        await self.budget.turn(Urgency.FIRST)
        try:
            token = await self._tokens.get()
        finally:
            self.budget.ended()
        return token if isinstance(token, Answer) else Answer(AnswerKind.ACCEPTED, None, "logged in")

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with all calls; None where the last one was well, or none was made lately."""
        return self._http.trouble

    @property
    def logged_in(self) -> bool:
        """Whether Port has taken the credentials since the start."""
        return self._tokens.taken

    @property
    def unreachable_since(self) -> float | None:
        """The epoch seconds since when no call brought an answer of Port's, but at most 5xx; None where the last did.

        None, too, where no call was made lately.
        """
        return self._http.unreachable_since

    async def report(
        self,
        node_run_id: str,
        run_id: str | None,
        body: bytes,
        before: Before | None = None,
        urgency: Urgency = Urgency.FIRST,
    ) -> Answer:
        """Send one update of a node run; `body` is the JSON, sent as it is.

        Waits for its turn, as long as that takes: after a 429 for what Port asked. Never raises for anything that Port
        or the network does and sends nothing twice, except after a 401, once. Raises ValueError for a malformed id,
        and what `before` raises. Source: Port API reference, "Update a workflow node run".
        """
        node = require_node_run_id(node_run_id)
        if run_id is None:
            path = f"/v1/workflows/nodes/runs/{node}"
        else:
            path = f"/v1/workflows/runs/{require_workflow_run_id(run_id)}/nodes/{node}"
        return (await self._call(_Call("report", "PATCH", path, body, before, urgency))).answer

    async def append_logs(self, node_run_id: str, lines: Sequence[LogLine], before: Before | None = None) -> Answer:
        """Add lines to a node run's log in one call, behind all calls that are no logs.

        Waits and raises as `report` does; no lines are no call: ACCEPTED.

        Source: Port API reference, "Add logs to a workflow node run".
        """
        path = f"/v1/workflows/nodes/runs/{require_node_run_id(node_run_id)}/logs"
        if not lines:
            return Answer(AnswerKind.ACCEPTED, None, "nothing to send")
        body = json.dumps({"logs": [line.model_dump(mode="json") for line in lines]}).encode()
        return (await self._call(_Call("logs", "POST", path, body, before, Urgency.LAST))).answer

    async def get_run(
        self, run_id: str, before: Before | None = None, urgency: Urgency = Urgency.FIRST
    ) -> WorkflowRun | Answer:
        """The workflow run, or why there is none. Waits and raises as `report` does.

        Source: Port API reference, "Get a workflow run".
        """
        path = f"/v1/workflows/runs/{require_workflow_run_id(run_id)}"
        reply = await self._call(_Call("run", "GET", path, before=before, urgency=urgency))
        return _parsed(WorkflowRun, reply)

    async def kafka_credentials(self, *, attempts: int = 10, within: float = 120.0) -> KafkaCredentials:
        """How to reach Port's Kafka. Tries again while Port is unavailable, `attempts` times or `within` seconds.

        Raises PortRefused for wrong credentials or missing rights, PortUnavailable when it gives up.
        Source: Port API reference, "Get your organization's Kafka credentials".
        """
        async for attempt in stamina.retry_context(on=PortUnavailable, attempts=attempts, timeout=within):
            with attempt:
                return await self._kafka_credentials_once()
        raise PortUnavailable("kafka-credentials: gave up")  # pragma: no cover - the last attempt raises

    async def _kafka_credentials_once(self) -> KafkaCredentials:
        reply = await self._call(_Call("kafka-credentials", "GET", "/v1/kafka-credentials"))
        parsed = _parsed(KafkaCredentialsAnswer, reply)
        if isinstance(parsed, Answer):
            raise _as_error("kafka-credentials", parsed)
        return parsed.credentials

    async def _call(self, call: _Call) -> _Reply:
        token, reply = await self._in_turn(call)
        if token is not None and reply.answer.status == 401:
            token, reply = await self._in_turn(call, refused=token)
            if token is not None and reply.answer.status == 401:
                # With a new token, too: asking for more of them, at each call, would help nobody.
                self._tokens.refuse(replace(reply.answer, trouble=TroubleKind.CREDENTIALS))
                return reply
        if token is not None and reply.answer.status is not None:
            self._tokens.accept()
        return reply

    async def _in_turn(self, call: _Call, refused: "_Token | None" = None) -> tuple["_Token | None", _Reply]:
        """Send it once, with the token that is returned, too; None where there was none to be had."""
        await self.budget.turn(call.urgency)
        try:
            if self._closed:
                return None, _Reply(Answer(AnswerKind.UNAVAILABLE, None, _CLOSED))
            # Only now: while it waited for its turn a token may have ended.
            token = await self._tokens.get(refused)
            if isinstance(token, Answer):
                return None, _Reply(token)
            if call.before is not None:
                call.before()
            return token, await self._http.send(call.name, call.method, call.path, call.body, token.value)
        finally:
            self.budget.ended()


class _Tokens:
    """The access token, fetched by one call at a time however many wait for it."""

    def __init__(self, http: "_Http", client_id: str, client_secret: SecretStr, clock: Callable[[], float]) -> None:
        self._http = http
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._token: _Token | None = None
        self._fetching: asyncio.Task[_Token | Answer] | None = None
        self.taken = False
        """Whether a token was ever given."""
        self._refused: Answer | None = None
        self._refusals = 0  # one after the other, without a call between that was let in
        self._refused_until = float("-inf")

    async def get(self, refused: _Token | None = None) -> _Token | Answer:
        """A token to use now: the cached one until its end, else a new one; or why there is none.

        `refused` is a token that Port has just answered with 401. Who comes with one that was replaced meanwhile
        gets the newer one without a call.
        """
        if refused is not None and self._token is refused:
            self._token = None
        if self._refused is not None and self._clock() < self._refused_until:
            return self._refused
        token = self._token
        if token is not None and self._clock() < token.used_until:
            return token
        return await self._shared_fetch()

    def refuse(self, answer: Answer) -> None:
        """Take note that Port refuses the credentials: nobody asks for a token for a while."""
        pause = min(FIRST_REFUSAL * 2 ** min(self._refusals, 10), LONGEST_REFUSAL)
        self._refusals += 1
        self._refused, self._refused_until = answer, self._clock() + pause
        self._token = None
        at_login = answer.reason.startswith(_NOT_LOGGED_IN)
        self._http.troubles.wrong(
            TroubleKind.CREDENTIALS, answer.reason.removeprefix(_NOT_LOGGED_IN), at_login=at_login
        )

    def accept(self) -> None:
        """Take note that a call was let in."""
        self._refused, self._refusals = None, 0

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _shared_fetch(self) -> _Token | Answer:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        fetching = self._fetching
        try:
            # One waiter's cancellation must not take the token away from the others.
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            if fetching.cancelled():  # by `close`, not by the waiter's own cancellation
                return Answer(AnswerKind.UNAVAILABLE, None, _CLOSED)
            raise

    async def _fetch(self) -> _Token | Answer:
        secret = self._client_secret.get_secret_value()
        body = json.dumps({"clientId": self._client_id, "clientSecret": secret}).encode()
        asked_at = self._clock()
        reply = await self._http.send("auth", "POST", "/v1/auth/access_token", body, None)
        parsed = _parsed(AccessToken, reply)
        if isinstance(parsed, Answer):
            failure = _as_auth_failure(parsed)
            if failure.kind is AnswerKind.UNAUTHORIZED:
                self.refuse(failure)
            return failure
        self.taken, self._refused = True, None
        self._http.troubles.let_in()
        self._token = _new_token(parsed, asked_at, self._clock())
        self._http.hide(self._token.value)
        return self._token


def _new_token(token: AccessToken, asked_at: float, now: float) -> _Token:
    """Port may hand out one that is nearly expired: it is used to its end. Where that came before, a 401 says so."""
    return _Token(token.access_token.get_secret_value(), max(asked_at + token.expires_in, now) + _TOKEN_SECONDS)


def _as_auth_failure(answer: Answer) -> Answer:
    """The report itself was not sent, so neither its validity nor its arrival is in question."""
    waits = answer.kind in (AnswerKind.RATE_LIMITED, AnswerKind.UNAVAILABLE)
    kind = answer.kind if waits else AnswerKind.UNAUTHORIZED
    reason = f"{_NOT_LOGGED_IN}{answer.reason}"[:_REASON_CHARACTERS]
    return replace(
        answer,
        kind=kind,
        reason=reason,
        maybe_arrived=False,
        trouble=answer.trouble if waits else TroubleKind.CREDENTIALS,
    )


_NOT_LOGGED_IN: Final = "no access token: "


class _Http:
    """The session, and the one place where what the network does becomes an answer."""

    def __init__(
        self,
        base_url: str,
        session: aiohttp.ClientSession | Callable[[], aiohttp.ClientSession],
        timeout: float,
        on_call: OnCall | None,
        budget: Budget,
    ) -> None:
        self.base_url = base_url
        self._given = session
        self._owned: aiohttp.ClientSession | None = None
        # `connect` ends before `total`, so that a time-out of `total` always means that the request may be out.
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=timeout * 0.75, sock_connect=timeout * 0.5)
        self._on_call = on_call
        self._budget = budget
        self._away_since: float | None = None
        self._tried_at = 0.0
        self.troubles = Troubles()
        # The secret, the token and the one before it, which late answers may still speak of.
        self._hidden: list[str] = []

    @property
    def unreachable_since(self) -> float | None:
        """As the client's."""
        return self._away_since if time.monotonic() - self._tried_at < _FORGOTTEN_AFTER else None

    @property
    def trouble(self) -> Trouble | None:
        """As the client's."""
        return self.troubles.now if time.monotonic() - self._tried_at < _FORGOTTEN_AFTER else None

    def hide(self, secret: str) -> None:
        """Keep `secret` out of every reason from now on. Beyond the first, the last two are remembered."""
        if secret and secret not in self._hidden:
            self._hidden = [*self._hidden[:1], *self._hidden[1:][-1:], secret]

    async def close(self) -> None:
        """Close the session if it is our own."""
        if self._owned is not None:
            await self._owned.close()

    async def send(self, name: str, method: str, path: str, body: bytes | None, token: str | None) -> _Reply:
        """One HTTP call. Never raises, cancellation aside."""
        started = time.monotonic()
        try:
            reply = await self._send(method, path, body, token, _RUN_BYTES if method == "GET" else _REASON_BYTES)
        except Exception as error:  # whatever the network or aiohttp comes up with, the caller gets an answer
            reply = _Reply(self._broken(error))
        self._tried_at = time.monotonic()
        self._note(name, reply)
        if self._on_call is not None:
            self._on_call(name, reply.answer.status, self._tried_at - started)
        return reply

    def _note(self, name: str, reply: _Reply) -> None:
        if reply.answer.trouble is not None:
            self.troubles.wrong(reply.answer.trouble, reply.answer.reason, at_login=name == "auth")
        elif name != "auth" and reply.answer.status != 401:
            # That a token is given says little: Port may refuse it at once.
            self.troubles.well()
        if reply.answer.kind is not AnswerKind.UNAVAILABLE:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.time()
        # Calls for tokens may have a limit of their own; but while it is reached, no other call can go out.
        told = reply.told if name != "auth" else None
        self._budget.learn(reply.answer.status, told, reply.answer.retry_after)

    async def _send(self, method: str, path: str, body: bytes | None, token: str | None, limit: int) -> _Reply:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # As a file a large body is written in pieces; as bytes it is copied in one, and aiohttp warns of it.
        data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BYTES else body
        async with self._open_session().request(
            method, self.base_url + path, data=data, headers=headers, allow_redirects=False, timeout=self._timeout
        ) as response:
            text, complete = await _read(response, limit)
            told = _rate_limit(response.headers)
            return _Reply(self._answer(response, text, complete, told), text, told)

    def _open_session(self) -> aiohttp.ClientSession:
        if isinstance(self._given, aiohttp.ClientSession):
            return self._given
        # Not before it is needed: the client is made before there is an event loop.
        self._owned = self._owned or self._given()
        return self._owned

    def _answer(self, response: aiohttp.ClientResponse, text: bytes, complete: bool, told: RateLimit | None) -> Answer:
        status, headers = response.status, response.headers
        kind, remaining = _kind(status), None if told is None else told.remaining
        if kind is AnswerKind.ACCEPTED:
            if not complete or _is_ports(text):
                return Answer(kind, status, f"HTTP {status}", remaining=remaining)
            kind, reason = AnswerKind.UNAVAILABLE, f"HTTP {status}, but the body is not an answer of Port's API"
            trouble: TroubleKind | None = TroubleKind.NOT_PORT
        else:
            reason, trouble = self._clean(_reason(status, text)), trouble_of_status(status)
        maybe_arrived = kind is AnswerKind.UNAVAILABLE
        return Answer(kind, status, reason, _retry_after(status, headers), maybe_arrived, remaining, trouble)

    def _broken(self, error: Exception) -> Answer:
        before_sending = isinstance(error, _UNSENT)
        # A time-out's own text is empty or names the URL again; aiohttp's other errors may quote headers.
        text = str(error) if isinstance(error, OSError) else ""
        if isinstance(error, aiohttp.ClientHttpProxyError):
            text = f"the proxy (HTTPS_PROXY) answered {error.status}"
        elif isinstance(error, aiohttp.ClientProxyConnectionError):
            text = f"the proxy (HTTPS_PROXY): {text}"
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Answer(
            AnswerKind.UNAVAILABLE,
            None,
            self._clean(reason),
            maybe_arrived=not before_sending,
            trouble=trouble_of_error(error),
        )

    def _clean(self, reason: str) -> str:
        for secret in self._hidden:
            # In JSON quotes are escaped, and umlauts may be.
            for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
                reason = reason.replace(form, "***")
        return reason[:_REASON_CHARACTERS]


def _checked_base_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the base URL of Port's API must look like https://api.getport.io")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the base URL of Port's API must not contain credentials")
    return base_url.rstrip("/")


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """The body up to `limit` bytes, and whether that was all. A break after the status is no reason to forget it."""
    body = bytearray()
    try:
        while chunk := await response.content.readany():
            body += chunk
            if len(body) > limit:
                return bytes(body[:limit]), False
    except (aiohttp.ClientError, OSError):
        return bytes(body), False
    return bytes(body), True


def _kind(status: int) -> AnswerKind:
    if 200 <= status < 300:
        return AnswerKind.ACCEPTED
    if 400 <= status < 500:
        return _KINDS.get(status, AnswerKind.INVALID)
    return AnswerKind.UNAVAILABLE


def _is_ports(text: bytes) -> bool:
    """A 2xx of a proxy's login page is not Port's: Port answers with a JSON object, or with nothing."""
    if not text or text == _OK:
        return True
    try:
        value: object = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("ok", True) is not False


def _reason(status: int, text: bytes) -> str:
    """Port's own `message` or `error` where the body has one, else its beginning."""
    if 300 <= status < 400:
        return f"HTTP {status}: unexpected redirect"
    try:
        value: object = json.loads(text)
    except ValueError:
        value = None
    said: object = text.decode("utf-8", "replace")
    if isinstance(value, dict):
        said = value.get("message") or value.get("error") or said
    return f"HTTP {status}: {said if isinstance(said, str) else json.dumps(said)}".rstrip(": ")


def _rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """What Port says of the organization's rate limit; where it names no reset, that is the end of the period."""
    remaining = _whole_number(headers.get("x-ratelimit-remaining"))
    if remaining is None:
        return None
    reset = _seconds(headers.get("x-ratelimit-reset"))
    if reset is None:
        reset = _seconds(headers.get("x-ratelimit-period")) or 0.0
    return RateLimit(remaining, reset, _whole_number(headers.get("x-ratelimit-limit")))


def _retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, where Port asks to wait: from `Retry-After`, else `x-ratelimit-reset` (never above an hour)."""
    if status not in (429, 503):
        return None
    header = headers.get("Retry-After")
    wait = _seconds(header)
    if wait is None and header is not None:
        wait = _until(header)
    if wait is None and status == 429:
        wait = _seconds(headers.get("x-ratelimit-reset"))
    return None if wait is None else min(max(wait, 0.0), _LONGEST_WAIT)


def _seconds(header: str | None) -> float | None:
    """Documented both as seconds left and as epoch seconds: above 10,000 it is an epoch."""
    try:
        value = float(header or "")
    except ValueError:
        return None
    if value != value:
        return None
    return value - time.time() if value > _EPOCH_FROM else value


def _until(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _whole_number(header: str | None) -> int | None:
    return int(header) if header is not None and header.isascii() and header.isdigit() else None


def _parsed(model: type[Model], reply: _Reply) -> Model | Answer:
    """The body as `model`, or the answer that says why there is none."""
    if reply.answer.kind is not AnswerKind.ACCEPTED:
        return reply.answer
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        reason = f"HTTP {reply.answer.status}, but {place}: {first['msg']}"
        return Answer(AnswerKind.UNAVAILABLE, reply.answer.status, reason[:_REASON_CHARACTERS])


def _as_error(name: str, answer: Answer) -> PortRefused | PortUnavailable:
    if answer.kind in (AnswerKind.UNAVAILABLE, AnswerKind.RATE_LIMITED):
        return PortUnavailable(f"{name}: {answer.reason}", status=answer.status, retry_after=answer.retry_after)
    return PortRefused(f"{name}: {answer.reason}", status=answer.status)
