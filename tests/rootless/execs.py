# SPDX-License-Identifier: MIT
"""`wgpyctl exec` as users call it, and what is around it."""

import os
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import NamedTuple

from rootless.exec_scenarios import ADDRESS, CLIENT, KEY, KEY_OF_CLIENT
from rootless.lab import as_nobody, environment, eventually, network_of, running, scenario

from wgpy.protocol.noise import StaticKey

NOBODY = 65534
PATIENCE_S = 60
READY = "ready"
WAIT = ("sh", "-c", f"echo {READY}; exec sleep 1000")
JOIN = ("--join", "home", "--")


def text_of(key: bytes) -> str:
    return b64encode(key).decode()


class Place(NamedTuple):
    """A directory of whoever calls: its configurations and its sockets."""

    path: Path
    is_root: bool = False

    def conf(self, name: str = "home", *, port: int = 9, dns: bool = False, more: str = "") -> str:
        """A file; the port is that of the peer on this host."""
        path = self.path / f"{name}.conf"
        path.write_text(
            f"[Interface]\nPrivateKey = {text_of(KEY_OF_CLIENT)}\nAddress = {CLIENT}/24\n"
            f"{f'DNS = {ADDRESS}' if dns else ''}\n{more}\n"
            f"[Peer]\nPublicKey = {text_of(StaticKey(KEY).public_key)}\n"
            f"AllowedIPs = 0.0.0.0/0\nEndpoint = 127.0.0.1:{port}\n"
        )
        return str(path)

    def command(self, *arguments: str, setup: str = "", wrapper: Sequence[str] = ()) -> list[str]:
        """`wgpyctl exec` with these."""
        whole = [*wrapper, sys.executable, "-W", "error", "-m", "wgpy.ctl", "exec", *arguments]
        return whole if self.is_root else as_nobody(*whole, setup=setup)

    def environment(self) -> dict[str, str]:
        return environment() | {"XDG_RUNTIME_DIR": str(self.path)}

    def run(
        self, *arguments: str, setup: str = "", wrapper: Sequence[str] = ()
    ) -> tuple[int, str, str]:
        """Exit status, output and what is said on stderr."""
        done = subprocess.run(
            self.command(*arguments, setup=setup, wrapper=wrapper),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=self.environment(),
            cwd=self.path,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    @contextmanager
    def started(self, *arguments: str) -> Iterator["Running"]:
        """One that goes on; its command has said READY, and says no more unasked."""
        with subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            cwd=self.path,
            start_new_session=True,
        ) as process:
            try:
                one = Running(process)
                one.expect(READY)
                yield one
            finally:
                process.kill()


class Running(NamedTuple):
    """`wgpyctl exec` and the processes below it."""

    process: "subprocess.Popen[str]"

    def expect(self, line: str) -> None:
        """It says that; who says nothing is killed, not waited for without end."""
        assert self.process.stdout is not None
        patience = Timer(PATIENCE_S, self.process.kill)
        patience.start()
        try:
            assert self.process.stdout.readline() == f"{line}\n"
        finally:
            patience.cancel()

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def tunnel(self) -> int:
        """The process that has the tunnel."""
        (found,) = [pid for pid in self.children() if name_of(pid) == "wgpy-tunnel"]
        return found

    def keeper(self) -> int:
        (found,) = children_of(self.tunnel())
        return found

    def network(self) -> str:
        return network_of(self.keeper())

    def job(self) -> int:
        """The command."""
        (found,) = [pid for pid in self.children() if name_of(pid) != "wgpy-tunnel"]
        return found

    def end(self) -> tuple[int, str, str]:
        """What it says from now on, and its exit status."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output, errors


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def state_of(pid: int) -> str:
    """One letter, as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_over(pid: int) -> bool:
    """Whether it has ended, whoever waits for it or does not."""
    try:
        return state_of(pid) in "ZX"
    except FileNotFoundError:
        return True


def until_state(pid: int, letter: str) -> None:
    eventually(lambda: state_of(pid) == letter, f"process {pid} in state {letter}")


@contextmanager
def place(*, is_root: bool = False) -> Iterator[Place]:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="wgpy-exec-"))
    try:
        os.chown(path, 0 if is_root else NOBODY, -1)
        yield Place(path, is_root)
    finally:
        shutil.rmtree(path)


@contextmanager
def first(here: Place, *options: str) -> Iterator[Running]:
    """A tunnel that others can join; it is called home if the options do not say otherwise."""
    with here.started(*options, here.conf(), "--", *WAIT) as one:
        yield one


@contextmanager
def peer() -> Iterator[int]:
    """The port of a peer of `Place.conf`."""
    command = as_nobody(*scenario("serve", file="exec_scenarios.py"))
    with running(command) as (_, port):
        yield port
