from collections.abc import AsyncIterator

import pytest

from local.emulator import Emulator
from tests.local.calls import Caller


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as one:
        yield one


@pytest.fixture
async def caller(emulator: Emulator) -> AsyncIterator[Caller]:
    async with Caller(emulator) as one:
        yield one
