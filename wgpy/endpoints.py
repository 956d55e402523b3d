# SPDX-License-Identifier: MIT
"""Where peers are whose endpoints are names: looked up, tried in turn, and looked up again.

A name is looked up at start, and again when handshakes went unanswered for SILENCE_S, as by the
reresolve-dns example of wireguard-tools.  Meanwhile each of its addresses has its turn, the
families alternating (RFC 8305, 4).  A peer that answers is left where it is.

`Search` decides, without I/O and clock; `EndpointFinder` does what it says, on the control loop.
"""

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from socket import AF_INET6, IPPROTO_UDP, SOCK_DGRAM
from typing import Any, Final

from wgpy.addresses import format_endpoint, parse_endpoint
from wgpy.config import DeviceChange, Endpoint, PeerChange
from wgpy.ports import Handle, Scheduler
from wgpy.protocol.constants import REKEY_TIMEOUT_S
from wgpy.protocol.handshake import UNANSWERED, Handshake
from wgpy.units import NS_PER_S
from wgpy.wgquick import Host

SILENCE_S: Final = 135  # REKEY_AFTER_TIME and three initiations
TURN_S: Final = 3 * REKEY_TIMEOUT_S  # three initiations go to each address
RETRY_S: Final = 2  # until the next lookup after one that failed; twice as long each time
CANDIDATES_MAX: Final = 16  # of a name; whoever answers for it may tell more
# At once, so that the loop's own pool of five threads or more is never taken as a whole.
LOOKUPS_MAX: Final = 4
FIRST_WAIT_S: Final = 1.0  # who enters a tunnel waits for its names

_ANSWERED: Final = (Handshake.ESTABLISHED, Handshake.RESPONDED)

LookUp = Callable[[Host], Awaitable[Sequence[Endpoint]]]

_log = logging.getLogger(__name__)


# ---- what to do ----


class Ask(enum.Enum):
    """What a search may want besides an address to be tried."""

    LOOKUP = "lookup"  # of the name; then `found` is to be called


@dataclass(slots=True)
class Search:
    """Where the search for one peer stands.  Times are nanoseconds of one clock."""

    candidates: tuple[Endpoint, ...] = ()  # in the order in which they are tried
    turn: int = 0  # of which of them
    turn_ns: int = 0  # since when
    silent_ns: int | None = None  # since when a handshake is unanswered, None: none is
    looked_ns: int = 0  # when the last lookup ended
    failures: int = 0  # of lookups in a row
    looking: bool = False

    def step(self, handshake: Handshake | None, now_ns: int) -> Ask | Endpoint | None:
        """Take where the handshake with the peer stands; return what to do now, if anything."""
        self._listen(handshake, now_ns)
        if self._wants_lookup(now_ns):
            self.looking = True
            return Ask.LOOKUP
        if self.silent_ns is None or len(self.candidates) < 2:
            return None
        if now_ns - max(self.silent_ns, self.turn_ns) < TURN_S * NS_PER_S:
            return None
        return self._try((self.turn + 1) % len(self.candidates), now_ns)

    def found(
        self, addresses: Iterable[Endpoint], handshake: Handshake | None, now_ns: int
    ) -> Endpoint | None:
        """Take what a lookup gave; return what to try, None if the peer has answered meanwhile.

        If it gave nothing, what was known before stays.
        """
        self._listen(handshake, now_ns)
        self.looking, self.looked_ns = False, now_ns
        found = _alternating(addresses)[:CANDIDATES_MAX]
        if not found:
            self.failures += 1
            return None
        is_first = not self.candidates
        self.candidates, self.turn, self.failures = found, 0, 0
        if self.silent_ns is None and (not is_first or handshake in _ANSWERED):
            return None
        return self._try(0, now_ns)

    def _listen(self, handshake: Handshake | None, now_ns: int) -> None:
        if handshake not in UNANSWERED:
            self.silent_ns = None
        elif self.silent_ns is None:
            self.silent_ns = now_ns

    def _wants_lookup(self, now_ns: int) -> bool:
        if self.looking:
            return False
        if self.failures:
            pause_s = min(RETRY_S << min(self.failures - 1, 8), SILENCE_S)
            wanted = not self.candidates or self.silent_ns is not None
            return wanted and now_ns - self.looked_ns >= pause_s * NS_PER_S
        if not self.candidates:
            return True
        if self.silent_ns is None:
            return False
        return now_ns - max(self.silent_ns, self.looked_ns) >= SILENCE_S * NS_PER_S

    def _try(self, turn: int, now_ns: int) -> Endpoint:
        self.turn, self.turn_ns = turn, now_ns
        return self.candidates[turn]


