/* SPDX-License-Identifier: MIT */
/* Packets that wait for a session: one queue per peer, oldest first, bounded by count and bytes,
 * and all together by bytes.  Whoever finds no room makes some in its own queue, as far as there is
 * something: a peer always has its newest packet, its keepalive not least.
 *
 * Each packet belongs to the send thread that read it.  If another sent it, a later packet of the
 * same flow, which its own thread reads next, could leave before it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "staged.h"
#include "tables.h"
#include "tally.h"

_Static_assert(WG_STAGED_MAX <= UINT8_MAX, "counted in wg_peer.staged_by");

/* Bytes of memory. */
static uint32_t staged_size(uint32_t length)
{
    return (uint32_t)sizeof(struct wg_staged) + length + WG_PADDING_MAX;
}

static void staged_append(struct wg_peer *peer, struct wg_staged *staged)
{
    *(peer->staged_first ? &peer->staged_last->next : &peer->staged_first) = staged;
    peer->staged_last = staged;
    peer->staged_bytes += staged_size(staged->length);
    atomic_fetch_add_explicit(&peer->device->staged_bytes, staged_size(staged->length),
                              memory_order_relaxed);
    peer->staged_count++;
    if (!peer->staged_by[staged->worker]++)
        atomic_fetch_or(&peer->staged_workers, 1u << staged->worker);
}

struct wg_staged *wg_staged_oldest(struct wg_peer *peer, uint32_t worker)
{
    struct wg_staged *staged = peer->staged_first;

    while (staged && staged->worker != worker)
        staged = staged->next;
    return staged;
}

void wg_staged_take(struct wg_peer *peer, struct wg_staged *staged)
{
    struct wg_staged *before = NULL;

    for (struct wg_staged *s = peer->staged_first; s != staged; s = s->next)
        before = s;
    *(before ? &before->next : &peer->staged_first) = staged->next;
    if (peer->staged_last == staged)
        peer->staged_last = before;
    peer->staged_bytes -= staged_size(staged->length);
    atomic_fetch_sub_explicit(&peer->device->staged_bytes, staged_size(staged->length),
                              memory_order_relaxed);
    peer->staged_count--;
    if (!--peer->staged_by[staged->worker])
        atomic_fetch_and(&peer->staged_workers, ~(1u << staged->worker));
}

static void staged_drop_oldest(struct wg_peer *peer)
{
    struct wg_staged *staged = peer->staged_first;

    wg_staged_take(peer, staged);
    free(staged);
}

static bool staged_is_full(const struct wg_peer *peer, uint32_t size)
{
    uint64_t all = atomic_load_explicit(&peer->device->staged_bytes, memory_order_relaxed);

    return peer->staged_count >= WG_STAGED_MAX || peer->staged_bytes + size > WG_STAGED_MAX_BYTES ||
           all + size > WG_STAGED_ALL_MAX;
}

static void count_dropped(struct wg_peer *peer, uint64_t now_ns)
{
    wg_count(peer->device, tx_staged_dropped, 1);
    wg_tally_add(&peer->drops[WG_PEER_DROP_STAGED], 1, now_ns, NULL);
}

void wg_staged_add(struct wg_peer *peer, uint32_t worker, const uint8_t *packet, uint32_t length,
                   uint8_t ecn, uint64_t now_ns)
{
    uint32_t size = staged_size(length);
    struct wg_staged *staged = malloc(size);

    if (!staged) {
        count_dropped(peer, now_ns);
        return;
    }
    *staged = (struct wg_staged){.length = length, .worker = (uint8_t)worker, .ecn = ecn};
    memcpy(staged->data, packet, length);
    memset(staged->data + length, 0, WG_PADDING_MAX);
    pthread_mutex_lock(&peer->staged_lock);
    while (peer->staged_first && staged_is_full(peer, size)) {
        staged_drop_oldest(peer);
        count_dropped(peer, now_ns);
    }
    staged_append(peer, staged);
    pthread_mutex_unlock(&peer->staged_lock);
}

void wg_staged_drop(struct wg_peer *peer)
{
    pthread_mutex_lock(&peer->staged_lock);
    while (peer->staged_first)
        staged_drop_oldest(peer);
    pthread_mutex_unlock(&peer->staged_lock);
}

int wg_peer_drop_staged(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    wg_staged_drop(peer);
    return 0;
}
