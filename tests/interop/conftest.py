# SPDX-License-Identifier: MIT
"""Fixtures for meetings with other implementations, and a record of how they went.

Each test takes place once for every implementation: WireGuard of the Linux kernel (also in a
virtual machine: scripts/kernel-vm) and wireguard-go (there only for what needs netem), so that a
fault of ours can be told from theirs.  A session starts each program only once; every test begins
with new keys.

With WGPY_INTEROP_RESULTS set to a directory, the outcomes of a run without deselections go to
PEER.json in there, or PEER-vm.json in the virtual machine, for scripts/interop-table.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import pytest
from interop.ageing import Ageing
from interop.lab import Laboratory, Tunnel
from interop.wireguard import available_peers

IN_VM = "WGPY_KERNEL_VM" in os.environ
NEEDED = ("ip", "ping", "wg", "nft", "tc")
OUTCOMES = pytest.StashKey[dict[str, dict[str, str]]]()  # by peer and case
WHOLE = pytest.StashKey[bool]()  # nothing was deselected


# ---- what is run, and where ----


def unavailable() -> str:
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return f"not installed: {', '.join(missing)}" if missing else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "implementation" not in metafunc.fixturenames:
        return
    reason = unavailable()
    peers = available_peers() if not reason else dict.fromkeys(("kernel", "wireguard-go"), reason)
    if IN_VM and metafunc.definition.get_closest_marker("netem") is None:
        peers["wireguard-go"] = "this is met on the host, not in the virtual machine"
    parameters = [
        pytest.param(name, marks=[pytest.mark.skip(reason=why)] if why else [])
        for name, why in peers.items()
    ]
    metafunc.parametrize("implementation", parameters)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for minutes come last of all, so that the time is used meanwhile."""
    for item in items:
        if is_ours(item):
            item.add_marker(pytest.mark.netns)
    items.sort(key=lambda item: is_ours(item) and item.get_closest_marker("slow") is not None)


def is_ours(item: pytest.Item) -> bool:
    return Path(__file__).parent in item.path.parents


# ---- the record ----


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}
    config.stash[WHOLE] = True


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in filter(is_ours, items):
        item.config.stash[WHOLE] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if is_ours(item) and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        parameters = dict(item.callspec.params)
        peer = parameters.pop("implementation", None)
        if isinstance(peer, str):
            topic = item.path.stem.removeprefix("test_")
            case = f"{topic}: {sentence(item.originalname, parameters)}"
            record(item.config.stash[OUTCOMES].setdefault(peer, {}), case, report)
    return report


def record(outcomes: dict[str, str], case: str, report: pytest.TestReport) -> None:
    """The latest phase of a case counts, but an end without a failure says nothing new."""
    if report.failed or report.when != "teardown":
        outcomes[case] = outcome(report)


def sentence(name: str, parameters: dict[str, object]) -> str:
    text = name.removeprefix("test_").replace("_", " ")
    details = ", ".join(detail(key.replace("_", " "), value) for key, value in parameters.items())
    return f"{text} ({details})" if details else text


def detail(key: str, value: object) -> str:
    return f"IPv{value} {key}" if value in (4, 6) else f"{key}: {value}"


def outcome(report: pytest.TestReport) -> str:
    if not report.skipped:
        return report.outcome
    assert isinstance(report.longrepr, tuple)
    return report.longrepr[2].removeprefix("Skipped: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
    directory = os.environ.get("WGPY_INTEROP_RESULTS")
    if directory is None or not session.config.stash[WHOLE]:
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    for peer, cases in session.config.stash[OUTCOMES].items():
        if unavailable() or available_peers()[peer]:
            continue
        result = {"peer": peer, "versions": versions(peer), "cases": cases}
        name = f"{peer}-vm.json" if IN_VM else f"{peer}.json"
        Path(directory, name).write_text(json.dumps(result, indent=1) + "\n")


def versions(peer: str) -> dict[str, str]:
    linux = platform.release().partition("-")[0] + (" in a virtual machine" if IN_VM else "")
    found = {"wgpy": metadata.version("wgpy"), "Linux": linux}
    if peer == "wireguard-go":
        command = ["wireguard-go", "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found["wireguard-go"] = said.split()[1]
    else:
        found["module"] = Path("/sys/module/wireguard/version").read_text().strip()
    return found


# ---- tunnels ----


@pytest.fixture(scope="session")
def laboratories() -> Iterator[Callable[[str], Laboratory]]:
    """One for each implementation, made when first asked for.  What failed once is not repeated."""
    attempts: dict[str, Laboratory | Exception] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Laboratory:
            if kind not in attempts:
                try:
                    attempts[kind] = Laboratory(kind, stack)
                except Exception as error:
                    attempts[kind] = error
            attempt = attempts[kind]
            if isinstance(attempt, Exception):
                raise attempt
            return attempt

        yield get


@pytest.fixture
def tunnel(laboratories: Callable[[str], Laboratory], implementation: str) -> Tunnel:
    """Between wgpy and the implementation; with keys and configuration of former tests."""
    return laboratories(implementation).tunnel


@pytest.fixture
def ageing(laboratories: Callable[[str], Laboratory], implementation: str) -> Ageing:
    return laboratories(implementation).ageing
