# SPDX-License-Identifier: MIT
"""`wgpyctl metrics`: read by Prometheus's own parser."""

import json
import re
import socket
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from status_daemon import DROPS, HEALTHY, HOSTILE, PEER, SILENT, fake_wg, serving

from wgpy.addresses import parse_listen
from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.metrics import (
    CLIENTS_MAX,
    StatusMetrics,
    format_metrics,
    open_server,
)
from wgpy.ctl.outcome import EXIT_USAGE
from wgpy.diagnosis import diagnose
from wgpy.status import DeviceStatus, Tally

ROOT = Path(__file__).resolve().parent.parent.parent
NOW_S = 1_000_000.0
KEY = b64encode(PEER.public_key).decode()
OF_PEER = {
    "interface": "wg0",
    "public_key": KEY,
    "allowed_ips": "10.0.0.2/32,::/0",
    "friendly_name": "",
}


def samples_of(text: str) -> list[Sample]:
    return [one for family in text_string_to_metric_families(text) for one in family.samples]


def samples(status: DeviceStatus, names: dict[bytes, str] | None = None) -> list[Sample]:
    metrics = StatusMetrics(NOW_S, names or {})
    metrics.add(replace(status, diagnoses=diagnose(status)))
    return samples_of(format_metrics(metrics))


def test_a_peer_has_the_names_and_labels_of_other_exporters() -> None:
    found = [one for one in samples(HEALTHY) if one.name.startswith("wireguard_")]
    assert [(one.name, one.labels, one.value) for one in found] == [
        ("wireguard_sent_bytes_total", OF_PEER, 3 << 20),
        ("wireguard_received_bytes_total", OF_PEER, 1536),
        ("wireguard_latest_handshake_seconds", OF_PEER, NOW_S - 75),
    ]


def test_drops_refusals_and_diagnoses_are_told_of_interface_and_peer() -> None:
    peer = replace(PEER, drops=(Tally("congested", 4),), refusals=(Tally("old-timestamp", 5),))
    drops = (Tally("no-peer", 1), Tally("multicast", 6), Tally("invalid", 2))
    status = replace(HEALTHY, drops=drops, refusals=(Tally("bad-mac1", 3),), peers=(peer, SILENT))
    about = ("public_key", "direction", "reason", "code", "severity")
    found = [
        (one.name, *(one.labels[label] for label in about if label in one.labels), one.value)
        for one in samples(status)
        if one.name.startswith("wgpy_")
    ]
    assert found == [
        ("wgpy_dropped_packets_total", "", "tx", "no-peer", 1),
        ("wgpy_dropped_packets_total", "", "tx", "multicast", 6),
        ("wgpy_dropped_packets_total", "", "rx", "invalid", 2),
        ("wgpy_dropped_packets_total", KEY, "tx", "congested", 4),
        ("wgpy_handshakes_refused_total", "", "bad-mac1", 3),
        ("wgpy_handshakes_refused_total", KEY, "old-timestamp", 5),
        ("wgpy_diagnosis", b64encode(SILENT.public_key).decode(), "no-answer", "error", 1),
        ("wgpy_status_readable", 1),
    ]


def test_labels_come_back_as_they_were_whatever_is_in_them() -> None:
    hostile = 'a"b\\c\nd,e} 1' + HOSTILE[:-1]
    status = replace(HEALTHY, interface=hostile, drops=(Tally(hostile, 1),))
    found = samples(status, {PEER.public_key: hostile})
    assert {one.labels["interface"] for one in found} == {hostile}
    assert {one.labels["reason"] for one in found if "reason" in one.labels} == {hostile}
    assert found[0].labels["friendly_name"] == hostile


def test_a_peer_without_a_handshake_has_zero() -> None:
    status = replace(HEALTHY, peers=(SILENT,))
    values = {one.name: one.value for one in samples(status)}
    assert values["wireguard_latest_handshake_seconds"] == 0


