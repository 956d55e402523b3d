# SPDX-License-Identifier: MIT
"""What the benchmark makes of its samples, and of the output of the tools that it runs."""

import itertools
import json
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(
    str(ROOT)
)  # bench is never installed; at the end, so that wgpy is the installed one

from bench import bursts, cases, cores, flood, lab, report, stages, topology, ways  # noqa: E402
from bench.__main__ import ablations, given_peer, parse  # noqa: E402
from bench.lab import Implementation, LabError  # noqa: E402
from bench.report import ALL_OFF, REFERENCE, WGPY, Report, Results, Sample, Spread  # noqa: E402
from bench.summary import HEADLINES, LINES, Line, summary  # noqa: E402
from bench.topology import Counters  # noqa: E402
from wgpy.protocol.noise import TransportKeys  # noqa: E402


def samples(implementation: str, case: str, figure: str, *values: float) -> list[Sample]:
    return [
        Sample(number, implementation, case, {figure: value})
        for number, value in enumerate(values, 1)
    ]


def tcp(wgpy: float, reference: float) -> list[Sample]:
    both = (WGPY, wgpy), (REFERENCE, reference)
    return [one for name, value in both for one in samples(name, "tcp4", "gbit_s", value)]


def verdict(results: Results, title: str) -> tuple[float | None, bool | None]:
    found = next(target for target in report.TARGETS if target.title == title)
    value = found.value(results)
    return value, None if value is None else found.is_met(value)


# ---- results ----


def test_a_spread_is_median_least_and_most_of_the_rounds() -> None:
    results = Results(samples(WGPY, "tcp4", "gbit_s", 5.0, 1.0, 3.0))
    assert results.spread(WGPY, "tcp4", "gbit_s") == Spread(3.0, 1.0, 5.0)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_median_lies_between_least_and_most(values: list[float]) -> None:
    spread = Results(samples(WGPY, "udp64", "kpps", *values)).spread(WGPY, "udp64", "kpps")
    assert spread is not None
    assert spread.least <= spread.median <= spread.most


def test_a_failed_sample_does_not_count() -> None:
    failed = Sample(2, WGPY, "tcp4", {}, "it broke")
    results = Results([*samples(WGPY, "tcp4", "gbit_s", 4.0), failed])
    assert results.median(WGPY, "tcp4", "gbit_s") == 4.0


def test_a_ratio_is_that_of_the_medians() -> None:
    results = Results(tcp(6.0, 2.5))
    assert results.ratio("tcp4", "gbit_s", REFERENCE) == pytest.approx(2.4)


@pytest.mark.parametrize("made", [tcp(6.0, 0.0), samples(WGPY, "tcp4", "gbit_s", 6.0), []])
def test_there_is_no_ratio_to_nothing(made: list[Sample]) -> None:
    assert Results(made).ratio("tcp4", "gbit_s", REFERENCE) is None


def test_resident_memory_is_the_worst_of_ends_and_rounds_with_one_peer() -> None:
    mine = samples(WGPY, "tcp4", "resident_a_mb", 40.0, 42.0)
    mine += samples(WGPY, "udp64", "resident_b_mb", 43.0)
    others = samples(REFERENCE, "tcp4", "resident_a_mb", 90.0)
    others += samples(WGPY, "peers1000", "resident_a_mb", 70.0)
    assert Results(mine + others).resident_mb() == 43.0


def test_growth_is_that_of_the_worse_daemon_after_warming_up() -> None:
    soak = [
        {"at_s": float(i), "resident_a_mb": 10.0 if i else 1.0, "resident_b_mb": 20.0 + i / 10}
        for i in range(20)
    ]
    assert Results([], soak).soak_growth_mb() == pytest.approx(1.6)


def test_too_short_a_soak_says_nothing() -> None:
    assert Results([], [{"at_s": 0.0, "resident_a_mb": 1.0}] * 9).soak_growth_mb() is None


def test_transmit_is_compared_with_what_one_core_can_seal() -> None:
    results = Results(samples(WGPY, "transmit", "kpps", 1000.0), seal_ns=600.0)
    assert results.transmit_of_limit() == pytest.approx(0.6)


# ---- targets ----


@pytest.mark.parametrize(("wgpy", "met"), [(4.0, True), (3.9, False)])
def test_throughput_has_to_be_twice_the_reference(wgpy: float, met: bool) -> None:
    _value, is_met = verdict(Results(tcp(wgpy, 2.0)), "TCP over IPv4, one stream")
    assert is_met is met


