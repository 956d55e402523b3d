# SPDX-License-Identifier: MIT
"""The namespaces of a tunnel as descriptors: a process hands them on, another comes to live there.

See setns(2).  Who has the descriptors still needs the rights of whoever made the namespaces: the
same user, or root.
"""

import os
from collections.abc import Sequence
from typing import Final

from wgpy.linux import libc

# A user namespace first: it gives the rights for the others.
KINDS: Final = ("user", "mnt", "net", "pid_for_children")


def open_spaces(pid: int) -> list[int]:
    """Return descriptors of a process's namespaces, in the order of KINDS; to be closed.

    Of PID namespaces it is the one of the children that it has.  Raises OSError.
    """
    found: list[int] = []
    try:
        for kind in KINDS:
            found.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
    except BaseException:
        close_spaces(found)
        raise
    return found


def close_spaces(spaces: Sequence[int]) -> None:
    """Close what open_spaces returned."""
    for fd in spaces:
        os.close(fd)


def enter(spaces: Sequence[int]) -> None:
    """Live in these namespaces from now on, in the PID namespace with children to come only.

    The process must have one thread.  It is in the root directory afterwards.  Raises OSError.
    """
    user, *others = spaces
    if not os.path.sameopenfile(user, own := os.open("/proc/self/ns/user", os.O_RDONLY)):
        libc.setns(user)  # which forbids to enter one's own
    os.close(own)
    for fd in others:
        libc.setns(fd)
