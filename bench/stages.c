/* SPDX-License-Identifier: MIT */
/* Micro-benchmarks of the packet path's stages, one after the other in one thread:
 *
 *   stages AEAD ROUNDS [STAGE...]
 *
 * AEAD is a backend's name or "-" for the fastest.  Prints a line per stage: its name, packets per
 * round, nanoseconds per packet (the least and the median of all rounds).  All input is the same in
 * every run, so an instruction count of run_STAGE (bench/stages.py asks callgrind) repeats.
 *
 * A round is what one super-packet brings: PACKETS packets that fill the tunnel's MTU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "aead.h"
#include "allowedips.h"
#include "bytes.h"
#include "checksum.h"
#include "gro.h"
#include "gso.h"
#include "keypair.h"
#include "tables.h"
#include "tun.h"

enum {
    PACKETS = 45,
    SEGMENT = 1368, /* TCP payload at MTU 1420 with timestamps */
    IP_LEN = 20,    /* header lengths */
    TCP_LEN = 32,
    HEADERS = IP_LEN + TCP_LEN,
    FRAME = WG_VNET_HDR_LEN + HEADERS + PACKETS * SEGMENT,
    LARGE = 1408, /* inner packet of 1400 bytes, padded: a message of 1440 */
    SMALL = 96,   /* 64 bytes of UDP payload, padded */
    SLOT = LARGE + WG_TAG_LEN,
    PEERS = 1000,
    LOOKUPS = 1000,
    ROUNDS_MAX = 100000,
};
#define FEATURES (WG_FEATURE_VNET_HDR | WG_FEATURE_TUN_TSO | WG_FEATURE_TUN_USO)

static uint8_t frame_master[FRAME], frame[FRAME]; /* a TCP super-packet as the TUN gives it */
static uint8_t packets_master[FRAME + PACKETS * HEADERS]; /* and the packets it stands for */
static uint8_t packets[sizeof(packets_master)];
static uint32_t lengths[PACKETS];
static uint8_t sealed_master[2][PACKETS * SLOT], sealed[PACKETS * SLOT]; /* LARGE, SMALL */
static uint8_t lookups[LOOKUPS][16];
static struct wg_aead_key seal_key, open_key;
static struct wg_gro *gro;
static wg_device *device_one, *device_many;
static struct wg_replay replay;
static uint64_t replay_counter;
static volatile uint64_t sink; /* keeps results from being optimised away */

static void expect(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "stages: %s\n", what);
        exit(1);
    }
}

/* ---- input ---- */

static void frame_make(void)
{
    struct virtio_net_hdr header = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
        .hdr_len = HEADERS,
        .gso_size = SEGMENT,
        .csum_start = IP_LEN,
        .csum_offset = 16,
    };
    static const uint8_t tcp[TCP_LEN] = {0x04, 0xd2, 0x14, 0x51, 1, 2, 3, 4, 5, 6, 7, 8,
                                         0x80, 0x10, 0x01, 0xf5, 0, 0, 0, 0, 1, 1, 8, 10};
    static const uint8_t ip4[IP_LEN] = {0x45, 0, 0,  0, 0x12, 0x34, 0x40, 0, 64, 6,
                                        0,    0, 10, 9, 0,    1,    10,   9, 0,  2};
    uint8_t *ip = frame_master + WG_VNET_HDR_LEN;
    memcpy(frame_master, &header, sizeof(header));
    memcpy(ip, ip4, IP_LEN);
    wg_store_be16(ip + 2, FRAME - WG_VNET_HDR_LEN);
    wg_store_be16(ip + 10, (uint16_t)~wg_checksum_fold(ip, IP_LEN, 0));
    memcpy(ip + IP_LEN, tcp, TCP_LEN);
    for (size_t i = WG_VNET_HDR_LEN + HEADERS; i < FRAME; i++)
        frame_master[i] = (uint8_t)(i * 7);
}

static void packets_make(void)
{
    memcpy(frame, frame_master, FRAME);
    struct wg_gso gso;
    struct wg_packet packet;
    uint8_t *out = packets_master;
    expect(wg_gso_begin(&gso, frame, FRAME, FEATURES) == 0 && gso.count == PACKETS,
           "the super-packet does not split as it should");
    for (uint32_t i = 0; wg_gso_next(&gso, &packet); i++) {
        memcpy(out, packet.data, packet.length);
        out += lengths[i] = packet.length;
    }
}

