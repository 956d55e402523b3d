/* SPDX-License-Identifier: MIT */
/* Batches of sealed messages out.
 *
 * Messages are laid back to back in one arena.  Those that follow each other to one endpoint with
 * one size form a run, which leaves as one message of udp.c.  What the kernel refuses is tried
 * again in another way, weakest remedy first; for what finds no room see congestion.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "congestion.h"
#include "endpoint.h"
#include "sender.h"
#include "tables.h"
#include "tally.h"
#include "udp.h"

#define RUN_SEGMENTS_MAX 64    /* UDP_MAX_SEGMENTS of kernels before 6.9 */
#define RUN_BYTES_MAX    65507 /* largest IPv4 UDP payload; IPv6 allows 20 more */
#define YIELD_NS         (WG_SECONDS(1) / 4)

struct wg_sender {                         /* one thread's own */
    const wg_worker_io *io;                /* its sockets */
    struct wg_congestion *congestion;      /* of its sockets; while it may flush */
    struct wg_udp_messages *messages;      /* built at flush */
    uint8_t *arena;                        /* theirs */
    uint32_t used;                         /* bytes of the arena */
    uint32_t runs_used;                    /* entries of runs */
    struct wg_run runs[WG_UDP_SEND_SLOTS]; /* in the order in which they leave */
};

struct wg_sender *wg_sender_new(const wg_worker_io *io, struct wg_congestion *congestion)
{
    struct wg_sender *sender = calloc(1, sizeof(*sender));

    if (!sender)
        return NULL;
    sender->io = io;
    sender->congestion = congestion;
    sender->messages = wg_udp_messages_new();
    if (!sender->messages) {
        free(sender);
        return NULL;
    }
    sender->arena = wg_udp_messages_arena(sender->messages);
    return sender;
}

void wg_sender_free(struct wg_sender *sender)
{
    if (!sender)
        return;
    wg_udp_messages_free(sender->messages);
    free(sender);
}

uint32_t wg_sender_room(const struct wg_sender *sender, const struct wg_sender_claims *claims,
                        uint32_t length)
{
    uint32_t by_bytes = (WG_UDP_ARENA_LEN - sender->used - claims->bytes) / length;
    uint32_t by_runs = WG_UDP_SEND_SLOTS - sender->runs_used - claims->messages;
    return by_bytes < by_runs ? by_bytes : by_runs;
}

bool wg_sender_is_empty(const struct wg_sender *sender) { return !sender->runs_used; }

uint8_t *wg_sender_place(struct wg_sender *sender) { return sender->arena + sender->used; }

static bool run_takes(const struct wg_run *run, uint32_t length, uint32_t slot,
                      const wg_endpoint *to, uint8_t tos)
{
    return run->open && run->slot == slot && run->tos == tos && length <= run->segment &&
           run->count < RUN_SEGMENTS_MAX && run->length + length <= RUN_BYTES_MAX &&
           memcmp(&run->to, to, sizeof(*to)) == 0;
}

void wg_sender_commit(struct wg_sender *sender, uint32_t length, uint32_t slot,
                      const wg_endpoint *to, uint8_t tos, uint32_t manner)
{
    bool gso = manner & WG_SENDER_BATCHED;
    struct wg_run *run = sender->runs + sender->runs_used - 1;

    if (gso && sender->runs_used && run_takes(run, length, slot, to, tos)) {
        run->length += length;
        run->count++;
        run->open = length == run->segment;
    } else {
        sender->runs[sender->runs_used++] = (struct wg_run){.offset = sender->used,
                                                            .length = length,
                                                            .segment = length,
                                                            .count = 1,
                                                            .slot = slot,
                                                            .tos = tos,
                                                            .open = gso,
                                                            .yields = manner & WG_SENDER_YIELDING,
                                                            .to = *to};
    }
    sender->used += length;
}

/* ---- congestion ---- */

static bool is_congestion(int error) { return error == EAGAIN || error == ENOBUFS; }

