# SPDX-License-Identifier: MIT
"""The directory of the configuration socket: made, or found fit, or refused with a way to go on."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from wgpy.uapi.socket_file import SocketFile, open_socket

SOMEBODY = 1  # a user other than root

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "wireguard"


def opens(directory: Path, *, trust: bool = False) -> bool:
    """Whether the socket can be had, and is where it was asked for."""
    with open_socket("wg0", directory, trust_directory=trust) as sock:
        file = SocketFile.of(sock)
        assert file.path == directory / "wg0.sock"
        file.remove()
    return True


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# ---- what will do ----


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_missing_parents_are_made_and_are_for_all(umask: int, directory: Path) -> None:
    before = os.umask(umask)
    try:
        assert opens(directory)
    finally:
        os.umask(before)
    assert [mode_of(path) for path in (directory, directory.parent)] == [0o755, 0o755]


def link_to_a_directory(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    directory.symlink_to(directory.parent / "elsewhere")


def relative_link(directory: Path) -> None:
    (directory.parent.parent / "elsewhere").mkdir()
    directory.symlink_to("../elsewhere/../elsewhere/.")


def link_to_a_link(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir()
    (directory.parent / "between").symlink_to("elsewhere")
    directory.symlink_to(directory.parent / "between")


def link_to_what_is_missing(directory: Path) -> None:
    directory.symlink_to(directory.parent / "not" / "there")


def link_into_a_sticky_directory(directory: Path) -> None:
    sticky = directory.parent / "sticky"
    (sticky / "ours").mkdir(parents=True)
    sticky.chmod(0o1777)
    directory.symlink_to(sticky / "ours")


def parent_that_leads_nowhere_yet(directory: Path) -> None:
    """As /var/run, where there is no /run."""
    directory.parent.rmdir()
    directory.parent.symlink_to("missing")


@pytest.mark.parametrize(
    "prepare",
    [
        link_to_a_directory,
        relative_link,
        link_to_a_link,
        link_to_what_is_missing,
        link_into_a_sticky_directory,
        parent_that_leads_nowhere_yet,
    ],
)
def test_a_safe_link_is_followed(prepare: Callable[[Path], None], directory: Path) -> None:
    directory.parent.mkdir()
    prepare(directory)
    assert opens(directory)
    assert stat.S_ISDIR(directory.stat().st_mode)


# ---- what will do by order; each returns the culprit ----


def for_a_group(directory: Path) -> Path:
    directory.mkdir()
    directory.chmod(0o775)
    return directory


def for_all(directory: Path) -> Path:
    directory.mkdir()
    directory.chmod(0o757)
    return directory


def sticky(directory: Path) -> Path:
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def link_to_one_for_all(directory: Path) -> Path:
    link_to_a_directory(directory)
    elsewhere = directory.parent / "elsewhere"
    elsewhere.chmod(0o777)
    return elsewhere


def link_over_one_for_all(directory: Path) -> Path:
    between = directory.parent / "between"
    (between / "elsewhere").mkdir(parents=True)
    between.chmod(0o777)
    directory.symlink_to(between / "elsewhere")
    return between


def link_over_a_link_in_one_for_all(directory: Path) -> Path:
    between = directory.parent / "between"
    between.mkdir()
    (directory.parent / "elsewhere").mkdir()
    (between / "link").symlink_to("../elsewhere")
    between.chmod(0o777)
    directory.symlink_to("between/link")
    return between


def link_to_what_is_missing_in_one_for_all(directory: Path) -> Path:
    between = directory.parent / "between"
    between.mkdir()
    between.chmod(0o777)
    directory.symlink_to(between / "missing")
    return between


WRITABLE = [
    for_a_group,
    for_all,
    sticky,
    link_to_one_for_all,
    link_over_one_for_all,
    link_over_a_link_in_one_for_all,
    link_to_what_is_missing_in_one_for_all,
]


def somebodys(directory: Path) -> Path:
    directory.mkdir()
    os.chown(directory, SOMEBODY, -1)
    return directory


def link_to_somebodys(directory: Path) -> Path:
    link_to_a_directory(directory)
    elsewhere = directory.parent / "elsewhere"
    os.chown(elsewhere, SOMEBODY, -1)
    return elsewhere


def link_over_somebodys(directory: Path) -> Path:
    home = directory.parent / "home"
    (home / "ours").mkdir(parents=True)
    os.chown(home, SOMEBODY, -1)
    directory.symlink_to(home / "ours")
    return home


def somebodys_link(directory: Path) -> Path:
    link_to_a_directory(directory)
    os.chown(directory, SOMEBODY, -1, follow_symlinks=False)
    return directory


def link_over_somebodys_link(directory: Path) -> Path:
    link_into_a_sticky_directory(directory)
    link = directory.parent / "sticky" / "link"
    link.symlink_to("ours")
    os.chown(link, SOMEBODY, -1, follow_symlinks=False)
    directory.unlink()
    directory.symlink_to(link)
    return link


FOREIGN = [
    somebodys,
    link_to_somebodys,
    link_over_somebodys,
    somebodys_link,
    link_over_somebodys_link,
]


def refusal(directory: Path) -> str:
    with pytest.raises(PermissionError) as caught:
        open_socket("wg0", directory)
    assert caught.value.filename == str(directory)
    reason = caught.value.strerror
    assert reason is not None
    assert "WGPY_TRUST_SOCKET_DIR=1" in reason
    return reason


@pytest.mark.parametrize("prepare", WRITABLE)
def test_what_others_can_write_is_named_and_refused(
    prepare: Callable[[Path], Path], directory: Path
) -> None:
    directory.parent.mkdir()
    culprit = prepare(directory)
    assert refusal(directory).startswith(f"{culprit} is writable by others (mode ")
    assert opens(directory, trust=True)


@needs_root
@pytest.mark.parametrize("prepare", FOREIGN)
def test_what_is_somebody_elses_is_named_and_refused(
    prepare: Callable[[Path], Path], directory: Path
) -> None:
    directory.parent.mkdir()
    culprit = prepare(directory)
    assert refusal(directory).startswith(f"{culprit} is owned by somebody else (user {SOMEBODY})")
    assert opens(directory, trust=True)


def test_nothing_is_made_where_others_can_write(directory: Path) -> None:
    directory.parent.mkdir()
    culprit = link_to_what_is_missing_in_one_for_all(directory)
    refusal(directory)
    assert list(culprit.iterdir()) == []


# ---- what will never do ----


@pytest.mark.parametrize("trust", [False, True])
def test_a_file_in_the_place_of_the_directory_is_refused(trust: bool, directory: Path) -> None:
    directory.parent.mkdir()
    directory.touch()
    with pytest.raises(NotADirectoryError) as caught:
        opens(directory, trust=trust)
    assert caught.value.filename == str(directory)


@pytest.mark.parametrize("trust", [False, True])
def test_a_link_to_itself_is_refused(trust: bool, directory: Path) -> None:
    directory.parent.mkdir()
    directory.symlink_to("wireguard")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)) as caught:
        opens(directory, trust=trust)
    assert caught.value.filename == str(directory)
