# SPDX-License-Identifier: MIT
"""The files of the C core include and call downward only, and few of them know Linux."""

import re
from pathlib import Path

import pytest
from arrows import reachable

DATAPLANE = Path(__file__).resolve().parent.parent.parent / "wgpy/dataplane"

# The arrows; a file, with the header of its name, may use whatever it reaches by them.  api.h is
# for all, as what Python calls is declared there.
ARROWS: dict[str, set[str]] = {
    "send": {
        *("ways", "sealing", "sender", "staged", "icmp", "loops", "flows", "ecn"),
        *("allowedips", "keypair", "peer"),
    },
    "receive": {
        *("ways", "handshakes", "gro", "flows", "ecn"),
        *("allowedips", "keypair", "peer"),
    },
    "message": {"udp", "peer"},
    "show": {"allowedips", "peer"},
    "device": {"ways", "icmp", "keypair", "allowedips", "staged"},
    "ways": {"turnstile", "tunqueue", "congestion", "backlog"},
    "sealing": {"sender", "staged", "gso", "peer"},
    "handshakes": {"cookie", "ratelimiter", "events", "keypair", "tally"},
    "cookie": {"sender", "mac"},
    "sender": {"congestion", "clock", "tally"},
    "icmp": {"ratelimiter", "checksum", "tun", "tables"},
    "loops": {"keypair", "ip"},
    "peer": {"events", "keypair", "tally"},
    "keypair": {"aead", "mac", "tables"},
    "gro": {"checksum", "tun", "udp"},
    "gso": {"checksum", "tun", "bytes"},
    "congestion": {"udp"},
    "backlog": {"udp"},
    "tunqueue": {"events"},
    "udp": {"endpoint", "bytes"},
    "ratelimiter": {"mac", "endpoint", "bytes"},
    "allowedips": {"tables", "bytes"},
    "events": {"tables", "bytes"},
    "flows": {"tables", "bytes", "ip"},
    "clock": {"bytes"},
    "staged": {"tally"},
    "tally": {"tables", "endpoint", "ip"},
    "aead": {"bytes"},
    "checksum": {"ip"},
    "ip": {"bytes"},
    "ecn": {"bytes", "ip"},
}

# Who asks the kernel for what; the last two for nothing else.
CALLERS: dict[str, set[str]] = {
    "tun": {"read", "writev"},
    "udp": {
        *("sendmsg", "sendmmsg", "recvmmsg", "getsockopt", "setsockopt", "ioctl", "poll"),
        *("mmap", "munmap", "clock_gettime"),
    },
    "events": {"read", "write", "poll", "nanosleep"},
    "turnstile": {"syscall"},
    "clock": {"clock_gettime"},
    "mac": {"getrandom"},
}
CALLS = {
    *("open", "openat", "close", "read", "pread", "readv", "write", "pwrite", "writev", "fcntl"),
    *("socket", "bind", "connect", "listen", "accept", "accept4", "shutdown", "ioctl", "syscall"),
    *("send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg"),
    *("getsockopt", "setsockopt", "poll", "ppoll", "select", "epoll_wait", "eventfd", "pipe"),
    *("mmap", "munmap", "nanosleep", "usleep", "sleep", "clock_gettime", "getrandom"),
}

# Headers that are neither C's nor a library's; and who may include them, some for names alone.
KERNEL_HEADERS = re.compile(r"(linux|sys|arpa|net)/|netinet/udp\.h|(poll|time|unistd|fcntl)\.h")
INCLUDERS: dict[str, set[str]] = {
    "tun": {"linux/virtio_net.h", "sys/uio.h", "unistd.h"},
    "udp": {
        *("arpa/inet.h", "linux/sockios.h", "linux/udp.h", "poll.h", "sys/ioctl.h"),
        *("sys/mman.h", "sys/socket.h", "time.h"),
    },
    "allowedips_text": {"arpa/inet.h"},
    "events": {"poll.h", "time.h", "unistd.h"},
    "turnstile": {"linux/futex.h", "sys/syscall.h", "unistd.h"},
    "clock": {"time.h"},
    "mac": {"sys/random.h"},
    "endpoint": {"sys/socket.h"},
    "api": {"sys/types.h"},  # ssize_t
}
NAMES = {"endpoint": {"AF_INET", "AF_INET6"}}  # what a header offers that is the kernel's


