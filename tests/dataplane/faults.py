"""A second copy of the core, in which a test says how the kernel answers (faults.c)."""

import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cffi import FFI

from wgpy.dataplane.plane import Plane

HERE = Path(__file__).resolve().parent
DATAPLANE = HERE.parent.parent / "wgpy/dataplane"
WRAPPED = ("sendmmsg", "ioctl", "recvmmsg", "writev", "read", "poll", "clock_gettime")
CDEF = """
struct fault_message { uint16_t port; uint16_t segment; };
extern int (*fault_on_sendmmsg)(const struct fault_message *messages, unsigned int count);
extern int (*fault_on_ioctl)(void);
extern int (*fault_on_recvmmsg)(void);
extern int (*fault_on_writev)(const uint8_t *start, size_t length);
extern int (*fault_on_read)(int fd);
extern int (*fault_on_poll)(unsigned int count, int timeout_ms);
extern int64_t (*fault_on_clock_gettime)(void);
int fault_set_send_counter(wg_device *device, uint32_t slot, uint64_t counter);
"""


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


def _build_module() -> ModuleType:
    """build.py of the checkout, which has the sources, unlike an installed wgpy."""
    spec = importlib.util.spec_from_file_location("build", DATAPLANE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FaultyCore:
    """The copy, built in `directory`; `ffi` and `lib` stand in for those of `_core`.

    SystemExit: what building the core takes is missing here.
    """

    def __init__(self, directory: Path) -> None:
        build = _build_module()
        path = directory / "faulty.so"
        compile_args, link_args = build.flags()
        if build.has_ipsec_mb():
            compile_args = [*compile_args, "-DWGPY_IPSEC_MB=1"]
            link_args = [*link_args, "-lIPSec_MB"]
        sources = [p for p in sorted(DATAPLANE.glob("*.c")) if p.stem != "_core"]
        command = [
            *(*build.compiler(), *compile_args, "-shared", "-fPIC", "-fvisibility=default"),
            *(f"-I{DATAPLANE}", *map(str, sources), str(HERE / "faults.c"), "-o", str(path)),
            *(f"-Wl,--wrap={name}" for name in WRAPPED),
            *("-lcrypto", "-lpthread", *link_args),
        ]
        subprocess.run(command, check=True)
        self.ffi = FFI()
        self.ffi.cdef(build.cdef((DATAPLANE / "api.h").read_text()) + CDEF)
        self.lib: Any = self.ffi.dlopen(str(path))


class FaultyKernel:
    """How the kernel answers the threads of planes made from `core`; by itself, as it does."""

    def __init__(self, core: FaultyCore) -> None:
        self.on_send: SendHook = willing
        self.on_fill: Callable[[], int] = lambda: -1  # per mille of a buffer in use; -1: as it is
        self.on_receive: Callable[[], int] = lambda: 0  # bit i: message i is truncated; or -errno
        self.on_write: Callable[[bytes], int] = lambda start: 0  # of a frame; 0 or -errno
        self.on_read: Callable[[int], int] = lambda fd: 0  # of any descriptor; 0 or -errno
        self.on_poll: Callable[[int, int], int] = lambda count, timeout_ms: 0  # 0 or -errno
        self.on_wall_clock: Callable[[], int] = lambda: 0  # ns that it is ahead
        self.sends: list[list[Message]] = []  # of each sendmmsg
        self._core = core
        self._hooks = {
            "sendmmsg": self._hook("int(const struct fault_message *, unsigned int)", self._send),
            "ioctl": self._hook("int(void)", self._fill),
            "recvmmsg": self._hook("int(void)", self._receive),
            "writev": self._hook("int(const uint8_t *, size_t)", self._write),
            "read": self._hook("int(int)", self._read),
            "poll": self._hook("int(unsigned int, int)", self._poll),
            "clock_gettime": self._hook("int64_t(void)", self._wall_clock),
        }
        for name in WRAPPED:
            setattr(core.lib, f"fault_on_{name}", self._hooks[name])

    def _hook(self, kind: str, function: Callable[..., int]) -> object:
        return self._core.ffi.callback(kind, function)

    def close(self) -> None:
        """After the last plane."""
        for name in WRAPPED:
            setattr(self._core.lib, f"fault_on_{name}", self._core.ffi.NULL)

    def set_send_counter(self, plane: Plane, slot: int, counter: int) -> None:
        """Let the peer's current session have sent so many messages."""
        assert self._core.lib.fault_set_send_counter(plane._device, slot, counter) == 0

    def _send(self, messages: Any, count: int) -> int:
        seen = [Message(m.port, m.segment) for m in messages[0:count]]
        self.sends.append(seen)
        return self.on_send(seen)

    def _fill(self) -> int:
        return self.on_fill()

    def _receive(self) -> int:
        return self.on_receive()

    def _write(self, start: Any, length: int) -> int:
        return self.on_write(bytes(self._core.ffi.buffer(start, length)))

    def _read(self, fd: int) -> int:
        return self.on_read(fd)

    def _poll(self, count: int, timeout_ms: int) -> int:
        return self.on_poll(count, timeout_ms)

    def _wall_clock(self) -> int:
        return self.on_wall_clock()
