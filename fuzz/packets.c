/* SPDX-License-Identifier: MIT */
/* IP packets and frames of the TUN: see packets.h. */
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"
#include "packets.h"

#define UDP_L4 5 /* VIRTIO_NET_HDR_GSO_UDP_L4 */

void packets_clear(struct packets *packets) { packets->count = packets->used = 0; }

void packets_add(struct packets *packets, const uint8_t *packet, uint32_t length)
{
    expect(packets->count < PACKETS_MAX && packets->used + length <= PACKETS_BYTES,
           "more packets than there is room for");
    packets->offset[packets->count] = packets->used;
    packets->length[packets->count] = length;
    packets->matched[packets->count++] = false;
    memcpy(packets->bytes + packets->used, packet, length);
    packets->used += length;
}

/* ---- checksums, the slow way ---- */

uint16_t sum_of(const uint8_t *data, uint32_t length, uint32_t sum)
{
    for (uint32_t i = 0; i < length; i++)
        sum += i & 1 ? data[i] : (uint32_t)data[i] << 8; /* of 64 KiB at most: it fits */
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static uint16_t pseudo_sum(const uint8_t *ip, uint8_t protocol, uint32_t length)
{
    bool v4 = ip[0] >> 4 == 4;
    uint16_t sum = v4 ? sum_of(ip + 12, 8, protocol) : sum_of(ip + 8, 32, protocol);
    uint8_t tail[4] = {0, (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length};

    return sum_of(tail, 4, sum);
}

static void put_checksums(uint8_t *ip, uint32_t length, uint32_t transport, uint8_t protocol)
{
    uint8_t *field = ip + transport + (protocol == IPPROTO_TCP ? 16 : 6);
    uint32_t rest = length - transport;

    if (ip[0] >> 4 == 4) {
        wg_store_be16(ip + 10, 0);
        wg_store_be16(ip + 10, (uint16_t)~sum_of(ip, (ip[0] & 15) * 4u, 0));
    }
    wg_store_be16(field, 0);
    uint16_t sum = (uint16_t)~sum_of(ip + transport, rest, pseudo_sum(ip, protocol, rest));
    wg_store_be16(field, protocol == IPPROTO_UDP && !sum ? 0xffff : sum);
}

bool packet_is_whole(const uint8_t *ip, uint32_t length)
{
    bool v4 = ip[0] >> 4 == 4;
    uint32_t transport = v4 ? (ip[0] & 15) * 4u : 40;
    uint8_t protocol = v4 ? ip[9] : ip[6];

    if (v4 ? wg_load_be16(ip + 2) != length || sum_of(ip, transport, 0) != 0xffff
           : wg_load_be16(ip + 4) + 40u != length)
        return false;
    while (!v4 && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && transport + 8 <= length) {
        protocol = ip[transport];
        transport += 8 + ip[transport + 1] * 8u;
    }
    uint32_t rest = length - transport;
    if (transport > length || rest < 8 ||
        (protocol == IPPROTO_UDP && wg_load_be16(ip + transport + 4) != rest))
        return false;
    return sum_of(ip + transport, rest, pseudo_sum(ip, protocol, rest)) == 0xffff;
}

/* ---- making packets ---- */

enum {
    SHAPE_V6 = 1,
    SHAPE_UDP = 2,
    SHAPE_PUSH = 4,
    SHAPE_DF = 8,
    SHAPE_SAME_ID = 16,
    SHAPE_OPTIONS = 32, /* of TCP, or with SHAPE_UDP: hop-by-hop or IPv4 options */
    SHAPE_DAMAGED = 64,
    SHAPE_MENDED = 128, /* damaged, but its checksums are right; with SHAPE_DAMAGED: garbage */
};

static uint32_t make_garbage(struct input *in, uint8_t *packet)
{
    uint32_t length = input_8(in) & 127;

    for (uint32_t i = 0; i < length; i++)
        packet[i] = input_8(in);
    return length;
}

static uint32_t payload_length(uint8_t code, bool super)
{
    static const uint16_t common[] = {0, 1, 2, 16, 100, 536, 1200, 1360};
    uint32_t length = common[code & 7] + (code >> 3 & 1);

    return super && code & 128 ? length * (1 + (code >> 4 & 7)) + 7 : length;
}

/* Peers' addresses are 10.0.N.x and fd00::N:x; the last N is nobody's. */
static uint32_t put_ip(uint8_t *ip, uint8_t shape, uint8_t flow, bool out, uint16_t id)
{
    bool v6 = shape & SHAPE_V6, options = (shape & SHAPE_OPTIONS) && (shape & SHAPE_UDP);
    uint8_t far[4] = {10, 0, flow & 3, flow & 4 ? 200 : 1}, near[4] = {10, 9, 9, 9};
    uint8_t protocol = shape & SHAPE_UDP ? IPPROTO_UDP : IPPROTO_TCP;
    uint32_t header = v6 ? 40 : 20;

    memset(ip, 0, header + 8);
    ip[0] = v6 ? 0x60 : (uint8_t)(options ? 0x46 : 0x45);
    ip[1] = v6 ? (uint8_t)((flow >> 3 & 3) << 4) : flow >> 3 & 3;
    ip[v6 ? 7 : 8] = 64;
    ip[v6 ? 6 : 9] = v6 && options ? IPPROTO_HOPOPTS : protocol;
    if (v6) {
        ip[8] = ip[24] = 0xfd;
        memcpy(ip + (out ? 36 : 20), far, 4);
        memcpy(ip + (out ? 20 : 36), near, 4);
        if (options)
            ip[40] = protocol, ip[42] = 1, ip[43] = 4;
        return header + (options ? 8 : 0);
    }
    wg_store_be16(ip + 4, id);
    ip[6] = shape & SHAPE_DF ? 0x40 : 0;
    memcpy(ip + (out ? 16 : 12), far, 4);
    memcpy(ip + (out ? 12 : 16), near, 4);
    if (options)
        memset(ip + 20, 1, 4);
    return header + (options ? 4 : 0);
}

static uint32_t put_transport(uint8_t *at, uint8_t shape, uint8_t flow, uint32_t sequence,
                              uint32_t payload)
{
    bool options = shape & SHAPE_OPTIONS;

    wg_store_be16(at, 1000);
    wg_store_be16(at + 2, 2000 + (flow >> 5));
    if (shape & SHAPE_UDP) {
        wg_store_be16(at + 4, (uint16_t)(8 + payload));
        wg_store_be16(at + 6, 0);
        return 8;
    }
    memset(at + 4, 0, 28);
    wg_store_be32(at + 4, sequence);
    at[12] = options ? 0x80 : 0x50;
    at[13] = shape & SHAPE_PUSH ? 0x18 : 0x10;
    wg_store_be16(at + 14, 500);
    if (options) {
        memcpy(at + 20, "\1\1\10\12", 4);
        return 32;
    }
    return 20;
}

static void damage(struct input *in, uint8_t *packet, uint32_t length, struct made *made)
{
    uint8_t at = input_8(in), value = input_8(in);

    if (!length || !value)
        return;
    packet[at % length] ^= value;
    made->damaged = true;
}

static void put_ip_length(uint8_t *ip, uint32_t length)
{
    if (ip[0] >> 4 == 4)
        wg_store_be16(ip + 2, (uint16_t)length);
    else
        wg_store_be16(ip + 4, (uint16_t)(length - 40));
}

static struct made make_whole(struct input *in, struct flow_state *flows, bool out, bool super,
                              uint8_t shape, uint8_t *ip)
{
    uint8_t which = input_8(in), code = input_8(in);
    struct flow_state *flow = &flows[which % PACKET_FLOWS];
    uint32_t payload = payload_length(code, super);
    uint8_t protocol = shape & SHAPE_UDP ? IPPROTO_UDP : IPPROTO_TCP;
    uint32_t transport = put_ip(ip, shape, which, out, flow->id);
    uint32_t header =
        transport + put_transport(ip + transport, shape, which, flow->sequence, payload);

    struct made made = {.length = header + payload, .header = header};
    made.transport = transport;
    made.v6 = shape & SHAPE_V6, made.udp = shape & SHAPE_UDP;
    for (uint32_t i = 0; i < payload; i++)
        ip[header + i] = (uint8_t)(i * 7 + flow->sequence);
    flow->sequence += payload;
    flow->id += shape & SHAPE_SAME_ID ? 0 : 1;
    put_ip_length(ip, made.length);
    put_checksums(ip, made.length, transport, protocol);
    if (super && code & 128 && payload) {
        uint32_t rest = made.length - transport;
        made.segment = payload / 64 + 1 + input_8(in) * 6u; /* so they are not too many */
        wg_store_be16(ip + transport + (made.udp ? 6 : 16), pseudo_sum(ip, protocol, rest));
    }
    return made;
}

struct made packet_make(struct input *in, struct flow_state *flows, bool out, bool super,
                        uint8_t *packet)
{
    uint8_t shape = input_8(in);

    if (shape & SHAPE_MENDED && shape & SHAPE_DAMAGED)
        return (struct made){.length = make_garbage(in, packet), .damaged = true};
    struct made made = make_whole(in, flows, out, super, shape, packet);
    if (shape & (SHAPE_DAMAGED | SHAPE_MENDED))
        damage(in, packet, made.length, &made);
    if (shape & SHAPE_MENDED && !made.segment && packet[0] >> 4 == (made.v6 ? 6 : 4))
        put_checksums(packet, made.length, made.transport, made.udp ? IPPROTO_UDP : IPPROTO_TCP);
    return made;
}

/* ---- what Linux does with a frame ---- */

struct super {                          /* a super-packet */
    const uint8_t *ip;                  /* at its IP header */
    uint32_t length, transport, header; /* bytes: all; before the transport header; before data */
    uint32_t size;                      /* of each segment's payload */
    uint8_t protocol;                   /* TCP or UDP */
};

static bool super_read(struct super *super, const struct virtio_net_hdr *vnet, const uint8_t *ip,
                       uint32_t length)
{
    bool v4 = ip[0] >> 4 == 4, udp = vnet->gso_type == UDP_L4;
    uint8_t type = vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

    *super = (struct super){.ip = ip, .length = length, .size = vnet->gso_size};
    super->protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
    super->transport = vnet->csum_start;
    if (vnet->flags != VIRTIO_NET_HDR_F_NEEDS_CSUM || !vnet->gso_size ||
        vnet->csum_offset != (udp ? 6 : 16) || vnet->csum_start + (udp ? 8u : 20u) > length)
        return false;
    if (!udp && type != (v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6))
        return false;
    super->header = super->transport + (udp ? 8 : (ip[super->transport + 12] >> 4) * 4u);
    uint32_t rest = length - super->transport;
    return super->header < length &&
           (v4 ? wg_load_be16(ip + 2) : wg_load_be16(ip + 4) + 40u) == length &&
           wg_load_be16(ip + super->transport + vnet->csum_offset) ==
               pseudo_sum(ip, super->protocol, rest);
}

static void segment_tcp(const struct super *super, uint8_t *tcp, uint32_t at, uint32_t payload)
{
    wg_store_be32(tcp + 4, wg_load_be32(tcp + 4) + at);
    if (at)
        tcp[13] &= (uint8_t)~0x80;
    if (super->header + at + payload < super->length)
        tcp[13] &= (uint8_t)~0x09;
}

static void segment_add(struct packets *packets, const struct super *super, uint32_t at,
                        uint32_t index)
{
    static uint8_t packet[65536 + 512];
    uint32_t left = super->length - super->header - at;
    uint32_t payload = left < super->size ? left : super->size;
    uint32_t length = super->header + payload;

    memcpy(packet, super->ip, super->header);
    memcpy(packet + super->header, super->ip + super->header + at, payload);
    put_ip_length(packet, length);
    if (packet[0] >> 4 == 4)
        wg_store_be16(packet + 4, (uint16_t)(wg_load_be16(packet + 4) + index));
    if (super->protocol == IPPROTO_TCP)
        segment_tcp(super, packet + super->transport, at, payload);
    else
        wg_store_be16(packet + super->transport + 4, (uint16_t)(8 + payload));
    put_checksums(packet, length, super->transport, super->protocol);
    packets_add(packets, packet, length);
}

/* A plain packet whose checksum is left to whoever needs it. */
static void finish_plain(struct packets *packets, const struct virtio_net_hdr *vnet)
{
    uint32_t last = packets->count - 1, start = vnet->csum_start;
    uint8_t *ip = packets->bytes + packets->offset[last];
    uint16_t sum = (uint16_t)~sum_of(ip + start, packets->length[last] - start, 0);

    wg_store_be16(ip + start + vnet->csum_offset, vnet->csum_offset == 6 && !sum ? 0xffff : sum);
}

bool packets_segment(struct packets *packets, const uint8_t *frame, uint32_t length, bool vnet)
{
    struct virtio_net_hdr header = {0};
    struct super super;

    if (vnet) {
        if (length < sizeof(header))
            return false;
        memcpy(&header, frame, sizeof(header));
        frame += sizeof(header), length -= sizeof(header);
    }
    if (!header.gso_type) {
        packets_add(packets, frame, length);
        if (header.flags && header.csum_start + header.csum_offset + 2u > length)
            return false;
        if (header.flags)
            finish_plain(packets, &header);
        return true;
    }
    if (length < 20 || !super_read(&super, &header, frame, length))
        return false;
    for (uint32_t at = 0, i = 0; super.header + at < length; at += super.size, i++)
        segment_add(packets, &super, at, i);
    return true;
}

/* ---- comparing ---- */

static bool same_packet(const uint8_t *a, const uint8_t *b, uint32_t length)
{
    if (memcmp(a, b, length) == 0)
        return true;
    bool free_id = length >= 20 && a[0] == 0x45 && a[6] & 0x40 && sum_of(b, 20, 0) == 0xffff;
    return free_id && memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 4) == 0 &&
           memcmp(a + 12, b + 12, length - 12) == 0;
}

/* Its ports are where they are without options, fragments and extension headers. */
static bool has_ports(const uint8_t *ip, uint32_t length, bool v4)
{
    if (v4)
        return ip[0] == 0x45 && !(ip[6] & 0x3f) && !ip[7] && length >= 24;
    return (ip[6] == IPPROTO_TCP || ip[6] == IPPROTO_UDP) && length >= 44;
}

/* Or perhaps, where no ports tell. */
static bool same_flow(const uint8_t *a, uint32_t a_length, const uint8_t *b, uint32_t b_length)
{
    bool v4 = a_length && a[0] >> 4 == 4;
    uint32_t least = v4 ? 20 : 40, from = v4 ? 12 : 8;

    if (a_length < least || b_length < least || a[0] >> 4 != b[0] >> 4 || (!v4 && a[0] >> 4 != 6) ||
        memcmp(a + from, b + from, least - from) != 0)
        return false;
    if (v4 && a[9] != b[9])
        return false;
    if (!has_ports(a, a_length, v4) || !has_ports(b, b_length, v4))
        return true;
    return a[v4 ? 9 : 6] == b[v4 ? 9 : 6] && memcmp(a + least, b + least, 4) == 0;
}

static uint32_t find_unmatched(struct packets *got, const uint8_t *packet, uint32_t length)
{
    for (uint32_t i = 0; i < got->count; i++) {
        const uint8_t *other = got->bytes + got->offset[i];
        if (got->matched[i] || got->length[i] != length)
            continue;
        if (same_packet(packet, other, length)) {
            got->matched[i] = true;
            return i;
        }
    }
    return UINT32_MAX;
}

/* No packet of the flow that was given later may have been written before. */
static bool in_order(const struct packets *got, uint32_t at)
{
    const uint8_t *packet = got->bytes + got->offset[at];

    for (uint32_t i = 0; i < at; i++) {
        if (!got->matched[i] &&
            same_flow(packet, got->length[at], got->bytes + got->offset[i], got->length[i]))
            return false;
    }
    return true;
}

bool packets_match(const struct packets *expected, struct packets *got)
{
    if (expected->count != got->count)
        return false;
    for (uint32_t i = 0; i < expected->count; i++) {
        uint32_t at =
            find_unmatched(got, expected->bytes + expected->offset[i], expected->length[i]);
        if (at == UINT32_MAX || !in_order(got, at))
            return false;
    }
    return true;
}
