"""Imports follow the arrows of ARCHITECTURE.md, never upward; only plane.py touches the C core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from arrows import reachable

ROOT = Path(__file__).resolve().parent.parent
PLANE, CORE = "wgpy.dataplane.plane", "wgpy.dataplane._core"

# The arrows; a module may import whatever it reaches by them.
ARROWS: dict[str, set[str]] = {
    "wgpy.__main__": {"wgpy.daemon.cli"},
    "wgpy.daemon.cli": {"wgpy.daemon.run", "wgpy"},
    "wgpy.daemon.run": {
        "wgpy.device",
        "wgpy.uapi.server",
        "wgpy.uapi.socket_file",
        "wgpy.linux.sockets",
        "wgpy.linux.tun",
        "wgpy.linux.link",
        "wgpy.daemon.systemd",
        "wgpy.daemon.logs",
        "wgpy.linux.routes",
        "wgpy.linux.boottime",
    },
    "wgpy.device": {"wgpy.peer"},
    "wgpy.peer": {
        "wgpy.protocol.noise",
        "wgpy.protocol.cookie",
        "wgpy.protocol.timers",
        "wgpy.log",
        PLANE,
    },
    "wgpy.protocol.noise": {"wgpy.protocol.messages", "wgpy.protocol.tai64n"},
    "wgpy.protocol.cookie": {"wgpy.protocol.messages"},
    "wgpy.protocol.messages": {"wgpy.config", "wgpy.errors"},
    "wgpy.protocol.timers": {PLANE},
    "wgpy.uapi.server": {"wgpy.uapi.protocol"},
    "wgpy.uapi.protocol": {"wgpy.config", "wgpy.errors"},
    "wgpy.daemon.logs": {"wgpy.log"},
    "wgpy.daemon.systemd": {"wgpy.daemon.logs"},
    "wgpy.linux.sockets": {PLANE},
    "wgpy.linux.link": {"wgpy.linux.tun", "wgpy.linux.hints"},
    "wgpy.linux.routes": {"wgpy.config", "wgpy.linux.hints"},
    "wgpy.linux.tun": {PLANE},
    PLANE: {"wgpy.config", "wgpy.errors", CORE},
}


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


def test_the_arrows_make_no_circle() -> None:
    assert [module for module in ARROWS if module in reachable(ARROWS, module)] == []


def test_every_arrow_joins_modules_that_exist() -> None:
    ends = {*ARROWS, *(end for ends in ARROWS.values() for end in ends)}
    assert ends - {*MODULES, CORE} == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_downward(module: str) -> None:
    ours = {name for name in imports_of(module) if name.startswith(("wgpy", "."))}
    allowed = reachable(ARROWS, module) - ({CORE} if module != PLANE else set())
    assert ours - allowed == set()


@pytest.mark.parametrize("module", MODULES)
def test_only_the_builder_imports_cffi(module: str) -> None:
    uses_cffi = any(name.split(".")[0] == "cffi" for name in imports_of(module))
    assert uses_cffi == (module == "wgpy.dataplane.build")
