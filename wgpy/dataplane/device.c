/* SPDX-License-Identifier: MIT */
/* The device and its peers: life cycle. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"
#include "allowedips.h"
#include "events.h"
#include "icmp.h"
#include "keypair.h"
#include "ratelimiter.h"
#include "staged.h"
#include "tables.h"
#include "tally.h"
#include "ways.h"

#define MTU_DEFAULT 1420
#define PEERS_MIN   16

/* ---- MTU, counters ---- */

void wg_device_set_mtu(wg_device *device, uint32_t mtu) { atomic_store(&device->mtu, mtu); }

const char *wg_device_aead(const wg_device *device) { return wg_aead_name(device->aead); }

void wg_device_counters(const wg_device *device, wg_counters *counters)
{
    uint64_t value[sizeof(*counters) / sizeof(uint64_t)];

    for (size_t i = 0; i < sizeof(value) / sizeof(value[0]); i++)
        value[i] = atomic_load_explicit(&device->counters.value[i], memory_order_relaxed);
    memcpy(counters, value, sizeof(*counters));
}

void wg_device_facts_read(wg_device *device, uint64_t now_ns, wg_device_facts *facts)
{
    *facts = (wg_device_facts){.under_load = wg_events_are_load(device, now_ns)};
    wg_tallies_read(device->drops, facts->drops, WG_DEVICE_DROPS);
    wg_tallies_read(device->refusals, facts->refusals, WG_REFUSALS);
}

/* ---- create and destroy ---- */

static void device_locks_init(wg_device *device)
{
    pthread_rwlockattr_t attributes;

    /* With the default preference two busy readers keep a writer waiting for tens of ms. */
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&device->tables, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    pthread_mutex_init(&device->events_lock, NULL);
    pthread_mutex_init(&device->kicks_lock, NULL);
    pthread_mutex_init(&device->cookie_lock, NULL);
}

static void device_locks_destroy(wg_device *device)
{
    pthread_rwlock_destroy(&device->tables);
    pthread_mutex_destroy(&device->events_lock);
    pthread_mutex_destroy(&device->kicks_lock);
    pthread_mutex_destroy(&device->cookie_lock);
}

static int device_tables_alloc(wg_device *device)
{
    device->index_buckets = WG_INDEX_BUCKETS_MIN;
    device->indexes = calloc(device->index_buckets, sizeof(struct wg_index_entry *));
    if (!device->indexes)
        goto no_indexes;
    device->ring = calloc(WG_EVENT_RING, sizeof(wg_event));
    if (!device->ring)
        goto no_ring;
    device->handshake_limiter = wg_ratelimiter_new(WG_HANDSHAKES_PER_S, WG_HANDSHAKES_BURST);
    if (!device->handshake_limiter)
        goto no_handshake_limiter;
    device->icmp_limits = wg_icmp_limits_new();
    if (!device->icmp_limits)
        goto no_icmp_limits;
    device->ways = calloc(device->workers, sizeof(struct wg_ways));
    if (!device->ways)
        goto no_ways;
    return 0;

no_ways:
    wg_icmp_limits_free(device->icmp_limits);
no_icmp_limits:
    wg_ratelimiter_free(device->handshake_limiter);
no_handshake_limiter:
    free(device->ring);
no_ring:
    free(device->indexes);
no_indexes:
    return -ENOMEM;
}

int wg_device_create(wg_device **out, uint32_t workers, uint32_t lanes, int event_fd,
                     int receive_wake_fd, const int32_t *send_wake_fds, const char *aead)
{
    const struct wg_aead_backend *backend = wg_aead_find(aead);
    wg_device *device;
    int error;

    if (workers < 1 || workers > WG_MAX_WORKERS || lanes < 1 || lanes > WG_MAX_LANES ||
        workers * lanes > WG_MAX_THREADS)
        return -EINVAL;
    if (!backend)
        return -ENOENT;
    device = calloc(1, sizeof(*device));
    if (!device)
        return -ENOMEM;
    device->workers = workers;
    device->lanes = lanes;
    error = device_tables_alloc(device);
    if (error) {
        free(device);
        return error;
    }
    device_locks_init(device);
    device->aead = backend;
    device->event_fd = event_fd;
    device->receive_wake_fd = receive_wake_fd;
    memcpy(device->send_wake_fds, send_wake_fds, workers * sizeof(*send_wake_fds));
    atomic_init(&device->stopping, true);
    atomic_init(&device->mtu, MTU_DEFAULT);
    *out = device;
    return 0;
}

