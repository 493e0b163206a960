#!/bin/sh
# Makes the development environment: setup.sh FOLDER
# A virtual environment in FOLDER with everything that requirements.lock lists and this project, editable.
# An environment that is already there is brought up to date.
set -eu

venv=$1
scripts=$(dirname "$0")
# shellcheck source=scripts/install-locked.sh
. "$scripts/install-locked.sh"

python=$(sh "$scripts/find-python.sh")
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# The Debian packages that are missing: venv is split off there, and faust-streaming has no wheel for Linux on arm64.
missing_packages() {
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo "python$version-venv"
    case "$(uname -s) $(uname -m)" in
    "Linux aarch64" | "Linux arm64") missing_compiler ;;
    esac
}

missing_compiler() {
    command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || echo "gcc libc6-dev"
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || echo "python$version-dev"
}

install_packages() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing Debian's packages: $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    elif command -v apt-get >/dev/null 2>&1; then
        echo "Missing system packages. Install them with: sudo apt-get install -y $*" >&2
        exit 1
    else
        echo "Missing on this system (by Debian's names): $*. Install them, then run make again." >&2
        exit 1
    fi
}

missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of names, one word each
    install_packages $missing
fi

# A link, or an environment whose Python has gone or is another version, is replaced; any other is updated in place.
if [ -h "$venv" ] || [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$version" ]; then
    echo "Making the environment in $venv with Python $version ($python)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

echo "Installing the locked packages (about 110 MB are downloaded the first time)"
install_locked "$venv" requirements.lock
install_project "$venv" --editable .
echo "The environment in $venv is complete."
