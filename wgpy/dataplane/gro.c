/* SPDX-License-Identifier: MIT */
/* Packets of one batch -> frames for the TUN:
 *   1. wg_gro_add reads a packet's shape and looks the newest frame of its flow up;
 *   2. where nothing but sequence, length and checksum differ, and both checksums are right, the
 *      packet joins that frame, else it begins a new one;
 *   3. wg_gro_next makes a super-packet of the first packet's headers and all payloads, in place.
 *
 * The rules are those of the kernel's own GRO, so that splitting a frame gives its packets back.
 * Checksums are looked at only when a packet is about to be joined; the kernel checks the others.
 *
 * The flow table is small and forgets: 4 flows a set, the oldest goes.  A flow that was forgotten
 * begins a new frame, so nothing is reordered, and no packet costs more than 4 comparisons.
 *
 * Where the kernel surprises:
 * - It wants the pseudo-header sum in the checksum field, not inverted (as for NEEDS_CSUM).
 * - Readers of UDP_GRO sockets count on at most 64 datagrams at a time (its UDP_GRO_CNT_MAX). */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "gro.h"
#include "ip.h"
#include "tun.h"

#define UDP_SEGMENTS_MAX 64
#define FLOW_SETS_LOG2   7
#define FLOW_SETS        (1 << FLOW_SETS_LOG2)
#define FLOW_WAYS        4
#define NO_PACKET        UINT32_MAX
#define HEADER_SAVED     60 /* IPv6 and TCP without options: all that a merge changes lies in it */

/* What a look at a packet's headers tells. */
struct packet_shape {
    const uint8_t *ip;      /* the packet, at its IP header */
    uint32_t length;        /* of the packet, bytes */
    uint32_t transport;     /* offset of the TCP or UDP header */
    uint32_t header_length; /* IP and transport headers */
    uint32_t payload;       /* bytes behind them */
    uint8_t protocol;       /* TCP or UDP */
    bool joins;             /* has a payload and nothing that belongs to it alone */
    bool ends;              /* PSH: none may follow it in a frame */
};

/* A run of packets that leave as one.  Packets that are never joined have a frame each. */
struct gro_frame {
    struct packet_shape shape; /* of the first packet */
    uint32_t first, last;      /* packets, chained by next */
    uint32_t count;            /* packets */
    uint32_t length;           /* of the super-packet, bytes */
    uint16_t id_step;          /* IPv4 identification, packet to packet: 1 or 0 (count > 1) */
    bool verified;             /* the first packet's checksums are right */
    bool pushed;               /* the last packet has PSH */
};

struct flow_slot {
    uint64_t generation; /* the slot is in use if it is the gro's */
    uint32_t frame;      /* the newest of the flow */
};

struct wg_gro {                  /* one receive thread's own */
    uint32_t features;           /* enum wg_feature bits */
    uint32_t packet_count;       /* in packets, since the reset */
    uint32_t frame_count;        /* in frames, likewise */
    uint32_t frame_cursor;       /* frames given out */
    uint32_t single;             /* the next packet for wg_gro_next_single, or NO_PACKET */
    uint64_t generation;         /* moves on to empty the flow table */
    uint8_t *saved_at;           /* the header that a merge changed, or NULL */
    uint8_t saved[HEADER_SAVED]; /* as it was */
    struct virtio_net_hdr vnet;  /* of the frame given last */
    struct chained_packet {
        uint8_t *data;                            /* at its IP header */
        uint32_t length;                          /* bytes */
        uint32_t next;                            /* of its frame, or NO_PACKET */
    } packets[WG_GRO_PACKETS];                    /* in the order in which they were added */
    struct gro_frame frames[WG_GRO_PACKETS];      /* in order of their first packets */
    struct flow_slot flows[FLOW_SETS][FLOW_WAYS]; /* by a hash of the flow */
};

struct wg_gro *wg_gro_new(void)
{
    struct wg_gro *gro = calloc(1, sizeof(*gro));

    if (gro)
        wg_gro_reset(gro, 0);
    return gro;
}

void wg_gro_free(struct wg_gro *gro) { free(gro); }

