/* SPDX-License-Identifier: MIT */
/* IP packets and frames of the TUN, made of what the fuzzer gave and judged as Linux would: slowly,
 * by other code than the core's. */
#ifndef WGPY_FUZZ_PACKETS_H
#define WGPY_FUZZ_PACKETS_H
#include "host.h"

enum { PACKET_FLOWS = 64, PACKETS_MAX = 8192, PACKETS_BYTES = 8 << 20 };

struct flow_state {    /* how far a flow has come */
    uint32_t sequence; /* TCP's next */
    uint16_t id;       /* IPv4's next */
};

struct packets {                  /* packets, back to back */
    uint32_t count;               /* entries in use */
    uint32_t used;                /* bytes in use */
    uint32_t offset[PACKETS_MAX]; /* of each */
    uint32_t length[PACKETS_MAX]; /* likewise */
    bool matched[PACKETS_MAX];    /* by packets_match */
    uint8_t bytes[PACKETS_BYTES]; /* of all */
};

struct made {           /* what packet_make made */
    uint32_t length;    /* bytes */
    uint32_t transport; /* offset of the TCP or UDP header */
    uint32_t header;    /* IP and transport headers, bytes */
    uint32_t segment;   /* payload of each packet that it stands for; 0: it stands for itself */
    bool v6, udp;       /* what it is */
    bool damaged;       /* something in it was changed afterwards */
};

void packets_clear(struct packets *packets);
void packets_add(struct packets *packets, const uint8_t *packet, uint32_t length);

uint16_t sum_of(const uint8_t *data, uint32_t length, uint32_t sum); /* RFC 1071, not inverted */

/* A packet of one of a few flows, which it continues, or a damaged one, or garbage.  out: our side
 * sends it, else the peer does.  super: it may be one that stands for many; then its checksum is
 * the pseudo-header's, as the TUN gives it. */
struct made packet_make(struct input *in, struct flow_state *flows, bool out, bool super,
                        uint8_t *packet);

/* What Linux makes of a frame written to a TUN: the packets that it stands for.  False: it refuses
 * it. */
bool packets_segment(struct packets *packets, const uint8_t *frame, uint32_t length, bool vnet);

/* Whether both have the same packets, and each flow its own in the same order.  With DF the IPv4
 * identification may differ (RFC 6864), with it the header's checksum. */
bool packets_match(const struct packets *expected, struct packets *got);

/* Whether lengths and checksums are right in a packet that a super-packet became. */
bool packet_is_whole(const uint8_t *packet, uint32_t length);

#endif
