# SPDX-License-Identifier: MIT
"""Files of the host that would lie to who lives in a private network.

All stay visible there, and with them the sockets of services that look names up for others: nscd,
systemd-resolved, Avahi.  Those live in the host's network, so who asked them would tell it the
names.  Hidden are whole directories: a service that starts later makes its socket in one of them.

What /sys shows of networks is the one in which it was mounted.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from wgpy.linux import libc

RESOLV_CONF: Final = "/etc/resolv.conf"
HIDDEN: Final = ("/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon")
HARMLESS: Final = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
SYS, CGROUPS = "/sys", "fs/cgroup"
ROOM: Final = ("/tmp", "/run", "/dev/shm")  # noqa: S108 - covered for a moment, in our own view


def replace(resolv_conf: str | None) -> None:
    """In a new mount namespace, put others in their place, and this text in that of resolv.conf.

    None: as it is.  Raises OSError.
    """
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_SLAVE)
    with contextlib.suppress(OSError):  # a container that hides some of it does not permit it
        _renew_sys()
    target = os.path.realpath(RESOLV_CONF)
    is_hidden = os.path.dirname(target) in map(os.path.realpath, HIDDEN)
    if resolv_conf is None and is_hidden:
        with open(target, errors="surrogateescape") as file:
            resolv_conf = file.read()
    for directory in HIDDEN:
        if os.path.isdir(directory):
            libc.mount("none", directory, "tmpfs", HARMLESS)
    if resolv_conf is None:
        return
    if is_hidden:
        _write(target, resolv_conf)
    else:
        _lay(resolv_conf, target)


def _lay(text: str, target: str) -> None:
    """Have this text in the place of a file."""
    with _mounted("tmpfs", HARMLESS) as room:
        source = os.path.join(room, "resolv.conf")
        _write(source, text)
        libc.mount(source, target, flags=libc.MS_BIND)


def _renew_sys() -> None:
    """Have a /sys of this network, and in it what is of no network."""
    read_only = libc.MS_RDONLY if os.statvfs(SYS).f_flag & os.ST_RDONLY else 0
    with _mounted("sysfs", HARMLESS | read_only) as room:
        tree = libc.MS_BIND | libc.MS_REC
        if os.path.isdir(os.path.join(SYS, CGROUPS)):
            libc.mount(os.path.join(SYS, CGROUPS), os.path.join(room, CGROUPS), flags=tree)
        libc.mount(room, SYS, flags=tree)


@contextlib.contextmanager
def _mounted(kind: str, flags: int) -> Iterator[str]:
    """Mount one of these somewhere for a moment."""
    room = next(filter(os.path.isdir, ROOM))
    libc.mount("none", room, kind, flags)
    try:
        yield room
    finally:
        libc.unmount(room)


def _write(path: str, text: str) -> None:
    with open(path, "w", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o644)
