# SPDX-License-Identifier: MIT
"""`wgpyctl proxy`: a tunnel for programs that know SOCKS5, HTTP CONNECT or nothing of it."""
