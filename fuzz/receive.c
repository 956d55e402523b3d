/* SPDX-License-Identifier: MIT */
/* Datagrams, any, to the receive thread: what reaches the TUN, what is counted as what, who is
 * where and what control hears of is what a model says that knows the sessions. */
#include <receive.c>

#include <sys/socket.h>

#include "mac.h"
#include "packets.h"
#include "world.h"

enum { KIND_TRANSPORT, KIND_HANDSHAKE, KIND_GARBAGE, KIND_ACT, KINDS };
enum { ACT_NONE, ACT_CONFIRM, ACT_EXPIRE, ACT_DROP, ACT_NO_MAC1, ACT_LOAD, ACT_REMOVE, ACTS };

struct model {                               /* what has to come of it */
    wg_counters counters;                    /* of what is compared, and no more */
    uint32_t accepted_count[WORLD_SESSIONS]; /* entries in use */
    uint64_t bytes[WORLD_PEERS];             /* received, of authentic messages */
    wg_endpoint at[WORLD_PEERS]; /* where they were sent from last; family 0: nothing came */
    uint32_t messages;           /* for control */
    bool gone[WORLD_SESSIONS];   /* dropped by control */
    bool no_mac1, loaded, removed, aged;    /* by control; aged: some waited, so some are overdue */
    uint64_t accepted[WORLD_SESSIONS][512]; /* counters that came; not cleared, nor is the next */
    wg_event events[512];                   /* messages, as far as known: slot, length, data */
};

static struct model model;
static struct packets expected, got;
static struct flow_state flows[PACKET_FLOWS];
static uint8_t item_bytes[HOST_IN_MAX][65536];
static struct receive_thread thread;
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* ---- making datagrams ---- */

static wg_endpoint source_of(uint8_t code)
{
    wg_endpoint from = {.family = code & 1 ? AF_INET6 : AF_INET,
                        .port = (uint16_t)(5000 + (code >> 1 & 3))};

    from.addr[0] = 192, from.addr[3] = code >> 3 & 3;
    from.source[0] = 198, from.source[3] = 1 + (code >> 3 & 1);
    return from;
}

static uint64_t counter_of(struct input *in)
{
    static const uint64_t bases[] = {0,
                                     8128,
                                     8191,
                                     1 << 16,
                                     UINT32_MAX,
                                     WG_REKEY_AFTER_MESSAGES,
                                     WG_REJECT_AFTER_MESSAGES - 64,
                                     UINT64_MAX - 255};
    uint8_t code = input_8(in);

    return bases[code & 7] + (code & 128 ? input_8(in) : code >> 3);
}

static uint32_t make_transport(struct input *in, uint8_t *out)
{
    static uint8_t inner[65536];
    uint8_t how = input_8(in), session = input_8(in) % (WORLD_SESSIONS + 1);
    const struct world_session *to = &world.sessions[session % WORLD_SESSIONS];
    uint64_t counter = counter_of(in);
    uint32_t length = how & 1 ? 0 : packet_make(in, flows, false, false, inner).length;
    uint32_t padded = how & 2 ? length : (length + 15) & ~15u;

    memset(inner + length, how & 4 ? 0xaa : 0, padded - length);
    wg_store_le32(out, WG_MESSAGE_TRANSPORT);
    wg_store_le32(out + 4, session < WORLD_SESSIONS ? to->local_index : 7);
    wg_store_le64(out + 8, counter);
    world_seal(session % WORLD_SESSIONS, counter, inner, padded, out + 16);
    length = padded + WG_TRANSPORT_OVERHEAD;
    if (how & 8)
        out[input_16(in) % length] ^= input_8(in);
    return how & 16 ? length - input_8(in) % length : length;
}

static void put_mac1(uint8_t *message, uint32_t length)
{
    static EVP_MAC_CTX *mac;

    if (!mac) {
        mac = wg_mac_new();
        expect(mac && wg_mac_set_key(mac, world.mac1_key, 32), "no MAC");
    }
    wg_mac_compute(mac, message, length - 32, message + length - 32);
}

