# SPDX-License-Identifier: MIT
"""What a daemon that cannot start says, as far as that goes without an interface."""

import errno
import os

import pytest

from wgpy.daemon import run as running
from wgpy.daemon.options import Options
from wgpy.errors import StartError


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


def test_a_given_descriptor_that_is_no_tun_is_refused() -> None:
    with open(os.devnull) as null, pytest.raises(StartError, match="WG_TUN_FD"):
        running._open_tun(Options("wg0", tun_fd=null.fileno()))
