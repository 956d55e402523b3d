/* SPDX-License-Identifier: MIT */
/* Packets that wait for a session. */
#ifndef WGPY_STAGED_H
#define WGPY_STAGED_H
#include "tables.h"

#define WG_PADDING_MULTIPLE 16 /* of payloads (5.4.6) */
#define WG_PADDING_MAX      (WG_PADDING_MULTIPLE - 1)

struct wg_staged {          /* one packet without a session; send threads; wg_peer.staged_lock */
    struct wg_staged *next; /* younger, of any worker; NULL: the newest */
    uint32_t length;        /* bytes; 0: a keepalive */
    uint8_t worker;         /* the send thread that staged it, which will send it */
    uint8_t ecn;            /* for the outside */
    uint8_t data[];         /* plaintext, and room for its padding */
};

/* For the worker to send: what one worker staged no other sends, or flows would lose their order. A
 * packet that finds no memory is dropped like one pushed out; length 0 is a keepalive. */
void wg_staged_add(struct wg_peer *peer, uint32_t worker, const uint8_t *packet, uint32_t length,
                   uint8_t ecn, uint64_t now_ns);
/* Without a lock. */
static inline bool wg_staged_waits(struct wg_peer *peer, uint32_t worker)
{
    return atomic_load_explicit(&peer->staged_workers, memory_order_acquire) >> worker & 1;
}
/* The worker's oldest, or NULL; then off the queue, for the caller to free.  Under staged_lock. */
struct wg_staged *wg_staged_oldest(struct wg_peer *peer, uint32_t worker);
void wg_staged_take(struct wg_peer *peer, struct wg_staged *staged);
void wg_staged_drop(struct wg_peer *peer); /* all */

#endif
