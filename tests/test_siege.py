# SPDX-License-Identifier: MIT
"""What scripts/flood sends, and what it makes of its samples."""

import socket
import subprocess
import sys
from hashlib import blake2s
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(
    str(ROOT)
)  # bench is never installed; at the end, so that wgpy is the installed one

from bench import siege  # noqa: E402
from bench.report import WGPY  # noqa: E402
from bench.siege import ATTACKS, Row, Sample  # noqa: E402
from wgpy.protocol.cookie import mac1_key  # noqa: E402

KEY = b"\x07" * 32
GARBAGE, VALID = ATTACKS


def sample(attacked: float, newcomer_s: float | None = 0.1, peak_mb: float = 40) -> Sample:
    """Two turns each; the machine was twice as fast in the second."""
    return Sample(1, WGPY, GARBAGE.name, [4, 8], [attacked, 2 * attacked], 5e4, newcomer_s, peak_mb)


def row(*samples: Sample) -> Row:
    return Row(WGPY, GARBAGE, samples)


def messages(*, valid_mac1: bool) -> list[bytes]:
    data = siege.initiations(KEY, valid_mac1=valid_mac1)
    return [data[at : at + 148] for at in range(0, len(data), 148)]


@pytest.mark.parametrize("valid_mac1", [False, True])
def test_the_messages_differ_and_their_mac1_is_as_asked_for(valid_mac1: bool) -> None:
    sent = messages(valid_mac1=valid_mac1)
    assert len(set(sent)) == len(sent) == siege.MESSAGES
    key = mac1_key(KEY)
    for message in sent:
        mac1 = blake2s(message[:116], key=key, digest_size=16).digest()
        assert (message[116:132] == mac1) == valid_mac1


def test_the_flooder_sends_them_in_turn_at_its_rate_until_it_is_told_to_end(
    tmp_path: Path,
) -> None:
    sent = messages(valid_mac1=True)[:3]
    file = tmp_path / "messages"
    file.write_bytes(b"".join(sent))
    with (
        siege.program() as program,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        file.open("rb") as stdin,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(10)
        arguments = ["127.0.0.1", str(udp.getsockname()[1]), "127.0.1.1", "2", "1000", "30"]
        command = [str(program), *arguments]
        with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True) as flooder:
            got = [udp.recvfrom(2048) for _ in range(500)]
            flooder.terminate()
            assert flooder.stdout is not None
            started, numbers = flooder.stdout.read().splitlines()
    assert started == "flooding"
    count, taken_ms = map(int, numbers.split())
    assert 500 <= count <= taken_ms + 2
    assert [data for data, _ in got] == [sent[i % 3] for i in range(500)]
    assert [address[0] for _, address in got[:4]] == ["127.0.1.1", "127.0.1.2"] * 2


def test_turns_that_follow_each_other_are_compared() -> None:
    assert row(sample(3.6)).ratio == pytest.approx(0.9)


def test_a_row_names_the_goals_that_are_missed() -> None:
    assert row(sample(3.6)).misses == []
    assert row(sample(3.2)).misses == ["TCP"]
    assert row(sample(3.6, newcomer_s=1.5)).misses == ["newcomer"]
    assert row(sample(3.6, newcomer_s=None)).misses == ["newcomer"]
    assert row(sample(3.6), sample(3.6, peak_mb=64)).misses == ["memory"]


def test_rows_are_by_flood_and_then_by_implementation() -> None:
    samples = [
        Sample(1, name, attack.name, [1], [1], 1, 1, 1)
        for name in (WGPY, "other")
        for attack in ATTACKS
    ]
    found = [(one.attack, one.implementation) for one in siege.rows(samples)]
    assert found == [(attack, name) for attack in ATTACKS for name in (WGPY, "other")]
