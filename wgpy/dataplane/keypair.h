/* SPDX-License-Identifier: MIT */
/* Sessions, the index table, replay. */
#ifndef WGPY_KEYPAIR_H
#define WGPY_KEYPAIR_H
#include "aead.h"
#include "tables.h"

struct wg_replay {              /* RFC 6479; receive threads; wg_keypair.replay_lock */
    uint64_t newest;            /* highest counter accepted, plus one */
    uint64_t bitmap[8192 / 64]; /* a ring, by counter: those seen */
};

struct wg_keypair {                 /* one session; what names no writer never changes */
    struct wg_aead_key send_key;    /* ours */
    struct wg_aead_key receive_key; /* the peer's */
    struct wg_peer *peer;           /* whose session it is */
    uint64_t created_ns;            /* when the handshake ended */
    uint32_t local_index;           /* ours, in messages to us */
    uint32_t remote_index;          /* the peer's, in messages to it */
    bool initiator;                 /* we sent the initiation */
    atomic_bool can_send;           /* false once expired: control clears, send threads read */
    atomic_bool confirmed;          /* first authenticated data came: receive threads set it */
    atomic_bool asked_last_minute;  /* the rekey on receive was asked for, once per key */
    _Atomic uint64_t send_counter;  /* next nonce; send threads take ranges with fetch_add */
    pthread_spinlock_t replay_lock; /* guards replay */
    struct wg_replay replay;        /* counters received; replay_lock */
};

struct wg_index_entry {   /* in the hash table; control writes, receive threads read; tables */
    uint32_t index;       /* ours, random */
    struct wg_peer *peer; /* whose handshake or session it is */
    struct wg_keypair *keypair;          /* NULL while the index is a handshake's */
    struct wg_index_entry *next;         /* in the bucket */
    struct wg_index_entry *next_of_peer; /* from wg_peer.first_index on */
};

/* Whether the counter is new; then it is marked.  False: seen before, behind the window, or past
 * REJECT_AFTER_MESSAGES.  Under replay_lock. */
bool wg_replay_accept(struct wg_replay *replay, uint64_t counter);
struct wg_index_entry *wg_index_find(wg_device *device, uint32_t index); /* read side */
void wg_peer_indexes_clear(struct wg_peer *peer);                        /* write side */
/* The keypair to seal with now, or NULL: current, or a confirmed next, neither expired nor used up.
 */
struct wg_keypair *wg_keypair_sending(struct wg_peer *peer, uint64_t now_ns);
void wg_keypairs_clear(struct wg_peer *peer); /* write side */
/* 0 for a keypair made after now was read. */
static inline uint64_t wg_keypair_age_ns(const struct wg_keypair *keypair, uint64_t now_ns)
{
    return now_ns > keypair->created_ns ? now_ns - keypair->created_ns : 0;
}

#endif
