"""What the tests in a browser look for on a page, whichever it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from playwright.async_api import BrowserContext, Dialog, Page

from tests.web.seeding import THREE_ITEMS, node_run_id_of

PAGES: Final = {
    "/": "/",
    "/node-runs": "/node-runs",
    "/node-runs/{node_run_id}": f"/node-runs/{node_run_id_of(THREE_ITEMS)}",
    "/failures": "/failures",
    "/dead-letters": "/dead-letters",
    "/dead-letters/{partition}/{offset}": "/dead-letters/0/3",
    "/stuck": "/stuck",
    "/handlers": "/handlers",
    "/handlers/{event_type}": "/handlers/deployment.requested",
    "/workers": "/workers",
    "/audit": "/audit",
}
"""An address for each route of a page, where `tests.web.seeding` has brought what it shows."""
BULK: Final = "bulk"
REFUSED: Final = "/node-runs/wfnr_unknown"
LOOKED_AT: Final = (*PAGES.values(), BULK, REFUSED)
_TELL_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} is violated`));
"""


@dataclass
class Seen:
    """A page, and what went wrong on it."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)

    async def goto(self, path: str) -> None:
        """Open a page of the views: by its address, or as one gets there."""
        if path != BULK:
            await self.page.goto(self.url + path)
            return
        await self.page.goto(f"{self.url}/dead-letters")
        for box in await self.page.get_by_role("checkbox").all():
            await box.check()
        await self.page.get_by_role("button", name="Discard").click()
        await self.page.get_by_role("button", name="Discard", exact=True).wait_for()

    def expected(self, *words: str) -> None:
        """Forget what went wrong with one of these words in it, as it was to."""
        self.wrong[:] = [text for text in self.wrong if not any(word in text for word in words)]


@asynccontextmanager
async def looking(context: BrowserContext, url: str) -> AsyncIterator[Seen]:
    """Open a page; at the end nothing has gone wrong on it: no error, no dialog, no violation of the policy."""
    seen = Seen(await context.new_page(), url)

    async def dialog(one: Dialog) -> None:
        seen.wrong.append(f"a dialog: {one.message}")
        await one.dismiss()

    seen.page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    seen.page.on("console", lambda said: seen.wrong.append(said.text) if said.type == "error" else None)
    seen.page.on("dialog", dialog)
    seen.page.set_default_timeout(10_000)
    await context.add_init_script(_TELL_VIOLATIONS)
    yield seen
    assert seen.wrong == [], seen.wrong
    await context.close()
