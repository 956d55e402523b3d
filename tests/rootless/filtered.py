# SPDX-License-Identifier: MIT
"""Runs a command under a filter of system calls, as engines of containers have one.

argv: name of a call and errno, as unshare=EPERM, or write=EACCES:2=4 if that is only for those
whose third argument is 4; "--"; the command.
"""

import ctypes
import errno
import os
import sys

ALLOW, ERRNO = 0x7FFF0000, 0x50000  # <seccomp.h>
SCMP_CMP_EQ = 4


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("unused", ctypes.c_uint64),
    )


def main() -> None:
    cut = sys.argv.index("--")
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ALLOW))
    for rule in sys.argv[1:cut]:
        what, _, condition = rule.partition(":")
        name, number = what.split("=")
        call = seccomp.seccomp_syscall_resolve_name(name.encode())
        action = ERRNO | getattr(errno, number)
        comparisons = [
            Comparison(int(index), SCMP_CMP_EQ, int(value))
            for index, value in ([condition.split("=")] if condition else [])
        ]
        array = (Comparison * len(comparisons))(*comparisons)
        assert seccomp.seccomp_rule_add_array(context, action, call, len(array), array) == 0
    assert seccomp.seccomp_load(context) == 0
    os.execvp(sys.argv[cut + 1], sys.argv[cut + 1 :])


if __name__ == "__main__":
    main()