static uint32_t make_handshake(struct input *in, uint8_t *out)
{
    static const uint32_t sizes[] = {0, WG_INITIATION_LEN, WG_RESPONSE_LEN, WG_COOKIE_REPLY_LEN};
    uint8_t how = input_8(in), type = 1 + (how & 3) % 3;
    uint8_t session = input_8(in) % WORLD_SESSIONS;
    uint32_t length = sizes[type];

    memset(out, input_8(in), length);
    wg_store_le32(out, type);
    if (type != WG_MESSAGE_INITIATION)
        wg_store_le32(out + (type == WG_MESSAGE_RESPONSE ? 8 : 4),
                      world.sessions[session].local_index);
    if (type != WG_MESSAGE_COOKIE_REPLY && !(how & 4))
        put_mac1(out, length);
    if (how & 8)
        memset(out + length - 16, 0, 16);
    if (how & 16)
        out[input_8(in) % length] ^= input_8(in);
    return how & 32 ? length + input_8(in) % 3 - 1 : length;
}

static uint32_t make_garbage(struct input *in, uint8_t *out)
{
    uint32_t length = input_8(in) & 63;

    for (uint32_t i = 0; i < length; i++)
        out[i] = input_8(in);
    return length;
}

static uint32_t make_message(struct input *in, uint8_t kind, uint8_t *out)
{
    if (kind == KIND_TRANSPORT)
        return make_transport(in, out);
    return kind == KIND_HANDSHAKE ? make_handshake(in, out) : make_garbage(in, out);
}

/* A train takes more messages while they are as long as its first. */
static void grow_train(struct input *in, uint8_t kind, struct host_item *item)
{
    uint32_t left = input_8(in) & 15, first = item->length;
    static uint8_t more[65536];

    while (left-- && input_left(in) && first) {
        uint32_t length = make_message(in, kind, more);
        if (length > first || item->length + length > 65535)
            continue;
        item->segment = first;
        memcpy(item->data + item->length, more, length);
        item->length += length;
        if (length < first)
            return;
    }
}

static void make_item(struct input *in)
{
    struct host_item *item = &host.in[host.in_count];
    uint8_t head = input_8(in), kind = head & 7;

    *item = (struct host_item){.data = item_bytes[host.in_count++]};
    kind = kind < 4 ? KIND_TRANSPORT : kind < 6 ? KIND_HANDSHAKE : kind - 4;
    if (kind == KIND_ACT) {
        item->act = 1 + input_8(in) % (ACTS - 1);
        item->advance_ns = WG_SECONDS(input_8(in));
        kind = KIND_TRANSPORT;
    }
    item->from = source_of(head >> 3);
    item->tos = head & 128 ? input_8(in) : 0;
    item->length = make_message(in, kind, item->data);
    if (head & 64) {
        uint8_t odd = input_8(in);
        item->truncated = odd == 1;
        item->age_ns = odd & 128 ? (odd & 127) * 1000000ull : 0;
        model.aged |= item->age_ns != 0;
        grow_train(in, kind, item);
    }
}

/* ---- the model ---- */

static void control_acts(uint8_t act)
{
    const wg_allowedip entry = {.addr = {10, 0, 2}, .family = 4, .cidr = 24, .remove = 1};

    if (act == ACT_CONFIRM)
        wg_keypair_confirm(world.device, 1);
    else if (act == ACT_EXPIRE)
        wg_keypairs_expire(world.device, 1);
    else if (act == ACT_NO_MAC1)
        wg_device_set_mac1_key(world.device, NULL), model.no_mac1 = true;
    else if (act == ACT_LOAD)
        world.device->load_until_ns = host.now_ns + WG_SECONDS(1000), model.loaded = true;
    else if (act == ACT_REMOVE)
        wg_allowedips_change(world.device, 2, &entry, 1), model.removed = true;
    if (act == ACT_DROP) {
        wg_keypairs_drop(world.device, 2);
        model.gone[7] = model.gone[8] = true;
    }
}

