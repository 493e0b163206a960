#!/bin/sh
# Prints the path of a Python that this project runs on (3.11 to 3.14), or says in one line that there is none.
# PYTHON, where set, is the only candidate.
set -eu

fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1
}

for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if fits "$candidate"; then
        # The interpreter's own path: a version manager's shim may mean another Python in another folder.
        exec "$candidate" -c 'import sys; print(sys.executable)'
    fi
done

if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is no Python 3.11, 3.12, 3.13 or 3.14." >&2
else
    echo "Python 3.11, 3.12, 3.13 or 3.14 is needed, and none is on PATH: install one, or name it with PYTHON=/path/to/python3." >&2
fi
exit 1
