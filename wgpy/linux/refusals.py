# SPDX-License-Identifier: MIT
"""Why a network or an interface cannot be had here, and what to do about it: a sentence for users.

Of a private network the keeper tells where it failed and how; what the host says of itself tells
why.  See user_namespaces(7), namespaces(7).
"""

import errno
from pathlib import Path
from typing import Final

PROC_SYS: Final = Path("/proc/sys")
CLONE_KNOB: Final = "kernel/unprivileged_userns_clone"  # of Debian's kernels
APPARMOR_KNOB: Final = "kernel/apparmor_restrict_unprivileged_userns"  # of Ubuntu's
USERS, NETWORKS = "user/max_user_namespaces", "user/max_net_namespaces"
AS_ROOT: Final = "or run this as root"


def why_not(step: str, number: int, reason: str) -> str:
    """Return the sentence for a step of the keeper, its errno and strerror."""
    explain = {
        "user namespace": _user_namespace,
        "identity": _identity,
        "namespaces": _namespaces,
        "TUN": _tun,
        "files": _files,
    }.get(step)
    return (explain and explain(number)) or f"no private network can be had here: {step}: {reason}"


def why_no_interface(name: str, error: OSError) -> str:
    """Return the sentence for an interface of the system that open_tun refused."""
    if error.filename and error.errno in (errno.EACCES, errno.EPERM):
        where = "run as root, or let the container have the device"
        return f"no permission for {error.filename}: {where}"
    reasons = {
        errno.ENOENT: "there is no /dev/net/tun: load the module tun",
        errno.ENODEV: "there is no TUN driver: load the module tun",
        errno.ENXIO: "there is no TUN driver: load the module tun",
        errno.ENOTTY: "what is at /dev/net/tun is no TUN device",
        errno.EISDIR: "what is at /dev/net/tun is no TUN device",
        errno.EPERM: "no permission to make an interface: run as root (it takes CAP_NET_ADMIN)",
        errno.EBUSY: f"the interface {name} exists and is in use",
        errno.EINVAL: f"an interface {name} of another kind exists",
    }
    other = f"cannot make the interface {name}: {error.strerror}"
    return reasons.get(error.errno or 0, other)


def _user_namespace(number: int) -> str | None:
    if number == errno.ENOSPC:
        return _used_up()
    if number in (errno.EPERM, errno.EACCES):
        if _sysctl(CLONE_KNOB) == "0":
            return (
                "user namespaces are off here (kernel.unprivileged_userns_clone is 0): "
                f"as root `sysctl -w kernel.unprivileged_userns_clone=1`, {AS_ROOT}"
            )
        return _filtered()
    if number in (errno.EINVAL, errno.ENOSYS):
        return f"this kernel has no user namespaces (CONFIG_USER_NS): take another, {AS_ROOT}"
    return None


def _identity(number: int) -> str | None:
    if number in (errno.EPERM, errno.EACCES):
        return _profile()
    return None


def _namespaces(number: int) -> str | None:
    if number == errno.ENOSPC:
        return _used_up()
    if number in (errno.EPERM, errno.EACCES):
        return _forbidden()
    return None


def _tun(number: int) -> str | None:
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return (
            "there is no /dev/net/tun: as root `modprobe tun`, "
            "or give the container the device (--device /dev/net/tun)"
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            "no permission for /dev/net/tun: as root `chmod 0666 /dev/net/tun`, which is usual, "
            "or give the container the device (--device /dev/net/tun)"
        )
    return None


def _files(number: int) -> str | None:
    if number in (errno.EPERM, errno.EACCES):
        return _forbidden()
    if number == errno.ENOENT:
        return "there is no /etc/resolv.conf to put the tunnel's in the place of: make an empty one"
    return None


def _used_up() -> str:
    """Return what counts there are, for the kernel does not tell which of them it was."""
    users, networks = _sysctl(USERS), _sysctl(NETWORKS)
    state = "off" if "0" in (users, networks) else "used up"
    return (
        f"namespaces are {state} here (user.max_user_namespaces is {users}, "
        f"user.max_net_namespaces is {networks}): as root give both more by `sysctl -w`, {AS_ROOT}"
    )


def _forbidden() -> str:
    return _profile() if _sysctl(APPARMOR_KNOB) == "1" else _filtered()


def _filtered() -> str:
    return (
        "namespaces are forbidden here, as containers' filters of system calls do: start the "
        "container with `--security-opt seccomp=unconfined` or a filter that permits unshare and "
        "mount, or run this outside of it"
    )


def _profile() -> str:
    return (
        "AppArmor lets only programs with a profile use user namespaces: "
        f"give this Python one, as docs/embedding.md shows, {AS_ROOT}"
    )


def _sysctl(name: str) -> str:
    try:
        return (PROC_SYS / name).read_text().strip()
    except OSError:
        return "unknown"
