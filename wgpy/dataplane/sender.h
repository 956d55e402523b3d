/* SPDX-License-Identifier: MIT */
/* Batches of sealed messages out. */
#ifndef WGPY_SENDER_H
#define WGPY_SENDER_H
#include <stdbool.h>

#include "api.h"
#include "congestion.h"

struct wg_sender; /* one batch of sealed messages, in one arena */
/* io: whose sockets it sends from; congestion: of these; both have to outlive it. */
struct wg_sender *wg_sender_new(const wg_worker_io *io, struct wg_congestion *congestion);
void wg_sender_free(struct wg_sender *sender);
struct wg_sender_claims { /* of messages that will be committed later */
    uint32_t bytes;       /* at most */
    uint32_t messages;    /* how many */
};
/* How many messages of length bytes surely fit beside what is claimed; 0: flush first.  Then seal
 * each at wg_sender_place and commit it. Messages that follow each other to one endpoint with one
 * TOS and one size (the last may be shorter) go out as one UDP_SEGMENT send when all of them are
 * WG_SENDER_BATCHED. */
enum wg_sender_manner {
    WG_SENDER_BATCHED = 1,
    WG_SENDER_YIELDING = 2, /* no waiting for room in the socket buffer */
};
uint32_t wg_sender_room(const struct wg_sender *sender, const struct wg_sender_claims *claims,
                        uint32_t length);
bool wg_sender_is_empty(const struct wg_sender *sender);
uint8_t *wg_sender_place(struct wg_sender *sender);
void wg_sender_commit(struct wg_sender *sender, uint32_t length, uint32_t slot,
                      const wg_endpoint *to, uint8_t tos, uint32_t manner);
/* Sends the batch and empties it. Handles GSO fallback (EIO, EINVAL, EMSGSIZE: this run is sent
 * unbatched, and no such one to this peer until it has a new session), a stale source
 * (EINVAL/EADDRNOTAVAIL: resent without it) and a full socket buffer (waited for a moment, then
 * dropped). */
void wg_sender_flush(wg_device *device, struct wg_sender *sender);

#endif
