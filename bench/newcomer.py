# SPDX-License-Identifier: MIT
"""A peer that wants a handshake, as any implementation would: prints the seconds that it took.

python -m bench.newcomer ADDRESS PORT RESPONDER_KEY < PRIVATE_KEY

Keys are in base64.  It repeats its initiation after REKEY_TIMEOUT and a jitter (section 6.4), with
the cookie that it was given meanwhile.  Prints "none" after PATIENCE_S.
"""

import contextlib
import random
import secrets
import socket
import sys
import time
from base64 import b64decode

from wgpy.config import ZERO_KEY
from wgpy.errors import BadMessage
from wgpy.protocol.constants import REKEY_TIMEOUT_S
from wgpy.protocol.cookie import CookieGenerator
from wgpy.protocol.messages import MessageType
from wgpy.protocol.noise import (
    InitiatorState,
    RemoteStatic,
    StaticKey,
    TransportKeys,
    read_response_untrusted,
    write_initiation,
)
from wgpy.protocol.tai64n import tai64n

PATIENCE_S = 20.0
JITTER_S = 1 / 3
BUFFER_LEN = 2048


class Newcomer:
    """The initiator's side, with a socket."""

    def __init__(self, udp: socket.socket, local: StaticKey, responder_key: bytes) -> None:
        """Send by a socket that is connected to the responder."""
        self._udp = udp
        self._local = local
        self._remote = RemoteStatic(responder_key, local.exchange(responder_key))
        self._cookies = CookieGenerator(responder_key)

    def attempt(self, until_s: float) -> TransportKeys | None:
        """Send an initiation; None when no response has come before that time."""
        timestamp = tai64n(time.time_ns())
        message, state = write_initiation(
            self._local, self._remote, secrets.randbits(32), timestamp
        )
        self._udp.send(self._cookies.add_macs(message, time.monotonic_ns()))
        while (left_s := until_s - time.monotonic()) > 0:
            self._udp.settimeout(left_s)
            with contextlib.suppress(TimeoutError, BadMessage):
                keys = self._read(self._udp.recv(BUFFER_LEN), state)
                if keys is not None:
                    return keys
        return None

    def _read(self, message: bytes, state: InitiatorState) -> TransportKeys | None:
        if message[:1] == bytes([MessageType.COOKIE_REPLY]):
            self._cookies.consume_reply_untrusted(message, time.monotonic_ns())
            return None
        return read_response_untrusted(self._local, state, message, ZERO_KEY)


def main(address: str, port: str, responder_key: str) -> str:
    """Try to get a session; gives the seconds that took, or "none"."""
    local = StaticKey(b64decode(sys.stdin.read()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((address, int(port)))
        newcomer = Newcomer(udp, local, b64decode(responder_key))
        begin_s = time.monotonic()
        while (now_s := time.monotonic()) < begin_s + PATIENCE_S:
            wait_s = REKEY_TIMEOUT_S + random.uniform(0, JITTER_S)  # noqa: S311 # no secret
            if newcomer.attempt(now_s + wait_s):
                return f"{time.monotonic() - begin_s:.3f}"
    return "none"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
