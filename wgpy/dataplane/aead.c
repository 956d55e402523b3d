/* SPDX-License-Identifier: MIT */
/* ChaCha20-Poly1305 (RFC 8439), done by a library behind one table of functions.
 *
 *   ipsec-mb  Intel's multi-buffer library, x86-64 only.  Its job interface seals 1440 bytes in
 *             510 ns where the direct calls take 640 and OpenSSL 1270 (AVX-512).  A job needs a
 *             manager of its own, so each thread gets one with its first packet and keeps it.
 *   openssl   libcrypto's EVP interface, everywhere.  Each thread has a context that holds the key,
 *             made when the session is; a packet only sets the nonce.
 *
 * A library that refuses a message of legal size is broken beyond repair: abort with a sentence. */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef WGPY_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

#include "aead.h"
#include "bytes.h"

struct wg_aead_backend {  /* constant; of one library */
    const char *name;     /* for wg_aead_find */
    bool (*usable)(void); /* this machine and this libcrypto can do it */
    /* raw and backend are set already, the rest is zero; 0 or -errno */
    int (*key_init)(struct wg_aead_key *key, bool seal, uint32_t threads);
    void (*key_clear)(struct wg_aead_key *key); /* after a key_init that failed, too */
    /* out has length + WG_TAG_LEN bytes */
    void (*seal)(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce, uint8_t *out,
                 const uint8_t *in, size_t length);
    /* length without the tag, which follows in; false: it is wrong */
    bool (*open)(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce, uint8_t *out,
                 const uint8_t *in, size_t length);
};

static void must(bool holds, const char *otherwise)
{
    if (wg_likely(holds))
        return;
    fprintf(stderr, "wgpy: %s\n", otherwise);
    abort();
}

/* ---- ipsec-mb ---- */

#ifdef WGPY_IPSEC_MB
static pthread_once_t ipsec_mb_once = PTHREAD_ONCE_INIT;
static bool ipsec_mb_works;
static pthread_key_t ipsec_mb_manager_key; /* frees a thread's manager when the thread ends */
static _Thread_local IMB_MGR *ipsec_mb_thread_manager;

static IMB_MGR *ipsec_mb_manager_new(void)
{
    IMB_ARCH arch = IMB_ARCH_NONE;
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (!manager)
        return NULL;
    init_mb_mgr_auto(manager, &arch);
    if (arch >= IMB_ARCH_SSE && imb_get_errno(manager) == 0)
        return manager;
    free_mb_mgr(manager);
    return NULL;
}

static void ipsec_mb_manager_free(void *manager) { free_mb_mgr(manager); }

static void ipsec_mb_probe(void)
{
    IMB_MGR *manager = ipsec_mb_manager_new();
    if (!manager)
        return;
    free_mb_mgr(manager);
    ipsec_mb_works = pthread_key_create(&ipsec_mb_manager_key, ipsec_mb_manager_free) == 0;
}

static bool ipsec_mb_usable(void)
{
    return pthread_once(&ipsec_mb_once, ipsec_mb_probe) == 0 && ipsec_mb_works;
}

static int ipsec_mb_key_init(struct wg_aead_key *key, bool seal, uint32_t threads)
{
    (void)key, (void)seal, (void)threads; /* it takes the raw key with every job */
    return 0;
}

static void ipsec_mb_key_clear(struct wg_aead_key *key) { (void)key; }

static IMB_MGR *ipsec_mb_manager(void)
{
    if (wg_likely(ipsec_mb_thread_manager))
        return ipsec_mb_thread_manager;
    IMB_MGR *manager = ipsec_mb_manager_new();
    must(manager && pthread_setspecific(ipsec_mb_manager_key, manager) == 0,
         "no memory for this thread's ipsec-mb manager");
    return ipsec_mb_thread_manager = manager;
}

static void ipsec_mb_run(const struct wg_aead_key *key, const uint8_t *nonce,
                         IMB_CIPHER_DIRECTION direction, uint8_t *out, const uint8_t *in,
                         size_t length, uint8_t *tag)
{
    IMB_MGR *manager = ipsec_mb_manager();
    IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = direction;
    job->chain_order = direction == IMB_DIR_ENCRYPT ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->enc_keys = job->dec_keys = key->raw;
    job->key_len_in_bytes = WG_KEY_LEN;
    job->iv = nonce;
    job->iv_len_in_bytes = WG_NONCE_LEN;
    job->u.CHACHA20_POLY1305.aad = NULL;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
    job->src = in;
    job->dst = out;
    job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = length;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = WG_TAG_LEN;
    job = IMB_SUBMIT_JOB_NOCHECK(manager);
    must(job && job->status == IMB_STATUS_COMPLETED, "ipsec-mb refused a message");
}

static void ipsec_mb_seal(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce,
                          uint8_t *out, const uint8_t *in, size_t length)
{
    (void)thread;
    ipsec_mb_run(key, nonce, IMB_DIR_ENCRYPT, out, in, length, out + length);
}

static bool ipsec_mb_open(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce,
                          uint8_t *out, const uint8_t *in, size_t length)
{
    (void)thread;
    uint8_t tag[WG_TAG_LEN];
    ipsec_mb_run(key, nonce, IMB_DIR_DECRYPT, out, in, length, tag);
    return CRYPTO_memcmp(tag, in + length, WG_TAG_LEN) == 0;
}
#endif

/* ---- openssl ---- */

