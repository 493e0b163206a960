"""The image's health check: asks the worker in this container for /healthz. Exit status 0 if it answers 200, else 1.

Reads WEB_HOST and WEB_PORT, as the worker does. Needs the standard library alone.
"""

import http.client
import os
import sys

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing listens here)


def main() -> int:
    """Ask once, and return the exit status."""
    host = os.environ.get("WEB_HOST") or "127.0.0.1"
    port = int(os.environ.get("WEB_PORT") or 6066)
    # http.client and not urllib: a proxy named in the environment has no part in this.
    connection = http.client.HTTPConnection(_EVERY_INTERFACE.get(host, host), port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except OSError as exc:
        sys.stderr.write(f"/healthz on {host}:{port}: {exc}\n")
        return 1
    finally:
        connection.close()
    sys.stderr.write(f"/healthz on {host}:{port}: {status}\n")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
