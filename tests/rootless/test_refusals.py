# SPDX-License-Identifier: MIT
"""What is said where a private network cannot be had; each host is imitated."""

import ctypes.util
import sys

import pytest
from rootless.lab import HERE, as_nobody, result, scenario

needs_seccomp = pytest.mark.skipif(
    ctypes.util.find_library("seccomp") is None, reason="not installed: libseccomp"
)


def limited(sysctl: str) -> list[str]:
    """As root of a container, without CAP_SYS_ADMIN, where nobody may have one of these."""
    script = f'echo 0 >/proc/sys/user/{sysctl}\nexec "$@"'
    weak = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    return [*unshare, "sh", "-euc", script, "sh", *weak, *scenario("refused")]


def filtered(*rules: str) -> list[str]:
    filter_ = [sys.executable, str(HERE / "filtered.py"), *rules, "--"]
    return as_nobody(*filter_, *scenario("refused"))


@pytest.mark.parametrize("sysctl", ["max_user_namespaces", "max_net_namespaces"])
def test_namespaces_that_are_off_are_told_with_both_counts(sysctl: str) -> None:
    said = result(limited(sysctl))
    assert said.startswith("namespaces are off here (user.max_user_namespaces is ")
    assert f"user.{sysctl} is 0" in said
    assert "user.max_net_namespaces is " in said
    assert "sysctl -w" in said


@needs_seccomp
@pytest.mark.parametrize("call", ["unshare", "mount"])
def test_a_filter_of_system_calls_is_told_with_the_flag_for_containers(call: str) -> None:
    said = result(filtered(f"{call}=EPERM"))
    assert said.startswith("namespaces are forbidden here, as containers' filters")
    assert "--security-opt seccomp=unconfined" in said


@needs_seccomp
def test_apparmor_that_refuses_the_identity_is_told_with_the_page_that_has_a_profile() -> None:
    said = result(filtered(f"write=EACCES:2={len('deny')}"))  # which is for setgroups
    assert said.startswith("AppArmor lets only programs with a profile use user namespaces")
    assert "docs/embedding.md" in said


@pytest.mark.parametrize(
    ("mode", "words"),
    [("0", "there is no /dev/net/tun"), ("600", "no permission for /dev/net/tun")],
)
def test_a_tun_that_cannot_be_opened_is_told_with_what_to_do(mode: str, words: str) -> None:
    said = result(as_nobody(*scenario("refused"), tun_mode=mode))
    assert said.startswith(words)
    assert "--device /dev/net/tun" in said
    assert "as root" in said
