/* SPDX-License-Identifier: MIT */
/* Packets of one peer -> sealed messages in a sender's arena. */
#ifndef WGPY_SEALING_H
#define WGPY_SEALING_H
#include "gso.h"
#include "keypair.h"
#include "peer.h"
#include "sender.h"
#include "staged.h"
#include "tables.h"

struct wg_sealer {            /* one send thread's own */
    wg_device *device;        /* whose packets they are */
    uint32_t thread;          /* its number among all: an AEAD context is its own */
    uint64_t now_ns;          /* of this batch; wg_clock_now_ns */
    struct wg_sender *sender; /* where messages go */
};

struct wg_sealing {             /* what all messages of one round share; read side of tables */
    struct wg_peer *peer;       /* whose messages they are */
    struct wg_keypair *keypair; /* to seal with */
    wg_endpoint to;             /* the peer's, with hops */
    uint64_t counter;           /* of the next message */
    uint64_t bytes;             /* UDP payload so far */
    uint32_t packets;           /* that are to be sealed */
    uint32_t mtu;               /* of the tunnel, bytes; 0: unknown */
    uint8_t ecn;                /* for the outside */
    bool yields;                /* the peer, see wg_peer.yields_until_ns */
};

/* How long the message of so long a packet is at most. */
static inline uint32_t wg_sealing_length_max(uint32_t packet_length)
{
    return packet_length + WG_PADDING_MAX + WG_TRANSPORT_OVERHEAD;
}
/* Takes a nonce for each of so many packets.  False, and none taken that could be used: the keypair
 * is used up (6.1). */
static inline bool wg_sealing_begin(const struct wg_sealer *sealer, struct wg_sealing *sealing,
                                    struct wg_peer *peer, struct wg_keypair *keypair,
                                    uint32_t packets)
{
    uint64_t yields_until_ns = atomic_load_explicit(&peer->yields_until_ns, memory_order_relaxed);

    sealing->peer = peer;
    sealing->keypair = keypair;
    sealing->to = wg_peer_endpoint(peer);
    sealing->counter =
        atomic_fetch_add_explicit(&keypair->send_counter, packets, memory_order_relaxed);
    sealing->bytes = 0;
    sealing->packets = packets;
    sealing->mtu = atomic_load_explicit(&sealer->device->mtu, memory_order_relaxed);
    sealing->ecn = 0;
    sealing->yields = sealer->now_ns < yields_until_ns;
    return sealing->counter <= WG_REJECT_AFTER_MESSAGES - packets;
}
/* The next packets of a frame; it has room for the last one's padding behind it. */
void wg_sealing_frame(const struct wg_sealer *sealer, struct wg_sealing *sealing,
                      struct wg_gso *gso);
/* One round of one packet that was staged, if there is a nonce for it. */
void wg_sealing_staged(const struct wg_sealer *sealer, struct wg_peer *peer,
                       struct wg_keypair *keypair, struct wg_staged *staged);

#endif
