"""Runs the embedded Kafka in the foreground: python -m local.kafka --port 9092 --data-dir .data/kafka."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from local.kafka.broker import EmbeddedKafka
from local.kafka.errors import KafkaError


def main() -> int:
    """Run until interrupted and return the exit status: 0 after Ctrl-C or SIGTERM, 1 with a line if Kafka failed."""
    parser = argparse.ArgumentParser(
        prog="python -m local.kafka", description="Runs a single-node Apache Kafka on this machine until Ctrl-C."
    )
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1; 0 picks a free one (default: 9092)")
    parser.add_argument("--data-dir", type=Path, default=Path(".data/kafka"), help="default: .data/kafka")
    options = parser.parse_args()
    for interrupt in (signal.SIGTERM, signal.SIGINT):  # a shell lets its background jobs ignore the second
        signal.signal(interrupt, signal.default_int_handler)
    kafka = EmbeddedKafka(options.data_dir, options.port, progress=_say)
    try:
        kafka.start()
        _watch(kafka)
    except KeyboardInterrupt:
        return 0
    except KafkaError as exc:
        _say(str(exc))
        return 1
    finally:
        kafka.stop()


def _watch(kafka: EmbeddedKafka) -> NoReturn:
    while kafka.running:
        time.sleep(0.5)
    raise KafkaError(f"Kafka has stopped. Its log: {kafka.log_file}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
