/* SPDX-License-Identifier: MIT */
/* Keyed BLAKE2s-128 (Mac in 5.4), and randomness for its keys. */
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sys/random.h>

#include "mac.h"

EVP_MAC_CTX *wg_mac_new(void)
{
    size_t size = WG_MAC_LEN;
    OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                           OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    EVP_MAC_CTX *context = mac ? EVP_MAC_CTX_new(mac) : NULL;

    EVP_MAC_free(mac);
    if (context && EVP_MAC_CTX_set_params(context, params))
        return context;
    EVP_MAC_CTX_free(context);
    return NULL;
}

bool wg_mac_set_key(EVP_MAC_CTX *context, const uint8_t *key, size_t length)
{
    return EVP_MAC_init(context, key, length, NULL);
}

bool wg_mac_compute(EVP_MAC_CTX *context, const uint8_t *data, size_t length, uint8_t *mac)
{
    size_t size;

    return EVP_MAC_init(context, NULL, 0, NULL) && EVP_MAC_update(context, data, length) &&
           EVP_MAC_final(context, mac, &size, WG_MAC_LEN);
}

bool wg_random_fill(uint8_t *out, size_t length)
{
    while (length) {
        ssize_t got = getrandom(out, length, 0);
        if (got < 0 && errno != EINTR)
            return false;
        if (got > 0) {
            out += got;
            length -= (size_t)got;
        }
    }
    return true;
}
