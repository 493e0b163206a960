"""The pages of a real worker on a real Kafka, in a real browser."""

import asyncio
import time

import pytest
from playwright.async_api import expect

from local.kafka import EmbeddedKafka, free_port
from tests.processes import STARTS_WITHIN, Cluster, eventually, ready
from tests.web.serving import browser, need_chromium


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    """Before a Kafka is started for nothing."""
    need_chromium()


async def test_a_node_run_is_seen_to_its_end_and_an_open_page_holds_up_no_stop(
    kafka: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("browser")
    cluster = Cluster(kafka, folder.name.replace("_", "-"), folder, free_port())
    with cluster.emulator(), cluster.worker("one", PARTITIONS="2") as worker:
        await asyncio.to_thread(eventually, lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        async with browser() as started:
            page = await started.new_page()
            async with page.expect_response(lambda answer: answer.url.endswith("/events")):
                await page.goto(f"http://127.0.0.1:{worker.port}/")
            await expect(page.get_by_text("No node run has come yet")).to_be_visible()
            node_run_id = await asyncio.to_thread(cluster.publish, {"type": "echo", "n": 1})
            row = page.get_by_role("row").filter(has_text=node_run_id)
            await expect(row.locator(".state")).to_have_text("reported", timeout=20_000)
            await row.get_by_role("link").click()
            await expect(page.locator(".timeline")).to_contain_text("Port answered the report: HTTP 200")
            await expect(page.locator("#output-0")).to_contain_text('"n": 1')
            began = time.monotonic()
            assert await asyncio.to_thread(worker.stop) == 0
            # Faust's server waits up to a minute for answers that are not ended.
            assert time.monotonic() - began < 20
            await expect(page.locator("#live")).to_contain_text("does not answer")
