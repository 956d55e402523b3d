# SPDX-License-Identifier: MIT
"""Nanoseconds are what clocks count in here."""

from typing import Final

NS_PER_S: Final = 1_000_000_000
