"""Two workers that share the partitions, as their clients see them."""

from dataclasses import dataclass

from aiohttp import web
from aiohttp.test_utils import TestClient

from tests.web.fakes import FakeWorker

Client = TestClient[web.Request, web.Application]
TOKEN = "a-long-random-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Pair:
    """The clients of two workers; the first has the even partitions, the second the odd ones."""

    first: Client
    second: Client
    one: FakeWorker
    other: FakeWorker
    ids: tuple[str, str]
    """A node run of each."""