void wg_gro_reset(struct wg_gro *gro, uint32_t features)
{
    gro->features = features;
    gro->packet_count = gro->frame_count = gro->frame_cursor = 0;
    gro->single = NO_PACKET;
    gro->saved_at = NULL;
    gro->generation++;
}

/* ---- 1. shape and flow ---- */

/* NO_FLOW: nothing that we merge.  ANY_FLOW: perhaps of a flow that we merge, but which one cannot
 * be told (a fragment, options, extension headers): all must end, or it could be overtaken. */
enum flow_kind { NO_FLOW, ANY_FLOW, ONE_FLOW };

static bool protocol_merges(const struct wg_gro *gro, uint8_t protocol)
{
    if (!(gro->features & WG_FEATURE_VNET_HDR))
        return false;
    return (protocol == IPPROTO_TCP && (gro->features & WG_FEATURE_TUN_TSO)) ||
           (protocol == IPPROTO_UDP && (gro->features & WG_FEATURE_TUN_USO));
}

static enum flow_kind read_ipv4(const struct wg_gro *gro, struct packet_shape *shape)
{
    const uint8_t *ip = shape->ip;

    if (shape->length < WG_IPV4_LEN || !protocol_merges(gro, ip[WG_IPV4_PROTOCOL]))
        return NO_FLOW;
    if (ip[0] != WG_IPV4_PLAIN || (wg_load_be16(ip + WG_IPV4_FRAGMENT) & ~WG_IPV4_DF) ||
        wg_load_be16(ip + WG_IPV4_TOTAL_LENGTH) != shape->length)
        return ANY_FLOW;
    shape->transport = WG_IPV4_LEN;
    shape->protocol = ip[WG_IPV4_PROTOCOL];
    return ONE_FLOW;
}

static enum flow_kind read_ipv6(const struct wg_gro *gro, struct packet_shape *shape)
{
    const uint8_t *ip = shape->ip;

    if (shape->length < WG_IPV6_LEN)
        return NO_FLOW;
    switch (ip[WG_IPV6_NEXT_HEADER]) {
    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_FRAGMENT:
    case IPPROTO_DSTOPTS:
        return ANY_FLOW;
    default:
        if (!protocol_merges(gro, ip[WG_IPV6_NEXT_HEADER]))
            return NO_FLOW;
    }
    if (WG_IPV6_LEN + wg_load_be16(ip + WG_IPV6_PAYLOAD_LENGTH) != shape->length)
        return ANY_FLOW;
    shape->transport = WG_IPV6_LEN;
    shape->protocol = ip[WG_IPV6_NEXT_HEADER];
    return ONE_FLOW;
}

static enum flow_kind read_tcp(struct packet_shape *shape)
{
    const uint8_t *tcp = shape->ip + shape->transport;
    uint32_t room = shape->length - shape->transport, header, flags;

    if (room < WG_TCP_LEN)
        return ANY_FLOW;
    header = wg_tcp_header_length(tcp);
    if (header < WG_TCP_LEN || header > room)
        return ANY_FLOW;
    flags = wg_load_be16(tcp + WG_TCP_FLAGS) & WG_TCP_FLAGS_ALL;
    shape->header_length = shape->transport + header;
    shape->payload = room - header;
    shape->joins = shape->payload && (flags & ~WG_TCP_FLAG_PSH) == WG_TCP_FLAG_ACK;
    shape->ends = flags & WG_TCP_FLAG_PSH;
    return ONE_FLOW;
}

static enum flow_kind read_udp(struct packet_shape *shape)
{
    const uint8_t *udp = shape->ip + shape->transport;
    uint32_t room = shape->length - shape->transport;

    if (room < WG_UDP_LEN)
        return ANY_FLOW;
    shape->header_length = shape->transport + WG_UDP_LEN;
    shape->payload = room - WG_UDP_LEN;
    shape->joins = shape->payload && wg_load_be16(udp + WG_UDP_LENGTH) == room &&
                   wg_load_be16(udp + WG_UDP_CHECKSUM) != 0;
    return ONE_FLOW;
}

