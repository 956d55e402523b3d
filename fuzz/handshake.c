/* SPDX-License-Identifier: MIT */
/* Handshake messages under load, with and without right macs, from many sources, while time goes
 * by: whose mac1 and mac2 are right, who gets a cookie reply, and who is served how often. */
#include <string.h>
#include <sys/socket.h>

#include "bytes.h"
#include "cookie.h"
#include "mac.h"
#include "packets.h"
#include "ratelimiter.h"
#include "tables.h"
#include "world.h"

enum { SOURCES = 8, REPLIES_MAX = 64 };

static struct wg_cookie_checker *checker;
static EVP_MAC_CTX *mac;
static uint64_t tokens_ns[SOURCES]; /* when each bucket is full */
static struct wanted {
    wg_endpoint to;
    uint8_t index[4];
} wanted[REPLIES_MAX]; /* replies to come */
static uint32_t wanted_count;
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static wg_endpoint source_of(uint8_t code)
{
    wg_endpoint from = {.family = code & 1 ? AF_INET6 : AF_INET, .port = 5000 + (code >> 4)};

    from.addr[0] = 192, from.addr[3] = code >> 1 & 3;
    from.addr[15] = code & 1 ? code >> 3 & 1 : 0; /* in one /64 */
    return from;
}

static void mac_of(const uint8_t *key, uint32_t key_length, const uint8_t *data, uint32_t length,
                   uint8_t *out)
{
    expect(wg_mac_set_key(mac, key, key_length) && wg_mac_compute(mac, data, length, out),
           "no MAC");
}

/* 5.4.7, with the secret that the device has now. */
static void cookie_of(const wg_endpoint *source, uint8_t *cookie)
{
    uint32_t length = source->family == AF_INET ? 4 : 16;
    uint8_t bytes[18];

    memcpy(bytes, source->addr, length);
    wg_store_be16(bytes + length, source->port);
    mac_of(world.device->cookie_secret, 32, bytes, length + 2, cookie);
}

struct message {                      /* one from outside */
    uint8_t bytes[WG_INITIATION_LEN]; /* as it comes */
    uint32_t length;                  /* of bytes */
    wg_endpoint from;                 /* who sends it */
    bool mac1, mac2;                  /* they are right */
};

static void message_make(struct input *in, struct message *message)
{
    uint8_t how = input_8(in), cookie[16], fill = input_8(in);
    wg_endpoint cookie_for = source_of(how & 4 ? input_8(in) : how >> 3);
    bool fresh = host.now_ns < world.device->cookie_secret_expires_ns;

    message->length = how & 1 ? WG_INITIATION_LEN : WG_RESPONSE_LEN;
    message->from = source_of(how >> 3);
    memset(message->bytes, fill, message->length);
    mac_of(world.mac1_key, 32, message->bytes, message->length - 32,
           message->bytes + message->length - 32);
    cookie_of(&cookie_for, cookie);
    if (how & 2)
        mac_of(cookie, 16, message->bytes, message->length - 16,
               message->bytes + message->length - 16);
    else
        memset(message->bytes + message->length - 16, 0, 16);
    uint8_t flip = input_8(in), at = input_8(in) % message->length;
    message->bytes[at] ^= flip;
    message->mac1 = !flip || at >= message->length - 16;
    message->mac2 = how & 2 && !flip && fresh && cookie_for.port == message->from.port &&
                    cookie_for.family == message->from.family &&
                    memcmp(cookie_for.addr, message->from.addr, 16) == 0;
}

/* 20 a second and 5 at once, of one IPv4 address or IPv6 /64. */
static bool token_is_there(const wg_endpoint *from)
{
    uint64_t *full_ns = &tokens_ns[(from->family == AF_INET6) * 4 + from->addr[3]];
    uint64_t base = *full_ns > host.now_ns ? *full_ns : host.now_ns, cost_ns = WG_NS_PER_S / 20;

    if (base + cost_ns > host.now_ns + 5 * cost_ns)
        return false;
    *full_ns = base + cost_ns;
    return true;
}

static void message_check(const struct message *message)
{
    expect(wg_cookie_mac1_valid(checker, message->bytes, message->length) == message->mac1, "mac1");
    if (!message->mac1)
        return;
    expect(wg_cookie_mac2_valid(checker, message->bytes, message->length, &message->from,
                                host.now_ns) == message->mac2,
           "mac2");
    if (message->mac2) {
        expect(wg_ratelimiter_allow(world.device->handshake_limiter, &message->from, host.now_ns) ==
                   token_is_there(&message->from),
               "how often a source is served");
        return;
    }
    wg_cookie_want_reply(checker, message->bytes, message->length, &message->from);
    if (wanted_count == REPLIES_MAX)
        return;
    wanted[wanted_count].to = message->from;
    memcpy(wanted[wanted_count++].index, message->bytes + 4, 4);
}

/* 5.4.7: each to its own, none with another's nonce. */
static void replies_check(void)
{
    uint32_t before = host.sent_count;

    wg_cookie_send_replies(checker, host.now_ns);
    expect(host.sent_count - before == wanted_count, "replies are lost or too many");
    for (uint32_t i = 0; i < wanted_count; i++) {
        const struct host_out *reply = &host.sent[before + i];
        expect(reply->length == WG_COOKIE_REPLY_LEN && wg_load_le32(reply->data) == 3 &&
                   memcmp(reply->data + 4, wanted[i].index, 4) == 0 &&
                   reply->to.port == wanted[i].to.port &&
                   memcmp(reply->to.addr, wanted[i].to.addr, 16) == 0,
               "a reply to somebody else");
        for (uint32_t j = before; j < before + i; j++)
            expect(memcmp(reply->data + 8, host.sent[j].data + 8, 24) != 0, "a nonce comes twice");
    }
    expect(!wanted_count || world.device->cookie_secret_expires_ns > host.now_ns, "an old secret");
    wanted_count = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, bytes + size};
    struct message message;

    world_begin(0);
    if (!checker) {
        checker = wg_cookie_checker_new(world.device, 0);
        mac = wg_mac_new();
        expect(checker && mac, "no memory");
    }
    memset(tokens_ns, 0, sizeof(tokens_ns));
    while (input_left(&in)) {
        uint8_t what = input_8(&in);
        if (what & 1)
            replies_check();
        if (what & 2)
            host.now_ns += (what >> 2) * 10000000ull; /* for the rates */
        if ((what & 7) == 4)
            host.now_ns += WG_SECONDS((uint64_t)(what >> 3) * 8); /* for the secret */
        message_make(&in, &message);
        message_check(&message);
    }
    replies_check();
    return 0;
}
