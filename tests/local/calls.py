"""Plain HTTP calls to an emulator, as a client that has nothing of ours would make them."""

import io
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import orjson
from multidict import CIMultiDictProxy
from pydantic import JsonValue

from local.emulator import Emulator
from local.emulator.state import NodeRun, NodeRunSpec

Body = dict[str, JsonValue]
COMPLETED: Body = {"status": "COMPLETED", "result": "SUCCESS", "output": {"a": 1}}


@dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    body: Body
    headers: CIMultiDictProxy[str]

    @property
    def message(self) -> str:
        return str(self.body.get("message"))


class Caller:
    """Calls one emulator, with a token where `token` is set."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.token: str | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        await self.log_in()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def log_in(self) -> Got:
        """Ask for a token with the right credentials, and use it from now on."""
        config = self.emulator.config
        body: Body = {"clientId": config.client_id, "clientSecret": config.client_secret.get_secret_value()}
        got = await self.call("POST", "/v1/auth/access_token", body)
        if got.status == 200:
            self.token = str(got.body["accessToken"])
        return got

    async def call(self, method: str, path: str, body: JsonValue | bytes = None) -> Got:
        """One call; bytes are sent as they are, anything else but None as JSON."""
        raw = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        data = None if raw is None else io.BytesIO(raw)  # aiohttp warns of large bodies as bytes
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        url = self.emulator.base_url + path
        async with self._session.request(method, url, data=data, headers=headers) as response:
            return Got(response.status, orjson.loads(await response.read()), response.headers)

    async def report(self, node_run_id: str, body: JsonValue | bytes, run_id: str | None = None) -> Got:
        """Report a node run, on the form with the run id where that is given."""
        path = f"nodes/runs/{node_run_id}" if run_id is None else f"runs/{run_id}/nodes/{node_run_id}"
        return await self.call("PATCH", f"/v1/workflows/{path}", body)

    def register(self, node_run_id: str = "wfnr_1", run_id: str = "wfr_1", on_failure: str = "terminate") -> NodeRun:
        """Make a node run known."""
        return self.emulator.state.register(NodeRunSpec(node_run_id, run_id, on_failure=on_failure))