static enum flow_kind read_shape(const struct wg_gro *gro, struct packet_shape *shape,
                                 const uint8_t *packet, uint32_t length)
{
    enum flow_kind kind = NO_FLOW;

    *shape = (struct packet_shape){.ip = packet, .length = length};
    if (length && wg_ip_version(packet) == 4)
        kind = read_ipv4(gro, shape);
    else if (length && wg_ip_version(packet) == 6)
        kind = read_ipv6(gro, shape);
    if (kind != ONE_FLOW)
        return kind;
    return shape->protocol == IPPROTO_TCP ? read_tcp(shape) : read_udp(shape);
}

static bool same_flow(const struct packet_shape *a, const struct packet_shape *b)
{
    /* Both addresses, and with them the ports. */
    uint32_t at = a->transport == WG_IPV4_LEN ? WG_IPV4_SOURCE : WG_IPV6_SOURCE;

    return a->transport == b->transport && a->protocol == b->protocol &&
           memcmp(a->ip + at, b->ip + at, a->transport + 4 - at) == 0;
}

/* Multiplication carries what differs upwards and the shift back down, so the top bits are best.
 * Need not be secret: those who collide share FLOW_WAYS slots and merge less, nothing else. */
static uint32_t flow_set(const struct packet_shape *shape)
{
    const uint8_t *ip = shape->ip;
    uint64_t hash = wg_load_le32(ip + shape->transport) + shape->protocol;

    for (uint32_t at = shape->transport == WG_IPV4_LEN ? WG_IPV4_SOURCE : WG_IPV6_SOURCE;
         at < shape->transport; at += 8) {
        hash = (hash ^ wg_load_le64(ip + at)) * 0x9e3779b97f4a7c15ull; /* 2^64 / golden ratio */
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash >> (64 - FLOW_SETS_LOG2));
}

/* The slot of the packet's flow, or else the slot that a new flow may take: its frame is older
 * than those of the others in the set. */
static struct flow_slot *find_slot(struct wg_gro *gro, const struct packet_shape *shape,
                                   bool *found)
{
    struct flow_slot *set = gro->flows[flow_set(shape)], *oldest = set;

    for (struct flow_slot *slot = set; slot < set + FLOW_WAYS; slot++) {
        *found = slot->generation == gro->generation &&
                 same_flow(&gro->frames[slot->frame].shape, shape);
        if (*found)
            return slot;
        if (slot->generation != gro->generation)
            oldest = slot;
        else if (oldest->generation == gro->generation && slot->frame < oldest->frame)
            oldest = slot;
    }
    return oldest;
}

/* ---- 2. join or begin ---- */

static bool ipv4_continues(const struct gro_frame *frame, const uint8_t *ip)
{
    const uint8_t *first = frame->shape.ip;
    uint16_t step = (uint16_t)(wg_load_be16(ip + WG_IPV4_ID) - wg_load_be16(first + WG_IPV4_ID));
    /* It may be fragmented, so the id matters. */
    bool fragile = !(wg_load_be16(ip + WG_IPV4_FRAGMENT) & WG_IPV4_DF);

    if (ip[WG_IPV4_TOS] != first[WG_IPV4_TOS] || ip[WG_IPV4_TTL] != first[WG_IPV4_TTL] ||
        memcmp(ip + WG_IPV4_FRAGMENT, first + WG_IPV4_FRAGMENT, 2) != 0)
        return false;
    if (frame->count == 1)
        return step == 1 || (step == 0 && !fragile);
    return step == (uint16_t)(frame->id_step * frame->count);
}

static bool ipv6_continues(const struct gro_frame *frame, const uint8_t *ip)
{
    const uint8_t *first = frame->shape.ip;

    return memcmp(ip, first, WG_IPV6_PAYLOAD_LENGTH) == 0 && /* version, traffic class, flow */
           ip[WG_IPV6_HOP_LIMIT] == first[WG_IPV6_HOP_LIMIT];
}

static bool tcp_continues(const struct gro_frame *frame, const struct packet_shape *shape)
{
    const uint8_t *first = frame->shape.ip + shape->transport, *tcp = shape->ip + shape->transport;
    uint32_t given = frame->length - frame->shape.header_length;

    return wg_load_be32(tcp + WG_TCP_SEQUENCE) == wg_load_be32(first + WG_TCP_SEQUENCE) + given &&
           memcmp(tcp + WG_TCP_ACK, first + WG_TCP_ACK, 4) == 0 &&
           memcmp(tcp + WG_TCP_WINDOW, first + WG_TCP_WINDOW, 2) == 0 &&
           memcmp(tcp + WG_TCP_URGENT, first + WG_TCP_URGENT, 2) == 0 &&
           memcmp(tcp + WG_TCP_LEN, first + WG_TCP_LEN,
                  shape->header_length - shape->transport - WG_TCP_LEN) == 0;
}

