#!/bin/sh
# Functions for the scripts beside this one, which source it: what a Python needs of the system, by Debian's names.

# missing_packages PYTHON: prints the packages that are missing for making an environment with PYTHON, if any. venv is
# split off in Debian; and faust-streaming, which has no wheel for Linux on arm64, has to be compiled there.
missing_packages() {
    missing_version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 || echo "python$missing_version-venv"
    case "$(uname -s) $(uname -m)" in
    "Linux aarch64" | "Linux arm64")
        command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || echo "gcc libc6-dev"
        "$1" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || echo "python$missing_version-dev"
        ;;
    esac
}

# install_packages NAME...: installs Debian's packages when root, else prints the one command that does and fails.
install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "Missing on this system (by Debian's names): $*. Install them, then run the command again." >&2
        return 1
    elif [ "$(id -u)" -ne 0 ]; then
        echo "Missing system packages. Install them, then run the command again: sudo apt-get install -y $*" >&2
        return 1
    fi
    echo "Installing Debian's packages: $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# require_packages PYTHON: installs what is missing for PYTHON.
require_packages() {
    required=$(missing_packages "$1" | tr '\n' ' ')
    # shellcheck disable=SC2086 # a list of names, one word each
    [ -z "$required" ] || install_packages $required
}
