/* SPDX-License-Identifier: MIT */
/* What a peer knows of its traffic: where it is, stamps and counters, when control has to look. */
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "endpoint.h"
#include "events.h"
#include "keypair.h"
#include "peer.h"
#include "tables.h"
#include "tally.h"

/* ---- endpoint ---- */

wg_endpoint wg_peer_endpoint(struct wg_peer *peer)
{
    pthread_spin_lock(&peer->endpoint_lock);
    wg_endpoint endpoint = peer->endpoint;
    pthread_spin_unlock(&peer->endpoint_lock);
    return endpoint;
}

/* Returns whether it is another address or port.  Under endpoint_lock. */
static bool endpoint_set(struct wg_peer *peer, const wg_endpoint *source)
{
    wg_endpoint endpoint = *source;

    if (wg_endpoint_is_same_path(&endpoint, &peer->endpoint))
        endpoint.source_refused = peer->endpoint.source_refused;
    bool moved = !wg_endpoint_is_same_address(&endpoint, &peer->endpoint);
    if (!moved)
        endpoint.looped = peer->endpoint.looped;
    if (memcmp(&peer->endpoint, &endpoint, sizeof(endpoint)) != 0)
        peer->endpoint = endpoint;
    return moved;
}

void wg_peer_roam(struct wg_peer *peer, const wg_endpoint *source, uint64_t now_ns)
{
    bool moved = false;

    pthread_spin_lock(&peer->endpoint_lock);
    if (wg_likely(now_ns >= peer->roamed_ns)) {
        peer->roamed_ns = now_ns;
        moved = endpoint_set(peer, source);
    }
    pthread_spin_unlock(&peer->endpoint_lock);
    if (wg_unlikely(moved) && !atomic_exchange(&peer->moved, true))
        wg_event_pend(peer, WG_ENDPOINT_MOVED);
}

int wg_peer_watch_endpoint(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    atomic_store(&peer->moved, false);
    return 0;
}

int wg_peer_set_endpoint(wg_device *device, uint32_t slot, const wg_endpoint *endpoint)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    if (endpoint->family != AF_INET && endpoint->family != AF_INET6 && endpoint->family != 0)
        return -EINVAL;
    pthread_spin_lock(&peer->endpoint_lock);
    endpoint_set(peer, endpoint);
    pthread_spin_unlock(&peer->endpoint_lock);
    return 0;
}

int wg_peer_clear_source(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    pthread_spin_lock(&peer->endpoint_lock);
    wg_endpoint_clear_source(&peer->endpoint);
    pthread_spin_unlock(&peer->endpoint_lock);
    return 0;
}

int wg_peer_allow_source(wg_device *device, uint32_t slot, const wg_endpoint *path, int allowed)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    pthread_spin_lock(&peer->endpoint_lock);
    if (wg_endpoint_is_same_path(&peer->endpoint, path))
        peer->endpoint.source_refused = !allowed;
    pthread_spin_unlock(&peer->endpoint_lock);
    return 0;
}

int wg_peer_set_looped(wg_device *device, uint32_t slot, const wg_endpoint *endpoint, int looped)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    pthread_spin_lock(&peer->endpoint_lock);
    if (wg_endpoint_is_same_address(&peer->endpoint, endpoint))
        peer->endpoint.looped = looped != 0;
    pthread_spin_unlock(&peer->endpoint_lock);
    return 0;
}

/* ---- stamps and timers ---- */

/* The first unanswered payload starts a deadline.  It is armed only when control would sleep past
 * it, and once per wake time.  Control stores wake_ns, then reads the stamps; here the stamp is
 * stored, then wake_ns read; all sequentially consistent, so one of the two sees the other. */
static void stamp_unanswered(struct wg_peer *peer, _Atomic uint64_t *since_ns, uint64_t now_ns,
                             uint64_t timeout_ns)
{
    uint64_t never = 0;

    if (atomic_load_explicit(since_ns, memory_order_relaxed) ||
        !atomic_compare_exchange_strong(since_ns, &never, now_ns))
        return;
    uint64_t wake_ns = atomic_load(&peer->wake_ns);
    if (now_ns + timeout_ns < wake_ns &&
        atomic_compare_exchange_strong(&peer->wake_ns, &wake_ns, 0))
        wg_event_pend(peer, WG_TIMER_ARMED);
}

static void stamp_answered(_Atomic uint64_t *since_ns)
{
    if (atomic_load_explicit(since_ns, memory_order_relaxed))
        atomic_store_explicit(since_ns, 0, memory_order_relaxed);
}

