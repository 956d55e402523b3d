/* SPDX-License-Identifier: MIT */
/* ChaCha20-Poly1305 from a kept library. */
#ifndef WGPY_AEAD_H
#define WGPY_AEAD_H
#include <stdbool.h>

#include "api.h"

struct wg_aead_backend; /* one library: a table of functions, private to aead.c */

struct wg_aead_key { /* one direction of one session; control makes it, data threads use it */
    const struct wg_aead_backend *backend; /* NULL: the key is clear */
    uint8_t raw[WG_KEY_LEN];               /* wiped by wg_aead_key_clear */
    void *state[WG_MAX_THREADS]; /* backend's context for thread i, made at init or NULL */
};

const struct wg_aead_backend *
wg_aead_find(const char *name); /* NULL name: fastest; NULL: unknown */
const char *wg_aead_name(const struct wg_aead_backend *backend);
int wg_aead_key_init(struct wg_aead_key *key, const struct wg_aead_backend *backend,
                     const uint8_t raw[WG_KEY_LEN], bool seal, uint32_t threads);
void wg_aead_key_clear(struct wg_aead_key *key);
/* out = ciphertext || tag, length + 16 bytes.  out may equal in or not overlap it. Cannot fail. */
void wg_aead_seal(struct wg_aead_key *key, uint32_t thread, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length);
/* in = ciphertext || tag, length >= 16. out may equal in. False: out holds nothing to be used. */
bool wg_aead_open(struct wg_aead_key *key, uint32_t thread, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length);

#endif
