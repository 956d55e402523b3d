/* SPDX-License-Identifier: MIT */
/* What the threads of one worker share, each way: the order in which they take and give, and what
 * belongs to the queue of the TUN and to the sockets, of which a worker has one however many
 * threads serve it. */
#include "tables.h"
#include "udp.h"
#include "ways.h"

void wg_ways_open(struct wg_ways *ways, const wg_worker_io *io)
{
    *ways = (struct wg_ways){0};
    wg_turnstile_init(&ways->out.turnstile);
    wg_turnstile_init(&ways->in.turnstile);
    wg_tun_queue_init(&ways->out.tun_queue);
    /* Its waits hold back who writes to the TUN. */
    wg_congestion_init(&ways->out.congestion, wg_udp_send_buffer(io), true);
    wg_backlog_open(&ways->in.backlogs[0], io->udp4_fd);
    wg_backlog_open(&ways->in.backlogs[1], io->udp6_fd);
}

static void enter(const wg_device *device, struct wg_turnstile *turnstile,
                  _Atomic uint32_t *threads, struct wg_turn *turn)
{
    wg_turn_init(turn, device->lanes > 1 ? turnstile : NULL);
    atomic_fetch_add(threads, 1);
}

/* Whether it was the last. */
static bool leave(_Atomic uint32_t *threads, struct wg_turn *turn)
{
    wg_turn_leave(turn);
    return atomic_fetch_sub(threads, 1) == 1;
}

void wg_way_out_enter(wg_device *device, uint32_t worker, struct wg_turn *turn)
{
    struct wg_way_out *way = &device->ways[worker].out;

    enter(device, &way->turnstile, &way->threads, turn);
}

void wg_way_out_leave(wg_device *device, uint32_t worker, struct wg_turn *turn)
{
    if (leave(&device->ways[worker].out.threads, turn))
        wg_tun_queue_close(device, worker);
}

void wg_way_in_enter(wg_device *device, uint32_t worker, struct wg_turn *turn)
{
    struct wg_way_in *way = &device->ways[worker].in;

    enter(device, &way->turnstile, &way->threads, turn);
}

void wg_way_in_leave(wg_device *device, uint32_t worker, struct wg_turn *turn)
{
    const wg_worker_io *io = &device->io.workers[worker];
    struct wg_way_in *way = &device->ways[worker].in;

    if (!leave(&way->threads, turn))
        return;
    wg_backlog_close(&way->backlogs[0], io->udp4_fd);
    wg_backlog_close(&way->backlogs[1], io->udp6_fd);
}
