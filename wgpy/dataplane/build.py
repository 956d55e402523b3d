"""Builds wgpy.dataplane._core: the C data plane as a cffi API-mode module.

The cdef is api.h itself, less its preprocessor lines, so nothing is declared twice.

Environment: WGPY_SANITIZE (a value for -fsanitize=, for `tox -e sanitize`).
"""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Warnings are errors in our own files only; the cffi-generated one includes them and is not ours.
C_FLAGS = ["-std=gnu11", "-O3", "-fno-strict-aliasing", "-fvisibility=hidden", "-fno-plt"]


def cdef(header: str) -> str:
    """The declarations of api.h without the preprocessor lines that cffi cannot read."""
    kept = []
    for line in header.splitlines():
        if re.match(r"\s*#\s*define\s+\w+\s+[0-9]", line) or not line.lstrip().startswith("#"):
            kept.append(line)
    return "\n".join(kept)


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags."""
    sanitize = os.environ.get("WGPY_SANITIZE")
    if not sanitize:
        return C_FLAGS, []
    extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]
    return C_FLAGS + extra, [f"-fsanitize={sanitize}"]


def builder() -> FFI:
    """The cffi builder that setuptools and `python -m wgpy.dataplane.build` run."""
    compile_args, link_args = flags()
    ffi = FFI()
    ffi.cdef(cdef((HERE / "api.h").read_text()))
    ffi.set_source(
        "wgpy.dataplane._core",
        '#include "api.h"',
        sources=[str(p.relative_to(ROOT)) for p in sorted(HERE.glob("*.c")) if p.stem != "_core"],
        depends=["wgpy/dataplane/api.h", "wgpy/dataplane/internal.h"],
        include_dirs=["wgpy/dataplane"],
        libraries=["crypto", "pthread"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return ffi


ffibuilder = builder()

if __name__ == "__main__":
    os.chdir(ROOT)
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
