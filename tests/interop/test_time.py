"""What sessions do by themselves as they age.  No clock is advanced: kernels have none to set."""

import itertools

import pytest
from interop.ageing import Ageing
from interop.capture import INITIATION, RESPONSE
from interop.traffic import ping

pytestmark = pytest.mark.slow

REKEY_AFTER_S = 120
SLACK_S = 5
KEEPALIVE_S = 10


@pytest.mark.parametrize("initiator", ["wgpy", "peer"])
def test_a_session_in_use_is_renewed_by_its_initiator(ageing: Ageing, initiator: str) -> None:
    pair = ageing.busy(initiator)
    ageing.wait()
    started = [one for one in ageing.seen(pair) if one.kind == INITIATION]
    assert {one.source for one in started} == {(pair[0].outer(4), pair[0].port)}
    assert len(started) >= 2
    for one, following in itertools.pairwise(started):
        age_s = (following.time_ns - one.time_ns) / 1e9
        assert REKEY_AFTER_S <= age_s < REKEY_AFTER_S + SLACK_S
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
