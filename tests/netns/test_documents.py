# SPDX-License-Identifier: MIT
"""README and manual page, typed as they are written by somebody who has nothing of wgpy yet.

The root directory is this host's, but for wgpy: a layer on top takes all that is written, and is
gone with the mount namespace.  Every block of commands runs in a network namespace of its own.
"""

import base64
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_CLONED = (".*", "build", "dist", "*.egg-info", "*.so", "*.o", "_core.c", "__pycache__")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEY = base64.b64encode(bytes(range(32))).decode()
PEER = base64.b64encode(bytes(range(1, 33))).decode()
INSTALL = re.compile(r"apt-get (install [^&|;#`\n]+)(# x86-64)?")  # of what, and where only
IMAGE = re.compile(r"^FROM debian:(\w+)-slim", re.MULTILINE)
NOT_APT = re.compile(r"^apt-get .*\n", re.MULTILINE)

# argv: checkout, file of the commands, time to stop them after.
FRESH_ROOT = r"""
set -e
layer=$(mktemp -d)
trap 'umount --recursive --lazy "$layer"; rmdir "$layer"' EXIT
mount -t tmpfs layer "$layer"
root=$layer/root
mkdir "$layer/upper" "$layer/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" root "$root"
for directory in proc sys dev; do mount --rbind "/$directory" "$root/$directory"; done
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
cp -L --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/etc/wireguard" "$root/tmp/wgpy"
(umask 077; printf '%s' "$CONFIG" >"$root/etc/wireguard/wg0.conf")
cp -a "$1"/* "$root/tmp/wgpy"
cp "$2" "$root/tmp/commands"
chroot "$root" bash -ec 'cd /tmp/wgpy; . /tmp/commands'
"""
# What every block of commands runs in: nothing is left of the one before.
BLOCK = """
cat >/tmp/block <<'WRITTEN'
{written}
WRITTEN
echo "-- block {number}"
timeout -k 5 60 unshare --net bash -ec 'ip link set lo up; . /tmp/block'
for ((attempt = 0; attempt < 100; attempt++)); do
    [ -e /run/wireguard/wg0.sock ] || break
    sleep 0.05
done
[ ! -e /run/wireguard/wg0.sock ]
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who cloned the repository: nothing is built."""
    copy = tmp_path_factory.mktemp("clone") / "wgpy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_CLONED))
    return copy


def blocks_of_readme(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.M)


def readme_blocks() -> list[str]:
    return blocks_of_readme("sh")


def config() -> str:
    """The README's, with keys in the places that it leaves for them."""
    (text,) = (block for block in blocks_of_readme("ini") if "[Interface]" in block)
    filled = re.sub(r"^PrivateKey = <.*>$", f"PrivateKey = {KEY}", text, flags=re.MULTILINE)
    return re.sub(r"^PublicKey = <.*>$", f"PublicKey = {PEER}", filled, flags=re.MULTILINE)


def manual_blocks() -> list[str]:
    examples = (ROOT / "man" / "wgpy.8").read_text().partition(".Sh EXAMPLES")[2]
    examples = examples.partition("\n.Sh ")[0]
    return re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", examples, re.DOTALL | re.MULTILINE)


def ended(written: str) -> str:
    """A block and what ends the interface, if it does not do so itself; -f stays till a signal."""
    if " -f " in written:
        until = "until [ -e /run/wireguard/wg0.sock ]; do sleep 0.05; done"
        return f"env {written.strip()} & {until}; kill $!; wait $!"
    if "link delete wg0" in written:
        return written
    if "netns container" in written:
        return f"{written}\nip -n container link delete wg0; ip netns delete container"
    return f"{written}\nip link delete wg0"


def test_the_documents_hold_the_commands_that_are_tried() -> None:
    by_wg_quick = "WG_QUICK_USERSPACE_IMPLEMENTATION=wgpy"
    commands = ["apt-get", "(umask", by_wg_quick, "wgpy", "wgpyctl", "sed"]
    assert [block.split()[0] for block in readme_blocks()] == commands
    assert len(manual_blocks()) == 4
    assert "<" not in config()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get")
@pytest.mark.skipif(
    not any(Path("/var/lib/apt/lists").glob("*_Packages*")),
    reason="apt has no lists of packages (apt-get update)",
)
@pytest.mark.parametrize("document", ["README.md", "docs/containers.md"])
def test_what_is_to_be_installed_is_there(document: str) -> None:
    written = (ROOT / document).read_text().replace("\\\n", " ")
    images = set(IMAGE.findall(written))  # whose packages are meant, if it is not anybody's
    here = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if images - {here}:
        pytest.skip(f"this is no Debian {' or '.join(images)}")
    lines = INSTALL.findall(written)
    assert lines
    for line, x86_64_only in lines:
        if x86_64_only and platform.machine() != "x86_64":
            continue
        command = ["apt-get", "--simulate", *shlex.split(line)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/usr/bin/python3").exists(), reason="Debian's Python is not in /usr/bin"
)
def test_what_is_written_can_be_typed(checkout: Path, tmp_path: Path) -> None:
    install, keys, by_wg_quick, by_hand, look, unit = readme_blocks()
    blocks = [by_wg_quick + look, by_hand, *manual_blocks()]
    commands = tmp_path / "commands"
    commands.write_text(
        "\n".join(
            [
                NOT_APT.sub("", install),
                keys,
                *(
                    BLOCK.format(written=ended(block), number=number)
                    for number, block in enumerate(blocks)
                ),
                unit,
                "grep -x 'ExecStart=/opt/wgpy/bin/wgpy -f %i' /etc/systemd/system/wgpy@.service",
                "man -w wgpy || ls -L /usr/local/share/man/man8/wgpy.8",
            ]
        )
    )
    private = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*private, "bash", "-c", FRESH_ROOT, "bash", checkout, commands],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        env={
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WG", "PYTHON"))
        }
        | {"PATH": PATH, "CONFIG": config()},
        check=False,
    )
    assert done.returncode == 0, done.stdout
