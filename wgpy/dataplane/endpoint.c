/* SPDX-License-Identifier: MIT */
/* Outside addresses: of a peer, and ours on which it reached us. */
#include <string.h>

#include "endpoint.h"

size_t wg_endpoint_address_length(const wg_endpoint *endpoint)
{
    return endpoint->family == AF_INET ? 4 : 16;
}

bool wg_endpoint_is_same_path(const wg_endpoint *a, const wg_endpoint *b)
{
    return a->family == b->family && a->source_ifindex == b->source_ifindex &&
           memcmp(a->addr, b->addr, sizeof(a->addr)) == 0 &&
           memcmp(a->source, b->source, sizeof(a->source)) == 0;
}

bool wg_endpoint_is_same_address(const wg_endpoint *a, const wg_endpoint *b)
{
    return a->family == b->family && a->port == b->port && a->scope_id == b->scope_id &&
           memcmp(a->addr, b->addr, sizeof(a->addr)) == 0;
}

bool wg_endpoint_has_source(const wg_endpoint *endpoint)
{
    static const uint8_t none[16];
    return !endpoint->source_refused && memcmp(endpoint->source, none, sizeof(none)) != 0;
}

void wg_endpoint_clear_source(wg_endpoint *endpoint)
{
    memset(endpoint->source, 0, sizeof(endpoint->source));
    endpoint->source_ifindex = 0;
    endpoint->source_refused = 0;
}
