/* SPDX-License-Identifier: MIT */
/* The device and its peers: their structs, and who may touch what.  Nothing here is visible to
 * Python.
 *
 * Locks, in the order in which they may be taken:
 *   device.tables (rwlock)  control writes; data threads read, one batch at a time, no system call
 *                           under it.  Guards: peers[], the trie, the index table, peer.keypairs.
 *   peer.staged_lock        send threads (append, flush) and control (drop).
 *   peer.endpoint_lock      spin; receive threads (roam), send threads and control (copy).
 *   keypair.replay_lock     spin; receive threads.
 *   device.events_lock      any thread; the ring, the lists of pending peers.
 *   device.kicks_lock       control and send threads; the list of kicked peers.
 *   device.cookie_lock      receive threads; the secret of cookies.
 *   ratelimiter.lock        whoever uses the limiter.
 * Counters and stamps are relaxed atomics: each is a single value, read by itself.  What a tally
 * was about has a flag of its own (wg_tally_cell). */
#ifndef WGPY_TABLES_H
#define WGPY_TABLES_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "api.h"

struct wg_aead_backend;    /* aead.c */
struct wg_allowedips_node; /* allowedips.c */
struct wg_icmp_limits;     /* icmp.c */
struct wg_index_entry;     /* keypair.h */
struct wg_keypair;         /* likewise */
struct wg_staged;          /* staged.h */
struct wg_ways;            /* ways.h */

struct wg_kick {          /* for one send thread; kicks_lock */
    struct wg_peer *next; /* in the thread's list */
    uint32_t kinds;       /* enum wg_kick_kind bits */
    bool listed;          /* it is in that list */
};

/* Of peers about whom control has to hear. */
enum wg_pending_list {
    WG_PENDING_URGENT,  /* all bits but the following: seldom, and cheap to handle */
    WG_PENDING_WANTS,   /* WG_WANT_HANDSHAKE: thousands at once, and a handshake each */
    WG_PENDING_UNHEARD, /* the same, of peers not heard from since they last wanted one */
    WG_PENDING_LISTS
};

struct wg_pending_place {          /* a peer's, on one list; events_lock */
    struct wg_peer *before, *next; /* on the list; NULL: its ends */
    uint32_t bits;                 /* enum wg_pending, not yet taken; 0: not on the list */
};

struct wg_keypairs {             /* of one peer (6.3); control writes; device.tables */
    struct wg_keypair *current;  /* to send with, and received with */
    struct wg_keypair *previous; /* still received with */
    struct wg_keypair *next;     /* the responder's, until the initiator has used it */
};

/* Counts what is dropped or refused, any thread.  What it was about is kept of one in each batch,
 * so a flood costs an addition each, and nobody waits for another to write it down. */
struct wg_tally_cell {
    _Atomic uint64_t count;   /* exact */
    _Atomic uint64_t last_ns; /* written with busy, read without */
    atomic_bool busy;         /* somebody reads or writes about, and nobody else then */
    wg_about about;           /* busy */
};

struct wg_peer {
    uint32_t slot;                              /* in device.peers; never changes */
    wg_device *device;                          /* never changes */
    struct wg_keypairs keypairs;                /* control; device.tables */
    struct wg_allowedips_node *first_allowedip; /* control; device.tables; insertion order */
    struct wg_allowedips_node *last_allowedip;  /* likewise */
    uint32_t allowedip_count;                   /* control; device.tables */
    struct wg_index_entry *first_index; /* all of this peer's indexes; control; device.tables */

    pthread_spinlock_t endpoint_lock; /* guards endpoint */
    wg_endpoint endpoint;             /* where it is; any thread; endpoint_lock */
    uint64_t roamed_ns; /* when what last told that had come; any thread; endpoint_lock */

    pthread_mutex_t staged_lock;                  /* guards what follows */
    struct wg_staged *staged_first, *staged_last; /* staged_lock */
    uint32_t staged_bytes;                        /* of memory; staged_lock */
    uint8_t staged_by[WG_MAX_WORKERS];            /* packets of each worker; staged_lock */
    _Atomic uint32_t staged_count;                /* written under staged_lock, read without */
    _Atomic uint32_t staged_workers;              /* bit i: worker i has some; likewise */

    /* As wg_peer_stats has them; data threads, and control for handshake messages. */
    _Atomic uint64_t tx_bytes, rx_bytes;     /* UDP payload */
    _Atomic uint64_t tx_packets, rx_packets; /* inner; send threads, receive threads */
    _Atomic uint64_t tx_any_ns, rx_any_ns, tx_data_ns, rx_data_ns;   /* stamps; 0: never */
    _Atomic uint64_t tx_unanswered_since_ns, rx_unanswered_since_ns; /* 0: not */
    /* When control looks again by itself; control.  seq_cst: pairs stamp-store/wake-load here with
     * the reverse in control. */
    _Atomic uint64_t wake_ns;
    _Atomic uint64_t handshake_gate_ns; /* no WG_WANT_HANDSHAKE before; control */
    _Atomic uint32_t gso_refused; /* bytes per segment from which UDP_SEGMENT failed; 0: none; send
                                     threads set it, a new session clears it */
    _Atomic uint64_t yields_until_ns; /* until then it is WG_SENDER_YIELDING; send threads */
    atomic_bool moved; /* ENDPOINT_MOVED was raised: who roams sets it, control clears it */
    struct wg_tally_cell drops[WG_PEER_DROPS]; /* by enum wg_peer_drop; any thread */

