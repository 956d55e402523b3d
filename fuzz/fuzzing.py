# SPDX-License-Identifier: MIT
"""Builds and runs the fuzz targets: scripts/fuzz says how.

Each is the core, the host of host.c in the place of the kernel, and one file of this directory.  A
target that includes a file of the core calls what that does not export.
"""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import get_ident
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORE = ROOT / "wgpy/dataplane"
BUILD = ROOT / "build/fuzz"
COMMON = (HERE / "host.c", HERE / "packets.c", HERE / "world.c")
TARGETS = tuple(sorted(file.stem for file in HERE.glob("*.c") if file not in COMMON))
# What the core asks the kernel for, see tests/dataplane/test_layering.py.
WRAPPED = (
    *("ioctl", "sendmmsg", "recvmmsg", "writev", "read", "write", "poll"),
    *("getsockopt", "setsockopt", "clock_gettime", "getrandom"),
)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FUZZED = ("-O2", "-g", "-fno-omit-frame-pointer", *SANITIZED)
COVERED = ("-O1", "-g", "-fprofile-instr-generate", "-fcoverage-mapping")
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
INPUT_MAX = 512  # bytes
PLANTED_RUNS = 20_000  # at most, for each bug
PLANTED_AT_ONCE = 4
CHECK_RUNS = 1_500  # of each target, the corpus included
ONCE = ("-print_final_stats=1", "-timeout=10", "-rss_limit_mb=4096", f"-max_len={INPUT_MAX}")
GOAL = (
    *("receive", "send", "sealing", "gro", "gso", "staged", "icmp"),
    *("cookie", "events"),
)


class Failed(Exception):
    """The sentence says what went wrong."""


# ---- building ----


@cache
def build_module() -> Any:
    """Load build.py of the checkout, which knows the core's flags and libraries."""
    os.environ["CC"] = "clang"
    spec = importlib.util.spec_from_file_location("build", CORE / "build.py")
    if spec is None or spec.loader is None:
        raise Failed(f"{CORE}/build.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def core_flags() -> tuple[list[str], list[str]]:
    """Return what the core is compiled with here, and its libraries."""
    build = build_module()
    if build.has_ipsec_mb():
        return [*build.C_FLAGS, "-DWGPY_IPSEC_MB=1"], [*build.LIBRARIES, "-lIPSec_MB"]
    return build.C_FLAGS, build.LIBRARIES


def run(command: Sequence[str | Path]) -> str:
    """Run a tool and return what it says; Failed with that if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def compiled(source: Path, how: Sequence[str], *includes: Path) -> Path:
    """Compile a file, unless that was done before, and return the object."""
    flags = [*core_flags()[0], *how]
    if source.parent == HERE and not includes:
        flags += WARNINGS
    folders = [*includes, CORE, HERE]
    checksum = hashlib.sha256(repr(flags).encode())
    made_of = (file for folder in folders for file in sorted(folder.glob("*.h")))
    own = [folder / source.name for folder in folders if (folder / source.name).exists()]
    for file in (*made_of, *own, source):
        checksum.update(file.read_bytes())
    output = BUILD / "objects" / f"{source.stem}-{checksum.hexdigest()[:16]}.o"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_suffix(f".{os.getpid()}-{get_ident()}")
        where = [f"-I{folder}" for folder in folders]
        run(["clang", *flags, *where, "-c", source, "-o", unfinished])
        unfinished.rename(output)
    return output


def objects(target: str, how: Sequence[str], changed: Path | None = None) -> list[Path]:
    """Compile all files of a target; changed is taken instead of the core's file of its name."""
    own = HERE / f"{target}.c"
    within = re.findall(r"#include <(\w+\.c)>", own.read_text())
    core = [file for file in build_module().sources() if file.name not in within]
    if changed:
        core = [changed if file.name == changed.name else file for file in core]
    folders = [changed.parent] if changed else []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: compiled(file, how, *folders), [*COMMON, own, *core]))


def program(target: str, coverage: bool = False, changed: Path | None = None) -> Path:
    """Build a target: to be fuzzed, or to see what it reaches."""
    how = COVERED if coverage else FUZZED
    parts = objects(target, [*how, "-fsanitize=fuzzer-no-link"], changed)
    checksum = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    output = BUILD / "programs" / f"{target}-{checksum}"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        wrap = [f"-Wl,--wrap={name}" for name in WRAPPED]
        unfinished = output.with_suffix(f".{os.getpid()}-{get_ident()}")
        run(["clang", *how, "-fsanitize=fuzzer", *parts, *wrap, *core_flags()[1], "-o", unfinished])
        unfinished.rename(output)
    return output


# ---- corpora ----


def packed(target: str) -> Path:
    """Return the place of a corpus in the checkout."""
    return HERE / "corpus" / f"{target}.zip"


def unpacked(target: str) -> Path:
    """Return the directory in which a corpus is, and what was found since."""
    directory = BUILD / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    if packed(target).exists():
        with zipfile.ZipFile(packed(target)) as archive:
            archive.extractall(directory)
    return directory


