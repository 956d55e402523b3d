# SPDX-License-Identifier: MIT
"""Made-up statuses that a socket serves as a daemon does, and a made-up wg."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wgpy.config import AllowedIP, Endpoint
from wgpy.protocol.handshake import Handshake
from wgpy.status import SUFFIX, DeviceStatus, PeerStatus, Tally, to_json

OUR_KEY = bytes(range(32))
PEER = PeerStatus(
    public_key=bytes([7] * 32),
    endpoint=Endpoint(bytes([192, 0, 2, 1]), 51820),
    allowed_ips=(AllowedIP(bytes([10, 0, 0, 2]), 32), AllowedIP(bytes(16), 0)),
    persistent_keepalive_s=25,
    handshake=Handshake.ESTABLISHED,
    last_handshake_age_s=75.0,
    last_received_age_s=0.5,
    last_sent_age_s=0.5,
    rx_bytes=1536,
    tx_bytes=3 << 20,
)
SILENT = PeerStatus(
    public_key=bytes([9] * 32),
    endpoint=Endpoint(bytes.fromhex("20010db8111122223333444455556666"), 51820),
    handshake=Handshake.INITIATED,
    attempts=4,
    attempts_age_s=20.0,
    last_sent_age_s=0.5,
    staged=2,
)
HEALTHY = DeviceStatus(
    "wg0",
    public_key=OUR_KEY,
    listen_port=51820,
    fwmark=0xCA6C,
    up=True,
    listening=True,
    mtu=1420,
    aead="ipsec-mb",
    workers=2,
    features=("VNET_HDR", "TUN_TSO", "UDP_GSO", "UDP_GRO"),
    receive_buffer=7 << 20,
    peers=(PEER,),
)
DROPS = (Tally("not-allowed", 3, 12.0, address="10.1.0.1"),)
# In the title of a terminal, over what is there, from right to left, beyond Unicode.
HOSTILE = "w\x1b]0;x\x07g\r\u202e\udc80"


@contextmanager
def serving(directory: Path, *statuses: DeviceStatus, name: str = "wg0") -> Iterator[Path]:
    """Tells these statuses to each who comes, one after the other, and leaves."""
    text = "".join(json.dumps(to_json(status)) + "\n" for status in statuses).encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / f"{name}{SUFFIX}"))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, text))
        thread.start()
        try:
            yield directory
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, text: bytes) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # shut down
        with client:
            client.sendall(text)


def leave_behind(path: Path) -> None:
    """Make what stays of a status socket when its daemon is killed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def fake_wg(directory: Path, answers: Sequence[tuple[str, str]] = (), failure: str = "") -> str:
    """A program that answers to `show ARGUMENTS` so, and fails otherwise."""
    program = directory / "wg"
    cases = "".join(f"'show {asked}') printf '{answer}' ;;\n" for asked, answer in answers)
    refuse = f"*) echo 'Unable to access interface: {failure or 'No such device'}' >&2; exit 1 ;;"
    program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}{refuse}\nesac\n')
    program.chmod(0o755)
    return str(program)