def read_code(name: str) -> str:
    """The file without comments; empty if there is none."""
    path = DATAPLANE / name
    text = path.read_text() if path.exists() else ""
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


MODULES = sorted({p.stem for p in DATAPLANE.glob("*.[ch]")} - {"_core"})
HEADERS = {module: read_code(f"{module}.h") for module in MODULES}
SOURCES = {module: read_code(f"{module}.c") for module in MODULES}

DEFINITION = re.compile(r"^(?!static\b)[a-z][^;{}()=#]*?\b(wg_\w+)\([^;{}]*\)\s*\{", re.MULTILINE)
PROTOTYPE = re.compile(r"^(?!static\b)[a-z][^;{}()=#]*?\b(wg_\w+)\([^;{}]*\);", re.MULTILINE)
HOMES = {name: module for module in MODULES for name in DEFINITION.findall(SOURCES[module])}


def included(module: str, pattern: str = r'"(\w+)\.h"') -> set[str]:
    code = HEADERS[module] + SOURCES[module]
    return set(re.findall(r"#include " + pattern, code)) - {module}


def called(module: str) -> set[str]:
    """The files whose functions it calls."""
    code = HEADERS[module] + SOURCES[module]
    names = set(re.findall(r"\b(wg_\w+)\(", code)) - set(PROTOTYPE.findall(HEADERS[module]))
    return {HOMES[name] for name in names if name in HOMES} - {module}


def uses(module: str) -> set[str]:
    if module == "api":
        return set()
    return (included(module) | called(module)) - {"api"}


def test_neither_the_arrows_nor_the_files_make_a_circle() -> None:
    drawn = {module: uses(module) for module in MODULES}
    for arrows in (ARROWS, drawn):
        assert [module for module in MODULES if module in reachable(arrows, module)] == []


def test_every_arrow_is_used() -> None:
    dead = [(module, end) for module, ends in ARROWS.items() for end in ends - uses(module)]
    assert dead == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_uses_only_what_is_below_it(module: str) -> None:
    assert uses(module) - reachable(ARROWS, module) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_file_includes_the_header_of_whatever_it_calls(module: str) -> None:
    for_all = set(PROTOTYPE.findall(HEADERS["api"]))
    names = set(re.findall(r"\b(wg_\w+)\(", SOURCES[module])) & set(HOMES) - for_all
    assert {HOMES[name] for name in names} - {module} - included(module) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_file_includes_no_header_that_it_does_not_use(module: str) -> None:
    words = set(re.findall(r"\w+_\w+", HEADERS[module] + SOURCES[module]))
    for end in included(module) - {"api"}:
        offered = set(re.findall(r"\w+_\w+", HEADERS[end])) - set(
            re.findall(r"\w+", HEADERS["api"])
        )
        assert (offered | NAMES.get(end, set())) & words, f"{end}.h"


@pytest.mark.parametrize("module", MODULES)
def test_a_header_declares_what_its_own_file_defines(module: str) -> None:
    names = PROTOTYPE.findall(HEADERS[module])
    homes = {name: HOMES.get(name) for name in names}
    if module == "api":
        assert None not in homes.values()
    else:
        assert homes == dict.fromkeys(names, module)


@pytest.mark.parametrize("module", MODULES)
def test_only_few_files_know_linux(module: str) -> None:
    headers = {h for h in included(module, r"<(.+?)>") if KERNEL_HEADERS.match(h)}
    calls = set(re.findall(r"(?<![\w>.])(\w+)\(", SOURCES[module])) & CALLS
    assert (headers, calls) == (INCLUDERS.get(module, set()), CALLERS.get(module, set()))
