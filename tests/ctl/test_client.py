# SPDX-License-Identifier: MIT
"""What asks for a status, and daemons that are none."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from status_daemon import leave_behind

from wgpy.ctl import client as client_module
from wgpy.ctl.client import NobodyError, follow
from wgpy.errors import StatusError
from wgpy.status import DeviceStatus, to_json

# What a daemon does with its end of a connection; then it leaves.
Behaviour = Callable[[socket.socket], object]


def line_of(name: str) -> bytes:
    return json.dumps(to_json(DeviceStatus(name))).encode() + b"\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[Behaviour], Path]]:
    """Gives the path of a daemon that serves one client."""
    with ExitStack() as stack:

        def start(behave: Behaviour) -> Path:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.settimeout(10)
            listener.bind(str(tmp_path / "wg0.status"))
            listener.listen()

            def serve() -> None:
                with listener.accept()[0] as client:
                    client.settimeout(10)
                    behave(client)

            thread = threading.Thread(target=serve)
            stack.callback(thread.join)
            thread.start()
            return tmp_path / "wg0.status"

        yield start


Start = Callable[[Behaviour], Path]


def test_each_line_is_a_status_however_it_comes(daemon: Start) -> None:
    text = line_of("first") + line_of("second") + line_of("third")

    def by_pieces(client: socket.socket) -> None:
        for at in range(0, len(text), 7):
            client.sendall(text[at : at + 7])

    names = [status.interface for status in follow(daemon(by_pieces))]
    assert names == ["first", "second", "third"]


def test_half_a_line_is_no_status(daemon: Start) -> None:
    path = daemon(lambda client: client.sendall(line_of("wg0") + line_of("half")[:-1]))
    assert [status.interface for status in follow(path)] == ["wg0"]


def test_a_line_of_nonsense_is_refused(daemon: Start) -> None:
    with pytest.raises(StatusError, match="not the JSON of a status"):
        next(follow(daemon(lambda client: client.sendall(b"\xff\n"))))


@pytest.mark.parametrize("start", [b"", b"{"])
def test_a_daemon_that_says_nothing_is_not_waited_for(start: bytes, daemon: Start) -> None:
    def wait(client: socket.socket) -> None:
        client.sendall(start)
        client.recv(1)  # the end

    with pytest.raises(StatusError, match=r"no status in 0\.01 s"):
        next(follow(daemon(wait), timeout_s=0.01))


def test_a_daemon_that_goes_on_and_on_is_not_waited_for(daemon: Start) -> None:
    def drip(client: socket.socket) -> None:
        try:
            while True:
                client.sendall(b" ")
        except OSError:
            return

    with pytest.raises(StatusError, match=r"no status in 0\.01 s"):
        next(follow(daemon(drip), timeout_s=0.01))


def test_a_document_without_end_is_not_kept(daemon: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "DOCUMENT_MAX", 1000)
    with pytest.raises(StatusError, match="without end"):
        next(follow(daemon(lambda client: client.sendall(b" " * 1001))))


def test_where_nobody_is_the_reader_says_so(tmp_path: Path) -> None:
    path = tmp_path / "wg0.status"
    with pytest.raises(NobodyError):
        next(follow(path))
    leave_behind(path)
    with pytest.raises(NobodyError):
        next(follow(path))
