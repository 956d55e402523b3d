# SPDX-License-Identifier: MIT
"""Keys as text, as wg writes them, and back."""

from base64 import b64decode, b64encode

from wgpy.config import KEY_LEN


def format_key(key: bytes | None) -> str:
    """Return it as wg writes it."""
    return "(none)" if key is None else b64encode(key).decode()


def parse_key(text: str) -> bytes:
    """Return the key that wg writes so.  Raises ValueError."""
    key = b64decode(text, validate=True)
    if len(key) != KEY_LEN or format_key(key) != text:
        raise ValueError("no key of 32 bytes in base64")
    return key
