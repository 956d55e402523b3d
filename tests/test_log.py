# SPDX-License-Identifier: MIT
"""What happens, told at info: not more of it than a log can bear."""

import logging

import pytest
from fake_hosts import World
from fakes import S

from wgpy.log import LimitedLog
from wgpy.notes import LOG_BURST, LOG_PERIOD_NS

LOGGER = logging.getLogger("wgpy.test_log")


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wgpy")


def test_a_flood_is_a_few_lines_and_then_one_a_period(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, 3, 10)
    for now in range(100, 200):
        log.info("kind", now, "line at %d", now)
    assert caplog.messages == [
        *(f"line at {now}" for now in (100, 101, 102)),
        "line at 110 (7 more like this before)",
        *(f"line at {now} (9 more like this before)" for now in range(120, 200, 10)),
    ]


def test_a_flood_of_one_kind_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, 1, 10)
    for kind in ("one", "one", "two"):
        log.info(kind, 100, kind)
    assert caplog.messages == ["one", "two"]


def test_after_a_rest_there_may_be_a_few_again(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, 2, 10)
    for now in (100, 101, 1000, 1001, 1002):
        log.info("kind", now, str(now))
    assert caplog.messages == ["100", "101", "1000", "1001"]


def test_what_nobody_wants_to_hear_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, 1, 10)
    caplog.set_level(logging.ERROR, "wgpy")
    log.info("kind", 100, "unheard")
    log.info("kind", 100, "unheard")
    caplog.set_level(logging.INFO, "wgpy")
    log.info("kind", 100, "heard")
    assert caplog.messages == ["heard"]


def test_a_session_is_told_of_once_as_long_as_it_is_renewed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    for _ in range(30):
        world.converse()
        world.loop.advance(20)
    told = [message for message in caplog.messages if "session" in message]
    assert len(told) == 2  # one on each side
    assert any(message.endswith("session established, at 192.0.2.1:51821") for message in told)


def test_a_session_after_a_silence_is_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for _ in range(2):
        world.converse()
        world.loop.advance(300)
    assert len([message for message in caplog.messages if "session" in message]) == 4


def test_a_flood_of_refused_messages_is_told_of_with_its_source_and_not_at_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.b.configure(replace_peers=True)
    for _ in range(100):
        world.a.send(b"ping")
        world.loop.advance(6)
    refused = [message for message in caplog.messages if "refused" in message]
    why = "initiation from an unknown peer, from 192.0.2.1:51821"
    assert refused[0] == f"handshake message refused: {why}"
    assert LOG_BURST < len(refused) <= LOG_BURST + 700 * S // LOG_PERIOD_NS
