/* SPDX-License-Identifier: MIT */
/* Keyed BLAKE2s-128 (Mac in 5.4), and randomness. */
#ifndef WGPY_MAC_H
#define WGPY_MAC_H
#include <openssl/types.h>
#include <stdbool.h>

#include "api.h"

/* set_key starts with another key of up to 32 bytes; compute is for the same key again and again.
 */
EVP_MAC_CTX *wg_mac_new(void);
bool wg_mac_set_key(EVP_MAC_CTX *context, const uint8_t *key, size_t length);
bool wg_mac_compute(EVP_MAC_CTX *context, const uint8_t *data, size_t length, uint8_t *mac);
bool wg_random_fill(uint8_t *out, size_t length);

#endif
