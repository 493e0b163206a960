"""`python -m tests.web.screenshots`: writes the pictures of the README to docs/images.

With a folder: pictures of every page to that folder, light and dark, wide and narrow, to look at.
"""

import asyncio
import sys
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser

from tests.web.seeding import THREE_ITEMS, last_hour, node_run_id_of, seed, team
from tests.web.serving import browser, paired
from tests.web.sites import Around

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
WIDE, NARROW = 1240, 390
PAGES = {
    "overview": "/",
    "node-runs": "/node-runs",
    "node-run": f"/node-runs/{node_run_id_of(THREE_ITEMS)}",
    "waiting": f"/node-runs/{node_run_id_of(22)}",
    "failures": "/failures",
    "dead-letters": "/dead-letters?all=1",
    "dead-letter": "/dead-letters/0/3",
    "bytes": "/dead-letters/0/4",
    "stuck": "/stuck",
    "handlers": "/handlers",
    "handler": "/handlers/deployment.requested",
    "paused-handler": "/handlers/infrastructure.requested",
    "workers": "/workers",
    "audit": "/audit",
    "refused": "/node-runs/wfnr_unknown",
    "empty": "/node-runs?text=nothing",
}


async def _take(
    chromium: Browser, url: str, file: Path, scheme: Literal["light", "dark"], width: int, height: int | None
) -> None:
    page = await chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": height or 900})
    await page.goto(url)
    await page.screenshot(path=file, full_page=height is None)
    await page.close()


async def readme(chromium: Browser, url: str) -> None:
    """Write the pictures of the README, light and dark."""
    for scheme in SCHEMES:
        await _take(chromium, f"{url}/", IMAGES / f"overview-{scheme}.png", scheme, WIDE, 900)
        await _take(chromium, f"{url}{PAGES['node-run']}", IMAGES / f"node-run-{scheme}.png", scheme, WIDE, 1000)


async def everything(chromium: Browser, url: str, folder: Path) -> None:
    """Write pictures of every page, light and dark, wide and narrow."""
    for name, path in PAGES.items():
        for width, scheme in ((WIDE, SCHEMES[0]), (WIDE, SCHEMES[1]), (NARROW, SCHEMES[0])):
            await _take(chromium, url + path, folder / f"{name}-{width}-{scheme}.png", scheme, width, None)


async def main(arguments: list[str]) -> None:
    """Write the pictures."""
    workers = team()
    seed(*workers)
    around = Around(steps=last_hour())
    async with browser() as chromium, paired(*workers, around) as (first, _):
        if arguments:
            await everything(chromium, first.url, Path(arguments[0]))
        else:
            await readme(chromium, first.url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
