"""The routes of a worker's web views, and what guards them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qs

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from agents.callbacks import PATH
from port.ids import is_node_run_id
from streams.progress import Watch
from tables.state import State
from tables.unreadable import UnreadableRowError
from web import openapi
from web.actions import Actions
from web.answers import (
    DEFAULT_ITEMS,
    RefusedError,
    first_of,
    limit_of,
    node_run_id_of,
    refused,
    state_of,
    unreadable,
)
from web.auth import (
    SESSION_COOKIE,
    SESSION_SECONDS,
    Access,
    Guard,
    Role,
    access_of,
    check_action,
    is_loopback_name,
    note_access,
)
from web.callbacks import Callbacks
from web.connections import read_body
from web.data import (
    Foreign,
    NodeRunList,
    NodeRunShown,
    Sample,
    SessionShown,
    Shown,
    node_run_shown,
)
from web.front import Front, Looked
from web.health import Readiness
from web.here import Here, NoSuchNodeRunError, NotHereError
from web.letters import LetterViews
from web.live import Live
from web.masking import masked_text
from web.merging import merged
from web.notices import FIELD
from web.others import Answer, Others, Question, is_local
from web.owners import Owners, passed_on
from web.pages import Pages
from web.timeline import timeline
from web.workers import Workers

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALLBACK: Final = f"{PATH}{{token}}"
"""For other systems: the token is their login."""
_FOR_ALL: Final = frozenset({"/healthz", "/readyz"})
_LOGIN: Final = "/login"
_LOGOUT: Final = "/logout"
_PAGES: Final = frozenset(
    {"/", "/node-runs", "/failures", "/dead-letters", "/stuck", "/handlers", "/workers", "/audit"}
)
_ONE: Final = re.compile(r"/dead-letters/[0-9]{1,6}/[0-9]{1,18}|/handlers/[^/?#\\]{1,600}", re.ASCII)
_FORM: Final = re.compile(r"(/node-runs/[^/]+|/handlers/[^/]+|/dead-letters(?:/[0-9]+/[0-9]+)?)/")
"""How the paths of forms begin: with that of their page."""
_CHANGES_NOTHING: Final = frozenset({"GET", "HEAD"})
_MOST_LOGIN_BYTES: Final = 4096
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With `no-referrer` a browser hides the origin of a form, from this very site, too.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Area(Protocol):
    """Some of the views, in a module of its own."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return its routes; what every request passes is the site's."""


class LeftAlone(Protocol):
    """A message that was left to other consumers."""

    @property
    def why(self) -> str:
        """Why it is not ours."""

    @property
    def offset(self) -> int:
        """Where it stands in its partition."""

    @property
    def start(self) -> str:
        """How it begins."""


@dataclass(frozen=True)
class Strangers:
    """What the router left to other consumers."""

    samples: Iterable[LeftAlone]
    counts: Callable[[], dict[str, int]]

    def shown(self) -> Foreign:
        """Return it with secrets masked, the latest sample first."""
        samples = [Sample(why=one.why, offset=one.offset, start=masked_text(one.start)) for one in self.samples]
        return Foreign(counts=self.counts(), samples=samples[::-1])


