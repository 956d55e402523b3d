/* Packets that wait for a session: one queue per peer, oldest first, bounded by count and bytes.
 *
 * Each packet belongs to the send thread that read it.  If another sent it, a later packet of the
 * same flow, which its own thread reads next, could leave before it. */
#include <stdlib.h>

#include "internal.h"

_Static_assert(WG_STAGED_MAX <= UINT8_MAX, "counted in wg_peer.staged_by");

static void staged_append(struct wg_peer *peer, struct wg_staged *staged)
{
    *(peer->staged_first ? &peer->staged_last->next : &peer->staged_first) = staged;
    peer->staged_last = staged;
    peer->staged_bytes += staged->length;
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
    peer->staged_bytes -= staged->length;
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

static bool staged_is_full(const struct wg_peer *peer, uint32_t length)
{
    return peer->staged_count >= WG_STAGED_MAX || peer->staged_bytes + length > WG_STAGED_MAX_BYTES;
}

void wg_staged_add(struct wg_peer *peer, uint32_t worker, const uint8_t *packet, uint32_t length,
                   uint8_t ecn)
{
    struct wg_staged *staged = malloc(sizeof(*staged) + length + WG_PADDING_MAX);

    if (!staged) {
        wg_count(peer->device, tx_staged_dropped, 1);
        return;
    }
    *staged = (struct wg_staged){.length = length, .worker = (uint8_t)worker, .ecn = ecn};
    memcpy(staged->data, packet, length);
    memset(staged->data + length, 0, WG_PADDING_MAX);
    pthread_mutex_lock(&peer->staged_lock);
    while (peer->staged_first && staged_is_full(peer, length)) {
        staged_drop_oldest(peer);
        wg_count(peer->device, tx_staged_dropped, 1);
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
