/* SPDX-License-Identifier: MIT */
/* What a peer knows of its traffic. */
#ifndef WGPY_PEER_H
#define WGPY_PEER_H
#include "tables.h"

/* Stamps (6.1-6.5): packets is how many of the messages carried a payload. Raise TIMER_ARMED if
 * due. */
void wg_peer_stamp_sent(struct wg_peer *peer, uint64_t bytes, uint32_t packets, uint64_t now_ns);
void wg_peer_stamp_received(struct wg_peer *peer, uint64_t bytes, uint32_t packets,
                            uint64_t now_ns);
/* Sets the endpoint if it is different, unless what came later than now_ns has said already where
 * the peer is: batches are worked on side by side.  Raises ENDPOINT_MOVED if that is watched. */
void wg_peer_roam(struct wg_peer *peer, const wg_endpoint *source, uint64_t now_ns);
wg_endpoint wg_peer_endpoint(struct wg_peer *peer);
/* WANT_HANDSHAKE, unless the gate is shut. */
void wg_peer_ask_handshake(struct wg_peer *peer, uint64_t now_ns);

#endif
