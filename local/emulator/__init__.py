"""An emulator of Port: its API, the workflow side that publishes Kafka messages, and faults to switch on.

    async with Emulator(EmulatorConfig(kafka="127.0.0.1:9092")) as emulator:
        published = await emulator.publish(PublishRequest(node=…, trigger=…))

On the command line: `python -m local.emulator --help`. docs/emulator.md tells how to test handlers with it.
"""

from local.emulator.config import EmulatorConfig
from local.emulator.faults import FaultRule, FaultSettings, RateLimit
from local.emulator.journal import JournalError
from local.emulator.server import Emulator
from local.emulator.workflow import Published, PublishError, PublishRequest

__all__ = [
    "Emulator",
    "EmulatorConfig",
    "FaultRule",
    "FaultSettings",
    "JournalError",
    "PublishError",
    "PublishRequest",
    "Published",
    "RateLimit",
]
