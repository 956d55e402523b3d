# SPDX-License-Identifier: MIT
"""Ways into a tunnel without privileges: TCP through each of them, both directions.

`scripts/bench-rootless` runs this alone in new network, mount and process namespaces.  At the other
end is wgpy as root and an iperf3 server; at this end all ways take turns, each but the first by
nobody, with an identity of its own.  A new way is a context manager in WAYS.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.cases import Carried, iperf3
from bench.lab import Implementation, LabError, run, until
from bench.topology import PORT, Tunnel, cable, tunnel
from bench.ways import Ends

IPERF3_PORT = 5201
FORWARD_PORT = 6000
COMMANDS = Path(sys.executable).parent
# Of what the goals compare.
GOALS = {("forward", "wireproxy", "send"): 4.0, ("forward", "wireproxy", "receive"): 1.7}
DIRECTIONS: dict[str, tuple[str, ...]] = {"send": (), "receive": ("-R",)}
ROOT = Path(__file__).resolve().parent.parent
AS_NOBODY = ROOT / "tests/rootless/as_nobody.py"


@dataclass(frozen=True, slots=True)
class Client:
    """A tunnel between two hosts, and this way's own identity there."""

    tunnel: Tunnel
    private_key: str
    address: str
    server_key: str
    directory: Path

    def conf(self, more: str = "") -> Path:
        """Write a file of wg-quick, with lines behind it."""
        path = self.directory / "client.conf"
        path.touch(0o644)  # for nobody
        path.write_text(
            f"[Interface]\nPrivateKey = {self.private_key}\nAddress = {self.address}/24\n"
            f"MTU = 1420\n[Peer]\nPublicKey = {self.server_key}\n"
            f"AllowedIPs = {self.tunnel.b.inner4}/32\nEndpoint = {self.tunnel.b.outer}:{PORT}\n"
            + more
        )
        return path

    def as_nobody(self, *command: str) -> list[str]:
        """Return what runs a command without privileges, which can read what it needs."""
        needed = {sys.base_prefix, sys.prefix, str(ROOT), str(self.directory)}
        needed.add(str(Path(command[0]).resolve().parent))
        return [sys.executable, str(AS_NOBODY), "666", *needed, "--", *command]


@dataclass(frozen=True, slots=True)
class Reached:
    """How iperf3 reaches its server: a command to run it by, and host and port to tell it."""

    argv: tuple[str, ...]
    host: str
    port: int


@contextlib.contextmanager
def root_mode(client: Client) -> Iterator[Reached]:
    """Go through the interface of a daemon that root runs."""
    yield Reached((), client.tunnel.b.inner4, IPERF3_PORT)


@contextlib.contextmanager
def forward(client: Client) -> Iterator[Reached]:
    """Go through a forward of `wgpyctl proxy`."""
    at = f"{FORWARD_PORT}={client.tunnel.b.inner4}:{IPERF3_PORT}"
    command = (str(COMMANDS / "wgpyctl"), "proxy", str(client.conf()), "-L", at)
    with client.tunnel.a.child(*client.as_nobody(*command)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening: "):
            raise LabError(f"the proxy does not start: {line.strip()}")
        yield Reached((), "127.0.0.1", FORWARD_PORT)


@contextlib.contextmanager
def wireproxy(client: Client) -> Iterator[Reached]:
    """Go through a forward of wireproxy, which has a TCP/IP of its own."""
    program = shutil.which("wireproxy")
    assert program is not None, "it is left out where there is none"
    conf = client.conf(
        f"[TCPClientTunnel]\nBindAddress = 127.0.0.1:{FORWARD_PORT}\n"
        f"Target = {client.tunnel.b.inner4}:{IPERF3_PORT}\n"
    )
    a = client.tunnel.a
    with a.child(*client.as_nobody(program, "-c", str(conf), "-s")):
        until(lambda: bool(a.run("ss", "-Hltn", f"sport = {FORWARD_PORT}")), "wireproxy listens")
        yield Reached((), "127.0.0.1", FORWARD_PORT)


Way = Callable[[Client], AbstractContextManager[Reached]]
WAYS: dict[str, Way] = {"root": root_mode, "forward": forward, "wireproxy": wireproxy}
Figures = dict[tuple[str, str], list[float]]  # by way and direction, Gbit/s


def measure(reached: Reached, made: Tunnel, seconds: float, options: tuple[str, ...]) -> float:
    """Return Gbit/s of one stream.  Raises LabError."""
    ends = Ends(made.a, made.b, reached.host, "", ())
    with iperf3(ends, seconds, ("-p", str(reached.port), *options)) as command:
        output = made.a.run(*reached.argv, *command, timeout_s=seconds + 30)
    carried = Carried.read(output)
    return carried.bytes * 8 / carried.seconds / 1e9


def identities(names: list[str]) -> dict[str, tuple[str, str, str]]:
    """Return for each way a private key, a public one, and an address."""
    made = {}
    for number, name in enumerate(names):
        private = run(["wg", "genkey"]).strip()
        made[name] = (private, run(["wg", "pubkey"], private).strip(), f"10.9.0.{100 + number}")
    return made


def measure_all(names: list[str], rounds: int, seconds: float) -> Figures:
    """Let the ways take turns.  Raises LabError."""
    figures: Figures = {}
    wgpy = Implementation("wgpy", (str(COMMANDS / "wgpy"), "-f"), "")
    with contextlib.ExitStack() as stack:
        stack.enter_context(cable())
        made = stack.enter_context(tunnel(wgpy))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        who = identities(names)
        peers = "".join(
            f"[Peer]\nPublicKey = {public}\nAllowedIPs = {address}/32\n"
            for _, public, address in who.values()
        )
        stack.enter_context(made.with_more({"a": "", "b": peers}))
        server_key = made.b.run("wg", "show", made.b.interface, "public-key").strip()
        for number in range(rounds):
            for name in names:
                private, _, address = who[name]
                with WAYS[name](Client(made, private, address, server_key, directory)) as reached:
                    for direction, options in DIRECTIONS.items():
                        gbits = measure(reached, made, seconds, options)
                        figures.setdefault((name, direction), []).append(gbits)
                        print(f"{number + 1}: {name}, {direction}: {gbits:.2f}", file=sys.stderr)
    return figures


def report(figures: Figures) -> str:
    """Return a table of medians and spreads, and what became of the goals."""
    lines = ["| Gbit/s | median | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    medians = {case: statistics.median(values) for case, values in figures.items()}
    for (name, direction), values in figures.items():
        shown = (medians[name, direction], min(values), max(values))
        lines.append(" | ".join((f"| {name}, {direction}", *(f"{x:.2f}" for x in shown))) + " |")
    for (ours, theirs, direction), goal in GOALS.items():
        if (ours, direction) in medians and (theirs, direction) in medians:
            ratio = medians[ours, direction] / medians[theirs, direction]
            lines.append(f"\n{ours} of {theirs}, {direction}: {ratio:.2f} (goal: {goal:g})")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each direction")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, with commas (default: all)")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(WAYS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(WAYS)}")
    if "wireproxy" in names and shutil.which("wireproxy") is None:
        print("there is no wireproxy on the PATH: it is left out", file=sys.stderr)
        names.remove("wireproxy")
    try:
        print(report(measure_all(names, arguments.rounds, arguments.seconds)))
    except LabError as error:
        sys.exit(f"bench.rootless: {error}")


if __name__ == "__main__":
    main()
