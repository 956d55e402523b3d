# SPDX-License-Identifier: MIT
"""What the environment says of the build, as far as that goes without a compiler."""

import pytest

from wgpy.dataplane import build

FORTIFIED = "-D_FORTIFY_SOURCE=2"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPPFLAGS", "CFLAGS", "WGPY_SANITIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WGPY_IPSEC_MB", "0")


def optimization(flags: list[str]) -> list[str]:
    return [flag for flag in flags if flag.startswith("-O")]


def test_with_nothing_said_it_is_optimized_and_fortified() -> None:
    compile_args, _link_args = build.flags()
    assert optimization(compile_args) == ["-O3"]
    assert FORTIFIED in compile_args


def test_how_much_to_optimize_is_for_who_builds_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-g -O2")
    compile_args, _link_args = build.flags()
    assert optimization(compile_args) == []
    assert FORTIFIED in compile_args


@pytest.mark.parametrize("variable", ["CPPFLAGS", "CFLAGS"])
def test_how_much_to_fortify_is_for_who_builds_to_say(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "-Wdate-time -D_FORTIFY_SOURCE=3")
    compile_args, _link_args = build.flags()
    assert not any("FORTIFY" in flag for flag in compile_args)
    assert optimization(compile_args) == ["-O3"]


def test_what_is_not_optimized_cannot_be_fortified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-O2 -O0")
    compile_args, _link_args = build.flags()
    assert not any("FORTIFY" in flag for flag in compile_args)


def test_a_library_forbidden_is_not_used() -> None:
    compile_args, link_args = build.flags()
    assert "-DWGPY_IPSEC_MB=1" not in compile_args
    assert "-lIPSec_MB" not in link_args


def test_a_library_demanded_in_vain_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("WGPY_IPSEC_MB", "1")
    with pytest.raises(SystemExit, match=r"WGPY_IPSEC_MB=1 demands .*libipsec-mb-dev"):
        build.flags()


def test_a_library_not_mentioned_is_used_if_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WGPY_IPSEC_MB")
    for compiler, there in (("false", False), ("true", True)):
        monkeypatch.setenv("CC", compiler)
        assert ("-lIPSec_MB" in build.flags()[1]) == there


def test_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGPY_IPSEC_MB", "yes")
    with pytest.raises(SystemExit, match="'yes', neither 0 nor 1"):
        build.flags()
