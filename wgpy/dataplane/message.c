/* Handshake messages out, from control. */
#include <errno.h>

#include "endpoint.h"
#include "peer.h"
#include "tables.h"
#include "udp.h"

static int message_endpoint(wg_device *device, uint32_t slot, const wg_endpoint *to,
                            wg_endpoint *out)
{
    if (to) {
        *out = *to;
    } else {
        struct wg_peer *peer = wg_peer_find(device, slot);
        if (!peer)
            return -ENOENT;
        *out = wg_peer_endpoint(peer);
    }
    if (out->looped)
        return -ELOOP;
    return out->family ? 0 : -EDESTADDRREQ;
}

int wg_message_send(wg_device *device, uint32_t slot, const wg_endpoint *to, const uint8_t *data,
                    uint32_t length, uint8_t tos, uint64_t now_ns)
{
    /* Control is the only writer of the tables, so it reads them without the lock. */
    struct wg_peer *peer = slot == WG_NO_SLOT ? NULL : wg_peer_find(device, slot);
    wg_endpoint endpoint;
    int error = message_endpoint(device, slot, to, &endpoint);

    if (error)
        return error;
    error = wg_udp_send(&device->io.workers[0], &endpoint, data, length, tos);
    if (error && wg_endpoint_has_source(&endpoint) && wg_udp_is_stale_source(-error)) {
        wg_endpoint_clear_source(&endpoint);
        error = wg_udp_send(&device->io.workers[0], &endpoint, data, length, tos);
        if (!error && peer)
            wg_peer_clear_source(device, slot);
    }
    if (error)
        wg_count(device, tx_send_errors, 1);
    else if (peer)
        wg_peer_stamp_sent(peer, length, false, now_ns);
    return error;
}
