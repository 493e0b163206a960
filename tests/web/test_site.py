"""The routes over HTTP: who gets in, what is refused and how, and that nothing hostile gets through unescaped."""

import html
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from port.trouble import Trouble, TroubleKind
from streams.records import Settled
from tests.agents.examples import context
from tests.web.conftest import LeftAlone, NewClient
from tests.web.fakes import NOON, FakeWorker
from web import pages
from web.auth import SESSION_COOKIE
from web.pages import SHOWN_CHARACTERS

TOKEN = "a-long-random-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROWSER = {"Accept": "text/html,application/xhtml+xml"}
GUARDED = [
    "/",
    "/node-runs/wfnr_a",
    "/api/node-runs",
    "/api/node-runs/wfnr_a",
    "/metrics",
    "/nothing",
    "/healthz/x",
    "/events",
]
HOSTILE = "\"'></pre></script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


class Elements(HTMLParser):
    """The elements of a page, and their text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


class TestToken:
    @pytest.mark.parametrize("path", GUARDED)
    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Cookie": f"{SESSION_COOKIE}=1.2"}])
    async def test_nothing_without_it(self, new_client: NewClient, path: str, headers: dict[str, str]) -> None:
        client = await new_client(TOKEN)
        answer = await client.get(path, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "wfnr_" not in (await answer.text()).replace(path, "")

    @pytest.mark.parametrize("path", ["/", "/api/node-runs", "/metrics"])
    async def test_all_with_it(self, new_client: NewClient, path: str) -> None:
        client = await new_client(TOKEN)
        assert (await client.get(path, headers=BEARER)).status == 200

    async def test_not_in_the_address(self, new_client: NewClient) -> None:
        client = await new_client(TOKEN)
        assert (await client.get(f"/api/node-runs?token={TOKEN}")).status == 401

    async def test_health_is_for_all_and_tells_nothing(self, new_client: NewClient) -> None:
        client = await new_client(TOKEN)
        assert await (await client.get("/healthz")).text() == "ok\n"
        assert await (await client.get("/readyz", headers={"Host": "pod.example:6066"})).text() == "ready\n"

    async def test_under_any_host_name(self, new_client: NewClient) -> None:
        client = await new_client(TOKEN)
        assert (await client.get("/", headers=BEARER | {"Host": "runs.example.com"})).status == 200


class TestLogin:
    async def test_in_and_out(self, new_client: NewClient, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        client = await new_client(TOKEN)
        asked = await client.get("/node-runs/wfnr_a", headers=BROWSER)
        assert asked.status == 401
        assert {"type": "hidden", "name": "wanted", "value": "/node-runs/wfnr_a"} in Elements(await asked.text()).named(
            "input"
        )

        form = {"token": TOKEN, "wanted": "/node-runs/wfnr_a"}
        given = await client.post("/login", data=form, allow_redirects=False)
        assert (given.status, given.headers["Location"]) == (303, "/node-runs/wfnr_a")
        cookie = given.cookies[SESSION_COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/", "")
        assert TOKEN not in cookie.value

        session = {"Cookie": f"{SESSION_COOKIE}={cookie.value}"}
        page = await client.get("/node-runs/wfnr_a", headers=BROWSER | session)
        assert page.status == 200
        assert {"method": "post", "action": "/logout"} in Elements(await page.text()).named("form")
        left = await client.post("/logout", headers=session, allow_redirects=False)
        assert (left.status, left.cookies[SESSION_COOKIE].value) == (303, "")

    @pytest.mark.parametrize("data", [{"token": "wrong"}, {}, {"token": "x" * 5000}, b"\xff\xfe=%ff", b"token"])
    async def test_a_wrong_token(self, new_client: NewClient, data: dict[str, str] | bytes) -> None:
        client = await new_client(TOKEN)
        answer = await client.post("/login", data=data, headers=BROWSER)
        assert answer.status == 401
        assert "That is not the token" in await answer.text()
        assert not answer.cookies

    @pytest.mark.parametrize(
        "wanted",
        [
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "/metrics",
            "/node-runs/x",
            "/audit?a\r\nSet-Cookie: b=c",
        ],
    )
    async def test_it_leads_to_no_other_place(self, new_client: NewClient, wanted: str) -> None:
        client = await new_client(TOKEN)
        given = await client.post("/login", data={"token": TOKEN, "wanted": wanted}, allow_redirects=False)
        assert given.headers["Location"] == "/"

    async def test_behind_tls_the_cookie_is_secure(self, new_client: NewClient) -> None:
        client = await new_client(TOKEN)
        given = await client.post(
            "/login", data={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
        )
        assert given.cookies[SESSION_COOKIE]["secure"] is True

    async def test_there_is_none_without_a_token(self, new_client: NewClient) -> None:
        client = await new_client()
        assert (await client.post("/login", data={"token": ""})).status == 404


class TestHost:
    @pytest.mark.parametrize("path", GUARDED)
    async def test_no_foreign_name_on_loopback(self, new_client: NewClient, path: str) -> None:
        client = await new_client()
        answer = await client.get(path, headers={"Host": "rebound.example:6066"})
        assert answer.status == 403
        assert (await answer.json())["error"] == "foreign-host"


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "status", "error"),
        [
            ("/api/node-runs?limit=0", 400, "bad-query"),
            ("/api/node-runs?limit=501", 400, "bad-query"),
            ("/api/node-runs?limit=x", 400, "bad-query"),
            ("/api/node-runs?limit=%D9%A1", 400, "bad-query"),
            ("/api/node-runs?limit=" + "9" * 5000, 400, "bad-query"),
            ("/api/node-runs?state=done", 400, "bad-query"),
            ("/api/node-runs/wfnr_a?from=-1", 400, "bad-query"),
            ("/api/node-runs/wfr_a", 400, "malformed-id"),
            ("/api/node-runs/wfnr_a%0A", 400, "malformed-id"),
            ("/api/node-runs/wfnr_" + "a" * 65, 400, "malformed-id"),
            ("/api/node-runs/wfnr_..%2F..%2Fx", 400, "malformed-id"),
            ("/api/node-runs/wfnr_absent", 404, "unknown"),
            ("/api/nothing", 404, "not-found"),
            ("/table/", 404, "not-found"),
        ],
    )
    async def test_clear_words(self, new_client: NewClient, path: str, status: int, error: str) -> None:
        client = await new_client()
        answer = await client.get(path)
        assert answer.status == status
        told = await answer.json()
        assert told["error"] == error
        assert 10 < len(told["message"]) < 300

    async def test_another_method(self, new_client: NewClient) -> None:
        client = await new_client()
        answer = await client.delete("/api/node-runs")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")

    async def test_another_workers_node_run(self, new_client: NewClient, worker: FakeWorker) -> None:
        partition = worker.here.partition_of("wfnr_a")
        worker.lose(partition)
        client = await new_client()
        answer = await client.get("/api/node-runs/wfnr_a?scope=worker")
        assert answer.status == 421
        told = await answer.json()
        assert (told["error"], told["partition"], told["worker"]) == ("not-here", partition, "host-0123abcd")
        assert "another worker" in told["message"]
        assert (await (await client.get("/api/node-runs")).json())["missing"] == [partition]

    async def test_while_the_worker_starts(self, new_client: NewClient, worker: FakeWorker) -> None:
        worker.lose(worker.here.partition_of("wfnr_a"))
        client = await new_client(settled=False)
        answer = await client.get("/api/node-runs/wfnr_a")
        assert (answer.status, (await answer.json())["error"]) == (503, "starting")
        assert answer.headers["Retry-After"] == "2"

    @pytest.mark.parametrize(("given", "status", "where"), [("wfnr_a", 303, "/node-runs/wfnr_a"), ("//x", 400, None)])
    async def test_the_field_leads_to_node_runs_alone(
        self, new_client: NewClient, given: str, status: int, where: str | None
    ) -> None:
        client = await new_client()
        answer = await client.get("/find", params={"id": given}, allow_redirects=False)
        assert (answer.status, answer.headers.get("Location")) == (status, where)

    async def test_for_people_as_a_page(self, new_client: NewClient) -> None:
        client = await new_client()
        answer = await client.get("/node-runs/wfnr_absent", headers=BROWSER)
        assert answer.status == 404
        assert "no node run wfnr_absent" in Elements(await answer.text()).text

    async def test_a_node_run_whose_row_cannot_be_read(self, new_client: NewClient, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        worker.arrive("wfnr_b")
        store = worker.rows.stores[worker.here.partition_of("wfnr_a")]
        store[b"o/wfnr_a"] = b'{"password":"s3cret"}'
        client = await new_client()
        answer = await client.get("/api/node-runs/wfnr_a")
        assert (answer.status, (await answer.json())["error"]) == (500, "unreadable")
        page = Elements(await (await client.get("/node-runs/wfnr_a", headers=BROWSER)).text()).text
        assert "o/wfnr_a in partition" in page
        assert "end it with the command complete" in page
        assert "s3cret" not in page
        [other] = (await (await client.get("/api/node-runs")).json())["nodeRuns"]
        assert other["nodeRunId"] == "wfnr_b"
        overview = await (await client.get("/api/overview")).json()
        assert [row["key"] for row in overview["unreadable"]] == ["o/wfnr_a"]
        front = Elements(await (await client.get("/", headers=BROWSER)).text())
        assert "Rows of the ledger that cannot be read" in front.text
        assert "/node-runs/wfnr_a" in [link["href"] for link in front.named("a")]
        metrics = await (await client.get("/metrics")).text()
        assert 'port_runs_unreadable_rows{kind="open node run"} 1.0' in metrics

    async def test_a_view_that_breaks_tells_nothing(
        self,
        new_client: NewClient,
        worker: FakeWorker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def breaks(partition: int, key: bytes) -> bytes:
            raise RuntimeError("s3cret")

        worker.arrive("wfnr_a")
        monkeypatch.setattr(worker.rows, "get", breaks)
        client = await new_client()
        answer = await client.get("/api/node-runs")
        assert answer.status == 500
        assert "s3cret" not in await answer.text()
        assert "s3cret" in caplog.text


class TestReady:
    async def test_a_worker_whose_credentials_were_good_goes_on_and_takes_callbacks(
        self, new_client: NewClient, worker: FakeWorker
    ) -> None:
        worker.app.port.trouble = Trouble(TroubleKind.CREDENTIALS, NOON, "HTTP 401: no")
        client = await new_client()
        assert (await client.get("/readyz")).status == 200
        page = await (await client.get("/", headers=BROWSER)).text()
        assert "refuses us" in page
        assert "All is well" not in page
        assert "port_runs_credentials_refused 1.0" in await (await client.get("/metrics")).text()

    @pytest.mark.parametrize(
        "why", ["starting", "stopping", "rebalancing", "no-partitions", "recovering", "credentials"]
    )
    async def test_one_word_why_not(self, new_client: NewClient, worker: FakeWorker, why: str) -> None:
        match why:
            case "stopping":
                # It drains: Faust has not begun to stop yet.
                worker.app.stopping = True
            case "rebalancing":
                worker.app.rebalancing = True
            case "no-partitions":
                worker.app.owned = frozenset()
            case "credentials":
                worker.app.port.trouble = Trouble(TroubleKind.CREDENTIALS, NOON, "HTTP 401: no")
                worker.app.port.logged_in = False
            case "recovering":
                worker.here.dispatch.active.discard(0)
        client = await new_client(settled=why != "starting")
        answer = await client.get("/readyz")
        assert (answer.status, await answer.text()) == (503, f"{why}\n")
        assert (await client.get("/healthz")).status == 200
        assert "port_runs_ready 0.0" in await (await client.get("/metrics")).text()


class TestList:
    async def test_limit_and_state(self, new_client: NewClient, worker: FakeWorker) -> None:
        for number in range(60):
            worker.arrive(f"wfnr_{number}")
        worker.end("wfnr_7")
        client = await new_client()
        everything = await (await client.get("/api/node-runs")).json()
        assert [run["nodeRunId"] for run in everything["nodeRuns"]] == [f"wfnr_{number}" for number in range(59, 9, -1)]
        assert everything["counts"] == {
            "waiting": 59,
            "running": 0,
            "deferred": 0,
            "reporting": 1,
            "reported": 0,
            "refused": 0,
            "cancelled": 0,
            "completed": 0,
        }
        assert everything["scope"] == "all workers"
        assert everything["workers"] == [
            {"worker": "host-0123abcd", "url": "http://127.0.0.1:6066", "partitions": list(range(8))}
        ]
        assert everything["missing"] == []
        some = await (await client.get("/api/node-runs?limit=1&state=reporting")).json()
        assert [(run["nodeRunId"], run["items"], run["result"]) for run in some["nodeRuns"]] == [
            ("wfnr_7", 1, "SUCCESS")
        ]

    async def test_what_is_left_to_others(self, new_client: NewClient, left_alone: list[LeftAlone]) -> None:
        left_alone.append(LeftAlone("resourceType", 4, '{"resourceType":"run","token":"t0k3n","x":"<b>'))
        client = await new_client()
        told = await (await client.get("/api/node-runs")).json()
        assert told["foreign"]["counts"] == {"resourceType": 7}
        assert told["foreign"]["samples"][0]["start"] == '{"resourceType":"run","token":"***","x":"<b>'
        page = await (await client.get("/", headers=BROWSER)).text()
        assert "t0k3n" not in page
        assert "<b>" not in page.replace("<b>0</b>", "")

    async def test_an_empty_page(self, new_client: NewClient) -> None:
        client = await new_client()
        assert "No node run has come yet" in await (await client.get("/", headers=BROWSER)).text()
        assert "None of the latest is refused" in await (await client.get("/?state=refused", headers=BROWSER)).text()

    async def test_metrics(self, new_client: NewClient, worker: FakeWorker) -> None:
        worker.arrive("wfnr_a")
        worker.run("wfnr_a")
        held = worker.wait("wfnr_b")
        worker.holding.hold(held, time.time(), lambda: None)
        client = await new_client()
        answer = await client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        lines = (await answer.text()).splitlines()
        assert 'port_runs_node_runs{state="running"} 1.0' in lines
        assert 'port_runs_queue_running{agent="handler-greet"} 1.0' in lines
        assert 'port_runs_queue_waiting{agent="handler-greet"} 1.0' in lines
        assert "port_runs_held_items 1.0" in lines
        assert "port_runs_owned_partitions 8.0" in lines
        assert "port_runs_offset_interventions_total 3.0" in lines

    async def test_a_port_that_answers_is_not_spoken_of(self, new_client: NewClient, worker: FakeWorker) -> None:
        client = await new_client()
        assert "unreachable" not in await (await client.get("/", headers=BROWSER)).text()
        told = (await (await client.get("/api/node-runs")).json())["port"]
        assert told == {
            "unreachableSince": None,
            "trouble": None,
            "reportsWaiting": 0,
            "parked": 0,
            "oldestReceivedAt": None,
            "oldestWaitsSince": None,
            "rateLimitRemaining": None,
            "rateLimit": None,
        }
        lines = (await (await client.get("/metrics")).text()).splitlines()
        assert {"port_runs_port_unreachable_seconds 0.0", "port_runs_rate_limit_remaining NaN"} <= set(lines)

    async def test_since_when_port_is_unreachable(self, new_client: NewClient, worker: FakeWorker) -> None:
        worker.app.port.unreachable_since = time.time() - 90
        worker.app.port.trouble = Trouble(TroubleKind.ERRORS, time.time() - 90, "HTTP 500: token=hunter2")
        worker.app.port.budget.remaining = 12
        client = await new_client()
        assert "No report waits." in await (await client.get("/", headers=BROWSER)).text()
        for node_run_id in ("wfnr_a", "wfnr_b", "wfnr_c"):
            worker.arrive(node_run_id)
            worker.end(node_run_id)
            worker.report(node_run_id)
        worker.settle("wfnr_c")
        worker.report("wfnr_c")
        page = " ".join(Elements(await (await client.get("/", headers=BROWSER)).text()).text.split())
        assert "UTC: Port's API answers with errors (HTTP 500: token=***). Wait until Port is well again" in page
        assert "Port's API does not answer" not in page
        assert "2 reports wait, the oldest for a node run received 2027-01-15 08:00:01" in page
        told = (await (await client.get("/api/node-runs")).json())["port"]
        assert (told["reportsWaiting"], told["rateLimitRemaining"]) == (2, 12)
        assert told["oldestReceivedAt"].startswith("2027-01-15T08:00:01")
        assert told["unreachableSince"].startswith("20")
        assert (told["trouble"]["kind"], told["trouble"]["since"][:2]) == ("errors", "20")
        lines = (await (await client.get("/metrics")).text()).splitlines()
        [away] = (float(line.split()[-1]) for line in lines if line.startswith("port_runs_port_unreachable_seconds "))
        assert 90 <= away < 120
        assert "port_runs_rate_limit_remaining 12.0" in lines


class TestHostileContent:
    @pytest.fixture
    def hostile(self, worker: FakeWorker) -> FakeWorker:
        payload = json.dumps({"payload": [{HOSTILE: HOSTILE}, {}]})
        fields = {"event_types": (HOSTILE,), "workflow": HOSTILE, "node": HOSTILE}
        worker.arrive("wfnr_a", text=payload, count=2, **fields)
        worker.end("wfnr_a", 0, output=json.dumps({HOSTILE: HOSTILE}))
        worker.end("wfnr_a", 1, error=HOSTILE, trace=HOSTILE)
        worker.settle("wfnr_a", Settled.REFUSED, HOSTILE)
        return worker

    @pytest.mark.parametrize("path", ["/", "/node-runs/wfnr_a"])
    async def test_it_is_text_and_nothing_else(
        self, new_client: NewClient, hostile: FakeWorker, left_alone: list[LeftAlone], path: str
    ) -> None:
        left_alone.append(LeftAlone(HOSTILE, 1, HOSTILE))
        client = await new_client()
        answer = await client.get(path, headers=BROWSER)
        assert answer.status == 200
        page = await answer.text()
        elements = Elements(page)
        assert "alert(1)" in elements.text
        assert "{{ 7*7 }}" in elements.text
        assert len(elements.named("script")) == len(elements.named("style")) == 1
        assert not elements.named("img")
        for _, attributes in elements.found:
            assert not any(name.startswith("on") for name in attributes)
            assert "style" not in attributes
        nonce = elements.named("script")[0]["nonce"]
        assert elements.named("style")[0]["nonce"] == nonce
        policy = answer.headers["Content-Security-Policy"]
        assert f"script-src 'nonce-{nonce}'" in policy
        assert "default-src 'none'" in policy
        assert html.escape(HOSTILE, quote=False) not in page.split("<main")[0]

    async def test_a_stack_trace_progress_and_what_is_held_are_on_the_page(
        self, new_client: NewClient, worker: FakeWorker
    ) -> None:
        worker.arrive("wfnr_a", count=3)
        worker.end("wfnr_a", 0, error="KeyError: 'x'", trace="Traceback of the call\n  token=abc")
        work = worker.run("wfnr_a", 1)
        worker.telling.progress(context(index=1), 3, 10)
        worker.holding.hold(replace(work, index=2), time.time(), lambda: None)
        client = await new_client()
        text = Elements(await (await client.get("/node-runs/wfnr_a", headers=BROWSER)).text()).text
        assert "Traceback of the call\n  token=***" in text
        assert "Progress: 3 of 10." in text
        assert "No handler for this event type: held until" in text

    async def test_in_a_query_and_a_path(self, new_client: NewClient) -> None:
        client = await new_client()
        for path in ("/?state=%3Cscript%3Ealert(1)%3C/script%3E", "/node-runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E"):
            answer = await client.get(path, headers=BROWSER)
            assert answer.status == 400
            assert len(Elements(await answer.text()).named("script")) == 0

    async def test_a_nonce_serves_once(self, new_client: NewClient) -> None:
        client = await new_client()
        policies = {(await client.get("/", headers=BROWSER)).headers["Content-Security-Policy"] for _ in range(3)}
        assert len(policies) == 3

    async def test_what_is_long_is_cut_on_the_page_and_whole_in_the_api(
        self, new_client: NewClient, worker: FakeWorker
    ) -> None:
        worker.arrive("wfnr_a")
        worker.end("wfnr_a", output=json.dumps({"a": "x" * 300_000}))
        client = await new_client()
        page = await (await client.get("/node-runs/wfnr_a", headers=BROWSER)).text()
        assert SHOWN_CHARACTERS < len(page) < 2 * SHOWN_CHARACTERS
        assert "further characters" in page
        assert len((await (await client.get("/api/node-runs/wfnr_a")).json())["items"][0]["output"]["a"]) == 300_000


@pytest.mark.parametrize(
    "path", ["/", "/api/node-runs", "/healthz", "/readyz", "/metrics", "/nothing", "/api/node-runs/x"]
)
async def test_every_answer_has_its_headers(new_client: NewClient, path: str) -> None:
    client = await new_client()
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "port-runs"


def test_no_template_lets_anything_through_unescaped() -> None:
    for path in (Path(pages.__file__).parent / "templates").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|\bon[a-z]+=|javascript:", text), path
