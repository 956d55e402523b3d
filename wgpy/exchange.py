# SPDX-License-Identifier: MIT
"""The cryptographic half of a peer's handshakes: identities, timestamps, the open initiation.

What is sent when, and what becomes of it, is the peer's (wgpy.peer).
"""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wgpy.config import ZERO_KEY
from wgpy.errors import BadMessage, Refusal
from wgpy.protocol.noise import (
    HandshakeSecrets,
    Initiation,
    InitiatorState,
    RemoteStatic,
    StaticKey,
    TransportKeys,
    new_ephemeral,
    read_response_untrusted,
    write_initiation,
    write_response,
)
from wgpy.protocol.tai64n import tai64n
from wgpy.protocol.timers import INITIATION_INTERVAL_NS


class KeyExchange:
    """Makes and checks handshake messages with one peer."""

    __slots__ = (
        "_greatest_timestamp",
        "_initiator",
        "_key_log",
        "_last_initiation_ns",
        "_local",
        "_public_key",
        "_remote",
        "_wall_clock",
        "_wall_offset_ns",
        "preshared_key",
    )

    preshared_key: bytes

    def __init__(
        self,
        public_key: bytes,
        local: StaticKey | None,
        wall_clock: Callable[[], int],
        key_log: Callable[[HandshakeSecrets], None] | None,
    ) -> None:
        """Begin with the peer's key and our identity, if there is one."""
        self.preshared_key = ZERO_KEY
        self._public_key = public_key
        self._local = local
        self._wall_clock = wall_clock
        self._key_log = key_log
        self._remote: RemoteStatic | None = None
        self._initiator: InitiatorState | None = None
        self._greatest_timestamp = b""
        self._last_initiation_ns: int | None = None
        self._wall_offset_ns = 0

    def set_identity(self, local: StaticKey | None) -> None:
        """Become somebody else."""
        self._local = local
        self._remote = None

    def remote_static(self) -> RemoteStatic:
        """Return the peer's identity with our shared secret, which is computed at its first use.

        BadMessage when the public key is of low order, or while we have no identity.
        """
        if self._local is None:
            raise BadMessage("no private key is set", Refusal.NO_PRIVATE_KEY)
        if self._remote is None:
            self._remote = RemoteStatic(self._public_key, self._local.exchange(self._public_key))
        return self._remote

    # ---- as initiator ----

    def write_initiation(self, remote: RemoteStatic, index: int, now_ns: int) -> bytes:
        """Return an initiation, which is open from now on; to be called when none is."""
        assert self._local is not None, "remote_static refuses to work without an identity"
        timestamp = tai64n(self._forward_wall_clock(now_ns))
        message, self._initiator = write_initiation(
            self._local, remote, index, timestamp, ephemeral_private=self._ephemeral()
        )
        return message

    def read_response_untrusted(self, message: bytes) -> TransportKeys:
        """Return the keys of the session that the response makes of the open initiation.

        BadMessage when it is not genuine, or we wait for none.
        """
        if self._initiator is None or self._local is None:
            raise BadMessage("response to no initiation", Refusal.NO_INITIATION)
        keys = read_response_untrusted(self._local, self._initiator, message, self.preshared_key)
        self._initiator = None  # its index becomes the session's
        return keys

    def forget_initiation(self) -> int | None:
        """Wait for no response any more; return the index that is free now, if one is."""
        initiator, self._initiator = self._initiator, None
        return None if initiator is None else initiator.local_index

    # ---- as responder ----

    def refuse_replay(self, timestamp: bytes, now_ns: int) -> None:
        """Remember an initiation; BadMessage if it is a replay, or came too soon after another."""
        if timestamp <= self._greatest_timestamp:
            raise BadMessage("replayed initiation", Refusal.OLD_TIMESTAMP, self._public_key)
        last_ns = self._last_initiation_ns
        if last_ns is not None and now_ns < last_ns + INITIATION_INTERVAL_NS:
            text = "initiations in too quick a succession"
            raise BadMessage(text, Refusal.TOO_SOON, self._public_key)
        self._greatest_timestamp = timestamp
        self._last_initiation_ns = now_ns

    def write_response(self, initiation: Initiation, index: int) -> tuple[bytes, TransportKeys]:
        """Return the response (5.4.3), and the keys of the session that it makes."""
        return write_response(
            initiation, index, self.preshared_key, ephemeral_private=self._ephemeral()
        )

    def _ephemeral(self) -> X25519PrivateKey | None:
        """Return a key that the key log knows of, None if there is no such log."""
        if self._key_log is None or self._local is None:
            return None
        key = new_ephemeral()
        private, ephemeral = self._local.private_bytes(), key.private_bytes_raw()
        self._key_log(HandshakeSecrets(private, self._public_key, ephemeral, self.preshared_key))
        return key

    def _forward_wall_clock(self, now_ns: int) -> int:
        """Return the time for a timestamp: the wall clock's, unless that was set back.

        The peer refuses what is not later than all before (5.1), so time then goes on from where
        the clock was, until it is there again or we restart.
        """
        self._wall_offset_ns = max(self._wall_offset_ns, self._wall_clock() - now_ns)
        return now_ns + self._wall_offset_ns
