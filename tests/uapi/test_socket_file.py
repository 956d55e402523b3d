# SPDX-License-Identifier: MIT
"""The configuration socket's file: its directory, its making, and the watch over it."""

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from wgpy.uapi.socket_file import SocketFile, SocketWatch, adopt_socket, open_socket

# ---- the socket file ----


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_directory_is_for_all_and_the_socket_for_its_owner(umask: int, directory: Path) -> None:
    before = os.umask(umask)
    try:
        with open_socket("wg0", directory):
            assert mode_of(directory) == 0o755
            assert mode_of(directory / "wg0.sock") == 0o700
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to a group")
def test_the_socket_may_be_given_to_a_group_as_well(directory: Path) -> None:
    with open_socket("wg0", directory, group=1):
        status = (directory / "wg0.sock").lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), 1)
        assert stat.S_IMODE(status.st_mode) == 0o660


@pytest.mark.parametrize(("mode", "gid"), [(0o700, 0), (0o700, 1), (0o701, 1), (0o710, 0)])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to a group")
def test_a_directory_closed_to_the_group_is_refused(mode: int, gid: int, directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, -1, gid)
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="closed to the group"):
        open_socket("wg0", directory, group=1)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to a group")
def test_a_directory_of_the_group_will_do(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, -1, 1)
    directory.chmod(0o710)
    open_socket("wg0", directory, group=1).close()


def test_a_socket_that_cannot_be_given_away_is_not_left_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        open_socket("wg0", directory, group=1)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to a group")
def test_what_is_put_in_the_sockets_place_is_not_given_to_the_group(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    chown = os.chown

    def too_late(path: Path, *arguments: int, **options: bool) -> None:
        path.unlink()
        path.symlink_to(precious)
        chown(path, *arguments, **options)

    monkeypatch.setattr(os, "chown", too_late)
    open_socket("wg0", directory, group=1).close()
    status = precious.stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0o600)


def test_a_socket_that_answers_is_left_alone(directory: Path) -> None:
    with open_socket("wg0", directory) as sock:
        file = SocketFile.of(sock)
        with pytest.raises(OSError, match="already served") as caught:
            open_socket("wg0", directory)
        assert caught.value.errno == errno.EADDRINUSE
        assert file.exists()


def test_a_socket_with_a_full_backlog_is_left_alone(directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(open_socket("wg0", directory))
        sock.listen(0)
        code = 0
        while code == 0:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            code = client.connect_ex(sock.getsockname())
        assert code == errno.EAGAIN
        with pytest.raises(OSError, match="already served"):
            open_socket("wg0", directory)


def test_a_stale_socket_is_replaced(directory: Path) -> None:
    open_socket("wg0", directory).close()
    assert (directory / "wg0.sock").exists()
    with open_socket("wg0", directory) as sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(sock.getsockname())


def test_another_file_in_its_place_is_left_alone(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    path = directory / "wg0.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        open_socket("wg0", directory)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("interface", ["", ".", "..", "../wg0", "a/b", "/"])
def test_a_name_that_leads_elsewhere_is_refused(interface: str, directory: Path) -> None:
    with pytest.raises(OSError, match="not an interface name"):
        open_socket(interface, directory)
    assert not directory.exists()


def test_removing_spares_the_socket_of_a_successor(directory: Path) -> None:
    with open_socket("wg0", directory) as first:
        file = SocketFile.of(first)
        file.path.unlink()
        with open_socket("wg0", directory) as second:
            file.remove()
            assert SocketFile.of(second).exists()
            SocketFile.of(second).remove()
            assert not file.path.exists()
            SocketFile(file.path, file.device, file.inode).remove()


@pytest.mark.parametrize("name", ["", "\0wgpy-test-abstract"])
def test_a_socket_without_a_file_has_no_socket_file(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        if name:
            sock.bind(f"{name}-{os.getpid()}")
        with pytest.raises(FileNotFoundError):
            SocketFile.of(sock)


# ---- a socket that we were given ----


def test_a_listening_socket_is_adopted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given, socket.socket(socket.AF_UNIX) as client:
        given.bind(os.fspath(tmp_path / "wg0.sock"))
        given.listen()
        os.set_inheritable(given.fileno(), True)
        with adopt_socket(given.detach()) as sock:
            assert not sock.get_inheritable()
            client.connect(sock.getsockname())
            sock.accept()[0].close()


def connected_pair() -> socket.socket:
    return socket.socketpair()[0]


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def of_datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def without_a_name() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


@pytest.mark.parametrize("make", [connected_pair, udp, tcp, of_datagrams, without_a_name])
def test_a_socket_to_which_no_client_can_connect_is_refused(
    make: Callable[[], socket.socket],
) -> None:
    fd = make().detach()
    with pytest.raises(OSError, match=r"Invalid argument|not a Unix stream socket") as caught:
        adopt_socket(fd)
    assert caught.value.errno == errno.EINVAL


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        adopt_socket(fd)
    os.close(fd)


# ---- the watch ----


def unlink(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replace_by_another(path: Path) -> None:
    other = path.with_suffix(".new")
    other.touch()
    other.rename(path)


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("remove", [unlink, rename, replace_by_another, remove_the_directory])
def test_the_watch_tells_when_the_file_is_gone(
    remove: Callable[[Path], None], directory: Path
) -> None:
    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            removed = asyncio.Event()
            file = SocketFile.of(sock)
            with contextlib.closing(SocketWatch(file, removed.set)):
                remove(file.path)
                await asyncio.wait_for(removed.wait(), 20)

    asyncio.run(main())


def test_the_watch_tells_nothing_else_and_only_once(directory: Path) -> None:
    told: list[str] = []

    async def main() -> None:
        with open_socket("wg0", directory) as first, open_socket("wg1", directory) as second:
            both_seen = asyncio.Event()
            mine, other = SocketFile.of(first), SocketFile.of(second)
            one = SocketWatch(mine, lambda: told.append("mine"))
            two = SocketWatch(other, both_seen.set)
            mine.path.chmod(0o600)
            os.utime(mine.path)
            other.path.unlink()
            await asyncio.wait_for(both_seen.wait(), 20)
            one.close()
            one.close()
            two.close()
            mine.path.unlink()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert told == []


def test_the_watch_does_without_inotify_when_the_host_has_no_more(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(path: Path, _mask: int) -> int:
        raise OSError(errno.EMFILE, f"no inotify for {path}")

    monkeypatch.setattr("wgpy.uapi.socket_file.inotify_open", exhausted)
    monkeypatch.setattr("wgpy.uapi.socket_file._LOOK_INTERVAL_S", 0.01)

    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            removed = asyncio.Event()
            file = SocketFile.of(sock)
            with contextlib.closing(SocketWatch(file, removed.set)):
                file.path.unlink()
                await asyncio.wait_for(removed.wait(), 20)

    asyncio.run(main())


def test_the_watch_of_a_missing_file_is_refused(directory: Path) -> None:
    async def main() -> None:
        with open_socket("wg0", directory) as sock:
            file = SocketFile.of(sock)
            file.path.unlink()
            with pytest.raises(FileNotFoundError):
                SocketWatch(file, lambda: None)

    asyncio.run(main())
