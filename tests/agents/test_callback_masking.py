"""Whoever has the URL of a callback can complete the item: no log, output, error or view shows it."""

from __future__ import annotations

import dataclasses
import json
import logging
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from agents import Context, Fail, handles
from agents.callbacks import Callbacks, word
from agents.context import Alone
from agents.contract import declared_in
from agents.execution import Call, Threads, execute
from port.models import LogLevel, LogLine, Result
from port.secrets import Decryption
from streams.records import By, ItemFinished
from tests.agents.examples import context
from web.masking import masked, masked_text

CALLBACKS = Callbacks([SecretStr("k" * 32)], "org", "https://runs.example.com/port")
URL = CALLBACKS.url("wfnr_0123456789", 3, "provision", 3600)
TOKEN = URL.rpartition("/")[2]
WRITINGS = (
    URL,
    f"POST {URL} (for an hour)",
    f"see <{URL}>, please",
    quote(URL, safe=""),
    json.dumps({"callback": {"url": URL}}),
    json.dumps({"callback": {"url": URL}}).replace("/", "\\/"),
    json.dumps(json.dumps({"url": URL}).replace("/", "\\/")),
    f"https://example.com/?next={quote(URL, safe='')}&a=b",
    f"curl -d @x {URL}?a=b",
)


class AsAWorker(Alone):
    """Makes URLs as a worker does, and listens."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def callback_url(self, context: Context, life: float) -> str:
        return URL

    def log(self, context: Context, level: LogLevel, text: str) -> None:
        self.told.append(text)


@handles("masking.logs")
async def logs(event: dict[str, object], ctx: Context) -> dict[str, object]:
    match event["how"]:
        case "log":
            ctx.log("hand over to %s", ctx.callback_url)
            ctx.log("the token is %s", ctx.callback_url.rpartition("/")[2])
        case "fail":
            raise Fail(f"{ctx.callback_url} was refused", {"url": ctx.callback_url})
        case "raise":
            raise ConnectionError(ctx.callback_url)
        case "earlier":
            ctx.log("%s", URL)
    return {"url": URL, "token": URL.rpartition("/")[2] if event["how"] == "log" else ""}


@pytest.mark.parametrize("how", ["log", "fail", "raise", "earlier"])
async def test_nothing_that_a_call_leaves_has_it(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    [handler] = [one for one in declared_in((__name__,)) if one.function is logs]
    host = AsAWorker()
    seen = dataclasses.replace(context({"how": how}), host=host, decryption=Decryption(SecretStr("s" * 32)))
    ended = (await execute(Call(handler, seen, 0, "worker"), Threads())).event
    assert isinstance(ended, ItemFinished)
    left = [ended.model_dump_json(), caplog.text, *host.told]
    assert [text for text in left if TOKEN in text] == []
    if how in ("log", "earlier"):
        assert json.loads(str(ended.output))["url"] == "https://runs.example.com/port/callbacks/***"
        assert host.told[0].endswith("https://runs.example.com/port/callbacks/***")


@pytest.mark.parametrize("text", WRITINGS)
def test_no_view_shows_it_however_it_is_written(text: str) -> None:
    assert TOKEN not in masked_text(text)
    assert TOKEN not in json.dumps(masked({"said": text, "in": [text]}))
    assert "***" in masked_text(text)


@pytest.mark.parametrize("text", ["/callbacks/{token}", "callbacks/complete", "no callbacks", f"other/{TOKEN}"])
def test_other_paths_are_left(text: str) -> None:
    assert masked_text(text) == text


def test_what_the_other_system_says_of_it_is_not_kept() -> None:
    line = LogLine(level=LogLevel.INFO, message=f"called {URL}")
    said = word("wfnr_1", 0, Result.FAILED, By.CALLBACK, output={"u": URL}, error=f"{URL} failed", logs=[line])
    assert TOKEN not in said.model_dump_json()


def test_the_url_itself_is_good() -> None:
    assert CALLBACKS.read(TOKEN) is not None
