"""`python -m bench`, which `make bench` runs."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench.errors import BenchError
from bench.fairness import measure_fairness
from bench.figures import Figures
from bench.options import Options, parse
from bench.report import Page, Report
from bench.rounds import measure
from bench.screen import Screen
from bench.trial import new_place, run_trial
from bench.views import measure_views
from local.demo.interrupts import follow_parent
from local.kafka import EmbeddedKafka, KafkaError

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return the exit status: 0 when there is a result, whether it meets the targets or not."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.follow_parent:
        follow_parent()
    screen = Screen()
    for made in (options.data_dir, options.profile):
        if made is not None:
            made.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=options.data_dir)).absolute()
    try:
        report = _measure(options, folder, screen)
    except KeyboardInterrupt:
        screen.end()
        shutil.rmtree(folder)
        return _INTERRUPTED
    except (BenchError, KafkaError) as error:
        screen.end()
        sys.stderr.write(f"bench: {error}\nAll logs stand in {folder}\n")
        return 1
    shutil.rmtree(folder)
    _tell(report, options)
    return 0


def _measure(options: Options, folder: Path, screen: Screen) -> Page:
    with EmbeddedKafka(folder / "kafka", progress=screen.line) as kafka:
        if options.fairness:
            fairness = uvloop.run(measure_fairness(options, new_place(kafka, folder / "fairness"), screen))
            screen.end()
            return fairness

        if options.views:
            views = uvloop.run(measure_views(options, new_place(kafka, folder / "views"), screen))
            screen.end()
            return views

        async def trial(subject: str, name: str) -> Figures:
            return await run_trial(subject, options, new_place(kafka, folder / name), screen)

        report = Report(options, uvloop.run(measure(options, trial, screen)))
        screen.end()
        return report


def _tell(report: Page, options: Options) -> None:
    if options.json is not None:
        options.json.write_bytes(report.to_json())
    if options.markdown:
        sys.stdout.write(report.markdown() + "\n")
    else:
        report.show()


if __name__ == "__main__":
    sys.exit(main())
