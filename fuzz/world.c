/* SPDX-License-Identifier: MIT */
/* A device with peers and sessions: see world.h. */
#include <string.h>
#include <sys/socket.h>

#include "aead.h"
#include "bytes.h"
#include "keypair.h"
#include "tables.h"
#include "world.h"

struct world world;
static struct wg_aead_key sealing[WORLD_SESSIONS], opening[WORLD_SESSIONS];

static wg_allowedip prefix(uint32_t peer, uint8_t last, uint8_t bits, bool v4)
{
    wg_allowedip entry = {.family = v4 ? 4 : 6, .cidr = (uint8_t)(v4 ? bits : 96 + bits)};
    uint8_t address[4] = {10, 0, (uint8_t)peer, last};

    entry.addr[0] = v4 ? 0 : 0xfd;
    memcpy(entry.addr + (v4 ? 0 : 12), address, 4);
    return entry;
}

static void peer_begin(uint32_t peer)
{
    wg_allowedip entries[4] = {prefix(peer, 0, 24, true), prefix(peer, 0, 24, false),
                               prefix(0, 128, 25, true), prefix(0, 128, 25, false)};
    wg_endpoint endpoint = {.family = peer ? AF_INET6 : AF_INET, .port = 5000};
    uint32_t slot;

    endpoint.addr[0] = 192, endpoint.addr[3] = 1;
    expect(!wg_peer_add(world.device, &slot) && slot == peer, "no place for a peer");
    expect(!wg_allowedips_replace(world.device, slot, entries, peer == 1 ? 4 : 2), "no memory");
    if (peer < 2)
        wg_peer_set_endpoint(world.device, slot, &endpoint);
}

static void session_begin(uint32_t i)
{
    static const uint8_t age_s[] = {100, 60, 0};
    struct world_session *session = &world.sessions[i];
    wg_session install = {.remote_index = 0x1000 + i, .initiator = i % 3 == 1};

    session->peer = i / 3;
    session->remote_index = install.remote_index;
    session->initiator = install.initiator;
    session->created_ns = install.created_ns = host.now_ns - WG_SECONDS(age_s[i % 3]);
    memcpy(install.send_key, session->from_us, 32);
    memcpy(install.receive_key, session->to_us, 32);
    expect(!wg_index_reserve(world.device, session->peer, &session->local_index), "no index");
    install.local_index = session->local_index;
    session->there = i != 2 && i != 3 && i != 6;
    if (i == 2)
        return;
    expect(!wg_keypair_install(world.device, session->peer, &install), "no session");
}

static void world_make(void)
{
    int32_t wake[1] = {HOST_SEND_WAKE};
    const struct wg_aead_backend *openssl = wg_aead_find("openssl");

    memset(world.mac1_key, 0x11, 32);
    memset(world.cookie_key, 0x22, 32);
    for (int i = 0; i < 2; i++) { /* one comes and goes */
        if (world.device)
            wg_device_destroy(world.device);
        expect(!wg_device_create(&world.device, 1, 1, HOST_EVENT, HOST_RECEIVE_WAKE, wake, NULL),
               "no device");
    }
    for (uint32_t i = 0; i < WORLD_SESSIONS; i++) {
        memset(world.sessions[i].to_us, (int)(0x40 + i), 32);
        memset(world.sessions[i].from_us, (int)(0x80 + i), 32);
        expect(!wg_aead_key_init(&sealing[i], openssl, world.sessions[i].to_us, true, 1) &&
                   !wg_aead_key_init(&opening[i], openssl, world.sessions[i].from_us, false, 1),
               "no key");
    }
}

static void device_begin(uint32_t features)
{
    wg_io io = {.workers = {{HOST_TUN, HOST_UDP4, HOST_UDP6}}, .features = features};
    wg_device *device = world.device;

    wg_device_stop(device);
    expect(!wg_device_start(device, &io), "the device does not start");
    device->ring_count = 0;
    device->load_until_ns = 0;
    device->load_messages = 0;
    device->want_turn = 0;
    device->cookie_secret_expires_ns = 0;
    memset(&device->counters, 0, sizeof(device->counters));
    memset(device->drops, 0, sizeof(device->drops));
    memset(device->refusals, 0, sizeof(device->refusals));
    wg_device_set_mtu(device, 1420);
    wg_device_set_mac1_key(device, world.mac1_key);
    wg_device_set_cookie_key(device, world.cookie_key);
}

void world_begin(uint32_t features)
{
    host_begin();
    if (!world.device)
        world_make();
    host.device = world.device;
    for (uint32_t slot = 0; slot < WORLD_PEERS; slot++)
        wg_peer_remove(world.device, slot);
    device_begin(features);
    for (uint32_t slot = 0; slot < WORLD_PEERS; slot++)
        peer_begin(slot);
    for (uint32_t i = 0; i < WORLD_SESSIONS; i++)
        session_begin(i);
}

uint32_t world_owner(const uint8_t *address, bool v4)
{
    static const uint8_t net6[12] = {0xfd};
    const uint8_t *last = v4 ? address : address + 12;

    if (!v4 && memcmp(address, net6, sizeof(net6)) != 0)
        return WG_NO_SLOT;
    if (last[0] != 10 || last[1] != 0 || last[2] >= WORLD_PEERS)
        return WG_NO_SLOT;
    return last[2] == 0 && last[3] >= 128 ? 1 : last[2];
}

void world_seal(uint32_t session, uint64_t counter, const uint8_t *in, uint32_t length,
                uint8_t *out)
{
    wg_aead_seal(&sealing[session], 0, counter, out, in, length);
}

bool world_open(uint32_t session, uint64_t counter, const uint8_t *in, uint32_t length,
                uint8_t *out)
{
    return wg_aead_open(&opening[session], 0, counter, out, in, length);
}
