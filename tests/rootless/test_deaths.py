# SPDX-License-Identifier: MIT
"""Whoever dies first, all that ran in a private network ends, and nothing of it stays."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest
from rootless.lab import as_nobody, eventually, inhabitants, network_of, running, scenario


class Family(NamedTuple):
    """A host program, its keeper and the first process of the private PID namespace."""

    owner: "Popen[str]"
    keeper: int
    init: int
    network: str

    def is_gone(self) -> bool:
        return not inhabitants(self.network)


def first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextmanager
def family(name: str = "own", *, is_root: bool = False) -> Iterator[Family]:
    command = scenario(name)
    with running(command if is_root else as_nobody(*command)) as (owner, told):
        network = network_of(told["keeper"])
        eventually(lambda: len(inhabitants(network)) >= 4, "keeper, init and two sleeping commands")
        try:
            yield Family(owner, told["keeper"], first_child(told["keeper"]), network)
        finally:
            if "heir" in told:
                os.kill(told["heir"], signal.SIGKILL)


@pytest.mark.parametrize("is_root", [False, True])
def test_all_ends_with_the_owner(is_root: bool) -> None:
    with family(is_root=is_root) as one:
        one.owner.kill()
        eventually(one.is_gone, "the end of all")


def test_all_ends_with_the_owner_though_a_child_of_it_holds_the_channels() -> None:
    with family("own_with_a_heir") as one:
        one.owner.kill()
        eventually(one.is_gone, "the end of all")


@pytest.mark.parametrize("who", ["keeper", "init"])
def test_all_ends_with_the_keeper_and_its_init_and_the_owner_hears_it(who: str) -> None:
    with family() as one:
        os.kill(getattr(one, who), signal.SIGKILL)
        output, _ = one.owner.communicate(timeout=20)
        assert (one.owner.returncode, output) == (0, '{"status": -9}\n')
        eventually(one.is_gone, "the end of all")


def test_all_ends_when_owner_and_keeper_die_at_once() -> None:
    with family() as one:
        os.kill(one.keeper, signal.SIGSTOP)
        one.owner.kill()
        os.kill(one.keeper, signal.SIGKILL)
        eventually(one.is_gone, "the end of all")


@pytest.mark.parametrize("name", ["own", "own_with_a_heir"])
def test_nobody_is_left_once_the_network_is_closed(name: str) -> None:
    with family(name) as one:
        output, _ = one.owner.communicate("close\n", timeout=20)
        assert (one.owner.returncode, output) == (0, '{"status": -9}\n')
        assert one.is_gone()


def test_a_keeper_that_somebody_stopped_is_killed_in_the_end() -> None:
    with family() as one:
        os.kill(one.keeper, signal.SIGSTOP)
        one.owner.communicate("close\n", timeout=30)
        assert one.owner.returncode == 0
        eventually(one.is_gone, "the end of all")


def test_the_keeper_outlives_signals_that_are_for_the_program() -> None:
    with family() as one:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(one.keeper, number)
        one.owner.communicate("close\n", timeout=20)
        assert one.owner.returncode == 0
        assert one.is_gone()
