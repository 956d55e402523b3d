/* SPDX-License-Identifier: MIT */
/* Packets of a batch, any, to gro.c: what Linux makes of its frames is what came, each flow in its
 * order; and so it is when the TUN refuses every super-packet. */
#include <stdlib.h>
#include <string.h>

#include "gro.h"
#include "packets.h"

static struct packets came, given;
static uint8_t data[HOST_IN_MAX][65536]; /* a batch */
static uint32_t lengths[HOST_IN_MAX];
static uint8_t *tight[HOST_IN_MAX];
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void take_frame(const struct iovec *iov, int count, uint32_t features)
{
    static uint8_t frame[WG_VNET_HDR_LEN + WG_FRAME_MAX];
    uint32_t length = 0;

    for (int i = 0; i < count; i++) {
        expect(length + iov[i].iov_len <= sizeof(frame), "a frame is longer than any");
        memcpy(frame + length, iov[i].iov_base, iov[i].iov_len);
        length += (uint32_t)iov[i].iov_len;
    }
    uint32_t before = given.count;
    expect(packets_segment(&given, frame, length, features & WG_FEATURE_VNET_HDR),
           "a frame that Linux would refuse");
    expect(!(features & WG_FEATURE_VNET_HDR) || frame[1] != 5 || given.count - before <= 64,
           "more datagrams in a frame than Linux takes");
}

/* repeats: each packet may be followed by many like it. */
static uint32_t make_batch(struct input *in, bool repeats)
{
    static struct flow_state flows[PACKET_FLOWS];
    uint32_t count = 0;

    memset(flows, 0, sizeof(flows));
    while (input_left(in) && count < HOST_IN_MAX) {
        uint32_t more = repeats ? input_8(in) % HOST_IN_MAX : 0;
        struct input again = *in;
        do {
            *in = again;
            lengths[count] = packet_make(in, flows, false, false, data[count]).length;
        } while (++count < HOST_IN_MAX && more--);
    }
    return count;
}

/* So that the sanitizer sees who reads behind the packet. */
static uint8_t *tight_copy(uint32_t i)
{
    tight[i] = malloc(lengths[i]);
    expect(tight[i], "no memory");
    return memcpy(tight[i], data[i], lengths[i]);
}

static void write_frames(struct wg_gro *gro, uint32_t features, bool singly)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    uint32_t packets;
    int count;

    while ((count = wg_gro_next(gro, iov, &packets))) {
        expect(count <= WG_GRO_SEGMENTS + 2 && packets, "more pieces than a frame may have");
        uint32_t before = given.count;
        if (!singly)
            take_frame(iov, count, features);
        while (singly && (count = wg_gro_next_single(gro, iov)))
            take_frame(iov, count, features);
        expect(given.count - before == packets, "a frame of more or fewer packets than it says");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct wg_gro *gro;
    struct input in = {bytes, bytes + size};
    uint8_t head = input_8(&in);
    uint32_t features = head & 7 ? head & 7 : 7, count = make_batch(&in, head & 16);

    if (!gro)
        gro = wg_gro_new();
    packets_clear(&came);
    packets_clear(&given);
    wg_gro_reset(gro, features);
    for (uint32_t i = 0; i < count; i++) {
        if (!lengths[i])
            continue;
        packets_add(&came, data[i], lengths[i]);
        expect(!wg_gro_add(gro, tight_copy(i), lengths[i]), "a packet too many");
    }
    write_frames(gro, features, head & 8);
    for (uint32_t i = 0; i < count; i++) {
        free(tight[i]);
        tight[i] = NULL;
    }
    expect(packets_match(&came, &given), "packets were changed, lost or overtaken");
    return 0;
}
