# SPDX-License-Identifier: MIT
"""Runs a command as nobody, wherever Python and checkout are, with a /dev/net/tun of this mode.

argv: mode in octal, 0 for none; directories that the command needs, "--", the command.  Nothing of
this stays: it is in a mount namespace of its own.
"""

import os
import stat
import sys
import tempfile
from pathlib import Path

from wgpy.linux import libc

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def main() -> None:
    cut = sys.argv.index("--")
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_SLAVE)
    open_to_all([Path(name).resolve() for name in sys.argv[2:cut]])
    make_tun_node(int(sys.argv[1], 8))
    os.execvp(NOBODY[0], [*NOBODY, *sys.argv[cut + 1 :]])


def open_to_all(directories: list[Path]) -> None:
    """Let others reach the directories, by covering what is closed to them above."""
    closed = {way: directory for directory in directories if (way := closed_way(directory))}
    with tempfile.TemporaryDirectory() as hold:
        for way in {*closed}:
            behind = [directory for directory in directories if way in directory.parents]
            for number, directory in enumerate(behind):
                Path(hold, str(number)).mkdir()
                libc.mount(str(directory), f"{hold}/{number}", flags=libc.MS_BIND | libc.MS_REC)
            libc.mount("none", str(way), "tmpfs")
            way.chmod(0o755)
            for number, directory in enumerate(behind):
                directory.mkdir(parents=True, exist_ok=True)
                libc.mount(f"{hold}/{number}", str(directory), flags=libc.MS_BIND | libc.MS_REC)
                libc.unmount(f"{hold}/{number}")
                Path(hold, str(number)).rmdir()


def closed_way(directory: Path) -> Path | None:
    """The highest directory above that others may not search."""
    for parent in reversed(directory.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def make_tun_node(mode: int) -> None:
    """As 0666 it is what udev makes; some hosts have it for root alone."""
    libc.mount("none", "/dev/net", "tmpfs")
    os.chmod("/dev/net", 0o755)
    if mode:
        os.mknod("/dev/net/tun", stat.S_IFCHR, os.makedev(10, 200))
        os.chmod("/dev/net/tun", mode)


if __name__ == "__main__":
    main()
