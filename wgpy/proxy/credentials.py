# SPDX-License-Identifier: MIT
"""Who may use the proxy: names and passwords from a file."""

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Final

FILE_MAX: Final = 1 << 16  # bytes
LENGTH_MAX: Final = 255  # bytes of a name or a password; RFC 1929, 2
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Credentials:
    """Pairs of name and password.  What is kept is not them, but their hashes under a random key.

    So they are of one length, and to compare them takes the same time whatever was guessed.
    """

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Take them.  Raises ValueError for none, and for what no client could say."""
        if not pairs:
            raise ValueError("nobody is in it")
        for pair in pairs:
            if not all(0 < len(part) <= LENGTH_MAX for part in pair):
                raise ValueError(f"a name or a password is not of 1 to {LENGTH_MAX} bytes")
        self._key = os.urandom(32)
        self._hashes = [self._hash(user, password) for user, password in pairs]

    @classmethod
    def from_file(cls, path: Path) -> "Credentials":
        """Read lines of NAME:PASSWORD; empty ones and those that begin with # are left out.

        Raises ValueError, with what is wrong with the file and nothing of what is in it; OSError.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a file")
            if status.st_mode & OTHERS or status.st_uid not in (0, os.geteuid()):
                raise ValueError("others may have access to it (chmod 600)")
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise ValueError(f"longer than {FILE_MAX} bytes")
        lines = (line.rstrip(b"\r") for line in data.split(b"\n"))
        said = [line for line in lines if line and not line.startswith(b"#")]
        if not all(b":" in line for line in said):
            raise ValueError("a line is not NAME:PASSWORD")
        pairs = (line.partition(b":") for line in said)
        return cls([(user, password) for user, _, password in pairs])

    def match(self, user: bytes, password: bytes) -> bool:
        """Tell whether they are one of the pairs."""
        given = self._hash(user, password)
        found = 0
        for known in self._hashes:  # all of them, whichever it is
            found |= hmac.compare_digest(given, known)
        return bool(found)

    def _hash(self, user: bytes, password: bytes) -> bytes:
        length = len(user).to_bytes(2, "big")
        return hashlib.blake2b(length + user + password, key=self._key).digest()
