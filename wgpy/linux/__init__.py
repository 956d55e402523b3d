# SPDX-License-Identifier: MIT
"""What knows Linux: TUN, sockets, netlink and clocks; nothing else does."""
