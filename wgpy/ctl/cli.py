# SPDX-License-Identifier: MIT
"""Command line of wgpyctl -> what it does, and its exit status.

Each command imports what it takes when it runs: `status` is to answer at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from wgpy.ctl.outcome import (
    ALL,
    EXIT_HEALTHY,
    EXIT_NO_INTERFACE,
    EXIT_NO_TUNNEL,
    EXIT_USAGE,
    EXIT_WRONG,
    CallError,
    NoInterfaceError,
    fail,
)
from wgpy.errors import StartError, StatusError

if TYPE_CHECKING:
    from wgpy.ctl.interfaces import Interfaces

EXIT_STATUS: Final = """exit status:
  0  nothing is wrong, but for notes
  1  something is wrong with an interface, its status cannot be had, or there is no tunnel
  2  the call is wrong, or needs what is not installed
  3  there is no such interface

of exec, that of its command, and besides:
  125  there is no tunnel, or the call is wrong
  126  the command cannot be run
  127  there is no such command
"""
EXEC_USAGE: Final = """\
wgpyctl exec [--name NAME] [--ignore-commands] CONF -- COMMAND...
       wgpyctl exec --join NAME -- COMMAND..."""


class _Parser(argparse.ArgumentParser):
    exit_status = EXIT_USAGE  # for a wrong call

    def error(self, message: str) -> NoReturn:
        self.exit(self.exit_status, f"wgpyctl: {message} (see wgpyctl --help)\n")


def make_parser() -> _Parser:
    """Return what takes the command line apart; `man wgpyctl` tells the same at length."""
    parser = _Parser(
        prog="wgpyctl",
        description="Looks at WireGuard interfaces, wgpy's and others, and says what is wrong; "
        "lets programs into a tunnel without an interface.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    status = commands.add_parser("status", help="what is wrong, and what wg show would say")
    _add_interface(status, f"name of an interface, or {ALL} (default)", default=ALL)
    status.add_argument("--json", action="store_true", help="one JSON document a line")
    watch = commands.add_parser("watch", help="a live table of an interface's peers")
    _add_interface(watch, "name of the interface; needed if there are several", default=None)
    metrics = commands.add_parser("metrics", help="text for Prometheus")
    _add_interface(metrics, f"name of an interface, or {ALL} (default)", default=ALL)
    metrics.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT",
        help="serve them by HTTP, on the loopback address unless another is given",
    )
    metrics.add_argument(
        "--names",
        metavar="CONF",
        help="a file of wg-quick whose peers have lines `# friendly_name = NAME`",
    )
    doctor = commands.add_parser("doctor", help="try out what can be wrong around an interface")
    doctor.add_argument(
        "target", metavar="NAME|CONF", help="name of an interface, or a file of wg-quick (with a /)"
    )
    _add_proxy(commands.add_parser("proxy", help="let programs of this host into a tunnel"))
    _add_exec(commands.add_parser("exec", help="run a command in a tunnel", usage=EXEC_USAGE))
    return parser


def _add_exec(parser: _Parser) -> None:
    parser.exit_status = EXIT_NO_TUNNEL
    parser.add_argument("conf", metavar="CONF", nargs="?", help="a file of wg-quick")
    parser.add_argument("--name", help="by which others join the tunnel; that of NAME.conf")
    parser.add_argument("--join", metavar="NAME", help="take a tunnel of yours that runs")
    parser.add_argument(
        "--ignore-commands",
        action="store_true",
        help="pass over PreUp, PostUp, PreDown, PostDown of the file",
    )


def _add_proxy(parser: argparse.ArgumentParser) -> None:
    place, forward = "[ADDRESS:]PORT", "[ADDRESS:]PORT=HOST:PORT[/udp]"
    parser.add_argument("conf", metavar="CONF", help="a file of wg-quick")
    for option, metavar, text in (
        ("--socks5", place, "serve SOCKS5, on the loopback address unless another is given"),
        ("--http", place, "serve CONNECT of HTTP"),
        ("-L", forward, "listen here, connect in the tunnel"),
        ("-R", forward, "listen in the tunnel, connect here"),
    ):
        parser.add_argument(option, metavar=metavar, action="append", default=[], help=text)
    parser.add_argument("--auth", metavar="FILE", help="lines of NAME:PASSWORD, who may use it")
    for option, text in (
        ("--allow-remote", "listen for other hosts where that is said"),
        ("--allow-open", "and let them in without a password"),
    ):
        parser.add_argument(option, action="store_true", help=text)
    for option, metavar, text in (
        ("--max-connections", "N", "at a time (default: 1024)"),
        ("--max-per-client", "N", "of one address (default: as many)"),
        ("--idle", "SECONDS", "end a connection on which nothing moves (default: 7440; 0: never)"),
    ):
        parser.add_argument(option, metavar=metavar, type=int, help=text)


def _add_interface(parser: argparse.ArgumentParser, text: str, *, default: str | None) -> None:
    parser.add_argument("interface", metavar="NAME", nargs="?", default=default, help=text)


def main(argv: Sequence[str] | None = None, interfaces: "Interfaces | None" = None) -> int:
    """Run the command; return the exit status.  Raises SystemExit on a wrong call."""
    arguments, command = _parse(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever the locale can show
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments.command == "exec":
            return _execute(arguments, command)
        status = _run(arguments, interfaces or _interfaces())
        sys.stdout.flush()
    except NoInterfaceError as error:
        return fail(EXIT_NO_INTERFACE, str(error))
    except (StatusError, StartError) as error:
        return fail(EXIT_WRONG, str(error))
    except CallError as error:
        return fail(EXIT_USAGE, str(error))
    except KeyboardInterrupt:
        return EXIT_HEALTHY
    except BrokenPipeError:  # the reader has seen enough; so that Python does not flush at exit:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_HEALTHY
    return status


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Return what a command line says, and the command that exec is to run: all after `--`.

    Raises SystemExit.
    """
    parser = make_parser()
    if argv[:1] != ["exec"]:
        return parser.parse_args(argv), ()
    parser.exit_status = EXIT_NO_TUNNEL
    cut = argv.index("--") if "--" in argv else len(argv)
    ours, command = argv[:cut], argv[cut + 1 :]
    if not command and {"-h", "--help"}.isdisjoint(ours):
        parser.error("there is no command: write it after `--`")
    return parser.parse_args(ours), command