@dataclass(frozen=True)
class Site:
    """The views of one worker."""

    here: Here
    readiness: Readiness
    guard: Guard
    strangers: Strangers
    registry: CollectorRegistry
    pages: Pages
    callbacks: Callbacks
    actions: Actions
    letters: LetterViews
    watch: Watch
    others: Others
    owners: Owners
    workers: Workers
    looked: Looked
    areas: Sequence[Area] = ()

    def install(self, application: web.Application) -> None:
        """Add the routes, and what guards every route."""
        application.middlewares.append(self.answered)
        application.middlewares.append(self.guarded)
        application.on_response_prepare.append(_add_headers)
        application.on_response_prepare.append(self._sign)
        application.router.add_routes(
            [
                web.get("/find", self.find),
                web.get("/node-runs/{node_run_id}", self.node_run),
                web.get("/api/node-runs", self.api_node_runs),
                web.get("/api/node-runs/{node_run_id}", self.api_node_run),
                web.get("/api/session", self.api_session),
                web.get(openapi.PATH, self.api_document),
                *self.workers.routes(),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/metrics", self.metrics),
                web.post(_LOGIN, self.login),
                web.post(_LOGOUT, self.logout),
                web.post(CALLBACK, self.callbacks.complete),
                web.get(CALLBACK, self.callbacks.explain),
                *self.actions.routes(),
                *self.letters.routes(),
                *Front(self.here, self.looked, self.others, self.pages, self._own_list).routes(),
                *self.looked.series.routes(),
            ]
        )
        for area in self.areas:
            application.router.add_routes(area.routes())
        live = Live(self.here.mark, lambda: self.here.worker.should_stop)
        application.router.add_routes(live.routes())
        application.on_shutdown.append(live.close)
        # The navigation leads where there is something.
        self.pages.know(paths={resource.canonical for resource in application.router.resources()}, asks=self.guard.asks)

    # What every request passes.

    @web.middleware
    async def answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn what is refused, unknown or broken into an answer of the form that was asked for."""
        self.pages.notices.note(request.query.get(FIELD))
        try:
            return await handler(request)
        except RefusedError as error:
            return self._refusal(request, error)
        except web.HTTPError as error:
            word = HTTPStatus(error.status).phrase.lower().replace(" ", "-")
            message = f"{error.reason}: {request.method} {_path(request)}"
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return self._refusal(request, refused(HTTPStatus(error.status), word, message, allowed))
        except web.RequestPayloadError as error:
            message = f"the body cannot be read: {str(error)[:200]}"
            return self._refusal(request, refused(HTTPStatus.BAD_REQUEST, "bad-body", message))
        except Exception:
            logger.exception("%s %s failed", request.method, _path(request))
            message = "this view failed; the worker's log says why"
            return self._refusal(request, refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", message))

    def _refusal(self, request: web.Request, error: RefusedError) -> web.Response:
        if not _wants_html(request):
            body = error.shown.to_json()
            return web.Response(status=error.status, body=body, content_type="application/json", headers=error.headers)
        if error.status is HTTPStatus.UNAUTHORIZED:
            return self._login_page(request, error)
        answer = self.pages.answer(
            "refused.html", status=error.status, error=error.shown, asks=self.guard.asks, back=_back(request)
        )
        answer.headers.update(error.headers)
        return answer

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through who may see the views, and act; `/healthz` and `/readyz` tell nothing and are for all."""
        if request.path in _FOR_ALL or _is_callback(request):
            return await handler(request)
        access = await self._access(request)
        if access is not None:
            note_access(request, access)
            # What has no such route, or not with this method, is answered so.
            known = request.match_info.http_exception is None
            if known and request.method not in _CHANGES_NOTHING and request.path not in (_LOGIN, _LOGOUT):
                await check_action(request, access)
        elif request.path != _LOGIN:
            raise _unauthorized("the token is missing or wrong: send it as Authorization: Bearer")
        return await handler(request)

    async def _access(self, request: web.Request) -> Access | None:
        admitted = await self.others.admits(request)
        if admitted is not None:
            return Access(Role.FULL, "") if admitted else None
        if not self.guard.asks and not is_loopback_name(request.host):
            message = "without WEB_TOKEN the views answer only under a name of the loopback interface"
            raise refused(HTTPStatus.FORBIDDEN, "foreign-host", message)
        return self.guard.access(request.headers.get("Authorization"), request.cookies.get(SESSION_COOKIE))

    async def _sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        self.others.sign(request, answer)

    # Pages.

    async def find(self, request: web.Request) -> web.Response:
        """Lead to the node run that is named in the field of every page."""
        given = request.query.get("id", "").strip()
        if not is_node_run_id(given):
            raise refused(HTTPStatus.BAD_REQUEST, "malformed-id", f"no node-run id: {given[:80]!r}")
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": f"/node-runs/{given}"})

    async def node_run(self, request: web.Request) -> web.Response:
        """Show one node run."""
        shown = await self._one(request)
        if isinstance(shown, Answer):
            shown = await asyncio.to_thread(NodeRunShown.model_validate_json, shown.body)
        return await asyncio.to_thread(self._node_run_page, shown, access_of(request))

    def _node_run_page(self, shown: NodeRunShown, access: Access) -> web.Response:
        return self.pages.answer(
            "node_run.html", run=shown, timeline=timeline(shown), asks=self.guard.asks, access=access
        )

    def _login_page(self, request: web.Request, error: RefusedError) -> web.Response:
        wanted = request.path_qs if request.method == "GET" and _is_page(request.path_qs) else "/"
        failed = request.path == _LOGIN or "Authorization" in request.headers
        answer = self.pages.answer("login.html", status=error.status, wanted=wanted, failed=failed)
        answer.headers.update(error.headers)
        return answer

    async def login(self, request: web.Request) -> web.Response:
        """Take the token from the login form, and give a session cookie for it."""
        if not self.guard.asks:
            raise web.HTTPNotFound
        body = await read_body(request)
        form = parse_qs(body.decode(errors="replace")) if len(body) <= _MOST_LOGIN_BYTES else {}
        role = self.guard.role_of(form.get("token", [""])[0])
        if role is None:
            raise _unauthorized("that is not the token")
        wanted = form.get("wanted", [""])[0]
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": wanted if _is_page(wanted) else "/"})
        answer.set_cookie(
            SESSION_COOKIE,
            self.guard.session(role),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            # Behind a proxy that speaks TLS with the browser, too. Whoever sends this header falsely loses by it alone.
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )
        return answer

    async def logout(self, _request: web.Request) -> web.Response:
        """Take the session cookie back."""
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        answer.del_cookie(SESSION_COOKIE, httponly=True, samesite="Strict")
        return answer

    # The API.

    async def api_node_runs(self, request: web.Request) -> web.Response:
        """Return the latest node runs as JSON."""
        return _json(await self._list(request))

    async def api_node_run(self, request: web.Request) -> web.Response:
        """Return one node run as JSON."""
        shown = await self._one(request)
        if isinstance(shown, Answer):
            return web.Response(body=shown.body, content_type="application/json")
        return await asyncio.to_thread(_json, shown)

    async def api_session(self, request: web.Request) -> web.Response:
        """Say who asks, and what its actions must bring along."""
        access = access_of(request)
        return _json(SessionShown(access=access.role, csrf_token=access.csrf))

    async def api_document(self, _request: web.Request) -> web.Response:
        """Return the OpenAPI document."""
        body = await asyncio.to_thread(openapi.document, asks=self.guard.asks)
        return web.Response(body=body, content_type="application/json")

    async def _list(self, request: web.Request) -> NodeRunList:
        limit, state = limit_of(request), state_of(request)
        if is_local(request):
            return await self._own_list(limit, state)
        asked = {"limit": limit} if state is None else {"limit": limit, "state": state.value}
        gathered = await self.others.gather("/api/node-runs", NodeRunList, asked)
        return merged([await self._own_list(limit, state), *gathered.answers], limit, gathered.missing)

    async def _own_list(self, limit: int, state: State | None) -> NodeRunList:
        now = self.here.now()
        node_runs, examined = await self.here.latest(now, limit, state)
        return NodeRunList(
            counts=self.here.counts(now),
            node_runs=node_runs,
            examined=examined,
            workers=[self.here.worker_shown()],
            missing=self.here.missing,
            foreign=self.strangers.shown(),
            port=self.here.port_shown(),
        )

    async def _one(self, request: web.Request) -> NodeRunShown | Answer:
        """Return the node run that is asked for: as it is here, or as its owner answers."""
        node_run_id, local = node_run_id_of(request), is_local(request)
        first, limit = first_of(request), limit_of(request, DEFAULT_ITEMS)
        try:
            read = self.here.read(node_run_id, first, limit)
        except NotHereError as error:
            if local:
                raise self.owners.not_here(error) from None
            question = Question(f"/api/node-runs/{node_run_id}", {"from": first, "limit": limit})
            answer = await self.owners.ask(error, question)
            if answer.status != HTTPStatus.OK:
                raise passed_on(answer) from None
            return answer
        except UnreadableRowError as wrong:
            raise unreadable(wrong) from None
        except NoSuchNodeRunError as error:
            message = f"no node run {node_run_id} in partition {error.partition}, which is here"
            raise self.owners.placed(refused(HTTPStatus.NOT_FOUND, "unknown", message), error.partition) from None
        return await asyncio.to_thread(node_run_shown, read)

    # Health and metrics.

    async def healthz(self, _request: web.Request) -> web.Response:
        """Say whether whatever has work makes progress, and if not, what does not.

        That it answers at all says that the event loop turns: a blocked one does not, and the caller's patience ends.
        """
        if (problem := self.watch.problem()) is None:
            return web.Response(text="ok\n")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{problem}\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """Say whether the worker is ready, and in one word why not."""
        obstacle = self.readiness.obstacle()
        if obstacle is None:
            return web.Response(text=f"{self.readiness.word()}\n")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{obstacle.value}\n")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return the metrics in the text format of Prometheus."""
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(shown: Shown) -> web.Response:
    return web.Response(body=shown.to_json(), content_type="application/json")


