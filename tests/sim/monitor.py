# SPDX-License-Identifier: MIT
"""Looks on, and fails the run when a rule of the protocol is broken."""

from struct import Struct

from core_numbers import REJECT_AFTER_TIME_S
from fakes import FakeLoop, S

from wgpy.dataplane.types import Session

PAYLOAD = Struct("!HHQ")  # sender, receiver, number


class Broken(AssertionError):
    """A rule of the protocol was broken."""


def require(condition: object, rule: str) -> None:
    if not condition:
        raise Broken(rule)


class Monitor:
    """What must be true of all keys, nonces and payloads of a world."""

    def __init__(self, loop: FakeLoop) -> None:
        self.handshakes = 0
        self.delivered: set[int] = set()  # payload numbers
        self._loop = loop
        self._sealed: set[tuple[bytes, int]] = set()
        self._derived_ns: dict[bytes, int] = {}  # receiving key -> when its owner got it
        self._numbers = 0

    def new_payload(self, sender: int, receiver: int) -> bytes:
        self._numbers += 1
        return PAYLOAD.pack(sender, receiver, self._numbers)

    def derived(self, session: Session) -> None:
        self.handshakes += 1
        key = session.receive_key
        require(key not in self._derived_ns, "a session is derived once on each side")
        require(session.send_key != key, "each direction has a key of its own")
        self._derived_ns[key] = self._loop.now_ns

    def seal(self, key: bytes, counter: int) -> None:
        nonce = (key, counter)
        require(nonce not in self._sealed, "a nonce is never used twice under a key")
        self._sealed.add(nonce)

    def accept(self, key: bytes, payload: bytes, receiver: int) -> None:
        age_ns = self._loop.now_ns - self._derived_ns[key]
        require(age_ns <= REJECT_AFTER_TIME_S * S, "a key older than 180 s never accepts")
        if not payload:
            return
        _, addressee, number = PAYLOAD.unpack(payload)
        require(addressee == receiver, "payload comes out where it was meant to")
        require(number not in self.delivered, "no payload is accepted twice")
        self.delivered.add(number)
