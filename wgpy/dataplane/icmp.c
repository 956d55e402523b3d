/* SPDX-License-Identifier: MIT */
/* ICMP errors for the host itself: "unreachable" for packets with no peer or no endpoint, as the
 * kernel module answers them (RFC 792, RFC 1122 section 3.2.2, RFC 4443 section 3.1), or with an
 * endpoint to which no way leads but back into the tunnel.
 *
 * They are written to the TUN and seem to come from the address that could not be reached.  Linux
 * drops what comes in with one of its own addresses as the source, and with rp_filter what comes in
 * from where it would not send it; the address that was just routed here passes both.
 *
 * Rates are those of Linux's own ICMP errors, but counted per unreachable address and not per
 * recipient, which is nearly always the host: one that is flooded hides no other. */
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "endpoint.h"
#include "icmp.h"
#include "ip.h"
#include "ratelimiter.h"
#include "tables.h"
#include "tun.h"

#define PER_ADDRESS_S     1 /* errors about one address a second, and at once */
#define PER_ADDRESS_BURST 6
#define ALL_S             1000 /* errors about all */
#define ALL_BURST         50

#define ICMP_LEN       8    /* its header in an error, both families */
#define V4_ERROR_MAX   576  /* RFC 1812, section 4.3.2.3 */
#define V6_ERROR_MAX   1280 /* RFC 4443, section 2.4 (c) */
#define TTL            64
#define TOS_CONTROL    0xc0 /* internetwork control: RFC 1812, section 4.3.2.5 */
#define EXTENSIONS_MAX 8    /* headers before the upper layer's; a longer chain gets no answer */

struct wg_icmp_limits {                 /* made with the device; each has a lock of its own */
    struct wg_ratelimiter *per_address; /* by the address that the error goes to */
    struct wg_ratelimiter *all;         /* of one bucket for all */
};

struct wg_icmp_limits *wg_icmp_limits_new(void)
{
    struct wg_icmp_limits *icmp = calloc(1, sizeof(*icmp));

    if (!icmp)
        return NULL;
    icmp->per_address = wg_ratelimiter_new(PER_ADDRESS_S, PER_ADDRESS_BURST);
    icmp->all = wg_ratelimiter_new(ALL_S, ALL_BURST);
    if (icmp->per_address && icmp->all)
        return icmp;
    wg_icmp_limits_free(icmp);
    return NULL;
}

void wg_icmp_limits_free(struct wg_icmp_limits *icmp)
{
    if (!icmp)
        return;
    wg_ratelimiter_free(icmp->per_address);
    wg_ratelimiter_free(icmp->all);
    free(icmp);
}

/* ---- what gets no error ---- */

/* ICMP errors, and types that nobody knows. */
static bool v4_is_icmp_error(const uint8_t *ip, uint32_t length)
{
    uint32_t at = wg_ipv4_header_length(ip);

    if (ip[WG_IPV4_PROTOCOL] != IPPROTO_ICMP)
        return false;
    if (at >= length)
        return true;
    switch (ip[at]) {
    case ICMP_ECHO:
    case ICMP_ECHOREPLY:
    case ICMP_TIMESTAMP:
    case ICMP_TIMESTAMPREPLY:
        return false;
    default:
        return true;
    }
}

/* RFC 1122, section 3.2.2. */
static bool v4_may_answer(const uint8_t *ip, uint32_t length)
{
    return wg_ipv4_is_unicast(ip + WG_IPV4_SOURCE) &&
           wg_ipv4_is_unicast(ip + WG_IPV4_DESTINATION) && !wg_ipv4_is_later_fragment(ip) &&
           !v4_is_icmp_error(ip, length);
}

/* The upper layer's protocol and where it begins; false for a fragment other than the first, or a
 * chain of headers that is cut off or too long. */
static bool v6_upper_layer(const uint8_t *ip, uint32_t length, uint8_t *protocol, uint32_t *at)
{
    *protocol = ip[WG_IPV6_NEXT_HEADER];
    *at = WG_IPV6_LEN;
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        bool fragment = *protocol == IPPROTO_FRAGMENT;
        if (!fragment && *protocol != IPPROTO_HOPOPTS && *protocol != IPPROTO_ROUTING &&
            *protocol != IPPROTO_DSTOPTS)
            return true;
        if (*at + WG_IPV6_EXTENSION_LEN > length || (fragment && wg_ipv6_fragment_offset(ip + *at)))
            return false;
        *protocol = ip[*at];
        *at += fragment ? WG_IPV6_EXTENSION_LEN : wg_ipv6_extension_length(ip + *at);
    }
    return false;
}

/* RFC 4443, section 2.4 (e). */
static bool v6_may_answer(const uint8_t *ip, uint32_t length)
{
    uint8_t protocol;
    uint32_t at;

    if (!wg_ipv6_is_unicast(ip + WG_IPV6_SOURCE) || !wg_ipv6_is_unicast(ip + WG_IPV6_DESTINATION) ||
        !v6_upper_layer(ip, length, &protocol, &at))
        return false;
    if (protocol != IPPROTO_ICMPV6)
        return true;
    return at < length && ip[at] & ICMP6_INFOMSG_MASK && ip[at] != ND_REDIRECT;
}

