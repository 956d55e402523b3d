# SPDX-License-Identifier: MIT
"""What has gone wrong or is mended, for whoever listens to events: found by looking each second."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from wgpy.events import DiagnosisChanged, EventStream
from wgpy.status import INTERVAL_S, SHARE, DeviceStatus, Diagnosis

_log: Final = logging.getLogger(__name__)

_About = tuple[str, bytes | None]  # code and peer


async def tell_changes(stream: EventStream, look: Callable[[], Awaitable[DeviceStatus]]) -> None:
    """Put them into the stream until it ends: at first all that is wrong, then what changes.

    It looks once an INTERVAL_S, and spends one in SHARE of the time on it at most.
    """
    loop = asyncio.get_running_loop()
    known: frozenset[_About] = frozenset()
    left_s = 0.0
    while not await stream.has_ended(left_s):
        begun_s = loop.time()
        try:
            status = await look()
        except Exception:
            _log.exception("cannot look what is wrong")
        else:
            known = _tell(stream, known, status.diagnoses or ())
        left_s = max(INTERVAL_S, SHARE * (loop.time() - begun_s))


def _tell(
    stream: EventStream, before: frozenset[_About], diagnoses: Iterable[Diagnosis]
) -> frozenset[_About]:
    """Put the differences; return what is wrong now."""
    now = {(diagnosis.code, diagnosis.peer): diagnosis.text for diagnosis in diagnoses}
    for code, peer in before - now.keys():
        stream.put(DiagnosisChanged(code, peer, None))
    for (code, peer), text in now.items():
        if (code, peer) not in before:
            stream.put(DiagnosisChanged(code, peer, text))
    return frozenset(now)
