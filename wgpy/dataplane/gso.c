/* SPDX-License-Identifier: MIT */
/* A frame from the TUN -> the packets it stands for:
 *   1. wg_gso_begin reads the virtio_net_hdr (linux/virtio_net.h) and finds the IP packet;
 *   2. a plain packet gets its checksum finished if it asks for it, and is given out as it is;
 *   3. a super-packet's headers become a template, summed once;
 *   4. wg_gso_next puts the template before the next piece of payload and fills in what differs.
 *
 * Where the kernel surprises:
 * - hdr_len counts from anywhere (it was the linear part of the skb): it is not looked at.
 * - The checksum field of a packet with NEEDS_CSUM holds the pseudo-header sum, not inverted.
 * - A UDP checksum that computes to 0 must leave as 0xFFFF, as 0 means none (RFC 768). */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "gso.h"
#include "ip.h"
#include "tun.h"

static uint16_t not_zero(uint16_t checksum) { return checksum ? checksum : UINT16_MAX; }

/* Bytes of the base IP header, 0 for what is no IP packet; sets version and the packet's length. */
static uint32_t read_ip_header(struct wg_gso *gso, size_t frame_length)
{
    const uint8_t *ip = gso->ip;
    uint32_t header;

    if (frame_length < WG_IPV4_LEN || frame_length > WG_FRAME_MAX)
        return 0;
    gso->version = wg_ip_version(ip);
    if (gso->version == 4) {
        header = wg_ipv4_header_length(ip);
        gso->length = wg_load_be16(ip + WG_IPV4_TOTAL_LENGTH);
    } else if (gso->version == 6 && frame_length >= WG_IPV6_LEN) {
        header = WG_IPV6_LEN;
        gso->length = WG_IPV6_LEN + wg_load_be16(ip + WG_IPV6_PAYLOAD_LENGTH);
    } else {
        return 0;
    }
    bool valid = header >= WG_IPV4_LEN && header <= gso->length && gso->length <= frame_length;
    return valid ? header : 0;
}

static int finish_checksum(struct wg_gso *gso, uint32_t ip_header, uint32_t start, uint32_t offset)
{
    uint8_t *transport = gso->ip + start;
    uint16_t checksum;

    if (start < ip_header || start + offset + 2 > gso->length)
        return -EINVAL;
    checksum = (uint16_t)~wg_checksum_fold(transport, gso->length - start, 0);
    wg_store_be16(transport + offset, offset == WG_UDP_CHECKSUM ? not_zero(checksum) : checksum);
    return 0;
}

/* Offset of the header of gso->protocol behind the IPv6 extension headers that each segment may
 * repeat; 0 if there is none.  A routing header that is not used up is refused: the checksum
 * would be that of an address it hides. */
static uint32_t skip_extensions(const struct wg_gso *gso)
{
    const uint8_t *ip = gso->ip;
    uint32_t at = WG_IPV6_LEN;
    uint8_t next = ip[WG_IPV6_NEXT_HEADER];

    while (next != gso->protocol) {
        if (at + WG_IPV6_EXTENSION_LEN > gso->length)
            return 0;
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_DSTOPTS && next != IPPROTO_ROUTING)
            return 0;
        if (next == IPPROTO_ROUTING && ip[at + 3])
            return 0;
        next = ip[at];
        at += wg_ipv6_extension_length(ip + at);
    }
    return at;
}

/* Offset of the transport header of a packet that may be split, else 0. */
static uint32_t find_transport(const struct wg_gso *gso, uint32_t ip_header)
{
    if (gso->version == 6)
        return skip_extensions(gso);
    if (gso->ip[WG_IPV4_PROTOCOL] != gso->protocol || wg_ipv4_is_fragment(gso->ip))
        return 0;
    return ip_header;
}

