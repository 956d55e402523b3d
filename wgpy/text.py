# SPDX-License-Identifier: MIT
"""Text that may be shown."""

import errno
import os


def printable(text: str) -> str:
    """Return it with what a terminal might take for a command spelt out: controls, directions."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def format_errno(number: int) -> str:
    """Return what the system calls an error; it may be any number."""
    return os.strerror(number) if number in errno.errorcode else f"error {number}"
