"""Start and end of the process, as far as they go without an interface."""

import asyncio
import errno
import os
import subprocess
import sys

import pytest

from wgpy.daemon import run as running
from wgpy.daemon.run import Options
from wgpy.errors import DataThreadError, StartError

# A caller that goes to the background; what is appended runs in the daemon.
BACKGROUND = (
    "from wgpy.daemon.run import READY, _go_to_background; report = _go_to_background([]); "
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


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOENT, "no /dev/net/tun"),
        (errno.EPERM, "no permission"),
        (errno.EACCES, "no permission"),
        (errno.EBUSY, "wg0 exists and is in use"),
        (errno.EINVAL, "wg0 of another kind exists"),
        (errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_tun_that_cannot_be_had_is_explained(
    code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "/dev/net/tun" if code == errno.EACCES else None)

    monkeypatch.setattr(running, "open_tun", fail)
    with pytest.raises(StartError, match=reason):
        running._open_tun(Options("wg0"))


def test_a_container_without_the_device_is_told_from_a_user_without_the_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:  # as the device cgroup does
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "/dev/net/tun")

    monkeypatch.setattr(running, "open_tun", fail)
    with pytest.raises(StartError, match="no permission for /dev/net/tun"):
        running._open_tun(Options("wg0"))


def test_what_the_caller_left_open_is_known_without_proc_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: str) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    with open(os.devnull) as left, open(os.devnull) as meant:
        options = Options("wg0", tun_fd=meant.fileno())
        known = running._inherited_descriptors(options)
        assert left.fileno() in known
        assert not {0, 1, 2, meant.fileno()} & set(known)
        monkeypatch.setattr(os, "listdir", fail)
        assert running._inherited_descriptors(options) == sorted(known)


class Dying:
    """A plane and its device; a data thread ends while control takes events."""

    failure: OSError | None = None

    def on_events(self) -> None:
        self.failure = OSError(errno.EINVAL, "died")


def test_a_data_thread_that_dies_while_events_are_taken_is_noticed() -> None:
    async def scenario() -> None:
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        dying = Dying()
        running._on_plane_event(dying, dying, end)  # type: ignore[arg-type]
        with pytest.raises(DataThreadError, match="died"):
            end.result()

    asyncio.run(scenario())


def test_a_given_descriptor_that_is_no_tun_is_refused() -> None:
    with open(os.devnull) as null, pytest.raises(StartError, match="WG_TUN_FD"):
        running._open_tun(Options("wg0", tun_fd=null.fileno()))
