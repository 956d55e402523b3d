# SPDX-License-Identifier: MIT
"""Calls of libc that Python's standard library lacks, or did in 3.10."""

import ctypes
import os
import time
from pathlib import Path
from typing import Final

from wgpy.units import NS_PER_S

# <sys/timerfd.h>, <linux/prctl.h>, <linux/sched.h>, <linux/mount.h>
TFD_TIMER_ABSTIME: Final = 1
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000
MNT_DETACH: Final = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def boottime_timer() -> int:
    """Return a timerfd of CLOCK_BOOTTIME, not armed; see timerfd_create(2).  Raises OSError."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK, TFD_CLOEXEC
    return _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, flags))


def arm_timer(fd: int, when_ns: int | None) -> None:
    """Make a timerfd readable from when_ns on, at once if that is past, never for None.

    Until then it is not readable.  Raises OSError.
    """
    # Zero would be never.
    seconds, nanoseconds = (0, 0) if when_ns is None else divmod(max(1, when_ns), NS_PER_S)
    spec = _TimerSpec(value=_TimeSpec(seconds, nanoseconds))
    _checked(_libc.timerfd_settime(fd, TFD_TIMER_ABSTIME, ctypes.byref(spec), None))


def inotify_open(path: Path, mask: int) -> int:
    """Return a descriptor that tells of these events (IN_*) at the path; see inotify(7).

    Raises OSError.
    """
    fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def forbid_core_dumps() -> None:
    """Let no memory of ours be dumped, nor read by others of our user; see prctl(2)."""
    _checked(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def set_process_name(name: str) -> None:
    """Be called so by ps(1), which would name the interpreter; 15 bytes of it count."""
    _checked(_libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0))


def set_parent_death_signal(number: int) -> None:
    """Get this signal when the thread that forked us ends; unshare(2) of users forgets it."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0))


def unshare(flags: int) -> None:
    """Live in new namespaces (CLONE_NEW*) from now on; see unshare(2).  Raises OSError."""
    _checked(_libc.unshare(flags))


def setns(fd: int) -> None:
    """Live in the namespace of this descriptor from now on; see setns(2).  Raises OSError."""
    _checked(_libc.setns(fd, 0))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0) -> None:
    """Mount something of this kind, or with MS_BIND what is at source; see mount(2).

    Raises OSError.
    """
    kind_name = None if kind is None else kind.encode()
    what, where = os.fsencode(source), os.fsencode(target)
    _checked(_libc.mount(what, where, kind_name, ctypes.c_ulong(flags), None), target)


def unmount(target: str) -> None:
    """Take away what is mounted there, though somebody may use it; see umount2(2).

    Raises OSError.
    """
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def _checked(result: int, path: str | Path | None = None) -> int:
    """Return what libc did, or raise OSError with its errno."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), None if path is None else os.fspath(path))