static bool has_room(struct wg_sender *sender, const struct wg_run *run, int fd)
{
    return wg_congestion_has_room(sender->congestion, run, wg_udp_queued(fd));
}

static bool room_comes(struct wg_sender *sender, const struct wg_run *run, int fd)
{
    if (!wg_congestion_may_wait(sender->congestion, run))
        return false;
    return wg_udp_wait_room(fd) || has_room(sender, run, fd);
}

static void peer_yield(wg_device *device, struct wg_sender *sender, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);
    uint64_t until_ns = wg_clock_now_ns() + YIELD_NS;

    if (peer)
        atomic_store_explicit(&peer->yields_until_ns, until_ns, memory_order_relaxed);
    for (uint32_t i = 0; i < sender->runs_used; i++) {
        if (sender->runs[i].slot == slot)
            sender->runs[i].yields = true;
    }
}

static void run_drop(wg_device *device, struct wg_sender *sender, const struct wg_run *run)
{
    pthread_rwlock_rdlock(&device->tables);
    struct wg_peer *peer = wg_peer_find(device, run->slot);
    if (peer)
        wg_tally_add(&peer->drops[WG_PEER_DROP_CONGESTED], run->count, wg_clock_now_ns(), NULL);
    peer_yield(device, sender, wg_congestion_yielder(sender->congestion, run));
    pthread_rwlock_unlock(&device->tables);
    wg_count(device, tx_congested, run->count);
}

static void run_failed(wg_device *device, const struct wg_run *run, int error)
{
    wg_about about = wg_about_endpoint(&run->to, error);

    pthread_rwlock_rdlock(&device->tables);
    struct wg_peer *peer = wg_peer_find(device, run->slot);
    if (peer)
        wg_tally_add(&peer->drops[WG_PEER_DROP_SEND_ERROR], run->count, wg_clock_now_ns(), &about);
    pthread_rwlock_unlock(&device->tables);
    wg_count(device, tx_send_errors, run->count);
}

static void run_refused(wg_device *device, struct wg_sender *sender, const struct wg_run *run,
                        int error)
{
    if (is_congestion(error))
        run_drop(device, sender, run);
    else
        run_failed(device, run, error);
}

/* ---- what the kernel refuses ---- */

/* The peer's cached source is stale: forget it, unless it changed meanwhile. */
static void peer_forget_source(wg_device *device, const struct wg_run *run)
{
    pthread_rwlock_rdlock(&device->tables);
    struct wg_peer *peer = wg_peer_find(device, run->slot);
    if (peer) {
        pthread_spin_lock(&peer->endpoint_lock);
        if (memcmp(peer->endpoint.source, run->to.source, sizeof(run->to.source)) == 0)
            wg_endpoint_clear_source(&peer->endpoint);
        pthread_spin_unlock(&peer->endpoint_lock);
    }
    pthread_rwlock_unlock(&device->tables);
}

/* The route to the peer takes no segments of so many bytes or more: send it none this session. */
static void peer_refuse_gso(wg_device *device, const struct wg_run *run, uint32_t segment)
{
    pthread_rwlock_rdlock(&device->tables);
    struct wg_peer *peer = wg_peer_find(device, run->slot);
    if (peer)
        atomic_store_explicit(&peer->gso_refused, segment, memory_order_relaxed);
    pthread_rwlock_unlock(&device->tables);
}

static bool is_too_long(int error) { return error == EINVAL || error == EMSGSIZE; }

/* If it may be the source that was refused: from whichever address the kernel chooses.  If that
 * works, the peer's source is stale; else false, and why in *error. */
static bool run_send_without_source(wg_device *device, struct wg_sender *sender,
                                    const struct wg_run *run, uint32_t i, int *error)
{
    struct wg_run other = *run;

    if (!wg_endpoint_has_source(&run->to) || !wg_udp_is_stale_source(*error))
        return false;
    wg_endpoint_clear_source(&other.to);
    wg_udp_messages_set(sender->messages, i, &other);
    if (wg_udp_messages_send(sender->messages, wg_udp_fd(sender->io, &run->to), i, 1, error) != 1)
        return false;
    peer_forget_source(device, run);
    return true;
}