/* Bytes of the TCP or UDP header, 0 if it is wrong or cut off. */
static uint32_t transport_header_length(const struct wg_gso *gso)
{
    const uint8_t *transport = gso->ip + gso->transport;
    uint32_t room = gso->length - gso->transport, header;

    if (gso->protocol == IPPROTO_UDP)
        return room >= WG_UDP_LEN ? WG_UDP_LEN : 0;
    if (room < WG_TCP_LEN)
        return 0;
    header = wg_tcp_header_length(transport);
    return header >= WG_TCP_LEN && header <= room ? header : 0;
}

/* The protocol and IP version that a gso_type stands for; 0 for one that we did not ask for. */
static uint8_t gso_protocol(uint8_t gso_type, uint8_t version)
{
    switch (gso_type) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
    case VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN:
        return version == 4 ? IPPROTO_TCP : 0;
    case VIRTIO_NET_HDR_GSO_TCPV6:
    case VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN:
        return version == 6 ? IPPROTO_TCP : 0;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
        return IPPROTO_UDP;
    default:
        return 0;
    }
}

static void clear_field16(uint8_t *field) { wg_store_be16(field, 0); }

/* Keeps the headers, takes the fields out that differ between packets, and sums the rest. */
static void make_template(struct wg_gso *gso)
{
    uint8_t *ip = gso->header, *transport = gso->header + gso->transport;

    memcpy(gso->header, gso->ip, gso->header_length);
    if (gso->version == 4) {
        gso->id = wg_load_be16(ip + WG_IPV4_ID);
        clear_field16(ip + WG_IPV4_TOTAL_LENGTH);
        clear_field16(ip + WG_IPV4_ID);
        clear_field16(ip + WG_IPV4_CHECKSUM);
        gso->ip_sum = wg_checksum_fold(ip, gso->transport, 0);
    } else {
        clear_field16(ip + WG_IPV6_PAYLOAD_LENGTH);
    }
    if (gso->protocol == IPPROTO_TCP) {
        gso->sequence = wg_load_be32(transport + WG_TCP_SEQUENCE);
        gso->flags = wg_load_be16(transport + WG_TCP_FLAGS);
        wg_store_be32(transport + WG_TCP_SEQUENCE, 0);
        clear_field16(transport + WG_TCP_FLAGS);
        clear_field16(transport + WG_TCP_CHECKSUM);
    } else {
        clear_field16(transport + WG_UDP_LENGTH);
        clear_field16(transport + WG_UDP_CHECKSUM);
    }
    gso->transport_sum = wg_checksum_fold(transport, gso->header_length - gso->transport,
                                          wg_checksum_pseudo(ip, gso->protocol, 0));
}

