# SPDX-License-Identifier: MIT
"""What is sent through tunnels and at them."""

import base64
import hashlib
import os
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from interop.network import TIMEOUT_S, Host
from interop.wireguard import Interface
from netns.lab import eventually


class Stream:
    """Random bytes both ways over one TCP connection, until finish()."""

    CHUNK_LEN = 16384
    # Small: finish() has to wait for what is in them.
    BUFFER_LEN = 128 << 10

    def __init__(self, client: Interface, server: Interface, inside: int) -> None:
        self._ending = threading.Event()
        self._sent = [hashlib.sha256(), hashlib.sha256()]
        self._received = [hashlib.sha256(), hashlib.sha256()]
        self._counts = [0, 0]
        self._sockets = self._connect(client, server, inside)
        self._executor = ThreadPoolExecutor(4)
        self._futures = [
            self._executor.submit(work, number)
            for work in (self._send, self._receive)
            for number in (0, 1)
        ]

    def _connect(self, client: Interface, server: Interface, inside: int) -> list[socket.socket]:
        family = socket.AF_INET if inside == 4 else socket.AF_INET6

        def opened() -> socket.socket:
            made = socket.socket(family)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.BUFFER_LEN)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.BUFFER_LEN)
            made.settimeout(3 * TIMEOUT_S)
            return made

        with server.host.inside(opened) as listener:
            listener.bind((server.inner(inside), 0))
            listener.listen()
            calling = client.host.inside(opened)
            try:
                calling.connect(listener.getsockname()[:2])
                called = listener.accept()[0]
            except BaseException:
                calling.close()
                raise
        called.settimeout(3 * TIMEOUT_S)
        return [calling, called]

    def _send(self, number: int) -> None:
        while not self._ending.is_set():
            data = os.urandom(self.CHUNK_LEN)
            self._sent[number].update(data)
            self._sockets[number].sendall(data)
        self._sockets[number].shutdown(socket.SHUT_WR)

    def _receive(self, number: int) -> None:
        while data := self._sockets[number].recv(self.CHUNK_LEN):
            self._received[number].update(data)
            self._counts[number] += len(data)

    def wait_for(self, length: int) -> None:
        """Until each end has received that much more."""
        goals = [count + length for count in self._counts]

        def done() -> bool:
            failed = any(future.done() for future in self._futures)
            return failed or all(c >= g for c, g in zip(self._counts, goals, strict=True))

        eventually(done, f"{length} bytes each way", 6 * TIMEOUT_S)
        for future in self._futures:
            assert not future.done(), future.exception()

    def finish(self) -> None:
        """Each end has to have received what the other sent."""
        self._ending.set()
        try:
            for future in self._futures:
                future.result(6 * TIMEOUT_S)
        finally:
            self.close()
        first, second = (digest.digest() for digest in self._sent)
        assert [digest.digest() for digest in self._received] == [second, first]

    def close(self) -> None:
        self._ending.set()
        for end in self._sockets:
            end.close()
        self._executor.shutdown()


@contextmanager
def streaming(client: Interface, server: Interface, inside: int) -> Iterator[Stream]:
    """A stream that is compared at the end."""
    stream = Stream(client, server, inside)
    try:
        yield stream
    except BaseException:
        stream.close()
        raise
    stream.finish()


def exchange_udp(ends: Sequence[Interface], inside: int, sizes: Sequence[int]) -> None:
    """Datagrams of these sizes each way, compared; few at a time, so that none is lost."""
    first, second = (end.host.udp(end.inner(inside)) for end in ends)
    with first, second:
        for source, target in ((first, second), (second, first)):
            for window in windows(sizes):
                sent = [os.urandom(size) for size in window]
                for data in sent:
                    source.sendto(data, target.getsockname())
                assert sorted(target.recv(1 << 16) for _ in sent) == sorted(sent)
        for end in (first, second):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing came twice
                end.recv(1)


def windows(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Each fits what sockets buffer by default."""
    window: list[int] = []
    for size in sizes:
        if len(window) == 16 or sum(window) + size > 1 << 16:
            yield window
            window = []
        window.append(size)
    yield window


def ping(host: Host, address: str, size: int = 56) -> None:
    """Has to be answered, however slow the machine is.

    One packet: of several, ping waits for the last answer no longer than twice the round trip.
    """
    flags = ["-c", "1", "-W", str(int(TIMEOUT_S)), "-s", str(size)]
    answer = host.run("ping", *flags, address, check=False)
    assert "1 received" in answer, answer


def is_answered(host: Host, address: str) -> bool:
    """Tries it once."""
    return "1 received" in host.run("ping", "-c", "1", "-W", "1", address, check=False)


class Flood:
    """Initiations with a valid mac1 and nothing else right, in bursts that fill a queue."""

    BURST = 3000
    PAUSE_S = 0.4

    def __init__(self, source: Host, target: Interface) -> None:
        key = hashlib.blake2s(b"mac1----" + base64.b64decode(target.public_key)).digest()
        self._messages = [self._message(key) for _ in range(256)]
        self._address = target.host.outer4, target.port
        self._socket = source.inside(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _message(mac1_key: bytes) -> bytes:
        start = b"\x01\0\0\0" + os.urandom(112)
        return start + hashlib.blake2s(start, key=mac1_key, digest_size=16).digest() + bytes(16)

    def __enter__(self) -> "Flood":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def is_answered(self) -> bool:
        """Whether a cookie reply has come since the last call."""
        answered = False
        while True:
            try:
                answered |= self._socket.recv(1 << 16)[:4] == b"\x03\0\0\0"
            except BlockingIOError:
                return answered

    def _run(self) -> None:
        while not self._ending.is_set():
            for number in range(self.BURST):
                try:
                    self._socket.sendto(self._messages[number % len(self._messages)], self._address)
                except BlockingIOError:
                    select.select([], [self._socket], [], 0.1)
            self._ending.wait(self.PAUSE_S)
