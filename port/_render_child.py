"""Evaluates jq expressions in a process of its own: started by port.render, never imported.

Reads one JSON object `{"input": …, "expressions": […], "seconds": …}` from stdin and writes one JSON line per
expression, in order: `{"value": …}` or `{"error": "…"}`. The parent tells from the number of lines which expression
killed or stalled it.
"""

import json
import math
import os
import resource
import sys

_MEMORY_LIMIT = 1024**3


def _evaluate(expression: str, data: object) -> object:
    import jq  # type: ignore[import-not-found,import-untyped,unused-ignore]

    # Parentheses on lines of their own: `import` and `include` are only valid at the start of a program, so that
    # no expression can read a file, and a comment at the end of the expression does not swallow the parenthesis.
    program = jq.compile("(\n" + expression + "\n)")
    return next(iter(program.input_value(data)), None)


def _answer(expression: str, data: object) -> str:
    try:
        return json.dumps({"value": _evaluate(expression, data)}, allow_nan=False)
    except ImportError:
        return json.dumps({"error": "the package jq is not installed: pip install 'port-runs[local]'"})
    except (ValueError, RecursionError, MemoryError) as error:
        return json.dumps({"error": str(error) or type(error).__name__})


def _main() -> None:
    # Python itself may have added to the empty environment (LC_CTYPE): jq's `env` and `$ENV` are to show nothing.
    os.environ.clear()
    if sys.platform == "linux":  # macOS has the limit but does not keep to it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    request = json.loads(sys.stdin.buffer.read())
    # The parent ends this process in time; should the parent itself be killed, nothing is left behind for long.
    seconds = math.ceil(request["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    for expression in request["expressions"]:
        sys.stdout.buffer.write(_answer(expression, request["input"]).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
