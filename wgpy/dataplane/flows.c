/* Several queues of one TUN, a send thread for each: a flow stays on one of them.
 *
 * Linux gives a flow that goes out the queue to which its other direction was written last, or else
 * one by a hash (tun_select_queue in drivers/net/tun.c; it forgets after seconds).  A flow that
 * moved while packets of it wait on the old queue would lose its order.  So the receive threads
 * write to the queue from which the other direction was read last, and nothing ever moves; of flows
 * that only came in so far each gets one by a hash of ours.
 *
 * The table has no keys: flows that share a bucket may move once more, nothing else. */
#include <netinet/in.h>

#include "internal.h"

#define IPV4_FRAGMENT 0x3fff /* more of it, or not the first: no ports that can be trusted */

/* The same for both directions of a flow. Any packet that passed gso.c or receive.c is a whole IP
 * packet, so the IP header is there. */
static uint32_t flow_bucket(const uint8_t *ip, uint32_t length)
{
    bool v4 = ip[0] >> 4 == 4;
    uint32_t transport = v4 ? (ip[0] & 15) * 4u : 40, size = v4 ? 4 : 16, at = v4 ? 12 : 8;
    uint8_t protocol = v4 ? ip[9] : ip[6];
    uint32_t hash = protocol;

    for (uint32_t i = 0; i < size; i += 4)
        hash = (hash ^ wg_load_le32(ip + at + i) ^ wg_load_le32(ip + at + size + i)) * 0x9e3779b1u;
    if ((protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) && transport + 4 <= length &&
        !(v4 && wg_load_be16(ip + 6) & IPV4_FRAGMENT))
        hash = (hash ^ wg_load_be16(ip + transport) ^ wg_load_be16(ip + transport + 2)) *
               0x9e3779b1u; /* 2^32 / golden ratio */
    return hash >> 20;
}
_Static_assert(WG_FLOW_BUCKETS == 1 << 12, "the bucket is the upper 12 bits of 32");

void wg_flow_sent(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length)
{
    if (device->workers > 1)
        atomic_store_explicit(&device->flow_queues[flow_bucket(ip, length)], (uint8_t)(worker + 1),
                              memory_order_relaxed);
}

uint32_t wg_flow_queue(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length)
{
    if (device->workers == 1)
        return worker;
    uint32_t bucket = flow_bucket(ip, length);
    uint32_t known = atomic_load_explicit(&device->flow_queues[bucket], memory_order_relaxed);
    return known ? known - 1 : bucket % device->workers;
}