def _alternating(addresses: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return each once, the families in turn, beginning with the first one's."""
    families: dict[int, list[Endpoint]] = {}
    for endpoint in dict.fromkeys(addresses):
        families.setdefault(len(endpoint.address), []).append(endpoint)
    rounds = chain.from_iterable(zip_longest(*families.values()))
    return tuple(endpoint for endpoint in rounds if endpoint is not None)


# ---- and doing it ----


def literal(host: Host) -> Endpoint | None:
    """Return the endpoint if the host is an address, None if it is a name.

    The name of a zone is looked up among the interfaces here; one that is not there makes it a
    name, which may be found later.
    """
    text = f"[{host.host}]" if ":" in host.host else host.host
    try:
        return parse_endpoint(f"{text}:{host.port}")
    except (ValueError, OSError):
        return None


async def look_up(host: Host) -> tuple[Endpoint, ...]:
    """Return all addresses of a name, as the system orders them.  Raises OSError.

    It waits in a thread of the loop's own pool, which nothing can interrupt.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(
        host.host.encode(),  # as it is: text would go through IDNA, which raises what it likes
        host.port,
        type=SOCK_DGRAM,
        proto=IPPROTO_UDP,
    )
    return tuple(_endpoint(family, address) for family, *_, address in infos)


def _endpoint(family: int, address: tuple[Any, ...]) -> Endpoint:
    """Take a sockaddr of getaddrinfo."""
    text, port = address[:2]
    if family != AF_INET6:
        return parse_endpoint(f"{text}:{port}")
    endpoint = parse_endpoint(f"[{text.partition('%')[0]}]:{port}")
    return replace(endpoint, scope_id=address[3]) if len(endpoint.address) == 16 else endpoint


class EndpointFinder:
    """Gives a device the endpoints of its peers that have names.

    A lookup takes the time it takes: it holds up neither the loop nor, up to LOOKUPS_MAX of them,
    another one.
    """

    def __init__(
        self,
        configure: Callable[[DeviceChange], None],
        handshake: Callable[[bytes], Handshake | None],
        scheduler: Scheduler,
        now_ns: Callable[[], int],
        look_up: LookUp = look_up,
    ) -> None:
        """Take a device's `configure`, where the handshake with a peer stands, None: there is none.

        Also the plane's clock, and what looks up a name: it raises OSError.
        """
        self._configure = configure
        self._handshake = handshake
        self._scheduler = scheduler
        self._now_ns = now_ns
        self._look_up = look_up
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._names: dict[bytes, tuple[Host, Search]] = {}
        self._lookups: dict[bytes, asyncio.Task[None]] = {}
        self._timer: Handle | None = None

    def watch(self, public_key: bytes, host: Host) -> None:
        """Look up the name of a peer now, and again when it is silent.  The loop must be running.

        It may have had another one.
        """
        self.forget(public_key)
        self._names[public_key] = host, Search()
        self._step(public_key)
        if self._timer is None:
            self._arm()

    async def looked(self) -> None:
        """Wait for the lookups that go on, for FIRST_WAIT_S at most."""
        if self._lookups:
            await asyncio.wait(self._lookups.values(), timeout=FIRST_WAIT_S)

    def forget(self, public_key: bytes) -> None:
        """Look for that peer no more; nothing happens if nobody did."""
        self._names.pop(public_key, None)
        if lookup := self._lookups.pop(public_key, None):
            lookup.cancel()

    def close(self) -> None:
        """Look for nobody any more."""
        for public_key in list(self._names):
            self.forget(public_key)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        when_ns = self._now_ns() + REKEY_TIMEOUT_S * NS_PER_S
        self._timer = self._scheduler.call_at(when_ns, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for public_key in list(self._names):
            self._step(public_key)
        if self._names:
            self._arm()

    def _step(self, public_key: bytes) -> None:
        host, search = self._names[public_key]
        step = search.step(self._handshake(public_key), self._now_ns())
        if step is Ask.LOOKUP:
            lookup = asyncio.create_task(self._find(public_key, host, search))
            self._lookups[public_key] = lookup
        elif isinstance(step, Endpoint):
            self._place(public_key, host, step)

    async def _find(self, public_key: bytes, host: Host, search: Search) -> None:
        try:
            async with self._slots:
                addresses = await self._look_up(host)
        except OSError as error:
            if not search.failures:  # once, not each time
                _log.warning("the endpoint %s is not found: %s", host.host, error.strerror)
            addresses = ()
        self._lookups.pop(public_key, None)
        endpoint = search.found(addresses, self._handshake(public_key), self._now_ns())
        if endpoint is not None:
            self._place(public_key, host, endpoint)

    def _place(self, public_key: bytes, host: Host, endpoint: Endpoint) -> None:
        _log.info("the endpoint %s is tried at %s", host.host, format_endpoint(endpoint))
        peer = PeerChange(public_key, update_only=True, endpoint=endpoint)
        self._configure(DeviceChange(peers=(peer,)))
