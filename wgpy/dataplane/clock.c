/* SPDX-License-Identifier: MIT */
/* The time in which all others think: it goes on during a suspend. */
#include <time.h>

#include "api.h"
#include "bytes.h"

uint64_t wg_clock_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return WG_SECONDS(now.tv_sec) + (uint64_t)now.tv_nsec;
}
