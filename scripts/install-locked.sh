#!/bin/sh
# Functions for the scripts beside this one, which source it: how packages get into an environment.

# install_locked VENV LOCK: installs exactly what LOCK lists, each file checked against its hash. One line per package
# that is downloaded or taken from pip's cache; pip's errors go to standard error as they are.
install_locked() {
    locked_status=$(mktemp)
    {
        "$1/bin/python" -m pip install --disable-pip-version-check --require-hashes --requirement "$2" || echo failed >"$locked_status"
    } | while IFS= read -r line; do
        case $line in
        *"Downloading "*.whl* | *"Using cached "*.whl* | *"Downloading "*.tar.gz* | *"Using cached "*.tar.gz*) show_package "$line" ;;
        "Building wheel"* | "Installing collected"*) printf '  %.100s\n' "$line" ;;
        esac
    done
    if [ -s "$locked_status" ]; then
        rm -f "$locked_status"
        echo "The packages of $2 could not be installed; the lines above say why. Run the command again to go on." >&2
        return 1
    fi
    rm -f "$locked_status"
}

# show_package LINE: of pip's "Downloading NAME-VERSION-....whl (SIZE)" the name, the version and the size.
show_package() {
    shown_file=${1#*Downloading }
    shown_file=${shown_file#*Using cached }
    shown_rest=${shown_file#*-}
    shown_version=${shown_rest%%-*}
    printf '  %s %s (%s\n' "${shown_file%%-*}" "${shown_version%.tar.gz*}" "${1##*(}"
}

# install_project VENV [--editable] FOLDER: installs the project itself; its dependencies and its build backend are
# those of the lock file, so nothing is resolved or downloaded here.
install_project() {
    project_venv=$1
    shift
    "$project_venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation "$@"
}
