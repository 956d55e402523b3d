# SPDX-License-Identifier: MIT
"""wgpy in a container, as engines make them: namespaces, capabilities, a filter of system calls."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from netns.lab import ENVIRONMENT, Namespace, Side, eventually, ping, transfer

SIZE = 4 << 20  # bytes

# What an engine leaves to root in a container, and what the documents say that wgpy needs.
CAPABILITIES = (
    "chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw "
    "sys_chroot mknod audit_write setfcap net_admin"
)
# System calls that the default filter of engines forbids to who has no other capability (x86-64).
FORBIDDEN = (
    "acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module "
    "fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter "
    "io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl "
    "lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl "
    "open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise "
    "query_module quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node "
    "setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount2 unshare "
    "uselib userfaultfd ustat vhangup"
)
# argv: a command, which is run under the filter.  clone3's arguments a filter cannot see.
FILTER = f"""
import ctypes, errno, os, sys
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
ALLOW, ERRNO = 0x7FFF0000, 0x50000
context = ctypes.c_void_p(seccomp.seccomp_init(ALLOW))
refused = dict.fromkeys({FORBIDDEN!r}.split(), errno.EPERM) | dict(clone3=errno.ENOSYS)
for name, error in refused.items():
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    assert number != -1, name
    assert seccomp.seccomp_rule_add(context, ERRNO | error, number, 0) == 0
assert seccomp.seccomp_load(context) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


# argv: wg-quick's configuration; the main process of a container, until somebody writes a line.
MAIN = """
wg-quick up "$1"
echo up
read -r _
wg-quick down "$1"
"""


def contained(*command: str) -> list[str]:
    """The command as an engine runs it in a container that has CAP_NET_ADMIN and /dev/net/tun."""
    spaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--mount-proc"]
    read_only = "mount -o remount,ro,bind /sys; mount -o bind,ro /proc/sys /proc/sys"
    capabilities = ",".join(f"+{name}" for name in CAPABILITIES.split())
    privileges = ["setpriv", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all"]
    confined = [sys.executable, "-c", FILTER, *privileges, *command]
    return [*spaces, "sh", "-euc", f'{read_only}; exec "$@"', "sh", *confined]


@contextmanager
def container(host: Namespace, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A container in the host's network."""
    process = subprocess.Popen(
        host.argv(*contained(*command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_wg_quick_takes_a_tunnel_up_and_down_in_a_container(sides: tuple[Side, Side]) -> None:
    left, right = sides
    right.host.run("wgpy", right.interface)
    right.configure(right.settings(left))
    left.write_config(right)
    with container(left.host, "sh", "-euc", MAIN, "sh", str(left.config)) as main:
        assert main.stdin is not None
        assert main.stdout is not None
        lines = iter(main.stdout.readline, "")
        assert "up\n" in lines, "it did not come up"
        ping(left.host, right.inner4)
        transfer(left.host, right.host, right.inner6, SIZE)
        transfer(right.host, left.host, left.inner4, SIZE)
        output, _ = main.communicate("\n", timeout=20)
        assert main.returncode == 0, output
    assert not left.host.has_interface(left.interface)


def test_the_daemon_is_the_main_process_of_a_container(sides: tuple[Side, Side]) -> None:
    left, right = sides
    right.host.run("wgpy", right.interface)
    right.configure(right.settings(left))
    command = "env", "LOG_LEVEL=error", "wgpy", "-f", left.interface
    with container(left.host, *command) as main:
        eventually(left.socket.exists, "the socket")
        left.configure(left.settings(right))
        ping(left.host, right.inner4)
        left.host.run("ip", "link", "delete", left.interface)
        output, _ = main.communicate(timeout=10)
        assert (main.returncode, output) == (0, "")
