/* SPDX-License-Identifier: MIT */
/* Very many peers at one moment, as `wg show` wants them. */
#include <errno.h>

#include "allowedips.h"
#include "peer.h"
#include "tables.h"

ssize_t wg_peers_show(wg_device *device, const uint32_t *slots, size_t count, wg_peer_shown *shown,
                      wg_allowedip *entries, size_t max)
{
    size_t total = 0;

    for (size_t i = 0; i < count; i++) {
        struct wg_peer *peer = wg_peer_find(device, slots[i]);
        size_t used = total < max ? total : max;

        if (!peer)
            return -ENOENT;
        shown[i] = (wg_peer_shown){
            .tx_bytes = atomic_load(&peer->tx_bytes),
            .rx_bytes = atomic_load(&peer->rx_bytes),
            .endpoint = wg_peer_endpoint(peer),
            .allowed_ips = peer->allowedip_count,
        };
        wg_allowedips_list(device, slots[i], entries + used, max - used);
        total += peer->allowedip_count;
    }
    return (ssize_t)total;
}
