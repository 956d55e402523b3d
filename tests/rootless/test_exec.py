# SPDX-License-Identifier: MIT
"""`wgpyctl exec`: a command whose only network is a tunnel, by whoever wants one."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from rootless.execs import JOIN, NOBODY, READY, Place, first, is_over, peer, place, until_state
from rootless.lab import HERE, eventually, inhabitants
from rootless.test_keeper import RESOLVED
from rootless.test_refusals import needs_seccomp

from wgpy.ctl.cli import main


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as one:
        yield one


@pytest.fixture(scope="module")
def home() -> Iterator[Place]:
    """One with a tunnel, for JOIN; who joins is run by the same as who makes one."""
    with place() as one, first(one):
        yield one


@pytest.mark.parametrize("is_root", [False, True])
def test_a_command_is_as_it_would_be_outside_but_for_its_network(is_root: bool) -> None:
    script = f"cat; pwd; id -u; echo $WGPY_TEST; ls /sys/class/net; echo {READY} >&2; exit 7"
    with place(is_root=is_root) as one:
        command = ["env", "WGPY_TEST=kept", "sh", "-c", script]
        status, output, errors = one.run(one.conf(), "--", *command)
    assert output.split() == [str(one.path), "0" if is_root else str(NOBODY), "kept", "lo", "wg0"]
    assert (status, errors) == (7, f"{READY}\n")


def test_names_are_looked_up_in_the_tunnel_and_nowhere_else(here: Place) -> None:
    script = "getent ahostsv4 db.internal | head -n 1; ls /run/nscd /run/systemd/resolve | wc -w"
    no_dns = f"{RESOLVED}\nrm /etc/resolv.conf; echo nameserver 10.9.0.1 >/etc/resolv.conf"
    with peer() as port:
        conf = here.conf(port=port, dns=True)
        status, output, errors = here.run(conf, "--", "sh", "-c", script, setup=RESOLVED)
        plain = here.conf("plain", port=port)
        found = here.run(plain, "--", "getent", "ahostsv4", "x.internal", setup=no_dns)[1]
    assert output.split() == ["10.9.0.7", "STREAM", "db.internal", "3"], "two headings, resolv.conf"
    assert (status, errors) == (0, "")
    assert found.split()[0] == "10.9.0.7", "a file without DNS: the host's server, in the tunnel"


def test_what_kills_the_command_kills_us(home: Place) -> None:
    ended = home.run(*JOIN, "sh", "-c", "kill -TERM $$")
    assert ended == (-signal.SIGTERM, "", "")


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("no-such-command", 127, "wgpyctl: no-such-command: No such file or directory\n"),
        ("/etc/passwd", 126, "wgpyctl: /etc/passwd: Permission denied\n"),
    ],
)
def test_a_command_that_cannot_be_run_is_told_as_env_does(
    home: Place, command: str, status: int, says: str
) -> None:
    assert home.run(*JOIN, command) == (status, "", says)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("PrivateKey = no", "line 5: PrivateKey"),
        ("PostUp = false", "line 5: PostUp is a command, and none is run here"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_with_its_line(
    here: Place, more: str, says: str
) -> None:
    conf = here.conf(more=more)
    status, output, errors = here.run(conf, "--", "true")
    assert (status, output) == (125, "")
    assert errors.startswith(f"wgpyctl: {conf}, {says}")
    assert errors.count("\n") == 1


def test_commands_of_a_file_are_passed_over_if_that_is_asked_for(here: Place) -> None:
    conf = here.conf(more="PostUp = false")
    assert here.run("--ignore-commands", conf, "--", "true") == (0, "", "")


@needs_seccomp
def test_a_host_that_forbids_it_is_told_in_a_line(here: Place) -> None:
    filter_ = [sys.executable, str(HERE / "filtered.py"), "unshare=EPERM", "--"]
    status, output, errors = here.run(here.conf(), "--", "true", wrapper=filter_)
    assert (status, output) == (125, "")
    assert errors.startswith("wgpyctl: namespaces are forbidden here")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["home.conf"], "there is no command: write it after `--`"),
        (["--", "true"], "it takes either a file or --join"),
        (["--join", "home", "home.conf", "--", "true"], "it takes either a file or --join"),
        (["--join", "home", "--name", "x", "--", "true"], "--name and --ignore-commands are for"),
        (["--name", "../x", "home.conf", "--", "true"], "no name for a tunnel: ../x"),
        (["home.conf", "ls", "-l"], "there is no command: write it after `--`"),
        (["home.conf", "--"], "there is no command: write it after `--`"),
        (["home.conf", "other.conf", "--", "true"], "unrecognized arguments: other.conf"),
    ],
)
def test_a_wrong_call_is_told_and_has_a_status_of_no_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    try:
        status: object = main(["exec", *arguments])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (125, 1)
    assert said.startswith(f"wgpyctl: {says}")


# ---- signals ----

TRAPS = f"""
for s in HUP INT QUIT TERM USR1 USR2 WINCH; do trap "echo $s" $s; done
echo {READY}
while :; do sleep 1000 >/dev/null 2>&1 & wait; done
"""


def test_signals_reach_the_command(home: Place) -> None:
    with home.started(*JOIN, "sh", "-c", TRAPS) as one:
        for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"):
            one.process.send_signal(getattr(signal, f"SIG{name}"))
            one.expect(name)


def test_a_command_stops_and_goes_on_as_we_are_told(home: Place) -> None:
    with home.started(*JOIN, "sh", "-c", f"echo {READY}; exec cat") as one:
        one.process.send_signal(signal.SIGTSTP)
        until_state(one.job(), "T")
        one.process.send_signal(signal.SIGCONT)
        until_state(one.job(), "S")
        output, errors = one.process.communicate("typed\n", timeout=30)
        assert (one.process.returncode, output, errors) == (0, "typed\n", "")


def test_a_signal_that_we_were_to_ignore_the_command_ignores(home: Place) -> None:
    wrapper = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    command = ["grep", "SigIgn", "/proc/self/status"]
    _, output, _ = home.run(*JOIN, *command, wrapper=wrapper)
    assert int(output.split()[1], 16) == 1 << (signal.SIGHUP - 1)


def test_signals_for_all_processes_of_a_service_leave_the_end_to_the_command(here: Place) -> None:
    script = f"trap 'sleep 0; exit 5' TERM; echo {READY}; while :; do sleep 1000 & wait; done"
    with here.started(here.conf(), "--", "sh", "-c", script) as one:
        for pid in (one.tunnel(), one.keeper(), one.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert one.end() == (5, "", "")


# ---- who dies first ----

STRAY = f"setsid sleep 1000 & echo {READY}; exec sleep 1000"


def test_nothing_is_left_when_we_are_killed(here: Place) -> None:
    with here.started(here.conf(), "--", "sh", "-c", STRAY) as one:
        network, tunnel = one.network(), one.tunnel()
        one.process.kill()
        eventually(lambda: not inhabitants(network), "the end of all")
        eventually(lambda: is_over(tunnel), "the end of the tunnel's process")


@pytest.mark.parametrize("who", ["tunnel", "keeper"])
def test_the_command_ends_with_the_tunnel_and_that_is_said(here: Place, who: str) -> None:
    with here.started(here.conf(), "--", "sh", "-c", STRAY) as one:
        network = one.network()
        os.kill(getattr(one, who)(), signal.SIGKILL)
        status, _, errors = one.end()
        eventually(lambda: not inhabitants(network), "the end of all")
    assert status == -signal.SIGKILL
    assert errors.splitlines()[-1] == "wgpyctl: the tunnel has ended, and sh with it"


def test_what_the_command_leaves_behind_ends_with_it(here: Place) -> None:
    script = f"setsid sleep 1000 & echo {READY}; read x; exit 4"
    with here.started(here.conf(), "--", "sh", "-c", script) as one:
        network = one.network()
        output, errors = one.process.communicate("go\n", timeout=30)
        assert (one.process.returncode, output, errors) == (4, "", "")
        assert not inhabitants(network)
    assert [entry.name for entry in here.path.glob("wgpy/*")] == []


# ---- descriptors ----


def test_a_command_has_no_descriptor_but_the_standard_ones(home: Place) -> None:
    wrapper = ["sh", "-c", 'exec 7<&0 8>&1; exec "$@"', "sh"]
    listed = home.run(*JOIN, "ls", "/proc/self/fd", wrapper=wrapper)[1].split()
    assert listed == ["0", "1", "2", "3"], "the last is that of the directory"


def test_standard_streams_that_are_closed_stay_so_for_the_command(home: Place) -> None:
    wrapper = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
    script = "for n in 0 1 2; do [ -e /proc/self/fd/$n ] && echo $n >&2; done; true"
    assert home.run(*JOIN, "sh", "-c", script, wrapper=wrapper) == (0, "", "2\n")
