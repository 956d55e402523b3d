# SPDX-License-Identifier: MIT
"""Endpoints that are names: what is looked up and tried, and when."""

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from fakes import FakeLoop, S
from hypothesis import given
from hypothesis import strategies as st

from wgpy.config import DeviceChange, Endpoint, PeerChange
from wgpy.endpoints import (
    CANDIDATES_MAX,
    LOOKUPS_MAX,
    RETRY_S,
    SILENCE_S,
    TURN_S,
    Ask,
    EndpointFinder,
    Search,
    literal,
    look_up,
)
from wgpy.protocol.handshake import Handshake
from wgpy.wgquick import Host

IDLE, INITIATED, GIVEN_UP = Handshake.IDLE, Handshake.INITIATED, Handshake.GIVEN_UP
RESPONDED, ESTABLISHED = Handshake.RESPONDED, Handshake.ESTABLISHED
START = 3600 * S


def v4(number: int) -> Endpoint:
    return Endpoint(bytes([192, 0, 2, number]), 51820)


def v6(number: int) -> Endpoint:
    return Endpoint(bytes([0x20, 1, *bytes(13), number]), 51820)


def found(*addresses: Endpoint, handshake: Handshake = IDLE) -> Search:
    """A search whose first lookup is done."""
    search = Search()
    assert search.step(handshake, START) is Ask.LOOKUP
    search.found(addresses, handshake, START)
    return search


# ---- what to do ----


def test_a_name_is_looked_up_at_once_and_its_first_address_tried() -> None:
    search = Search()
    assert search.step(IDLE, START) is Ask.LOOKUP
    assert search.step(IDLE, START + 1000 * S) is None
    assert search.found([v6(1), v4(1)], IDLE, START) == v6(1)
    assert search.step(IDLE, START + 1000 * S) is None


def test_the_families_take_turns_while_nobody_answers() -> None:
    search = found(v6(1), v6(2), v4(1), v6(1))
    now, tried = START, []
    for _ in range(4):
        assert search.step(INITIATED, now) is None
        assert search.step(INITIATED, now + TURN_S * S - 1) is None
        now += TURN_S * S
        tried.append(search.step(INITIATED, now))
    assert tried == [v4(1), v6(2), v6(1), v4(1)]


def test_a_peer_that_answers_is_left_where_it_is() -> None:
    search = found(v6(1), v4(1))
    for second in range(0, 1000, 5):
        handshake = INITIATED if second % 120 == 0 else ESTABLISHED
        assert search.step(handshake, START + second * S) is None


def test_an_idle_peer_is_not_looked_up_again() -> None:
    assert found(v4(1)).step(IDLE, START + 10**6 * S) is None


def test_a_silent_peer_is_looked_up_again() -> None:
    search = found(v4(1))
    silent = START + 7 * S
    assert search.step(INITIATED, silent) is None
    assert search.step(GIVEN_UP, silent + SILENCE_S * S - 1) is None
    assert search.step(GIVEN_UP, silent + SILENCE_S * S) is Ask.LOOKUP
    assert search.found([v4(2)], INITIATED, silent + 200 * S) == v4(2)
    assert search.step(INITIATED, silent + (200 + SILENCE_S) * S - 1) is None
    assert search.step(INITIATED, silent + (200 + SILENCE_S) * S) is Ask.LOOKUP


def test_an_answer_ends_the_silence() -> None:
    search = found(v4(1))
    search.step(INITIATED, START)
    search.step(ESTABLISHED, START + 100 * S)
    search.step(INITIATED, START + 101 * S)
    assert search.step(INITIATED, START + SILENCE_S * S) is None


@pytest.mark.parametrize("handshake", [ESTABLISHED, RESPONDED])
def test_who_answered_during_a_lookup_is_left_where_it_is(handshake: Handshake) -> None:
    search = Search()
    search.step(IDLE, START)
    assert search.found([v4(1)], handshake, START) is None
    search.step(INITIATED, START)
    assert search.step(INITIATED, START + SILENCE_S * S) is Ask.LOOKUP
    assert search.found([v4(2)], handshake, START + SILENCE_S * S) is None
    assert search.candidates == (v4(2),)


