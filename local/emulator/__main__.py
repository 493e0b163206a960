"""`python -m local.emulator`: the emulator as a process of its own."""

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from pydantic import SecretStr, ValidationError

from local.emulator.config import EmulatorConfig
from local.emulator.faults import RateLimit
from local.emulator.journal import JournalError
from local.emulator.server import Emulator
from port.nodes import Form

_DEFAULTS = EmulatorConfig()
_EPILOG = """\
The client secret may also come from the environment variable PORT_CLIENT_SECRET, the client id from PORT_CLIENT_ID
and the organization id from PORT_ORG_ID: the names that the worker reads.

calls of its own, all JSON:
  POST /emulator/node-runs           start a node run: {"node": {...}, "trigger": {...}}; see local/examples
  POST /emulator/node-runs/register  make node runs known whose messages somebody else publishes
  GET  /emulator/node-runs[/ID]      what became of them
  GET  /emulator/calls?after=SEQ     the record of every call to the API
  PUT  /emulator/faults              switch faults on: {"paths": ["report"], "status": 503, "count": 3}; {} is none
  POST /emulator/tokens/revoke       end the active access token
docs/emulator.md tells more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status: 2 for what the caller must change, said in one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # It logs every one of its many tries to reach a Kafka that is gone; the emulator says that once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        _run(_serve(Emulator(_config(_parser().parse_args(arguments)))))
    except JournalError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_reason(error))
    return 0


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{error.strerror}: choose another --port, or stop what listens there"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def _fail(reason: str) -> int:
    sys.stderr.write(f"emulator: {reason}\n")
    return 2


def _run(serve: Coroutine[None, None, None]) -> None:
    """On uvloop where it is installed: it doubles what the emulator bears."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve)
    else:
        uvloop.run(serve)


async def _serve(emulator: Emulator) -> None:
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with emulator:
        sys.stdout.write(f"listening on {emulator.base_url}\n")
        sys.stdout.flush()
        await stopped.wait()


def _config(given: argparse.Namespace) -> EmulatorConfig:
    return EmulatorConfig(
        host=given.host,
        port=given.port,
        org_id=given.org_id,
        client_id=given.client_id,
        client_secret=SecretStr(given.client_secret),
        kafka=given.kafka,
        kafka_advertised=given.kafka_advertised,
        kafka_username=given.kafka_username,
        kafka_password=SecretStr(given.kafka_password),
        topic_partitions=given.create_topic,
        form=given.form,
        token_seconds=given.token_seconds,
        identical_status=given.identical,
        accept_unknown=given.accept_unknown,
        rate_limit=given.rate_limit,
        record_file=given.record,
        state_dir=given.state_dir,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.emulator",
        description="Emulates Port on this machine: its API, and the workflows that publish Kafka messages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_api_options(parser)
    _add_workflow_options(parser)
    _add_memory_options(parser)
    return parser


def _add_api_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the API").add_argument
    add("--host", default=_DEFAULTS.host, help="address to listen on (%(default)s); anybody who reaches it may use it")
    add("--port", type=int, default=8090, help="port to listen on (%(default)s), 0 for any free one")
    add("--client-id", default=os.environ.get("PORT_CLIENT_ID", _DEFAULTS.client_id), help="the one it accepts")
    secret = os.environ.get("PORT_CLIENT_SECRET", _DEFAULTS.client_secret.get_secret_value())
    add("--client-secret", default=secret, type=_non_empty, help="the one it accepts")
    add("--token-seconds", type=float, default=_DEFAULTS.token_seconds, help="life of a token (%(default)g)")
    add(
        "--identical", type=int, choices=(409, 200), default=409, help="answer to a completion sent again (%(default)s)"
    )
    add("--accept-unknown", action="store_true", help="create unknown node runs at their first report")
    add(
        "--rate-limit",
        type=_rate_limit,
        metavar="port|LIMIT/PERIOD/BURST",
        help="answer 429 above LIMIT calls per PERIOD seconds and BURST at once; 'port' is 15000/300/1500 (off)",
    )


def _add_workflow_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("workflows").add_argument
    add(
        "--org-id", default=os.environ.get("PORT_ORG_ID", _DEFAULTS.org_id), help="publish on ORG_ID.runs (%(default)s)"
    )
    forms = ", ".join(Form)
    add(
        "--form",
        type=Form,
        default=_DEFAULTS.form,
        metavar="FORM",
        help=f"how messages are wrapped that do not say so: {forms} (%(default)s)",
    )
    add("--kafka", metavar="HOST:PORT,…", help="publish on this cluster; without it messages are only rendered")
    add("--create-topic", type=int, metavar="PARTITIONS", help="create the topic where it is missing")
    advertised = "brokers in the answer to GET /v1/kafka-credentials (default: those of --kafka)"
    add("--kafka-advertised", metavar="HOST:PORT,…", help=advertised)
    add("--kafka-username", default=_DEFAULTS.kafka_username, help="in the answer to GET /v1/kafka-credentials")
    password = _DEFAULTS.kafka_password.get_secret_value()
    add("--kafka-password", default=password, help="in the answer to GET /v1/kafka-credentials")


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("memory").add_argument
    add("--record", type=Path, metavar="FILE", help="append every call to the API to FILE, as JSON lines")
    add("--state-dir", type=Path, metavar="DIR", help="remember the node runs in DIR over a restart")


def _non_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _rate_limit(text: str) -> RateLimit:
    if text == "port":
        return RateLimit()
    try:
        limit, period, burst = text.split("/")
        return RateLimit(limit=int(limit), period=float(period), burst=int(burst))
    except (ValueError, ValidationError) as error:
        raise argparse.ArgumentTypeError("must be 'port' or LIMIT/PERIOD/BURST, such as 15000/300/1500") from error


if __name__ == "__main__":
    sys.exit(main())
