# SPDX-License-Identifier: MIT
"""Writes the completions of wgpyctl for bash, zsh and fish, by shtab: python completions/make.py.

They are made here and not at installation, so that shtab is for developers alone; tests/ctl sees to
it that they are current.
"""

import argparse
from pathlib import Path
from typing import Final

import shtab

from wgpy.ctl.cli import make_parser

FILES: Final[dict[str, shtab.ShellType]] = {
    "wgpyctl": "bash",
    "_wgpyctl": "zsh",
    "wgpyctl.fish": "fish",
}
# bash expands what it is given here, so that no name may hold more than this; fish expands the
# command as well, so that there may be no dollar in it.
NAME: Final = "[A-Za-z0-9_=+.-]*"
INTERFACES: Final = shtab.cmd(
    f"ls /run/wgpy 2>/dev/null | grep -x '{NAME}[.]status' | sed 's/[.]status//'; "
    f"wg show interfaces 2>/dev/null | tr ' ' '\\n' | grep -x '{NAME}'"
)
TUNNELS: Final = shtab.cmd(
    "ls /run/wgpy /run/user/*/wgpy /tmp/wgpy-* 2>/dev/null "
    f"| grep -x '{NAME}[.]exec' | sed 's/[.]exec//'"
)
COMPLETIONS: Final = {
    "interface": INTERFACES,
    "target": INTERFACES,
    "names": shtab.FILE,
    "conf": shtab.FILE,
    "auth": shtab.FILE,
    "join": TUNNELS,
}


def make(shell: shtab.ShellType) -> str:
    """Return the script for a shell."""
    parser = make_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.dest in COMPLETIONS:
                action.complete = COMPLETIONS[action.dest]
    return shtab.complete(parser, shell)


def main() -> None:
    """Write them beside this file."""
    for name, shell in FILES.items():
        Path(__file__).with_name(name).write_text(make(shell))


if __name__ == "__main__":
    main()