static int begin_super_packet(struct wg_gso *gso, uint32_t ip_header,
                              const struct virtio_net_hdr *vnet)
{
    uint32_t transport, transport_header, payload;

    gso->protocol = gso_protocol(vnet->gso_type, gso->version);
    transport = gso->protocol ? find_transport(gso, ip_header) : 0;
    if (!transport || transport > gso->length)
        return -EINVAL;
    gso->transport = (uint16_t)transport;
    transport_header = transport_header_length(gso);
    gso->header_length = gso->transport + transport_header;
    if (!transport_header || gso->header_length > sizeof(gso->header))
        return -EINVAL;
    if ((vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
        (vnet->csum_start != gso->transport ||
         vnet->csum_offset != (gso->protocol == IPPROTO_TCP ? WG_TCP_CHECKSUM : WG_UDP_CHECKSUM)))
        return -EINVAL;
    payload = gso->length - gso->header_length;
    if (!vnet->gso_size || !payload)
        return -EINVAL;
    gso->segment = vnet->gso_size < payload ? vnet->gso_size : payload;
    gso->count = (payload + gso->segment - 1) / gso->segment;
    make_template(gso);
    return 0;
}

static int begin_plain_packet(struct wg_gso *gso, uint32_t ip_header,
                              const struct virtio_net_hdr *vnet)
{
    gso->count = 1;
    if (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        return finish_checksum(gso, ip_header, vnet->csum_start, vnet->csum_offset);
    return 0;
}

int wg_gso_begin(struct wg_gso *gso, uint8_t *frame, size_t length, uint32_t features)
{
    struct virtio_net_hdr vnet = {.gso_type = VIRTIO_NET_HDR_GSO_NONE};
    uint32_t ip_header;

    if (features & WG_FEATURE_VNET_HDR) {
        if (length < sizeof(vnet))
            return -EINVAL;
        memcpy(&vnet, frame, sizeof(vnet));
        frame += sizeof(vnet);
        length -= sizeof(vnet);
    }
    gso->ip = frame;
    gso->header_length = gso->segment = gso->offset = gso->index = gso->count = 0;
    gso->protocol = 0;
    ip_header = read_ip_header(gso, length);
    if (!ip_header)
        return -EINVAL;
    if (vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return begin_plain_packet(gso, ip_header, &vnet);
    return begin_super_packet(gso, ip_header, &vnet);
}

static void fill_ip_header(const struct wg_gso *gso, uint8_t *ip, uint32_t length)
{
    uint16_t id = (uint16_t)(gso->id + gso->index);

    if (gso->version == 6) {
        wg_store_be16(ip + WG_IPV6_PAYLOAD_LENGTH, (uint16_t)(length - WG_IPV6_LEN));
        return;
    }
    wg_store_be16(ip + WG_IPV4_TOTAL_LENGTH, (uint16_t)length);
    wg_store_be16(ip + WG_IPV4_ID, id);
    wg_store_be16(ip + WG_IPV4_CHECKSUM,
                  (uint16_t)~wg_checksum_fold(ip, 0, gso->ip_sum + length + id));
}

/* RFC 793, RFC 3168 6.1.2: what ends a stream belongs to the last packet, CWR to the first. */
static void fill_tcp_header(const struct wg_gso *gso, uint8_t *tcp, uint32_t payload)
{
    uint32_t length = gso->header_length - gso->transport + payload;
    uint32_t sequence = gso->sequence + gso->offset;
    uint16_t flags = gso->flags;
    uint64_t sum;

    if (gso->index)
        flags &= (uint16_t)~WG_TCP_FLAG_CWR;
    if (gso->index + 1 != gso->count)
        flags &= (uint16_t) ~(WG_TCP_FLAG_FIN | WG_TCP_FLAG_PSH);
    wg_store_be32(tcp + WG_TCP_SEQUENCE, sequence);
    wg_store_be16(tcp + WG_TCP_FLAGS, flags);
    sum = gso->transport_sum + length + flags + (sequence >> 16) + (sequence & UINT16_MAX);
    sum = wg_checksum_fold(gso->ip + gso->header_length + gso->offset, payload, sum);
    wg_store_be16(tcp + WG_TCP_CHECKSUM, (uint16_t)~sum);
}

static void fill_udp_header(const struct wg_gso *gso, uint8_t *udp, uint32_t payload)
{
    uint32_t length = gso->header_length - gso->transport + payload;
    uint64_t sum = gso->transport_sum + 2 * (uint64_t)length; /* pseudo-header and header */

    wg_store_be16(udp + WG_UDP_LENGTH, (uint16_t)length);
    sum = wg_checksum_fold(gso->ip + gso->header_length + gso->offset, payload, sum);
    wg_store_be16(udp + WG_UDP_CHECKSUM, not_zero((uint16_t)~sum));
}

bool wg_gso_next(struct wg_gso *gso, struct wg_packet *packet)
{
    uint32_t payload = gso->length - gso->header_length - gso->offset;
    uint8_t *ip = gso->ip + gso->offset;

    if (gso->index == gso->count)
        return false;
    *packet = (struct wg_packet){.data = ip, .length = gso->length};
    if (gso->segment) {
        if (payload > gso->segment)
            payload = gso->segment;
        packet->length = gso->header_length + payload;
        memcpy(ip, gso->header, gso->header_length);
        fill_ip_header(gso, ip, packet->length);
        if (gso->protocol == IPPROTO_TCP)
            fill_tcp_header(gso, ip + gso->transport, payload);
        else
            fill_udp_header(gso, ip + gso->transport, payload);
        gso->offset += payload;
    }
    gso->index++;
    return true;
}
