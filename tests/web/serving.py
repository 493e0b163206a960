"""The views of a fake worker on a real HTTP server, and Chromium to look at them."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer
from playwright.async_api import Browser, async_playwright

from streams.samples import Samples
from tables.overview import LATEST
from tests.web.fakes import NOON, FakeWorker
from tests.web.sites import Around, site_of
from web.charts import Bucket
from web.index import Index
from web.others import Peer
from web.search import Lists
from web.series import Series
from web.site import CALLBACK, LeftAlone

NO_PAGES: Final = frozenset({"/healthz", "/readyz", "/metrics", "/events", "/find", CALLBACK})
"""What answers a GET, and is no page of its own."""
PATIENCE: Final = 5.0
"""Seconds that workers wait for each other here, where a browser takes its part of the machine."""


def chromium() -> str | None:
    """The distribution's Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def need_chromium() -> None:
    """Skip the test where there is no Chromium. Where CI promises one its absence fails, at the start of it."""
    if chromium() is None and os.environ.get("CI") != "true":
        # tests/conftest.py counts them by these words, in one line.
        pytest.skip("there is no Chromium, so the pages are not seen in a browser")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium, without a window."""
    # Its own sandbox needs another user than root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield started
        await started.close()


@dataclass(frozen=True)
class Served:
    """The views of a worker, and where they are."""

    url: str
    server: BaseTestServer
    application: web.Application

    def pages(self) -> set[str]:
        """Return the routes of pages: all that answer a GET, but what is for programs."""
        routes = [route for route in self.application.router.routes() if route.method == "GET"]
        paths = {route.resource.canonical for route in routes if route.resource is not None}
        return {path for path in paths - NO_PAGES if not path.startswith("/api/")}


@asynccontextmanager
async def running(worker: FakeWorker, around: Around) -> AsyncIterator[Served]:
    """Serve all views of a worker, those of its index, too."""
    with TemporaryDirectory() as folder:
        index = Index(Path(folder) / "views.sqlite")
        await index.start()
        try:
            async with _running(worker, around, index) as served:
                yield served
        finally:
            await index.stop()


@asynccontextmanager
async def _running(worker: FakeWorker, around: Around, index: Index) -> AsyncIterator[Served]:
    for partition, node_run_id in worker.overview.latest(LATEST):
        run = worker.ledger.run(partition, node_run_id)
        assert run is not None
        index.changed(partition, run)
    site = site_of(worker, around)
    series = Series(worker.app.incarnation, lambda: 0, dict, lambda: 0, Samples(), Samples(), lambda: NOON)
    series.step()
    site = replace(site, areas=[*site.areas, series, Lists(site.here, index, site.others, site.pages)])
    application = web.Application()
    site.install(application)
    worker.overview.followers.append(index)
    try:
        async with TestServer(application) as server:
            url = worker.app.conf.canonical_url = str(server.make_url("")).rstrip("/")
            yield Served(url, server, application)
    finally:
        worker.overview.followers.remove(index)
        await site.others.close()


@asynccontextmanager
async def served(
    worker: FakeWorker,
    token: str = "",
    buckets: Sequence[Bucket] = (),
    samples: Sequence[LeftAlone] = (),
    read_token: str = "",
) -> AsyncIterator[str]:
    """Serve the views of a worker, and yield where."""
    around = Around(token, read_token, buckets=buckets, samples=samples, patience=PATIENCE)
    async with running(worker, around) as views:
        yield views.url


@asynccontextmanager
async def paired(one: FakeWorker, other: FakeWorker, around: Around) -> AsyncIterator[tuple[Served, Served]]:
    """Serve two workers that know each other."""
    peers: list[Peer] = [*around.peers]
    around = replace(around, peers=peers, patience=PATIENCE)
    async with running(one, around) as first, running(other, around) as second:
        for worker, views in ((one, first), (other, second)):
            peers.append(Peer(worker.app.incarnation, views.url, frozenset(worker.here.partitions)))
        yield first, second
