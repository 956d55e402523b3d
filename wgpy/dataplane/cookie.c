/* SPDX-License-Identifier: MIT */
/* The macs of the handshake messages that come in (5.4.4), and the cookies that we give (5.4.7).
 *
 * mac1 shows that the sender knows our public key.  mac2 shows that it also reads what we send to
 * its address: it is keyed with a cookie, a MAC of that address and port under a secret of ours.
 *
 * Each receive thread has a checker: its contexts are made once, so that a message costs neither
 * an allocation nor a lock until its mac1 was right.  Under the tables' lock messages are only
 * checked; cookie replies are made and sent when the batch is through.
 *
 * The library has no XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha): it is put together out of
 * ChaCha20 and ChaCha20-Poly1305, as wgpy/protocol/cookie.py does for the other side. */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "congestion.h"
#include "cookie.h"
#include "endpoint.h"
#include "mac.h"
#include "sender.h"
#include "tables.h"
#include "udp.h"

#define MAC1_FROM_END     (2 * WG_MAC_LEN) /* mac1 || mac2 end every message 1 and 2 (5.4) */
#define XNONCE_LEN        24
#define CHACHA_BLOCK_LEN  64
#define REPLIES_PER_BATCH 64
#define COOKIE_REPLY_TOS  0 /* as the kernel module sends them */

struct wanted_reply {         /* to one message */
    wg_endpoint to;           /* who sent it */
    uint8_t sender_index[4];  /* as it came, as is mac1 */
    uint8_t mac1[WG_MAC_LEN]; /* the reply's additional data (5.4.7) */
};

struct wg_cookie_checker {           /* one receive thread's own */
    wg_device *device;               /* whose messages it checks */
    uint64_t keys_version;           /* of device.cookie_keys, whose copies these are: */
    EVP_MAC_CTX *mac1;               /* keyed with the mac1 key */
    uint8_t cookie_key[WG_KEY_LEN];  /* valid while device.cookie_keys.has_cookie */
    EVP_MAC_CTX *mac;                /* keyed anew for each use */
    EVP_CIPHER_CTX *chacha20;        /* for HChaCha20; keyed anew for each reply, as is aead */
    EVP_CIPHER_CTX *aead;            /* ChaCha20-Poly1305 */
    struct wg_congestion congestion; /* the sender's */
    struct wg_sender *sender;        /* of replies, from this worker's sockets */
    uint32_t wanted;                 /* entries of replies in use */
    struct wanted_reply replies[REPLIES_PER_BATCH]; /* of this batch */
};

/* ---- keys: from control to the checkers ---- */

static int keys_set(wg_device *device, uint8_t *to, bool *has, const uint8_t *key)
{
    pthread_rwlock_wrlock(&device->tables);
    *has = key;
    if (key)
        memcpy(to, key, WG_KEY_LEN);
    else
        OPENSSL_cleanse(to, WG_KEY_LEN);
    device->cookie_keys.version++;
    pthread_rwlock_unlock(&device->tables);
    return 0;
}

int wg_device_set_mac1_key(wg_device *device, const uint8_t *key)
{
    return keys_set(device, device->cookie_keys.mac1_key, &device->cookie_keys.has_mac1, key);
}

int wg_device_set_cookie_key(wg_device *device, const uint8_t *key)
{
    return keys_set(device, device->cookie_keys.cookie_key, &device->cookie_keys.has_cookie, key);
}

/* Read side of tables.  Whether there is a mac1 key; the copies are up to date then. */
static bool keys_follow(struct wg_cookie_checker *checker)
{
    const struct wg_cookie_keys *keys = &checker->device->cookie_keys;

    if (wg_unlikely(checker->keys_version != keys->version)) {
        if (keys->has_mac1 && !wg_mac_set_key(checker->mac1, keys->mac1_key, WG_KEY_LEN))
            return false;
        memcpy(checker->cookie_key, keys->cookie_key, WG_KEY_LEN);
        checker->keys_version = keys->version;
    }
    return keys->has_mac1;
}

/* ---- the secret ---- */

/* False: there is none, or it is too old, and so are all cookies. */
static bool secret_copy(wg_device *device, uint64_t now_ns, uint8_t *secret)
{
    pthread_mutex_lock(&device->cookie_lock);
    bool good = now_ns < device->cookie_secret_expires_ns;
    memcpy(secret, device->cookie_secret, WG_KEY_LEN);
    pthread_mutex_unlock(&device->cookie_lock);
    return good;
}

