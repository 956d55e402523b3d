# SPDX-License-Identifier: MIT
"""TAI64N timestamps (5.1, 5.4.2): what makes a replayed initiation recognisable.

Eight bytes of seconds and four of nanoseconds, big-endian, so that bytes compare as times do.
"""

from struct import Struct

from wgpy.units import NS_PER_S

_LAYOUT = Struct(">QI")
_UNIX_EPOCH = 2**62 + 10  # TAI64 label of 1970, with the ten seconds that TAI was ahead of UTC
_WHITENING_NS = 1 << 24  # coarser than a clock that timing attacks could use; below 20 ms


def tai64n(unix_ns: int) -> bytes:
    """Stamp a wall-clock time in nanoseconds; the part below the second goes down to 2^24 ns."""
    seconds, nanoseconds = divmod(unix_ns, NS_PER_S)
    return _LAYOUT.pack(_UNIX_EPOCH + seconds, nanoseconds & -_WHITENING_NS)
