"""The page of the workers: how each does, whichever one is asked, and who is missing."""

from __future__ import annotations

from aiohttp import web

from web.auth import access_of
from web.data import WorkersShown, WorkerStatus
from web.others import Missing, Others, is_local
from web.pages import Pages
from web.status import Status


class Workers:
    """Shows the workers of the group."""

    def __init__(self, status: Status, others: Others, pages: Pages, *, asks: bool) -> None:
        self._status = status
        self._others = others
        self._pages = pages
        self._asks = asks

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        return [web.get("/workers", self.page), web.get("/api/workers", self.api)]

    async def page(self, request: web.Request) -> web.Response:
        """Show them as a page."""
        shown = await self._shown(request)
        return self._pages.answer("workers.html", shown=shown, asks=self._asks, access=access_of(request))

    async def api(self, request: web.Request) -> web.Response:
        """Return them as JSON."""
        return web.Response(body=(await self._shown(request)).to_json(), content_type="application/json")

    async def _shown(self, request: web.Request) -> WorkersShown:
        statuses: list[WorkerStatus] = []
        missing = Missing(partitions=[], workers=[])
        if not is_local(request):
            gathered = await self._others.gather("/api/workers", WorkersShown)
            missing = gathered.missing
            statuses += (status for one in gathered.answers for status in one.workers)
        statuses.append(self._status.shown())
        return WorkersShown(
            asked=statuses[-1].worker,
            workers=sorted(statuses, key=lambda status: status.worker),
            missing=missing.partitions,
            missing_workers=missing.workers,
        )
