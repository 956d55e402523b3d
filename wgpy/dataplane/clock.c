/* The time in which all others think: it goes on during a suspend. */
#include <time.h>

#include "bytes.h"
#include "tables.h"

uint64_t wg_device_now_ns(const wg_device *device)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return WG_SECONDS(now.tv_sec) + (uint64_t)now.tv_nsec + atomic_load(&device->clock_offset_ns);
}

void wg_device_set_clock_offset(wg_device *device, uint64_t offset_ns)
{
    atomic_store(&device->clock_offset_ns, offset_ns);
}