/* Deadlines: 15 s without an answer ask for a handshake (6.4). */
void wg_peer_stamp_sent(struct wg_peer *peer, uint64_t bytes, uint32_t packets, uint64_t now_ns)
{
    atomic_fetch_add_explicit(&peer->tx_bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&peer->tx_any_ns, now_ns, memory_order_relaxed);
    stamp_answered(&peer->rx_unanswered_since_ns);
    if (!packets)
        return;
    atomic_fetch_add_explicit(&peer->tx_packets, packets, memory_order_relaxed);
    atomic_store_explicit(&peer->tx_data_ns, now_ns, memory_order_relaxed);
    stamp_unanswered(peer, &peer->tx_unanswered_since_ns, now_ns,
                     WG_SECONDS(WG_KEEPALIVE_TIMEOUT_S + WG_REKEY_TIMEOUT_S));
}

/* Deadlines: 10 s without anything to send ask for a keepalive (6.5). */
void wg_peer_stamp_received(struct wg_peer *peer, uint64_t bytes, uint32_t packets, uint64_t now_ns)
{
    atomic_fetch_add_explicit(&peer->rx_bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&peer->rx_any_ns, now_ns, memory_order_relaxed);
    stamp_answered(&peer->tx_unanswered_since_ns);
    if (!packets)
        return;
    atomic_fetch_add_explicit(&peer->rx_packets, packets, memory_order_relaxed);
    atomic_store_explicit(&peer->rx_data_ns, now_ns, memory_order_relaxed);
    stamp_unanswered(peer, &peer->rx_unanswered_since_ns, now_ns,
                     WG_SECONDS(WG_KEEPALIVE_TIMEOUT_S));
}

void wg_peer_ask_handshake(struct wg_peer *peer, uint64_t now_ns)
{
    if (now_ns >= atomic_load_explicit(&peer->handshake_gate_ns, memory_order_relaxed))
        wg_event_pend(peer, WG_WANT_HANDSHAKE);
}

int wg_peer_set_handshake_gate(wg_device *device, uint32_t slot, uint64_t gate_ns)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    atomic_store(&peer->handshake_gate_ns, gate_ns);
    return 0;
}

int wg_peer_set_wake(wg_device *device, uint32_t slot, uint64_t wake_ns)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    atomic_store(&peer->wake_ns, wake_ns);
    return 0;
}

int wg_peer_rearm_keepalive(wg_device *device, uint32_t slot, uint64_t since_ns)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    atomic_store(&peer->rx_unanswered_since_ns, since_ns);
    return 0;
}

int wg_peer_received(wg_device *device, uint32_t slot, const wg_endpoint *source, uint32_t length,
                     uint64_t now_ns)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    wg_peer_roam(peer, source, now_ns);
    wg_peer_stamp_received(peer, length, 0, now_ns);
    return 0;
}

int wg_peer_stats_read(wg_device *device, uint32_t slot, wg_peer_stats *stats)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    const struct wg_keypairs *keypairs = &peer->keypairs;
    *stats = (wg_peer_stats){
        .tx_bytes = atomic_load(&peer->tx_bytes),
        .rx_bytes = atomic_load(&peer->rx_bytes),
        .tx_any_ns = atomic_load(&peer->tx_any_ns),
        .rx_any_ns = atomic_load(&peer->rx_any_ns),
        .tx_data_ns = atomic_load(&peer->tx_data_ns),
        .rx_data_ns = atomic_load(&peer->rx_data_ns),
        .tx_unanswered_since_ns = atomic_load(&peer->tx_unanswered_since_ns),
        .rx_unanswered_since_ns = atomic_load(&peer->rx_unanswered_since_ns),
        .tx_congested = atomic_load(&peer->drops[WG_PEER_DROP_CONGESTED].count),
        .staged = atomic_load(&peer->staged_count),
        .sessions = (keypairs->current ? 1u : 0u) | (keypairs->previous ? 2u : 0u) |
                    (keypairs->next ? 4u : 0u),
        .endpoint = wg_peer_endpoint(peer),
    };
    return 0;
}

int wg_peer_facts_read(wg_device *device, uint32_t slot, uint64_t now_ns, wg_peer_facts *facts)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    const struct wg_keypair *sending = wg_keypair_sending(peer, now_ns);
    *facts = (wg_peer_facts){
        .tx_packets = atomic_load(&peer->tx_packets),
        .rx_packets = atomic_load(&peer->rx_packets),
        .session_ns = sending ? sending->created_ns : 0,
        .looped = wg_peer_endpoint(peer).looped,
    };
    wg_tallies_read(peer->drops, facts->drops, WG_PEER_DROPS);
    return 0;
}

/* ---- kick ---- */

/* Send threads kick too, for what did not fit: hence the read lock. */
int wg_peer_kick(wg_device *device, uint32_t slot, uint32_t kinds)
{
    uint32_t wake = 0;

    pthread_rwlock_rdlock(&device->tables);
    struct wg_peer *peer = wg_peer_find(device, slot);
    if (peer)
        wake = wg_kick_add(peer, kinds);
    pthread_rwlock_unlock(&device->tables);
    wg_kick_wake(device, wake);
    return peer ? 0 : -ENOENT;
}