def test_what_was_known_stays_when_a_lookup_fails() -> None:
    search = found(v4(1), v6(1), handshake=INITIATED)
    now = START + SILENCE_S * S
    assert search.step(INITIATED, now) is Ask.LOOKUP
    assert search.found([], INITIATED, now) is None
    assert search.step(INITIATED, now) == v6(1)


def test_failed_lookups_come_ever_more_rarely() -> None:
    search, now, pauses = Search(), START, []
    assert search.step(IDLE, now) is Ask.LOOKUP
    for _ in range(9):
        search.found([], IDLE, now)
        pause = 0
        while search.step(IDLE, now + pause * S) is None:
            pause += 1
        pauses.append(pause)
        now += pause * S
    assert pauses == [RETRY_S, 4, 8, 16, 32, 64, 128, SILENCE_S, SILENCE_S]


def test_of_many_addresses_some_are_kept() -> None:
    search = found(*map(v4, range(100)), *map(v6, range(100)))
    assert len(search.candidates) == CANDIDATES_MAX
    assert {len(candidate.address) for candidate in search.candidates} == {4, 16}


@given(st.lists(st.tuples(st.sampled_from(Handshake), st.integers(0, 200 * S), st.booleans())))
def test_no_course_of_things_is_asked_twice_or_tries_what_was_not_found(
    course: list[tuple[Handshake, int, bool]],
) -> None:
    search, now, looking = Search(), START, False
    for handshake, pause, works in course:
        now += pause
        step = search.step(handshake, now)
        assert step is not Ask.LOOKUP or not looking
        assert not isinstance(step, Endpoint) or step in search.candidates
        looking = looking or step is Ask.LOOKUP
        if looking and works:
            assert search.found([v4(1), v6(1)], handshake, now) in (None, v4(1))
            looking = False


# ---- addresses and names ----


def test_an_address_needs_no_lookup() -> None:
    assert literal(Host("192.0.2.1", 51820)) == v4(1)
    assert literal(Host("2001::1", 51820)) == v6(1)
    assert literal(Host("::ffff:192.0.2.1", 51820)) == v4(1)
    index = socket.if_nametoindex("lo")
    zoned = literal(Host("fe80::1%lo", 1))
    assert zoned is not None
    assert zoned.scope_id == index


@pytest.mark.parametrize("host", ["vpn.example", "127.1", "fe80::1%nosuch0", "1.2.3.4.5"])
def test_all_else_is_a_name(host: str) -> None:
    assert literal(Host(host, 1)) is None


def test_the_system_looks_up_names() -> None:
    for host, address in (("127.1", bytes([127, 0, 0, 1])), ("::1", bytes(15) + b"\1")):
        assert asyncio.run(look_up(Host(host, 7))) == (Endpoint(address, 7),)
    index = socket.if_nametoindex("lo")
    (zoned,) = asyncio.run(look_up(Host("fe80::1%lo", 7)))
    assert zoned.scope_id == index
    with pytest.raises(socket.gaierror):  # without a question to anybody
        asyncio.run(look_up(Host("fe80::1%nosuch0", 7)))


# ---- and doing it ----


