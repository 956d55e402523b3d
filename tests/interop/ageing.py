# SPDX-License-Identifier: MIT
"""Sessions that grow old while other tests run."""

import threading
import time
from collections.abc import Sequence

from interop.capture import Capture, Datagram
from interop.network import Network
from interop.traffic import ping
from interop.wireguard import Interface, Peer
from netns.lab import key_pair


class Ticker:
    """Sends a numbered datagram a second, and knows which arrived."""

    PERIOD_S = 1.0

    def __init__(self, source: Interface, target: Interface) -> None:
        self._in = target.host.udp(target.inner4)
        self._out = source.host.udp(source.inner4)
        self._sent = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._out.sendto(self._sent.to_bytes(4, "big"), self._in.getsockname())
            self._sent += 1
            self._ending.wait(self.PERIOD_S)

    def missing(self) -> list[int]:
        """Ends it.  The last one may still be on its way for a moment."""
        self._ending.set()
        self._thread.join()
        arrived = {int.from_bytes(self._in.recv(4), "big")}
        while self._sent - 1 not in arrived:
            arrived.add(int.from_bytes(self._in.recv(4), "big"))
        return sorted(set(range(self._sent)) - arrived)

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._in.close()
        self._out.close()


class Ageing:
    """Four sessions of one wgpy: by who began them, two that are in use and two that are not."""

    AGE_S = 185  # a little more than REJECT_AFTER_TIME

    def __init__(self, network: Network, peers: Sequence[Interface], ends: Sequence[Interface]):
        """`ends` are what wgpy's only interface is to each of the peers."""
        self._capture = Capture(network.router, "left")
        self._seen: list[Datagram] = []
        self._peers = peers
        self._ends = ends
        self._tickers: list[Ticker] = []
        self._until = 0.0

    def begin(self) -> None:
        for peer in self._peers:
            peer.renew_keys()
        private_key, public_key = key_pair()
        for end, peer in zip(self._ends, self._peers, strict=True):
            end.private_key, end.public_key = private_key, public_key
            peer.configure(Peer(end))
        self._ends[0].configure(*map(Peer, self._peers))
        for first in ("wgpy", "peer"):
            self._tickers.append(Ticker(*self.busy(first)))
            source, target = self.silent(first)
            ping(source.host, target.inner4)
        self._until = time.monotonic() + self.AGE_S

    def busy(self, first: str) -> tuple[Interface, Interface]:
        """The sender, who began, and the receiver of a datagram a second."""
        return self._pair(0, first)

    def silent(self, first: str) -> tuple[Interface, Interface]:
        return self._pair(2, first)

    def ticker(self, first: str) -> "Ticker":
        return self._tickers[0 if first == "wgpy" else 1]

    def _pair(self, offset: int, first: str) -> tuple[Interface, Interface]:
        if first == "wgpy":
            return self._ends[offset], self._peers[offset]
        return self._peers[offset + 1], self._ends[offset + 1]

    def wait(self) -> None:
        """Until all are old."""
        time.sleep(max(0.0, self._until - time.monotonic()))

    def seen(self, pair: tuple[Interface, Interface]) -> list[Datagram]:
        """What went between the two so far."""
        self._seen += self._capture.datagrams()
        (peer,) = (end for end in pair if end in self._peers)
        address = peer.outer(4), peer.port
        return [one for one in self._seen if address in (one.source, one.target)]

    def close(self) -> None:
        for ticker in self._tickers:
            ticker.close()
        self._capture.close()
