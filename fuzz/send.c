/* SPDX-License-Identifier: MIT */
/* Frames, any, to the send thread: what leaves, opened with the peers' keys, is what Linux would
 * make of them, for those whose addresses they go to; what has nowhere to go comes back as an ICMP
 * error. Sends and reads fail as the input says. */
#include <send.c>

#include <netinet/in.h>

#include "packets.h"
#include "world.h"

enum {
    ACT_NONE,
    ACT_CONFIRM,
    ACT_EXPIRE,
    ACT_INSTALL,
    ACT_DROP_STAGED,
    ACT_KICK,
    ACT_ENDPOINT,
    ACT_MTU,
    ACT_LOOPED,
    ACT_COUNTER,
    ACT_SOURCE,
    ACTS
};

static struct packets expected[WORLD_PEERS], got[WORLD_PEERS];
static struct flow_state flows[PACKET_FLOWS];
static uint8_t item_bytes[HOST_IN_MAX][65536];
static struct send_thread thread;
static uint64_t counters[WORLD_SESSIONS + 1][HOST_OUT_MAX]; /* that left, by session */
static uint32_t counter_counts[WORLD_SESSIONS + 1];         /* entries in use */
static uint32_t mtu;                                        /* of the tunnel */
static bool mtu_moved;                                      /* it was another before */
static bool exact;            /* everything leaves, and nothing was damaged */
static uint32_t unreachables; /* frames for which an error may come */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* ---- making frames ---- */

static void put_vnet(uint8_t *frame, const struct made *made)
{
    struct virtio_net_hdr vnet = {0};

    if (made->segment) {
        vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        vnet.gso_type = made->udp  ? VIRTIO_NET_HDR_GSO_UDP_L4
                        : made->v6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                   : VIRTIO_NET_HDR_GSO_TCPV4;
        vnet.gso_size = (uint16_t)made->segment;
        vnet.hdr_len = (uint16_t)made->header;
        vnet.csum_start = (uint16_t)made->transport;
        vnet.csum_offset = made->udp ? 6 : 16;
    }
    memcpy(frame, &vnet, sizeof(vnet));
}

/* A message of WireGuard in a packet: perhaps one of ours, on its way round. */
static void put_nested(struct input *in, uint8_t *ip, const struct made *made)
{
    uint8_t how = input_8(in), session = how % WORLD_SESSIONS;

    if (made->length < made->header + 8)
        return;
    wg_store_le32(ip + made->header, 1 + (how >> 4 & 3));
    wg_store_le32(ip + made->header + 4, how & 128 ? world.sessions[session].local_index
                                                   : world.sessions[session].remote_index);
    ip[made->v6 ? 7 : 8] = how & 64 ? 3 : 60;
}

static void make_frame(struct input *in, uint32_t features)
{
    struct host_item *item = &host.in[host.in_count];
    bool vnet = features & WG_FEATURE_VNET_HDR;
    uint32_t before = vnet ? WG_VNET_HDR_LEN : 0;
    uint8_t head = input_8(in);

    *item = (struct host_item){.data = item_bytes[host.in_count++]};
    struct made made = packet_make(in, flows, true, vnet, item->data + before);
    if (vnet)
        put_vnet(item->data, &made);
    if (head & 1)
        put_nested(in, item->data + before, &made);
    item->length = before + made.length;
    if (head & 16 && made.length > made.transport) {
        item->data[before + (made.v6 ? 6 : 9)] = made.v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
        item->data[before + made.transport] = input_8(in);
    }
    if (head & 2 && item->length)
        item->data[input_8(in) % item->length] ^= input_8(in), made.damaged = true;
    if (head & 4)
        item->act = 1 + input_8(in) % (ACTS - 1), item->advance_ns = WG_SECONDS(input_8(in) & 15);
    if (head & 8)
        item->length -= item->length ? input_8(in) % item->length : 0, made.damaged = true;
    exact &= !made.damaged && !(head & 31);
    if (!item->length)
        host.in_count--;
}

/* ---- what happens meanwhile ---- */

static void install_session(uint32_t i)
{
    struct world_session *session = &world.sessions[i];
    wg_session install = {
        .remote_index = session->remote_index, .initiator = 1, .created_ns = host.now_ns};

    memcpy(install.send_key, session->from_us, 32);
    memcpy(install.receive_key, session->to_us, 32);
    if (!wg_index_reserve(world.device, session->peer, &install.local_index))
        wg_keypair_install(world.device, session->peer, &install);
}

