# SPDX-License-Identifier: MIT
"""Moves bytes between sockets, in C: relay.c."""
