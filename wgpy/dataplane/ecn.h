/* SPDX-License-Identifier: MIT */
/* Marks of congestion through the tunnel. */
#ifndef WGPY_ECN_H
#define WGPY_ECN_H
#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "ip.h"

#define WG_ECN_MASK 3 /* RFC 3168, section 5 */
#define WG_ECN_ECT1 1
#define WG_ECN_ECT0 2
#define WG_ECN_CE   3

/* v4 is a parameter because who sends knows it already. */
static inline uint8_t wg_ecn_get(const uint8_t *ip, bool v4)
{
    return v4 ? ip[WG_IPV4_TOS] & WG_ECN_MASK : (ip[1] >> 4) & WG_ECN_MASK;
}
/* The rest of wg_ecn_decapsulate, for a mark that may have to move. */
bool wg_ecn_move_in(uint8_t *ip, uint8_t outer);
/* RFC 6040, section 4.2: marks on the outside move in.  Of congestion on a packet that cannot carry
 * the mark it says to drop; as the kernel module does, the packet goes on as it is, or a middlebox
 * that sets both bits of all it sees would be the end of the tunnel.  False for such a packet. */
static inline bool wg_ecn_decapsulate(uint8_t *ip, uint8_t outer_tos)
{
    uint8_t outer = outer_tos & WG_ECN_MASK;

    return wg_likely(outer < WG_ECN_CE && outer != WG_ECN_ECT1) || wg_ecn_move_in(ip, outer);
}

#endif