static bool rate_allows(struct wg_icmp_limits *icmp, const uint8_t *packet, uint64_t now_ns)
{
    static const wg_endpoint everybody = {.family = AF_INET};
    bool v4 = wg_ip_is_v4(packet);
    wg_endpoint unreachable = {.family = v4 ? AF_INET : AF_INET6};

    memcpy(unreachable.addr, wg_ip_destination(packet), wg_endpoint_address_length(&unreachable));
    return wg_ratelimiter_allow(icmp->per_address, &unreachable, now_ns) &&
           wg_ratelimiter_allow(icmp->all, &everybody, now_ns);
}

/* ---- the error ---- */

/* Type and code, and as much of the packet as fits; the checksum is still to come. */
static uint32_t error_fill(uint8_t *icmp, uint8_t type, uint8_t code, const uint8_t *packet,
                           uint32_t length, uint32_t max)
{
    uint32_t quoted = length < max - ICMP_LEN ? length : max - ICMP_LEN;

    memset(icmp, 0, ICMP_LEN);
    icmp[0] = type;
    icmp[1] = code;
    memcpy(icmp + ICMP_LEN, packet, quoted);
    return ICMP_LEN + quoted;
}

static uint32_t v4_error(uint8_t *out, const uint8_t *packet, uint32_t length)
{
    uint8_t *icmp = out + WG_IPV4_LEN;
    uint32_t icmp_length = error_fill(icmp, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, packet, length,
                                      V4_ERROR_MAX - WG_IPV4_LEN);

    memset(out, 0, WG_IPV4_LEN);
    out[0] = WG_IPV4_PLAIN;
    out[WG_IPV4_TOS] = TOS_CONTROL;
    wg_store_be16(out + WG_IPV4_TOTAL_LENGTH, (uint16_t)(WG_IPV4_LEN + icmp_length));
    out[WG_IPV4_TTL] = TTL;
    out[WG_IPV4_PROTOCOL] = IPPROTO_ICMP;
    memcpy(out + WG_IPV4_SOURCE, packet + WG_IPV4_DESTINATION, WG_IPV4_ADDRESS_LEN);
    memcpy(out + WG_IPV4_DESTINATION, packet + WG_IPV4_SOURCE, WG_IPV4_ADDRESS_LEN);
    wg_store_be16(out + WG_IPV4_CHECKSUM, (uint16_t)~wg_checksum_fold(out, WG_IPV4_LEN, 0));
    wg_store_be16(icmp + 2, (uint16_t)~wg_checksum_fold(icmp, icmp_length, 0));
    return WG_IPV4_LEN + icmp_length;
}

static uint32_t v6_error(uint8_t *out, const uint8_t *packet, uint32_t length)
{
    uint8_t *icmp = out + WG_IPV6_LEN;
    uint32_t icmp_length = error_fill(icmp, ICMP6_DST_UNREACH, ICMP6_DST_UNREACH_ADDR, packet,
                                      length, V6_ERROR_MAX - WG_IPV6_LEN);

    memset(out, 0, WG_IPV6_LEN);
    out[0] = WG_IPV6_PLAIN;
    wg_store_be16(out + WG_IPV6_PAYLOAD_LENGTH, (uint16_t)icmp_length);
    out[WG_IPV6_NEXT_HEADER] = IPPROTO_ICMPV6;
    out[WG_IPV6_HOP_LIMIT] = TTL;
    memcpy(out + WG_IPV6_SOURCE, packet + WG_IPV6_DESTINATION, WG_IPV6_ADDRESS_LEN);
    memcpy(out + WG_IPV6_DESTINATION, packet + WG_IPV6_SOURCE, WG_IPV6_ADDRESS_LEN);
    uint64_t sum = wg_checksum_pseudo(out, IPPROTO_ICMPV6, icmp_length);
    wg_store_be16(icmp + 2, (uint16_t)~wg_checksum_fold(icmp, icmp_length, sum));
    return WG_IPV6_LEN + icmp_length;
}

static void error_write(wg_device *device, int tun_fd, uint8_t *error, uint32_t length)
{
    struct virtio_net_hdr plain = {0};
    struct iovec iov[2] = {{.iov_base = &plain, .iov_len = WG_VNET_HDR_LEN},
                           {.iov_base = error, .iov_len = length}};
    int skip = device->io.features & WG_FEATURE_VNET_HDR ? 0 : 1;

    if (!wg_tun_write(tun_fd, iov + skip, 2 - skip))
        wg_count(device, tx_unreachables, 1);
}

void wg_icmp_unreachable(wg_device *device, int tun_fd, const uint8_t *packet, uint32_t length,
                         uint64_t now_ns)
{
    bool v4 = wg_ip_is_v4(packet);
    uint8_t error[V6_ERROR_MAX];

    if (!(v4 ? v4_may_answer(packet, length) : v6_may_answer(packet, length)) ||
        !rate_allows(device->icmp_limits, packet, now_ns))
        return;
    length = v4 ? v4_error(error, packet, length) : v6_error(error, packet, length);
    error_write(device, tun_fd, error, length);
}