static uint32_t session_of(uint32_t index)
{
    uint32_t i = 0;

    while (i < WORLD_SESSIONS &&
           !(world.sessions[i].local_index == index && world.sessions[i].there && !model.gone[i]))
        i++;
    return i;
}

/* RFC 6479 without its bitmap. */
static bool is_new(uint32_t session, uint64_t counter)
{
    uint64_t newest = 0, *seen = model.accepted[session];
    uint32_t count = model.accepted_count[session];

    for (uint32_t i = 0; i < count; i++) {
        if (seen[i] == counter)
            return false;
        newest = seen[i] > newest ? seen[i] : newest;
    }
    if (counter >= WG_REJECT_AFTER_MESSAGES ||
        (newest > counter && newest - counter > WG_REPLAY_WINDOW))
        return false;
    expect(count < 512, "more messages than the model has room for");
    seen[model.accepted_count[session]++] = counter;
    return true;
}

static uint32_t whole_length(const uint8_t *ip, uint32_t padded)
{
    uint32_t version = ip[0] >> 4, least = version == 4 ? 20 : 40;

    if ((version != 4 && version != 6) || padded < least)
        return 0;
    uint32_t length = version == 4 ? ip[2] << 8 | ip[3] : (ip[4] << 8 | ip[5]) + 40;
    return length < least || length > padded ? 0 : length;
}

/* RFC 6040, figure 4, and what the kernel module does where that says to drop. */
static void mark(uint8_t *ip, uint32_t length, uint8_t tos)
{
    bool v4 = ip[0] >> 4 == 4;
    uint8_t inner = v4 ? ip[1] & 3 : ip[1] >> 4 & 3, outer = tos & 3;
    uint8_t ecn = !inner ? 0 : outer == 3 ? 3 : outer == 1 && inner == 2 ? 1 : inner;

    (void)length;
    model.counters.rx_ecn_ignored += !inner && outer == 3;
    if (ecn == inner)
        return;
    if (!v4) {
        ip[1] = (uint8_t)((ip[1] & 0xcf) | ecn << 4);
        return;
    }
    uint32_t before = wg_load_be16(ip);
    ip[1] = (uint8_t)((ip[1] & ~3) | ecn);
    uint32_t sum = (uint16_t)~wg_load_be16(ip + 10) + (uint16_t)~before + wg_load_be16(ip);
    sum = (sum & 0xffff) + (sum >> 16);
    wg_store_be16(ip + 10, (uint16_t) ~((sum & 0xffff) + (sum >> 16)));
}

static void model_inner(uint32_t peer, uint8_t *ip, uint32_t padded, uint8_t tos)
{
    uint32_t length = whole_length(ip, padded);
    bool v4 = ip[0] >> 4 == 4;

    if (!length) {
        model.counters.rx_malformed++;
        return;
    }
    uint32_t owner = world_owner(ip + (v4 ? 12 : 8), v4);
    if (owner != peer || (model.removed && v4 && peer == 2)) {
        model.counters.rx_not_allowed++;
        return;
    }
    mark(ip, length, tos);
    packets_add(&expected, ip, length);
}

static struct wg_aead_key *key_of(uint32_t session)
{
    static struct wg_aead_key keys[WORLD_SESSIONS];

    if (!keys[session].backend)
        expect(!wg_aead_key_init(&keys[session], wg_aead_find("openssl"),
                                 world.sessions[session].to_us, false, 1),
               "no key");
    return &keys[session];
}

static void model_transport(const uint8_t *message, uint32_t length, const struct host_item *item)
{
    static uint8_t plain[65536];
    uint32_t session = session_of(wg_load_le32(message + 4));
    uint64_t counter = wg_load_le64(message + 8);

    if (session == WORLD_SESSIONS) {
        model.counters.rx_unknown_index++;
        return;
    }
    const struct world_session *of = &world.sessions[session];
    if (host.now_ns - of->created_ns >= WG_SECONDS(180)) {
        model.counters.rx_expired++;
        return;
    }
    if (!wg_aead_open(key_of(session), 0, counter, plain, message + 16, length - 16)) {
        model.counters.rx_bad_tag++;
        return;
    }
    if (!is_new(session, counter)) {
        model.counters.rx_replayed++;
        return;
    }
    model.counters.rx_packets++;
    model.bytes[of->peer] += length;
    model.at[of->peer] = item->from;
    if (length > 32)
        model_inner(of->peer, plain, length - 32, item->tos);
}

