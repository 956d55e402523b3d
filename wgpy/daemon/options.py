# SPDX-License-Identifier: MIT
"""What the command line and the environment ask for."""

from dataclasses import dataclass

from wgpy.log import NOTICE


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment ask for."""

    interface: str
    foreground: bool = False
    log_level: int = NOTICE
    keep_stderr: bool = False  # in the background too, to log there if there is no syslog
    aead: str | None = None  # None: the fastest
    tun_fd: int | None = None  # an open TUN queue to use
    uapi_fd: int | None = None  # a listening socket to use
    socket_gid: int | None = None  # a group that may use the socket too
    trust_socket_dir: bool = False  # whoever owns it or can write to it
    status: bool = True  # whether there is a socket that tells it
    status_gid: int | None = None  # a group that may look, too
    key_log: str | None = None  # a file for the secrets of all handshakes
    notify_socket: str | None = None  # where a service manager listens
    journal_stream: str = ""  # the descriptor that is the journal's, if one is: "device:inode"
    tun_offload: bool = True
    vnet_hdr: bool = True
    udp_gso: bool = True
    udp_gro: bool = True
    workers: int = 1  # queues of the TUN, if it has as many
    lanes: int = 1  # data threads per direction of each