static void keys_make(const char *aead)
{
    static const uint8_t raw[WG_KEY_LEN] = {1, 2, 3, 4, 5, 6, 7, 8};
    const struct wg_aead_backend *backend = wg_aead_find(aead);
    expect(backend, "there is no such AEAD here");
    expect(wg_aead_key_init(&seal_key, backend, raw, true, 1) == 0 &&
               wg_aead_key_init(&open_key, backend, raw, false, 1) == 0,
           "no memory for keys");
}

static void seal_all(uint8_t *out, size_t length)
{
    for (uint32_t i = 0; i < PACKETS; i++)
        wg_aead_seal(&seal_key, 0, i, out + i * SLOT, packets_master + i * LARGE, length);
}

static wg_device *device_make(uint32_t peers)
{
    wg_device *device;
    int32_t send_wake_fd = eventfd(0, EFD_NONBLOCK);
    expect(wg_device_create(&device, 1, 1, eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK),
                            &send_wake_fd, NULL) == 0,
           "no device");
    for (uint32_t i = 0; i < peers; i++) {
        uint32_t slot;
        wg_allowedip entries[2] = {
            {{10, 200, (uint8_t)(i >> 8), (uint8_t)i}, 4, 32, 0, 0},
            {{0xfd, 0x77, [14] = (uint8_t)(i >> 8), (uint8_t)i}, 6, 128, 0, 0}};
        expect(wg_peer_add(device, &slot) == 0 &&
                   wg_allowedips_change(device, slot, entries, 2) == 0,
               "no peer");
    }
    return device;
}

/* Addresses of the first `peers` peers in an order that is not the trie's. */
static void lookups_make(uint32_t peers, uint8_t family)
{
    static const uint8_t prefix4[16] = {10, 200}, prefix6[16] = {0xfd, 0x77};
    for (uint32_t i = 0; i < LOOKUPS; i++) {
        uint32_t peer = i * 619 % peers;
        memcpy(lookups[i], family == 4 ? prefix4 : prefix6, 16);
        wg_store_be16(lookups[i] + (family == 4 ? 2 : 14), (uint16_t)peer);
    }
}

/* ---- stages: prepare is not measured, run is ---- */

static void prepare_nothing(void) {}
static void prepare_frame(void) { memcpy(frame, frame_master, FRAME); }
static void prepare_packets(void) { memcpy(packets, packets_master, sizeof(packets)); }
static void prepare_open_large(void) { memcpy(sealed, sealed_master[0], sizeof(sealed)); }
static void prepare_open_small(void) { memcpy(sealed, sealed_master[1], sizeof(sealed)); }
static void prepare_lookup_one(void) { lookups_make(1, 4); }
static void prepare_lookup4(void) { lookups_make(PEERS, 4); }
static void prepare_lookup6(void) { lookups_make(PEERS, 6); }

#define RUN static __attribute__((noinline)) void

RUN run_seal(void) { seal_all(sealed, LARGE); }
RUN run_seal_small(void) { seal_all(sealed, SMALL); }

static void open_all(size_t length)
{
    for (uint32_t i = 0; i < PACKETS; i++) {
        uint8_t *message = sealed + i * SLOT;
        expect(wg_aead_open(&open_key, 0, i, message, message, length + WG_TAG_LEN), "bad tag");
    }
}

RUN run_open(void) { open_all(LARGE); }
RUN run_open_small(void) { open_all(SMALL); }

RUN run_segment(void)
{
    struct wg_gso gso;
    struct wg_packet packet;
    expect(wg_gso_begin(&gso, frame, FRAME, FEATURES) == 0, "the frame was refused");
    while (wg_gso_next(&gso, &packet))
        sink += packet.length;
}

