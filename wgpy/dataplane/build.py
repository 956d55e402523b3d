# SPDX-License-Identifier: MIT
"""Builds wgpy.dataplane._core, the C data plane, and wgpy.relay._relay, the relay of the proxy.

Each is a cffi API-mode module.  The cdef is its api.h itself, less the preprocessor lines, so
nothing is declared twice.

Environment: CC, CPPFLAGS, CFLAGS and LDFLAGS, as for every Python extension; WGPY_IPSEC_MB, 1 to
demand the faster AEAD library and 0 to do without it (otherwise it is used if it is there);
WGPY_SANITIZE, a value for -fsanitize= ("address,undefined"); WGPY_WERROR=1, warnings are errors
(for developers: a newer compiler's new warning is no reason for a user's installation to fail).
"""

import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODULE = "wgpy.dataplane._core"
RELAY = ROOT / "wgpy/relay"
RELAY_MODULE = "wgpy.relay._relay"

C_FLAGS = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O3",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-fno-plt",
]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion"]
FORTIFY = ("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE")
HARDENING = ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
LINK_HARDENING = ["-Wl,-z,relro,-z,now"]
LIBRARIES = ["-lcrypto", "-lpthread"]

# Other machines have libraries of that name too, which have not what aead.c takes.
IPSEC_MB_PROBE = """
#ifndef __x86_64__
#error "for x86-64 only"
#endif
#include <intel-ipsec-mb.h>
int main(void) { IMB_MGR *manager = alloc_mb_mgr(0); IMB_ARCH arch;
init_mb_mgr_auto(manager, &arch); return imb_get_errno(manager); }
"""

# What cffi generates is not ours to keep clean; it comes after this text in the same file.
PREAMBLE = """
#include "api.h"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wunused-parameter"
"""


def cdef(header: str) -> str:
    """Give the declarations of api.h without the preprocessor lines that cffi cannot read."""
    kept = []
    for line in header.splitlines():
        if re.match(r"\s*#\s*define\s+\w+\s+[0-9]", line) or not line.lstrip().startswith("#"):
            kept.append(line)
    return "\n".join(kept)


