"""Scripts in every field that comes from outside, in a real browser: none runs, and each is shown as text."""

import json
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.web.conftest import LeftAlone
from tests.web.corpus import ALL, SCRIPTS, infected, number_of, strangers
from tests.web.fakes import PORT, FakeWorker
from tests.web.looking import BULK, PAGES, Seen, looking
from tests.web.seeding import last_hour
from tests.web.serving import paired, served
from tests.web.sites import Around

pytestmark = pytest.mark.asyncio(loop_scope="module")
# What is shown of each script on a page of many; the others are about one thing.
LISTS: Final = {
    path: f"{path}?limit=500"
    for path in PAGES.values()
    if not path.startswith(("/node-runs/", "/dead-letters/", "/handlers/"))
}
MORE: Final = [
    "/dead-letters?all=1&limit=500",
    "/?state=refused&limit=500",
    "/node-runs?state=deferred&limit=500",
    "/stuck?why=paused&limit=500",
    BULK,
]
# One thing a page: what is made of it is the same for each script, and lists have all of them.
SOME: Final = [*SCRIPTS][::3]
_guarded = pytest.mark.parametrize("seen", ["with the policy"], indirect=True, scope="module")
_WATCH: Final = """
addEventListener("DOMContentLoaded", () => {
  const seen = () => { document.documentElement.dataset.updated = ""; };
  const content = document.getElementById("content");
  if (content !== null) new MutationObserver(seen).observe(content, { childList: true });
});
"""
# What templates make, and nothing else: whatever is not in here came out of a field.
_INTRUDERS: Final = """() => {
  const known = new Set(("a article b body button code dd details div dl dt figcaption figure form h1 h2 h3 head "
    + "header html input kbd label li link main meta nav ol option p path pre rect script section select small span "
    + "strong style summary svg table tbody td textarea th thead time title tr ul").split(" "));
  const once = { main: 1, script: 1, style: 1, title: 1, link: 1, meta: 3, header: 1 };
  const wrong = [];
  // The one link that leads elsewhere, with an id that was checked.
  const toPort = (one, name, value) => one.localName === "a" && name === "href" && one.rel === "noreferrer noopener"
    && one.textContent === "Open in Port"
    && /^https:\\/\\/app\\.getport\\.io\\/organization\\/run\\?runId=wfr_[A-Za-z0-9_-]{1,64}$/.test(value);
  let links = 0;
  for (const one of document.querySelectorAll("*")) {
    if (!known.has(one.localName)) wrong.push(one.outerHTML.slice(0, 200));
    for (const { name, value } of one.attributes) {
      if (/^on|^srcdoc$|^style$/i.test(name)) wrong.push(`${one.localName} ${name}=${value}`);
      const leads = /^(href|src|action|formaction|data|xlink:href)$/i.test(name) && one.localName !== "link";
      if (!leads || new URL(value, location.href).origin === location.origin) continue;
      if (!toPort(one, name, value) || ++links > 1) wrong.push(`${name}=${value}`);
    }
  }
  for (const [name, number] of Object.entries(once)) {
    const found = document.getElementsByTagName(name).length;
    if (found > number) wrong.push(`${found} ${name}`);
  }
  return wrong;
}"""
_TEXT: Final = """() => [
  document.getElementById("content").textContent,
  ...[...document.querySelectorAll("#content textarea, #content input")].map((one) => one.value),
].join("\\n")"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url() -> AsyncIterator[str]:
    one, other = infected()
    samples = [LeftAlone(script, number, script) for number, script in enumerate(ALL)]
    around = Around(peers=strangers(), samples=samples, steps=last_hour())
    async with paired(one, other, around) as (first, _):
        yield first.url


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["with the policy", "without"])
async def seen(request: pytest.FixtureRequest, one_browser: Browser, url: str) -> AsyncIterator[Seen]:
    """A page that stays; without the policy a script that gets into it runs, and nothing else stops it."""
    context = await one_browser.new_context(bypass_csp=request.param == "without")
    await context.add_init_script(_WATCH)
    async with looking(context, url) as seen:
        yield seen


@pytest.fixture(autouse=True)
def _anew(request: pytest.FixtureRequest) -> None:
    """What went wrong in one test is that one's alone."""
    if "seen" in request.fixturenames:
        request.getfixturevalue("seen").wrong.clear()


