# SPDX-License-Identifier: MIT
"""What nobody frees but a collector, which tests of memory do without."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collector() -> Iterator[None]:
    """So that a cycle left behind is a leak that shows."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
