# SPDX-License-Identifier: MIT
"""Every error that is ours.  What the system refuses stays an OSError."""

import enum
from errno import EINVAL

from wgpy.text import printable


class WgpyError(Exception):
    """What all errors of wgpy are."""


class Refusal(enum.Enum):
    """Why a handshake message is refused: stable codes.  C has some of its own (wg_refusal)."""

    MALFORMED = "malformed"  # wrong size or type, or it does not authenticate
    NO_PRIVATE_KEY = "no-private-key"  # we have none
    UNKNOWN_INITIATOR = "unknown-initiator"  # a key that is nobody's here
    OLD_TIMESTAMP = "old-timestamp"  # not later than all before (5.1)
    TOO_SOON = "too-soon"  # after the one before
    BAD_RESPONSE = "bad-response"  # it does not open: forged, or made with another preshared key
    NO_INITIATION = "no-initiation"  # answers nothing that we sent, or not any more
    BAD_COOKIE = "bad-cookie"  # answers nothing, or does not open
    LOW_ORDER = "low-order"  # a public key of low order


class BadMessage(WgpyError):
    """A datagram that is not a valid WireGuard message; it is dropped and counted.

    `public_key` is the sender's as far as the message tells, which is no proof; empty: it does not.
    """

    def __init__(self, text: str, refusal: Refusal, public_key: bytes = b"") -> None:
        """Take what the log and the tallies need."""
        super().__init__(text)
        self.refusal = refusal
        self.public_key = public_key


class ConfigError(WgpyError):
    """A configuration request that cannot be applied; nothing of it was.

    `errno` is positive (errno.EINVAL, ...); the UAPI replies with it negated.  `line` is the
    offending line when it holds no key, else None.
    """

    def __init__(self, errno: int, reason: str, line: str | None = None) -> None:
        super().__init__(reason)
        self.errno = errno
        self.reason = reason
        self.line = line


class ConfigFileError(ConfigError):
    """A file of wg-quick that cannot be taken.  Nothing in it is a value of the file.

    `path` is the file as it was named, `line_number` counts from 1; 0 is the file as a whole.
    """

    def __init__(self, path: str, line_number: int, reason: str) -> None:
        super().__init__(EINVAL, reason)
        self.path = path
        self.line_number = line_number

    def __str__(self) -> str:
        """Return one line for the user; what is unprintable in the path is spelt out."""
        place = f"{self.path}, line {self.line_number}" if self.line_number else self.path
        return f"{printable(place)}: {self.reason}"


class StatusError(WgpyError):
    """What came from a status socket is no status: one line for the user."""


class StartError(WgpyError):
    """Why there is no interface: one line for the user."""


class LinkDeletedError(WgpyError):
    """The interface is gone and its TUN descriptor dead."""


class DataThreadError(WgpyError):
    """Why there is no interface any more: a thread of the data plane ended by itself."""


class BadRequest(WgpyError):
    """What a client of the proxy asks for is malformed or refused.

    `answer` is what to send before hanging up, empty for nothing.  `is_guess`: with a wrong name or
    password, so that the answer had better come late.
    """

    def __init__(self, text: str, answer: bytes = b"", *, is_guess: bool = False) -> None:
        """Take what the log and the client need."""
        super().__init__(text)
        self.answer = answer
        self.is_guess = is_guess
