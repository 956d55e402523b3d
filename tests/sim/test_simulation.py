# SPDX-License-Identifier: MIT
"""Seeds of the simulation (storm.py), and that it would notice what it looks for.

WGPY_SIM_SEEDS says how many seeds to run, WGPY_SIM_FIRST which is the first.  More of them run
faster with `PYTHONPATH=tests python -m sim FIRST --count N`.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fake_peer import FakeKeypair, FakePeer
from fake_plane import FakePlane
from sim.__main__ import attempt
from sim.monitor import Broken
from sim.storm import replay, run

import wgpy.peer
from wgpy.dataplane.types import MessageEvent, PeerStats, PendingEvent
from wgpy.exchange import KeyExchange
from wgpy.peer import Peer
from wgpy.protocol.timers import Timers

FIRST = int(os.environ.get("WGPY_SIM_FIRST", "0"))
SEEDS = int(os.environ.get("WGPY_SIM_SEEDS", "150"))
ROOT = Path(__file__).parents[2]
SEEDS_TO_NOTICE = 60  # in which a planted fault must show


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_a_seed_breaks_no_rule(seed: int) -> None:
    try:
        run(seed)
    except Exception as error:
        raise AssertionError(f"replay: {replay(seed)}") from error


def test_a_seed_always_tells_the_same_story() -> None:
    stories: list[list[str]] = [[], []]
    for story in stories:
        run(FIRST + 7, story.append)
    assert len(stories[0]) > 100
    assert stories[0] == stories[1]


# ---- faults planted ----


def not_silent(self: Timers, traffic: PeerStats) -> int | None:
    return None


def nothing(*arguments: object) -> None:
    return None


seal = FakePlane._seal


def seal_and_forget(self: FakePlane, peer: FakePeer, keypair: FakeKeypair, payload: bytes) -> None:
    seal(self, peer, keypair, payload)
    keypair.send_counter -= 1


take_events = FakePlane.take_events


def take_in_silence(self: FakePlane, limit: int = 64) -> list[PendingEvent | MessageEvent]:
    events = take_events(self, limit)
    self.readable = False
    return events


FAULTS: dict[str, tuple[object, str, object]] = {
    "a nonce is never used twice": (FakePlane, "_seal", seal_and_forget),
    "no payload is accepted twice": (FakeKeypair, "is_new", lambda self, counter: True),
    "a key older than 180 s never accepts": (FakePlane, "_age_s", lambda self, keypair: 0),
    "passes within 30 s": (Timers, "_silence_deadline", not_silent),
    "after 5 s at the earliest": (Peer, "_set_gate", nothing),
    "never too soon after another": (wgpy.peer, "OWN_INITIATION_INTERVAL_NS", 0),
    "no timer of": (Timers, "handshake_complete", nothing),
    "keeps no keys": (Timers, "session_derived", nothing),
    "an initiation is answered once": (KeyExchange, "refuse_replay", nothing),
    "a peer has three sessions": (FakePlane, "_forget", nothing),
    "an event that waits is announced": (FakePlane, "take_events", take_in_silence),
}


def run_until_broken() -> None:
    for seed in range(SEEDS_TO_NOTICE):
        run(seed)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_planted_fault_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[rule])
    with pytest.raises(Broken, match=rule):
        run_until_broken()


def test_a_seed_that_fails_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as planted:
        planted.setattr(*FAULTS["a nonce is never used twice"])
        with pytest.raises(AssertionError) as caught:
            test_a_seed_breaks_no_rule(FIRST)
        assert isinstance(caught.value.__cause__, Broken)
        assert str(caught.value) == f"replay: {replay(FIRST)}"
        assert str(attempt(FIRST)).endswith(str(caught.value))
    story: list[str] = []
    outcome = run(FIRST, story.append)
    words = shlex.split(replay(FIRST).replace(" python ", f" {shlex.quote(sys.executable)} "))
    told = subprocess.run(["env", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [*story, str(outcome)]
