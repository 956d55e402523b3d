# SPDX-License-Identifier: MIT
"""Reads files of wg-quick that the command line names."""

from pathlib import Path

from wgpy.ctl.outcome import CallError
from wgpy.text import printable
from wgpy.wgquick import FILE_MAX, QuickFile, parse_untrusted


def read_file(path: Path) -> QuickFile:
    """Return what the file says.  Raises CallError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse_untrusted(file.read(FILE_MAX + 1))
    except OSError as error:
        raise CallError(printable(f"{path}: {error.strerror}")) from None


def read_names(path: Path) -> dict[bytes, str]:
    """Return the names that its comments give to peers, by public key.  Raises CallError."""
    keys = ((peer.last("publickey"), peer.friendly_name) for peer in read_file(path).peers)
    return {key: name for key, name in keys if isinstance(key, bytes) and name}
