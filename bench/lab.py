"""Two hosts on a cable, each a network namespace, and a tunnel between them.

Everything is a context manager that leaves nothing behind, whatever happens inside.  Daemons stay
in the foreground as our children, so that their pids are known, in a session of their own, so that
Ctrl-C ends them in order and not all at once; they die with us even if we are killed.
"""

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SOCKETS = Path("/var/run/wireguard")
NAMESPACES = Path("/run/netns")
PREFIX = "wgpy-bench"
CABLE = "cable"
PORT = 51820
MTU = 1420
IDLE_PEERS = 999
START_S = 10.0
END_S = 5.0


class LabError(Exception):
    """Why something could not be measured, in one line."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """A WireGuard to measure."""

    name: str
    command: tuple[str, ...]  # takes the interface's name too, stays in the foreground; (): kernel
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel interface, without a daemon."""
        return not self.command


@dataclass(frozen=True, slots=True)
class Counters:
    """Of an interface: what came in (for a tunnel: out of it, towards the host)."""

    frames: int
    bytes: int


def run(argv: Sequence[str], stdin: str = "", timeout_s: float = 30.0) -> str:
    """What the command prints.  LabError: it failed or took too long."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: not done after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise LabError(" ".join(f"{' '.join(argv)}: {done.stdout}{done.stderr}".split()))
    return done.stdout


def until(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    """Waits for the condition.  LabError: in vain."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    """Ends a child, kindly at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return


