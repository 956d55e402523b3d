# SPDX-License-Identifier: MIT
"""A command as a child of ours that might as well run without us: signals, terminal, its end.

Where its process group is decides who gets what:

- Without a terminal it has a group of its own, and every signal that comes to us is handed on.
- If standard input and output are our terminal it has a group of its own as well, which has the
  terminal while it runs, as a shell would give it: a shell in there finds all that job control
  takes, and Ctrl-C is for the command alone.
- Otherwise (in a pipe, say) it stays in our group, where who else is in the pipe has to be able to
  read the terminal: what the terminal sends, it sends to both of us, and that is not handed on.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

from wgpy.ctl.outcome import RELAYED
from wgpy.linux import libc

KEYBOARD: Final = (signal.SIGINT, signal.SIGQUIT)
JOB_STOPS: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
SI_KERNEL: Final = 0x80  # <asm-generic/siginfo.h>: of a terminal, here


class Terminal:
    """Our controlling terminal, whose foreground process group is the one that has it."""

    def __init__(self) -> None:
        """Take it.  Raises OSError if there is none."""
        self._fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def is_had_by(self, group: int) -> bool:
        """Tell whether that group has it."""
        try:
            return os.tcgetpgrp(self._fd) == group
        except OSError:  # it was hung up
            return False

    def give(self, group: int) -> None:
        """Let that group have it; SIGTTOU has to be blocked."""
        with contextlib.suppress(OSError):  # it was hung up, or the group has ended
            os.tcsetpgrp(self._fd, group)

    def close(self) -> None:
        """Have it no more."""
        os.close(self._fd)


def is_terminal_of_ours(fd: int) -> bool:
    """Tell whether that is our controlling terminal."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True


class Job:
    """Runs a command to its end."""

    def __init__(self) -> None:
        """Look at the terminal, if there is one."""
        self._terminal: Terminal | None = None
        with contextlib.suppress(OSError):
            self._terminal = Terminal()
        self._group = os.getpgrp()
        takes = is_terminal_of_ours(0) and is_terminal_of_ours(1)
        self._for_command = self._terminal if takes else None
        self._leads = self._terminal is None or takes  # a group of its own
        self._holds = False  # whether the command's group was given the terminal
        self._from_keyboard = True  # whether SIGINT and SIGQUIT can only have come from there
        self._pid = 0

    def run(self, argv: Sequence[str]) -> int:
        """Return the exit status, or the number of the signal that killed it, negated.

        Raises OSError if it cannot be started.
        """
        relayed = {one for one in RELAYED if signal.getsignal(one) != signal.SIG_IGN}
        watched = relayed | {signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched | set(JOB_STOPS))
        self._holds = self._for_command is not None and self._for_command.is_had_by(self._group)
        try:
            child = subprocess.Popen(argv, preexec_fn=lambda: self._prepare(before))
            self._pid = child.pid
            child.returncode = self._attend(watched)
            return child.returncode
        finally:
            self._take_back()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end_alike(self, status: int) -> int:
        """Return its exit status, or die of what it died of, without a core file.

        Where Ctrl-C ended it, who waits for both of us is to end as well: a script, say.
        """
        if status >= 0:
            return status
        number = -status
        libc.forbid_core_dumps()
        with contextlib.suppress(OSError, ValueError):  # of SIGKILL it is as it is
            signal.signal(number, signal.SIG_DFL)
        typed = self._for_command is not None and self._from_keyboard and number in KEYBOARD
        (os.killpg if typed else os.kill)(self._group if typed else os.getpid(), number)
        return 128 + number

    def close(self) -> None:
        """Have no terminal any more."""
        if self._terminal is not None:
            self._terminal.close()

    # ---- the child ----

    def _prepare(self, mask: "set[signal.Signals] | set[int]") -> None:
        """Be ready, in the child, to become the command."""
        libc.set_parent_death_signal(signal.SIGKILL)
        if self._leads:
            os.setpgid(0, 0)
        if self._holds and self._for_command is not None:
            self._for_command.give(os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    # ---- its life ----

    def _attend(self, watched: set[signal.Signals]) -> int:
        while True:
            news = signal.sigwaitinfo(watched)
            if news.si_signo == signal.SIGCHLD:
                status = self._look()
                if status is not None:
                    return status
            elif news.si_signo == signal.SIGCONT:
                self._go_on()
            elif self._leads or news.si_code != SI_KERNEL:
                self._from_keyboard &= news.si_signo not in KEYBOARD
                os.kill(self._pid, news.si_signo)

    def _look(self) -> int | None:
        """Return how it ended, if it has; stop with it, if it was stopped."""
        pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        if self._terminal is not None and (self._holds or os.WSTOPSIG(status) in JOB_STOPS):
            self._stop(self._terminal)
        return None

    def _stop(self, terminal: Terminal) -> None:
        """Be stopped as it was, so that the shell that waits for us sees it.

        Nobody is stopped whom nobody could continue: then it goes on at once.
        """
        self._take_back()
        if self._leads:
            os.killpg(self._group, signal.SIGTSTP)
        else:
            os.kill(os.getpid(), signal.SIGTSTP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})  # here we are stopped
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        if signal.SIGCONT not in signal.sigpending() and terminal.is_had_by(self._group):
            self._go_on()

    def _go_on(self) -> None:
        """Continue it, with the terminal if we have that."""
        terminal = self._for_command
        if terminal is not None and terminal.is_had_by(self._group):
            terminal.give(self._pid)
            self._holds = True
        if self._leads:
            with contextlib.suppress(ProcessLookupError):  # it has left its group
                os.killpg(self._pid, signal.SIGCONT)
        os.kill(self._pid, signal.SIGCONT)

    def _take_back(self) -> None:
        if self._holds and self._for_command is not None:
            self._for_command.give(self._group)
            self._holds = False
