# SPDX-License-Identifier: MIT
"""What a daemon has loaded when it is ready: all of it is time of a start, and memory for ever."""

import re
import signal
import socket
import sys
from collections.abc import Callable

import pytest
from netns.lab import SOCKETS, Namespace, eventually

UNNEEDED = {"cryptography", "_ssl", "sqlite3", "unittest", "wgpy.ctl", "wgpy.tunnel"}
UNTIL_CONFIGURED = {"wgpy.exchange", "wgpy.protocol.noise", "wgpy.protocol.messages", "_hashlib"}
MODULES_MAX = 240  # 218 with Python 3.11


def is_answered(interface: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(SOCKETS / f"{interface}.sock"))
            client.sendall(b"get=1\n\n")
            return b"errno=0\n\n" in client.recv(4096)
        except OSError:
            return False


@pytest.fixture
def loaded(namespace: Callable[..., Namespace]) -> set[str]:
    """All modules of a daemon that has answered."""
    host = namespace()
    interface = host.name[:15]
    command = [sys.executable, "-I", "-X", "importtime", "-m", "wgpy", "-f", interface]
    with host.popen(*command) as daemon:
        try:
            eventually(lambda: is_answered(interface), "an answer")
        finally:
            daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=30)
    return set(re.findall(r"^import time:.*\| +(\S+)$", said, re.MULTILINE))


def test_a_daemon_starts_without_what_it_does_not_need(loaded: set[str]) -> None:
    assert "wgpy.uapi.server" in loaded
    assert loaded & (UNNEEDED | UNTIL_CONFIGURED) == set()
    assert len(loaded) <= MODULES_MAX, sorted(loaded)
