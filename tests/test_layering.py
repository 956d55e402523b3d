# SPDX-License-Identifier: MIT
"""Imports go down the levels of ARCHITECTURE.md; only plane.py touches the C core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from arrows import reachable

ROOT = Path(__file__).resolve().parent.parent
CORE, CONVERT = "wgpy.dataplane._core", "wgpy.dataplane.convert"
PLANE = "wgpy.dataplane.plane"

# The rooms from the bottom up, each with all that it imports.
ROOMS: list[dict[str, set[str]]] = [
    {"wgpy.units": set(), "wgpy.text": set(), "wgpy.log": set(), "wgpy.dialing": set()},
    {"wgpy.errors": {"wgpy.text"}},
    {"wgpy.config": {"wgpy.errors"}},
    {
        "wgpy.addresses": {"wgpy.config"},
        "wgpy.keys": {"wgpy.config"},
        "wgpy.events": {"wgpy.config"},
        "wgpy.ports": {"wgpy.config"},
        "wgpy.protocol": {"wgpy.errors", "wgpy.units"},
    },
    {
        "wgpy.dataplane": {"wgpy.config", "wgpy.ports"},
        "wgpy.linux": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.errors",
            "wgpy.ports",
            "wgpy.units",
        },
        "wgpy.exchange": {"wgpy.config", "wgpy.errors", "wgpy.protocol"},
        "wgpy.notes": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.errors",
            "wgpy.log",
            "wgpy.protocol",
            "wgpy.units",
        },
        "wgpy.status": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.errors",
            "wgpy.keys",
            "wgpy.protocol",
            "wgpy.text",
        },
        "wgpy.wgquick": {"wgpy.addresses", "wgpy.config", "wgpy.errors", "wgpy.keys"},
    },
    {
        "wgpy.changes": {"wgpy.config", "wgpy.errors", "wgpy.ports"},
        "wgpy.diagnosis": {
            "wgpy.addresses",
            "wgpy.keys",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.status",
            "wgpy.text",
        },
        "wgpy.relay": {"wgpy.dataplane", "wgpy.units"},
        "wgpy.diagnosis_changes": {"wgpy.events", "wgpy.status"},
        "wgpy.endpoints": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.units",
            "wgpy.wgquick",
        },
        "wgpy.moves": {"wgpy.config", "wgpy.dataplane", "wgpy.ports", "wgpy.units"},
        "wgpy.process": {"wgpy.linux"},
        "wgpy.settings": {"wgpy.config", "wgpy.errors", "wgpy.wgquick"},
        "wgpy.tallies": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.errors",
            "wgpy.status",
            "wgpy.units",
        },
        "wgpy.uapi": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.errors",
            "wgpy.linux",
        },
    },
    {
        "wgpy.status_socket": {"wgpy.errors", "wgpy.status", "wgpy.uapi"},
        "wgpy.peer": {
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.errors",
            "wgpy.events",
            "wgpy.exchange",
            "wgpy.keys",
            "wgpy.log",
            "wgpy.notes",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.tallies",
            "wgpy.units",
        },
    },
    {
        "wgpy.facts": {
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.peer",
            "wgpy.status",
            "wgpy.tallies",
        },
    },
    {
        "wgpy.device": {
            "wgpy.changes",
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.errors",
            "wgpy.events",
            "wgpy.exchange",
            "wgpy.facts",
            "wgpy.moves",
            "wgpy.notes",
            "wgpy.peer",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.status",
            "wgpy.tallies",
            "wgpy.units",
        },
    },
    {
        "wgpy.engine": {
            "wgpy.dataplane",
            "wgpy.device",
            "wgpy.diagnosis",
            "wgpy.diagnosis_changes",
            "wgpy.errors",
            "wgpy.events",
            "wgpy.linux",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.status",
        },
    },
    {
        "wgpy.embedded": {
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.endpoints",
            "wgpy.engine",
            "wgpy.errors",
            "wgpy.events",
            "wgpy.linux",
            "wgpy.ports",
            "wgpy.settings",
            "wgpy.status",
        },
        "wgpy.listeners": {
            "wgpy.config",
            "wgpy.engine",
            "wgpy.errors",
            "wgpy.status",
            "wgpy.status_socket",
            "wgpy.uapi",
        },
    },
    {
        "wgpy.daemon": {
            "wgpy.dataplane",
            "wgpy.engine",
            "wgpy.errors",
            "wgpy.keys",
            "wgpy.linux",
            "wgpy.listeners",
            "wgpy.log",
            "wgpy.protocol",
            "wgpy.uapi",
        },
        "wgpy.interface": {
            "wgpy.config",
            "wgpy.dataplane",
            "wgpy.embedded",
            "wgpy.errors",
            "wgpy.linux",
            "wgpy.listeners",
            "wgpy.settings",
            "wgpy.wgquick",
        },
        "wgpy.tunnel": {
            "wgpy.dialing",
            "wgpy.embedded",
            "wgpy.engine",
            "wgpy.exchange",
            "wgpy.linux",
            "wgpy.process",
            "wgpy.settings",
        },
    },
    {
        "wgpy.proxy": {
            "wgpy.addresses",
            "wgpy.daemon",
            "wgpy.dialing",
            "wgpy.errors",
            "wgpy.linux",
            "wgpy.log",
            "wgpy.relay",
            "wgpy.settings",
            "wgpy.tunnel",
            "wgpy.uapi",
            "wgpy.units",
        },
    },
    {
        "wgpy.ctl": {
            "wgpy.addresses",
            "wgpy.config",
            "wgpy.diagnosis",
            "wgpy.errors",
            "wgpy.keys",
            "wgpy.linux",
            "wgpy.log",
            "wgpy.protocol",
            "wgpy.proxy",
            "wgpy.settings",
            "wgpy.status",
            "wgpy.text",
            "wgpy.tunnel",
            "wgpy.uapi",
            "wgpy.wgquick",
        },
    },
    {
        "wgpy.__main__": {"wgpy.daemon", "wgpy.linux"},
        "wgpy.blocking": {
            "wgpy.config",
            "wgpy.linux",
            "wgpy.process",
            "wgpy.settings",
            "wgpy.status",
            "wgpy.tunnel",
        },
        "wgpy.testing": {
            "wgpy.errors",
            "wgpy.linux",
            "wgpy.ports",
            "wgpy.protocol",
            "wgpy.settings",
            "wgpy.tunnel",
            "wgpy.wgquick",
        },
    },
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "wgpy").rglob("*.py"))}


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Absolute names, a relative import with its dots, wherever in the file they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                yield submodule if submodule in {*MODULES, CORE} else module


def imports_of(module: str) -> set[str]:
    return set(imported_names(ast.parse(MODULES[module].read_text())))


def room_of(name: str) -> str:
    """The package or module directly below wgpy in which it is."""
    return ".".join(name.split(".")[:2])


def ours(module: str) -> set[str]:
    return {name for name in imports_of(module) if name.split(".")[0] in ("wgpy", "")}


def test_every_module_is_in_a_room() -> None:
    rooms = {room for level in ROOMS for room in level}
    assert {room_of(module) for module in MODULES} == rooms | {"wgpy"}


def test_a_room_imports_from_lower_levels_only() -> None:
    lower: set[str] = set()
    for level in ROOMS:
        assert [room for room, ends in level.items() if ends - lower] == []
        lower |= set(level)


@pytest.mark.parametrize(("room", "ends"), [pair for level in ROOMS for pair in level.items()])
def test_a_room_imports_what_is_said_of_it(room: str, ends: set[str]) -> None:
    inside = [module for module in MODULES if room_of(module) == room]
    imported = {room_of(name) for module in inside for name in ours(module)}
    assert imported - {room} == ends


def test_inside_a_room_there_is_no_circle() -> None:
    arrows = {module: ours(module) for module in MODULES}
    assert [module for module in MODULES if module in reachable(arrows, module)] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_the_plane_touches_the_core(module: str) -> None:
    assert (CORE in ours(module)) == (module == CONVERT)
    assert CONVERT not in ours(module) or module == PLANE


@pytest.mark.parametrize("module", MODULES)
def test_only_the_builder_imports_cffi(module: str) -> None:
    uses_cffi = any(name.split(".")[0] == "cffi" for name in imports_of(module))
    assert uses_cffi == (module == "wgpy.dataplane.build")
