# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Shared by the scripts in this directory (bash): what a machine needs, and the virtual environment.
#
#   . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
#
# Sets ROOT (the checkout, absolute).  Functions:
#   wgpy_say TEXT                a line on stderr
#   wgpy_die TEXT                the same, and exit 1
#   wgpy_need_packages PKG...    installs the Debian packages that are missing (nothing to do: about
#                                10 ms, no network).  Root or sudo; otherwise says what is missing
#                                and exits.  On other systems it only names them and goes on.
#   wgpy_need_fuzzer             what scripts/fuzz takes, which the test suite runs too
#   wgpy_need_python             python3 >= 3.10 that can make virtual environments and compile
#                                extensions; makes $ROOT/.venv if need be and sets VENV to it
#   wgpy_need_venv               all that it takes to run wgpy: WGPY_BUILD_PACKAGES, wgpy_need_python
#                                and `pip install -e .` (again when C or the packaging changed; a
#                                changed .py counts at once).  Afterwards $VENV/bin/wgpy works.
#   wgpy_mirror                  the address of the mirror of Debian that apt uses; empty if it has none
#   wgpy_find_python VERSION     the path of a python of that version (3.13): of PATH, or one that
#                                pyenv installed; fails if there is none
#   wgpy_codename                this system's, empty if it has none
#   wgpy_suite_with_python VERSION CODENAME
#                                another suite of Debian than that, which has it as python3; fails if
#                                there is none
#   wgpy_pip_platforms MACHINE   options by which pip takes what runs on such a machine (aarch64) with
#                                glibc 2.34 or newer, wherever pip itself is run
# Package lists, for wgpy_need_packages (words; expand unquoted): WGPY_BUILD_PACKAGES to compile,
# WGPY_RUN_PACKAGES to use wgpy with wg and wg-quick, WGPY_TEST_PACKAGES for the whole test suite.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

WGPY_BUILD_PACKAGES="gcc libc6-dev libssl-dev"
if [ "$(uname -m)" = x86_64 ]; then
    WGPY_BUILD_PACKAGES="$WGPY_BUILD_PACKAGES libipsec-mb-dev" # optional: the faster AEAD
fi
# shellcheck disable=SC2034 # used by the scripts
WGPY_RUN_PACKAGES="wireguard-tools iproute2"
# shellcheck disable=SC2034
WGPY_TEST_PACKAGES="wireguard-tools iproute2 ethtool wireguard-go iputils-ping iperf3 nftables tcpdump
    procps mandoc util-linux systemd tshark zsh fish curl"

wgpy_say() { printf '%s\n' "$*" >&2; }

wgpy_die()
{
    wgpy_say "$(basename -- "$0"): $*"
    exit 1
}

wgpy_missing_packages()
{
    local package
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) printf '%s ' "$package" ;;
        esac
    done
}

wgpy_as_root()
{
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

wgpy_need_packages()
{
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        wgpy_say "no apt here; make sure that these (Debian's names) are installed: $*"
        return 0
    fi
    local missing
    missing=$(wgpy_missing_packages "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        wgpy_die "missing packages and neither root nor sudo; as root: apt-get install $missing"
    fi
    wgpy_say "installing $missing"
    wgpy_as_root apt-get -q update >&2 || wgpy_die "apt-get update failed"
    # shellcheck disable=SC2086 # a list of words
    wgpy_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
        --no-install-recommends -o DPkg::Lock::Timeout=120 $missing >&2 ||
        wgpy_die "apt-get could not install $missing"
}

# The libraries of sanitizers and fuzzer are a package of the compiler's own version.
wgpy_need_fuzzer()
{
    local version
    wgpy_need_packages clang llvm
    version=$(clang -dumpversion) || return 0 # no apt here, and it was said
    wgpy_need_packages "libclang-rt-${version%%.*}-dev"
}

wgpy_mirror()
{
    known_mirror | grep . || { wgpy_as_root apt-get -q update >&2 && known_mirror; }
}

known_mirror()
{
    # shellcheck disable=SC2016 # apt's own variable
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        head -n 1
}

# Only what this python3 lacks: one that Debian did not package brings its own headers and venv.
wgpy_need_python()
{
    command -v python3 >/dev/null || wgpy_need_packages python3
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        wgpy_die "python3 is older than 3.10"
    python3 -c 'import ensurepip, venv' 2>/dev/null || wgpy_need_packages python3-venv
    python3 -c 'import os, sysconfig
raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        wgpy_need_packages python3-dev
    # A venv whose python has gone away (upgraded, moved) is made anew.
    if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        python3 -m venv --clear "$VENV" || wgpy_die "python3 -m venv failed"
    fi
}

wgpy_find_python() # VERSION
{
    local found
    for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$found" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$1" \
            2>/dev/null; then
            command -v -- "$found"
            return
        fi
    done
    return 1
}

wgpy_codename()
{
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s\n' "${VERSION_CODENAME-}") 2>/dev/null || true
}

wgpy_suite_with_python() # VERSION CODENAME
{
    local suite
    case $1 in
    3.11) suite=bookworm ;;
    3.13) suite=trixie ;;
    3.14) suite=forky ;;
    *) return 1 ;;
    esac
    [ "$suite" != "$2" ] || return 1
    printf '%s\n' "$suite"
}

wgpy_pip_platforms() # MACHINE
{
    printf -- "--platform %s_$1\n" manylinux_2_34 manylinux_2_28 manylinux2014
}

# What is compiled or read by the installer; everything else is live in an editable install.
wgpy_build_checksum()
{
    (cd -- "$ROOT" && cat setup.py pyproject.toml bin/wgpy wgpy/dataplane/build.py wgpy/{dataplane,relay}/*.[ch]) |
        cksum
}

wgpy_need_venv()
{
    # shellcheck disable=SC2086 # a list of words
    wgpy_need_packages $WGPY_BUILD_PACKAGES
    wgpy_need_python
    local checksum stamp=$VENV/wgpy-build.cksum
    checksum=$(wgpy_build_checksum)
    if [ -x "$VENV/bin/wgpy" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$checksum" ]; then
        return 0
    fi
    wgpy_say "building wgpy into $VENV"
    "$VENV/bin/pip" install -q --disable-pip-version-check -e "$ROOT" >&2 ||
        wgpy_die "pip could not install wgpy"
    printf '%s\n' "$checksum" >"$stamp"
}
