# SPDX-License-Identifier: MIT
"""Threads that stay in a C function until it is told to return."""

import os
import signal
import threading
from collections.abc import Callable


class DataThreads:
    """The threads of one plane, which come and go together."""

    failure: OSError | None  # why the first of them ended by itself

    def __init__(self, on_failure: Callable[[], None]) -> None:
        """Run none yet; on_failure is called in a thread that ends by itself."""
        self.failure = None
        self._on_failure = on_failure
        self._threads: list[threading.Thread] = []

    def start(self, name: str, run: Callable[[], int]) -> None:
        """Let one more run, by a call that returns 0, or -errno if it ends by itself."""
        thread = threading.Thread(target=self._run, name=name, args=(run,))
        thread.start()
        self._threads.append(thread)

    def _run(self, run: Callable[[], int]) -> None:
        # Signals are for the main thread: here they would only interrupt system calls.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        result = run()
        if result < 0:
            self.failure = OSError(-result, os.strerror(-result))
            self._on_failure()

    def join(self) -> None:
        """Wait for the end of all.  More than once is fine."""
        while self._threads:
            self._threads.pop().join()
