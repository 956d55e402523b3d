# SPDX-License-Identifier: MIT
"""The command wgpyctl: looks at WireGuard interfaces and says what is wrong."""