def _unauthorized(message: str) -> RefusedError:
    return refused(HTTPStatus.UNAUTHORIZED, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def _wants_html(request: web.Request) -> bool:
    return not request.path.startswith("/api/") and "text/html" in request.headers.get("Accept", "")


def _back(request: web.Request) -> str | None:
    """Return the page that has the form which was refused."""
    found = None if request.method == "GET" else _FORM.match(request.rel_url.raw_path)
    return found[1] if found is not None and _is_page(found[1]) else None


def _is_page(place: str) -> bool:
    """Whether this is a page of ours, perhaps with a query: where a login may lead to."""
    path = place.partition("?")[0]
    known = path in _PAGES or _ONE.fullmatch(path) is not None
    known = known or (path.startswith("/node-runs/") and is_node_run_id(path.removeprefix("/node-runs/")))
    return known and place.isascii() and place.isprintable()


def _is_callback(request: web.Request) -> bool:
    # By the route that it has, not by how its path begins: what else a path may come to must not pass the guard.
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical == CALLBACK


def _path(request: web.Request) -> str:
    """Return the path as it may be shown and logged: without a callback's token."""
    return f"{PATH}…" if request.path.startswith(PATH) else request.path[:200]


async def _add_headers(_request: web.Request, answer: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers["Server"] = "port-runs"


def counts_by_reason(samples: Iterable[tuple[str, float]], reasons: Iterable[str]) -> dict[str, int]:
    """Return the counts of messages that were left to others, by reason; reasons that did not occur are left out."""
    counted = Counter({what: int(number) for what, number in samples})
    return {reason: counted[reason] for reason in reasons if counted[reason]}
