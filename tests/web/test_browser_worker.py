"""The pages of two real workers on a real Kafka, in a real browser: looked at, and acted on."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from aiokafka import AIOKafkaProducer
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.load import Load
from tests.e2e.tables import partition_of, partitions_of
from tests.e2e.team import Team
from tests.processes import Cluster, Process
from tests.web.looking import PAGES, looking
from tests.web.serving import need_chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKEN: Final = "a-long-random-token"
HANDLERS: Final = """
import os
from pathlib import Path
from agents import Context, Fail, RetryLater, handles

@handles("echo", concurrency=100)
async def echo(event: dict) -> dict:
    return {"n": event["n"]}

@handles("flaky")
async def flaky(event: dict, ctx: Context) -> dict:
    if not Path(os.environ["WORKS"]).exists():
        raise Fail("the target is down")
    return {"deployed": "checkout"}

@handles("later")
async def later(event: dict, ctx: Context) -> dict:
    if ctx.attempt == 1:
        raise RetryLater("1h", "not yet")
    return {}
"""
_WITHIN: Final = 20_000.0
"""Milliseconds that a node run may take to its end."""


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    """Before a Kafka is started for nothing."""
    need_chromium()


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, the target of `flaky` is up."""
    return tmp_path_factory.mktemp("works") / "works"


@pytest.fixture(scope="module")
def team(kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory, works: Path) -> Iterator[Team]:
    """Two workers, behind a token."""
    folder = tmp_path_factory.mktemp("browser")
    cluster = Cluster(kafka, folder.name.replace("_", "-"), folder, free_port(), HANDLERS)
    with ExitStack() as running:
        running.enter_context(cluster.emulator())
        team = running.enter_context(Team(cluster))
        team.start("one", "two", WEB_TOKEN=TOKEN, WORKS=str(works), SIGNATURE="off")
        team.settled()
        yield team


@pytest.fixture
def one(team: Team) -> Process:
    """The worker that is asked."""
    return team["one"]


async def logged_in(context: BrowserContext, url: str) -> None:
    """Log in as one does."""
    page = await context.new_page()
    await page.goto(url)
    await page.get_by_label("WEB_TOKEN").fill(TOKEN)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await page.close()


async def act(page: Page, name: str) -> None:
    """Do what a form offers: unfold it, and send it."""
    form = page.locator("details.action").filter(has=page.get_by_text(f"{name} …", exact=True))
    await form.locator("summary").click()
    await form.get_by_role("button").click()


def theirs(team: Team, payload: object) -> str:
    """Run a node until one is the other worker's; returns its id."""
    lost = partitions_of(team["two"])
    while partition_of(node_run_id := team.cluster.publish(payload)) not in lost:
        pass
    return node_run_id


def row_of(page: Page, node_run_id: str) -> Locator:
    return page.get_by_role("row").filter(has_text=node_run_id)


async def test_every_page_shows_what_both_workers_have(team: Team, one: Process, one_browser: Browser) -> None:
    ids = await asyncio.to_thread(lambda: [team.cluster.publish({"type": "echo", "n": n}) for n in range(8)])
    assert {partition_of(it) in partitions_of(one) for it in ids} == {True, False}
    url = f"http://127.0.0.1:{one.port}"
    context = await one_browser.new_context()
    await logged_in(context, url)
    async with looking(context, url) as seen:
        for path in ("/", "/node-runs"):
            await seen.goto(path)
            for node_run_id in ids:
                state = row_of(seen.page, node_run_id).locator(".state")
                await expect(state).to_have_text("reported", timeout=_WITHIN)
        for path in [path for path in PAGES if "{" not in path] + ["/handlers/echo"]:
            await seen.goto(path)
            await expect(seen.page.get_by_role("heading", level=1)).to_be_visible()
            await expect(seen.page.get_by_text("are missing")).to_have_count(0)
        for node_run_id in ids:
            await seen.goto(f"/node-runs/{node_run_id}")
            await expect(seen.page.locator(".timeline")).to_contain_text("HTTP 200")
        await seen.goto("/workers")
        for worker in team.running:
            await expect(seen.page.get_by_text(f":{worker.port}")).not_to_have_count(0)