class World:
    """A device whose peers stand where a test says, and a resolver that answers when it says."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.handshakes: dict[bytes, Handshake] = {}
        self.changes: asyncio.Queue[DeviceChange] = asyncio.Queue()
        self.asked: asyncio.Queue[tuple[str, asyncio.Future[Sequence[Endpoint]]]] = asyncio.Queue()
        self.finder = EndpointFinder(
            self.changes.put_nowait,
            self.handshakes.get,
            self.loop,
            lambda: self.loop.now_ns,
            self.look_up,
        )

    async def look_up(self, host: Host) -> Sequence[Endpoint]:
        answer: asyncio.Future[Sequence[Endpoint]] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((host.host, answer))
        return await answer

    async def question(self, name: str) -> asyncio.Future[Sequence[Endpoint]]:
        asked, answer = await self.asked.get()
        assert asked == name
        return answer

    async def placed(self, public_key: bytes) -> Endpoint | None:
        change = await self.changes.get()
        (peer,) = change.peers
        assert peer == PeerChange(public_key, update_only=True, endpoint=peer.endpoint)
        return peer.endpoint


def key(number: int) -> bytes:
    return bytes([number] * 32)


def run(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        world = World()
        try:
            await test(world)
        finally:
            world.finder.close()
        assert world.loop.deadlines() == []

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_peer_is_placed_where_its_name_leads_and_again_when_it_is_silent() -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("vpn.example", 51820))
        (await world.question("vpn.example")).set_result([v6(1), v4(1)])
        assert await world.placed(key(1)) == v6(1)
        world.handshakes[key(1)] = INITIATED
        world.loop.advance(TURN_S + 5)
        assert await world.placed(key(1)) == v4(1)
        world.loop.advance(SILENCE_S)
        (await world.question("vpn.example")).set_result([v4(2)])
        while (placed := await world.placed(key(1))) != v4(2):
            assert placed in (v4(1), v6(1))

    run(test)


def test_a_slow_lookup_holds_up_nobody() -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("slow.example", 1))
        slow = await world.question("slow.example")
        world.finder.watch(key(2), Host("vpn.example", 1))
        (await world.question("vpn.example")).set_result([v4(2)])
        assert await world.placed(key(2)) == v4(2)
        slow.set_result([v4(1)])
        assert await world.placed(key(1)) == v4(1)

    run(test)


def test_few_lookups_go_on_at_once() -> None:
    async def test(world: World) -> None:
        for number in range(LOOKUPS_MAX + 1):
            world.finder.watch(key(number), Host(f"{number}.example", 1))
        asked = [await world.question(f"{number}.example") for number in range(LOOKUPS_MAX)]
        assert world.asked.empty()
        asked[0].set_exception(OSError(1, "no"))
        (await world.question(f"{LOOKUPS_MAX}.example")).set_result([v4(1)])
        assert await world.placed(key(LOOKUPS_MAX)) == v4(1)

    run(test)


def test_a_name_that_is_not_found_is_told_once_and_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("vpn.example", 1))
        for _ in range(3):
            error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            (await world.question("vpn.example")).set_exception(error)
            while world.asked.empty():  # as far as the error has been taken
                world.loop.advance(5)
                await asyncio.sleep(0)
        (await world.question("vpn.example")).set_result([v4(1)])
        assert await world.placed(key(1)) == v4(1)

    with caplog.at_level(logging.WARNING):
        run(test)
    said = "the endpoint vpn.example is not found: Name or service not known"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_who_is_forgotten_is_looked_for_no_more() -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("vpn.example", 1))
        answer = await world.question("vpn.example")
        world.finder.forget(key(1))
        world.finder.forget(key(1))
        world.finder.watch(key(2), Host("other.example", 1))
        (await world.question("other.example")).set_result([v4(2)])
        assert await world.placed(key(2)) == v4(2)
        assert answer.cancelled()
        assert world.changes.empty()

    run(test)


def test_a_peer_may_get_another_name() -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("old.example", 1))
        old = await world.question("old.example")
        world.finder.watch(key(1), Host("new.example", 1))
        (await world.question("new.example")).set_result([v4(2)])
        assert await world.placed(key(1)) == v4(2)
        assert old.cancelled()

    run(test)


def test_nothing_goes_on_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.finder.watch(key(1), Host("vpn.example", 1))
        await world.question("vpn.example")

    run(test)
    gc.collect()  # a task that is lost says so
    assert caplog.records == []
