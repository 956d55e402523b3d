/* SPDX-License-Identifier: MIT */
/* Several queues of one TUN, a send thread for each: a flow stays on one of them.
 *
 * Linux gives a flow that goes out the queue to which its other direction was written last, or else
 * one by a hash (tun_select_queue in drivers/net/tun.c; it forgets after seconds).  A flow that
 * moved while packets of it wait on the old queue would lose its order.  So the receive threads
 * write to the queue from which the other direction was read last, and nothing ever moves; of flows
 * that only came in so far each gets one by a hash of ours.
 *
 * The kernel knows no ports of fragments, so those of a flow that is fragmented in part have a
 * queue of their own, and one part overtakes the other.  Therefore the answers of all UDP between
 * two addresses go where fragments between them were read last, and what they answer follows.
 *
 * The tables have no keys: flows that share a bucket may move once more, nothing else. */
#include <netinet/in.h>

#include "bytes.h"
#include "flows.h"
#include "ip.h"
#include "tables.h"

#define GOLDEN       0x9e3779b1u /* 2^32 / golden ratio */
#define BUCKET(hash) ((hash) >> 20)
_Static_assert(WG_FLOW_BUCKETS == 1 << 12, "a bucket is the upper 12 bits of 32");

struct flow {
    uint32_t bucket;  /* with the ports, if it has any; the same for both directions */
    uint32_t pair;    /* the bucket without them */
    uint8_t protocol; /* what is in the packet */
    bool fragment;    /* one of several pieces of a packet, without ports */
};

/* Without its ports.  Any packet that passed gso.c or receive.c is a whole IP packet, so the IP
 * header is there. */
static uint32_t pair_read(struct flow *flow, const uint8_t *ip, uint32_t length)
{
    bool v4 = wg_ip_is_v4(ip);
    uint32_t size = v4 ? WG_IPV4_ADDRESS_LEN : WG_IPV6_ADDRESS_LEN, hash;
    uint32_t at = v4 ? WG_IPV4_SOURCE : WG_IPV6_SOURCE;

    flow->protocol = ip[v4 ? WG_IPV4_PROTOCOL : WG_IPV6_NEXT_HEADER];
    flow->fragment =
        v4 ? wg_ipv4_is_fragment(ip)
           : flow->protocol == IPPROTO_FRAGMENT && length >= WG_IPV6_LEN + WG_IPV6_EXTENSION_LEN;
    if (!v4 && flow->fragment)
        flow->protocol = ip[WG_IPV6_LEN];
    hash = flow->protocol;
    for (uint32_t i = 0; i < size; i += 4)
        hash = (hash ^ wg_load_le32(ip + at + i) ^ wg_load_le32(ip + at + size + i)) * GOLDEN;
    flow->pair = BUCKET(hash);
    return hash;
}

static struct flow flow_read(const uint8_t *ip, uint32_t length)
{
    uint32_t transport = wg_ip_is_v4(ip) ? wg_ipv4_header_length(ip) : WG_IPV6_LEN;
    struct flow flow;
    uint32_t hash = pair_read(&flow, ip, length);

    if ((flow.protocol == IPPROTO_TCP || flow.protocol == IPPROTO_UDP) && !flow.fragment &&
        transport + 4 <= length)
        hash = (hash ^ wg_load_be16(ip + transport) ^ wg_load_be16(ip + transport + 2)) * GOLDEN;
    flow.bucket = BUCKET(hash);
    return flow;
}

static uint32_t queue_get(_Atomic uint8_t *queues, uint32_t bucket)
{
    return atomic_load_explicit(queues + bucket, memory_order_relaxed);
}

void wg_flow_sent(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length)
{
    if (device->workers == 1)
        return;
    struct flow flow = flow_read(ip, length);
    _Atomic uint8_t *queues = flow.fragment ? device->fragment_queues : device->flow_queues;
    atomic_store_explicit(queues + flow.bucket, (uint8_t)(worker + 1), memory_order_relaxed);
}

uint32_t wg_flow_queue(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length)
{
    if (device->workers == 1)
        return worker;
    struct flow flow = flow_read(ip, length);
    uint32_t known = 0;
    if (flow.fragment || flow.protocol == IPPROTO_UDP)
        known = queue_get(device->fragment_queues, flow.pair);
    if (!known)
        known = queue_get(device->flow_queues, flow.bucket);
    return known ? known - 1 : flow.bucket % device->workers;
}
