# SPDX-License-Identifier: MIT
"""What the kernel answers to the core, as a test says (faults.c)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from core import WRAPPED

from wgpy.dataplane._core import ffi, lib
from wgpy.dataplane.plane import Plane


@dataclass(frozen=True, slots=True)
class Message:
    """What sendmmsg got: one datagram, or a batch."""

    port: int  # where it goes
    segment: int  # bytes of each datagram but the last; 0: not batched


SendHook = Callable[[Sequence[Message]], int]  # -> how many the kernel gets to see, or -errno


def willing(messages: Sequence[Message]) -> int:
    return len(messages)


def refusing(error: int, refused: Callable[[Message], object]) -> SendHook:
    """As the kernel does it: those before the first that it refuses are sent."""

    def answer(messages: Sequence[Message]) -> int:
        for count, message in enumerate(messages):
            if refused(message):
                return count or -error
        return len(messages)

    return answer


class FaultyKernel:
    """How the kernel answers the planes' threads; by itself, as it does."""

    def __init__(self) -> None:
        self.on_send: SendHook = willing
        self.on_fill: Callable[[], int] = lambda: -1  # per mille of a buffer in use; -1: as it is
        self.on_receive: Callable[[], int] = lambda: 0  # bit i: message i is truncated; or -errno
        self.on_write: Callable[[bytes], int] = lambda start: 0  # of a frame; 0 or -errno
        self.on_read: Callable[[int], int] = lambda fd: 0  # of any descriptor; 0 or -errno
        self.on_poll: Callable[[int, int], int] = lambda count, timeout_ms: 0  # 0 or -errno
        self.on_wall_clock: Callable[[], int] = lambda: 0  # ns that it is ahead
        self.sends: list[list[Message]] = []  # of each sendmmsg
        self._hooks = {
            "sendmmsg": self._hook("int(*)(struct fault_message *, unsigned int)", self._send),
            "ioctl": self._hook("int(*)(void)", self._fill),
            "recvmmsg": self._hook("int(*)(void)", self._receive),
            "writev": self._hook("int(*)(const uint8_t *, size_t)", self._write),
            "read": self._hook("int(*)(int)", self._read),
            "poll": self._hook("int(*)(unsigned int, int)", self._poll),
            "clock_gettime": self._hook("int64_t(*)(void)", self._wall_clock),
        }
        for name in WRAPPED:
            setattr(lib, f"fault_on_{name}", self._hooks[name])

    def _hook(self, kind: str, function: Callable[..., int]) -> object:
        return ffi.callback(kind, function)

    def close(self) -> None:
        """After the last plane."""
        for name in WRAPPED:
            setattr(lib, f"fault_on_{name}", ffi.NULL)

    def set_send_counter(self, plane: Plane, slot: int, counter: int) -> None:
        """Let the peer's current session have sent so many messages."""
        assert lib.door_set_send_counter(plane._device, slot, counter) == 0

    def _send(self, messages: Any, count: int) -> int:
        seen = [Message(m.port, m.segment) for m in messages[0:count]]
        self.sends.append(seen)
        return self.on_send(seen)

    def _fill(self) -> int:
        return self.on_fill()

    def _receive(self) -> int:
        return self.on_receive()

    def _write(self, start: Any, length: int) -> int:
        return self.on_write(bytes(ffi.buffer(start, length)))

    def _read(self, fd: int) -> int:
        return self.on_read(fd)

    def _poll(self, count: int, timeout_ms: int) -> int:
        return self.on_poll(count, timeout_ms)

    def _wall_clock(self) -> int:
        return self.on_wall_clock()
