# SPDX-License-Identifier: MIT
"""What a program may use, and what it pays for that."""

import subprocess
import sys
from importlib.resources import files

import pytest

import wgpy
import wgpy.testing

HEAVY = ("cffi", "cryptography", "asyncio", "wgpy.engine", "wgpy.device")


def loaded(statement: str) -> set[str]:
    """Modules that a new Python has after this."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("name", wgpy.__all__)
def test_each_public_name_is_there_and_has_a_docstring(name: str) -> None:
    assert getattr(wgpy, name).__doc__
    assert name in dir(wgpy)


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wgpy.no_such_name


def test_the_package_is_marked_as_typed() -> None:
    assert files("wgpy").joinpath("py.typed").is_file()


@pytest.mark.parametrize("module", ["wgpy", "wgpy.config", "wgpy.linux.keeper"])
def test_what_starts_first_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["Tunnel", "Interface"])
def test_a_tunnel_is_known_before_its_engine_is_loaded(name: str) -> None:
    """So that the keeper makes the network meanwhile."""
    assert loaded(f"import wgpy; wgpy.{name}").isdisjoint(set(HEAVY) - {"asyncio"})


def test_pytest_is_loaded_for_its_fixtures_only() -> None:
    assert "pytest" not in loaded("import wgpy.testing")


@pytest.mark.parametrize("name", wgpy.testing.__all__)
def test_each_name_for_tests_has_a_docstring(name: str) -> None:
    assert getattr(wgpy.testing, name).__doc__