def pack(target: str) -> None:
    """Keep of a corpus the smallest inputs that reach all that it reaches."""
    with TemporaryDirectory(dir=BUILD) as least:
        run([program(target), "-merge=1", f"-max_len={INPUT_MAX}", least, unpacked(target)])
        packed(target).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(packed(target), "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(least).iterdir()):
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), 8)
    print(f"{packed(target)}: {packed(target).stat().st_size} bytes")


# ---- running ----


def fuzz(target: str, seconds: int) -> int:
    """Run a target for a while; return its exit status."""
    findings = BUILD / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    limits = (*ONCE, f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{target}-")
    return subprocess.run([program(target), *limits, unpacked(target)], check=False).returncode


def check(target: str) -> int:
    """Run the corpus and a little more, the same each time; return the exit status."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=BUILD) as new:
        limits = (*ONCE, f"-runs={CHECK_RUNS}", "-seed=1", f"-artifact_prefix={BUILD}/{target}-")
        with zipfile.ZipFile(packed(target)) as archive:
            archive.extractall(new)
        return subprocess.run([program(target), *limits, new], check=False).returncode


def rerun(target: str, file: str) -> int:
    """Run one input; return the exit status."""
    return subprocess.run([program(target), file], check=False).returncode


# ---- coverage ----


def covered(targets: Sequence[str]) -> dict[str, float]:
    """Measure which share of the lines of each file of the core the corpora reach, in percent."""
    profiles, programs = [], []
    for target in targets:
        profile = BUILD / f"{target}.profraw"
        programs.append(program(target, coverage=True))
        environment = {**os.environ, "LLVM_PROFILE_FILE": str(profile)}
        subprocess.run(
            [programs[-1], "-runs=0", unpacked(target)],
            env=environment,
            capture_output=True,
            check=True,
        )
        profiles.append(profile)
    merged = BUILD / "all.profdata"
    run(["llvm-profdata", "merge", *profiles, "-o", merged])
    others = [part for binary in programs[1:] for part in ("-object", str(binary))]
    table = run(["llvm-cov", "report", programs[0], *others, f"-instr-profile={merged}", CORE])
    return dict(shares(table))


def shares(table: str) -> Iterator[tuple[str, float]]:
    """Read the lines' column of llvm-cov's report."""
    for line in table.splitlines():
        words = line.split()
        if words and words[0].endswith(".c"):
            yield Path(words[0]).stem, float(words[9].rstrip("%"))


def print_coverage() -> int:
    """Print a table; fail if a file of those that see outside bytes is below the goal."""
    found = covered(TARGETS)
    for name, share in sorted(found.items()):
        print(f"{name + '.c':16} {share:6.2f} % of lines{'' if name in GOAL else '   (no goal)'}")
    return int(any(found.get(name, 0) < 90 for name in GOAL))


# ---- planted bugs ----


@dataclass(frozen=True)
class Bug:
    """The text, which the file of the core has once, becomes wrong; the target has to notice."""

    target: str
    file: str
    text: str
    wrong: str

    def planted(self) -> str:
        """Return the file's text with the bug."""
        code = (CORE / self.file).read_text()
        if code.count(self.text) != 1:
            raise Failed(f"{self.file} has not once: {self.text}")
        return code.replace(self.text, self.wrong)


def bugs() -> list[Bug]:
    """Return all that are to be found."""
    return [Bug(**bug) for bug in json.loads((HERE / "planted.json").read_text())]


def finds(bug: Bug) -> bool:
    """Tell whether the target finds the bug, from the corpus on."""
    with TemporaryDirectory(dir=BUILD) as directory:
        changed = Path(directory, bug.file)
        changed.write_text(bug.planted())
        binary = program(bug.target, changed=changed)
        limits = (*ONCE, f"-runs={PLANTED_RUNS}", "-seed=1", f"-artifact_prefix={directory}/")
        Path(directory, "new").mkdir()
        done = subprocess.run(
            [binary, *limits, Path(directory, "new"), unpacked(bug.target)],
            capture_output=True,
            check=False,
        )
        binary.unlink()
    return done.returncode != 0


def print_planted() -> int:
    """Plant each bug by itself and say which are found; fail if one is not."""
    missed = 0
    with ThreadPoolExecutor(PLANTED_AT_ONCE) as pool:
        for bug, found in zip(bugs(), pool.map(finds, bugs()), strict=True):
            missed += not found
            word = "found " if found else "MISSED"
            print(f"{word}  {bug.target:10} {bug.file}: {bug.text}", flush=True)
    print(f"{len(bugs()) - missed} of {len(bugs())} planted bugs found")
    return int(missed > 0)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    match arguments:
        case ["--coverage"]:
            return print_coverage()
        case ["--planted"]:
            return print_planted()
        case ["--check", target] if target in TARGETS:
            return check(target)
        case ["--pack", target] if target in TARGETS:
            pack(target)
            return 0
        case [target, seconds] if target in TARGETS and re.fullmatch(r"\d+", seconds):
            return fuzz(target, int(seconds))
        case [target, file] if target in TARGETS:
            return rerun(target, file)
    raise Failed(f"usage: fuzz {'|'.join(TARGETS)} SECONDS|FILE, or see the head of scripts/fuzz")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failed:
        sys.exit(f"fuzz: {failed}")
