/* SPDX-License-Identifier: MIT */
/* Packets of one peer -> sealed messages in a sender's arena: nonces, padding, the message.
 *
 * Nonces are taken before anything is sealed, so that threads that seal side by side take them in
 * the order in which their messages leave. */
#include "aead.h"
#include "bytes.h"
#include "peer.h"
#include "sealing.h"
#include "staged.h"

/* ---- one packet ---- */

/* Payload is padded to 16 bytes, but never beyond the tunnel's MTU, so that padding alone cannot
 * make the outer packet too long (5.4.6). A super-packet's segments count as packets of their own.
 */
static uint32_t padded_length(uint32_t length, uint32_t mtu)
{
    uint32_t last = mtu && length > mtu ? length % mtu : length;
    uint32_t padded = (last + WG_PADDING_MAX) & ~(uint32_t)WG_PADDING_MAX;

    if (mtu && padded > mtu)
        padded = mtu;
    return length + (padded > last ? padded - last : 0);
}

static bool gso_allowed(const wg_device *device, struct wg_peer *peer, uint32_t length)
{
    uint32_t refused = atomic_load_explicit(&peer->gso_refused, memory_order_relaxed);

    return device->io.features & WG_FEATURE_UDP_GSO && (!refused || length < refused);
}

static uint32_t udp_manner(const struct wg_sealer *sealer, const struct wg_sealing *sealing,
                           uint32_t length)
{
    return (gso_allowed(sealer->device, sealing->peer, length) ? WG_SENDER_BATCHED : 0u) |
           (sealing->yields ? WG_SENDER_YIELDING : 0u);
}

/* plaintext has room for the padding behind it; what stands there is put back. */
static void seal_packet(const struct wg_sealer *sealer, struct wg_sealing *sealing,
                        uint8_t *plaintext, uint32_t length)
{
    uint32_t padded = padded_length(length, sealing->mtu);
    uint32_t message = padded + WG_TRANSPORT_OVERHEAD;
    uint8_t *out = wg_sender_place(sealer->sender);
    uint8_t behind[WG_PADDING_MAX];

    memcpy(behind, plaintext + length, padded - length);
    memset(plaintext + length, 0, padded - length);
    wg_store_le32(out, WG_MESSAGE_TRANSPORT);
    wg_store_le32(out + 4, sealing->keypair->remote_index);
    wg_store_le64(out + 8, sealing->counter);
    wg_aead_seal(&sealing->keypair->send_key, sealer->thread, sealing->counter,
                 out + WG_TRANSPORT_HEADER_LEN, plaintext, padded);
    memcpy(plaintext + length, behind, padded - length);
    wg_sender_commit(sealer->sender, message, sealing->peer->slot, &sealing->to, sealing->ecn,
                     udp_manner(sealer, sealing, message));
    sealing->counter++;
    sealing->bytes += message;
}

/* ---- a round ---- */

static bool should_rekey(const struct wg_keypair *keypair, uint64_t counter, uint64_t now_ns)
{
    return counter > WG_REKEY_AFTER_MESSAGES ||
           (keypair->initiator &&
            wg_keypair_age_ns(keypair, now_ns) >= WG_SECONDS(WG_REKEY_AFTER_TIME_S));
}

/* data: how many of the packets were no keepalives. */
static void sealing_end(const struct wg_sealer *sealer, struct wg_sealing *sealing, uint32_t data)
{
    wg_peer_stamp_sent(sealing->peer, sealing->bytes, data, sealer->now_ns);
    if (should_rekey(sealing->keypair, sealing->counter, sealer->now_ns))
        wg_peer_ask_handshake(sealing->peer, sealer->now_ns);
    if (data)
        wg_count(sealer->device, tx_packets, data);
}

void wg_sealing_frame(const struct wg_sealer *sealer, struct wg_sealing *sealing,
                      struct wg_gso *gso)
{
    struct wg_packet packet;

    for (uint32_t i = 0; i < sealing->packets && wg_gso_next(gso, &packet); i++)
        seal_packet(sealer, sealing, packet.data, packet.length);
    sealing_end(sealer, sealing, sealing->packets);
}

void wg_sealing_staged(const struct wg_sealer *sealer, struct wg_peer *peer,
                       struct wg_keypair *keypair, struct wg_staged *staged)
{
    struct wg_sealing sealing;

    if (!wg_sealing_begin(sealer, &sealing, peer, keypair, 1))
        return;
    sealing.ecn = staged->ecn;
    seal_packet(sealer, &sealing, staged->data, staged->length);
    sealing_end(sealer, &sealing, staged->length > 0);
}
