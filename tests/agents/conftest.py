from collections.abc import AsyncIterator, Iterator

import pytest

from examples.handlers.settings import settings
from tests.agents.outside import Configure, Web, serving


@pytest.fixture
async def hook() -> AsyncIterator[Web]:
    async with serving() as one:
        yield one


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Sets the variables, for loopback servers allowed."""

    def set_(**values: str) -> None:
        here = {"OUTGOING_HTTP": "allow", "OUTGOING_PRIVATE": "allow", "PUBLIC_URL": "https://runs.example.com"}
        for name, value in (here | values).items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield set_
    settings.cache_clear()
