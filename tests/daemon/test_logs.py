# SPDX-License-Identifier: MIT
"""The log: whoever logs never waits, whoever reads late hears how much is missing."""

import fcntl
import gc
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from netns.lab import eventually

from wgpy.daemon import logs
from wgpy.daemon.logs import (
    FILE_LEN,
    QUEUE_LEN,
    Line,
    Log,
    LogFile,
    Sink,
    Stream,
    Syslog,
    background_sink,
    goes_to_journal,
    with_severity,
    with_time,
)
from wgpy.log import NOTICE

LONG_S = 30.0  # for what takes a moment, or for ever if it is wrong
LINE = "x" * 999
MANY = 3 * QUEUE_LEN // len(LINE)  # lines that do not fit
logger = logging.getLogger("wgpy.test")


@contextmanager
def logging_to(sink: Sink) -> Iterator[Log]:
    """What is logged goes there; fails if the end takes long."""
    log = Log("wg0", NOTICE)
    log.start(sink)
    try:
        yield log
    finally:
        before = time.monotonic()
        log.close()
        assert time.monotonic() - before < LONG_S


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end; the test may close either."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def bare(fd: int) -> Stream:
    return Stream(fd, lambda _: "")


def read_all(fd: int, until: bytes) -> bytes:
    data = b""
    while until not in data:
        data += os.read(fd, 1 << 16)
    return data


def assert_all_told(lines: Iterable[str]) -> None:
    """Of MANY lines, each was written or counted as lost, and not all were written."""
    told = lost = 0
    for line in lines:
        notice = re.search(r"wg0: (\d+) lines lost$", line)
        lost += int(notice[1]) if notice else 0
        told += int(notice[1]) if notice else 1
        if told == MANY:
            break
    assert (told, lost > 0) == (MANY, True)


def test_a_full_pipe_holds_nobody_up_and_the_lost_lines_are_counted() -> None:
    with pipe() as (reader, writer), logging_to(bare(writer)):
        before = time.monotonic()
        for _ in range(MANY):
            logger.error(LINE)
        assert time.monotonic() - before < LONG_S
        with os.fdopen(os.dup(reader), "r") as lines:
            assert_all_told(lines)
        logger.error("again")
        assert read_all(reader, b"\n") == b"wg0: again\n"


def test_a_pipe_that_nobody_ever_reads_does_not_hold_up_the_end() -> None:
    with pipe() as (_, writer), logging_to(bare(writer)):  # which looks at the time
        for _ in range(MANY):
            logger.error(LINE)


def test_a_reader_that_went_away_holds_nobody_up() -> None:
    with pipe() as (reader, writer), logging_to(bare(writer)):
        os.close(reader)
        for _ in range(MANY):
            logger.error(LINE)


def test_what_is_logged_before_the_end_is_written_at_the_end() -> None:
    with pipe() as (reader, writer):
        with logging_to(bare(writer)):
            for number in range(30):
                logger.error("%d", number)
        os.close(writer)
        expected = "".join(f"wg0: {number}\n" for number in range(30))
        assert os.read(reader, 1 << 16).decode() == expected


def test_what_is_logged_before_the_start_is_kept() -> None:
    with pipe() as (reader, writer), closing(Log("wg0", NOTICE)) as log:
        logger.error("early")
        log.start(bare(writer))
        assert read_all(reader, b"\n") == b"wg0: early\n"


def test_the_descriptor_that_others_share_is_left_as_it_is() -> None:
    with pipe() as (reader, writer), logging_to(bare(writer)):
        logger.error("written")
        read_all(reader, b"\n")
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_descriptor_that_others_made_non_blocking_loses_nothing() -> None:
    count = QUEUE_LEN // len(LINE) // 2
    with pipe() as (reader, writer), logging_to(bare(writer)):
        os.set_blocking(writer, False)
        for _ in range(count):
            logger.error(LINE)
        logger.error("last")
        assert len(read_all(reader, b"last\n").splitlines()) == count + 1


def test_only_what_the_level_asks_for_is_written() -> None:
    with pipe() as (reader, writer), logging_to(bare(writer)):
        logger.info("no")
        logging.getLogger("of.a.library").info("no")
        logger.log(NOTICE, "yes")
        assert read_all(reader, b"\n") == b"wg0: yes\n"


def test_the_end_of_a_log_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = root.level, logging.getLogger("wgpy").level, list(root.handlers)
    with pipe() as (_, writer), logging_to(bare(writer)):
        assert logging.getLogger("wgpy").level == NOTICE
    assert before == (root.level, logging.getLogger("wgpy").level, root.handlers)


def test_what_cannot_be_formatted_is_told_of_and_no_more() -> None:
    record = logging.makeLogRecord({"msg": "%d bottles", "args": ("ten",)})
    with pipe() as (reader, writer), logging_to(bare(writer)) as log:
        log.emit(record)
        assert read_all(reader, b"\n").startswith(b"wg0: cannot be told: '%d bottles'")


class Fragile:
    def __del__(self) -> None:
        raise ValueError("no way to die")


def test_what_python_would_write_to_stderr_by_itself_is_logged() -> None:
    hooks = sys.unraisablehook, threading.excepthook
    with pipe() as (reader, writer), logging_to(bare(writer)):
        Fragile()
        gc.collect()
        assert b"no way to die" in read_all(reader, b"ValueError")
        thread = threading.Thread(target=lambda: [][0])
        thread.start()
        thread.join()
        assert b"a thread failed" in read_all(reader, b"IndexError")
    assert hooks == (sys.unraisablehook, threading.excepthook)


