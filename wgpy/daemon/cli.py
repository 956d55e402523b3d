# SPDX-License-Identifier: MIT
"""Command line and environment -> Options.  Says what is wrong with them in one line on stderr."""

import argparse
import grp
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from wgpy.daemon.logs import say
from wgpy.daemon.options import Options
from wgpy.daemon.run import run
from wgpy.dataplane.plane import (
    MAX_LANES,
    MAX_THREADS,
    MAX_WORKERS,
    aead_backends,
    default_lanes,
    default_workers,
)
from wgpy.errors import StartError
from wgpy.linux.tun import check_name
from wgpy.log import level

EXIT_FAILURE = 1
EXIT_USAGE = 2


ENVIRONMENT = """environment:
  WG_PROCESS_FOREGROUND=1      stay in the foreground, as -f does
  LOG_LEVEL                    verbose, debug, info, notice (default), error or silent
  WG_TUN_FD, WG_UAPI_FD        use this open TUN queue, this listening socket
  WGPY_SOCKET_GROUP            a group whose members may use wg on the interface, as root may
  WGPY_TRUST_SOCKET_DIR=1      accept a socket directory that others own or can write to
  WGPY_STATUS=0                no socket that tells the status of the interface
  WGPY_STATUS_GROUP            a group whose members may see that status, as root may
  WGPY_KEYLOG                  a file for all keys, with which Wireshark reads captured traffic
  WGPY_AEAD                    the ChaCha20-Poly1305 to use, one of those that --version names
  WGPY_TUN_OFFLOAD=0, WGPY_VNET_HDR=0, WGPY_UDP_GSO=0, WGPY_UDP_GRO=0
                               switch an offload off
  WGPY_WORKERS                 queues of the TUN; half as many as cores, at most 4
  WGPY_PIPELINE                data threads per direction of each, in turns; 1 to 4 by cores
  NOTIFY_SOCKET, JOURNAL_STREAM
                               tell a service manager how far we are (with -f), log for its journal
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"wgpy: {message} (see wgpy --help)\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib import metadata  # slow to import

        backends = ", ".join(aead_backends())
        print(f"wgpy {metadata.version('wgpy')} (AEAD: {backends})")
        sys.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `wgpy` command; returns the exit status.  Raises SystemExit on a wrong call."""
    options = parse(sys.argv[1:] if argv is None else argv, os.environ)
    os.environ.pop("NOTIFY_SOCKET", None)  # the manager expects to hear from nobody else
    try:
        run(options)
    except StartError as error:
        say(f"wgpy: {error}")
        return EXIT_FAILURE
    return 0


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Tell what to do.  Raises SystemExit after help, version, or one line about what is wrong."""
    parser = _Parser(
        prog="wgpy",
        description="Userspace WireGuard: makes INTERFACE, to be configured with wg or wg-quick.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="do not go to background")
    parser.add_argument("--version", action=_Version, nargs=0, help="say it, and the AEADs at hand")
    parser.add_argument("interface", metavar="INTERFACE", help="name of the interface")
    arguments = parser.parse_args(argv)
    log_level = environ.get("LOG_LEVEL", "").lower()
    try:
        check_name(arguments.interface)
        return Options(
            interface=arguments.interface,
            foreground=arguments.foreground or environ.get("WG_PROCESS_FOREGROUND") == "1",
            log_level=level(log_level),
            keep_stderr=log_level not in ("", "silent"),
            aead=environ.get("WGPY_AEAD") or None,
            tun_fd=_descriptor(environ, "WG_TUN_FD"),
            uapi_fd=_descriptor(environ, "WG_UAPI_FD"),
            socket_gid=_group(environ, "WGPY_SOCKET_GROUP"),
            trust_socket_dir=environ.get("WGPY_TRUST_SOCKET_DIR") == "1",
            status=_is_on(environ, "WGPY_STATUS"),
            status_gid=_group(environ, "WGPY_STATUS_GROUP"),
            key_log=environ.get("WGPY_KEYLOG") or None,
            notify_socket=environ.get("NOTIFY_SOCKET") or None,
            journal_stream=environ.get("JOURNAL_STREAM", ""),
            tun_offload=_is_on(environ, "WGPY_TUN_OFFLOAD"),
            vnet_hdr=_is_on(environ, "WGPY_VNET_HDR"),
            udp_gso=_is_on(environ, "WGPY_UDP_GSO"),
            udp_gro=_is_on(environ, "WGPY_UDP_GRO"),
            workers=(workers := _workers(environ, "WGPY_WORKERS")),
            lanes=_lanes(environ, "WGPY_PIPELINE", workers),
        )
    except ValueError as error:
        parser.error(str(error))


def _descriptor(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    if not value:
        return None
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{name} is no file descriptor: {value!r}")
    return int(value)


def _group(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "")
    if not value:
        return None
    try:
        return grp.getgrnam(value).gr_gid
    except KeyError:
        raise ValueError(f"{name}: there is no group {value!r}") from None


def _workers(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return _number(name, value, MAX_WORKERS) if value else default_workers()


def _lanes(environ: Mapping[str, str], name: str, workers: int) -> int:
    value = environ.get(name, "")
    most = min(MAX_LANES, MAX_THREADS // workers)
    return _number(name, value, most) if value else default_lanes(workers)


def _number(name: str, value: str, most: int) -> int:
    if value not in map(str, range(1, most + 1)):
        raise ValueError(f"{name} is no number from 1 to {most}: {value!r}")
    return int(value)


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name) != "0"
