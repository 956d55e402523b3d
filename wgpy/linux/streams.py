# SPDX-License-Identifier: MIT
"""Standard input, output and error, which a caller may have closed."""

import os
import sys
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2


def open_standard_streams() -> None:
    """Open what the caller closed of them: nothing of ours may get these numbers.

    To be called before anything is imported that keeps descriptors, as libffi may do of itself.
    Raises OSError.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = os.fdopen(STDOUT, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(STDERR, "w", closefd=False)
