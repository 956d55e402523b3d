/* SPDX-License-Identifier: MIT */
/* Messages of WireGuard that come out of the TUN: tunnels in tunnels, and loops.
 *
 * The route to a peer's endpoint may lead into the tunnel, and in there to that very peer.  Then a
 * message would be sealed again and again, longer each time, and once it is longer than the MTU as
 * two fragments: a ping soon keeps all cores busy.  Such a message is known by its index, which is
 * 32 random bits: not by addresses and ports, for they may be translated on the way, and messages
 * of others do belong into the tunnel, also those to the same endpoint.  What we send to one peer
 * may go through the tunnel of another.
 *
 * Of a message in fragments only the first is known.  The others take a turn more, in which they
 * become messages that are shorter.
 *
 * A loop may take more turns: by another peer, interface or host.  Nothing of ours is to be known
 * in there, so what carries a message has a lower TTL than that, and at last is not sent.  As many
 * nestings as it takes must not make a message longer than the MTU, for of its fragments only the
 * first has the TTL of what it carries: 8 of them are 760 bytes, and an IPv6 MTU is 1280 at least.
 */
#include <netinet/in.h>

#include "bytes.h"
#include "ip.h"
#include "keypair.h"
#include "loops.h"
#include "tables.h"

#define MESSAGE_BEGIN_LEN 8  /* type and index */
#define HOPS              64 /* ip_default_ttl of Linux; a message of others may begin with more */
#define HOPS_A_NESTING    8

/* Both: offset of the UDP header in a whole IP packet, 0 without one. */
static uint32_t find_udp4(const uint8_t *ip)
{
    if (ip[WG_IPV4_PROTOCOL] != IPPROTO_UDP || wg_ipv4_is_later_fragment(ip))
        return 0;
    return wg_ipv4_header_length(ip);
}

/* Our messages have no other extension header than a fragment's. */
static uint32_t find_udp6(const uint8_t *ip, uint32_t length)
{
    const uint8_t *fragment = ip + WG_IPV6_LEN;

    if (ip[WG_IPV6_NEXT_HEADER] == IPPROTO_UDP)
        return WG_IPV6_LEN;
    if (ip[WG_IPV6_NEXT_HEADER] != IPPROTO_FRAGMENT ||
        WG_IPV6_LEN + WG_IPV6_EXTENSION_LEN > length || fragment[0] != IPPROTO_UDP ||
        wg_ipv6_fragment_offset(fragment))
        return 0;
    return WG_IPV6_LEN + WG_IPV6_EXTENSION_LEN;
}

static uint8_t hops_left(const uint8_t *ip)
{
    uint8_t hops = ip[wg_ip_is_v4(ip) ? WG_IPV4_TTL : WG_IPV6_HOP_LIMIT];

    if (hops > HOPS)
        hops = HOPS;
    return hops > HOPS_A_NESTING ? hops - HOPS_A_NESTING : 0;
}

struct wg_nested wg_nested_read(const uint8_t *ip, uint32_t length)
{
    uint32_t udp = wg_ip_is_v4(ip) ? find_udp4(ip) : find_udp6(ip, length);

    if (!udp || udp + WG_UDP_LEN + MESSAGE_BEGIN_LEN > length)
        return (struct wg_nested){0};
    const uint8_t *message = ip + udp + WG_UDP_LEN;
    uint32_t type = wg_load_le32(message);
    if (type < WG_MESSAGE_INITIATION || type > WG_MESSAGE_TRANSPORT)
        return (struct wg_nested){0};
    return (struct wg_nested){
        .type = type, .index = wg_load_le32(message + 4), .hops = hops_left(ip)};
}

static bool is_session(const struct wg_keypair *keypair, uint32_t remote_index)
{
    return keypair && keypair->remote_index == remote_index;
}

bool wg_nested_is_to(const struct wg_nested *nested, struct wg_peer *peer)
{
    const struct wg_keypairs *keypairs = &peer->keypairs;
    const struct wg_index_entry *entry;

    switch (nested->type) {
    case WG_MESSAGE_TRANSPORT:
        return is_session(keypairs->current, nested->index) ||
               is_session(keypairs->previous, nested->index) ||
               is_session(keypairs->next, nested->index);
    case WG_MESSAGE_INITIATION:
    case WG_MESSAGE_RESPONSE:
        entry = wg_index_find(peer->device, nested->index);
        return entry && entry->peer == peer;
    default:
        return false;
    }
}