def test_the_command_prints_them_with_names_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "wg0.conf"
    conf.write_text(f"[Peer]\n# friendly_name = a laptop \nPublicKey = {KEY}\n")
    interfaces = Interfaces(tmp_path, fake_wg(tmp_path))
    with serving(tmp_path, replace(HEALTHY, drops=DROPS)):
        assert main(["metrics", "--names", str(conf)], interfaces) == 0
    found = samples_of(capsys.readouterr().out)
    assert found[0].labels == OF_PEER | {"friendly_name": "a laptop"}


def test_no_interface_and_no_file_are_errors(tmp_path: Path) -> None:
    interfaces = Interfaces(tmp_path, fake_wg(tmp_path))
    assert main(["metrics", "wg0"], interfaces) == 3
    assert main(["metrics", "--names", str(tmp_path / "missing")], interfaces) == 2


# ---- by HTTP ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9586", ("127.0.0.1", 9586)),
        (":9586", ("127.0.0.1", 9586)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:2", ("::1", 2)),
        ("[::]:2", ("::", 2)),
    ],
)
def test_it_listens_on_loopback_unless_an_address_is_given(
    text: str, expected: tuple[str, int]
) -> None:
    assert parse_listen(text, "127.0.0.1") == expected


@pytest.mark.parametrize(
    "text", ["", "x", "65536", "host:1", "1.2.3:1", "\x1b:1", "-1", "1.2.3.4:"]
)
def test_what_is_no_address_with_a_port_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["metrics", f"--listen={text}"]) == EXIT_USAGE
    assert "--listen takes [ADDRESS:]PORT" in capsys.readouterr().err


@contextmanager
def listening(directory: Path, name: str = "all", address: str = "127.0.0.1") -> Iterator[int]:
    interfaces = Interfaces(directory, fake_wg(directory))
    with open_server(interfaces, name, address, 0, {}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def scrape(port: int) -> list[Sample]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples_of(answer.read().decode())


def test_each_scrape_asks_anew(tmp_path: Path) -> None:
    with listening(tmp_path) as port:
        assert scrape(port) == []
        with serving(tmp_path, HEALTHY):
            assert {"interface": "wg0"} in [one.labels for one in scrape(port)]


def test_an_interface_that_is_not_there_is_told_as_unreadable(tmp_path: Path) -> None:
    with listening(tmp_path, "wg7") as port:
        (sample,) = scrape(port)
    assert (sample.name, sample.labels, sample.value) == (
        "wgpy_status_readable",
        {"interface": "wg7"},
        0,
    )


def test_a_name_that_is_no_text_breaks_no_scrape(tmp_path: Path) -> None:
    (tmp_path / "w\udcff\n.status").touch()
    with listening(tmp_path) as port:
        (sample,) = scrape(port)
    assert sample.labels == {"interface": r"w\udcff\n"}


def test_clients_that_say_nothing_keep_nobody_out_for_long(tmp_path: Path) -> None:
    with listening(tmp_path, "wg7") as port:
        before = set(threading.enumerate())
        with ExitStack() as stack:
            for _ in range(CLIENTS_MAX):
                stack.enter_context(connect(port))
            assert stack.enter_context(connect(port)).recv(1) == b""  # there is no room for it
            serving_them = set(threading.enumerate()) - before
        for thread in serving_them:  # each ends when it has seen that its client left
            thread.join()
        assert len(scrape(port)) == 1


def test_a_port_in_use_is_told_of_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(tmp_path) as port:
        interfaces = Interfaces(tmp_path, fake_wg(tmp_path))
        assert main(["metrics", "--listen", str(port)], interfaces) == 2
    assert capsys.readouterr().err == (
        f"wgpyctl: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"\b(?:wireguard|wgpy)_\w+", " ".join(one["expr"] for one in targets)))
    peer = replace(PEER, drops=DROPS, refusals=(Tally("old-timestamp", 1),))
    there = {one.name for one in samples(replace(HEALTHY, peers=(peer, SILENT)))}
    assert asked == there - {"wgpy_status_readable"}
