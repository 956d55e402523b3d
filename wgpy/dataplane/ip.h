/* IP headers: what more than one file has to know of them.  None of this looks at a length. */
#ifndef WGPY_IP_H
#define WGPY_IP_H
#include <stdbool.h>
#include <stdint.h>

#define WG_IPV4_LEN             20u    /* of a header without options */
#define WG_IPV4_FRAGMENT_OFFSET 0x1fff /* of the word at 6 */
#define WG_IPV6_LEN             40u    /* of a header without extensions */
/* Of the header of a fragment, which begins with the next one's protocol. */
#define WG_IPV6_FRAGMENT_LEN 8

static inline uint8_t wg_ip_version(const uint8_t *ip) { return ip[0] >> 4; }
static inline bool wg_ip_is_v4(const uint8_t *ip) { return wg_ip_version(ip) == 4; }
static inline uint32_t wg_ipv4_header_length(const uint8_t *ip) { return (ip[0] & 15) * 4u; }
static inline const uint8_t *wg_ip_source(const uint8_t *ip)
{
    return ip + (wg_ip_is_v4(ip) ? 12 : 8);
}
static inline const uint8_t *wg_ip_destination(const uint8_t *ip)
{
    return ip + (wg_ip_is_v4(ip) ? 16 : 24);
}

#endif
