"""`python -m local.demo`, which `make demo` runs."""

import sys

from local.demo.interrupts import raise_on_signals


def main() -> int:
    """Run the demo and return its exit status."""
    raise_on_signals()
    try:
        # Takes half a second, in which a Ctrl-C should not end in a traceback.
        from local.demo.run import run

        return run()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
