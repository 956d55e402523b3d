/* SPDX-License-Identifier: MIT */
/* How many frames may wait in a queue of the TUN: as many as are handled in a short time.
 *
 * The kernel drops what finds the queue full.  500 frames, as it has them, are a moment as long as
 * they are single packets on a core of our own; super-packets, or a part of a slow core, take a
 * quarter of a second and more for them, and a flood keeps the queue full.  As of a socket
 * (backlog.c) the sign is a queue that stands, but frames have no age: it stands if the TUN was
 * never seen empty for an interval.  Then it may have been full all the time, and the frames that
 * were handled meanwhile say how long a full one takes.  If that is too long, control is asked to
 * shorten it to what is handled within the target, which it does if the kernel drops much there.
 *
 * A short queue is emptied now and then in the midst of a flood, by a thread that runs at times, so
 * that it was empty does not mean that there is enough time.  It is given back when it was not full
 * for a while: when never as many frames were taken from it in one go as it holds.  Until then it
 * is seen to no more often than once a second, for with each change the kernel stops the interface
 * for some milliseconds. */
#include <stdbool.h>

#include "bytes.h"
#include "events.h"
#include "tables.h"
#include "tunqueue.h"

#define INTERVAL_NS 100000000ull /* as a socket's: RFC 8289, section 4.2 */
#define REST_NS     (WG_TUN_QUEUE_REST_MS * 1000000ull)
/* What a full queue may take.  TCP streams through a gateway fill it, and each super-packet that is
 * dropped there is 45 segments to be sent again: at gigabits a second, 0.1 ms each, it stays. */
#define SLOW_NS   100000000ull
#define TARGET_NS 10000000ull /* some turns of threads that share a core, 3 ms each ... */
#define LEAST     32          /* ... and a burst of a few dozen packets is no flood */

void wg_tun_queue_init(struct wg_tun_queue *queue) { *queue = (struct wg_tun_queue){0}; }

/* From what was handled since since_ns; 0: all of it fits. */
static uint32_t fitting(const struct wg_tun_queue *queue, uint64_t now_ns)
{
    uint64_t took_ns = now_ns - queue->since_ns;
    uint64_t length = queue->frames * TARGET_NS / took_ns;

    if (queue->frames * SLOW_NS >= WG_TUN_QUEUE_LEN * took_ns)
        return 0;
    return length > LEAST ? (uint32_t)length : LEAST;
}

static void begin(struct wg_tun_queue *queue, uint64_t now_ns)
{
    queue->since_ns = now_ns;
    queue->frames = 0;
    queue->was_full = 0;
}

static void watch_whole(struct wg_tun_queue *queue, bool emptied, uint64_t now_ns)
{
    if (!emptied && queue->since_ns && now_ns - queue->since_ns < INTERVAL_NS)
        return;
    if (!emptied && queue->since_ns)
        queue->length = fitting(queue, now_ns);
    begin(queue, emptied ? 0 : now_ns);
}

/* A second says little about the next, so what is about right stays. */
static void watch_short(struct wg_tun_queue *queue, uint64_t now_ns)
{
    if (now_ns - queue->since_ns < REST_NS)
        return;
    uint32_t length = queue->was_full ? fitting(queue, now_ns) : 0;
    if (length < queue->length / 2 || length > queue->length * 2)
        queue->length = length;
    begin(queue, queue->length ? now_ns : 0);
}

void wg_tun_queue_take(struct wg_tun_queue *queue, uint32_t frames, bool emptied, uint64_t now_ns)
{
    queue->frames += frames;
    queue->in_one_go += frames;
    if (queue->in_one_go >= queue->length)
        queue->was_full = 1;
    if (emptied)
        queue->in_one_go = 0;
    if (queue->length)
        watch_short(queue, now_ns);
    else
        watch_whole(queue, emptied, now_ns);
}

/* ---- a worker's ---- */

static void ask(wg_device *device, uint32_t worker, uint32_t length)
{
    atomic_store(&device->tun_queues[worker], length);
    wg_wake(device->event_fd);
}

void wg_tun_queue_took(wg_device *device, uint32_t worker, struct wg_tun_queue *queue,
                       uint32_t frames, bool emptied, uint64_t now_ns)
{
    uint32_t before = queue->length;

    wg_tun_queue_take(queue, frames, emptied, now_ns);
    if (wg_unlikely(queue->length != before))
        ask(device, worker, queue->length);
}

void wg_tun_queue_close(wg_device *device, uint32_t worker)
{
    if (atomic_load(&device->tun_queues[worker]))
        ask(device, worker, 0);
}

/* All queues have one length: that of the fastest of those for which it is too much. */
uint32_t wg_device_tun_queue(const wg_device *device)
{
    uint32_t length = 0;

    for (uint32_t worker = 0; worker < device->workers; worker++) {
        uint32_t asked = atomic_load(&device->tun_queues[worker]);
        length = asked > length ? asked : length;
    }
    return length;
}