def _execute(arguments: argparse.Namespace, command: Sequence[str]) -> int:
    from wgpy.ctl.exec import Call, execute

    names = arguments.name, arguments.join
    try:
        call = Call(command, arguments.conf, *names, ignore_commands=arguments.ignore_commands)
    except CallError as error:
        return fail(EXIT_NO_TUNNEL, str(error))
    return execute(call)


def _interfaces() -> "Interfaces":
    from wgpy.ctl.interfaces import Interfaces

    return Interfaces()


def _run(arguments: argparse.Namespace, interfaces: "Interfaces") -> int:
    if arguments.command == "status":
        from wgpy.ctl.show import show

        return show(interfaces, arguments.interface, as_json=arguments.json)
    if arguments.command == "watch":
        _watch(interfaces, arguments.interface)
    if arguments.command == "metrics":
        return _metrics(interfaces, arguments)
    if arguments.command == "proxy":
        return _proxy(arguments)
    from wgpy.ctl.doctor import examine

    return examine(interfaces, arguments.target)


def _watch(interfaces: "Interfaces", name: str | None) -> NoReturn:
    try:
        from wgpy.ctl.watch import watch
    except ModuleNotFoundError as error:
        raise _missing(error, "rich", "watch") from error
    watch(interfaces, name)


def _metrics(interfaces: "Interfaces", arguments: argparse.Namespace) -> int:
    try:
        from wgpy.ctl.conf_file import read_names
        from wgpy.ctl.metrics import print_metrics, serve_metrics
    except ModuleNotFoundError as error:
        raise _missing(error, "prometheus_client", "metrics") from error
    names = {} if arguments.names is None else read_names(Path(arguments.names))
    if arguments.listen is None:
        return print_metrics(interfaces, arguments.interface, names)
    return serve_metrics(interfaces, arguments.interface, arguments.listen, names)


def _proxy(arguments: argparse.Namespace) -> int:
    if arguments.http:
        try:
            import h11  # noqa: F401
        except ModuleNotFoundError as error:
            raise _missing(error, "h11", "proxy") from error
    from wgpy.ctl.proxy import proxy

    said = vars(arguments)
    del said["command"]
    return proxy(**said)


def _missing(error: ModuleNotFoundError, package: str, extra: str) -> Exception:
    if (error.name or "").partition(".")[0] != package:
        return error
    return CallError(f"it takes {package}, which is not installed: pip install 'wgpy[{extra}]'")
