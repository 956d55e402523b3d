# SPDX-License-Identifier: MIT
"""The WireGuard protocol without I/O, without a clock and without C."""
