# SPDX-License-Identifier: MIT
"""`wgpyctl status`: what it prints, and how it ends."""

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from status_daemon import DROPS, HEALTHY, HOSTILE, PEER, SILENT, fake_wg, leave_behind, serving

from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.report import coloured, format_report
from wgpy.diagnosis import diagnose
from wgpy.status import DeviceStatus, Diagnosis, Severity, Tally

BROKEN = replace(HEALTHY, peers=(PEER, SILENT))
PUBLIC, SILENT_KEY = (b64encode(peer.public_key).decode() for peer in (PEER, SILENT))
HEALTHY_REPORT = f"""\
interface: wg0
  public key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
  listening port: 51820
  fwmark: 0xca6c
  link: up, mtu 1420
  data plane: 2 workers, ipsec-mb, VNET_HDR TUN_TSO UDP_GSO UDP_GRO

peer: {PUBLIC}
  endpoint: 192.0.2.1:51820
  allowed ips: 10.0.0.2/32, ::/0
  latest handshake: 1 minute, 15 seconds ago
  transfer: 1.50 KiB received, 3.00 MiB sent
  persistent keepalive: every 25 seconds
"""


@pytest.fixture
def interfaces(tmp_path: Path) -> Interfaces:
    """Those of a directory of the test's own; wg knows of none."""
    return Interfaces(tmp_path, fake_wg(tmp_path))


def test_a_healthy_interface_reads_like_wg_show(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, HEALTHY):
        assert main(["status", "wg0"], interfaces) == 0
    assert capsys.readouterr() == (HEALTHY_REPORT, "")


def test_what_is_wrong_comes_first_with_its_peer_and_code(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, BROKEN):
        assert main(["status", "wg0"], interfaces) == 1
    first, second, *others = capsys.readouterr().out.splitlines()
    assert first == "interface: wg0"
    assert second.startswith(f"  error: peer {SILENT_KEY}: no answer to 4 handshakes")
    assert second.endswith("(no-answer)")
    assert "  handshake: initiated, 4 attempts in 20 seconds" in others
    assert "  waiting for a session: 2 packets" in others


def test_notes_leave_an_interface_healthy(interfaces: Interfaces, tmp_path: Path) -> None:
    small = replace(HEALTHY, receive_buffer=1 << 17)
    assert [str(diagnosis.severity) for diagnosis in diagnose(small)] == ["note"]
    with serving(tmp_path, small):
        assert main(["status", "wg0"], interfaces) == 0


def test_drops_and_refusals_say_what_they_were_about() -> None:
    refusals = (
        Tally("unknown-initiator", 2, 0.0, address="192.0.2.9:1", public_key=bytes(32)),
        Tally("bad-mac1", 1, errno=101),
        Tally("bad-mac1", 1, errno=2**63),
    )
    report = format_report(replace(HEALTHY, drops=DROPS, refusals=refusals))
    assert "  dropped: 3 not-allowed (10.1.0.1, 12 seconds ago)\n" in report
    assert f"2 unknown-initiator ({'A' * 43}=, 192.0.2.9:1, now)" in report
    assert "1 bad-mac1 (Network is unreachable); 1 bad-mac1 (error 9223372036854775808)" in report


def test_all_is_the_default_and_shows_each(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, BROKEN), serving(tmp_path, replace(HEALTHY, interface="a"), name="a"):
        assert main(["status"], interfaces) == 1
        assert main(["status", "all"], interfaces) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("interface")] == [
        "interface: a",
        "interface: wg0",
    ] * 2


def test_json_is_the_status_and_what_is_wrong_a_document_a_line(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, BROKEN), serving(tmp_path, replace(HEALTHY, interface="a"), name="a"):
        assert main(["status", "--json"], interfaces) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["interface"], first["diagnoses"]) == ("a", [])
    (diagnosis,) = second["diagnoses"]
    assert diagnosis.pop("text").startswith("no answer")
    assert diagnosis == {"code": "no-answer", "severity": "error", "peer": SILENT_KEY}
    assert second["peers"][0]["public_key"] == PUBLIC


def test_what_a_daemon_says_is_wrong_is_shown_as_it_says_it(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be newer, and know better."""
    told = Diagnosis("full-moon", Severity.WARNING, "howls", PEER.public_key)
    with serving(tmp_path, replace(BROKEN, diagnoses=(told,))):
        assert main(["status", "wg0"], interfaces) == 1
    _, first, *others = capsys.readouterr().out.splitlines()
    assert first == f"  warning: peer {PUBLIC}: howls (full-moon)"
    assert "no-answer" not in "".join(others)


def test_nothing_hostile_reaches_the_terminal(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = (Tally(HOSTILE, 1, address=HOSTILE),)
    hostile = replace(
        HEALTHY, interface=HOSTILE, aead=HOSTILE, features=(HOSTILE,), drops=tally, refusals=tally
    )
    with serving(tmp_path, hostile):
        main(["status", "wg0"], interfaces)
    shown = capsys.readouterr().out
    assert r"w\x1b]0;x\x07g\r\u202e\udc80" in shown
    assert shown.replace("\n", "").isprintable()
    # Whoever makes a status otherwise is not trusted either.
    report = format_report(replace(hostile, diagnoses=diagnose(hostile)))
    assert report.replace("\n", "").isprintable()


def test_colours_change_nothing_but_colours() -> None:
    broken = replace(BROKEN, diagnoses=diagnose(BROKEN))
    report = format_report(broken, coloured)
    assert "\x1b[1;31merror\x1b[0m: " in report
    for code in ("1;32", "1;33", "1;31", "1", "0"):
        report = report.replace(f"\x1b[{code}m", "")
    assert report == format_report(broken)


def test_no_such_interface_is_a_status_of_its_own(
    interfaces: Interfaces, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wg9", "..", "", "a/b", "a\0b", "\x1b[2J"):
        assert main(["status", name], interfaces) == 3
    assert main(["status"], interfaces) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "wgpyctl: there is no WireGuard interface wg9"
    assert "\x1b" not in err


def test_a_daemon_that_talks_nonsense_is_told_of_in_a_line(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, DeviceStatus("w" * 2000)):
        assert main(["status", "wg0"], interfaces) == 1
    assert capsys.readouterr() == ("", "wgpyctl: wg0: not the JSON of a status\n")


def test_of_all_the_others_are_shown_when_one_talks_nonsense(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, HEALTHY), serving(tmp_path, DeviceStatus("w" * 2000), name="a"):
        assert main(["status"], interfaces) == 1
    out, err = capsys.readouterr()
    assert out == HEALTHY_REPORT
    assert err == "wgpyctl: a: not the JSON of a status\n"


def test_a_daemon_that_has_just_ended_is_no_interface(
    interfaces: Interfaces, tmp_path: Path
) -> None:
    with serving(tmp_path):
        assert main(["status", "wg0"], interfaces) == 3


def test_what_a_killed_daemon_left_is_no_interface(
    interfaces: Interfaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_behind(tmp_path / "a.status")
    for argv in (["status", "a"], ["status"], ["metrics", "a"], ["doctor", "a"]):
        assert main(argv, interfaces) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 4
    assert err.startswith("wgpyctl: there is no WireGuard interface a\n")
    with serving(tmp_path, HEALTHY):
        assert main(["status"], interfaces) == 0
        assert capsys.readouterr() == (HEALTHY_REPORT, "")
        assert main(["metrics"], interfaces) == 0
        assert 'interface="wg0"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["--nonsense"], ["status", "a", "b"], ["dance"], ["metrics", "--listen"]]
)
def test_a_wrong_call_is_refused_in_a_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
