# SPDX-License-Identifier: MIT
"""Work on very many peers or prefixes in pieces, after each of which others have their turn."""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from wgpy.config import DeviceChange, PeerChange
from wgpy.errors import ConfigError
from wgpy.ports import Handle, Scheduler

PEERS_PER_PIECE: Final = 128  # a millisecond or two
ALLOWED_IPS_PER_PIECE: Final = 4096  # likewise

T = TypeVar("T")


def refuse_too_many_peers(change: DeviceChange, known: Collection[bytes], most: int) -> None:
    """Raise ConfigError with ENOMEM if there would be more than `most` peers with the known."""
    kept = 0 if change.replace_peers else len(known)
    if kept + len(change.peers) <= most:
        return
    keys = set() if change.replace_peers else set(known)
    keys.update(section.public_key for section in change.peers if not section.update_only)
    if len(keys) > most:
        raise ConfigError(errno.ENOMEM, f"more than {most} peers")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut into pieces of this size; the last may be smaller."""
    return (items[at : at + size] for at in range(0, len(items), size))


def in_pieces(
    sections: Iterable[PeerChange], is_known: Callable[[bytes], bool]
) -> Iterator[list[PeerChange]]:
    """Cut the sections of a change into pieces, in their order; a long one into several.

    `is_known` tells whether there is a peer with a public key.  If there is, and its prefixes are
    to be replaced, these stay together: what it had and gets again must not go in between.
    """
    piece: list[PeerChange] = []
    weight = 0
    for section in sections:
        short = len(section.allowed_ips) <= ALLOWED_IPS_PER_PIECE
        for part in (section,) if short else _parts(section, is_known):
            piece.append(part)
            weight += ALLOWED_IPS_PER_PIECE // PEERS_PER_PIECE + len(part.allowed_ips)
            if weight >= ALLOWED_IPS_PER_PIECE:
                yield piece
                piece, weight = [], 0
    if piece:
        yield piece


def _parts(section: PeerChange, is_known: Callable[[bytes], bool]) -> Iterator[PeerChange]:
    prefixes = section.allowed_ips
    if section.replace_allowed_ips and is_known(section.public_key):
        yield section
        return
    first, *others = chunks(prefixes, ALLOWED_IPS_PER_PIECE)
    yield replace(section, allowed_ips=first)
    for more in others:
        yield PeerChange(section.public_key, update_only=True, allowed_ips=more)


class Spread:
    """Work that goes on by itself, the first piece at once, each other at a turn of the loop."""

    def __init__(self, scheduler: Scheduler, now_ns: Callable[[], int]) -> None:
        """Have nothing to do."""
        self._scheduler = scheduler
        self._now_ns = now_ns
        self._pieces: Iterator[object] = iter(())
        self._handle: Handle | None = None

    def begin(self, pieces: Iterator[object]) -> None:
        """Do a piece for each that there is; what was not done of other work is left."""
        self.stop()
        self._pieces = pieces
        self._go_on()

    def stop(self) -> None:
        """Leave what is not done."""
        self._pieces = iter(())
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _go_on(self) -> None:
        self._handle = None
        for _ in self._pieces:
            self._handle = self._scheduler.call_at(self._now_ns(), self._go_on)
            break
