# SPDX-License-Identifier: MIT
"""`wgpyctl status` answers at once: it loads nothing that only other commands take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from status_daemon import HEALTHY, SILENT, fake_wg, serving

# argv: directory of sockets, wg, command line; prints at the end what is loaded.
COMMAND = """
import json, sys
from pathlib import Path
from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
directory, wg, *argv = sys.argv[1:]
main(argv, Interfaces(Path(directory), wg))
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = ("asyncio", "cffi", "cryptography", "prometheus_client", "rich", "ssl")


def loaded_by(directory: Path, *argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, directory, fake_wg(directory), *argv],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("argv", [["status"], ["status", "--json"], ["status", "wg0"]])
def test_status_loads_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    with serving(tmp_path, HEALTHY):
        loaded = loaded_by(tmp_path, *argv)
    assert "wgpy.ctl.show" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("argv", [["status"], ["metrics"], ["doctor", "wg0"]])
def test_no_command_loads_the_core(argv: list[str], tmp_path: Path) -> None:
    with serving(tmp_path, HEALTHY):
        loaded = loaded_by(tmp_path, *argv)
    assert not any(name.startswith("wgpy.dataplane") for name in loaded)


def test_exec_leaves_what_is_heavy_to_the_process_of_the_tunnel() -> None:
    program = "import wgpy.ctl.cli, wgpy.ctl.exec, wgpy.ctl.job, sys; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert {*done.stdout.split()}.isdisjoint({*HEAVY, "wgpy.ctl.interfaces", "wgpy.tunnel"})


WITHOUT = """
import sys
from pathlib import Path
from wgpy.ctl.cli import main
from wgpy.ctl.interfaces import Interfaces
sys.modules[sys.argv[1]] = None
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("package", "command"), [("rich", "watch"), ("prometheus_client", "metrics")]
)
def test_what_is_not_installed_is_said_with_its_extra(package: str, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, command],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    said = f"it takes {package}, which is not installed: pip install 'wgpy[{command}]'"
    assert (done.returncode, done.stderr) == (2, f"wgpyctl: {said}\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    many = tuple(SILENT for _ in range(5000))
    with serving(tmp_path, *[HEALTHY.__class__("wg0", peers=many)]):
        command = [sys.executable, "-c", COMMAND, str(tmp_path), fake_wg(tmp_path), "status"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "interface: wg0\n"
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read().count("\n") == 1  # what COMMAND says at its end
            assert process.wait(20) == 0
