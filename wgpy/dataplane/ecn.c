/* SPDX-License-Identifier: MIT */
/* Marks of congestion (RFC 3168) through the tunnel (RFC 6040). */
#include "bytes.h"
#include "ecn.h"
#include "ip.h"

/* RFC 1624: HC' = ~(~HC + ~m + m'), m being the word with version, IHL and TOS. */
static void ipv4_ecn_set(uint8_t *ip, uint8_t ecn)
{
    uint32_t old = wg_load_be16(ip);
    uint32_t sum = (uint16_t)~wg_load_be16(ip + WG_IPV4_CHECKSUM) + (uint32_t)(uint16_t)~old;

    ip[WG_IPV4_TOS] = (uint8_t)((ip[WG_IPV4_TOS] & ~WG_ECN_MASK) | ecn);
    sum += wg_load_be16(ip);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    wg_store_be16(ip + WG_IPV4_CHECKSUM, (uint16_t)~sum);
}

static void ecn_set(uint8_t *ip, uint8_t ecn)
{
    if (wg_ip_is_v4(ip))
        ipv4_ecn_set(ip, ecn);
    else
        ip[1] = (uint8_t)((ip[1] & ~(WG_ECN_MASK << 4)) | ecn << 4);
}

bool wg_ecn_move_in(uint8_t *ip, uint8_t outer)
{
    uint8_t inner = wg_ecn_get(ip, wg_ip_is_v4(ip));

    if (!inner)
        return outer != WG_ECN_CE;
    if (outer > inner || (outer == WG_ECN_ECT1 && inner == WG_ECN_ECT0))
        ecn_set(ip, outer);
    return true;
}
