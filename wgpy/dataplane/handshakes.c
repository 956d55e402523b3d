/* SPDX-License-Identifier: MIT */
/* Handshake messages in: what is cheap to refuse is, the rest goes to control. */
#include "bytes.h"
#include "cookie.h"
#include "events.h"
#include "handshakes.h"
#include "keypair.h"
#include "ratelimiter.h"
#include "tables.h"
#include "tally.h"

uint32_t wg_handshake_length(uint32_t type)
{
    switch (type) {
    case WG_MESSAGE_INITIATION:
        return WG_INITIATION_LEN;
    case WG_MESSAGE_RESPONSE:
        return WG_RESPONSE_LEN;
    case WG_MESSAGE_COOKIE_REPLY:
        return WG_COOKIE_REPLY_LEN;
    default:
        return 0;
    }
}

/* The peer that a response or a cookie reply is for, by its receiver index; false: no index of
 * ours. */
static bool handshake_slot(wg_device *device, uint32_t type, const uint8_t *message, uint32_t *slot)
{
    *slot = WG_NO_SLOT;
    if (type == WG_MESSAGE_INITIATION)
        return true;
    uint32_t offset = type == WG_MESSAGE_RESPONSE ? 8 : 4;
    struct wg_index_entry *entry = wg_index_find(device, wg_load_le32(message + offset));
    if (!entry || (type == WG_MESSAGE_RESPONSE && entry->keypair))
        return false;
    *slot = entry->peer->slot;
    return true;
}

/* 5.3: under load only a source that reads its mail is served, and not too often. */
static bool admit_handshake(const struct wg_handshake_gate *gate, const uint8_t *message,
                            uint32_t length, const wg_endpoint *source)
{
    wg_device *device = gate->device;

    if (wg_events_admit(device, gate->now_ns))
        return true;
    if (!wg_cookie_mac2_valid(gate->cookies, message, length, source, gate->now_ns)) {
        wg_count(device, rx_under_load, 1);
        wg_refuse(device, WG_REFUSAL_UNDER_LOAD, source, gate->now_ns);
        wg_cookie_want_reply(gate->cookies, message, length, source);
        return false;
    }
    if (!wg_ratelimiter_allow(device->handshake_limiter, source, gate->now_ns)) {
        wg_count(device, rx_rate_limited, 1);
        wg_refuse(device, WG_REFUSAL_RATE_LIMITED, source, gate->now_ns);
        return false;
    }
    return true;
}

/* Garbage never reaches Python, and a flood hardly. */
void wg_handshake_receive(const struct wg_handshake_gate *gate, uint32_t type,
                          const uint8_t *message, uint32_t length, const wg_endpoint *source)
{
    wg_device *device = gate->device;
    uint32_t slot;

    if (!handshake_slot(device, type, message, &slot)) {
        wg_count(device, rx_unknown_index, 1);
        wg_drop_from(device, WG_DEVICE_DROP_UNKNOWN_INDEX, source, gate->now_ns);
        return;
    }
    if (type != WG_MESSAGE_COOKIE_REPLY) {
        if (!wg_cookie_mac1_valid(gate->cookies, message, length)) {
            wg_count(device, rx_bad_mac1, 1);
            wg_refuse(device,
                      device->cookie_keys.has_mac1 ? WG_REFUSAL_BAD_MAC1
                                                   : WG_REFUSAL_NO_PRIVATE_KEY,
                      source, gate->now_ns);
            return;
        }
        if (!admit_handshake(gate, message, length, source))
            return;
    }
    if (!wg_event_message(device, slot, source, message, length)) {
        wg_count(device, rx_events_dropped, 1);
        wg_drop_from(device, WG_DEVICE_DROP_EVENTS_LOST, source, gate->now_ns);
    }
}
