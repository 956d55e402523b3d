# SPDX-License-Identifier: MIT
"""`wgpyctl status`: how interfaces are, for people or as JSON."""

import json
import sys
from collections.abc import Iterator

from wgpy.ctl.interfaces import Interfaces
from wgpy.ctl.outcome import ALL, EXIT_WRONG, NoInterfaceError, verdict, wants_colour
from wgpy.ctl.report import coloured, format_report, plain
from wgpy.errors import StatusError
from wgpy.status import DeviceStatus, to_json


def show(interfaces: Interfaces, name: str, *, as_json: bool) -> int:
    """Print one interface or all; return the exit status.

    Raises StatusError for the one, and NoInterfaceError when there is none at all.
    """
    outcomes, separator = [], ""
    paint = coloured if wants_colour() else plain
    for status in _statuses(interfaces, name):
        if status is None:
            outcomes.append(EXIT_WRONG)
            continue
        found = status.diagnoses or ()
        outcomes.append(verdict(str(diagnosis.severity) for diagnosis in found))
        if as_json:
            print(json.dumps(to_json(status)))
        else:
            print(separator + format_report(status, paint), end="")
            separator = "\n"
    if not outcomes:
        raise NoInterfaceError
    return max(outcomes)


def _statuses(interfaces: Interfaces, name: str) -> Iterator[DeviceStatus | None]:
    """Yield each; of all, None for one that cannot be had, and nothing for one that has gone."""
    if name != ALL:
        yield interfaces.read(name)
        return
    for interface in interfaces.expand(name):
        try:
            yield interfaces.read(interface)
        except NoInterfaceError:
            continue
        except StatusError as error:
            print(f"wgpyctl: {error}", file=sys.stderr)
            yield None