static bool mac1_is_right(const uint8_t *message, uint32_t length)
{
    uint8_t copy[WG_INITIATION_LEN];

    memcpy(copy, message, length);
    put_mac1(copy, length);
    return !model.no_mac1 && memcmp(copy, message, length) == 0;
}

static void model_handshake(const uint8_t *message, uint32_t length)
{
    uint32_t type = wg_load_le32(message), at = type == WG_MESSAGE_RESPONSE ? 8 : 4,
             slot = WG_NO_SLOT;
    uint32_t index = wg_load_le32(message + at);

    if (type != WG_MESSAGE_INITIATION) {
        uint32_t session = session_of(index);
        bool reserved = index == world.sessions[2].local_index;
        if (!reserved && (session == WORLD_SESSIONS || type == WG_MESSAGE_RESPONSE)) {
            model.counters.rx_unknown_index++;
            return;
        }
        slot = reserved ? 0 : world.sessions[session].peer;
    }
    if (type != WG_MESSAGE_COOKIE_REPLY && !mac1_is_right(message, length)) {
        model.counters.rx_bad_mac1++;
        return;
    }
    if (type != WG_MESSAGE_COOKIE_REPLY && model.loaded) {
        model.counters.rx_under_load++;
        return;
    }
    wg_event *event = &model.events[model.messages++ % 512];
    *event = (wg_event){.slot = slot, .length = length};
    memcpy(event->data, message, length);
}

static void model_message(const uint8_t *message, uint32_t length, const struct host_item *item)
{
    static const uint32_t sizes[] = {0, WG_INITIATION_LEN, WG_RESPONSE_LEN, WG_COOKIE_REPLY_LEN};
    uint32_t type = length >= 4 ? wg_load_le32(message) : 0;

    model.counters.rx_datagrams++;
    if (type == WG_MESSAGE_TRANSPORT && length >= 32)
        model_transport(message, length, item);
    else if (type && type < 4 && length == sizes[type])
        model_handshake(message, length);
    else
        model.counters.rx_invalid++;
}

static void on_take(struct host_item *item)
{
    uint32_t length = item->truncated ? 0 : item->length;
    uint32_t segment = item->segment ? item->segment : length;

    control_acts(item->act);
    for (uint32_t at = 0; at < length; at += segment)
        model_message(item->data + at, length - at < segment ? length - at : segment, item);
}

/* ---- judging ---- */

static void expect_counters(void)
{
    wg_counters is;

    wg_device_counters(world.device, &is);
    expect(is.rx_datagrams == model.counters.rx_datagrams, "datagrams are miscounted");
    expect(is.rx_invalid == model.counters.rx_invalid, "invalid datagrams");
    expect(is.rx_tun_errors == 0 || host.tun_faults[0], "the TUN took everything");
    if (model.aged)
        return;
    expect(is.rx_unknown_index == model.counters.rx_unknown_index, "unknown indexes");
    expect(is.rx_expired == model.counters.rx_expired, "expired sessions");
    expect(is.rx_bad_tag == model.counters.rx_bad_tag, "bad tags");
    expect(is.rx_replayed == model.counters.rx_replayed, "replays");
    expect(is.rx_malformed == model.counters.rx_malformed, "malformed packets");
    expect(is.rx_not_allowed == model.counters.rx_not_allowed, "sources that are not allowed");
    expect(is.rx_packets == model.counters.rx_packets, "messages opened");
    expect(is.rx_ecn_ignored == model.counters.rx_ecn_ignored, "marks that cannot move in");
    expect(is.rx_bad_mac1 == model.counters.rx_bad_mac1, "handshakes with a wrong mac1");
    expect(is.rx_under_load == model.counters.rx_under_load, "handshakes without a right mac2");
    expect(is.tx_cookie_replies == host.sent_count, "cookie replies");
}

