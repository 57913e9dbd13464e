#!/bin/sh
# Makes the virtual environment named by $1, with uv in it, from a bare Debian or Ubuntu.
set -eu

venv=$1
python=${PYTHON:-python3}

fail() {
    printf '\n*** %s\n\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "$python is missing. Type: sudo apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "kern needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Name another one: make PYTHON=python3.12 …"

# A dangling interpreter (the system's Python was upgraded, the folder was moved) counts as no environment.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        # Debian keeps these two in a package of their own.
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 ||
            fail "$python cannot make virtual environments. Type: sudo apt-get install $package"
        echo "installing $package" >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || true
        apt-get install -y -qq --no-install-recommends "$package" ||
            fail "could not install $package, without which $python cannot make virtual environments"
    fi
    "$python" -m venv --clear "$venv"
fi

"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