def forwarded(*cases_: tuple[float, float, float, float]) -> list[Sample]:
    """Of each case wgpy's Gbit/s and retransmits, and what its peers do."""
    made = []
    for name, (ours, again, reference, tailscale) in zip(report.FORWARDED, cases_, strict=True):
        made.append(Sample(1, WGPY, name, {"gbit_s": ours, "retransmits": again}))
        made += samples(REFERENCE, name, "gbit_s", reference)
        made += samples(report.TAILSCALE, name, "gbit_s", tailscale)
    return made


def test_the_targets_of_a_gateway_go_by_its_worst_case() -> None:
    good, slow, lossy = (6.0, 0.0, 2.0, 3.0), (6.0, 14.0, 2.0, 4.0), (6.0, 101.0, 3.0, 3.0)
    results = Results(forwarded(good, slow, lossy, good))
    assert verdict(results, "forwarded TCP, the worst case") == (2.0, False)
    assert verdict(results, "the same, of tailscale") == (1.5, False)
    assert verdict(results, "segments sent again, the worst of these") == (101.0, False)


def test_the_targets_of_a_gateway_need_all_its_cases() -> None:
    made = [
        sample for sample in forwarded(*[(6.0, 0.0, 2.0, 3.0)] * 4) if sample.case != "forward6"
    ]
    assert verdict(Results(made), "the same, of tailscale") == (None, None)
    assert verdict(Results(made), "segments sent again, the worst of these") == (None, None)


def test_the_cpu_target_goes_by_the_worse_end() -> None:
    made = [
        Sample(1, WGPY, "tcp4", {"cpu_a_s_per_gb": 0.8, "cpu_b_s_per_gb": 1.0}),
        Sample(1, REFERENCE, "tcp4", {"cpu_a_s_per_gb": 2.0, "cpu_b_s_per_gb": 2.0}),
    ]
    assert verdict(Results(made), "daemon CPU per GB, the worse end") == (0.5, False)


def test_the_cpu_target_needs_both_ends() -> None:
    made = samples(WGPY, "tcp4", "cpu_a_s_per_gb", 0.1)
    made += samples(REFERENCE, "tcp4", "cpu_a_s_per_gb", 1.0)
    assert verdict(Results(made), "daemon CPU per GB, the worse end") == (None, None)


def test_the_ablation_target_compares_all_on_with_all_off() -> None:
    made = tcp(6.0, 3.0) + samples(ALL_OFF, "tcp4", "gbit_s", 1.2)
    value, met = verdict(Results(made), "all offloads on against all off, TCP")
    assert value == pytest.approx(5.0)
    assert met


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert [(v["value"], v["met"]) for v in report.verdicts(Results([]))] == [
        (None, None) for _target in report.TARGETS
    ]


# ---- Markdown ----


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0431, "0.043"), (0.847, "0.85"), (12.34, "12.3"), (1234.6, "1235")],
)
def test_a_number_has_two_or_three_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_a_table_is_markdown() -> None:
    assert report.table(["", "n"], [["a", "1"]]) == "|  | n |\n| --- | ---: |\n| a | 1 |\n"


def whole_report(made: list[Sample], ablated: list[str], notes: list[str]) -> str:
    versions = {WGPY: "1.0", REFERENCE: "newest"}
    return Report({"kernel": "Linux"}, versions, ablated, Results(made), notes).markdown()


def test_the_report_shows_figures_ratios_and_targets() -> None:
    text = whole_report(tcp(6.0, 2.0), [], [])
    row = "6.00 (6.00..6.00) | 2.00 (2.00..2.00) | 3.00x |"
    assert f"| TCP over IPv4, one stream | Gbit/s | {row}" in text
    assert "| TCP over IPv4, one stream | >= 2.00x | 3.00x | yes |" in text
    assert "- kernel: Linux\n- wgpy: 1.0\n- wireguard-go: newest\n" in text


