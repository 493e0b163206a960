#!/bin/sh
# Writes the lock files: lock.sh PYTHON FOLDER, where FOLDER keeps the environment with the resolver.
# requirements.lock has everything for development; requirements-image.lock the part of it that the image runs.
set -eu

python=$1
env=$2
[ -x "$env/bin/uv" ] || { "$python" -m venv "$env" && "$env/bin/python" -m pip install --quiet 'uv>=0.13,<0.14'; }

# compile EXTRAS... -o FILE: for all platforms and Pythons, with hashes, without the address of any index.
compile() {
    "$env/bin/uv" pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet --upgrade "$@"
}

compile --extra build --extra local --extra examples --extra otel --extra dev --output-file requirements.lock
compile --extra build --constraint requirements.lock --output-file requirements-image.lock
