"""The command line of the demo."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local.demo.errors import DemoError
from local.kafka.net import is_free

_EPILOG = """\
With make, options go into DEMO_ARGS, on the command line or in the environment:
  make demo DEMO_ARGS="--web-port 6067 --once"
  make demo DEMO_ARGS="--handlers my_handlers"
"""


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    kafka_port: int
    emulator_port: int
    receiver_port: int
    mail_port: int
    web_port: int
    data_dir: Path
    handlers: tuple[str, ...]
    once: bool
    follow_parent: bool

    def require_ports(self) -> None:
        """Raise DemoError, naming the option to change, where a port is taken or asked for twice."""
        ports = {
            "kafka": self.kafka_port,
            "emulator": self.emulator_port,
            "receiver": self.receiver_port,
            "mail": self.mail_port,
            "web": self.web_port,
        }
        if len(set(ports.values())) < len(ports):
            *others, last = (f"--{name}-port" for name in ports)
            raise DemoError(f"{', '.join(others)} and {last} must differ.", 2)
        for name, port in ports.items():
            if not is_free(port):
                advice = f"--{name}-port (make demo DEMO_ARGS='--{name}-port N')"
                raise DemoError(f"Port {port} is in use: stop what listens there, or choose another with {advice}.", 2)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options; argparse ends the process, with status 2, where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m local.demo",
        description=(
            "Starts Kafka, the Port emulator and a worker on this machine, runs the four example workflows through "
            "them, and stays up until Ctrl-C. Data stay between starts."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kafka-port", type=_port, default=9092, metavar="N", help="port of Kafka (%(default)s)")
    add("--emulator-port", type=_port, default=8090, metavar="N", help="port of the Port emulator (%(default)s)")
    add(
        "--receiver-port",
        type=_port,
        default=8091,
        metavar="N",
        help="port of what stands for Slack and other services (%(default)s)",
    )
    add("--mail-port", type=_port, default=8025, metavar="N", help="port of its mail server (%(default)s)")
    add("--web-port", type=_port, default=6066, metavar="N", help="port of the worker's web view (%(default)s)")
    add("--data-dir", type=Path, default=Path(".data"), metavar="DIR", help="data and logs (%(default)s)")
    add(
        "--handlers",
        type=_modules,
        default=(),
        metavar="MODULES",
        help="your own modules with handlers, in this folder, separated by commas; the examples stay",
    )
    add("--once", action="store_true", help="end when the examples are complete; status 1 if they are not within 60 s")
    add("--follow-parent", action="store_true", help="end when the parent process is interrupted or gone, as make is")
    return Options(**vars(parser.parse_args(arguments)))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("must be a number from 1 to 65535")
    return int(text)


def _modules(text: str) -> tuple[str, ...]:
    modules = tuple(part.strip() for part in text.split(","))
    if any(module.endswith(".py") or not all(map(str.isidentifier, module.split("."))) for module in modules):
        raise argparse.ArgumentTypeError("must be names of modules separated by commas, as in an import: without .py")
    return modules