void wg_device_destroy(wg_device *device)
{
    for (uint32_t slot = 0; slot < device->slots; slot++)
        wg_peer_remove(device, slot);
    OPENSSL_cleanse(device->cookie_secret, sizeof(device->cookie_secret));
    free(device->ways);
    wg_icmp_limits_free(device->icmp_limits);
    wg_ratelimiter_free(device->handshake_limiter);
    wg_allowedips_destroy(&device->allowedips);
    device_locks_destroy(device);
    free(device->ring);
    free(device->indexes);
    free(device->peers);
    free(device);
}

/* ---- start and stop ---- */

/* Kicks from before the start need no wake: a send thread takes kicks before its first poll. */
int wg_device_start(wg_device *device, const wg_io *io)
{
    if (!atomic_load(&device->stopping))
        return -EBUSY;
    device->io = *io;
    for (uint32_t i = 0; i < device->workers; i++) {
        wg_ways_open(&device->ways[i], &io->workers[i]);
        wg_wake_drain(device->send_wake_fds[i]);
    }
    wg_wake_drain(device->receive_wake_fd);
    atomic_store(&device->stopping, false);
    return 0;
}

/* receive_wake_fd stays readable until the next start, so every thread that polls it sees that. */
void wg_device_stop(wg_device *device)
{
    atomic_store(&device->stopping, true);
    for (uint32_t i = 0; i < device->workers; i++)
        wg_wake(device->send_wake_fds[i]);
    wg_wake(device->receive_wake_fd);
}

/* ---- peers: add and remove ---- */

static int peers_grow(wg_device *device)
{
    uint32_t slots = device->slots ? 2 * device->slots : PEERS_MIN;
    struct wg_peer **peers, **old;

    if (device->slots >= WG_MAX_PEERS)
        return -ENOSPC;
    peers = calloc(slots, sizeof(struct wg_peer *));
    if (!peers)
        return -ENOMEM;
    if (device->slots)
        memcpy(peers, device->peers, device->slots * sizeof(struct wg_peer *));
    pthread_rwlock_wrlock(&device->tables);
    old = device->peers;
    device->peers = peers;
    device->slots = slots;
    pthread_rwlock_unlock(&device->tables);
    free(old);
    return 0;
}

static struct wg_peer *peer_new(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = calloc(1, sizeof(*peer) + device->workers * sizeof(*peer->kicks));

    if (!peer)
        return NULL;
    peer->slot = slot;
    peer->device = device;
    atomic_init(&peer->wake_ns, WG_NEVER);
    peer->want_heard_ns = WG_NEVER;
    pthread_spin_init(&peer->endpoint_lock, PTHREAD_PROCESS_PRIVATE);
    pthread_mutex_init(&peer->staged_lock, NULL);
    return peer;
}

int wg_peer_add(wg_device *device, uint32_t *out)
{
    uint32_t slot = device->free_hint;
    int error;

    while (wg_peer_find(device, slot))
        slot++;
    if (slot >= device->slots && (error = peers_grow(device)))
        return error;
    struct wg_peer *peer = peer_new(device, slot);
    if (!peer)
        return -ENOMEM;
    pthread_rwlock_wrlock(&device->tables);
    device->peers[slot] = peer;
    device->free_hint = slot + 1;
    pthread_rwlock_unlock(&device->tables);
    *out = slot;
    return 0;
}

static void peer_free(struct wg_peer *peer)
{
    pthread_spin_destroy(&peer->endpoint_lock);
    pthread_mutex_destroy(&peer->staged_lock);
    free(peer);
}

int wg_peer_remove(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    wg_allowedips_replace(device, slot, NULL, 0);
    pthread_rwlock_wrlock(&device->tables);
    wg_keypairs_clear(peer);
    wg_peer_indexes_clear(peer);
    wg_event_forget(peer);
    wg_kick_forget(peer);
    device->peers[slot] = NULL;
    if (slot < device->free_hint)
        device->free_hint = slot;
    pthread_rwlock_unlock(&device->tables);
    wg_staged_drop(peer);
    peer_free(peer);
    return 0;
}
