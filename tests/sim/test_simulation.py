"""Seeds of the simulation (storm.py), and that it would notice what it looks for.

WGPY_SIM_SEEDS says how many seeds to run, WGPY_SIM_FIRST which is the first.  More of them run
faster with `PYTHONPATH=tests python -m sim FIRST --count N`.
"""

import os
from collections.abc import Callable

import pytest
from fakes import FakeKeypair, FakeLoop, FakePlane
from sim.storm import run
from sim.world import Broken, HostClock, Monitor

from wgpy.dataplane.plane import PeerStats
from wgpy.peer import Peer
from wgpy.timers import Timers

FIRST = int(os.environ.get("WGPY_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("WGPY_SIM_SEEDS", "150"))
SEEDS_TO_NOTICE = 60  # in which a planted fault must show


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_a_seed_breaks_no_rule(seed: int) -> None:
    try:
        run(seed)
    except Exception as error:
        error.add_note(f"replay: PYTHONPATH=tests python -m sim {seed}")
        raise


def test_a_seed_always_tells_the_same_story() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        run(FIRST + 7, story.append)
    assert len(stories[0]) > 100
    assert stories[0] == stories[1]


# ---- faults planted ------------------------------------------------------------------------------


def not_silent(self: Timers, traffic: PeerStats) -> int | None:
    return None


def nothing(*arguments: object) -> None:
    return None


FAULTS: dict[str, tuple[type, str, Callable[..., object]]] = {
    "no payload is accepted twice": (FakeKeypair, "is_new", lambda self, counter: True),
    "a key older than 180 s never accepts": (FakePlane, "_age_s", lambda self, keypair: 0),
    "passes within 30 s": (Timers, "_silence_deadline", not_silent),
    "after 5 s at the earliest": (Peer, "_set_gate", nothing),
    "keeps no keys": (Timers, "session_derived", nothing),
    "an initiation is answered once": (Peer, "_refuse_replay", nothing),
    "a peer has three sessions": (FakePlane, "_forget", nothing),
}


def run_until_broken() -> None:
    for seed in range(SEEDS_TO_NOTICE):
        run(seed)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[rule])
    with pytest.raises(Broken, match=rule):
        run_until_broken()


def test_a_nonce_that_is_used_twice_is_noticed() -> None:
    monitor = Monitor(FakeLoop())
    monitor.seal(b"key", 1)
    monitor.seal(b"key", 2)
    monitor.seal(b"other key", 1)
    with pytest.raises(Broken, match="nonce"):
        monitor.seal(b"key", 1)


def test_a_timer_that_runs_on_is_noticed() -> None:
    clock = HostClock(FakeLoop())
    handle = clock.call_at(2**63, lambda: None)
    assert clock.waiting == 1
    handle.cancel()
    assert clock.waiting == 0