def test_the_last_word_does_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, writer):
        monkeypatch.setattr(logs, "STDERR", writer)
        logs.say("wgpy: why")
        assert os.read(reader, 100) == b"wgpy: why\n"
        os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
        before = time.monotonic()
        logs.say("wgpy: why")
        assert time.monotonic() - before < LONG_S


# ---- rows ----


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.DEBUG, "<7>"),
        (logging.INFO, "<6>"),
        (NOTICE, "<5>"),
        (logging.WARNING, "<4>"),
        (logging.ERROR, "<3>"),
        (logging.CRITICAL, "<2>"),
    ],
)
def test_a_line_for_the_journal_has_its_priority_and_no_time(level: int, prefix: str) -> None:
    assert with_severity(Line(level, 0, "up")) == prefix


@pytest.mark.parametrize("created", [-1.5, 0.0, 2**31 + 0.25, 2**32 + 1.0])
def test_a_line_for_people_has_a_time_whatever_the_clock_says(created: float) -> None:
    milliseconds = int(created % 1 * 1000)
    assert with_time(Line(NOTICE, created, "up")).endswith(f",{milliseconds:03d} NOTICE ")


def test_every_row_of_a_traceback_has_the_prefix() -> None:
    with pipe() as (reader, writer), logging_to(Stream(writer, with_severity)):
        try:
            raise ValueError("two\nrows")
        except ValueError:
            logger.exception("failed")
        rows = read_all(reader, b"<3>rows\n").splitlines()
    assert len(rows) > 3
    assert all(row.startswith(b"<3>") for row in rows)


def test_only_the_stream_that_journal_stream_names_is_the_journals(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        status = os.fstat(journal.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert goes_to_journal(journal.fileno(), stream)
        assert not goes_to_journal(other.fileno(), stream)
        assert not goes_to_journal(journal.fileno(), "")
    assert not goes_to_journal(-1, stream)


# ---- syslog ----


def syslogd(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    path.unlink(missing_ok=True)
    daemon = socket.socket(socket.AF_UNIX, kind)
    daemon.bind(os.fspath(path))
    daemon.settimeout(LONG_S)
    if kind == socket.SOCK_STREAM:
        daemon.listen()
    return daemon


def test_the_syslog_gets_priority_facility_and_pid(tmp_path: Path) -> None:
    with syslogd(tmp_path / "log") as daemon, logging_to(Syslog(tmp_path / "log")):
        logger.log(NOTICE, "up")
        assert daemon.recv(100).decode() == f"<29>wgpy[{os.getpid()}]: wg0: up"


def test_a_syslog_that_takes_a_stream_gets_one(tmp_path: Path) -> None:
    with syslogd(tmp_path / "log", socket.SOCK_STREAM) as daemon:
        with logging_to(Syslog(tmp_path / "log")):
            logger.error("one")
            logger.error("two")
        daemon.accept()[0].close()  # the question whether it is there
        with daemon.accept()[0] as connection:
            said = [
                message.partition(": ")[2] for message in connection.recv(999).decode().split("\0")
            ]
    assert said == ["wg0: one", "wg0: two", ""]


def test_a_syslogd_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with syslogd(tmp_path / "log") as daemon, logging_to(Syslog(tmp_path / "log")):
        for _ in range(MANY):
            logger.error(LINE)
        assert_all_told(daemon.recv(2000).decode() for _ in range(MANY))


def test_a_syslogd_that_was_started_anew_hears_the_rest_and_what_it_missed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with syslogd(path) as daemon, logging_to(Syslog(path)) as log:
        logger.error("before")
        daemon.recv(100)
        daemon.close()
        logger.error("missed")
        eventually(lambda: log._lost == 1, "a line that is lost")
        with syslogd(path) as successor:
            logger.error("after")
            assert successor.recv(100).decode().endswith("wg0: 1 lines lost")
            assert successor.recv(100).decode().endswith("wg0: after")


# ---- file, and the choice ----


def test_a_log_file_is_for_its_owner_and_starts_anew_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "wgpy.log"
    with logging_to(LogFile(path)):
        logger.error("first")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().endswith(" ERROR wg0: first\n")
    os.truncate(path, FILE_LEN)
    with logging_to(LogFile(path)):
        logger.error("second")
    assert path.read_text().startswith("2")
    assert path.read_text().endswith(" ERROR wg0: second\n")


def test_a_log_file_may_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "wgpy.log"
    with logging_to(LogFile(path)):
        path.unlink()
        logger.error("anew")
        assert eventually(lambda: path.exists() and path.read_text(), "a new file")


def make_symlink(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def make_hard_link(path: Path) -> None:
    os.link(path.parent / "victim", path)


@pytest.mark.parametrize("trap", [make_symlink, make_hard_link, os.mkfifo, os.mkdir])
def test_what_others_put_in_the_place_of_a_log_file_is_not_written(
    trap: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("precious")
    trap(tmp_path / "wgpy.log")
    with pytest.raises(OSError, match=r"wgpy\.log"):
        LogFile(tmp_path / "wgpy.log")
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_background_logs_to_the_first_place_that_is_there(tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "wgpy.log"
    with syslogd(log):
        assert isinstance(background_sink(log, file, stderr=True), Syslog)
    # what is left of it is a socket that nobody listens to
    assert isinstance(background_sink(log, file, stderr=True), Stream)
    assert isinstance(background_sink(log, file, stderr=False), LogFile)
    with pytest.raises(FileNotFoundError):
        background_sink(log, tmp_path / "nowhere" / "wgpy.log", stderr=False)
