# SPDX-License-Identifier: MIT
"""A wall clock of its own for a command, which a test can set."""

import os
import struct
import subprocess
from pathlib import Path

# Answers for the C library with the time that the file CLOCK says (a native int64 of seconds, which
# are added); there are time namespaces for other clocks only.
CLOCK_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int64_t shift(void)
{
    static const volatile int64_t *seconds;
    if (!seconds) {
        int fd = open(getenv("CLOCK"), O_RDONLY | O_CLOEXEC);
        seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, time);
    if (!result && id == CLOCK_REALTIME)
        time->tv_sec += shift();
    return result;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
"""
YEAR_S = 31_556_952


class Clock:
    """The shift of the wall clock of whatever is run with `wrapper` before it."""

    def __init__(self, directory: Path) -> None:
        source, library = directory / "clock.c", directory / "clock.so"
        source.write_text(CLOCK_C)
        compiler = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(compiler, check=True, timeout=60)
        self._file = directory / "clock"
        self._file.write_bytes(bytes(8))
        self.wrapper = "env", f"CLOCK={self._file}", f"LD_PRELOAD={library}"

    def set(self, years: float) -> None:
        """To so many years since 1970."""
        now = int(os.path.getmtime(self._file))
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", round(years * YEAR_S) - now))
