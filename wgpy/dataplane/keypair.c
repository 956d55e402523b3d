/* SPDX-License-Identifier: MIT */
/* Sessions: the index table, the three keypairs of a peer and their rotation, replay protection. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>

#include "aead.h"
#include "bytes.h"
#include "keypair.h"
#include "mac.h"
#include "tables.h"

/* ---- replay (RFC 6479) ---- */

#define REPLAY_WORDS (sizeof(((struct wg_replay *)NULL)->bitmap) / sizeof(uint64_t))

_Static_assert(WG_REPLAY_WINDOW == 64 * (REPLAY_WORDS - 1), "one word is always partly ahead");

static uint64_t *replay_word(struct wg_replay *replay, uint64_t counter)
{
    return &replay->bitmap[counter / 64 % REPLAY_WORDS];
}

/* Moves the window up to counter: the words between hold counters that left it. */
static void replay_advance(struct wg_replay *replay, uint64_t counter)
{
    uint64_t word = replay->newest ? (replay->newest - 1) / 64 : 0;
    uint64_t steps = counter / 64 - word;

    for (uint64_t i = 1; i <= steps && i <= REPLAY_WORDS; i++)
        *replay_word(replay, (word + i) * 64) = 0;
    replay->newest = counter + 1;
}

bool wg_replay_accept(struct wg_replay *replay, uint64_t counter)
{
    uint64_t bit = 1ull << counter % 64;

    if (counter >= WG_REJECT_AFTER_MESSAGES)
        return false;
    if (counter >= replay->newest)
        replay_advance(replay, counter);
    else if (replay->newest - 1 - counter > WG_REPLAY_WINDOW)
        return false;
    if (*replay_word(replay, counter) & bit)
        return false;
    *replay_word(replay, counter) |= bit;
    return true;
}

/* ---- the index table ---- */

/* Indexes are random, so their low bits are a hash already. */
static struct wg_index_entry **index_bucket(wg_device *device, uint32_t index)
{
    return &device->indexes[index & (device->index_buckets - 1)];
}

struct wg_index_entry *wg_index_find(wg_device *device, uint32_t index)
{
    struct wg_index_entry *entry = *index_bucket(device, index);

    while (entry && entry->index != index)
        entry = entry->next;
    return entry;
}

static void index_insert(wg_device *device, struct wg_index_entry *entry)
{
    struct wg_index_entry **bucket = index_bucket(device, entry->index);

    entry->next = *bucket;
    *bucket = entry;
}

/* Write side. */
static void index_drop(struct wg_index_entry *entry)
{
    wg_device *device = entry->peer->device;
    struct wg_index_entry **link = index_bucket(device, entry->index);

    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    link = &entry->peer->first_index;
    while (*link != entry)
        link = &(*link)->next_of_peer;
    *link = entry->next_of_peer;
    device->index_count--;
    free(entry);
}

/* Moves all entries into twice as many buckets; the caller frees the old ones. */
static struct wg_index_entry **index_rehash(wg_device *device, struct wg_index_entry **buckets)
{
    struct wg_index_entry **old = device->indexes;
    uint32_t old_buckets = device->index_buckets;

    device->indexes = buckets;
    device->index_buckets = 2 * old_buckets;
    for (uint32_t i = 0; i < old_buckets; i++) {
        for (struct wg_index_entry *entry = old[i], *next; entry; entry = next) {
            next = entry->next;
            index_insert(device, entry);
        }
    }
    return old;
}

static int index_grow(wg_device *device)
{
    struct wg_index_entry **buckets;

    if (device->index_count < device->index_buckets)
        return 0;
    buckets = calloc(2 * (size_t)device->index_buckets, sizeof(struct wg_index_entry *));
    if (!buckets)
        return -ENOMEM;
    pthread_rwlock_wrlock(&device->tables);
    buckets = index_rehash(device, buckets);
    pthread_rwlock_unlock(&device->tables);
    free(buckets);
    return 0;
}

static int index_choose(wg_device *device, uint32_t *index)
{
    do {
        if (!wg_random_fill((uint8_t *)index, sizeof(*index)))
            return -errno;
    } while (wg_index_find(device, *index));
    return 0;
}

