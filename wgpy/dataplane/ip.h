/* SPDX-License-Identifier: MIT */
/* Headers of IP, TCP and UDP: where what stands.  None of this looks at a length. */
#ifndef WGPY_IP_H
#define WGPY_IP_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "bytes.h"

/* ---- IPv4 (RFC 791) ---- */

#define WG_IPV4_LEN         20u  /* of a header without options ... */
#define WG_IPV4_PLAIN       0x45 /* ... whose first byte this is */
#define WG_IPV4_ADDRESS_LEN 4u
enum { /* byte offsets */
       WG_IPV4_TOS = 1,
       WG_IPV4_TOTAL_LENGTH = 2,
       WG_IPV4_ID = 4,
       WG_IPV4_FRAGMENT = 6,
       WG_IPV4_TTL = 8,
       WG_IPV4_PROTOCOL = 9,
       WG_IPV4_CHECKSUM = 10,
       WG_IPV4_SOURCE = 12,
       WG_IPV4_DESTINATION = 16,
};
enum { /* bits of the word at WG_IPV4_FRAGMENT */
       WG_IPV4_DF = 0x4000,
       WG_IPV4_MF = 0x2000,
       WG_IPV4_OFFSET = 0x1fff,
};

/* ---- IPv6 (RFC 8200) ---- */

#define WG_IPV6_LEN         40u  /* of a header without extensions */
#define WG_IPV6_PLAIN       0x60 /* first byte: no traffic class */
#define WG_IPV6_ADDRESS_LEN 16u
enum { /* byte offsets */
       WG_IPV6_PAYLOAD_LENGTH = 4,
       WG_IPV6_NEXT_HEADER = 6,
       WG_IPV6_HOP_LIMIT = 7,
       WG_IPV6_SOURCE = 8,
       WG_IPV6_DESTINATION = 24,
};
/* Extension headers begin with the protocol of what follows, and have this length at least. */
#define WG_IPV6_EXTENSION_LEN 8u

static inline uint32_t wg_ipv6_extension_length(const uint8_t *extension)
{
    return WG_IPV6_EXTENSION_LEN + extension[1] * 8u; /* but for a fragment's */
}
/* 0: the first fragment. */
static inline uint32_t wg_ipv6_fragment_offset(const uint8_t *extension)
{
    return wg_load_be16(extension + 2) & ~7u;
}

/* ---- both ---- */

static inline uint8_t wg_ip_version(const uint8_t *ip) { return ip[0] >> 4; }
static inline bool wg_ip_is_v4(const uint8_t *ip) { return wg_ip_version(ip) == 4; }
static inline uint32_t wg_ipv4_header_length(const uint8_t *ip) { return (ip[0] & 15) * 4u; }
/* More of it follows, or it is not the first: no ports that can be trusted. */
static inline bool wg_ipv4_is_fragment(const uint8_t *ip)
{
    return wg_load_be16(ip + WG_IPV4_FRAGMENT) & (WG_IPV4_MF | WG_IPV4_OFFSET);
}
static inline bool wg_ipv4_is_later_fragment(const uint8_t *ip)
{
    return wg_load_be16(ip + WG_IPV4_FRAGMENT) & WG_IPV4_OFFSET;
}
static inline const uint8_t *wg_ip_source(const uint8_t *ip)
{
    return ip + (wg_ip_is_v4(ip) ? WG_IPV4_SOURCE : WG_IPV6_SOURCE);
}
static inline const uint8_t *wg_ip_destination(const uint8_t *ip)
{
    return ip + (wg_ip_is_v4(ip) ? WG_IPV4_DESTINATION : WG_IPV6_DESTINATION);
}

/* Addresses of one host: not "this network", loopback, multicast, reserved or broadcast. */
static inline bool wg_ipv4_is_unicast(const uint8_t *address)
{
    return address[0] != 0 && address[0] != 127 && address[0] < 224;
}
static inline bool wg_ipv6_is_unicast(const uint8_t *address)
{
    static const uint8_t zero[15];

    return address[0] != 0xff && (memcmp(address, zero, 15) != 0 || address[15] > 1);
}

/* ---- TCP (RFC 9293), UDP (RFC 768) ---- */

#define WG_TCP_LEN 20u /* of a header without options */
enum {                 /* byte offsets */
       WG_TCP_SEQUENCE = 4,
       WG_TCP_ACK = 8,
       WG_TCP_FLAGS = 12, /* and the header's length */
       WG_TCP_WINDOW = 14,
       WG_TCP_CHECKSUM = 16,
       WG_TCP_URGENT = 18,
};
enum { /* bits of the word at WG_TCP_FLAGS */
       WG_TCP_FLAG_FIN = 0x01,
       WG_TCP_FLAG_PSH = 0x08,
       WG_TCP_FLAG_ACK = 0x10,
       WG_TCP_FLAG_CWR = 0x80,
       WG_TCP_FLAGS_ALL = 0x0fff,
};
static inline uint32_t wg_tcp_header_length(const uint8_t *tcp)
{
    return (tcp[WG_TCP_FLAGS] >> 4) * 4u;
}

#define WG_UDP_LEN 8u /* of a header */
enum {                /* byte offsets */
       WG_UDP_LENGTH = 4,
       WG_UDP_CHECKSUM = 6,
};

#endif
