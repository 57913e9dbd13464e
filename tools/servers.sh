#!/usr/bin/env bash
# Installs the servers that the tests start for themselves, each on a free port in a temporary folder; and openssl, which
# makes the certificates of those that speak TLS.
# Nothing is started here, and no system service is left enabled by it.
# A server that cannot be had is no error: its tests skip loudly, and under CI=true that fails the run.
set -euo pipefail

# Debian keeps these outside the PATH.
PATH=$PATH:/usr/sbin:/usr/lib/rabbitmq/bin
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done

binary_of() {
    case $1 in
        postgresql) echo postgres ;;
        mariadb) echo mariadbd ;;
        redis) echo redis-server ;;
        rabbitmq) echo rabbitmq-server ;;
        openssl) echo openssl ;;
        *) echo "unknown server $1; known: postgresql mariadb redis rabbitmq openssl" >&2; return 2 ;;
    esac
}

package_of() {
    case $1 in
        postgresql | openssl) echo "$1" ;;
        *) echo "$1-server" ;;
    esac
}

missing() {
    local server binary
    for server in "$@"; do
        binary=$(binary_of "$server")
        command -v "$binary" >/dev/null || echo "$server"
    done
}

for server in "$@"; do binary_of "$server" >/dev/null; done
mapfile -t wanted < <(missing "$@")
[ ${#wanted[@]} -gt 0 ] || exit 0

packages=()
for server in "${wanted[@]}"; do packages+=("$(package_of "$server")"); done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${packages[*]}" >&2
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        # Debian starts what it installs, unless this file forbids it.
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f $policy' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; then
        if command -v systemctl >/dev/null; then
            systemctl --quiet disable "${wanted[@]/#redis/redis-server}" 2>/dev/null || true
        fi
    fi
fi

mapfile -t wanted < <(missing "${wanted[@]}")
if [ ${#wanted[@]} -gt 0 ]; then
    packages=()
    for server in "${wanted[@]}"; do packages+=("$(package_of "$server")"); done
    {
        echo
        echo "*** MISSING SERVERS: ${wanted[*]}"
        echo "*** Tests that need them will be skipped (under CI=true: fail). Type:"
        echo "***     sudo apt-get install --no-install-recommends ${packages[*]}"
        echo
    } >&2
fi