static void control_acts(uint8_t act)
{
    struct wg_peer *peer = world.device->peers[0];
    wg_endpoint endpoint = peer->endpoint;

    if (act == ACT_CONFIRM)
        atomic_store(&world.device->peers[1]->keypairs.next->confirmed, true);
    else if (act == ACT_EXPIRE)
        wg_keypairs_expire(world.device, 0);
    else if (act == ACT_INSTALL)
        install_session(2);
    else if (act == ACT_DROP_STAGED)
        wg_peer_drop_staged(world.device, 0);
    else if (act == ACT_KICK)
        wg_peer_kick(world.device, 0, WG_KICK_KEEPALIVE);
    else if (act == ACT_ENDPOINT || act == ACT_SOURCE) {
        endpoint.source[0] = act == ACT_SOURCE ? 198 : 0;
        wg_peer_set_endpoint(world.device, 2, &endpoint);
        wg_peer_set_endpoint(world.device, 0, &endpoint);
    } else if (act == ACT_MTU)
        mtu_moved = true, wg_device_set_mtu(world.device, mtu = mtu == 1420 ? 0 : mtu ? 1420 : 100);
    else if (act == ACT_LOOPED)
        wg_peer_set_looped(world.device, 0, &endpoint, !endpoint.looped);
    else if (act == ACT_COUNTER && peer->keypairs.current)
        atomic_store(&peer->keypairs.current->send_counter, WG_REJECT_AFTER_MESSAGES - 3);
}

static void on_take(struct host_item *item)
{
    static struct packets made;
    bool vnet = world.device->io.features & WG_FEATURE_VNET_HDR;
    const uint8_t *ip = item->data + (vnet ? WG_VNET_HDR_LEN : 0);
    uint32_t owner;

    if (item->act && world.device->peers[1]->keypairs.next)
        control_acts(item->act);
    unreachables++;
    if (!exact)
        return;
    packets_clear(&made);
    expect(packets_segment(&made, item->data, item->length, vnet), "the frame is not well made");
    owner = world_owner(ip + (ip[0] >> 4 == 4 ? 16 : 24), ip[0] >> 4 == 4);
    for (uint32_t i = 0; owner < 2 && i < made.count; i++)
        packets_add(&expected[owner], made.bytes + made.offset[i], made.length[i]);
}

/* ---- judging ---- */

static uint32_t session_of(uint32_t remote_index)
{
    uint32_t i = remote_index - 0x1000;

    expect(i < WORLD_SESSIONS, "a message for no session");
    return i;
}

/* 5.4.6, and no nonce twice. */
static void expect_message(const struct host_out *out)
{
    static uint8_t plain[65536];
    uint32_t session = session_of(wg_load_le32(out->data + 4)), length = out->length - 32;
    uint32_t peer = world.sessions[session].peer, inner;
    uint64_t counter = wg_load_le64(out->data + 8);

    expect(out->length >= 32 && wg_load_le32(out->data) == WG_MESSAGE_TRANSPORT,
           "a message of another kind");
    expect(world_open(session, counter, out->data + 16, out->length - 16, plain),
           "it does not open");
    expect(counter < WG_REJECT_AFTER_MESSAGES, "a nonce that is not to be used");
    for (uint32_t i = 0; i < counter_counts[session]; i++)
        expect(counters[session][i] != counter || host.sends > 1, "a nonce was used twice");
    counters[session][counter_counts[session]++] = counter;
    if (!length)
        return;
    inner = plain[0] >> 4 == 4 ? plain[2] << 8 | plain[3] : (plain[4] << 8 | plain[5]) + 40;
    expect(inner <= length && length - inner < 16, "padding of another length");
    expect(length % 16 == 0 || mtu_moved || length >= mtu, "padding to no multiple");
    for (uint32_t i = inner; i < length; i++)
        expect(!plain[i], "padding that is not zero");
    expect(out->tos == (plain[0] >> 4 == 4 ? plain[1] & 3 : plain[1] >> 4 & 3),
           "marks of congestion");
    uint32_t owner = world_owner(plain + (plain[0] >> 4 == 4 ? 16 : 24), plain[0] >> 4 == 4);
    expect(owner == peer, "a packet for another peer");
    packets_add(&got[peer], plain, inner);
}

/* RFC 792, RFC 4443: an error that comes back is whole. */
static void expect_error(const struct host_out *frame, bool vnet)
{
    const uint8_t *ip = frame->data + (vnet ? WG_VNET_HDR_LEN : 0);
    uint32_t length = frame->length - (vnet ? WG_VNET_HDR_LEN : 0);
    bool v4 = ip[0] == 0x45;
    uint8_t pseudo[40] = {0};

    expect(v4 || ip[0] == 0x60, "an error that is no packet");
    expect(length <= (v4 ? 576 : 1280) && length >= (v4 ? 48 : 88), "an error of a wrong length");
    expect((v4 ? (uint32_t)(ip[2] << 8 | ip[3]) : (ip[4] << 8 | ip[5]) + 40u) == length,
           "its length");
    memcpy(pseudo, ip + 8, 32);
    wg_store_be32(pseudo + 32, length - 40);
    pseudo[39] = 58;
    if (v4)
        expect(sum_of(ip, 20, 0) == 0xffff && sum_of(ip + 20, length - 20, 0) == 0xffff,
               "its checksums");
    else
        expect(sum_of(ip + 40, length - 40, sum_of(pseudo, 40, 0)) == 0xffff, "its checksum");
    const uint8_t *quoted = ip + (v4 ? 28 : 48);
    expect(memcmp(ip + (v4 ? 12 : 8), quoted + (v4 ? 16 : 24), v4 ? 4 : 16) == 0 &&
               memcmp(ip + (v4 ? 16 : 24), quoted + (v4 ? 12 : 8), v4 ? 4 : 16) == 0,
           "not from who was meant, to who sent it");
    uint32_t owner = world_owner(ip + (v4 ? 12 : 8), v4);
    expect(owner == WG_NO_SLOT || owner != 1, "an error about who can be reached");
}

