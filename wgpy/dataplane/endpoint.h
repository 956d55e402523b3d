/* SPDX-License-Identifier: MIT */
/* Outside addresses. */
#ifndef WGPY_ENDPOINT_H
#define WGPY_ENDPOINT_H
#include <stdbool.h>
#include <sys/socket.h>

#include "api.h"

size_t wg_endpoint_address_length(const wg_endpoint *endpoint); /* bytes: 4 or 16 */
/* To one host, by one address of ours: the port may differ. */
bool wg_endpoint_is_same_path(const wg_endpoint *a, const wg_endpoint *b);
/* And to the same port. */
bool wg_endpoint_is_same_address(const wg_endpoint *a, const wg_endpoint *b);
bool wg_endpoint_has_source(const wg_endpoint *endpoint); /* that may be sent from */
void wg_endpoint_clear_source(wg_endpoint *endpoint);
static inline bool wg_endpoint_is_sendable(const wg_endpoint *endpoint)
{
    return endpoint->family && !endpoint->looped;
}

#endif
