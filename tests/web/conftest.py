"""The views of a worker that has all but Kafka, over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from agents.callbacks import Callbacks as Urls
from streams.messages import Foreign
from tests.web.fakes import FakeWorker
from web.auth import Guard
from web.callbacks import Callbacks
from web.health import Readiness
from web.metrics import Gauges
from web.pages import Pages
from web.site import Site, Strangers

Client = TestClient[web.Request, web.Application]
NewClient = Callable[..., Awaitable[Client]]


@dataclass
class LeftAlone:
    why: str
    offset: int
    start: str


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def left_alone() -> list[LeftAlone]:
    return []


@pytest.fixture
def urls() -> Urls:
    return Urls((SecretStr("k" * 32),), "org", "https://runs.example/prefix")


@pytest.fixture
async def new_client(worker: FakeWorker, left_alone: list[LeftAlone], urls: Urls) -> AsyncIterator[NewClient]:
    """Starts the views, with or without a token, and returns a client of them."""
    clients: list[Client] = []

    async def start(token: str = "", *, settled: bool = True) -> Client:
        readiness = Readiness(worker.worker, worker.here.dispatch, settled=settled)
        registry = CollectorRegistry()
        registry.register(Gauges(worker.here, readiness, {"handler-greet": worker.feeder}))
        site = Site(
            here=worker.here,
            readiness=readiness,
            guard=Guard(token),
            strangers=Strangers(left_alone, lambda: {Foreign.RESOURCE_TYPE.value: 7}),
            registry=registry,
            pages=Pages(),
            callbacks=Callbacks(urls, worker.here, worker.record),
        )
        application = web.Application()
        site.install(application)
        client: Client = TestClient(TestServer(application))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()