def test_what_was_sent_again_stands_beside_throughput_and_is_no_multiple() -> None:
    made = [Sample(1, WGPY, "forward4", {"gbit_s": 6.0, "retransmits": 28.0})]
    made += [Sample(1, REFERENCE, "forward4", {"gbit_s": 2.0, "retransmits": 14.0})]
    assert (
        "| forwarded TCP over IPv4, one stream | Gbit/s"
        " | 6.00 (6.00..6.00) | 2.00 (2.00..2.00) | 3.00x |\n"
        "| segments it sent again | 1 | 28 (28..28) | 14 (14..14) | - |\n"
    ) in whole_report(made, [], [])


def test_the_report_leaves_out_what_was_not_asked_for() -> None:
    text = whole_report(tcp(6.0, 2.0), [], [])
    assert "UDP of 64 bytes carried" not in text
    assert "switched off" not in text
    assert "Not measured" not in text


def test_the_summary_has_medians_alone_and_a_ratio_to_each_peer() -> None:
    made = forwarded(*[(6.0, 14.0, 2.0, 4.0)] * 4)
    made += [Sample(1, WGPY, "tcp4", {"cpu_a_s_per_gb": 0.9, "cpu_b_s_per_gb": 1.0})]
    made += [Sample(1, REFERENCE, "tcp4", {"cpu_a_s_per_gb": 1.8, "cpu_b_s_per_gb": 4.0})]
    text = summary(Results(made), [REFERENCE, report.TAILSCALE])
    lines = text.splitlines()
    assert lines[0] == "|  | wgpy | wireguard-go | tailscale | of wireguard-go | of tailscale |"
    assert "| 6.00, 14 | 2.00, - | 4.00, - | 3.00 | 1.50 |" in lines[2]
    assert "| 0.90, 1.00 | 1.80, 4.00 | - | 0.50, 0.25 | - |" in lines[-1]
    assert len(lines) == 2 + 5  # nothing of what was not measured
    headlines = summary(Results(made), [REFERENCE, report.TAILSCALE], HEADLINES).splitlines()
    assert headlines == [*lines[:2], lines[-1]]


def test_every_line_of_the_summary_belongs_to_a_case() -> None:
    assert {line.case for line in LINES} == {case.name for case in cases.CASES}


def shown(page: str, lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """The page's rows with the titles of lines, by title and column, in their order."""
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in (ROOT / page).read_text().splitlines()
        if row.startswith("|")
    ]
    titles = {line.title for line in lines}
    header = next(row for row in rows if row[1] == WGPY)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows if row[0] in titles}


def test_the_pages_show_the_lines_of_the_summary() -> None:
    assert list(shown("docs/speed.md", LINES)) == [line.title for line in LINES]
    assert list(shown("README.md", LINES)) == [line.title for line in HEADLINES]


def test_the_readme_and_the_page_on_speed_show_the_same_figures() -> None:
    there = shown("docs/speed.md", HEADLINES)
    for title, row in shown("README.md", HEADLINES).items():
        assert row.items() <= there[title].items()


def test_the_readme_shows_medians_of_the_report_and_their_ratios() -> None:
    reported = re.findall(r"\d+(?:\.\d+)?", (ROOT / "docs" / "bench.md").read_text())
    rounded = {report.number(float(text)) for text in reported}
    for row in shown("README.md", HEADLINES).values():
        ours, theirs = (row[name].split(", ") for name in (WGPY, REFERENCE))
        assert rounded.issuperset(ours + theirs)
        ratios = [float(ratio) for ratio in row[f"of {REFERENCE}"].split(", ")]
        quotients = [float(mine) / float(other) for mine, other in zip(ours, theirs, strict=True)]
        assert ratios == pytest.approx(quotients, rel=0.02)


def test_the_report_tells_what_failed() -> None:
    assert "Not measured:\n\n- wgpy tcp4: it broke\n" in whole_report(
        [], [], ["wgpy tcp4: it broke"]
    )


def test_every_table_of_the_report_has_rows_of_one_width() -> None:
    made = tcp(6.0, 2.0) + samples(ALL_OFF, "tcp4", "gbit_s", 1.2)
    made += samples(WGPY, "tcp4", "cpu_a_s_per_gb", 0.8)
    for block in whole_report(made, [ALL_OFF], ["x"]).split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_an_ablation_is_a_part_of_all_on() -> None:
    made = tcp(6.0, 2.0) + samples(ALL_OFF, "tcp4", "gbit_s", 1.5)
    assert f"| {ALL_OFF} | 1.50 (1.50..1.50) | 0.25x |" in whole_report(made, [ALL_OFF], [])


# ---- tools' output ----


