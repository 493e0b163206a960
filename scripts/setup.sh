#!/bin/sh
# Makes the development environment: setup.sh FOLDER
# A virtual environment in FOLDER with everything that requirements.lock lists and this project, editable.
# An environment that is already there is brought up to date.
set -eu

venv=$1
scripts=$(dirname "$0")
# shellcheck source=scripts/system-packages.sh
. "$scripts/system-packages.sh"
# shellcheck source=scripts/install-locked.sh
. "$scripts/install-locked.sh"

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none
}

python=$(sh "$scripts/find-python.sh")
require_packages "$python"

# A link, or an environment whose Python has gone or is another version, is replaced; any other is updated in place.
if [ -h "$venv" ] || [ "$(version_of "$venv/bin/python")" != "$(version_of "$python")" ]; then
    echo "Making the environment in $venv with Python $(version_of "$python") ($python)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

echo "Installing the locked packages (about 140 MB are downloaded the first time)"
install_locked "$venv" requirements.lock
install_project "$venv" --editable .
echo "The environment in $venv is complete."