/* The same from another side. */
static void expect_facts(void)
{
    wg_device_facts is;
    wg_counters counted;

    wg_device_counters(world.device, &counted);
    wg_device_facts_read(world.device, host.now_ns, &is);
    expect(is.drops[WG_DEVICE_DROP_INVALID].count == counted.rx_invalid &&
               is.drops[WG_DEVICE_DROP_UNKNOWN_INDEX].count == counted.rx_unknown_index &&
               is.drops[WG_DEVICE_DROP_OVERDUE].count == counted.rx_overdue &&
               is.drops[WG_DEVICE_DROP_TUN_ERROR].count == counted.rx_tun_errors,
           "what was dropped");
    expect(is.refusals[WG_REFUSAL_BAD_MAC1].count + is.refusals[WG_REFUSAL_NO_PRIVATE_KEY].count ==
                   counted.rx_bad_mac1 &&
               is.refusals[WG_REFUSAL_UNDER_LOAD].count == counted.rx_under_load,
           "what was refused");
}

static void expect_peers(void)
{
    wg_peer_stats is;

    for (uint32_t slot = 0; slot < WORLD_PEERS; slot++) {
        wg_peer_stats_read(world.device, slot, &is);
        expect(is.rx_bytes == model.bytes[slot], "bytes received");
        if (!model.at[slot].family)
            continue;
        expect(is.endpoint.family == model.at[slot].family &&
                   is.endpoint.port == model.at[slot].port &&
                   memcmp(is.endpoint.addr, model.at[slot].addr, 16) == 0 &&
                   memcmp(is.endpoint.source, model.at[slot].source, 16) == 0,
               "where the peer is");
    }
}

static void expect_events(void)
{
    static wg_event is[1024];
    uint32_t messages = 0;
    int count;

    while ((count = wg_events_take(world.device, is, 64)) > 0) {
        for (int i = 0; i < count; i++) {
            const wg_event *should = &model.events[messages % 512];
            if (is[i].kind != WG_EVENT_MESSAGE)
                continue;
            expect(messages++ < model.messages, "control hears of a message too many");
            expect(is[i].slot == should->slot && is[i].length == should->length &&
                       memcmp(is[i].data, should->data, should->length) == 0,
                   "control hears of another message");
        }
    }
    expect(messages == model.messages, "control did not hear of a message");
}

static void expect_frames(uint32_t features)
{
    for (uint32_t i = 0; i < host.frame_count; i++)
        expect(packets_segment(&got, host.frames[i].data, host.frames[i].length,
                               features & WG_FEATURE_VNET_HDR),
               "a frame that Linux would refuse");
    expect(model.aged || host.tun_faults[0] || packets_match(&expected, &got),
           "packets were changed, lost or overtaken");
}

/* ---- one input ---- */

static void thread_make(void)
{
    thread = (struct receive_thread){
        .device = world.device, .way = &world.device->ways[0].in, .gate = {.device = world.device}};
    expect(!wg_receive_run(world.device, 0, 0), "a thread that is told to stop fails");
    thread.receiver = wg_udp_receiver_new();
    thread.gro = wg_gro_new();
    thread.gate.cookies = wg_cookie_checker_new(world.device, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, bytes + size};
    uint8_t head = input_8(&in);
    uint32_t features = head & 7;

    memset(&model, 0, offsetof(struct model, accepted));
    memset(flows, 0, sizeof(flows));
    packets_clear(&expected);
    packets_clear(&got);
    world_begin(features);
    if (!thread.receiver)
        thread_make();
    atomic_store(&world.device->stopping, false);
    host.tun_refuses_super = head & 8;
    if (head & 16)
        memset(host.tun_faults, EIO, 2); /* of each 16 frames the first two */
    while (input_left(&in) && host.in_count < HOST_IN_MAX)
        make_item(&in);
    host.on_take = on_take;
    expect(!receive_loop(&thread), "the thread ended");
    expect_counters();
    expect_facts();
    if (!model.aged)
        expect_peers();
    expect_events();
    expect_frames(features);
    return 0;
}