static void expect_all(uint32_t features)
{
    exact &= !host.full;
    for (uint32_t i = 0; i < host.sent_count; i++)
        expect_message(&host.sent[i]);
    for (uint32_t i = 0; i < host.frame_count; i++)
        expect_error(&host.frames[i], features & WG_FEATURE_VNET_HDR);
    expect(host.frame_count <= unreachables, "more errors than frames");
    for (uint32_t peer = 0; exact && peer < 2; peer++)
        expect(packets_match(&expected[peer], &got[peer]),
               "packets were changed, lost or overtaken");
}

static void expect_staged(void)
{
    for (uint32_t slot = 0; slot < WORLD_PEERS; slot++) {
        const struct wg_peer *peer = world.device->peers[slot];
        uint32_t count = 0, bytes = 0;
        for (const struct wg_staged *s = peer->staged_first; s; s = s->next) {
            count++;
            bytes += (uint32_t)sizeof(*s) + s->length + WG_PADDING_MAX;
            expect(s->next || s == peer->staged_last, "the last that is staged");
        }
        expect(count == peer->staged_count && count == peer->staged_by[0], "how many are staged");
        expect(bytes == peer->staged_bytes && count <= WG_STAGED_MAX &&
                   (count == 1 || bytes <= WG_STAGED_MAX_BYTES),
               "their bytes");
        expect((count != 0) == peer->staged_workers, "who has some");
    }
}

/* ---- one input ---- */

static void thread_make(void)
{
    expect(!wg_send_run(world.device, 0, 0), "a thread that is told to stop fails");
    thread = (struct send_thread){.device = world.device,
                                  .tun_fd = HOST_TUN,
                                  .way = &world.device->ways[0].out,
                                  .sealer = {.device = world.device},
                                  .space_len = ALONE_SPACE};
    thread.space = calloc(1, thread.space_len);
    thread.outgoing = calloc(FRAMES_PER_BATCH, sizeof(struct outgoing));
    thread.sender = thread.sealer.sender =
        wg_sender_new(&world.device->io.workers[0], &thread.way->congestion);
}

static void make_faults(struct input *in)
{
    static const uint8_t errors[] = {0,   0,        0,       0,     EAGAIN,     EINVAL,
                                     EIO, EMSGSIZE, ENOBUFS, EPERM, ENETUNREACH};

    for (uint32_t i = 0; i < sizeof(host.send_faults) - 1; i++)
        host.send_faults[i] = errors[input_8(in) % sizeof(errors)];
    for (uint32_t i = 0; i < sizeof(host.read_faults) - 1; i++)
        host.read_faults[i] = input_8(in) & 128 ? EINVAL : 0;
    host.tun_faults[0] = input_8(in) & 128 ? EIO : 0;
    host.queued = input_8(in) << 15;
    exact = false;
}

static void input_begin(uint32_t features)
{
    world_begin(features);
    if (!thread.sender)
        thread_make();
    atomic_store(&world.device->stopping, false);
    memset(flows, 0, sizeof(flows));
    memset(counter_counts, 0, sizeof(counter_counts));
    for (uint32_t peer = 0; peer < WORLD_PEERS; peer++)
        packets_clear(&expected[peer]), packets_clear(&got[peer]);
    exact = true;
    mtu = 1420;
    mtu_moved = false;
    unreachables = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, bytes + size};
    uint8_t head = input_8(&in);
    uint32_t features = head & 15;

    input_begin(features);
    if (head & 16)
        make_faults(&in);
    while (input_left(&in) && host.in_count < HOST_IN_MAX)
        make_frame(&in, features);
    host.on_take = on_take;
    expect(!send_loop(&thread), "the thread ended");
    expect_all(features);
    expect_staged();
    for (uint32_t slot = 0; slot < WORLD_PEERS; slot++) /* they go with this on their minds */
        wg_peer_kick(world.device, slot, WG_KICK_KEEPALIVE);
    return 0;
}
