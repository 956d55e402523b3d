# SPDX-License-Identifier: MIT
"""The process and its way to the background."""

import errno
import os
import subprocess
import sys

import pytest

from wgpy.daemon.process import inherited_descriptors

# A caller that goes to the background; what is appended runs in the daemon.
BACKGROUND = (
    "from wgpy.daemon.process import READY, go_to_background; report = go_to_background([]); "
)


def call(in_daemon: str) -> subprocess.CompletedProcess[str]:
    """Returns when the caller has left and nobody holds its output open any more."""
    return subprocess.run(
        [sys.executable, "-c", BACKGROUND + in_daemon],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_caller_returns_when_the_daemon_is_ready_and_not_when_it_ends() -> None:
    read_fd, write_fd = os.pipe()
    hold = f"report(READY); import os; os.read({read_fd}, 1)"
    done = subprocess.run(
        [sys.executable, "-c", BACKGROUND + hold],
        capture_output=True,
        timeout=20,
        check=False,
        pass_fds=[read_fd],
    )
    os.close(read_fd)
    os.write(write_fd, b"x")  # BrokenPipeError if the daemon were gone
    os.close(write_fd)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_caller_says_why_the_daemon_failed() -> None:
    done = call("report(b'no luck')")
    assert (done.returncode, done.stderr) == (1, "wgpy: no luck\n")


def test_the_caller_says_so_when_the_daemon_dies_without_a_word() -> None:
    done = call("import os; os._exit(0)")
    assert (done.returncode, done.stderr) == (1, "wgpy: ended before it was ready\n")


def test_only_the_first_report_counts() -> None:
    assert call("report(READY); report(b'too late')").returncode == 0


def test_the_daemon_has_no_terminal_session_or_directory_of_its_caller() -> None:
    facts = f"os.getsid(0) == {os.getsid(0)}, os.getsid(0) == os.getpid(), os.getcwd()"
    done = call(f"import os; report(repr(({facts})).encode())")
    assert done.stderr == "wgpy: (False, False, '/')\n"


def test_what_the_caller_left_open_is_known_without_proc_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: str) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    with open(os.devnull) as left, open(os.devnull) as meant, open(os.devnull) as own:
        for file in (left, meant):
            os.set_inheritable(file.fileno(), True)  # as what outlived an exec is
        known = inherited_descriptors({meant.fileno()})
        assert left.fileno() in known
        assert not {0, 1, 2, meant.fileno(), own.fileno()} & set(known)
        monkeypatch.setattr(os, "listdir", fail)
        assert inherited_descriptors({meant.fileno()}) == sorted(known)
