# SPDX-License-Identifier: MIT
"""What every test runs under; fixtures belong to the directories that use them."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import core
import pytest
from hypothesis import settings

sys.meta_path.insert(0, core.CoreFinder())

LOG = Path("/var/run/wireguard/wgpy.log")  # of daemons in the background, without a syslog

# Under nohup(1) daemons would not end by SIGHUP, nor anything by SIGINT and SIGQUIT that a script
# started with an ampersand.  What is handled here they have anew, not ignored.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# No deadline per example: a busy machine or a sanitizer must not fail a test.
settings.register_profile("wgpy", deadline=None)
settings.load_profile("wgpy")


@pytest.fixture(scope="session", autouse=True)
def leave_no_log() -> Iterator[None]:
    """The host has no log of ours afterwards if it had none before."""
    was_there = LOG.exists()
    yield
    if not was_there:
        LOG.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def real_time() -> Iterator[None]:
    """The next test has the time that it is, however far this one went ahead."""
    yield
    core.reset_clock()
