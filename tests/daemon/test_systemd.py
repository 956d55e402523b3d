# SPDX-License-Identifier: MIT
"""sd_notify by a socket of our own."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from wgpy.daemon.systemd import Notifier


@contextmanager
def manager(name: str) -> Iterator[Callable[[], str]]:
    """Listens on NOTIFY_SOCKET=name; gives a function that returns the next message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(5)
        yield lambda: sock.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@wgpy-test-{os.getpid()}"


def test_the_manager_hears_of_the_beginning_and_of_the_end(name: str) -> None:
    with manager(name) as receive, closing(Notifier(name)) as notifier:
        notifier.ready("serving wg0")
        notifier.stopping("SIGTERM")
        assert receive() == "READY=1\nSTATUS=serving wg0"
        assert receive() == "STOPPING=1\nSTATUS=SIGTERM"


def test_without_a_manager_nothing_happens() -> None:
    with closing(Notifier(None)) as notifier:
        notifier.ready("serving wg0")


@pytest.mark.parametrize("name", ["", "nowhere", "@wgpy-test-nobody", "/" + 200 * "x", "\0"])
def test_a_manager_that_cannot_be_reached_is_logged_and_no_more(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Notifier(name)) as notifier:
        notifier.ready("serving wg0")
    assert "cannot reach NOTIFY_SOCKET" in caplog.text


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with manager(name) as receive, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.sendto(b"WATCHDOG=1", name)
        before = time.monotonic()
        with closing(Notifier(name)) as notifier:
            notifier.ready("serving wg0")
            assert time.monotonic() - before < 1
        assert time.monotonic() - before < 4  # it was 5 s for each message
        while receive() == "WATCHDOG=1":  # until ours, or its thread would outlive this test
            pass
