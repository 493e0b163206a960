"""The views of a worker that has all but Kafka, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from playwright.async_api import Browser

from agents.callbacks import Callbacks as Urls
from streams.progress import Watch
from tests.web.fakes import FakeWorker, an_id, halves
from tests.web.pairs import TOKEN, Client, Pair
from tests.web.serving import browser, need_chromium
from tests.web.sites import URLS, Around, site_of
from web.auth import CSRF_HEADER
from web.others import Others, Peer
from web.series import Step
from web.site import Area

NewClient = Callable[..., Awaitable[Client]]


@dataclass
class LeftAlone:
    why: str
    offset: int
    start: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def one_browser() -> AsyncIterator[Browser]:
    """Chromium, for the tests of a module."""
    need_chromium()
    async with browser() as started:
        yield started


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def left_alone() -> list[LeftAlone]:
    return []


@pytest.fixture
def watch() -> Watch:
    """What `/healthz` asks: of a worker that is well."""
    return Watch([], lambda: False)


@pytest.fixture
def areas() -> list[Area]:
    """Views of modules of their own."""
    return []


@pytest.fixture
def steps() -> list[Step]:
    """The last hour of each worker."""
    return []


@pytest.fixture
def urls() -> Urls:
    return URLS


@pytest.fixture
def peers() -> list[Peer]:
    """The group, as all workers are told."""
    return []


@pytest.fixture
async def new_client(
    worker: FakeWorker,
    left_alone: list[LeftAlone],
    urls: Urls,
    peers: list[Peer],
    watch: Watch,
    areas: list[Area],
    steps: list[Step],
) -> AsyncIterator[NewClient]:
    """Starts the views, with or without tokens, and returns a client of them; of another worker where it is given."""
    clients: list[Client] = []
    all_others: list[Others] = []
    default = worker

    async def start(
        token: str = "", read_token: str = "", *, settled: bool = True, worker: FakeWorker = default, key: str = "k"
    ) -> Client:
        around = Around(token, read_token, key, settled, peers, left_alone, steps, areas=areas, urls=urls, watch=watch)
        site = site_of(worker, around)
        all_others.append(site.others)
        application = web.Application()
        site.install(application)
        application.router.add_post("/api/act", _act)
        client: Client = TestClient(TestServer(application))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()
    for others in all_others:
        await others.close()


@pytest.fixture
async def pair(new_client: NewClient, worker: FakeWorker, peers: list[Peer]) -> Pair:
    other = FakeWorker("host-other")
    halves(worker, other)
    first, second = await new_client(TOKEN), await new_client(worker=other)
    for client, one in ((first, worker), (second, other)):
        one.app.conf.canonical_url = str(client.make_url("")).rstrip("/")
        peers.append(Peer(one.app.incarnation, one.app.conf.canonical_url, frozenset(one.here.partitions)))
    ids = an_id(worker), an_id(other)
    worker.arrive(ids[0])
    other.arrive(ids[1])
    return Pair(first, second, worker, other, ids)


async def acting(new_client: NewClient) -> Client:
    """Start the views without a login, and return a client that may act, as a page of theirs may."""
    client = await new_client()
    session = await (await client.get("/api/session")).json()
    client.session.headers[CSRF_HEADER] = session["csrfToken"]
    return client


async def _act(request: web.Request) -> web.Response:
    """An action: what it is given is what it has done."""
    form = await request.post()
    return web.Response(text=str(form.get("note", "")))