async def check(seen: Seen) -> None:
    """Nothing of what is shown has become more than text."""
    assert await seen.page.evaluate(_INTRUDERS) == []
    assert await seen.page.evaluate("typeof window.__pwned") == "undefined"
    assert seen.wrong == []


async def updated(page: Page) -> None:
    """Wait until the page has taken its content over anew, with a parser of its own."""
    await page.locator("html[data-updated]").wait_for(state="attached")


def as_shown(script: str) -> str:
    """Return a script as the text of a page has it: a parser of HTML leaves NUL out."""
    return script.replace("\0", "")


@pytest.mark.parametrize("path", [*LISTS.values(), *MORE])
async def test_none_runs_in_a_list(seen: Seen, path: str) -> None:
    await seen.goto(path)
    await check(seen)
    if path != BULK:
        await updated(seen.page)
        await check(seen)
    text = await seen.page.evaluate(_TEXT)
    assert [script for script in ALL if as_shown(script)[:80] not in text] == []


@_guarded
async def test_none_runs_in_the_reasons_of_the_overview(seen: Seen) -> None:
    await seen.goto("/")
    await check(seen)
    # Workers that are none, lags, what keeps the source away; of each event type a place that is waited for.
    for place, texts in ((".problems", ALL), (".small", ALL), (".now", ALL[:1])):
        shown = " ".join(await seen.page.locator(place).all_text_contents())
        assert [script for script in texts if as_shown(script) not in shown] == [], place
    await updated(seen.page)
    await check(seen)


@_guarded
@pytest.mark.parametrize("name", SCRIPTS)
async def test_none_runs_in_a_node_run(seen: Seen, name: str) -> None:
    script = as_shown(SCRIPTS[name])
    await seen.goto(f"/node-runs/wfnr_{number_of(name)}")
    await check(seen)
    await updated(seen.page)
    await check(seen)
    text = await seen.page.evaluate(_TEXT)
    # Workflow and the rest, error, trace, lines, Port's reasons, who asked; as JSON message and output.
    assert text.count(script) >= 14
    assert as_json(SCRIPTS[name]) in text
    moments = await seen.page.locator(".timeline").evaluate("(one) => one.textContent")
    # What is long is cut there.
    assert moments.count(script[:200]) >= 8
    assert await seen.page.get_by_role("link", name="Open in Port").count() == 0, "its workflow run has no proper id"


@_guarded
@pytest.mark.parametrize("name", SOME)
async def test_none_runs_in_a_call_that_is_made_and_the_link_to_port_leads_there(seen: Seen, name: str) -> None:
    await seen.goto(f"/node-runs/wfnr_runs{number_of(name)}")
    await check(seen)
    moments = await seen.page.locator(".timeline").evaluate("(one) => one.textContent")
    assert moments.count(as_shown(SCRIPTS[name])) >= 2
    await seen.goto(f"/node-runs/wfnr_failed{number_of(name)}")
    await check(seen)
    link = seen.page.get_by_role("link", name="Open in Port")
    assert await link.get_attribute("href") == f"{PORT}wfr_{number_of(name)}"
    assert await link.get_attribute("target") is None


@_guarded
@pytest.mark.parametrize("name", SCRIPTS)
async def test_none_runs_in_a_dead_letter(seen: Seen, name: str) -> None:
    number = number_of(name)
    await seen.goto(f"/dead-letters/0/{number}")
    await check(seen)
    written = await seen.page.locator("textarea").input_value()
    await seen.goto(f"/dead-letters/0/{1000 + number}")
    await check(seen)
    # A parser of HTML leaves no NUL in a field.
    assert written == SCRIPTS[name].replace("\0", "\ufffd")


