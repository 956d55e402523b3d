/* SPDX-License-Identifier: MIT */
/* How often a source is served: a token bucket per IPv4 address and per IPv6 /64.
 *
 * A bucket is one number: when it will be full again.  A full bucket says nothing, so its place is
 * free for another source; no sweep is needed.  Sources are hashed with a key that nobody knows,
 * into sets of a few places: a look-up costs the same whatever comes in, and nobody can aim at one
 * set.  While all places of a set are taken its new sources are refused: a flood from many
 * addresses costs neither memory nor the buckets of others. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

#include "bytes.h"
#include "endpoint.h"
#include "mac.h"
#include "ratelimiter.h"

#define SETS       4096 /* a power of two */
#define SET_PLACES 8    /* two cache lines */
#define V6_NETWORK 8    /* bytes of a /64 */

struct place {        /* one source's bucket */
    uint64_t source;  /* its hash */
    uint64_t full_ns; /* when its bucket is full; what is past has no meaning any more */
};

struct wg_ratelimiter {
    pthread_mutex_t lock;                  /* guards all that follows */
    EVP_MAC_CTX *hash;                     /* keyed */
    uint64_t cost_ns;                      /* what one message costs */
    uint64_t burst_ns;                     /* what fills an empty bucket */
    struct place places[SETS][SET_PLACES]; /* by hash */
};

static EVP_MAC_CTX *hash_new(void)
{
    uint8_t key[WG_KEY_LEN];
    EVP_MAC_CTX *hash = wg_mac_new();

    if (hash && !(wg_random_fill(key, sizeof(key)) && wg_mac_set_key(hash, key, sizeof(key)))) {
        EVP_MAC_CTX_free(hash);
        hash = NULL;
    }
    OPENSSL_cleanse(key, sizeof(key));
    return hash;
}

struct wg_ratelimiter *wg_ratelimiter_new(uint32_t per_s, uint32_t burst)
{
    struct wg_ratelimiter *limiter = calloc(1, sizeof(*limiter));

    if (!limiter)
        return NULL;
    limiter->hash = hash_new();
    if (!limiter->hash) {
        free(limiter);
        return NULL;
    }
    pthread_mutex_init(&limiter->lock, NULL);
    limiter->cost_ns = WG_NS_PER_S / per_s;
    limiter->burst_ns = burst * limiter->cost_ns;
    return limiter;
}

void wg_ratelimiter_free(struct wg_ratelimiter *limiter)
{
    if (!limiter)
        return;
    EVP_MAC_CTX_free(limiter->hash);
    pthread_mutex_destroy(&limiter->lock);
    free(limiter);
}

/* An address and a /64 of the same bytes differ in length, and so in their hashes. */
static bool source_hash(struct wg_ratelimiter *limiter, const wg_endpoint *source, uint64_t *hash)
{
    size_t length = wg_endpoint_address_length(source);
    uint8_t mac[WG_MAC_LEN];

    if (length > V6_NETWORK)
        length = V6_NETWORK;
    if (!wg_mac_compute(limiter->hash, source->addr, length, mac))
        return false;
    *hash = wg_load_le64(mac);
    return true;
}

static struct place *place_find(struct place *set, uint64_t source, uint64_t now_ns)
{
    struct place *unused = NULL;

    for (int i = 0; i < SET_PLACES; i++) {
        if (set[i].source == source)
            return &set[i];
        if (set[i].full_ns <= now_ns)
            unused = &set[i];
    }
    if (unused)
        *unused = (struct place){.source = source};
    return unused;
}

static bool token_take(struct wg_ratelimiter *limiter, uint64_t source, uint64_t now_ns)
{
    struct place *place = place_find(limiter->places[source % SETS], source, now_ns);

    if (!place)
        return false;
    uint64_t full_ns = (place->full_ns > now_ns ? place->full_ns : now_ns) + limiter->cost_ns;
    if (full_ns > now_ns + limiter->burst_ns)
        return false;
    place->full_ns = full_ns;
    return true;
}

bool wg_ratelimiter_allow(struct wg_ratelimiter *limiter, const wg_endpoint *source,
                          uint64_t now_ns)
{
    uint64_t hash;

    pthread_mutex_lock(&limiter->lock);
    bool allowed = source_hash(limiter, source, &hash) && token_take(limiter, hash, now_ns);
    pthread_mutex_unlock(&limiter->lock);
    return allowed;
}