RUN run_coalesce(void)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    uint32_t stands_for;
    uint8_t *packet = packets;
    wg_gro_reset(gro, FEATURES);
    for (uint32_t i = 0; i < PACKETS; packet += lengths[i++])
        expect(wg_gro_add(gro, packet, lengths[i]) == 0, "no room for a packet");
    while (wg_gro_next(gro, iov, &stands_for) > 0)
        sink += stands_for;
}

RUN run_checksum(void)
{
    for (uint32_t i = 0; i < PACKETS; i++)
        sink += wg_checksum_fold(packets_master + i * LARGE, LARGE, 0);
}

static void lookup_all(const wg_device *device)
{
    for (uint32_t i = 0; i < LOOKUPS; i++)
        sink += wg_allowedips_find4(&device->allowedips, lookups[i])->slot;
}

RUN run_lookup_one(void) { lookup_all(device_one); }
RUN run_lookup4(void) { lookup_all(device_many); }

RUN run_lookup6(void)
{
    for (uint32_t i = 0; i < LOOKUPS; i++)
        sink += wg_allowedips_find6(&device_many->allowedips, lookups[i])->slot;
}

RUN run_replay(void)
{
    for (uint32_t i = 0; i < PACKETS; i++)
        expect(wg_replay_accept(&replay, replay_counter++), "a new counter was refused");
}

static const struct stage {
    const char *name;      /* as it is chosen and told */
    void (*prepare)(void); /* before each round */
    void (*run)(void);     /* one round */
    uint32_t packets;      /* per round */
} stages[] = {
    {"seal", prepare_nothing, run_seal, PACKETS},
    {"seal_small", prepare_nothing, run_seal_small, PACKETS},
    {"open", prepare_open_large, run_open, PACKETS},
    {"open_small", prepare_open_small, run_open_small, PACKETS},
    {"segment", prepare_frame, run_segment, PACKETS},
    {"coalesce", prepare_packets, run_coalesce, PACKETS},
    {"checksum", prepare_nothing, run_checksum, PACKETS},
    {"replay", prepare_nothing, run_replay, PACKETS},
    {"lookup_one", prepare_lookup_one, run_lookup_one, LOOKUPS},
    {"lookup4", prepare_lookup4, run_lookup4, LOOKUPS},
    {"lookup6", prepare_lookup6, run_lookup6, LOOKUPS},
};
#define STAGES (sizeof(stages) / sizeof(stages[0]))

/* ---- measuring ---- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return WG_SECONDS(now.tv_sec) + (uint64_t)now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void measure(const struct stage *stage, uint32_t rounds)
{
    static uint64_t taken_ns[ROUNDS_MAX];
    for (uint32_t i = 0; i < rounds; i++) {
        stage->prepare();
        uint64_t begin_ns = now_ns();
        stage->run();
        taken_ns[i] = now_ns() - begin_ns;
    }
    qsort(taken_ns, rounds, sizeof(taken_ns[0]), by_size);
    printf("%s %u %.2f %.2f\n", stage->name, stage->packets, (double)taken_ns[0] / stage->packets,
           (double)taken_ns[rounds / 2] / stage->packets);
}

static bool is_chosen(const char *name, char **chosen)
{
    if (!*chosen)
        return true;
    for (; *chosen; chosen++) {
        if (strcmp(name, *chosen) == 0)
            return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    expect(argc >= 3, "usage: stages AEAD ROUNDS [STAGE...]");
    unsigned long rounds = strtoul(argv[2], NULL, 10);
    expect(rounds >= 1 && rounds <= ROUNDS_MAX, "ROUNDS is out of range");
    frame_make();
    packets_make();
    keys_make(strcmp(argv[1], "-") == 0 ? NULL : argv[1]);
    seal_all(sealed_master[0], LARGE);
    seal_all(sealed_master[1], SMALL);
    gro = wg_gro_new();
    expect(gro, "no memory");
    device_one = device_make(1);
    device_many = device_make(PEERS);
    for (size_t i = 0; i < STAGES; i++) {
        if (is_chosen(stages[i].name, argv + 3))
            measure(&stages[i], (uint32_t)rounds);
    }
    wg_device_destroy(device_many);
    wg_device_destroy(device_one);
    wg_gro_free(gro);
    wg_aead_key_clear(&open_key);
    wg_aead_key_clear(&seal_key);
    return 0;
}