@dataclass(frozen=True, slots=True)
class Host:
    """One end: a namespace, its addresses on the cable and in the tunnel."""

    name: str  # "a" or "b"
    number: int  # 1 or 2: the last part of its addresses

    @property
    def namespace(self) -> str:
        """Unique to this process."""
        return f"{PREFIX}-{os.getpid()}-{self.name}"

    @property
    def interface(self) -> str:
        """The tunnel; unique because all namespaces share one directory of UAPI sockets."""
        return f"wgb{os.getpid()}{self.name}"

    @property
    def outer(self) -> str:
        """On the cable."""
        return f"192.0.2.{self.number}"

    @property
    def inner4(self) -> str:
        """In the tunnel."""
        return f"10.9.0.{self.number}"

    @property
    def inner6(self) -> str:
        """In the tunnel."""
        return f"fd77::{self.number}"

    @property
    def socket(self) -> Path:
        """Where the daemon listens for wg."""
        return SOCKETS / f"{self.interface}.sock"

    def argv(self, *command: str) -> list[str]:
        """What runs a command here, under its own pid, and not longer than we live."""
        inside = ["ip", "netns", "exec", self.namespace, *command]
        return ["setpriv", "--pdeathsig", "KILL", *inside]

    def run(self, *command: str, stdin: str = "", timeout_s: float = 30.0) -> str:
        """Runs a command here; see run()."""
        return run(self.argv(*command), stdin, timeout_s)

    def ip(self, *arguments: str) -> str:
        """Runs ip here."""
        return run(["ip", "-n", self.namespace, *arguments])

    @contextlib.contextmanager
    def child(
        self,
        *command: str,
        output: IO[str] | int = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """A process here that ends with the context.  Its pid is the command's."""
        process = subprocess.Popen(
            self.argv(*command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ) | dict(environment or {}),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)
            if process.stdout is not None:
                process.stdout.close()

    def counters(self) -> Counters:
        """The tunnel's."""
        link = json.loads(self.ip("-j", "-s", "link", "show", "dev", self.interface))[0]
        received = link["stats64"]["rx"]
        return Counters(received["packets"], received["bytes"])


HOSTS = Host("a", 1), Host("b", 2)


def remove_stale() -> None:
    """What runs left that were killed: namespaces and sockets named after a pid that is no more."""
    for path in (*NAMESPACES.glob(f"{PREFIX}-*"), *SOCKETS.glob("wgb*.sock")):
        match = re.fullmatch(rf"{PREFIX}-(\d+)-[ab]|wgb(\d+)[ab]\.sock", path.name)
        if match is None or Path("/proc", match[1] or match[2]).exists():
            continue
        if path.parent == NAMESPACES:
            run(["ip", "netns", "delete", path.name])
        else:
            path.unlink(missing_ok=True)


def _delete_namespace(name: str) -> None:
    if Path(NAMESPACES, name).exists():
        run(["ip", "netns", "delete", name])


@contextlib.contextmanager
def cable() -> Iterator[tuple[Host, Host]]:
    """The two hosts, joined."""
    remove_stale()
    a, b = HOSTS
    with contextlib.ExitStack() as stack:
        for host in HOSTS:
            stack.callback(_delete_namespace, host.namespace)
            run(["ip", "netns", "add", host.namespace])
            host.ip("link", "set", "lo", "up")
        veth = ["type", "veth", "peer", "name", CABLE, "netns", b.namespace]
        a.ip("link", "add", "name", CABLE, *veth)
        for host in HOSTS:
            host.ip("address", "add", f"{host.outer}/24", "dev", CABLE)
            host.ip("link", "set", CABLE, "up")
        yield a, b


@dataclass(slots=True)
class Tunnel:
    """An implementation at both ends, configured and up; pids by the host's name, none: kernel."""

    implementation: Implementation
    a: Host
    b: Host
    pids: dict[str, int]
    settings: dict[str, str]

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both ends."""
        return self.a, self.b

    def check(self) -> None:
        """LabError: a packet doesn't come through."""
        self.a.run("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-w", "10", self.b.inner4)

    @contextlib.contextmanager
    def idle_peers(self, count: int = IDLE_PEERS) -> Iterator[None]:
        """Both ends know so many peers more, without endpoints, while it lasts."""
        for host in self.hosts:
            self._sync(host, self.settings[host.name] + idle_peers(count))
        try:
            yield
        finally:
            for host in self.hosts:
                self._sync(host, self.settings[host.name])

    @staticmethod
    def _sync(host: Host, settings: str) -> None:
        host.run("wg", "syncconf", host.interface, "/dev/stdin", stdin=settings)

    def sent_bytes(self) -> int:
        """UDP payload of all WireGuard messages that a sent to b."""
        return int(self.a.run("wg", "show", self.a.interface, "transfer").split()[2])

    @contextlib.contextmanager
    def one_way(self) -> Iterator[None]:
        """B loses whatever a sends, before it reaches the daemon."""
        chain = f"type filter hook prerouting priority raw; udp dport {PORT} drop;"
        self.b.run("nft", "-f", "-", stdin=f"table inet bench {{ chain early {{ {chain}\n}}\n}}\n")
        try:
            yield
        finally:
            self.b.run("nft", "delete table inet bench")


def random_key() -> str:
    """As good as a public key; nobody uses it."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def idle_peers(count: int) -> str:
    """Settings of so many peers with random keys and an address each."""
    sections = []
    for i in range(count):
        key = random_key()
        sections.append(f"[Peer]\nPublicKey = {key}\nAllowedIPs = 10.200.{i >> 8}.{i & 255}/32\n")
    return "".join(sections)


def settings_of(private_key: str, peer: Host, peer_public_key: str) -> str:
    """For `wg setconf`."""
    return (
        f"[Interface]\nPrivateKey = {private_key}\nListenPort = {PORT}\n"
        f"[Peer]\nPublicKey = {peer_public_key}\nEndpoint = {peer.outer}:{PORT}\n"
        f"AllowedIPs = {peer.inner4}/32, {peer.inner6}/128\n"
    )


@contextlib.contextmanager
def tunnel(implementation: Implementation, pin_daemons: bool = False) -> Iterator[Tunnel]:
    """Starts both ends, and ends them.  pin_daemons: that of a on core 0, that of b on core 1."""
    a, b = HOSTS
    private = {host.name: run(["wg", "genkey"]).strip() for host in HOSTS}
    public = {name: run(["wg", "pubkey"], key).strip() for name, key in private.items()}
    with contextlib.ExitStack() as stack:
        made = Tunnel(implementation, a, b, {}, {})
        for host, peer in ((a, b), (b, a)):
            if implementation.is_kernel:
                stack.callback(_delete_interface, host)
                host.ip("link", "add", host.interface, "type", "wireguard")
            else:
                made.pids[host.name] = stack.enter_context(_daemon(host, implementation))
            made.settings[host.name] = settings_of(private[host.name], peer, public[peer.name])
            _configure(host, made.settings[host.name])
            if pin_daemons and host.name in made.pids:
                pin(made.pids[host.name], {host.number - 1})
        made.check()
        yield made


def _listens(path: Path) -> bool:
    """Whether wg can talk to it; the file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


@contextlib.contextmanager
def _daemon(host: Host, implementation: Implementation) -> Iterator[int]:
    """Its pid, as soon as wg can talk to it."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        stack.callback(host.socket.unlink, missing_ok=True)
        stack.callback(_delete_interface, host)
        command = [*implementation.command, host.interface]
        environment = implementation.environment
        process = stack.enter_context(host.child(*command, output=log, environment=environment))

        def is_ready() -> bool:
            if process.poll() is not None:
                log.seek(0)
                tail = " ".join("".join(log.readlines()[-5:]).split())
                raise LabError(f"{implementation.name} ended by itself: {tail}")
            return _listens(host.socket)

        until(is_ready, f"the socket of {implementation.name}")
        yield process.pid


def _configure(host: Host, settings: str) -> None:
    """What wg-quick does."""
    interface = host.interface
    host.run("wg", "setconf", interface, "/dev/stdin", stdin=settings)
    host.ip("address", "add", f"{host.inner4}/24", "dev", interface)
    host.ip("address", "add", f"{host.inner6}/64", "dev", interface, "nodad")
    host.ip("link", "set", interface, "mtu", str(MTU), "up")


def _delete_interface(host: Host) -> None:
    """A daemon's goes away with it, and is gone already."""
    with contextlib.suppress(LabError):
        host.ip("link", "delete", host.interface)


# ---- processes -----------------------------------------------------------------------------------


def _tasks(pid: int) -> list[Path]:
    return list(Path("/proc", str(pid), "task").iterdir())


def pin(pid: int, cores: set[int]) -> None:
    """Moves all threads of a process to these cores."""
    for task in _tasks(pid):
        os.sched_setaffinity(int(task.name), cores)


@contextlib.contextmanager
def pinned(pid: int, core: int) -> Iterator[None]:
    """A process on one core while it lasts."""
    before = os.sched_getaffinity(pid)
    pin(pid, {core})
    try:
        yield
    finally:
        pin(pid, before)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process took so far, and the memory that it has now."""

    cpu_s: float
    switches: int  # of contexts, wanted or not, by the threads that still run
    resident_mb: float  # 1e6 bytes


def status_number(status: str, name: str) -> int:
    """A number of /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def usage_of(pid: int) -> Usage:
    """Reads it from /proc.  LabError: there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        statuses = [(task / "status").read_text() for task in _tasks(pid)]
        resident_kib = status_number(Path(f"/proc/{pid}/status").read_text(), "VmRSS")
    except (OSError, StopIteration) as error:
        raise LabError("a daemon has died") from error
    kinds = "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"
    return Usage(
        cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),  # utime, stime
        switches=sum(status_number(status, kind) for status in statuses for kind in kinds),
        resident_mb=resident_kib * 1024 / 1e6,
    )


# ---- what there is to measure --------------------------------------------------------------------


def first_line(argv: Sequence[str]) -> str:
    """The first line that a command prints, "" if it cannot or will not."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "")


def has_kernel_module() -> bool:
    """Whether the kernel makes WireGuard interfaces; loads the module if it has to."""
    probe = ["unshare", "--net", "ip", "link", "add", "wgpy-check", "type", "wireguard"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def go_version(path: str) -> str:
    """The module version that a Go program was built from, "" where there is no Go to ask."""
    try:
        done = subprocess.run(
            ["go", "version", "-m", path], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    modules = (line.split() for line in done.stdout.splitlines())
    return next((words[2] for words in modules if words[:1] == ["mod"]), "")


def find_wireguard_go() -> Implementation | None:
    """The newest that Go installed, else the distribution's."""
    go_bin = first_line(["go", "env", "GOBIN"]) or f"{first_line(['go', 'env', 'GOPATH'])}/bin"
    built = shutil.which("wireguard", path=go_bin)
    if built is not None:
        version = f"built from source, {go_version(built)}"
        return Implementation("wireguard-go", (built, "-f"), version)
    packaged = shutil.which("wireguard-go")
    if packaged is None:
        return None
    version = first_line([packaged, "--version"]).removeprefix("wireguard-go ")
    package = f"the distribution's {version}"
    if "2022" in version:
        package += ", from before it batched packets"
    return Implementation("wireguard-go", (packaged, "-f"), package)


def find_kernel() -> Implementation | None:
    """The kernel module."""
    if not has_kernel_module():
        return None
    return Implementation("kernel", (), f"Linux {os.uname().release}")
