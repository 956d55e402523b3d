# SPDX-License-Identifier: MIT
"""WGPY_KEYLOG: with it, and without anything else, tshark reads what went over the cable."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from netns.lab import Side, eventually, key_pair, ping

TSHARK = shutil.which("tshark")
TCPDUMP = shutil.which("tcpdump")
# Bytes in the file: its head; a handshake, three pings and their answers, each with a head there
# and those of Ethernet, IPv4 and UDP.
EXPECTED = 24 + (148 + 92 + 6 * 128) + 8 * (16 + 14 + 20 + 8)


@pytest.mark.skipif(TSHARK is None or TCPDUMP is None, reason="not installed: tshark, tcpdump")
@pytest.mark.parametrize("logging", [0, 1], ids=["initiator", "responder"])
def test_either_side_can_have_its_capture_read(
    logging: int, sides: tuple[Side, Side], tmp_path: Path
) -> None:
    keys, capture = tmp_path / "keys", tmp_path / "capture"
    left, right = sides
    psk, _ = key_pair()
    sides[logging].host.run("env", f"WGPY_KEYLOG={keys}", "wgpy", sides[logging].interface)
    sides[1 - logging].host.run("wgpy", sides[1 - logging].interface)
    left.configure(left.settings(right, psk=psk))
    right.configure(right.settings(left, psk=psk))
    # -Z root: else it gives up the right to write there.
    command = "tcpdump", "-i", "cable", "-U", "-Z", "root", "-w", str(capture), "udp"
    recorder = left.host.popen(*command)
    assert recorder.stderr is not None
    while "listening on" not in recorder.stderr.readline():
        pass
    ping(left.host, right.inner4)
    eventually(lambda: capture.stat().st_size >= EXPECTED, "what tcpdump saw")
    os.kill(recorder.pid, signal.SIGINT)
    recorder.communicate(timeout=10)
    eventually(lambda: "PRESHARED_KEY" in keys.read_text(), "the keys")
    option = f"wg.keylog_file:{keys}"
    read = subprocess.run(
        [
            str(TSHARK),
            "-r",
            str(capture),
            "-o",
            option,
            "-Y",
            "icmp",
            "-T",
            "fields",
            "-e",
            "ip.dst",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    inner = [line.split(",")[-1] for line in read.stdout.split()]
    assert inner.count(right.inner4) >= 3, read.stderr
    assert inner.count(left.inner4) >= 3
