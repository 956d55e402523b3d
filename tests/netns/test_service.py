# SPDX-License-Identifier: MIT
"""Under a service manager: what it hears, what goes to its journal, and our unit for systemd."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from netns.lab import ENVIRONMENT, Namespace, Side, eventually

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "wgpy@.service"

# Prints what the service says, a line per message; argv: NOTIFY_SOCKET, command.
MANAGER = """
import os, socket, subprocess, sys
name = sys.argv[1]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind("\\0" + name[1:] if name.startswith("@") else name)
    service = subprocess.Popen(sys.argv[2:], env=os.environ | {"NOTIFY_SOCKET": name})
    print(service.pid, flush=True)
    sock.settimeout(20)
    message = ""
    while not message.startswith("STOPPING"):
        message = sock.recv(4096).decode()
        print(message.replace("\\n", " "), flush=True)
    print(service.wait(30), flush=True)
"""


class Service:
    """A command whose manager we are."""

    def __init__(self, side: Side, name: str, *command: str) -> None:
        self.side = side
        self.manager = side.host.popen(sys.executable, "-c", MANAGER, name, *command)
        self.pid = int(self.hears())

    def hears(self) -> str:
        assert self.manager.stdout is not None
        return self.manager.stdout.readline().rstrip("\n")

    def close(self) -> str:
        """Ends it; returns what it printed on stderr."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.hears() == "STOPPING=1 STATUS=SIGTERM"
        assert self.hears() == "0"
        return self.manager.communicate(timeout=30)[1]


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_manager_hears_ready_when_wg_can_talk_to_it_and_why_it_stops(
    side: Side, kind: str, tmp_path: Path
) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@{side.interface}"
    service = Service(side, name, "wgpy", "-f", side.interface)
    assert service.hears() == f"READY=1 STATUS=serving {side.interface}"
    assert side.host.run("wg", "show", side.interface)
    service.close()
    assert not side.socket.exists()


def test_in_the_background_it_does_not_speak_for_the_service_that_called_it(
    side: Side, tmp_path: Path
) -> None:
    name = str(tmp_path / "notify")
    last_word = f"import socket; socket.socket(1, 2).sendto(b'STOPPING', {name!r})"
    calls = f'wgpy {side.interface}; ip link delete {side.interface}; "{sys.executable}" -c "$0"'
    service = Service(side, name, "sh", "-c", calls, last_word)
    assert service.hears() == "STOPPING"
    assert service.hears() == "0"
    service.manager.communicate(timeout=30)


def test_the_journal_gets_priorities_and_no_times(side: Side, tmp_path: Path) -> None:
    log = tmp_path / "log"
    journal = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)"
    command = f"exec 2>{log}; exec env {journal} LOG_LEVEL=info wgpy -f {side.interface}"
    service = Service(side, str(tmp_path / "notify"), "sh", "-c", command)
    assert service.hears().startswith("READY")
    assert service.close() == ""
    ready, ends = log.read_text().splitlines()
    assert ready.startswith(f"<5>{side.interface}: ready: ")
    assert ends == f"<5>{side.interface}: ends: SIGTERM"


def test_what_is_not_the_journals_gets_times(side: Side, tmp_path: Path) -> None:
    command = "env", "JOURNAL_STREAM=1:1", "LOG_LEVEL=info", "wgpy", "-f", side.interface
    service = Service(side, str(tmp_path / "notify"), *command)
    assert service.hears().startswith("READY")
    for line in service.close().splitlines():
        assert re.match(rf"[-\d]+ [:,\d]+ NOTICE {side.interface}: ", line)


# ---- the unit ----


def unit_value(key: str, instance: str) -> str:
    """A setting as systemd takes it."""
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value).replace("%i", instance).replace("$$", "$")


def test_its_capabilities_suffice(
    side: Side, tmp_path: Path, namespace: Callable[[], Namespace]
) -> None:
    granted = unit_value("CapabilityBoundingSet", side.interface).split()
    bounds = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in granted)])
    confined = "setpriv", "--no-new-privs", f"--bounding-set={bounds}", "--inh-caps=-all"
    command = unit_value("ExecStart", side.interface).split()
    group = "WGPY_SOCKET_GROUP=daemon"
    name = str(tmp_path / "notify")
    service = Service(side, name, *confined, "env", group, *command)
    assert service.hears().startswith("READY")
    assert side.socket.group() == "daemon"

    inside = namespace()
    side.host.run("ip", "link", "set", side.interface, "netns", inside.name)
    settings = "[Interface]\nListenPort = 500\nFwMark = 7\n"
    side.host.run("wg", "setconf", side.interface, "/dev/stdin", stdin=settings)
    inside.run("ip", "link", "set", side.interface, "up")
    eventually(lambda: ":500 " in side.host.run("ss", "-uln"), "an open port")
    inside.run("ip", "link", "set", side.interface, "down")
    eventually(lambda: ":500 " not in side.host.run("ss", "-uln"), "a closed port")
    service.close()


def in_shell(side: Side, config: str, command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the unit where this is the interface's configuration file."""
    path = f"/etc/wireguard/{side.interface}.conf"
    private = f'umask 077; mount -t tmpfs tmpfs /etc/wireguard; printf %s "$0" > {path}'
    return side.host.attempt("sh", "-ec", f"{private}; {command}", config)


def test_it_configures_the_interface_and_reloads_it(sides: tuple[Side, Side]) -> None:
    left, right = sides
    left.host.run("wgpy", left.interface)

    def port() -> str:
        return left.host.run("wg", "show", left.interface, "listen-port").strip()

    left.write_config(right)
    config = left.config.read_text()
    done = in_shell(left, config, unit_value("ExecStartPost", left.interface))
    assert done.returncode == 0, done.stderr
    assert right.public_key in left.host.run("wg", "show", left.interface, "peers")
    reload = unit_value("ExecReload", left.interface)
    assert in_shell(left, config.replace("51820", "51821", 1), reload).returncode == 0
    assert port() == "51821"
    assert in_shell(left, "no configuration", reload).returncode != 0
    assert port() == "51821"


def test_without_a_configuration_file_it_starts_an_empty_interface(side: Side) -> None:
    command = f"rm /etc/wireguard/*; {unit_value('ExecStartPost', side.interface)}"
    assert in_shell(side, "", command).returncode == 0


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="not installed: systemd-analyze"
)
def test_systemd_understands_it(side: Side, tmp_path: Path) -> None:
    wgpy = tmp_path / "wgpy"  # a path without blanks
    wgpy.symlink_to(str(shutil.which("wgpy", path=ENVIRONMENT["PATH"])))
    unit = tmp_path / "wgpy@wg0.service"
    unit.write_text(UNIT.read_text().replace("ExecStart=wgpy", f"ExecStart={wgpy}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
