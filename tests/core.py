# SPDX-License-Identifier: MIT
"""The copy of the C core that tests run, in the place of wgpy.dataplane._core.

It is the checkout's, with doors to what Python has no business with (dataplane/doors.h) and with
tests between it and the kernel (dataplane/faults.c).  What the environment says of sanitizers holds
for it too.  It is built when it is first imported, and again when something of it changed.
"""

import hashlib
import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import cffi
import pytest

HERE = Path(__file__).resolve().parent / "dataplane"
ROOT = HERE.parent.parent
CORE = "wgpy.dataplane._core"
WRAPPED = ("sendmmsg", "ioctl", "recvmmsg", "writev", "read", "poll", "clock_gettime")

_ahead_ns = 0


class CoreFinder(MetaPathFinder):
    """Finds our copy for whoever imports the core."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(CORE, built()) if fullname == CORE else None


def advance_clock(by_ns: int) -> None:
    """Let time jump forward for all planes, until the end of the test."""
    _set_clock(_ahead_ns + by_ns)


def reset_clock() -> None:
    """Let the planes have the time that it is."""
    if _ahead_ns:
        _set_clock(0)


def _set_clock(ahead_ns: int) -> None:
    global _ahead_ns
    sys.modules[CORE].lib.door_set_clock(ahead_ns)
    _ahead_ns = ahead_ns


def built() -> Path:
    """The file, built if it is not that of what is here now.

    Skips the test, or all of its module, with a sentence where the host lacks what that takes.
    """
    build = _build_module()
    try:
        build.require_tools()
    except SystemExit as missing:
        pytest.skip(str(missing), allow_module_level=True)
    kind = os.environ.get("WGPY_SANITIZE", "plain")
    directory = ROOT / "build/tests-core" / platform.machine() / kind
    path = directory / f"{_checksum(build)}.so"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        before = list(directory.glob("*.so"))
        _build(build, path)
        for file in before:
            file.unlink(missing_ok=True)
    return path


@cache
def _build_module() -> Any:
    """build.py of the checkout, which has the sources, unlike an installed wgpy."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "wgpy/dataplane/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checksum(build: Any) -> str:
    """Of all that the file is made of, and of what it has to fit."""
    made_of = [build.compiler(), build.given(), build.flags()]
    made_of += [sysconfig.get_config_var("SOABI"), cffi.__version__]
    files = [Path(__file__), build.HERE / "build.py", *build.HERE.glob("*.h"), *HERE.glob("*.h")]
    checksum = hashlib.sha256(repr(made_of).encode())
    for file in sorted([*files, *build.sources(), *HERE.glob("*.c")]):
        checksum.update(file.read_bytes())
    return checksum.hexdigest()[:20]


def _build(build: Any, path: Path) -> None:
    ffi = cffi.FFI()
    ffi.cdef(build.cdef((build.HERE / "api.h").read_text() + (HERE / "doors.h").read_text()))
    ffi.set_source(CORE, '#include "doors.h"' + build.PREAMBLE)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        module, library = Path(directory, "_core.c"), Path(directory, "_core.so")
        ffi.emit_c_code(str(module))
        build.link(
            library,
            *("-shared", "-fPIC", f"-I{HERE}", f"-I{sysconfig.get_path('include')}"),
            *map(str, (HERE / "doors.c", HERE / "faults.c", module)),
            *(f"-Wl,--wrap={name}" for name in WRAPPED),
        )
        library.rename(path)
