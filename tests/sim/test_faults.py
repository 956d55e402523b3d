# SPDX-License-Identifier: MIT
"""Named faults of hosts and networks, each by itself, between two devices in one process."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from core_numbers import (
    MESSAGE_INITIATION,
    MESSAGE_RESPONSE,
    MESSAGE_TRANSPORT,
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    SESSION_CURRENT,
)
from fakes import S
from seen import refusals
from sim.network import Weather, watched
from sim.world import Host, World

from wgpy.config import PeerChange

ROUND_TRIP_S = 0.05  # and a little more than one in good weather
NOTHING_PASSES = Weather(loss=1.0)


class Pair(World):
    """A server and a client."""

    @property
    def a(self) -> Host:
        return self.server

    @property
    def b(self) -> Host:
        return self.clients[0]

    def passes(self, sender: Host, receiver: Host, within_s: float = ROUND_TRIP_S) -> bool:
        """Send one payload and see whether it arrives."""
        number = sender.send(receiver)
        self.advance(within_s)
        return number in self.monitor.delivered

    def converse(self) -> None:
        assert self.passes(self.b, self.a, 2 * ROUND_TRIP_S)
        assert self.passes(self.a, self.b)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def either(pair: Pair, name: str) -> tuple[Host, Host]:
    """The host of that name and the other."""
    return (pair.a, pair.b) if name == "A" else (pair.b, pair.a)


each_side = pytest.mark.parametrize("name", ["A", "B"])
V4 = [bytes([10, 2, 0, number]) for number in (2, 3)]
V6 = [bytes([0xFD, 2, *bytes(13), number]) for number in (2, 3)]


# ---- restart ----


def restart(host: Host) -> None:
    host.crash()
    host.boot()
    host.sync()


@each_side
def test_a_host_that_restarted_speaks_at_once(pair: Pair, name: str) -> None:
    pair.converse()
    pair.advance(1)
    host, other = either(pair, name)
    restart(host)
    assert pair.passes(host, other, 2 * ROUND_TRIP_S)
    assert pair.passes(other, host)


@each_side
def test_a_host_that_restarted_is_found_again_after_15_s(pair: Pair, name: str) -> None:
    pair.converse()
    pair.advance(1)
    host, other = either(pair, name)
    restart(host)
    assert not pair.passes(other, host, 15.5)
    assert pair.passes(other, host)


def test_both_hosts_may_restart(pair: Pair) -> None:
    pair.converse()
    pair.advance(1)
    restart(pair.a)
    restart(pair.b)
    pair.converse()


# ---- a host starts anew, its peer remembers ----

QUICK = Weather(delay_s=0.001)  # answers come sooner than another initiation is accepted
POSTPONED_S = 0.05  # an initiation and a round trip at most, and nothing near a retry


def flap(host: Host) -> None:
    host.link_down()
    host.link_up()


def flap_with_the_clock_set_back(host: Host) -> None:
    host.step_clock(-3600 * S)
    flap(host)


def remove_the_peer_and_add_it_again(host: Host) -> None:
    host.configure(*(PeerChange(other.public_key, remove=True) for other in host.others))
    host.sync()


def become_somebody_else_and_come_back(host: Host) -> None:
    ours = host.private_key
    for private_key in (b"\x99" * 32, ours):
        host.become(private_key)
        host.configure()


@each_side
@pytest.mark.parametrize(
    "start_anew",
    [
        flap,
        flap_with_the_clock_set_back,
        remove_the_peer_and_add_it_again,
        become_somebody_else_and_come_back,
    ],
)
@pytest.mark.parametrize("interval_s", [0, 0.001, 0.007, 0.017, 0.03])
def test_starting_anew_costs_milliseconds_however_often(
    pair: Pair, name: str, start_anew: Callable[[Host], None], interval_s: float
) -> None:
    pair.network.weather = QUICK
    host, other = either(pair, name)
    for _ in range(20):
        start_anew(host)
        host.send(other)
        pair.advance(interval_s)
    assert pair.passes(host, other, POSTPONED_S)
    assert refusals(other.device) == {}


def test_a_port_that_changes_in_the_middle_of_a_handshake_costs_milliseconds(pair: Pair) -> None:
    pair.network.weather = QUICK
    for port in range(2000, 2020):
        number = pair.b.send(pair.a)
        pair.b.listen(port)  # before the answer has come
        pair.advance(0.001)
    pair.advance(POSTPONED_S)
    assert number in pair.monitor.delivered


def test_a_responder_whose_port_changes_before_the_confirmation_starts_by_itself(
    pair: Pair,
) -> None:
    pair.network.weather = QUICK
    pair.b.send(pair.a)
    pair.advance(0.0015)  # the response is on its way
    number = pair.a.send(pair.b)
    pair.a.listen(2000)
    pair.advance(POSTPONED_S)
    assert number in pair.monitor.delivered


def test_a_port_that_changes_leaves_a_session_as_it_is(pair: Pair) -> None:
    pair.converse()
    with watched(pair.network) as log:
        for port in range(2000, 2020):
            pair.b.listen(port)
            assert pair.passes(pair.b, pair.a)
            assert pair.passes(pair.a, pair.b)
    assert {datagram.kind for datagram in log} == {MESSAGE_TRANSPORT}


# ---- clocks ----


@each_side
@pytest.mark.parametrize("step_s", [-10_000_000, -3600, -0.001, 3600])
def test_a_clock_that_is_stepped_does_not_stop_handshakes(
    pair: Pair, name: str, step_s: float
) -> None:
    host, other = either(pair, name)
    assert pair.passes(host, other, 2 * ROUND_TRIP_S)
    host.step_clock(round(step_s * S))
    for _ in range(5):
        pair.advance(200)
        assert pair.passes(host, other, 2 * ROUND_TRIP_S)


def test_a_clock_that_is_set_back_and_forth_does_not_stop_handshakes(pair: Pair) -> None:
    for step_s in (0, -50, 100, -70, 20, -3600):
        pair.b.step_clock(step_s * S)
        assert pair.passes(pair.b, pair.a, 2 * ROUND_TRIP_S)
        pair.advance(200)


def test_clocks_need_not_agree(pair: Pair) -> None:
    pair.a.step_clock(-(10**9) * S)
    pair.converse()
    pair.advance(200)
    assert pair.passes(pair.a, pair.b, 2 * ROUND_TRIP_S)


# ---- suspend ----


@each_side
@pytest.mark.parametrize("asleep_s", [5, 100, 170, 200, 600, 100_000])
def test_after_sleep_payload_passes_at_once(pair: Pair, name: str, asleep_s: float) -> None:
    pair.converse()
    host, other = either(pair, name)
    host.fall_asleep()
    pair.advance(asleep_s)
    host.wake_up()
    assert pair.passes(host, other, 2 * ROUND_TRIP_S)
    assert pair.passes(other, host)


def test_a_session_does_not_outlive_its_time_in_sleep(pair: Pair) -> None:
    pair.converse()
    pair.b.fall_asleep()
    pair.advance(181)
    pair.b.wake_up()
    with watched(pair.network) as log:
        pair.b.send(pair.a)
        pair.advance(ROUND_TRIP_S)
    assert log[0].kind == MESSAGE_INITIATION


def test_keys_are_zeroed_on_waking_up_after_540_s(pair: Pair) -> None:
    pair.converse()
    pair.b.fall_asleep()
    pair.advance(3600)
    pair.b.wake_up()
    assert pair.b.plane.indexes == {}


def test_a_sleeper_is_found_again_when_it_wakes_up(pair: Pair) -> None:
    pair.converse()
    pair.b.fall_asleep()
    for _ in range(60):
        pair.a.send(pair.b)
        pair.advance(5)
    pair.b.wake_up()
    pair.a.send(pair.b)
    pair.advance(6)
    assert pair.passes(pair.a, pair.b)


# ---- roaming ----


def test_the_endpoint_family_changes_at_once_on_a_live_session(pair: Pair) -> None:
    pair.converse()
    with watched(pair.network) as log:
        for address in (V6[0], V4[0], V6[1], V4[1]):
            pair.b.move(address)
            assert pair.passes(pair.b, pair.a)
            assert pair.passes(pair.a, pair.b)
            assert log[-1].to == pair.b.endpoint
    assert {datagram.kind for datagram in log} == {MESSAGE_TRANSPORT}


def test_a_configured_endpoint_of_the_other_family_is_used_at_once(pair: Pair) -> None:
    pair.converse()
    for address in (V6[0], V4[0]):
        pair.b.move(address)
        pair.a.sync()
        assert pair.passes(pair.a, pair.b)


def test_a_replay_from_elsewhere_does_not_roam(pair: Pair) -> None:
    with watched(pair.network) as log:
        pair.converse()
    pair.advance(1)
    seen, thief = list(log), replace(pair.b.endpoint, address=V4[0])
    for datagram in seen:
        pair.network.carry(replace(datagram, source=thief))
    pair.advance(1)
    assert pair.a.device.snapshot().peers[0].endpoint == pair.b.endpoint


# ---- races and late messages ----


def test_both_may_initiate_at_once_and_one_direction_fail(pair: Pair) -> None:
    for way in ((1, 2), (2, 1)):
        pair.a.send(pair.b)
        pair.b.send(pair.a)
        pair.advance(0.03)  # the responses are on their way
        pair.network.blocked.add(way)
        pair.advance(1)
        pair.network.blocked.clear()
        pair.advance(30)
        pair.converse()
        pair.advance(600)


def test_a_response_that_comes_after_the_next_attempt_is_refused(pair: Pair) -> None:
    pair.network.weather = Weather(delay_s=3)
    pair.b.send(pair.a)
    pair.advance(5.5)
    assert pair.b.plane.stats(0).sessions == 0
    pair.advance(4)
    assert refusals(pair.b.device) == {}  # its index is gone, so C refuses it
    pair.network.weather = Weather()
    pair.advance(20)
    pair.converse()


def test_payload_under_the_previous_key_may_be_late(pair: Pair) -> None:
    pair.converse()
    pair.advance(121)
    pair.network.weather = Weather(delay_s=2)
    late = pair.b.send(pair.a)  # and this asks for a new session
    pair.network.weather = Weather()
    pair.advance(1)
    assert pair.a.plane.stats(0).sessions & SESSION_CURRENT
    assert late not in pair.monitor.delivered
    pair.advance(1.1)
    assert late in pair.monitor.delivered


def test_payload_that_is_later_than_180_s_is_refused(pair: Pair) -> None:
    pair.converse()
    pair.network.weather = Weather(delay_s=185)
    late = pair.b.send(pair.a)
    pair.network.weather = Weather()
    pair.advance(200)
    assert late not in pair.monitor.delivered


# ---- nonces ----


@each_side
def test_too_many_messages_bring_a_new_session(pair: Pair, name: str) -> None:
    pair.converse()
    pair.advance(6)
    host, other = either(pair, name)
    host.plane.jump_counters(REKEY_AFTER_MESSAGES)
    with watched(pair.network) as log:
        assert pair.passes(host, other)
        pair.advance(1)
    assert [d.kind for d in log[:3]] == [MESSAGE_TRANSPORT, MESSAGE_INITIATION, MESSAGE_RESPONSE]


@each_side
def test_a_session_whose_nonces_are_used_up_sends_nothing_more(pair: Pair, name: str) -> None:
    pair.converse()
    pair.advance(6)
    host, other = either(pair, name)
    host.plane.jump_counters(REJECT_AFTER_MESSAGES)
    with watched(pair.network) as log:
        assert pair.passes(host, other, 2 * ROUND_TRIP_S)
    assert log[0].kind == MESSAGE_INITIATION


# ---- rest ----


@pytest.mark.parametrize("weather", [Weather(), NOTHING_PASSES], ids=["answered", "unanswered"])
def test_after_payload_everything_comes_to_rest(pair: Pair, weather: Weather) -> None:
    pair.network.weather = weather
    pair.a.send(pair.b)
    pair.b.send(pair.a)
    pair.advance(90 + 10 + 540)
    sent = pair.network.sent
    for host in (pair.a, pair.b):
        assert host.clock.waiting == 0
        assert host.plane.indexes == {}
    pair.advance(100_000)
    assert pair.network.sent == sent
