# SPDX-License-Identifier: MIT
"""Which WireGuard interfaces there are, and the status of each.

wgpy's own tell all by their status sockets.  Of others (the kernel's, wireguard-go's, and ours
where the socket is switched off) `wg` tells what it knows.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from wgpy.ctl import client
from wgpy.ctl.dump import parse_dump_untrusted
from wgpy.ctl.outcome import ALL, NoInterfaceError
from wgpy.errors import StatusError
from wgpy.status import DIRECTORY, INTERVAL_S, SUFFIX, DeviceStatus
from wgpy.text import printable

_WG_TIMEOUT_S: Final = 20.0
_FORBIDDEN: Final = (": Operation not permitted", ": Permission denied")


class Interfaces:
    """Those that can be seen from here."""

    def __init__(self, directory: Path = DIRECTORY, wg: str = "wg") -> None:
        """Look for status sockets in this directory, and ask this program for the others."""
        self._directory = directory
        self._wg = wg

    def names(self) -> list[str]:
        """Return the names of all, sorted."""
        try:
            files = os.listdir(self._directory)
        except OSError:
            files = []
        ours = [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)]
        try:
            return sorted({*ours, *self._show("interfaces").split()})
        except StatusError:
            return sorted(ours)

    def expand(self, name: str) -> list[str]:
        """Return the names that a name of the command line means.  Raises NoInterfaceError."""
        if name != ALL:
            return [name]
        if not (names := self.names()):
            raise NoInterfaceError
        return names

    def read(self, name: str) -> DeviceStatus:
        """Return how it is now.  Raises StatusError, of which NoInterfaceError is one."""
        for status in self.follow(name):
            return status
        raise NoInterfaceError(name)  # it ended before it said anything

    def follow(self, name: str) -> Iterator[DeviceStatus]:
        """Yield how it is and what is wrong, about once a second, until it ends.

        Raises StatusError as above.
        """
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise NoInterfaceError(name)
        try:
            yield from map(_examined, self._statuses(name))
        except NoInterfaceError:
            raise
        except StatusError as error:
            raise StatusError(printable(f"{name}: {error}")) from None
        except OSError as error:
            raise StatusError(printable(f"{name}: {error.strerror}")) from None

    def _statuses(self, name: str) -> Iterator[DeviceStatus]:
        try:
            yield from client.follow(self._directory / f"{name}{SUFFIX}")
        except client.NobodyError:
            yield from self._dumps(name)

    def _dumps(self, name: str) -> Iterator[DeviceStatus]:
        while True:
            yield parse_dump_untrusted(name, self._show(name, "dump"), time.time())
            time.sleep(INTERVAL_S)

    def _show(self, name: str, *fields: str) -> str:
        """Return what `wg show` says."""
        try:
            done = subprocess.run(
                [self._wg, "show", name, *fields],
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="backslashreplace",
                env=os.environ | {"LC_ALL": "C"},
                timeout=_WG_TIMEOUT_S,
            )
        except FileNotFoundError:
            if not Path("/sys/class/net", name).exists():
                raise NoInterfaceError(name) from None
            raise StatusError("without wg (of wireguard-tools) it tells nothing") from None
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise StatusError(f"wg cannot be asked: {error}") from None
        if done.returncode:
            said = done.stderr.strip()
            raise StatusError(said) if said.endswith(_FORBIDDEN) else NoInterfaceError(name)
        return done.stdout


def _examined(status: DeviceStatus) -> DeviceStatus:
    """Return it with what is wrong, which our daemons tell, and nobody else does."""
    if status.diagnoses is not None:
        return status
    from wgpy.diagnosis import diagnose

    return replace(status, diagnoses=diagnose(status))
