/* SPDX-License-Identifier: MIT */
/* How often a source is served. */
#ifndef WGPY_RATELIMITER_H
#define WGPY_RATELIMITER_H
#include <stdbool.h>

#include "api.h"

struct wg_ratelimiter; /* a token bucket per IPv4 address and per IPv6 /64 */
/* NULL: no memory, or no randomness. */
struct wg_ratelimiter *wg_ratelimiter_new(uint32_t per_s, uint32_t burst);
void wg_ratelimiter_free(struct wg_ratelimiter *limiter);
/* True, and a token of the source's address taken; false: it has none, or there is no room for its
 * bucket. */
bool wg_ratelimiter_allow(struct wg_ratelimiter *limiter, const wg_endpoint *source,
                          uint64_t now_ns);

#endif