int wg_index_reserve(wg_device *device, uint32_t slot, uint32_t *index)
{
    struct wg_peer *peer = wg_peer_find(device, slot);
    struct wg_index_entry *entry;
    int error;

    if (!peer)
        return -ENOENT;
    if ((error = index_grow(device)) || (error = index_choose(device, index)))
        return error;
    entry = malloc(sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    *entry =
        (struct wg_index_entry){.index = *index, .peer = peer, .next_of_peer = peer->first_index};
    pthread_rwlock_wrlock(&device->tables);
    index_insert(device, entry);
    peer->first_index = entry;
    device->index_count++;
    pthread_rwlock_unlock(&device->tables);
    return 0;
}

int wg_index_release(wg_device *device, uint32_t index)
{
    struct wg_index_entry *entry = wg_index_find(device, index);

    if (!entry)
        return -ENOENT;
    if (entry->keypair)
        return -EBUSY;
    pthread_rwlock_wrlock(&device->tables);
    index_drop(entry);
    pthread_rwlock_unlock(&device->tables);
    return 0;
}

void wg_peer_indexes_clear(struct wg_peer *peer)
{
    while (peer->first_index)
        index_drop(peer->first_index);
}

/* ---- one keypair ---- */

static void keypair_wipe(struct wg_keypair *keypair)
{
    OPENSSL_cleanse(keypair, sizeof(*keypair));
    free(keypair);
}

static int keypair_keys_init(struct wg_keypair *keypair, const wg_session *session)
{
    const wg_device *device = keypair->peer->device;
    const struct wg_aead_backend *aead = device->aead;
    uint32_t threads = device->workers * device->lanes;
    int error = wg_aead_key_init(&keypair->send_key, aead, session->send_key, true, threads);

    if (error)
        return error;
    error = wg_aead_key_init(&keypair->receive_key, aead, session->receive_key, false, threads);
    if (error)
        wg_aead_key_clear(&keypair->send_key);
    return error;
}

static int keypair_new(struct wg_keypair **out, struct wg_peer *peer, const wg_session *session)
{
    struct wg_keypair *keypair = calloc(1, sizeof(*keypair));

    if (!keypair)
        return -ENOMEM;
    keypair->peer = peer;
    int error = keypair_keys_init(keypair, session);
    if (error) {
        keypair_wipe(keypair);
        return error;
    }
    keypair->created_ns = session->created_ns;
    keypair->local_index = session->local_index;
    keypair->remote_index = session->remote_index;
    keypair->initiator = session->initiator;
    atomic_init(&keypair->can_send, true);
    pthread_spin_init(&keypair->replay_lock, PTHREAD_PROCESS_PRIVATE);
    *out = keypair;
    return 0;
}

/* Empties the place that holds the keypair; its index goes with it. Write side. */
static void keypair_drop(struct wg_keypair **place)
{
    struct wg_keypair *keypair = *place;

    if (!keypair)
        return;
    *place = NULL;
    index_drop(wg_index_find(keypair->peer->device, keypair->local_index));
    wg_aead_key_clear(&keypair->send_key);
    wg_aead_key_clear(&keypair->receive_key);
    pthread_spin_destroy(&keypair->replay_lock);
    keypair_wipe(keypair);
}

/* ---- rotation (6.3, kernel module); write side ---- */

static void keypair_shift(struct wg_keypair **to, struct wg_keypair **from)
{
    keypair_drop(to);
    *to = *from;
    *from = NULL;
}

/* What the peer has used becomes current.  Also done before another keypair comes, so that a
 * confirmation control has not seen yet is not lost. */
static void rotate_confirmed(struct wg_keypairs *keypairs)
{
    if (!keypairs->next || !atomic_load(&keypairs->next->confirmed))
        return;
    keypair_shift(&keypairs->previous, &keypairs->current);
    keypair_shift(&keypairs->current, &keypairs->next);
}

/* The initiator may use its keypair at once.  An unconfirmed next is newer than current. */
static void rotate_in_initiated(struct wg_keypairs *keypairs, struct wg_keypair *keypair)
{
    keypair_shift(&keypairs->previous, keypairs->next ? &keypairs->next : &keypairs->current);
    keypair_drop(&keypairs->current);
    keypairs->current = keypair;
}

/* The responder waits in next until the initiator has used the keypair. */
static void rotate_in_responded(struct wg_keypairs *keypairs, struct wg_keypair *keypair)
{
    keypair_drop(&keypairs->next);
    keypair_drop(&keypairs->previous);
    keypairs->next = keypair;
}

int wg_keypair_install(wg_device *device, uint32_t slot, const wg_session *session)
{
    struct wg_peer *peer = wg_peer_find(device, slot);
    struct wg_index_entry *entry = wg_index_find(device, session->local_index);
    struct wg_keypair *keypair = NULL;

    if (!peer)
        return -ENOENT;
    if (!entry || entry->peer != peer || entry->keypair)
        return -EINVAL;
    int error = keypair_new(&keypair, peer, session);
    if (error)
        return error;
    pthread_rwlock_wrlock(&device->tables);
    rotate_confirmed(&peer->keypairs);
    if (keypair->initiator)
        rotate_in_initiated(&peer->keypairs, keypair);
    else
        rotate_in_responded(&peer->keypairs, keypair);
    entry->keypair = keypair;
    pthread_rwlock_unlock(&device->tables);
    atomic_store_explicit(&peer->gso_refused, 0, memory_order_relaxed);
    return 0;
}

int wg_keypair_confirm(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    pthread_rwlock_wrlock(&device->tables);
    rotate_confirmed(&peer->keypairs);
    pthread_rwlock_unlock(&device->tables);
    return 0;
}

int wg_keypairs_expire(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    if (peer->keypairs.current)
        atomic_store(&peer->keypairs.current->can_send, false);
    if (peer->keypairs.next)
        atomic_store(&peer->keypairs.next->can_send, false);
    return 0;
}

void wg_keypairs_clear(struct wg_peer *peer)
{
    keypair_drop(&peer->keypairs.current);
    keypair_drop(&peer->keypairs.previous);
    keypair_drop(&peer->keypairs.next);
}

int wg_keypairs_drop(wg_device *device, uint32_t slot)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    pthread_rwlock_wrlock(&device->tables);
    wg_keypairs_clear(peer);
    pthread_rwlock_unlock(&device->tables);
    return 0;
}

/* ---- sealing ---- */

static bool keypair_can_seal(const struct wg_keypair *keypair, uint64_t now_ns)
{
    return atomic_load_explicit(&keypair->can_send, memory_order_relaxed) &&
           wg_keypair_age_ns(keypair, now_ns) < WG_SECONDS(WG_REJECT_AFTER_TIME_S) &&
           atomic_load_explicit(&keypair->send_counter, memory_order_relaxed) <
               WG_REJECT_AFTER_MESSAGES;
}

struct wg_keypair *wg_keypair_sending(struct wg_peer *peer, uint64_t now_ns)
{
    const struct wg_keypairs *keypairs = &peer->keypairs;
    struct wg_keypair *keypair = keypairs->current;

    if (keypairs->next && atomic_load_explicit(&keypairs->next->confirmed, memory_order_acquire))
        keypair = keypairs->next;
    return keypair && keypair_can_seal(keypair, now_ns) ? keypair : NULL;
}
