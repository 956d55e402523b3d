# SPDX-License-Identifier: MIT
"""Text for people: numbers and times as `wg show` writes them."""

from typing import Final

from wgpy.keys import format_key

_SHORT_KEY: Final = 8  # characters; 48 bits tell the peers of an interface apart

_UNITS: Final = (
    ("year", 31_536_000),
    ("day", 86_400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def shorten_key(key: bytes) -> str:
    """Return enough of it to tell peers apart in a table."""
    return format_key(key)[:_SHORT_KEY] + "…"


def format_size(count: float) -> str:
    """Return bytes: 512 B, 1.50 KiB."""
    unit = 0
    while count >= 1024 and unit < len(_SIZES) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.2f} {_SIZES[unit]}"


def format_duration(seconds: float) -> str:
    """Return it: 1 day, 3 minutes, 12 seconds."""
    left, parts = max(0, int(seconds)), []
    for name, length in _UNITS:
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return ", ".join(parts) or "0 seconds"


def format_age(seconds: float) -> str:
    """Return it: 12 seconds ago."""
    return f"{format_duration(seconds)} ago" if seconds >= 1 else "now"


def shorten_duration(seconds: float) -> str:
    """Return it in at most two units: 12s, 3m12s, 2h03m, 4d05h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
