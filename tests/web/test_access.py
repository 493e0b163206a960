"""Who may act: the read-only token, and forms and calls that a browser was tricked into."""

import re

import pytest

from tests.web.conftest import NewClient
from tests.web.pairs import Client
from web.auth import CSRF_HEADER, SESSION_COOKIE

TOKEN = "a-long-random-token"
READ = "another-long-random-token"
ACT = "/api/act"


async def session_of(client: Client, token: str) -> dict[str, str]:
    given = await client.post("/login", data={"token": token}, allow_redirects=False)
    assert given.status == 303
    # The session is what the test sends, not what the client remembers.
    client.session.cookie_jar.clear()
    return {"Cookie": f"{SESSION_COOKIE}={given.cookies[SESSION_COOKIE].value}"}


async def csrf_of(client: Client, headers: dict[str, str]) -> str:
    told = await (await client.get("/api/session", headers=headers)).json()
    return str(told["csrfToken"])


@pytest.mark.parametrize("by", ["bearer", "session"])
async def test_the_read_token_sees_everything_and_does_nothing(new_client: NewClient, by: str) -> None:
    client = await new_client(TOKEN, READ)
    headers = {"Authorization": f"Bearer {READ}"} if by == "bearer" else await session_of(client, READ)
    for path in ("/", "/workers", "/api/node-runs", "/api/workers", "/metrics"):
        assert (await client.get(path, headers=headers)).status == 200
    assert (await (await client.get("/api/session", headers=headers)).json())["access"] == "read"
    csrf = {CSRF_HEADER: await csrf_of(client, headers)}
    answer = await client.post(ACT, data={"note": "x"}, headers=headers | csrf)
    assert (answer.status, (await answer.json())["error"]) == (403, "read-only")
    assert (await client.post("/logout", headers=headers, allow_redirects=False)).status == 303


async def test_a_bearer_token_needs_nothing_else(new_client: NewClient) -> None:
    client = await new_client(TOKEN, READ)
    answer = await client.post(ACT, data={"note": "x"}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status, await answer.text()) == (200, "x")


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_a_browser_needs_the_token_of_its_session(new_client: NewClient, token: str) -> None:
    client = await new_client(token)
    headers = await session_of(client, token) if token else {}
    right = await csrf_of(client, headers)
    assert len(right) == 64
    for data, more in (({"csrf_token": right}, {}), ({}, {CSRF_HEADER: right})):
        done = await client.post(ACT, data={"note": "x"} | data, headers=headers | more)
        assert (done.status, await done.text()) == (200, "x")
    wrong = re.sub("^.", lambda found: "1" if found[0] == "0" else "0", right)
    for data, more in (({}, {}), ({"csrf_token": wrong}, {}), ({}, {CSRF_HEADER: wrong}), ({"csrf_token": ""}, {})):
        refused = await client.post(ACT, data={"note": "x"} | data, headers=headers | more)
        assert (refused.status, (await refused.json())["error"]) == (403, "csrf")
        assert right not in await refused.text()


async def test_the_token_of_another_session_does_not_fit(new_client: NewClient) -> None:
    client = await new_client(TOKEN)
    one, other = await session_of(client, TOKEN), await session_of(client, TOKEN)
    headers = one | {CSRF_HEADER: await csrf_of(client, other)}
    assert (await client.post(ACT, headers=headers)).status == 403


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_page_of_another_origin_is_refused(new_client: NewClient, token: str, origin: str) -> None:
    client = await new_client(token)
    headers = await session_of(client, token) if token else {}
    headers |= {CSRF_HEADER: await csrf_of(client, headers)}
    assert (await client.post(ACT, headers=headers | {"Origin": origin})).status == 403
    own = f"http://{client.host}:{client.port}"
    assert (await client.post(ACT, headers=headers | {"Origin": own})).status == 200


async def test_nothing_without_a_session(new_client: NewClient) -> None:
    client = await new_client(TOKEN, READ)
    assert (await client.post(ACT, data={"note": "x"})).status == 401
