/* SPDX-License-Identifier: MIT */
/* Messages, any, to both libraries: they seal alike, and open and refuse alike. */
#include <string.h>

#include "aead.h"
#include "host.h"

enum { LIBRARIES = 2, LENGTH_MAX = 70000 };

static const struct wg_aead_backend *library[LIBRARIES]; /* the same twice where there is but one */
static uint8_t plain[LENGTH_MAX], sealed[LIBRARIES][LENGTH_MAX], opened[LIBRARIES][LENGTH_MAX];
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void seal_all(struct wg_aead_key *keys, uint64_t counter, uint32_t length, bool in_place)
{
    for (int i = 0; i < LIBRARIES; i++) {
        memset(sealed[i] + length, 0xee, WG_TAG_LEN + 1);
        memcpy(sealed[i], plain, length);
        wg_aead_seal(&keys[i], 0, counter, sealed[i], in_place ? sealed[i] : plain, length);
        expect(sealed[i][length + WG_TAG_LEN] == 0xee, "more was written than the tag");
    }
    expect(memcmp(sealed[0], sealed[1], length + WG_TAG_LEN) == 0, "they seal differently");
}

/* Of what is refused nothing may be left. */
static void open_all(struct wg_aead_key *keys, uint64_t counter, uint32_t length, bool in_place,
                     bool changed)
{
    static const uint8_t zeros[LENGTH_MAX];

    for (int i = 0; i < LIBRARIES; i++) {
        const uint8_t *from = in_place ? opened[i] : sealed[i];
        memcpy(opened[i], sealed[i], length + WG_TAG_LEN);
        bool genuine = wg_aead_open(&keys[i], 0, counter, opened[i], from, length + WG_TAG_LEN);
        expect(genuine == !changed, "a message is taken for what it is not");
        expect(memcmp(opened[i], genuine ? plain : zeros, length) == 0, "what was opened");
    }
}

static void keys_make(struct wg_aead_key *keys, const uint8_t *raw, bool seal)
{
    library[0] = wg_aead_find(NULL);
    library[1] = wg_aead_find("openssl");
    for (int i = 0; i < LIBRARIES; i++)
        expect(!wg_aead_key_init(&keys[i], library[i], raw, seal, 1), "no key");
}

static void keys_clear(struct wg_aead_key *keys)
{
    for (int i = 0; i < LIBRARIES; i++)
        wg_aead_key_clear(&keys[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, bytes + size};
    struct wg_aead_key sealing[LIBRARIES], opening[LIBRARIES];
    uint8_t head = input_8(&in), raw[WG_KEY_LEN];
    uint64_t counter = (uint64_t)input_16(&in) << (head & 48) | input_8(&in);
    uint32_t length = head & 1 ? input_16(&in) : input_8(&in), at = input_16(&in);
    uint8_t flip = input_8(&in);

    for (uint32_t i = 0; i < sizeof(raw); i++)
        raw[i] = input_8(&in);
    for (uint32_t i = 0; i < length; i++)
        plain[i] = input_8(&in);
    keys_make(sealing, raw, true);
    keys_make(opening, raw, false);
    seal_all(sealing, counter, length, head & 2);
    for (int i = 0; i < LIBRARIES; i++)
        sealed[i][at % (length + WG_TAG_LEN)] ^= flip;
    open_all(opening, counter + (head & 8 ? 1 : 0), length, head & 4, flip || head & 8);
    keys_clear(sealing);
    keys_clear(opening);
    return 0;
}