static void secret_renew(wg_device *device, uint64_t now_ns)
{
    uint8_t fresh[WG_KEY_LEN];

    if (!wg_random_fill(fresh, sizeof(fresh)))
        return;
    pthread_mutex_lock(&device->cookie_lock);
    if (now_ns >= device->cookie_secret_expires_ns) { /* else another thread was first */
        memcpy(device->cookie_secret, fresh, sizeof(fresh));
        device->cookie_secret_expires_ns = now_ns + WG_SECONDS(WG_COOKIE_SECRET_TIME_S);
    }
    pthread_mutex_unlock(&device->cookie_lock);
    OPENSSL_cleanse(fresh, sizeof(fresh));
}

/* ---- checking a message ---- */

/* 5.4.7: a MAC of the source's address and port. */
static bool cookie_make(struct wg_cookie_checker *checker, const uint8_t *secret,
                        const wg_endpoint *source, uint8_t *cookie)
{
    size_t length = wg_endpoint_address_length(source);
    uint8_t bytes[sizeof(source->addr) + sizeof(source->port)];

    memcpy(bytes, source->addr, length);
    wg_store_be16(bytes + length, source->port);
    return wg_mac_set_key(checker->mac, secret, WG_KEY_LEN) &&
           wg_mac_compute(checker->mac, bytes, length + sizeof(source->port), cookie);
}

bool wg_cookie_mac1_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length)
{
    uint8_t mac[WG_MAC_LEN];
    uint32_t covered = length - MAC1_FROM_END;

    return keys_follow(checker) && wg_mac_compute(checker->mac1, message, covered, mac) &&
           CRYPTO_memcmp(mac, message + covered, WG_MAC_LEN) == 0;
}

bool wg_cookie_mac2_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source, uint64_t now_ns)
{
    static const uint8_t none[WG_MAC_LEN]; /* what a sender without a cookie writes (5.4.4) */
    uint8_t secret[WG_KEY_LEN], cookie[WG_MAC_LEN], mac[WG_MAC_LEN];
    uint32_t covered = length - WG_MAC_LEN;

    if (memcmp(message + covered, none, WG_MAC_LEN) == 0)
        return false;
    bool valid = secret_copy(checker->device, now_ns, secret) &&
                 cookie_make(checker, secret, source, cookie) &&
                 wg_mac_set_key(checker->mac, cookie, WG_MAC_LEN) &&
                 wg_mac_compute(checker->mac, message, covered, mac) &&
                 CRYPTO_memcmp(mac, message + covered, WG_MAC_LEN) == 0;

    OPENSSL_cleanse(secret, sizeof(secret));
    return valid;
}

void wg_cookie_want_reply(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source)
{
    if (checker->wanted == REPLIES_PER_BATCH || !checker->device->cookie_keys.has_cookie)
        return;
    struct wanted_reply *wanted = &checker->replies[checker->wanted++];
    wanted->to = *source;
    memcpy(wanted->sender_index, message + 4, sizeof(wanted->sender_index));
    memcpy(wanted->mac1, message + length - MAC1_FROM_END, WG_MAC_LEN);
}

/* ---- cookie replies ---- */

/* Section 2.2 of the draft: the first and the last row of ChaCha20's state after its rounds.  A
 * block is that state plus the one before; those rows began as the constants and the nonce, which
 * are known, so subtracting them from a block that the library made leaves the result. */
static bool hchacha20(EVP_CIPHER_CTX *context, const uint8_t *key, const uint8_t *nonce,
                      uint8_t *subkey)
{
    static const uint8_t constants[] = "expand 32-byte k";
    uint8_t block[CHACHA_BLOCK_LEN] = {0};
    int done;

    bool made = EVP_EncryptInit_ex(context, NULL, NULL, key, nonce) &&
                EVP_EncryptUpdate(context, block, &done, block, sizeof(block));
    for (int at = 0; at < 16; at += 4) {
        wg_store_le32(subkey + at, wg_load_le32(block + at) - wg_load_le32(constants + at));
        wg_store_le32(subkey + 16 + at, wg_load_le32(block + 48 + at) - wg_load_le32(nonce + at));
    }
    OPENSSL_cleanse(block, sizeof(block));
    return made;
}

/* Section 2.3 of the draft, for a plaintext and additional data of WG_MAC_LEN bytes each. */
static bool xchacha20poly1305_seal(struct wg_cookie_checker *checker, const uint8_t *nonce,
                                   const uint8_t *aad, const uint8_t *plaintext, uint8_t *out)
{
    uint8_t subkey[WG_KEY_LEN], short_nonce[WG_NONCE_LEN] = {0};
    EVP_CIPHER_CTX *aead = checker->aead;
    int done;

    memcpy(short_nonce + 4, nonce + 16, 8);
    bool sealed = hchacha20(checker->chacha20, checker->cookie_key, nonce, subkey) &&
                  EVP_EncryptInit_ex(aead, NULL, NULL, subkey, short_nonce) &&
                  EVP_EncryptUpdate(aead, NULL, &done, aad, WG_MAC_LEN) &&
                  EVP_EncryptUpdate(aead, out, &done, plaintext, WG_MAC_LEN) &&
                  EVP_EncryptFinal_ex(aead, out + WG_MAC_LEN, &done) &&
                  EVP_CIPHER_CTX_ctrl(aead, EVP_CTRL_AEAD_GET_TAG, WG_TAG_LEN, out + WG_MAC_LEN);
    OPENSSL_cleanse(subkey, sizeof(subkey));
    return sealed;
}

