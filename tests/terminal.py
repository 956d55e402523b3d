# SPDX-License-Identifier: MIT
"""A command on a terminal of a given size, and what is on the screen of it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.text import Text

SIZE_VARIABLES = ("COLUMNS", "LINES")  # which would count before the terminal's own size
SCREENS_MAX = 20  # that are waited for
HOME = "\x1b[H"  # ECMA-48, 8.3.21: rich begins each screen with it


class Terminal:
    """The end that a person has of a terminal on which a command runs."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.written = ""
        self._master = master

    def read(self) -> bool:
        """Wait for more of what it writes; False when nobody has the other end any more."""
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # EIO
            return False
        self.written += piece.decode()
        return bool(piece)

    def screen(self) -> list[str]:
        """The lines of the last whole screen, as rich drew it."""
        screens = self.written.split(HOME)
        text = screens[-2] if len(screens) > 2 else ""
        return Text.from_ansi(re.sub(r"\r", "", text)).plain.rstrip("\n").split("\n")

    def wait_for(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The first screen of which that holds, among the first SCREENS_MAX."""
        while not holds(self.screen()):
            assert self.written.count(HOME) < SCREENS_MAX, self.screen()
            assert self.read(), self.written
        return self.screen()

    def interrupt(self) -> int:
        """Exit status after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Exit status of what ends by itself."""
        while self.read():
            pass
        return self.process.wait(20)


@contextmanager
def on_terminal(
    command: Sequence[str], size: tuple[int, int], environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Size: columns and lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", size[1], size[0], 0, 0))
    known = {name: value for name, value in environment.items() if name not in SIZE_VARIABLES}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.terminate()
            os.close(ours)
