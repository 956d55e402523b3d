/* SPDX-License-Identifier: MIT */
/* A device with three peers and nine sessions, the same for each input. */
#ifndef WGPY_FUZZ_WORLD_H
#define WGPY_FUZZ_WORLD_H
#include "host.h"

enum { WORLD_PEERS = 3, WORLD_SESSIONS = 9 };

struct world_session {     /* as the peer has it */
    uint32_t peer;         /* its slot */
    uint32_t local_index;  /* ours */
    uint32_t remote_index; /* the peer's */
    uint64_t created_ns;   /* when it was made */
    uint8_t to_us[32];     /* key of what we receive */
    uint8_t from_us[32];   /* key of what we send */
    bool initiator;        /* we were */
    bool there;            /* the device has it */
};

struct world {                                     /* what each input begins with */
    wg_device *device;                             /* of one worker */
    struct world_session sessions[WORLD_SESSIONS]; /* three by peer, oldest first */
    uint8_t mac1_key[32], cookie_key[32];          /* the device's */
};
extern struct world world;

/* Peer N has 10.0.N.0/24 and fd00::a00:N00/120; peer 1 has 10.0.0.128/25 and fd00::a00:80/121 of
 * peer 0's as well.  Peer 0 is met by IPv4, peer 1 by IPv6, peer 2 has no endpoint.  Sessions are
 * 100, 60 and 0 s old.  Of peer 0's the youngest is a handshake yet, so the others are its previous
 * and current one; the others' are current and next, their oldest is gone. */
void world_begin(uint32_t features);
/* The peer that such an address belongs to, found in another way than the core's; WG_NO_SLOT: none.
 */
uint32_t world_owner(const uint8_t *address, bool v4);
/* As the other side of a session: out has length + 16 bytes; open returns whether it is genuine. */
void world_seal(uint32_t session, uint64_t counter, const uint8_t *in, uint32_t length,
                uint8_t *out);
bool world_open(uint32_t session, uint64_t counter, const uint8_t *in, uint32_t length,
                uint8_t *out);

#endif