ONE_WAY = {
    "sum_sent": {"bytes": 3.1e9, "seconds": 2.0, "retransmits": 14},
    "sum_received": {"bytes": 3e9, "seconds": 2.1},
}
OTHER_WAY = {
    "sum_sent_bidir_reverse": {"bytes": 1.1e9, "seconds": 2.0, "retransmits": 5},
    "sum_received_bidir_reverse": {"bytes": 1e9, "seconds": 2.1},
}


def test_iperf3_tells_what_arrived_and_what_was_sent_again() -> None:
    assert cases.Carried.read(json.dumps({"end": ONE_WAY})) == cases.Carried(3e9, 2.1, 14)


def test_both_directions_of_iperf3_are_added() -> None:
    report = json.dumps({"end": ONE_WAY | OTHER_WAY})
    assert cases.Carried.read(report) == cases.Carried(4e9, 2.1, 19)


def test_an_error_of_iperf3_is_one() -> None:
    with pytest.raises(LabError, match="unable to connect"):
        cases.Carried.read(json.dumps({"end": {}, "error": "unable to connect"}))


def test_daemons_of_one_end_are_added_but_for_their_memory() -> None:
    usages = [lab.Usage(cpu_s=1.0, switches=10, resident_mb=50.0), lab.Usage(2.0, 5, 52.0)]
    assert cases.total(usages) == lab.Usage(3.0, 15, 52.0)


def test_super_packets_count_as_the_payload_that_they_carry() -> None:
    single = cases.payload(Counters(0, 0), Counters(3, 3 * 92), cases.UDP_HEADERS)
    merged = cases.payload(Counters(0, 0), Counters(1, 28 + 3 * 64), cases.UDP_HEADERS)
    assert single == merged == 3 * 64


def test_ping_times_are_those_of_answers() -> None:
    output = (
        "64 bytes from 10.9.0.2: icmp_seq=1 ttl=64 time=0.112 ms\n"
        "64 bytes from 10.9.0.2: icmp_seq=2 ttl=64 time=12.5 ms\n"
        "\n--- 10.9.0.2 ping statistics ---\n"
        "3 packets transmitted, 2 received, 33% packet loss, time 10ms\n"
    )
    assert cases.ping_times_us(output) == pytest.approx([112.0, 12500.0])


@pytest.mark.parametrize(
    ("csv", "count"),
    [("1234,,raw_syscalls:sys_enter,1000,100.00,,\n", 1234), ("\n<not counted>,,x,0,100.00,,", 0)],
)
def test_perf_counts_are_read(csv: str, count: int) -> None:
    assert cases.perf_counts(csv) == count


def test_a_line_of_the_stages_program_is_read() -> None:
    assert stages.parse("seal 45 510.10 512.30") == stages.Stage("seal", 510.1, 512.3)


def test_callgrind_that_counted_nothing_is_an_error() -> None:
    assert stages.collected("==1== Collected : 4052860\n") == 4052860
    with pytest.raises(ValueError, match="nothing"):
        stages.collected("==1== Collected : 0\n")


def test_the_stages_program_has_the_stages_that_can_be_asked_for() -> None:
    source = (ROOT / "bench/stages.c").read_text()
    assert [name for name in stages.STAGES if f"RUN run_{name}(void)" not in source] == []


def test_a_number_of_a_process_status_is_read() -> None:
    status = "Name:\tx\nVmRSS:\t    2048 kB\nvoluntary_ctxt_switches:\t7\n"
    assert lab.status_number(status, "VmRSS") == 2048


# ---- what is measured ----


def test_interface_names_fit_the_kernel_whatever_the_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 2**22)
    hosts = (*topology.HOSTS, *topology.NESTED)
    assert all(len(host.interface) <= 15 for host in hosts)


def test_idle_peers_have_addresses_of_their_own() -> None:
    sections = topology.idle_peers(999).split("[Peer]")[1:]
    assert len({section.split("AllowedIPs = ")[1] for section in sections}) == 999


def test_settings_name_the_peer_by_its_outer_address() -> None:
    settings = topology.settings_of("PRIVATE", topology.HOSTS[1], "PUBLIC")
    assert "Endpoint = 192.0.2.2:51820\nAllowedIPs = 10.9.0.2/32, fd77::2/128\n" in settings


