# SPDX-License-Identifier: MIT
"""What sessions do by themselves as they age.  No clock is advanced: kernels have none to set."""

import itertools
from collections.abc import Sequence

import pytest
from interop.ageing import Ageing
from interop.capture import INITIATION, RESPONSE, Datagram
from interop.traffic import ping

pytestmark = pytest.mark.slow

REKEY_AFTER_S = 120
SLACK_S = 5
REKEY_TIMEOUT_S = 5
JITTER_S = 1  # what is added to it, 0.334 s at most, and what a busy machine takes
KEEPALIVE_S = 10


def ages_s(started: Sequence[Datagram], initiator: str) -> list[float]:
    """How old sessions were when they were renewed.

    Not counted: what wireguard-go repeats although it was answered.  It plans to only once it has
    sent the initiation, and by then the answer may have been there to call it off.
    """
    ages = [(after.time_ns - one.time_ns) / 1e9 for one, after in itertools.pairwise(started)]
    if initiator != "wireguard-go":
        return ages
    return [age for age in ages if not REKEY_TIMEOUT_S <= age < REKEY_TIMEOUT_S + JITTER_S]


@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_a_session_in_use_is_renewed_by_its_initiator(ageing: Ageing, initiator: str) -> None:
    pair = ageing.busy(initiator)
    ageing.wait()
    started = [one for one in ageing.seen(pair) if one.kind == INITIATION]
    assert {one.source for one in started} == {(pair[0].outer(4), pair[0].port)}
    ages = ages_s(started, pair[0].kind)
    assert ages
    for age in ages:
        assert REKEY_AFTER_S <= age < REKEY_AFTER_S + SLACK_S
    assert ageing.ticker(initiator).missing() == []


@pytest.mark.parametrize("first_to_talk", ["wgpy", "peer"])
def test_a_session_expires_in_silence_and_traffic_makes_another(
    ageing: Ageing, first_to_talk: str
) -> None:
    pair = first, second = ageing.silent(first_to_talk)
    ageing.wait()
    before = ageing.seen(pair)
    assert before[-1].time_ns - before[0].time_ns < (KEEPALIVE_S + SLACK_S) * 10**9
    ping(first.host, second.inner4)
    after = ageing.seen(pair)[len(before) :]
    assert [one.kind for one in after[:2]] == [INITIATION, RESPONSE]
    assert [one.arrived for one in after[:2]] == [first_to_talk == "wgpy", first_to_talk == "peer"]
