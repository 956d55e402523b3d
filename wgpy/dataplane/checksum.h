/* SPDX-License-Identifier: MIT */
/* Internet checksums. */
#ifndef WGPY_CHECKSUM_H
#define WGPY_CHECKSUM_H
#include <stddef.h>
#include <stdint.h>

/* All sums are host integers of big-endian words (RFC 1071), not inverted.  This one is folded, and
 * sum, to which the data is added, need not be. */
uint16_t wg_checksum_fold(const uint8_t *data, size_t length, uint64_t sum);
/* The pseudo-header sum of an IPv4 or IPv6 packet, unfolded. */
uint64_t wg_checksum_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t transport_length);

#endif
