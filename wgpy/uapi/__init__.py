# SPDX-License-Identifier: MIT
"""The cross-platform configuration protocol of wg: text format and socket server."""