/* Each message of the run by itself; a message that the kernel refuses is dropped and counted. */
static void run_send_singly(wg_device *device, struct wg_sender *sender, const struct wg_run *run,
                            uint32_t scratch)
{
    uint32_t end = run->offset + run->length;
    struct wg_run one = *run;

    one.count = 1;
    for (; one.offset < end; one.offset += run->segment) {
        int error;

        one.length = end - one.offset < run->segment ? end - one.offset : run->segment;
        wg_udp_messages_set(sender->messages, scratch, &one);
        if (wg_udp_messages_send(sender->messages, wg_udp_fd(sender->io, &run->to), scratch, 1,
                                 &error) == 1)
            wg_count(device, tx_calls, 1);
        else if (!run_send_without_source(device, sender, &one, scratch, &error))
            run_refused(device, sender, &one, error);
    }
}

/* The kernel refused the run: do what is left to try, weakest remedy first.  i is its message. */
static void run_recover(wg_device *device, struct wg_sender *sender, const struct wg_run *run,
                        uint32_t i, int error)
{
    if (run_send_without_source(device, sender, run, i, &error))
        return;
    if (run->count > 1 && (error == EIO || is_too_long(error))) {
        peer_refuse_gso(device, run, error == EIO ? 1 : run->segment);
        run_send_singly(device, sender, run, i);
        return;
    }
    run_refused(device, sender, run, error);
}

/* From the first on, those that leave by one call.  Who yields has no more than the room that was
 * looked for. */
static uint32_t runs_alike(const struct wg_sender *sender, uint32_t first)
{
    const struct wg_run *run = &sender->runs[first];
    uint32_t count = 1;

    while (first + count < sender->runs_used && run[count].to.family == run->to.family &&
           !run->yields && !run[count].yields)
        count++;
    return count;
}

/* As wg_udp_messages_send, but waits a moment for room. */
static uint32_t runs_try(struct wg_sender *sender, uint32_t first, uint32_t count, int *error)
{
    const struct wg_run *run = &sender->runs[first];
    int fd = wg_udp_fd(sender->io, &run->to);

    *error = EAGAIN;
    if (wg_congestion_needs_look(sender->congestion, run) && !has_room(sender, run, fd) &&
        !room_comes(sender, run, fd))
        return 0;
    uint32_t sent = wg_udp_messages_send(sender->messages, fd, first, count, error);
    if (*error == EAGAIN && room_comes(sender, run, fd))
        sent += wg_udp_messages_send(sender->messages, fd, first + sent, count - sent, error);
    return sent;
}

/* Returns how many runs are dealt with. */
static uint32_t runs_send(wg_device *device, struct wg_sender *sender, uint32_t first)
{
    int error;
    uint32_t sent = runs_try(sender, first, runs_alike(sender, first), &error);

    for (uint32_t i = first; i < first + sent; i++) {
        wg_congestion_take(sender->congestion, &sender->runs[i]);
        wg_congestion_weigh(sender->congestion, &sender->runs[i]);
    }
    wg_count(device, tx_calls, sent);
    if (!error)
        return sent;
    wg_congestion_weigh(sender->congestion, &sender->runs[first + sent]);
    run_recover(device, sender, &sender->runs[first + sent], first + sent, error);
    return sent + 1;
}

void wg_sender_flush(wg_device *device, struct wg_sender *sender)
{
    uint32_t datagrams = 0;

    for (uint32_t i = 0; i < sender->runs_used; i++) {
        struct wg_run *run = &sender->runs[i];
        wg_udp_messages_set(sender->messages, i, run);
        datagrams += run->count;
    }
    sender->congestion->waits = 0;
    for (uint32_t first = 0; first < sender->runs_used;)
        first += runs_send(device, sender, first);
    wg_count(device, tx_datagrams, datagrams);
    sender->runs_used = 0;
    sender->used = 0;
}