    struct wg_pending_place pending[WG_PENDING_LISTS]; /* events_lock */
    uint64_t want_heard_ns; /* events_lock: rx_any_ns when it last wanted a handshake; WG_NEVER:
                               it never did */
    struct wg_kick kicks[]; /* one per worker; kicks_lock */
};

#define WG_INDEX_BUCKETS_MIN 1024
#define WG_FLOW_BUCKETS      4096

struct wg_cookie_keys {             /* control writes; device.tables */
    uint8_t mac1_key[WG_KEY_LEN];   /* valid while has_mac1 */
    uint8_t cookie_key[WG_KEY_LEN]; /* valid while has_cookie */
    bool has_mac1, has_cookie;      /* we have a private key */
    uint64_t version; /* counts changes: tells receive threads that their copies are old */
};

struct wg_allowedips {                /* one trie per family; control writes; tables */
    struct wg_allowedips_node *root4; /* NULL: none, here and below */
    struct wg_allowedips_node *root6; /* of IPv6 */
};

struct wg_device {
    pthread_rwlock_t tables;            /* PREFER_WRITER_NONRECURSIVE */
    struct wg_peer **peers;             /* by slot, NULL when free; tables */
    uint32_t slots;                     /* size of peers; tables */
    uint32_t free_hint;                 /* no free slot below it; tables */
    struct wg_allowedips allowedips;    /* tables */
    struct wg_index_entry **indexes;    /* tables; index_buckets chains (a power of two) */
    uint32_t index_buckets;             /* tables */
    uint32_t index_count;               /* tables */
    const struct wg_aead_backend *aead; /* of new keys; never changes */

    uint32_t workers;              /* queues of the TUN; never changes */
    uint32_t lanes;                /* data threads per direction of each worker; never changes */
    struct wg_ways *ways;          /* by worker; data threads, in turns; made at create */
    int event_fd, receive_wake_fd; /* eventfds, borrowed */
    int send_wake_fds[WG_MAX_WORKERS];                /* likewise, one per send thread */
    wg_io io;                                         /* written before the threads start */
    _Atomic uint8_t flow_queues[WG_FLOW_BUCKETS];     /* flows.c; send threads write */
    _Atomic uint8_t fragment_queues[WG_FLOW_BUCKETS]; /* likewise, by addresses and protocol */
    atomic_bool stopping;                             /* data threads have to end; control */
    _Atomic uint32_t mtu;                        /* of the tunnel, bytes; 0: unknown; control */
    _Atomic uint32_t tun_queues[WG_MAX_WORKERS]; /* frames that each worker's is to hold, 0: as by
                                                    default; send threads write */
    _Atomic uint64_t staged_bytes;               /* of all peers; under each one's staged_lock */

    pthread_mutex_t events_lock;    /* guards what follows, and wg_peer.pending */
    wg_event *ring;                 /* events_lock; WG_EVENT_RING entries */
    uint32_t ring_head, ring_count; /* events_lock; the oldest, and how many wait */
    uint64_t load_until_ns;         /* events_lock: end of being under load */
    uint32_t load_messages;         /* events_lock: that came since load_until_ns was set */
    struct {
        struct wg_peer *first, *last; /* NULL: the list is empty, here and below */
    } pending[WG_PENDING_LISTS];      /* events_lock */
    uint32_t want_turn;               /* events_lock: counts; whose want is next */

    pthread_mutex_t kicks_lock; /* guards kicked, and wg_peer.kicks */
    struct {
        struct wg_peer *first, *last; /* oldest kick, newest kick */
    } kicked[WG_MAX_WORKERS];         /* by worker; kicks_lock */

    struct wg_cookie_keys cookie_keys; /* tables */
    pthread_mutex_t cookie_lock;       /* guards the secret */
    uint8_t cookie_secret[WG_KEY_LEN]; /* cookie_lock; receive threads renew it when it is needed */
    uint64_t cookie_secret_expires_ns; /* cookie_lock */
    struct wg_ratelimiter *handshake_limiter; /* rates of sources under load; made at create */
    struct wg_icmp_limits *icmp_limits;       /* rates of ICMP errors; made at create */

    struct wg_tally_cell drops[WG_DEVICE_DROPS]; /* by enum wg_device_drop; any thread */
    struct wg_tally_cell refusals[WG_REFUSALS];  /* by enum wg_refusal; receive threads */
    struct { /* one relaxed atomic per field of wg_counters, same order */
        _Atomic uint64_t value[sizeof(wg_counters) / sizeof(uint64_t)]; /* see wg_counters */
    } counters;                                                         /* any thread */
};

/* Either side of tables; NULL: the slot is free. */
static inline struct wg_peer *wg_peer_find(const wg_device *device, uint32_t slot)
{
    return slot < device->slots ? device->peers[slot] : NULL;
}

#define wg_count(device, field, n)                                                                 \
    atomic_fetch_add_explicit(                                                                     \
        &(device)->counters.value[offsetof(wg_counters, field) / sizeof(uint64_t)], (n),           \
        memory_order_relaxed)

#endif
