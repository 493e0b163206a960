"""What people do by hand in a real browser: with the keyboard, from the form to what came of it."""

import re

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.web.fakes import FakeWorker
from tests.web.looking import looking
from tests.web.serving import served

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def worker() -> FakeWorker:
    return FakeWorker()


async def test_a_retry_by_the_keyboard_is_followed_to_its_end(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", '{"payload":[{"type":"greet"},{"type":"greet"}]}', count=2)
    worker.end("wfnr_a", 0, error="it broke")
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/node-runs/wfnr_a")
        summary = page.get_by_text("Retry item 0 …")
        await summary.focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Retry item 0", exact=True)).to_be_focused()
        await page.keyboard.press("Enter")
        # The page of the node run tells what came of it; loaded again, it asks for nothing again.
        notice = page.locator("#notice")
        await expect(notice).to_contain_text("Applied")
        await expect(notice).to_be_focused()
        await expect(page.get_by_role("heading", name="wfnr_a")).to_be_visible()
        asked = len(worker.asked)
        async with page.expect_response(lambda answer: answer.url.endswith("/events")):
            await page.reload()
        await expect(page.locator(".head .state")).to_have_text("waiting")
        assert len(worker.asked) == asked
        worker.end("wfnr_a", 0, attempt=2)
        worker.end("wfnr_a", 1)
        worker.settle("wfnr_a")
        await expect(page.locator(".head .result")).to_have_text("SUCCESS")


async def test_what_is_refused_says_what_to_do_and_leads_back(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/node-runs/wfnr_a")
        await page.get_by_text("Complete item 0 …").click()
        form = page.locator("details[open] form")
        await form.get_by_label("Result").select_option("FAILED")
        await form.get_by_role("button").click()
        await expect(page.get_by_text("error goes with FAILED, and says why")).to_be_visible()
        seen.expected("422")
        back = page.get_by_role("link", name="Look again")
        await expect(back).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="wfnr_a")).to_be_visible()


async def test_a_dry_run_is_tried_again_with_another_payload(one_browser: Browser, worker: FakeWorker) -> None:
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/handlers")
        await page.get_by_role("link", name="greet").click()
        await page.get_by_text("Dry run …").click()
        field = page.locator("#dry-run textarea")
        await expect(field).to_have_value('{\n  "eventType": "greet",\n  "greet": "greet",\n  "service": "greet"\n}')
        # What is being written is not taken away by an update.
        await field.fill('{"eventType": "greet", "fails": true}')
        worker.run("wfnr_b")
        await page.wait_for_timeout(1500)
        await page.locator("#dry-run").get_by_role("button", name="Dry run").click()
        await expect(page.get_by_text("Nothing was reported to Port")).to_be_visible()
        await expect(page.locator(".item .result")).to_have_text("FAILED")
        await page.get_by_role("textbox", name="Payload").fill('{"eventType": "greet", "name": "Ada"')
        await page.get_by_role("button", name="Dry run").click()
        await expect(page.get_by_role("alert")).to_contain_text("The handler was not called")
        seen.expected("422")
        await page.get_by_role("textbox", name="Payload").press("Control+End")
        await page.keyboard.type("}")
        await page.get_by_role("button", name="Dry run").click()
        await expect(page.locator(".item .result")).to_have_text("SUCCESS")
        await page.reload()
        await expect(page.locator(".item .result")).to_have_text("SUCCESS")
        assert [payload.get("name") for _, payload in worker.tried] == [None, "Ada"], "a reload calls nothing"


async def test_all_that_match_are_discarded(one_browser: Browser, worker: FakeWorker) -> None:
    for offset in range(60):
        worker.post.add(offset, b"x", "it is no JSON" if offset else "its signature is wrong")
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/dead-letters")
        await page.get_by_label("Reason").fill("JSON")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile("reason=JSON"))
        await page.get_by_role("button", name="Discard all").click()
        await expect(page.get_by_role("heading", name="Discard 59 dead letters?")).to_be_visible()
        await page.get_by_label("Note").fill("a test")
        await page.get_by_role("button", name="Discard", exact=True).click()
        await expect(page.get_by_text("discard: 59 of 59 letters")).to_be_visible()
        await expect(page.locator("tbody a")).to_have_text(["0/0"])


async def test_a_repeated_or_stale_action_is_void(one_browser: Browser, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    async with served(worker) as url, looking(await one_browser.new_context(), url) as seen:
        page = seen.page
        await page.goto(f"{url}/node-runs/wfnr_a")
        await page.get_by_text("Cancel …").click()
        # Meanwhile it has ended.
        worker.end("wfnr_a")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await expect(page.get_by_text("nothing was done: it has gone on meanwhile: look again")).to_be_visible()
        seen.expected("409")
        await page.get_by_role("link", name="Look again").click()
        await expect(page.get_by_role("heading", name="wfnr_a")).to_be_visible()