static bool headers_continue(const struct gro_frame *frame, const struct packet_shape *shape)
{
    if (shape->header_length != frame->shape.header_length)
        return false;
    if (shape->protocol == IPPROTO_TCP && !tcp_continues(frame, shape))
        return false;
    return shape->transport == WG_IPV4_LEN ? ipv4_continues(frame, shape->ip)
                                           : ipv6_continues(frame, shape->ip);
}

static bool frame_has_room(const struct gro_frame *frame, const struct packet_shape *shape)
{
    uint32_t most = shape->protocol == IPPROTO_UDP ? UDP_SEGMENTS_MAX : WG_GRO_SEGMENTS;

    return frame->count < most && shape->payload <= frame->shape.payload &&
           frame->length + shape->payload <= WG_FRAME_MAX;
}

static bool checksums_valid(const struct packet_shape *shape)
{
    uint32_t rest = shape->length - shape->transport;
    uint64_t pseudo = wg_checksum_pseudo(shape->ip, shape->protocol, rest);

    if (shape->transport == WG_IPV4_LEN &&
        wg_checksum_fold(shape->ip, WG_IPV4_LEN, 0) != UINT16_MAX)
        return false;
    return wg_checksum_fold(shape->ip + shape->transport, rest, pseudo) == UINT16_MAX;
}

static bool packet_continues(struct gro_frame *frame, const struct packet_shape *shape)
{
    if (!shape->joins || !frame_has_room(frame, shape) || !headers_continue(frame, shape))
        return false;
    if (!frame->verified)
        frame->verified = checksums_valid(&frame->shape);
    return frame->verified && checksums_valid(shape);
}

/* False: none may follow it in this frame. */
static bool join_frame(struct wg_gro *gro, struct gro_frame *frame, uint32_t index,
                       const struct packet_shape *shape)
{
    if (shape->transport == WG_IPV4_LEN && frame->count == 1)
        frame->id_step = (uint16_t)(wg_load_be16(shape->ip + WG_IPV4_ID) -
                                    wg_load_be16(frame->shape.ip + WG_IPV4_ID));
    gro->packets[frame->last].next = index;
    frame->last = index;
    frame->count++;
    frame->length += shape->payload;
    frame->pushed = shape->ends;
    return !shape->ends && shape->payload == frame->shape.payload;
}

static void begin_frame(struct wg_gro *gro, uint32_t index, const struct packet_shape *shape)
{
    gro->frames[gro->frame_count++] = (struct gro_frame){
        .shape = *shape, .first = index, .last = index, .count = 1, .length = shape->length};
}

int wg_gro_add(struct wg_gro *gro, uint8_t *packet, uint32_t length)
{
    uint32_t index = gro->packet_count;
    struct packet_shape shape;
    struct flow_slot *slot;
    enum flow_kind kind;
    bool found, open;

    if (index == WG_GRO_PACKETS)
        return -ENOSPC;
    gro->packets[gro->packet_count++] =
        (struct chained_packet){.data = packet, .length = length, .next = NO_PACKET};
    kind = read_shape(gro, &shape, packet, length);
    if (kind == ANY_FLOW)
        gro->generation++;
    if (kind != ONE_FLOW) {
        begin_frame(gro, index, &shape);
        return 0;
    }
    slot = find_slot(gro, &shape, &found);
    if (found && packet_continues(&gro->frames[slot->frame], &shape)) {
        open = join_frame(gro, &gro->frames[slot->frame], index, &shape);
    } else {
        begin_frame(gro, index, &shape);
        open = shape.joins && !shape.ends;
        if (open)
            *slot = (struct flow_slot){gro->generation, gro->frame_count - 1};
    }
    if (found && !open)
        slot->generation = 0;
    return 0;
}

/* ---- 3. frames out ---- */

