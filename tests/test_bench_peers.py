# SPDX-License-Identifier: MIT
"""Whom the benchmark finds to measure wgpy beside, and what scripts/bench builds for that."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end; see test_bench.py

from bench import lab  # noqa: E402
from bench.lab import TAILSCALE_PROGRAM, Implementation  # noqa: E402
from bench.report import TAILSCALE  # noqa: E402

SCRIPT = (ROOT / "scripts" / "bench").read_text()
# The functions of the script, and the names that they use.
FUNCTIONS = SCRIPT[SCRIPT.index("WIREGUARD_GO=") : SCRIPT.index("# shellcheck disable=SC2086")]
FORK = "github.com/tailscale/wireguard-go"

# Go, as far as the benchmark asks it: a go.mod with a requirement, and installing it.
GO = f"""#!/bin/sh
here=$(dirname "$0")
case "$*" in
"env GOBIN") echo "$here/gobin" ;;
"list -m -versions tailscale.com") echo "tailscale.com v1.9.0 v1.10.0" ;;
"list -m "*tailscale.com@v1.10.0) echo "$here/required.mod" ;;
"list -m "*tailscale.com@v1.9.0) echo "$here/required-before.mod" ;;
"mod download {FORK}@v0.0.0-2026-abc") test ! -e "$here/not-served" ;;
"mod download {FORK}@v0.0.0-2025-abc") ;;
"version -m "*) printf '%s: go1.26.1\\n\\tpath\\tx\\n\\tmod\\tx\\tv1.2.3\\th1:x=\\n' "$3" ;;
"install {FORK}@v0.0.0-202"[56]-abc)
    test "$GOTOOLCHAIN" = local && test ! -e "$here/too-old" || exit 1
    cp "$0" "$GOBIN/wireguard-go" ;;
*) exit 2 ;;
esac
"""


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH besides the system's, and where Go installs to is below it."""
    directory = tmp_path / "programs"
    program(directory / "go", GO)
    for name, year in (("required", 2026), ("required-before", 2025)):
        (directory / f"{name}.mod").write_text(
            f"module tailscale.com\n\nrequire (\n\tgithub.com/tailscale/wf v0.1.0\n"
            f"\t{FORK} v0.0.0-{year}-abc\n\t{FORK}/other v0.0.0-2025-def // indirect\n)\n"
        )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def need_tailscale() -> subprocess.CompletedProcess[str]:
    call = f'wgpy_say() {{ echo "$*"; }}\n{FUNCTIONS}\nneed_tailscale'
    return subprocess.run(
        ["bash", "-uo", "pipefail", "-c", call], capture_output=True, text=True, check=False
    )


# ---- finding ----


def test_tailscales_fork_is_found_where_go_installs(programs: Path) -> None:
    path = program(programs / "gobin" / TAILSCALE_PROGRAM)
    program(programs / TAILSCALE_PROGRAM)
    found = Implementation(TAILSCALE, (str(path), "-f"), "built from source, v1.2.3")
    assert lab.find_tailscale() == found


def test_tailscales_fork_is_found_on_path_without_go(programs: Path) -> None:
    (programs / "go").unlink()
    path = program(programs / TAILSCALE_PROGRAM)
    found = lab.find_tailscale()
    assert found is not None
    assert found.command == (str(path), "-f")


@pytest.mark.usefixtures("programs")
def test_what_bears_only_the_name_of_wireguard_go_is_not_the_fork() -> None:
    assert lab.find_tailscale() is None


# ---- building ----


def test_the_fork_is_built_as_the_newest_tailscale_requires_it(
    programs: Path, tmp_path: Path
) -> None:
    done = need_tailscale()
    assert (done.returncode, done.stdout) == (0, f"building {FORK}@v0.0.0-2026-abc\n"), done.stderr
    assert [path.name for path in (programs / "gobin").iterdir()] == [TAILSCALE_PROGRAM]
    assert lab.find_tailscale() is not None
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_older_fork_is_built_where_the_newest_is_not_to_be_had(programs: Path) -> None:
    (programs / "not-served").touch()
    done = need_tailscale()
    assert (done.returncode, done.stdout) == (0, f"building {FORK}@v0.0.0-2025-abc\n"), done.stderr
    assert lab.find_tailscale() is not None


def test_the_fork_is_not_built_again(programs: Path) -> None:
    program(programs / "gobin" / TAILSCALE_PROGRAM)
    done = need_tailscale()
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("lack", ["too-old", "go", "requirement"])
def test_the_fork_is_left_out_where_it_cannot_be_built(
    programs: Path, tmp_path: Path, lack: str
) -> None:
    if lack == "too-old":
        (programs / lack).touch()
    elif lack == "go":
        (programs / lack).write_text("#!/bin/sh\nexit 1\n")
    else:
        for path in programs.glob("*.mod"):
            path.write_text("module tailscale.com\n")
    assert need_tailscale().returncode == 1
    assert not (programs / "gobin" / TAILSCALE_PROGRAM).exists()
    assert list((tmp_path / "scratch").iterdir()) == []
