#!/bin/sh
# Sets up this checkout: a virtual environment in .venv and, on Debian as root, the system packages.
#   deploy/setup.sh run     what `quell up` and the demonstration use
#   deploy/setup.sh test    what the tests use as well
# Says nothing and takes a few milliseconds when nothing is missing. What it cannot install it names and goes on:
# Quell then says itself what it cannot do, and tests that need it skip with the reason.
set -eu
cd "$(dirname "$0")/.."

packages="iproute2 nftables iputils-ping netcat-openbsd"
if [ "${1:-run}" = test ]; then
    packages="$packages busybox-static podman runc catatonit uidmap fuse-overlayfs containernetworking-plugins netavark wrk curl systemd libseccomp2 nginx-light postgresql logrotate chromium fonts-dejavu-core"
fi

# A machine has one syslog daemon: installing this one would remove another.
rsyslog="rsyslog rsyslog-openssl"

say() { echo "setup: $*" >&2; }

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

install_packages() {
    say "installing Debian packages:$*"
    apt update || true
    # shellcheck disable=SC2068 # a list of words
    apt install -y --no-install-recommends $@
}

python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "Python 3.11 or later is needed and was not found"
    exit 1
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

system() {
    command -v dpkg-query >/dev/null || return 0
    if [ "${1:-run}" = test ]; then
        for other in syslog-ng-core inetutils-syslogd busybox-syslogd sysklogd; do
            if installed "$other"; then
                rsyslog=""
            fi
        done
        packages="$packages $rsyslog"
    fi
    missing=""
    for package in $packages; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "not root, going on without:$missing"
    elif ! install_packages "$missing"; then
        say "could not install:$missing; going on without"
    fi
}

environment() {
    want="$(cat pyproject.toml constraints.txt hatch_build.py | cksum) $PWD"
    [ "$(cat .venv/.ready 2>/dev/null)" != "$want" ] || return 0
    python="$(python)"
    if [ ! -x .venv/bin/pip ]; then
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null && [ "$(id -u)" = 0 ]; then
            install_packages " python3-venv"
        fi
        rm -rf .venv
        "$python" -m venv .venv
    fi
    say "installing Python packages into .venv (once, about half a minute)"
    # The environment variable also holds for the build of the package itself; -c alone does not.
    PIP_CONSTRAINT=constraints.txt .venv/bin/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
    echo "$want" >.venv/.ready
}

# The provider of logins that the tests log in with, from the npm registry: node_modules beside its package.json.
provider() {
    [ "${1:-run}" = test ] || return 0
    folder=tests/system/oidc_provider
    want="$(cksum <$folder/package.json)"
    [ "$(cat $folder/node_modules/.ready 2>/dev/null)" != "$want" ] || return 0
    # Node.js from elsewhere brings its own npm, which Debian's package would put out.
    if ! command -v npm >/dev/null && [ "$(id -u)" = 0 ] && command -v dpkg-query >/dev/null; then
        install_packages " nodejs npm" || true
    fi
    if ! command -v npm >/dev/null; then
        say "no npm, going on without the provider of logins"
        return 0
    fi
    say "installing the provider of logins for the tests into $folder/node_modules"
    if npm install --prefix $folder --no-package-lock --ignore-scripts --no-audit --no-fund --silent >&2; then
        echo "$want" >$folder/node_modules/.ready
    else
        say "npm failed; going on without the provider of logins"
    fi
}

system "$@"
environment
provider "$@"
