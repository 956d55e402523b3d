/* SPDX-License-Identifier: MIT */
/* The Internet checksum (RFC 1071).  Sums are those of big-endian 16-bit words, as host integers.
 *
 * A one's complement sum is the same in either byte order but for a swap, and in any word size
 * but for a fold, so the loop adds 64-bit words as they lie in memory. */
#include <string.h>

#include "checksum.h"
#include "ip.h"

/* The sum of length < 8 bytes; a copy of variable length would cost a store-forwarding stall. */
static inline uint64_t add_tail(const uint8_t *data, size_t length)
{
    uint64_t sum = 0;
    uint16_t pair;

    for (; length >= sizeof(pair); data += sizeof(pair), length -= sizeof(pair)) {
        memcpy(&pair, data, sizeof(pair));
        sum += pair;
    }
    return length ? sum + data[0] : sum;
}

/* The sum of length bytes as native 16-bit words, unfolded.  Two accumulators without carries
 * between them, so that the compiler makes vectors of it; 2^32 words fit. */
static inline __attribute__((always_inline)) uint64_t add_words(const uint8_t *data, size_t length)
{
    uint64_t low = 0, high = 0, word;
    size_t whole = length / sizeof(word);

#pragma GCC unroll 4
    for (size_t i = 0; i < whole; i++) {
        memcpy(&word, data + i * sizeof(word), sizeof(word));
        low += (uint32_t)word;
        high += word >> 32;
    }
    return low + high + add_tail(data + whole * sizeof(word), length % sizeof(word));
}

static uint64_t add_words_baseline(const uint8_t *data, size_t length)
{
    return add_words(data, length);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static uint64_t add_words_avx2(const uint8_t *data, size_t length)
{
    return add_words(data, length);
}
/* Below this many bytes the wide loop's set-up costs more than it saves. */
#define WIDE_MIN 128
#endif

static uint64_t add_words_best(const uint8_t *data, size_t length)
{
#ifdef __x86_64__
    if (length >= WIDE_MIN && __builtin_cpu_supports("avx2"))
        return add_words_avx2(data, length);
#endif
    return add_words_baseline(data, length);
}

static uint16_t fold_carries(uint64_t sum)
{
    sum = (sum & UINT32_MAX) + (sum >> 32);
    sum = (sum & UINT32_MAX) + (sum >> 32);
    sum = (sum & UINT16_MAX) + (sum >> 16);
    sum = (sum & UINT16_MAX) + (sum >> 16);
    return (uint16_t)sum;
}

uint16_t wg_checksum_fold(const uint8_t *data, size_t length, uint64_t sum)
{
    uint16_t words = __builtin_bswap16(fold_carries(add_words_best(data, length)));

    return fold_carries((uint64_t)words + fold_carries(sum));
}

uint64_t wg_checksum_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t transport_length)
{
    uint64_t sum = (uint64_t)protocol + transport_length;

    if (wg_ip_is_v4(ip))
        return sum + wg_checksum_fold(ip + WG_IPV4_SOURCE, 2 * WG_IPV4_ADDRESS_LEN, 0);
    return sum + wg_checksum_fold(ip + WG_IPV6_SOURCE, 2 * WG_IPV6_ADDRESS_LEN, 0);
}
