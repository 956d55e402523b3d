"""Names in a private namespace are looked up through its network, or not at all.

The files of the host stay visible there, and with them the sockets of services that look names up
for others: nscd, systemd-resolved, Avahi.  Those live in the host's network, so who asked them
would tell it the names.  Hidden are whole directories: a service that starts later makes its socket
in one of them.
"""

import os
from typing import Final

from wgpy.linux import libc

RESOLV_CONF: Final = "/etc/resolv.conf"
HIDDEN: Final = ("/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon")
ROOM: Final = ("/tmp", "/run", "/dev/shm")  # noqa: S108 - covered for a moment, in our own view


def hide(resolv_conf: str | None) -> None:
    """In a new mount namespace, hide those services, and have this text as resolv.conf.

    None: as it is.  Raises OSError.
    """
    libc.mount("none", "/", flags=libc.MS_REC | libc.MS_SLAVE)
    target = os.path.realpath(RESOLV_CONF)
    is_hidden = os.path.dirname(target) in map(os.path.realpath, HIDDEN)
    if resolv_conf is None and is_hidden:
        with open(target, errors="surrogateescape") as file:
            resolv_conf = file.read()
    for directory in HIDDEN:
        if os.path.isdir(directory):
            libc.mount("none", directory, "tmpfs", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    if resolv_conf is None:
        return
    if is_hidden:
        _write(target, resolv_conf)
    else:
        _lay(resolv_conf, target)


def _lay(text: str, target: str) -> None:
    """Have this text in the place of a file."""
    room = next(filter(os.path.isdir, ROOM))
    libc.mount("none", room, "tmpfs")
    try:
        source = os.path.join(room, "resolv.conf")
        _write(source, text)
        libc.mount(source, target, flags=libc.MS_BIND)
    finally:
        libc.unmount(room)


def _write(path: str, text: str) -> None:
    with open(path, "w", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o644)
