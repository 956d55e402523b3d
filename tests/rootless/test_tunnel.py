# SPDX-License-Identifier: MIT
"""Tunnels of a program without privileges: two in one process."""

import pytest
from rootless.lab import as_nobody, result, tunnel_scenario

from wgpy.testing import LEFT, RIGHT


@pytest.mark.parametrize("is_root", [False, True])
def test_two_tunnels_in_one_process_exchange_streams_and_datagrams(is_root: bool) -> None:
    exchange = tunnel_scenario("exchange")
    assert result(exchange if is_root else as_nobody(*exchange)) == {
        "echoed": [True, True, True],
        "datagram": "datagram",
        "sender": RIGHT.v4,
        "sessions": [True],
        "up": True,
        "mtu": 1420,
    }


def test_tls_checks_the_certificate_of_who_is_asked_for() -> None:
    assert result(as_nobody(*tunnel_scenario("tls"))) == "hello"


def test_peers_go_while_it_runs_and_that_is_told() -> None:
    told = result(as_nobody(*tunnel_scenario("changes")))
    assert told == {"told": ["HandshakeDone", "PeerRemoved"], "then": "EHOSTUNREACH"}


def test_a_command_inside_sees_only_the_tunnel() -> None:
    told = result(as_nobody(*tunnel_scenario("inside")))
    assert told["lines"] == ["typed", "lo", "wg0", "pinged", f"nameserver {LEFT.v4}", "alone", ""]
    assert (told["errors"], told["status"]) == (None, 3)


def test_names_are_looked_up_at_the_server_in_the_tunnel() -> None:
    told = result(as_nobody(*tunnel_scenario("names")))
    assert told == {"program": ["10.9.0.7", 5432], "command": "10.9.0.7"}


def test_who_does_not_answer_in_time_is_given_up() -> None:
    told = result(as_nobody(*tunnel_scenario("timed_out")))
    assert told == {"failure": "ETIMEDOUT", "left": 0, "then": "hello"}


def test_what_is_asked_of_a_tunnel_that_has_ended_says_so() -> None:
    assert result(as_nobody(*tunnel_scenario("asked_too_late"))) == ["ConnectionResetError"] * 3


def test_a_deleted_interface_ends_tunnel_and_commands() -> None:
    told = result(as_nobody(*tunnel_scenario("dying_interface")))
    assert told == {
        "status": -9,
        "socket": "ConnectionResetError",
        "said": "the tunnel ends: interface deleted\n",
    }


def test_tunnels_that_come_and_go_leave_nothing() -> None:
    told = result(as_nobody(*tunnel_scenario("many", "5")))
    assert told["after"] == told["before"]
    assert told["children"] == []


def test_a_configuration_that_cannot_be_applied_leaves_nothing() -> None:
    told = result(as_nobody(*tunnel_scenario("refused_change")))
    assert told == {"errno": "EADDRINUSE", "children": []}


def test_an_endpoint_that_is_a_name_is_looked_up() -> None:
    assert result(as_nobody(*tunnel_scenario("named_endpoint"))) is True
