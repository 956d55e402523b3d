"""sd_notify by a socket of our own, and the lines that go to the journal."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wgpy.notify import JournalFormatter, Notifier, goes_to_journal


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
    with manager(name) as receive:
        notifier = Notifier(name)
        notifier.ready("serving wg0")
        notifier.stopping("SIGTERM")
        assert receive() == "READY=1\nSTATUS=serving wg0"
        assert receive() == "STOPPING=1\nSTATUS=SIGTERM"


def test_without_a_manager_nothing_happens() -> None:
    Notifier(None).ready("serving wg0")


@pytest.mark.parametrize("name", ["", "nowhere", "@wgpy-test-nobody", "/" + 200 * "x", "\0"])
def test_a_manager_that_cannot_be_reached_is_logged_and_no_more(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(name).ready("serving wg0")
    assert "cannot reach NOTIFY_SOCKET" in caplog.text


def record_of(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("wgpy.test", level, "", 0, message, None, None)


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>"),
        (logging.INFO, "<6>"),
        (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"),
        (logging.CRITICAL, "<2>"),
    ],
)
def test_a_line_for_the_journal_has_its_priority_and_no_time(level: int, prefix: str) -> None:
    formatter = JournalFormatter("wg0: %(message)s")
    assert formatter.format(record_of(level, "up")) == f"{prefix}wg0: up"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    record = record_of(logging.ERROR, "failed")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record.exc_info = sys.exc_info()
    lines = JournalFormatter("wg0: %(message)s").format(record).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_only_the_stream_that_journal_stream_names_is_the_journals(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        status = os.fstat(journal.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert goes_to_journal(journal.fileno(), stream)
        assert not goes_to_journal(other.fileno(), stream)
        assert not goes_to_journal(journal.fileno(), "")
    assert not goes_to_journal(-1, stream)
