/* SPDX-License-Identifier: MIT */
/* A frame from the TUN -> the packets it stands for. */
#ifndef WGPY_GSO_H
#define WGPY_GSO_H
#include <stdbool.h>

#include "api.h"

struct wg_packet {
    uint8_t *data;   /* starts at the IP header */
    uint32_t length; /* bytes */
};

struct wg_gso {             /* one frame; one send thread's own */
    uint8_t *ip;            /* the IP header in the frame; addresses are valid from begin to the
                               first next */
    uint32_t length;        /* of the IP packet or super-packet, bytes */
    uint32_t header_length; /* IP and transport headers, 0 for a plain packet */
    uint32_t segment;       /* payload bytes per packet (<= gso_size), 0 for a plain packet */
    uint32_t offset;        /* payload bytes given out */
    uint32_t index;         /* packets given out */
    uint32_t count;         /* packets in all; packets 0..count-2 are equally long */
    uint8_t version;        /* 4 or 6 */
    uint8_t protocol;       /* TCP or UDP when segment != 0 */
    uint16_t transport;     /* offset of the TCP or UDP header */
    uint16_t id;            /* IPv4 identification of the first packet */
    uint16_t flags;         /* TCP data offset and flags, as they came */
    uint32_t sequence;      /* TCP sequence number of the first packet */
    uint64_t ip_sum;        /* checksum of header[0..transport) */
    uint64_t transport_sum; /* of the rest of header[] and the pseudo-header, without a length */
    uint8_t header[256];    /* the headers as they came; what differs between packets is zero */
};

/* No packet of the frame is longer. */
static inline uint32_t wg_gso_packet_length(const struct wg_gso *gso)
{
    return gso->segment ? gso->header_length + gso->segment : gso->length;
}
/* Checks everything: lengths, versions, gso_type, gso_size, csum_start and csum_offset; finishes
 * the checksum of a plain packet that asks for it. -EINVAL: drop the frame.  Bytes behind the
 * length that the IP header tells are left out. */
int wg_gso_begin(struct wg_gso *gso, uint8_t *frame, size_t length, uint32_t features);
/* The next packet, contiguous, checksums right; headers are written into the frame right before
 * its payload, over the tail of the packet before, so a packet is valid until the next call.
 * False after the last. */
bool wg_gso_next(struct wg_gso *gso, struct wg_packet *packet);

#endif
