"""`wgpyctl status`: how interfaces are, for people or as JSON."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from wgpy.ctl.interfaces import ALL, Interfaces, NoInterfaceError
from wgpy.ctl.outcome import EXIT_HEALTHY, EXIT_WRONG, verdict, wants_colour
from wgpy.ctl.report import coloured, format_report, plain
from wgpy.diagnosis import Diagnosis, diagnose
from wgpy.errors import StatusError
from wgpy.status import DeviceStatus, to_json
from wgpy.text import format_key


def show(interfaces: Interfaces, name: str, *, as_json: bool) -> int:
    """Print one interface or all; return the exit status.  Raises StatusError for the one."""
    outcome, separator = EXIT_HEALTHY, ""
    paint = coloured if wants_colour() else plain
    for status in _statuses(interfaces, name):
        if status is None:
            outcome = EXIT_WRONG
            continue
        diagnoses = diagnose(status)
        outcome = max(outcome, verdict(str(diagnosis.severity) for diagnosis in diagnoses))
        if as_json:
            print(json.dumps(as_document(status, diagnoses)))
        else:
            print(separator + format_report(status, diagnoses, paint), end="")
            separator = "\n"
    return outcome


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


def as_document(status: DeviceStatus, diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Return what json.dumps takes: the status and what is wrong, as the status socket tells it."""
    return to_json(status) | {"diagnoses": [_diagnosis(diagnosis) for diagnosis in diagnoses]}


def _diagnosis(diagnosis: Diagnosis) -> dict[str, str | None]:
    return {
        "code": diagnosis.code,
        "severity": diagnosis.severity,
        "peer": None if diagnosis.peer is None else format_key(diagnosis.peer),
        "text": diagnosis.text,
    }
