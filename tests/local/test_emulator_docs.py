import re
from pathlib import Path

import orjson
import pytest

from tests.local.calls import Caller

DOCS = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text()
CALLS = re.findall(r"curl -s( -X PUT)? http://127\.0\.0\.1:8090(\S+) -d '(.*?)'\n", DOCS, re.DOTALL)


def test_the_page_shows_calls() -> None:
    assert len(CALLS) == 3


@pytest.mark.parametrize(("put", "path", "body"), CALLS)
async def test_each_call_that_the_page_shows_works(caller: Caller, put: str, path: str, body: str) -> None:
    got = await caller.call("PUT" if put else "POST", path, orjson.loads(body))
    assert got.status == 200, got.message
