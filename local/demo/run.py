"""A run of the demo from the command line to the exit status."""

from local.demo.errors import DemoError
from local.demo.interrupts import follow_parent, ignore_signals
from local.demo.options import parse
from local.demo.screen import Screen
from local.demo.session import Session
from local.kafka import KafkaError

_KILLED = 130


def run() -> int:
    """Run the demo and return its exit status: 0 after Ctrl-C, 130 after a second one."""
    options = parse()
    if options.follow_parent:
        follow_parent()
    screen = Screen()
    session = Session(options, screen)
    status = _until_the_end(session, screen)
    try:
        session.stop()
    except KeyboardInterrupt:
        ignore_signals()
        session.kill()
        screen.done("Stopped at once.")
        return _KILLED
    ignore_signals()
    if status == 0:
        screen.done("Stopped.")
    return status


def _until_the_end(session: Session, screen: Screen) -> int:
    try:
        return session.run()
    except KeyboardInterrupt:
        return 0
    except DemoError as error:
        screen.fail(str(error))
        return error.status
    except (KafkaError, OSError) as error:  # Kafka could not be downloaded, the folder not be written
        screen.fail(str(error))
        return 1
