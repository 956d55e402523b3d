# SPDX-License-Identifier: MIT
"""Waiting on an event loop for what comes true there."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 30.0  # until a test fails


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until something is true."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < end_s, "it did not come true"
        await asyncio.sleep(0.001)
