/* Internet checksums. */
#ifndef WGPY_CHECKSUM_H
#define WGPY_CHECKSUM_H
#include "api.h"

/* wg_checksum_fold is in api.h.  The pseudo-header sum of an IPv4 or IPv6 packet, unfolded; like
 * all sums a host integer of big-endian words. */
uint64_t wg_checksum_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t transport_length);

#endif