static uint32_t checksum_offset(const struct packet_shape *shape)
{
    return shape->protocol == IPPROTO_TCP ? WG_TCP_CHECKSUM : WG_UDP_CHECKSUM;
}

/* Makes the first packet's headers those of the super-packet, but for the transport checksum, of
 * which only the pseudo-header's part is to stand there. */
static void merge_headers(struct wg_gro *gro, const struct gro_frame *frame)
{
    const struct packet_shape *shape = &frame->shape;
    uint8_t *ip = gro->packets[frame->first].data, *transport = ip + shape->transport;
    uint32_t rest = frame->length - shape->transport;

    gro->saved_at = ip;
    memcpy(gro->saved, ip, shape->length < HEADER_SAVED ? shape->length : HEADER_SAVED);
    if (shape->transport == WG_IPV4_LEN) {
        wg_store_be16(ip + WG_IPV4_TOTAL_LENGTH, (uint16_t)frame->length);
        wg_store_be16(ip + WG_IPV4_CHECKSUM, 0);
        wg_store_be16(ip + WG_IPV4_CHECKSUM, (uint16_t)~wg_checksum_fold(ip, WG_IPV4_LEN, 0));
    } else {
        wg_store_be16(ip + WG_IPV6_PAYLOAD_LENGTH, (uint16_t)rest);
    }
    if (shape->protocol == IPPROTO_UDP)
        wg_store_be16(transport + WG_UDP_LENGTH, (uint16_t)rest);
    else if (frame->pushed)
        transport[WG_TCP_FLAGS + 1] |= WG_TCP_FLAG_PSH;
    wg_store_be16(transport + checksum_offset(shape),
                  wg_checksum_fold(ip, 0, wg_checksum_pseudo(ip, shape->protocol, rest)));
}

static const struct virtio_net_hdr plain_vnet = {.gso_type = VIRTIO_NET_HDR_GSO_NONE};

static uint8_t gso_type(const struct packet_shape *shape)
{
    if (shape->protocol == IPPROTO_UDP)
        return VIRTIO_NET_HDR_GSO_UDP_L4;
    return shape->transport == WG_IPV4_LEN ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
}

static struct virtio_net_hdr merged_vnet(const struct packet_shape *shape)
{
    return (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = gso_type(shape),
        .hdr_len = (uint16_t)shape->header_length,
        .gso_size = (uint16_t)shape->payload,
        .csum_start = (uint16_t)shape->transport,
        .csum_offset = (uint16_t)checksum_offset(shape),
    };
}

static int put_vnet(struct wg_gro *gro, struct iovec *iov)
{
    if (!(gro->features & WG_FEATURE_VNET_HDR))
        return 0;
    iov[0] = (struct iovec){&gro->vnet, sizeof(gro->vnet)};
    return 1;
}

int wg_gro_next(struct wg_gro *gro, struct iovec *iov, uint32_t *packets)
{
    const struct gro_frame *frame;
    int count;

    if (gro->frame_cursor == gro->frame_count)
        return 0;
    frame = &gro->frames[gro->frame_cursor++];
    gro->single = frame->first;
    gro->saved_at = NULL;
    if (frame->count > 1)
        merge_headers(gro, frame);
    gro->vnet = frame->count > 1 ? merged_vnet(&frame->shape) : plain_vnet;
    *packets = frame->count;
    count = put_vnet(gro, iov);
    for (uint32_t i = frame->first, skip = 0; i != NO_PACKET; i = gro->packets[i].next) {
        iov[count++] = (struct iovec){gro->packets[i].data + skip, gro->packets[i].length - skip};
        skip = frame->shape.header_length;
    }
    return count;
}

int wg_gro_next_single(struct wg_gro *gro, struct iovec *iov)
{
    const struct chained_packet *packet;
    int count;

    if (gro->single == NO_PACKET)
        return 0;
    packet = &gro->packets[gro->single];
    if (gro->saved_at)
        memcpy(gro->saved_at, gro->saved,
               packet->length < HEADER_SAVED ? packet->length : HEADER_SAVED);
    gro->saved_at = NULL;
    gro->vnet = plain_vnet;
    gro->single = packet->next;
    count = put_vnet(gro, iov);
    iov[count++] = (struct iovec){packet->data, packet->length};
    return count;
}