static pthread_once_t openssl_once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *openssl_cipher; /* fetched once, for the life of the process */

static void openssl_fetch(void)
{
    openssl_cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
}

static bool openssl_usable(void)
{
    return pthread_once(&openssl_once, openssl_fetch) == 0 && openssl_cipher;
}

static int openssl_key_init(struct wg_aead_key *key, bool seal, uint32_t threads)
{
    for (uint32_t thread = 0; thread < threads; thread++) {
        EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        key->state[thread] = context;
        if (!context ||
            EVP_CipherInit_ex2(context, openssl_cipher, key->raw, NULL, seal ? 1 : 0, NULL) != 1)
            return -ENOMEM;
    }
    OPENSSL_cleanse(key->raw, sizeof(key->raw)); /* the contexts hold it now */
    return 0;
}

static void openssl_key_clear(struct wg_aead_key *key)
{
    for (uint32_t thread = 0; thread < WG_MAX_THREADS; thread++) {
        EVP_CIPHER_CTX_free(key->state[thread]); /* wipes the key; NULL does nothing */
        key->state[thread] = NULL;
    }
}

static bool openssl_begin(EVP_CIPHER_CTX *context, const uint8_t *nonce)
{
    return EVP_CipherInit_ex2(context, NULL, NULL, nonce, -1, NULL) == 1;
}

static void openssl_seal(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce,
                         uint8_t *out, const uint8_t *in, size_t length)
{
    EVP_CIPHER_CTX *context = key->state[thread];
    int done = 0;
    must(openssl_begin(context, nonce) &&
             EVP_EncryptUpdate(context, out, &done, in, (int)length) == 1 &&
             EVP_EncryptFinal_ex(context, out + length, &done) == 1 &&
             EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, WG_TAG_LEN, out + length) == 1,
         "openssl refused to seal a message");
}

static bool openssl_open(struct wg_aead_key *key, uint32_t thread, const uint8_t *nonce,
                         uint8_t *out, const uint8_t *in, size_t length)
{
    EVP_CIPHER_CTX *context = key->state[thread];
    int done = 0;
    return openssl_begin(context, nonce) &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, WG_TAG_LEN, (void *)(in + length)) ==
               1 &&
           EVP_DecryptUpdate(context, out, &done, in, (int)length) == 1 &&
           EVP_DecryptFinal_ex(context, out + length, &done) == 1;
}

/* ---- the table, fastest first ---- */

static const struct wg_aead_backend aead_backends[] = {
#ifdef WGPY_IPSEC_MB
    {"ipsec-mb", ipsec_mb_usable, ipsec_mb_key_init, ipsec_mb_key_clear, ipsec_mb_seal,
     ipsec_mb_open},
#endif
    {"openssl", openssl_usable, openssl_key_init, openssl_key_clear, openssl_seal, openssl_open},
};
#define AEAD_BACKENDS (sizeof(aead_backends) / sizeof(aead_backends[0]))

const struct wg_aead_backend *wg_aead_find(const char *name)
{
    for (size_t i = 0; i < AEAD_BACKENDS; i++) {
        const struct wg_aead_backend *backend = &aead_backends[i];
        if ((!name || strcmp(name, backend->name) == 0) && backend->usable())
            return backend;
    }
    return NULL;
}

const char *wg_aead_name(const struct wg_aead_backend *backend) { return backend->name; }

static char aead_names[64];

static void aead_list_names(void)
{
    for (size_t i = 0; i < AEAD_BACKENDS; i++) {
        if (!aead_backends[i].usable())
            continue;
        if (aead_names[0] != '\0')
            strcat(aead_names, ",");
        strcat(aead_names, aead_backends[i].name);
    }
}

const char *wg_aead_backends(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, aead_list_names);
    return aead_names;
}

/* ---- keys ---- */

int wg_aead_key_init(struct wg_aead_key *key, const struct wg_aead_backend *backend,
                     const uint8_t raw[WG_KEY_LEN], bool seal, uint32_t threads)
{
    must(threads <= WG_MAX_THREADS, "more threads than WG_MAX_THREADS");
    memset(key, 0, sizeof(*key));
    key->backend = backend;
    memcpy(key->raw, raw, WG_KEY_LEN);
    int error = backend->key_init(key, seal, threads);
    if (error)
        wg_aead_key_clear(key);
    return error;
}

void wg_aead_key_clear(struct wg_aead_key *key)
{
    if (key->backend)
        key->backend->key_clear(key);
    OPENSSL_cleanse(key, sizeof(*key));
}

/* ---- packets ---- */

/* 5.4.6: nothing is authenticated beside the payload, and the nonce is 0^32 || counter. */
static void nonce_fill(uint8_t nonce[WG_NONCE_LEN], uint64_t counter)
{
    wg_store_le32(nonce, 0);
    wg_store_le64(nonce + 4, counter);
}

void wg_aead_seal(struct wg_aead_key *key, uint32_t thread, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length)
{
    uint8_t nonce[WG_NONCE_LEN];

    nonce_fill(nonce, counter);
    key->backend->seal(key, thread, nonce, out, in, length);
}

bool wg_aead_open(struct wg_aead_key *key, uint32_t thread, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length)
{
    uint8_t nonce[WG_NONCE_LEN];

    nonce_fill(nonce, counter);
    length -= WG_TAG_LEN;
    if (wg_likely(key->backend->open(key, thread, nonce, out, in, length)))
        return true;
    OPENSSL_cleanse(out, length);
    return false;
}
