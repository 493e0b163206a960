"""The OpenAPI document: all routes and nothing else are in it, and every answer is as it says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agents.callbacks import PATH as CALLBACKS
from tests.web.conftest import NewClient
from tests.web.fakes import FakeWorker
from tests.web.probing import Document, aimed, probe
from tests.web.seeding import EVENT_TYPES, LETTERS, node_run_id_of, seed, team
from tests.web.serving import Served, paired, running
from tests.web.sites import URLS, Around
from web import openapi

TOKEN = "a-long-random-token"
READ = "another-long-random-token"
DOCUMENTED = {(one.method.upper(), one.path) for one in openapi.OPERATIONS}
MORE = 42
"""Further node runs, which wait for a retry, and dead letters that can be redriven."""
FOR_PROGRAMS = frozenset({"/metrics", "/healthz", "/readyz"})
ROUTES = """
import json
from web.views import server
print(json.dumps([[one.method, one.resource.canonical] for one in server.web_app.router.routes()]))
"""


def of_programs(routes: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return what programs ask. A callback's address takes a GET only to explain that it takes none."""
    return {
        (method, path)
        for method, path in routes
        if method != "HEAD"
        and (path.startswith("/api/") or path in FOR_PROGRAMS or (path.startswith(CALLBACKS) and method == "POST"))
    }


def routes_of(application: web.Application) -> set[tuple[str, str]]:
    return {(one.method, one.resource.canonical) for one in application.router.routes() if one.resource is not None}


async def test_the_routes_of_the_views_are_those_of_the_document(worker: FakeWorker) -> None:
    async with running(worker, Around()) as views:
        assert of_programs(routes_of(views.application)) == DOCUMENTED


def test_the_routes_of_a_worker_are_those_of_the_document(tmp_path: Path) -> None:
    settings = {
        "PORT_ORG_ID": "org",
        "PORT_CLIENT_ID": "client",
        "PORT_CLIENT_SECRET": "secret",
        "HANDLERS": "examples.handlers",
    }
    done = subprocess.run(
        [sys.executable, "-c", ROUTES],
        env={"PATH": os.environ["PATH"]} | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert of_programs((method, path) for method, path in json.loads(done.stdout)) == DOCUMENTED


def test_every_reference_leads_somewhere() -> None:
    text = openapi.document(asks=True).decode()
    schemas = json.loads(text)["components"]["schemas"]
    referred = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred == schemas.keys()


async def told(views: Served) -> Document:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        answer = await session.get(f"{views.url}/api/openapi.json")
        found: Document = await answer.json()
        return found


async def test_whatever_is_asked_every_answer_is_as_documented(tmp_path: Path) -> None:
    one, other = team()
    seed(one, other)
    for number in range(MORE):
        node_run_id = f"wfnr_more{number}"
        owner = one if one.here.partition_of(node_run_id) in one.here.partitions else other
        owner.arrive(node_run_id)
        owner.defer(node_run_id)
        raw = json.dumps({"context": {"nodeRunId": f"wfnr_again{number}"}, "payload": {"type": "greet"}})
        one.post.add(100 + number, raw.encode())
    letters, bulk = [*range(100, 90 + MORE), *LETTERS], range(90 + MORE, 100 + MORE)
    known: dict[str, Sequence[object]] = {
        "node_run_id": [node_run_id_of(number) for number in range(26)] + [f"wfnr_more{n}" for n in range(MORE)],
        "event_type": EVENT_TYPES * 2,
        "partition": [0],
        "offset": letters,
        "index": [0, 0, 1, 2],
        "token": [URLS.url(node_run_id_of(22), 0, EVENT_TYPES[2], 3600).rpartition("/")[2]],
    }
    async with paired(one, other, Around(TOKEN, READ)) as (views, _):
        # That is the event type which is dealt to the last of the operations on handlers.
        payloads = [{"eventType": EVENT_TYPES[1], "service": "checkout"}]
        ids = {"nodeRunId": ["wfnr_published"], "workflowRunId": ["wfr_published"]}
        bodies: dict[str, dict[str, Sequence[object]]] = {
            "BulkBody": {"letters": [f"0/{offset}" for offset in bulk]},
            "TryBody": {"payload": payloads},
            "PublishBody": {"payload": payloads, **ids},
        }
        document = aimed(await told(views), known, bodies)
        probed = await probe(document, views.url, TOKEN, tmp_path, 8)
    assert probed.status == 0, probed.said
    assert probed.server_errors() == {}, probed.said
    assert probed.answers.keys() == {f"{method} {path}" for method, path in DOCUMENTED}
    assert probed.never_met() == [], probed.answers
    assert sum(counts.total() for counts in probed.answers.values()) > 1500


@pytest.mark.parametrize("method, path", sorted(DOCUMENTED))
async def test_who_is_let_in_is_documented(new_client: NewClient, method: str, path: str) -> None:
    asked = path.format(node_run_id="wfnr_a", index=0, event_type="greet", partition=0, offset=0, token="x")
    described = json.loads(openapi.document(asks=True))["paths"][path][method.lower()]
    client = await new_client(TOKEN, READ)
    bare = await client.request(method, asked, json={})
    reading = await client.request(method, asked, json={}, headers={"Authorization": f"Bearer {READ}"})
    if described["security"]:
        assert bare.status == 401
        assert (reading.status == 403) == (method == "POST")
    else:
        assert not {bare.status, reading.status} & {401, 403}

    open_client = await new_client()
    described = json.loads(openapi.document(asks=False))["paths"][path][method.lower()]
    alone = await open_client.request(method, asked, json={})
    assert (alone.status == 403) == bool(described["security"])
