# SPDX-License-Identifier: MIT
"""Ways into a tunnel without privileges: TCP through each of them, both directions.

`scripts/bench-rootless` runs this alone in new network, mount and process namespaces.  At the other
end is wgpy as root and a server, of iperf3 or of bench.streams; at this end all ways take turns,
each but the first by nobody, with an identity of its own.  A new way is a context manager in WAYS,
which yields what there is to measure.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.cases import Carried, iperf3
from bench.lab import Implementation, LabError, run, until
from bench.topology import PORT, Tunnel, cable, tunnel
from bench.ways import Ends

IPERF3_PORT = 5201
FORWARD_PORT = 6000
COMMANDS = Path(sys.executable).parent
ENTER = "enter"  # a tunnel, until there is a connection, ms
ENTER_GOAL_MS = 250
# Of what is compared, the least ratios; 0: there is no goal.
GOALS = {
    ("exec", "root", "send"): 0.95,
    ("exec", "root", "receive"): 0.95,
    ("forward", "wireproxy", "send"): 4.0,
    ("forward", "wireproxy", "receive"): 1.7,
    ("streams", "plain", "send"): 0.0,
    ("streams", "plain", "receive"): 0.0,
}
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


Figure = Callable[[float], float]  # of what it gets so many seconds for


@contextlib.contextmanager
def root_mode(client: Client) -> Iterator[dict[str, Figure]]:
    """Go through the interface of a daemon that root runs."""
    yield by_iperf3(client.tunnel, client.tunnel.b.inner4, IPERF3_PORT)


@contextlib.contextmanager
def command(client: Client) -> Iterator[dict[str, Figure]]:
    """Go through the tunnel of `wgpyctl exec`, which runs iperf3."""
    argv = client.as_nobody(str(COMMANDS / "wgpyctl"), "exec", str(client.conf()), "--")
    yield by_iperf3(client.tunnel, client.tunnel.b.inner4, IPERF3_PORT, argv)


@contextlib.contextmanager
def forward(client: Client) -> Iterator[dict[str, Figure]]:
    """Go through a forward of `wgpyctl proxy`."""
    at = f"{FORWARD_PORT}={client.tunnel.b.inner4}:{IPERF3_PORT}"
    command = (str(COMMANDS / "wgpyctl"), "proxy", str(client.conf()), "-L", at)
    with client.tunnel.a.child(*client.as_nobody(*command)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening: "):
            raise LabError(f"the proxy does not start: {line.strip()}")
        yield by_iperf3(client.tunnel, "127.0.0.1", FORWARD_PORT)


@contextlib.contextmanager
def wireproxy(client: Client) -> Iterator[dict[str, Figure]]:
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
        yield by_iperf3(client.tunnel, "127.0.0.1", FORWARD_PORT)


@contextlib.contextmanager
def plain_streams(client: Client) -> Iterator[dict[str, Figure]]:
    """Let asyncio talk over the cable, without a tunnel."""
    with streams(client, client.tunnel.b.outer, DIRECTIONS, ()) as figures:
        yield figures


@contextlib.contextmanager
def tunnel_streams(client: Client) -> Iterator[dict[str, Figure]]:
    """Let asyncio talk through a wgpy.Tunnel, and see how soon it has a connection."""
    cases = (*DIRECTIONS, ENTER)
    with streams(client, client.tunnel.b.inner4, cases, (str(client.conf()),)) as figures:
        yield figures


Way = Callable[[Client], AbstractContextManager[dict[str, Figure]]]
WAYS: dict[str, Way] = {
    "root": root_mode,
    "exec": command,
    "forward": forward,
    "wireproxy": wireproxy,
    "plain": plain_streams,
    "streams": tunnel_streams,
}
Figures = dict[tuple[str, str], list[float]]  # by way and case: Gbit/s, ms of ENTER


def by_iperf3(made: Tunnel, host: str, port: int, argv: Sequence[str] = ()) -> dict[str, Figure]:
    """Measure one stream by iperf3 that argv runs, with its server there."""

    def figure(options: tuple[str, ...], seconds: float) -> float:
        ends = Ends(made.a, made.b, host, "", ())
        with iperf3(ends, seconds, ("-p", str(port), *options)) as command:
            output = made.a.run(*argv, *command, timeout_s=seconds + 30)
        carried = Carried.read(output)
        return carried.bytes * 8 / carried.seconds / 1e9

    return {name: partial(figure, options) for name, options in DIRECTIONS.items()}


@contextlib.contextmanager
def streams(
    client: Client, address: str, cases: Iterable[str], conf: tuple[str, ...]
) -> Iterator[dict[str, Figure]]:
    """Measure by bench.streams; its server has that address."""
    program = (sys.executable, "-m", "bench.streams")
    a, b = client.tunnel.hosts

    def figure(case: str, seconds: float) -> float:
        argv = client.as_nobody(*program, case, address, str(seconds), *conf)
        return float(a.run(*argv, timeout_s=seconds + 30))

    with b.child(*program, "serve", address) as server:
        assert server.stdout is not None
        if server.stdout.readline() != "listening\n":
            raise LabError("the server of streams does not start")
        yield {case: partial(figure, case) for case in cases}


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
                with WAYS[name](Client(made, private, address, server_key, directory)) as cases:
                    for case, measure in cases.items():
                        value = measure(seconds)
                        figures.setdefault((name, case), []).append(value)
                        print(f"{number + 1}: {name}, {case}: {value:.2f}", file=sys.stderr)
    return figures


def report(figures: Figures) -> str:
    """Return a table of medians and spreads, and what became of the goals."""
    lines = ["| Gbit/s; enter: ms | median | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    medians = {case: statistics.median(values) for case, values in figures.items()}
    for (name, direction), values in figures.items():
        shown = (medians[name, direction], min(values), max(values))
        lines.append(" | ".join((f"| {name}, {direction}", *(f"{x:.2f}" for x in shown))) + " |")
    for (ours, theirs, direction), goal in GOALS.items():
        if (ours, direction) in medians and (theirs, direction) in medians:
            ratio = medians[ours, direction] / medians[theirs, direction]
            told = f" (goal: {goal:g})" if goal else ""
            lines.append(f"\n{ours} of {theirs}, {direction}: {ratio:.2f}{told}")
    for (name, case), median in medians.items():
        if case == ENTER:
            lines.append(f"\n{name}: connected after {median:.0f} ms (goal: {ENTER_GOAL_MS})")
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