def test_a_nested_tunnel_goes_through_the_other_and_is_as_much_narrower() -> None:
    settings = topology.settings_of("PRIVATE", topology.NESTED[1], "PUBLIC")
    assert "ListenPort = 51821\n" in settings
    assert "Endpoint = 10.9.0.2:51821\nAllowedIPs = 10.9.1.2/32, fd77:1::2/128\n" in settings
    assert [host.mtu for host in topology.NESTED] == [1340, 1340]


def test_ends_of_tunnels_have_addresses_and_sockets_of_their_own() -> None:
    hosts = (*topology.HOSTS, *topology.NESTED)
    for each in ("inner4", "inner6", "outer", "interface", "socket"):
        assert len({getattr(host, each) for host in hosts}) == len(hosts)


def test_lans_of_two_gateways_are_apart() -> None:
    left, right = (ways.LanHost("lan", host) for host in topology.HOSTS)
    assert left.networks == ("10.81.0.0/24", "fd81::/64")
    assert right.addresses == ("10.82.0.2", "fd82::2")


@pytest.mark.parametrize(
    ("name", "is_gone"),
    [("a", True), ("b", True), ("a-lan", True), ("other", True), ("A", False), ("", False)],
)
def test_namespaces_of_runs_that_are_no_more_are_known(
    name: str, is_gone: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    removed: list[Sequence[str]] = []
    (tmp_path / f"{topology.PREFIX}-{2**22 + 1}-{name}").touch()  # no pid is so large
    monkeypatch.setattr(topology, "NAMESPACES", tmp_path)
    monkeypatch.setattr(topology, "run", removed.append)
    topology.remove_stale()
    assert len(removed) == is_gone


def test_all_cases_are_measured_unless_some_are_named() -> None:
    assert parse([]).only == tuple(case.name for case in cases.CASES)
    assert parse(["--only", "tcp4,udp64"]).only == ("tcp4", "udp64")


@pytest.mark.parametrize(
    "wrong", [["--only", "tcp5"], ["--rounds", "0"], ["--seconds", "0"], ["x"]]
)
def test_a_wrong_call_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(wrong)


def test_a_given_peer_is_a_name_and_a_command_that_exists() -> None:
    peer = given_peer("shell=/bin/sh -c true")
    assert (peer.name, peer.command) == ("shell", ("/bin/sh", "-c", "true"))
    with pytest.raises(LabError, match="no such command"):
        given_peer("ghost=/nowhere/ghost -f")


def test_each_offload_is_switched_off_by_itself_and_with_all_others() -> None:
    made = {each.name: each.environment for each in ablations(Implementation(WGPY, ("w",), "1"))}
    assert made["wgpy, WGPY_UDP_GSO=0"] == {"WGPY_UDP_GSO": "0"}
    assert set(made[ALL_OFF].values()) == {"0"}
    assert len(made[ALL_OFF]) == len([name for name in made if name.endswith("=0")])


def test_every_figure_of_the_table_belongs_to_a_case() -> None:
    assert {row.case for row in report.ROWS} == {case.name for case in cases.CASES}


# ---- bursts ----


def test_the_packet_that_is_sealed_is_whole_and_its_checksums_are_right() -> None:
    packet = bursts.inner_packet(bytes([10, 9, 9, 1]), bytes([10, 9, 9, 2]))
    assert len(packet) == topology.MTU - topology.MTU % 16 == 1408
    ip, udp = packet[:20], packet[20:1400]
    assert int.from_bytes(ip[2:4], "big") == 1400
    pseudo = ip[12:20] + bytes([0, ip[9]]) + udp[4:6]
    for summed in (ip, pseudo + udp):
        words = sum(int.from_bytes(summed[i : i + 2], "big") for i in range(0, len(summed), 2))
        assert words % 0xFFFF == 0


def test_no_message_is_sealed_with_the_counter_of_another() -> None:
    keys = TransportKeys(bytes(32), bytes(32), 1, 7, initiator=True)
    messages = list(itertools.islice(bursts.sealed(keys, b"packet"), 3))
    assert [message[:16] for message in messages] == [
        struct.pack("<IIQ", 4, 7, counter) for counter in range(3)
    ]


def test_a_burst_fills_all_its_datagrams_each_way() -> None:
    for length in (flood.PAYLOAD, cores.MESSAGE_LEN):
        assert cores.PACKETS % (bursts.SEND_MAX // length) == 0
