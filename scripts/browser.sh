#!/bin/sh
# Sees to it that Chromium, which the tests of the pages drive, is there: by apt when root on Debian. Elsewhere those
# tests are skipped, and say so; with CI=true they fail.
set -eu

# shellcheck source=scripts/system-packages.sh
. "$(dirname "$0")/system-packages.sh"

for name in chromium chromium-browser google-chrome; do
    ! command -v "$name" >/dev/null 2>&1 || exit 0
done
# Ubuntu's package of this name only points to a snap.
if [ "$(id -u)" -eq 0 ] && grep -q '^ID=debian' /etc/os-release 2>/dev/null; then
    install_packages chromium || echo "Chromium could not be installed." >&2
fi