async def test_what_comes_is_seen_at_once_and_filtered(team: Team, one: Process, one_browser: Browser) -> None:
    url = f"http://127.0.0.1:{one.port}"
    context = await one_browser.new_context()
    await logged_in(context, url)
    async with looking(context, url) as seen:
        page = seen.page
        await seen.goto("/node-runs?eventType=later")
        node_run_id = await asyncio.to_thread(theirs, team, {"type": "later"})
        await expect(row_of(page, node_run_id).locator(".state")).to_have_text("deferred", timeout=_WITHIN)
        await page.get_by_label("State").select_option("reported")
        await page.get_by_role("button", name="Search").click()
        await expect(page).to_have_url(re.compile("state=reported&eventType=later"))
        await expect(row_of(page, node_run_id)).to_have_count(0)


async def test_a_failed_node_run_is_retried_to_completion(
    team: Team, one: Process, works: Path, one_browser: Browser
) -> None:
    url = f"http://127.0.0.1:{one.port}"
    context = await one_browser.new_context()
    await logged_in(context, url)
    node_run_id = await asyncio.to_thread(theirs, team, [{"type": "flaky"}, {"type": "later"}])
    async with looking(context, url) as seen:
        page = seen.page
        await seen.goto(f"/node-runs/{node_run_id}")
        await expect(page.get_by_text("the target is down").first).to_be_visible(timeout=_WITHIN)
        await asyncio.to_thread(works.touch)
        await act(page, "Retry item 0")
        await expect(page.locator("#notice")).to_contain_text("Applied")
        await expect(page.locator("#output-0")).to_contain_text("checkout", timeout=_WITHIN)
        await act(page, "Retry item 1")
        await expect(page.locator(".head .result")).to_have_text("SUCCESS", timeout=_WITHIN)
        await expect(page.locator(".timeline")).to_contain_text("HTTP 200")
        await seen.goto("/audit")
        await expect(page.get_by_role("row").filter(has_text=node_run_id)).not_to_have_count(0)


async def test_a_dead_letter_is_edited_and_redriven_to_completion(
    team: Team, one: Process, one_browser: Browser
) -> None:
    url = f"http://127.0.0.1:{one.port}"
    [(run_id, node_run_id)] = await asyncio.to_thread(Load(team.cluster).register, 1)
    broken = {"context": {"workflowRunId": run_id, "nodeRunId": f"{node_run_id}!"}, "payload": {"type": "echo", "n": 7}}
    async with AIOKafkaProducer(bootstrap_servers=team.cluster.kafka.bootstrap) as producer:
        await producer.send_and_wait(f"{team.cluster.org}.runs", json.dumps(broken).encode())
    context = await one_browser.new_context(color_scheme="dark")
    await logged_in(context, url)
    async with looking(context, url) as seen:
        page = seen.page
        await seen.goto("/dead-letters")
        await page.locator("tbody").get_by_role("link").first.click(timeout=_WITHIN)
        await page.get_by_text("Edit and redrive …").click()
        field = page.get_by_role("textbox", name="Message")
        await field.fill((await field.input_value()).replace("!", ""))
        await page.get_by_role("button", name="Redrive", exact=True).click()
        await expect(page.get_by_text(f"{node_run_id} has entered the ledger")).to_be_visible()
        await seen.goto(f"/node-runs/{node_run_id}")
        await expect(page.locator(".head .result")).to_have_text("SUCCESS", timeout=_WITHIN)
        await expect(page.locator("#output-0")).to_contain_text('"n": 7')


async def test_an_open_page_holds_up_no_stop(team: Team, one: Process, one_browser: Browser) -> None:
    url = f"http://127.0.0.1:{one.port}"
    context = await one_browser.new_context()
    await logged_in(context, url)
    page = await context.new_page()
    async with page.expect_response(lambda answer: answer.url.endswith("/events")):
        await page.goto(url)
    began = time.monotonic()
    assert await asyncio.to_thread(one.stop) == 0
    # Faust's server waits up to a minute for answers that are not ended.
    assert time.monotonic() - began < 20
    await expect(page.locator("#live")).to_contain_text("does not answer")
    await context.close()
