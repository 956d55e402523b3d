/* SPDX-License-Identifier: MIT */
/* Messages of WireGuard that come out of the TUN. */
#ifndef WGPY_LOOPS_H
#define WGPY_LOOPS_H
#include "tables.h"

struct wg_nested {  /* a WireGuard message that a packet from the TUN carries */
    uint32_t type;  /* WG_MESSAGE_*; 0: there is none */
    uint32_t index; /* the receiver's of a transport message, the sender's of a handshake's */
    uint8_t hops;   /* IP TTL for the message that carries it; 0: it is nested too deep */
};

/* A whole IP packet or super-packet; all segments of one have the first one's type and index. */
struct wg_nested wg_nested_read(const uint8_t *ip, uint32_t length);
/* Whether it is a message of ours to this peer.  Read side of tables. */
bool wg_nested_is_to(const struct wg_nested *nested, struct wg_peer *peer);

#endif
