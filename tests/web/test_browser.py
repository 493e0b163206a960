"""The pages in a real browser, over a fake worker behind a real server."""

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.web.fakes import FakeWorker, lines
from tests.web.looking import looking
from tests.web.seeding import last_hour
from tests.web.serving import served

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOKEN = "a-long-random-token"


@pytest_asyncio.fixture(loop_scope="module")
async def worker() -> FakeWorker:
    return FakeWorker()


async def test_a_page_shows_at_once_what_comes(one_browser: Browser, worker: FakeWorker) -> None:
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(url)
        await expect(page.get_by_text("No node run has come yet")).to_be_visible()
        async with page.expect_response(lambda answer: answer.url.endswith("/events")):
            await page.reload()
        worker.arrive("wfnr_a")
        await page.get_by_role("link", name="wfnr_a").click()
        await expect(page.locator(".head .state")).to_have_text("waiting")
        worker.end("wfnr_a", error="it broke", trace="Traceback: here")
        await expect(page.locator(".head .result")).to_have_text("FAILED")
        # What somebody has opened stays open, what is folded stays folded.
        await page.get_by_text("Stack trace").click()
        await page.get_by_text("The message, with secrets masked").click()
        worker.settle("wfnr_a")
        await expect(page.locator(".timeline")).to_contain_text("Port answered the report: HTTP 200")
        await expect(page.get_by_text("Traceback: here")).to_be_visible()
        await expect(page.locator("#payload-0 pre")).to_be_hidden()


async def test_many_lines_of_a_call_are_folded_and_stay_as_somebody_left_them(
    one_browser: Browser, worker: FakeWorker
) -> None:
    worker.arrive("wfnr_a")
    worker.defer("wfnr_a", logs=lines("one of a few", "two of a few"))
    worker.defer("wfnr_a", attempt=2, logs=lines(*[f"one of many: {number}" for number in range(8)]))
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/node-runs/wfnr_a")
        await expect(page.get_by_text("two of a few")).to_be_visible()
        await expect(page.get_by_text("one of many: 7")).to_be_hidden()
        await page.get_by_text("8 log lines").click()
        worker.end("wfnr_a", attempt=3)
        await expect(page.locator(".timeline")).to_contain_text("attempt 3 started")
        await expect(page.get_by_text("one of many: 7")).to_be_visible()


async def test_pause_is_remembered(one_browser: Browser, worker: FakeWorker) -> None:
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(url)
        await page.get_by_role("button", name="Pause updates").click()
        await page.reload()
        resume = page.get_by_role("button", name="Resume updates")
        await expect(resume).to_have_attribute("aria-pressed", "true")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        worker.arrive("wfnr_a")
        # Longer than the pace of changes, so that an update would have come.
        await page.wait_for_timeout(1500)
        assert asked == []
        await expect(page.get_by_role("link", name="wfnr_a")).to_have_count(0)
        await resume.click()
        await expect(page.get_by_role("link", name="wfnr_a")).to_be_visible()


async def test_without_a_stream_the_page_asks(
    one_browser: Browser, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.live.MOST_STREAMS", 0)
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(url)
        worker.arrive("wfnr_a")
        await expect(page.get_by_role("link", name="wfnr_a")).to_be_visible(timeout=10_000)
        assert [text for text in seen.wrong if "503" not in text] == []
        seen.wrong.clear()


async def test_a_filter_stands_in_the_address(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.arrive("wfnr_b")
    worker.end("wfnr_b")
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(url)
        await page.get_by_role("link", name="1 waiting").click()
        await expect(page).to_have_url(f"{url}/?state=waiting")
        await expect(page.locator("tbody a")).to_have_text(["wfnr_a"])
        await page.goto(f"{url}/?state=reporting")
        await expect(page.locator("tbody a")).to_have_text(["wfnr_b"])


async def test_login(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    async with served(worker, TOKEN) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/node-runs/wfnr_a")
        field = page.get_by_label("WEB_TOKEN")
        await field.fill("wrong")
        await field.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        await page.goto(f"{url}/node-runs/wfnr_a")
        await field.fill(TOKEN)
        await field.press("Enter")
        await expect(page.get_by_role("heading", name="wfnr_a")).to_be_visible()
        # The stream passes the guard with the session.
        async with page.expect_response(lambda answer: answer.url.endswith("/events")) as told:
            await page.reload()
        assert (await told.value).status == 200
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert [text for text in seen.wrong if "401" not in text] == []
        seen.wrong.clear()


async def test_light_and_dark(one_browser: Browser, worker: FakeWorker) -> None:
    colors = []
    async with served(worker) as url:
        for scheme in ("light", "dark"):
            context = await one_browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
            async with looking(context, url) as seen:
                await seen.page.goto(url)
                colors.append(await seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colors == ["rgb(245, 246, 248)", "rgb(12, 15, 20)"]


async def test_the_keyboard(one_browser: Browser, worker: FakeWorker) -> None:
    for name in ("wfnr_a", "wfnr_b", "wfnr_c"):
        worker.arrive(name)
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(url)
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the content")).to_be_focused()
        for key, focused in (("j", "wfnr_c"), ("j", "wfnr_b"), ("j", "wfnr_a"), ("j", "wfnr_a"), ("k", "wfnr_b")):
            await page.keyboard.press(key)
            await expect(page.get_by_role("link", name=focused)).to_be_focused()
        # An update leaves the focus where it is.
        worker.arrive("wfnr_d")
        await expect(page.get_by_role("link", name="wfnr_d")).to_be_visible()
        await expect(page.get_by_role("link", name="wfnr_b")).to_be_focused()
        await page.keyboard.press("/")
        await page.keyboard.type("wfnr_a")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{url}/node-runs/wfnr_a")


async def test_local_time_is_remembered(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    context = await one_browser.new_context(timezone_id="Asia/Jerusalem")
    async with served(worker) as url, looking(context, url) as seen:
        page = seen.page
        await page.goto(url)
        received = page.locator("td time")
        await expect(received).to_have_text("2027-01-15 08:00:01")
        await page.get_by_role("button", name="UTC").click()
        await expect(received).to_have_text("2027-01-15 10:00:01")
        await page.reload()
        await expect(received).to_have_text("2027-01-15 10:00:01")
        await expect(page.get_by_text("Received (local)")).to_be_visible()


async def test_without_a_script_all_is_there_to_read(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.end("wfnr_a")
    context = await one_browser.new_context(java_script_enabled=False)
    async with served(worker, steps=last_hour()) as url, looking(context, url) as seen:
        page = seen.page
        await page.goto(url)
        await expect(page.get_by_role("img", name="Latency, at most 2.2 s")).to_be_visible()
        await expect(page.get_by_role("button", name="Pause updates")).to_be_hidden()
        await page.get_by_role("link", name="wfnr_a").click()
        await expect(page.get_by_text('"said": "hello"')).to_be_visible()
        await expect(page.locator(".timeline > li")).to_have_count(5)
