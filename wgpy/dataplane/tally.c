/* SPDX-License-Identifier: MIT */
/* What was dropped or refused: how often, when last, and what about.
 *
 * All of this is off the path of packets that pass.  In a flood of those that do not, all but the
 * first of a batch cost one atomic addition and a comparison; who finds another thread at it lets
 * that one's word stand, so no data thread ever waits here. */
#include <string.h>

#include "endpoint.h"
#include "ip.h"
#include "tally.h"

wg_about wg_about_endpoint(const wg_endpoint *endpoint, int error)
{
    wg_about about = {.scope_id = endpoint->scope_id,
                      .family = endpoint->family,
                      .port = endpoint->port,
                      .error = error};

    memcpy(about.addr, endpoint->addr, sizeof(about.addr));
    return about;
}

wg_about wg_about_address(const uint8_t *address, bool v4)
{
    wg_about about = {.family = v4 ? AF_INET : AF_INET6};

    memcpy(about.addr, address, v4 ? 4 : sizeof(about.addr));
    return about;
}

wg_about wg_about_error(int error) { return (wg_about){.error = error}; }

static bool cell_try(struct wg_tally_cell *cell)
{
    return !atomic_exchange_explicit(&cell->busy, true, memory_order_acquire);
}

static void cell_release(struct wg_tally_cell *cell)
{
    atomic_store_explicit(&cell->busy, false, memory_order_release);
}

void wg_tally_add(struct wg_tally_cell *cell, uint64_t count, uint64_t now_ns,
                  const wg_about *about)
{
    atomic_fetch_add_explicit(&cell->count, count, memory_order_relaxed);
    if (atomic_load_explicit(&cell->last_ns, memory_order_relaxed) == now_ns || !cell_try(cell))
        return;
    atomic_store_explicit(&cell->last_ns, now_ns, memory_order_relaxed);
    cell->about = about ? *about : (wg_about){0};
    cell_release(cell);
}

void wg_drop_from(wg_device *device, enum wg_device_drop why, const wg_endpoint *source,
                  uint64_t now_ns)
{
    wg_about about = wg_about_endpoint(source, 0);

    wg_tally_add(&device->drops[why], 1, now_ns, &about);
}

/* What every host sends by itself (multicast) does not hide where somebody wanted to go. */
void wg_drop_to(wg_device *device, const uint8_t *destination, bool v4, uint32_t packets,
                uint64_t now_ns)
{
    bool one = v4 ? wg_ipv4_is_unicast(destination) : wg_ipv6_is_unicast(destination);
    enum wg_device_drop why = one ? WG_DEVICE_DROP_NO_PEER : WG_DEVICE_DROP_MULTICAST;
    wg_about about = wg_about_address(destination, v4);

    wg_tally_add(&device->drops[why], packets, now_ns, &about);
}

void wg_refuse(wg_device *device, enum wg_refusal why, const wg_endpoint *source, uint64_t now_ns)
{
    wg_about about = wg_about_endpoint(source, 0);

    wg_tally_add(&device->refusals[why], 1, now_ns, &about);
}

/* Control.  Whoever writes has done so in a moment. */
static wg_tally cell_read(struct wg_tally_cell *cell)
{
    while (!cell_try(cell))
        ;
    wg_tally tally = {.count = atomic_load_explicit(&cell->count, memory_order_relaxed),
                      .last_ns = atomic_load_explicit(&cell->last_ns, memory_order_relaxed),
                      .about = cell->about};
    cell_release(cell);
    return tally;
}

void wg_tallies_read(struct wg_tally_cell *cells, wg_tally *tallies, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        tallies[i] = cell_read(&cells[i]);
}
