#!/bin/sh
# The steps of the image: build-image.sh FOLDER, run in the folder with the sources.
# A virtual environment in FOLDER with what requirements-image.lock lists, the project itself and the health check.
# The Dockerfile runs this, and so do the tests, where no Docker is.
set -eu

target=$1
scripts=$(dirname "$0")
# shellcheck source=scripts/system-packages.sh
. "$scripts/system-packages.sh"
# shellcheck source=scripts/install-locked.sh
. "$scripts/install-locked.sh"

python=$(sh "$scripts/find-python.sh")
require_packages "$python"
"$python" -m venv "$target"
install_locked "$target" requirements-image.lock
install_project "$target" .
cp "$scripts/healthcheck.py" "$target/bin/healthcheck.py"
