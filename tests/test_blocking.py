# SPDX-License-Identifier: MIT
"""The thread in which a blocking tunnel lives, with a tunnel that is none."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import cast

import pytest

from wgpy import ConfigFileError, connect
from wgpy.blocking import _Home
from wgpy.tunnel import Tunnel


class FakeTunnel:
    """Interrupts the program as it is entered, or enters and fails as it ends."""

    def __init__(self, *, interrupts: bool = False, failure: Exception | None = None) -> None:
        self._interrupts = interrupts
        self._failure = failure
        self.given_up = False

    async def __aenter__(self) -> "FakeTunnel":
        if self._failure is not None:
            raise self._failure
        if self._interrupts:
            await until_waited_for()
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.given_up = True
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell may have had SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def home_of(tunnel: FakeTunnel) -> Iterator[_Home]:
    home = _Home(cast(Tunnel, tunnel))
    try:
        yield home
    finally:
        home.end()
    assert threads() == []


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "wgpy-tunnel"]


async def until_waited_for() -> None:
    """Return when the main thread waits: an interrupt before that is another matter."""
    main = threading.main_thread().ident
    while sys._current_frames()[main or 0].f_code is not threading.Condition.wait.__code__:
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_start_gives_the_tunnel_up() -> None:
    tunnel = FakeTunnel(interrupts=True)
    with pytest.raises(KeyboardInterrupt), home_of(tunnel) as home:
        home.start()
    assert tunnel.given_up


def test_what_entering_raises_comes_out() -> None:
    tunnel = FakeTunnel(failure=OSError("none to be had"))
    with home_of(tunnel) as home, pytest.raises(OSError, match="none to be had"):
        home.start()


def test_what_is_asked_is_answered_until_the_end_and_refused_then() -> None:
    async def question() -> str:
        return threading.current_thread().name

    with home_of(FakeTunnel()) as home:
        home.start()
        assert home.ask(question()) == "wgpy-tunnel"
    with pytest.raises(ConnectionResetError):
        home.ask(question())


def test_whoever_waits_at_the_end_hears_of_it() -> None:
    asked = threading.Event()

    async def question() -> None:
        asked.set()
        await asyncio.Event().wait()

    with home_of(FakeTunnel()) as home, ThreadPoolExecutor(1) as pool:
        home.start()
        waiting = pool.submit(home.ask, question())
        assert asked.wait(30)
        home.end()
        assert isinstance(waiting.exception(30), ConnectionResetError)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_gives_the_question_up() -> None:
    given_up = threading.Event()

    async def question() -> None:
        await until_waited_for()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    with home_of(FakeTunnel()) as home:
        home.start()
        with pytest.raises(KeyboardInterrupt):
            home.ask(question())
        assert given_up.wait(30)


def test_a_file_that_cannot_be_taken_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "home.conf"
    file.write_text("[Interface]\nPrivateKey = none\n")
    with pytest.raises(ConfigFileError, match=r"home\.conf, line 2"), connect(file):
        pass
