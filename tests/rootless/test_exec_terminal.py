# SPDX-License-Identifier: MIT
"""`wgpyctl exec` on a terminal, from a shell as people have one."""

import fcntl
import os
import select
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from rootless.execs import JOIN, Place, first, place
from rootless.lab import as_nobody

PATIENCE_S = 30
CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"
# What is typed is echoed: what is waited for must not be in it.
COUNT = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("rea" + "dy", flush=True)
signal.sigwait({signal.SIGINT})
print("got", 40 + 1, flush=True)
line = input()
again = signal.sigtimedwait({signal.SIGINT}, 0)
print(line, "after", 41 if again is None else 42)
"""


class Person:
    """Whoever types to an interactive shell, and reads."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._unread = ""
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._unread:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} does not come: {self.seen}"
            if select.select((self._master,), (), (), left)[0]:
                piece = os.read(self._master, 1 << 16).decode()
                self._unread += piece
                self.seen += piece
        self._unread = self._unread.partition(text)[2]


def own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(here: Place, command: Sequence[str]) -> Iterator[Person]:
    """A terminal of a session that a command leads."""
    master, terminal = os.openpty()
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=here.environment() | {"PS1": "> "},
        start_new_session=True,
        preexec_fn=own_terminal,
    ) as process:
        os.close(terminal)
        try:
            yield Person(master)
        finally:
            process.kill()
            os.close(master)


@contextmanager
def at_a_shell(here: Place, *tunnel: str) -> Iterator[Person]:
    """A shell that knows `in_tunnel`."""
    shell = as_nobody("bash", "--norc", "--noprofile", "--noediting", "-i")
    with on_terminal(here, shell) as person:
        person.read_until("> ")
        command = Place(here.path, is_root=True).command(*tunnel)
        person.type(f'in_tunnel() {{ {shlex.join(command)} "$@"; }}\n')
        yield person
        person.type("echo here $((40 + 2))\n")  # the shell has its terminal
        person.read_until("here 42")


@pytest.fixture(scope="module")
def home() -> Iterator[Place]:
    with place() as one, first(one):
        yield one


@pytest.fixture
def person(home: Place) -> Iterator[Person]:
    with at_a_shell(home, *JOIN) as one:
        yield one


@pytest.mark.parametrize("pipe", ["", " | (trap '' INT; cat)"])
def test_ctrl_c_reaches_the_command_once(person: Person, pipe: str) -> None:
    person.type(f"in_tunnel {shlex.join([sys.executable, '-c', COUNT])}{pipe}\n")
    person.read_until("ready")
    person.type(CTRL_C)
    person.read_until("got 41")
    person.type("typed\n")
    person.read_until("typed after 41")


@pytest.mark.parametrize("pipe", ["", " | cat"])
def test_a_command_is_stopped_and_continued_by_the_shell(person: Person, pipe: str) -> None:
    person.type(f"in_tunnel sh -c 'echo rea''dy; exec sed -u s/a/b/'{pipe}\n")
    person.read_until("ready")
    person.type(CTRL_Z)
    person.read_until("Stopped")
    person.type("fg\n")
    person.type("aa\n")
    person.read_until("ba")
    person.type(CTRL_D)


def test_a_command_that_no_shell_could_continue_goes_on(home: Place) -> None:
    command = home.command(*JOIN, "sh", "-c", "echo ready; exec sed -u s/a/b/")
    with on_terminal(home, command) as person:
        person.read_until("ready")
        person.type(CTRL_Z)
        person.type("aa\n")
        person.read_until("ba")


def test_a_command_in_the_background_waits_for_the_terminal(person: Person) -> None:
    person.type("in_tunnel sed -u s/a/b/ &\n")
    person.type("until jobs | grep Stopped; do sleep 0.1; done; echo wai''ts\n")
    person.read_until("waits")
    person.type("fg\n")
    person.type("aa\n")
    person.read_until("ba")
    person.type(CTRL_D)


@pytest.mark.parametrize("joins", [False, True])
def test_a_shell_in_there_has_job_control(home: Place, joins: bool) -> None:
    tunnel = JOIN if joins else (home.conf("other"), "--")
    with at_a_shell(home, *tunnel) as person:
        work_with_a_shell(person)


def work_with_a_shell(person: Person) -> None:
    person.type("in_tunnel bash --norc --noprofile --noediting -i\n")
    person.type("ls /sys/class/net; echo ins''ide\n")
    person.read_until("wg0")
    person.read_until("inside")
    person.type("sh -c 'echo rea''dy; exec sleep 1000'\n")
    person.read_until("ready")
    person.type(CTRL_Z)
    person.read_until("Stopped")
    person.type("kill -KILL %1; exec sh -c 'exit 6'\n")
    person.type("echo status $?\n")
    person.read_until("status 6")
    assert "job control" not in person.seen


def test_what_ctrl_c_kills_ends_the_script_around_it(person: Person) -> None:
    person.type(f"export -f in_tunnel; bash -c {shlex.quote(SCRIPT)}\n")
    person.read_until("ready")
    person.type(CTRL_C)
    person.type("echo status $?\n")
    person.read_until("status 130")
    assert "went on" not in person.seen.replace(SCRIPT, "")


SCRIPT = "in_tunnel sh -c 'echo rea\"\"dy; exec sleep 1000'; echo went' 'on"