@_guarded
@pytest.mark.parametrize("name", SOME)
async def test_none_runs_in_what_is_asked_for(seen: Seen, name: str) -> None:
    script = SCRIPTS[name]
    given = quote(script, safe="")
    await seen.goto(
        f"/node-runs?eventType={given[:199]}&workflow={quote(script[:200], safe='')}&text=x&after=0.0,wfnr_a"
    )
    await check(seen)
    assert as_shown(script)[:150].replace("\n", "") in (await seen.page.evaluate(_TEXT)).replace("\n", "")
    for path in (
        f"/find?id={given}",
        f"/?state={given}",
        f"/failures?within={given}",
        f"/node-runs?after=0.0,{given}",
        f"/nothing/{given}",
        f"/node-runs/{given}",
    ):
        await seen.goto(path)
        seen.expected("400 (Bad Request)", "404 (Not Found)")
        await check(seen)


@_guarded
@pytest.mark.parametrize("name", SCRIPTS)
async def test_none_runs_in_a_handler(seen: Seen, name: str) -> None:
    script = SCRIPTS[name]
    await seen.goto(f"/handlers/{quote(script, safe='')}")
    await check(seen)
    await updated(seen.page)
    await check(seen)
    text = await seen.page.evaluate(_TEXT)
    # Heading, function, place and final exceptions; the other worker.
    assert text.count(as_shown(script)) >= 4
    # The schema, and the example made of it.
    assert text.count(as_json(script)) >= 4


@_guarded
@pytest.mark.parametrize("name", SOME)
async def test_none_runs_in_what_was_tried(seen: Seen, name: str) -> None:
    script = SCRIPTS[name]
    await seen.goto(f"/handlers/{quote(script, safe='')}")
    await seen.page.get_by_text("Dry run …").click()
    payload = json.dumps({"fails": True, script: script})
    await seen.page.locator("#dry-run textarea").fill(payload)
    await seen.page.get_by_role("button", name="Dry run").click()
    await seen.page.get_by_role("heading", name="FAILED").wait_for()
    await check(seen)
    # Error, log line and trace.
    assert (await seen.page.evaluate(_TEXT)).count(as_json(script)) >= 3
    await seen.page.locator("textarea").fill(script)
    await seen.page.get_by_role("button", name="Dry run").click()
    await seen.page.get_by_role("alert").wait_for()
    seen.expected("422")
    await check(seen)
    # A parser of HTML leaves no NUL in a field.
    assert script.replace("\0", "\ufffd")[:10] in await seen.page.locator("textarea").input_value()


@_guarded
@pytest.mark.parametrize("name", SOME)
async def test_none_runs_in_what_was_done(seen: Seen, name: str) -> None:
    await seen.goto("/handlers")
    handler = seen.page.get_by_role("article").nth(sorted(ALL).index(SCRIPTS[name]))
    await handler.locator("summary").click()
    await handler.get_by_role("button").click()
    await seen.page.locator("#notice").get_by_text("Applied").wait_for()
    await check(seen)
    assert as_shown(SCRIPTS[name]) in await seen.page.evaluate(_TEXT)


@_guarded
@pytest.mark.parametrize(
    "path", ["/api/search?limit=500", "/api/node-runs?limit=500", "/api/dead-letters", "/api/audit"]
)
async def test_none_runs_in_json(seen: Seen, path: str) -> None:
    answer = await seen.page.goto(seen.url + path)
    assert answer is not None
    assert answer.headers["content-type"].startswith("application/json")
    assert await seen.page.evaluate("typeof window.__pwned") == "undefined"
    assert json.loads(await answer.text())
    assert seen.wrong == []


def as_json(script: str) -> str:
    """Return a script as JSON is shown: with the characters that are not ASCII as they are."""
    return json.dumps(script, ensure_ascii=False)


async def test_the_watch_would_see_one(one_browser: Browser) -> None:
    async with served(FakeWorker()) as url:
        for without in (False, True):
            context: BrowserContext = await one_browser.new_context(bypass_csp=without)
            async with looking(context, url) as seen:
                await seen.page.goto(url)
                await seen.page.evaluate(
                    "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=__pwned=1>')"
                )
                await seen.page.wait_for_function("window.__pwned" if without else "document.images[0].complete")
                assert await seen.page.evaluate(_INTRUDERS) == [
                    '<img src="x" onerror="__pwned=1">',
                    "img onerror=__pwned=1",
                ]
                assert any("policy" in text.lower() for text in seen.wrong) is not without
                seen.wrong.clear()
