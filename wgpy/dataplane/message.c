/* SPDX-License-Identifier: MIT */
/* Handshake messages out, from control. */
#include <errno.h>

#include "endpoint.h"
#include "peer.h"
#include "tables.h"
#include "tally.h"
#include "udp.h"

int wg_message_send(wg_device *device, uint32_t slot, const uint8_t *data, uint32_t length,
                    uint8_t tos, uint64_t now_ns)
{
    /* Control is the only writer of the tables, so it reads them without the lock. */
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    wg_endpoint endpoint = wg_peer_endpoint(peer);
    if (endpoint.looped)
        return -ELOOP;
    if (!endpoint.family)
        return -EDESTADDRREQ;
    int error = wg_udp_send(&device->io.workers[0], &endpoint, data, length, tos);
    if (error && wg_endpoint_has_source(&endpoint) && wg_udp_is_stale_source(-error)) {
        wg_endpoint_clear_source(&endpoint);
        error = wg_udp_send(&device->io.workers[0], &endpoint, data, length, tos);
        if (!error)
            wg_peer_clear_source(device, slot);
    }
    if (error) {
        wg_about about = wg_about_endpoint(&endpoint, -error);
        wg_count(device, tx_send_errors, 1);
        wg_tally_add(&peer->drops[WG_PEER_DROP_SEND_ERROR], 1, now_ns, &about);
    } else {
        wg_peer_stamp_sent(peer, length, 0, now_ns);
    }
    return error;
}