static bool reply_make(struct wg_cookie_checker *checker, const uint8_t *secret,
                       const struct wanted_reply *wanted, const uint8_t *nonce, uint8_t *reply)
{
    uint8_t cookie[WG_MAC_LEN];

    wg_store_le32(reply, WG_MESSAGE_COOKIE_REPLY);
    memcpy(reply + 4, wanted->sender_index, sizeof(wanted->sender_index));
    memcpy(reply + 8, nonce, XNONCE_LEN);
    bool made = cookie_make(checker, secret, &wanted->to, cookie) &&
                xchacha20poly1305_seal(checker, nonce, wanted->mac1, cookie,
                                       reply + WG_COOKIE_REPLY_LEN - WG_MAC_LEN - WG_TAG_LEN);
    OPENSSL_cleanse(cookie, sizeof(cookie));
    return made;
}

static void replies_make(struct wg_cookie_checker *checker, const uint8_t *secret)
{
    const struct wg_sender_claims none = {0};
    uint8_t nonces[REPLIES_PER_BATCH][XNONCE_LEN];

    if (!wg_random_fill(nonces[0], checker->wanted * (size_t)XNONCE_LEN))
        return;
    for (uint32_t i = 0; i < checker->wanted; i++) {
        const struct wanted_reply *wanted = &checker->replies[i];
        if (!wg_sender_room(checker->sender, &none, WG_COOKIE_REPLY_LEN) ||
            !reply_make(checker, secret, wanted, nonces[i], wg_sender_place(checker->sender)))
            return;
        wg_sender_commit(checker->sender, WG_COOKIE_REPLY_LEN, WG_NO_SLOT, &wanted->to,
                         COOKIE_REPLY_TOS, 0);
        wg_count(checker->device, tx_cookie_replies, 1);
    }
}

void wg_cookie_send_replies(struct wg_cookie_checker *checker, uint64_t now_ns)
{
    wg_device *device = checker->device;
    uint8_t secret[WG_KEY_LEN];

    if (wg_likely(!checker->wanted))
        return;
    if (!secret_copy(device, now_ns, secret))
        secret_renew(device, now_ns);
    if (secret_copy(device, now_ns, secret))
        replies_make(checker, secret);
    OPENSSL_cleanse(secret, sizeof(secret));
    checker->wanted = 0;
    wg_sender_flush(device, checker->sender);
}

/* ---- the checker ---- */

static EVP_CIPHER_CTX *cipher_new(const char *name)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
    EVP_CIPHER_CTX *context = cipher ? EVP_CIPHER_CTX_new() : NULL;

    if (context && !EVP_EncryptInit_ex(context, cipher, NULL, NULL, NULL)) {
        EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    EVP_CIPHER_free(cipher); /* the context holds it */
    return context;
}

struct wg_cookie_checker *wg_cookie_checker_new(wg_device *device, uint32_t worker)
{
    struct wg_cookie_checker *checker = calloc(1, sizeof(*checker));

    if (!checker)
        return NULL;
    checker->device = device;
    checker->mac1 = wg_mac_new();
    checker->mac = wg_mac_new();
    checker->chacha20 = cipher_new("ChaCha20");
    checker->aead = cipher_new("ChaCha20-Poly1305");
    const wg_worker_io *io = &device->io.workers[worker];
    wg_congestion_init(&checker->congestion, wg_udp_send_buffer(io), false);
    checker->sender = wg_sender_new(io, &checker->congestion);
    if (checker->mac1 && checker->mac && checker->chacha20 && checker->aead && checker->sender)
        return checker;
    wg_cookie_checker_free(checker);
    return NULL;
}

void wg_cookie_checker_free(struct wg_cookie_checker *checker)
{
    if (!checker)
        return;
    EVP_MAC_CTX_free(checker->mac1);
    EVP_MAC_CTX_free(checker->mac);
    EVP_CIPHER_CTX_free(checker->chacha20);
    EVP_CIPHER_CTX_free(checker->aead);
    wg_sender_free(checker->sender);
    OPENSSL_cleanse(checker->cookie_key, sizeof(checker->cookie_key));
    free(checker);
}
