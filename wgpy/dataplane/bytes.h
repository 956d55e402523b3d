/* SPDX-License-Identifier: MIT */
/* Bytes of the wire, seconds, and what is likely. */
#ifndef WGPY_BYTES_H
#define WGPY_BYTES_H
#include <stdint.h>
#include <string.h>

#define WG_NS_PER_S   1000000000ull
#define WG_SECONDS(s) ((uint64_t)(s)*WG_NS_PER_S)

#define wg_likely(x)   __builtin_expect(!!(x), 1)
#define wg_unlikely(x) __builtin_expect(!!(x), 0)

static inline uint16_t wg_load_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline void wg_store_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline uint32_t wg_load_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}
static inline void wg_store_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}
/* The wire is little-endian (5.4); so is every target we build for. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian targets only");
static inline uint32_t wg_load_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline uint64_t wg_load_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static inline void wg_store_le32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void wg_store_le64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

#endif
