# SPDX-License-Identifier: MIT
"""Programs that run as nobody, and what is left of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NEEDED = {sys.base_prefix, sys.prefix, str(ROOT)}  # directories


def as_nobody(*command: str, setup: str = "", tun_mode: str = "666") -> list[str]:
    """The command, run as nobody; setup is for sh, as root, in a mount namespace of its own."""
    launcher = [sys.executable, str(HERE / "as_nobody.py"), tun_mode, *NEEDED]
    prepared = ["unshare", "--mount", "sh", "-euc", f'{setup}\nexec "$@"', "sh"] if setup else []
    return [*prepared, *launcher, "--", *command]


def scenario(name: str, *arguments: str, file: str = "scenarios.py") -> list[str]:
    """A function of that file."""
    return [sys.executable, "-W", "error", str(HERE / file), name, *arguments]


def tunnel_scenario(name: str, *arguments: str) -> list[str]:
    """A function of tunnel_scenarios.py."""
    return scenario(name, *arguments, file="tunnel_scenarios.py")


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE.parent)}


def result(command: Sequence[str], timeout_s: float = 60) -> Any:
    """What a scenario prints, which has to succeed, without a warning."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@contextmanager
def running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A scenario that goes on, and the first line that it prints."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "it ended"
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def network_of(pid: int) -> str:
    """The network namespace in which a process lives."""
    return os.readlink(f"/proc/{pid}/ns/net")


def inhabitants(network: str) -> list[int]:
    """Who lives in a network namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "ns/net") == network:
                found.append(int(entry.name))
    return found


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