def compiler() -> list[str]:
    """Give the command that compiles C, as setuptools chooses it."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def builds(program: str, *arguments: str) -> bool:
    """Tell whether the program compiles and links; FileNotFoundError without a compiler."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text(program)
        command = [*compiler(), str(source), "-o", str(Path(directory, "probe")), *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def require(program: str, otherwise: str, *arguments: str) -> None:
    """End the build with a sentence when the program does not build."""
    if not builds(program, *arguments):
        raise SystemExit(f"wgpy cannot be built: {otherwise}.")


def require_tools() -> None:
    """End the build with a sentence that names the Debian package of the first thing missing."""
    try:
        require(
            "#include <sys/socket.h>\nint main(void) { return 0; }",
            "the C library's headers are missing (Debian: install libc6-dev)",
        )
    except FileNotFoundError as error:
        raise SystemExit(
            f"wgpy cannot be built: there is no C compiler {compiler()[0]!r} "
            "(Debian: install gcc and libc6-dev)."
        ) from error
    include = sysconfig.get_path("include")
    require(
        "#include <Python.h>\nint main(void) { return 0; }",
        f"Python.h is missing from {include} (Debian: install python3-dev)",
        f"-I{include}",
    )
    require(
        "#include <openssl/evp.h>\n"
        "int main(void) { return EVP_CIPHER_fetch(NULL, OPENSSL_VERSION_TEXT, NULL) != NULL; }",
        "the headers or the library of OpenSSL 3 are missing (Debian: install libssl-dev)",
        "-lcrypto",
    )


def has_ipsec_mb() -> bool:
    """Tell whether the faster AEAD library, Debian's libipsec-mb-dev, is there to be used.

    SystemExit: it is not, and WGPY_IPSEC_MB demands it; or that is neither 0 nor 1.
    """
    asked = os.environ.get("WGPY_IPSEC_MB", "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"wgpy cannot be built: WGPY_IPSEC_MB is {asked!r}, neither 0 nor 1.")
    if asked == "0":
        return False
    found = builds(IPSEC_MB_PROBE, "-lIPSec_MB")
    if asked == "1" and not found:
        raise SystemExit(
            "wgpy cannot be built: WGPY_IPSEC_MB=1 demands ipsec-mb, whose headers or library are "
            "missing (Debian on x86-64: install libipsec-mb-dev)."
        )
    return found


def given() -> list[str]:
    """List the flags of who builds, a distribution for instance; the compiler gets them first."""
    names = ("CPPFLAGS", "CFLAGS")
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def yielding(ours: list[str]) -> list[str]:
    """Leave out what the flags given have decided: how much to optimize, and to fortify.

    Without optimization there is no fortifying: the C library only warns.
    """
    levels = [flag for flag in given() if flag.startswith("-O")]
    decided: tuple[str, ...] = ("-O",) if levels else ()
    if levels[-1:] == ["-O0"] or any("_FORTIFY_SOURCE" in flag for flag in given()):
        decided += FORTIFY
    return [flag for flag in ours if not flag.startswith(decided)]


def flags() -> tuple[list[str], list[str]]:
    """Return compiler and linker flags of the core, the libraries among them."""
    if has_ipsec_mb():
        return with_libraries([*LIBRARIES, "-lIPSec_MB"], "-DWGPY_IPSEC_MB=1")
    return with_libraries(LIBRARIES)


def with_libraries(libraries: list[str], *defines: str) -> tuple[list[str], list[str]]:
    """Return compiler and linker flags of a module, the libraries among them."""
    compile_args = [*C_FLAGS, *WARNINGS, *defines]
    if os.environ.get("WGPY_WERROR") == "1":
        compile_args = [*compile_args, "-Werror"]
    sanitize = os.environ.get("WGPY_SANITIZE")
    if not sanitize:
        return yielding(compile_args + HARDENING), LINK_HARDENING + libraries
    checks = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    return [*compile_args, *checks, "-fno-omit-frame-pointer", "-g", "-O1"], checks + libraries


def sources() -> list[Path]:
    """List the C files of the core."""
    return [path for path in sorted(HERE.glob("*.c")) if path.stem != "_core"]


def link(output: Path, *arguments: str) -> None:
    """Compile the core with what the arguments name: a program, or with -shared a library.

    For benchmarks and tests.  subprocess.CalledProcessError: it does not build.
    """
    compile_args, link_args = flags()
    command = [*compiler(), *given(), *compile_args, f"-I{HERE}", *map(str, sources()), *arguments]
    subprocess.run([*command, "-o", str(output), *link_args], check=True)


def builder() -> FFI:
    """Make the cffi builder that setuptools and `python -m wgpy.dataplane.build` run."""
    require_tools()
    return module(MODULE, HERE, sources(), flags())


def relay_builder() -> FFI:
    """Make that of the relay."""
    require_tools()
    files = [path for path in sorted(RELAY.glob("*.c")) if path.stem != "_relay"]
    return module(RELAY_MODULE, RELAY, files, with_libraries(["-lpthread"]))


def module(
    name: str, directory: Path, files: list[Path], arguments: tuple[list[str], list[str]]
) -> FFI:
    """Make the builder of a module of C files; arguments are those of compiler and linker."""
    compile_args, link_args = arguments
    ffi = FFI()
    ffi.cdef(cdef((directory / "api.h").read_text()))
    ffi.set_source(
        name,
        PREAMBLE,
        sources=[str(path.relative_to(ROOT)) for path in files],
        depends=[str(p.relative_to(ROOT)) for p in sorted(directory.glob("*.h"))],
        include_dirs=[str(directory.relative_to(ROOT))],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return ffi


if __name__ == "__main__":
    os.chdir(ROOT)
    for make in (builder, relay_builder):
        make().compile(tmpdir=str(ROOT), verbose=True)
