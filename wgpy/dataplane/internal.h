/* Structs and stages shared by the C files.  Nothing here is visible to Python.
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
 * Counters and stamps are relaxed atomics: each is a single value, read by itself. */
#ifndef WGPY_INTERNAL_H
#define WGPY_INTERNAL_H
#ifndef _GNU_SOURCE /* sendmmsg, recvmmsg, struct in6_pktinfo */
#error "compile with -D_GNU_SOURCE"
#endif
#include <linux/virtio_net.h>
#include <openssl/types.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "api.h"

#define WG_PADDING_MULTIPLE 16 /* of payloads (5.4.6) */
#define WG_PADDING_MAX      (WG_PADDING_MULTIPLE - 1)

#define WG_NS_PER_S   1000000000ull
#define WG_SECONDS(s) ((uint64_t)(s)*WG_NS_PER_S)

#define wg_likely(x)   __builtin_expect(!!(x), 1)
#define wg_unlikely(x) __builtin_expect(!!(x), 0)

static inline uint16_t wg_load_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline void wg_store_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline uint32_t wg_load_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}
static inline void wg_store_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}
/* The wire is little-endian (5.4); so is every target we build for. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian targets only");
static inline uint32_t wg_load_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline uint64_t wg_load_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static inline void wg_store_le32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void wg_store_le64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

/* ---- endpoint.c: outside addresses --------------------------------------------------------------
 */

size_t wg_endpoint_address_length(const wg_endpoint *endpoint); /* bytes: 4 or 16 */
/* To one host, by one address of ours: the port may differ. */
bool wg_endpoint_is_same_path(const wg_endpoint *a, const wg_endpoint *b);
bool wg_endpoint_is_same_address(const wg_endpoint *a,
                                 const wg_endpoint *b);   /* and the same port */
bool wg_endpoint_has_source(const wg_endpoint *endpoint); /* that may be sent from */
void wg_endpoint_clear_source(wg_endpoint *endpoint);
static inline bool wg_endpoint_is_sendable(const wg_endpoint *endpoint)
{
    return endpoint->family && !endpoint->looped;
}

/* ---- mac.c: keyed BLAKE2s-128, randomness -------------------------------------------------------
 */

/* Keyed BLAKE2s-128 (Mac in 5.4).  set_key starts with another key of up to 32 bytes; compute is
 * for the same key again and again. */
EVP_MAC_CTX *wg_mac_new(void);
bool wg_mac_set_key(EVP_MAC_CTX *context, const uint8_t *key, size_t length);
bool wg_mac_compute(EVP_MAC_CTX *context, const uint8_t *data, size_t length, uint8_t *mac);
bool wg_random_fill(uint8_t *out, size_t length);

/* ---- aead.c: ChaCha20-Poly1305 from a kept library ------------------------------------------- */

struct wg_aead_backend; /* one library: a table of functions, private to aead.c */

struct wg_aead_key { /* one direction of one session, ready for every worker */
    const struct wg_aead_backend *backend;
    uint8_t raw[WG_KEY_LEN];     /* wiped by wg_aead_key_clear */
    void *state[WG_MAX_WORKERS]; /* backend's context for worker i, made at init or NULL */
};

const struct wg_aead_backend *
wg_aead_find(const char *name); /* NULL name: fastest; NULL: unknown */
const char *wg_aead_name(const struct wg_aead_backend *backend);
int wg_aead_key_init(struct wg_aead_key *key, const struct wg_aead_backend *backend,
                     const uint8_t raw[WG_KEY_LEN], bool seal, uint32_t workers);
void wg_aead_key_clear(struct wg_aead_key *key);
/* out = ciphertext || tag, length + 16 bytes.  out may equal in or not overlap it. Cannot fail. */
void wg_aead_seal(struct wg_aead_key *key, uint32_t worker, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length);
/* in = ciphertext || tag, length >= 16. out may equal in. False: out holds nothing to be used. */
bool wg_aead_open(struct wg_aead_key *key, uint32_t worker, uint64_t counter, uint8_t *out,
                  const uint8_t *in, size_t length);

/* ---- keypair.c: sessions, the index table, replay ---------------------------------------------
 */

struct wg_replay {   /* RFC 6479 */
    uint64_t newest; /* highest counter accepted, plus one */
    uint64_t bitmap[8192 / 64];
};

struct wg_keypair {
    struct wg_aead_key send_key;
    struct wg_aead_key receive_key;
    struct wg_peer *peer;
    uint64_t created_ns;
    uint32_t local_index;
    uint32_t remote_index;
    bool initiator;
    atomic_bool can_send;           /* false once expired: control clears, send threads read */
    atomic_bool confirmed;          /* first authenticated data came: receive threads set it */
    atomic_bool asked_last_minute;  /* the rekey on receive was asked for, once per key */
    _Atomic uint64_t send_counter;  /* next nonce; send threads take ranges with fetch_add */
    pthread_spinlock_t replay_lock; /* guards replay */
    struct wg_replay replay;
};

struct wg_index_entry { /* hash table entry; control writes, receive threads read */
    uint32_t index;
    struct wg_peer *peer;
    struct wg_keypair *keypair;          /* NULL while the index is a handshake's */
    struct wg_index_entry *next;         /* in the bucket */
    struct wg_index_entry *next_of_peer; /* from wg_peer.first_index on */
};

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

/* ---- allowedips.c: one trie per family --------------------------------------------------------
 */

struct wg_allowedips_node;
struct wg_allowedips {
    struct wg_allowedips_node *root4;
    struct wg_allowedips_node *root6;
};
struct wg_peer *wg_allowedips_find4(const struct wg_allowedips *trie, const uint8_t addr[4]);
struct wg_peer *wg_allowedips_find6(const struct wg_allowedips *trie, const uint8_t addr[16]);
void wg_allowedips_destroy(struct wg_allowedips *trie);

/* ---- peers and the device ----------------------------------------------------------------------
 */

struct wg_staged { /* one packet without a session; plaintext follows */
    struct wg_staged *next;
    uint32_t length; /* 0: a keepalive */
    uint8_t worker;  /* the send thread that staged it, which will send it */
    uint8_t ecn;
    uint8_t data[];
};

struct wg_kick { /* for one send thread */
    struct wg_peer *next;
    uint32_t kinds; /* enum wg_kick_kind bits */
    bool listed;
};

/* Of peers about whom control has to hear. */
enum wg_pending_list {
    WG_PENDING_URGENT,  /* all bits but the following: seldom, and cheap to handle */
    WG_PENDING_WANTS,   /* WG_WANT_HANDSHAKE: thousands at once, and a handshake each */
    WG_PENDING_UNHEARD, /* the same, of peers not heard from since they last wanted one */
    WG_PENDING_LISTS
};

struct wg_pending_place { /* a peer's, on one list */
    struct wg_peer *before, *next;
    uint32_t bits; /* enum wg_pending, not yet taken; 0: not on the list */
};

struct wg_peer {
    uint32_t slot;
    wg_device *device;
    struct wg_keypair *current, *previous, *next; /* control; device.tables */
    struct wg_allowedips_node *first_allowedip;   /* control; device.tables; insertion order */
    struct wg_allowedips_node *last_allowedip;
    uint32_t allowedips;                /* how many; control; device.tables */
    struct wg_index_entry *first_index; /* all of this peer's indexes; control; device.tables */

    pthread_spinlock_t endpoint_lock;
    wg_endpoint endpoint; /* endpoint_lock */

    pthread_mutex_t staged_lock;
    struct wg_staged *staged_first, *staged_last; /* staged_lock */
    uint32_t staged_bytes;                        /* of memory; staged_lock */
    uint8_t staged_by[WG_MAX_WORKERS];            /* packets of each worker; staged_lock */
    _Atomic uint32_t staged_count;                /* written under staged_lock, read without */
    _Atomic uint32_t staged_workers;              /* bit i: worker i has some; likewise */

    _Atomic uint64_t tx_bytes, rx_bytes;
    _Atomic uint64_t tx_any_ns, rx_any_ns, tx_data_ns, rx_data_ns;
    _Atomic uint64_t tx_unanswered_since_ns, rx_unanswered_since_ns;
    _Atomic uint64_t
        wake_ns; /* seq_cst: pairs stamp-store/wake-load here with the reverse in control */
    _Atomic uint64_t handshake_gate_ns;
    _Atomic uint32_t gso_refused; /* bytes per segment from which UDP_SEGMENT failed; 0: none; send
                                     threads set it, a new session clears it */
    _Atomic uint64_t yields_until_ns; /* until then it is WG_SENDER_YIELDING; send threads */
    _Atomic uint64_t tx_congested;    /* messages dropped for want of room; send threads */

    struct wg_pending_place pending[WG_PENDING_LISTS]; /* events_lock */
    uint64_t want_heard_ns; /* events_lock: rx_any_ns when it last wanted a handshake; WG_NEVER:
                               it never did */
    struct wg_kick kicks[]; /* one per worker; kicks_lock */
};

#define WG_INDEX_BUCKETS_MIN 1024
#define WG_FLOW_BUCKETS      4096

struct wg_cookie_keys {           /* control writes; device.tables */
    uint8_t mac1_key[WG_KEY_LEN]; /* valid while has_mac1 */
    uint8_t cookie_key[WG_KEY_LEN];
    bool has_mac1, has_cookie;
    uint64_t version; /* counts changes: tells receive threads that their copies are old */
};

struct wg_device {
    pthread_rwlock_t tables;         /* PREFER_WRITER_NONRECURSIVE */
    struct wg_peer **peers;          /* by slot, NULL when free; tables */
    uint32_t slots;                  /* size of peers; tables */
    uint32_t free_hint;              /* no free slot below it; tables */
    struct wg_allowedips allowedips; /* tables */
    struct wg_index_entry **indexes; /* tables; index_buckets chains (a power of two) */
    uint32_t index_buckets;          /* tables */
    uint32_t index_count;            /* tables */
    const struct wg_aead_backend *aead;

    uint32_t workers;                             /* data threads per direction; never changes */
    int event_fd, receive_wake_fd;                /* eventfds, borrowed */
    int send_wake_fds[WG_MAX_WORKERS];            /* likewise, one per send thread */
    wg_io io;                                     /* written before the threads start */
    _Atomic uint8_t flow_queues[WG_FLOW_BUCKETS]; /* flows.c; send threads write */
    _Atomic uint8_t fragment_queues[WG_FLOW_BUCKETS]; /* likewise, by addresses and protocol */
    atomic_bool stopping;
    _Atomic uint32_t mtu;
    _Atomic uint64_t staged_bytes; /* of all peers; under each one's staged_lock */
    _Atomic uint64_t clock_offset_ns;

    pthread_mutex_t events_lock;
    wg_event *ring; /* events_lock; WG_EVENT_RING entries */
    uint32_t ring_head, ring_count;
    uint64_t load_until_ns; /* events_lock: end of being under load */
    uint32_t load_messages; /* events_lock: that came since load_until_ns was set */
    struct {
        struct wg_peer *first, *last;
    } pending[WG_PENDING_LISTS]; /* events_lock */
    uint32_t want_turn;          /* events_lock: counts; whose want is next */

    pthread_mutex_t kicks_lock;
    struct {
        struct wg_peer *first, *last;
    } kicked[WG_MAX_WORKERS]; /* by worker; kicks_lock */

    struct wg_cookie_keys cookie_keys; /* tables */
    pthread_mutex_t cookie_lock;
    uint8_t cookie_secret[WG_KEY_LEN]; /* cookie_lock; receive threads renew it when it is needed */
    uint64_t cookie_secret_expires_ns; /* cookie_lock */
    struct wg_ratelimiter *handshakes; /* rates of sources under load; made at create */
    struct wg_icmp *icmp;              /* rates of ICMP errors; made at create */

    struct { /* one relaxed atomic per field of wg_counters, same order */
        _Atomic uint64_t value[sizeof(wg_counters) / sizeof(uint64_t)];
    } counters;
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

/* ---- peer.c -----------------------------------------------------------------------------------
 */

/* Stamps (6.1-6.5): data is whether the message carried a payload. Raise TIMER_ARMED if due. */
void wg_peer_stamp_sent(struct wg_peer *peer, uint64_t bytes, bool data, uint64_t now_ns);
void wg_peer_stamp_received(struct wg_peer *peer, uint64_t bytes, bool data, uint64_t now_ns);
void wg_peer_roam(struct wg_peer *peer, const wg_endpoint *source); /* set if different */
wg_endpoint wg_peer_endpoint(struct wg_peer *peer);
/* WANT_HANDSHAKE, unless the gate is shut. */
void wg_peer_ask_handshake(struct wg_peer *peer, uint64_t now_ns);

/* ---- staged.c: packets that wait for a session
 * -------------------------------------------------------- */

/* For the worker to send: what one worker staged no other sends, or flows would lose their order. A
 * packet that finds no memory is dropped like one pushed out; length 0 is a keepalive. */
void wg_staged_add(struct wg_peer *peer, uint32_t worker, const uint8_t *packet, uint32_t length,
                   uint8_t ecn);
/* Without a lock. */
static inline bool wg_staged_waits(struct wg_peer *peer, uint32_t worker)
{
    return atomic_load_explicit(&peer->staged_workers, memory_order_acquire) >> worker & 1;
}
/* The worker's oldest, or NULL; then off the queue, for the caller to free.  Under staged_lock. */
struct wg_staged *wg_staged_oldest(struct wg_peer *peer, uint32_t worker);
void wg_staged_take(struct wg_peer *peer, struct wg_staged *staged);
void wg_staged_drop(struct wg_peer *peer); /* all */

/* ---- flows.c: several queues of one TUN
 * --------------------------------------------------------------- */

/* Both do nothing but say `worker` when there is only one.  An IP packet or super-packet. */
void wg_flow_sent(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length);
/* The worker whose queue the packet has to be written to. */
uint32_t wg_flow_queue(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length);

/* ---- loops.c: messages of WireGuard that come out of the TUN
 * -------------------------------------------------------- */

struct wg_nested {  /* a WireGuard message that a packet from the TUN carries */
    uint32_t type;  /* WG_MESSAGE_*; 0: there is none */
    uint32_t index; /* the receiver's of a transport message, the sender's of a handshake's */
    uint8_t hops;   /* IP TTL for the message that carries it; 0: it is nested too deep */
};

/* A whole IP packet or super-packet; all segments of one have the first one's type and index. */
struct wg_nested wg_nested_read(const uint8_t *ip, uint32_t length);
/* Whether it is a message of ours to this peer.  Read side of tables. */
bool wg_nested_is_to(const struct wg_nested *nested, struct wg_peer *peer);

/* ---- events.c
 * ------------------------------------------------------------------------------------ */

void wg_event_pend(struct wg_peer *peer, uint32_t pending); /* never lost, coalesces */
void wg_event_forget(struct wg_peer *peer);                 /* peer is going away */
/* Copies a handshake message into the ring; drops and counts when it is full. */
void wg_event_message(wg_device *device, uint32_t slot, const wg_endpoint *source,
                      const uint8_t *data, uint32_t length, uint64_t now_ns);
/* Called for each message: so many wait, or did within the last second, that it has to show mac2
 * (5.3). */
bool wg_events_under_load(wg_device *device, uint64_t now_ns);
/* The worker's next kicked peer and its kinds, or NULL. Read side of tables.  When its send_wake_fd
 * is readable, drain that first, then take until NULL: it is written only when the first peer is
 * kicked. */
struct wg_peer *wg_kick_take(wg_device *device, uint32_t worker, uint32_t *kinds);
void wg_kick_forget(struct wg_peer *peer);
void wg_wake(int fd); /* makes an eventfd readable */
void wg_wake_drain(int fd);

/* A descriptor that does nothing but fail must not take a core: after so many failures in a row,
 * wait so long for the wake eventfd alone. */
#define WG_FAILURES_IN_A_ROW 128
#define WG_PAUSE_MS          10
/* poll(2), but it cannot fail: then all are said to be ready, after a pause. */
void wg_poll(struct pollfd *fds, uint32_t count, int timeout_ms);

/* ---- cookie.c: what makes a handshake message worth an answer
 * ------------------------------------------------ */

struct wg_cookie_checker; /* of one receive thread */
struct wg_cookie_checker *wg_cookie_checker_new(wg_device *device, uint32_t worker);
void wg_cookie_checker_free(struct wg_cookie_checker *checker);
/* These three: read side of tables; a whole message 1 or 2. want_reply: its mac1 was valid. */
bool wg_cookie_mac1_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length);
bool wg_cookie_mac2_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source, uint64_t now_ns);
void wg_cookie_want_reply(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source);
/* Sends the replies wanted since the last call, without waiting. A batch has no more than 64. */
void wg_cookie_send_replies(struct wg_cookie_checker *checker, uint64_t now_ns);

/* ---- icmp.c: errors for the host itself
 * ------------------------------------------------------------------ */

struct wg_icmp; /* rates, of one device */
struct wg_icmp *wg_icmp_new(void);
void wg_icmp_free(struct wg_icmp *icmp);
/* Answers a whole IP packet from the TUN that has nowhere to go; not under a lock.  Says nothing
 * where an ICMP error is forbidden, or too often. */
void wg_icmp_unreachable(wg_device *device, int tun_fd, const uint8_t *packet, uint32_t length,
                         uint64_t now_ns);

/* ---- checksum.c
 * ----------------------------------------------------------------------------------- */

/* wg_checksum_fold is in api.h.  The pseudo-header sum of an IPv4 or IPv6 packet, unfolded; like
 * all sums a host integer of big-endian words. */
uint64_t wg_checksum_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t transport_length);

/* ---- gso.c: a frame from the TUN -> the packets it stands for
 * --------------------------------------- */

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
_Static_assert(sizeof(struct virtio_net_hdr) == WG_VNET_HDR_LEN, "struct virtio_net_hdr");

struct wg_packet {
    uint8_t *data; /* starts at the IP header */
    uint32_t length;
};

struct wg_gso {
    uint8_t *ip;            /* the IP header in the frame; addresses are valid from begin to the
                               first next */
    uint32_t length;        /* of the IP packet or super-packet, bytes */
    uint32_t header_length; /* IP and transport headers, 0 for a plain packet */
    uint32_t segment;       /* payload bytes per packet (<= gso_size), 0 for a plain packet */
    uint32_t offset;        /* payload bytes given out */
    uint32_t index;         /* packets given out */
    uint32_t count;         /* packets in all; packets 0..count-2 are equally long */
    uint8_t version;        /* 4 or 6 */
    uint8_t protocol;       /* TCP or UDP when segment != 0 */
    uint16_t transport;     /* offset of the TCP or UDP header */
    uint16_t id;            /* IPv4 identification of the first packet */
    uint16_t flags;         /* TCP data offset and flags, as they came */
    uint32_t sequence;      /* TCP sequence number of the first packet */
    uint64_t ip_sum;        /* checksum of header[0..transport) */
    uint64_t transport_sum; /* of the rest of header[] and the pseudo-header, without a length */
    uint8_t header[256];    /* the headers as they came; what differs between packets is zero */
};

/* No packet of the frame is longer. */
static inline uint32_t wg_gso_packet_length(const struct wg_gso *gso)
{
    return gso->segment ? gso->header_length + gso->segment : gso->length;
}
/* Checks everything: lengths, versions, gso_type, gso_size, csum_start and csum_offset; finishes
 * the checksum of a plain packet that asks for it. -EINVAL: drop the frame.  Bytes behind the
 * length that the IP header tells are left out. */
int wg_gso_begin(struct wg_gso *gso, uint8_t *frame, size_t length, uint32_t features);
/* The next packet, contiguous, checksums right; headers are written into the frame right before
 * its payload, over the tail of the packet before, so a packet is valid until the next call.
 * False after the last. */
bool wg_gso_next(struct wg_gso *gso, struct wg_packet *packet);

/* ---- gro.c: packets -> frames for the TUN
 * ------------------------------------------------------------ */

#define WG_GRO_SEGMENTS 128 /* per frame */

struct wg_gro; /* one per receive thread, preallocated */

struct wg_gro *wg_gro_new(void);
void wg_gro_free(struct wg_gro *gro);
void wg_gro_reset(struct wg_gro *gro, uint32_t features);
/* Takes a packet that passed every check (valid IP version and total length == length); it must
 * stay in place until the reset.  -ENOSPC: write the frames out, reset, add again. */
int wg_gro_add(struct wg_gro *gro, uint8_t *packet, uint32_t length);
/* Frames in order of their first packets: iov[0] is the virtio_net_hdr when features has VNET_HDR.
 * Returns the number of iovecs filled (at most WG_GRO_SEGMENTS + 2), 0 after the last frame.
 * *packets: how many the frame stands for.  A frame is valid until the next call. */
int wg_gro_next(struct wg_gro *gro, struct iovec *iov, uint32_t *packets);
/* After the TUN refused a coalesced frame with EINVAL: the packets of the frame that wg_gro_next
 * gave last, one at a time, each with a plain virtio_net_hdr.  Same return. */
int wg_gro_next_single(struct wg_gro *gro, struct iovec *iov);

/* ---- udp.c: endpoints, datagrams in and out
 * ------------------------------------------------------------ */

#define WG_UDP_RECEIVE_SLOTS 8 /* recvmmsg messages; more gained nothing */
#define WG_UDP_BUFFER_LEN    65536

/* Packets of one batch, however many datagrams a kernel makes one message of: the shortest is an
 * IPv4 header that its sender did not pad. */
#define WG_GRO_PACKETS (WG_UDP_RECEIVE_SLOTS * (WG_UDP_BUFFER_LEN / (WG_TRANSPORT_OVERHEAD + 20)))

struct wg_datagrams { /* one recvmmsg message: equal-size datagrams, the last may be shorter */
    uint8_t *data;
    uint32_t length;
    uint32_t segment; /* bytes per datagram, >= 1 */
    uint8_t tos;
    uint64_t age_ns; /* since they came to this host; 0 if unknown */
    wg_endpoint source;
};

struct wg_udp_receiver; /* buffers and mmsghdrs of one receive thread */
struct wg_udp_receiver *wg_udp_receiver_new(void);
void wg_udp_receiver_free(struct wg_udp_receiver *receiver);
/* Without blocking; returns how many are filled, or -errno (-EAGAIN: none). */
int wg_udp_receive(struct wg_udp_receiver *receiver, int fd, struct wg_datagrams *out, int max);
uint32_t wg_udp_receive_buffer(int fd); /* bytes that may wait in it; 0 if unknown */
void wg_udp_set_receive_buffer(int fd, uint32_t bytes);

/* One datagram, without waiting; 0 or -errno. */
int wg_udp_send(const wg_queue *queue, const wg_endpoint *to, const uint8_t *data, uint32_t length,
                uint8_t tos);
/* Whether a positive errno may come of the source; if it does, a try without the source tells. */
bool wg_udp_is_stale_source(int error);

#define WG_UDP_ARENA_LEN  (256 * 1024)
#define WG_UDP_SEND_SLOTS 512

struct wg_run {       /* messages that leave as one */
    uint32_t offset;  /* of the first message in the arena */
    uint32_t length;  /* bytes of all messages */
    uint32_t segment; /* bytes of each message but the last */
    uint32_t count;   /* messages */
    uint32_t slot;    /* peer */
    uint8_t tos;
    bool open;   /* another message may follow */
    bool yields; /* its peer yields to others */
    wg_endpoint to;
};

struct wg_udp_messages; /* what sendmmsg takes: slots for runs, and the arena that they lie in */
struct wg_udp_messages *wg_udp_messages_new(void);
void wg_udp_messages_free(struct wg_udp_messages *messages);
uint8_t *wg_udp_messages_arena(struct wg_udp_messages *messages); /* WG_UDP_ARENA_LEN bytes */
void wg_udp_messages_set(struct wg_udp_messages *messages, uint32_t i, const struct wg_run *run);
/* Sends messages first..first + count with as few calls as it takes; returns how many went before
 * an error, and that error (or 0) in *error. */
uint32_t wg_udp_messages_send(struct wg_udp_messages *messages, int fd, uint32_t first,
                              uint32_t count, int *error);
int wg_udp_fd(const wg_queue *queue, const wg_endpoint *to); /* the socket of its family */
uint32_t wg_udp_send_buffer(const wg_queue *queue);          /* its length, bytes */
int wg_udp_queued(int fd);                                   /* bytes in it; negative: unknown */
bool wg_udp_wait_room(int fd); /* for a moment; false: half of it is not free by then */

/* ---- congestion.c: who waits and who goes without, when a socket's buffer is full ---------------
 */

struct wg_congestion { /* of one sender; its thread's */
    bool patient;      /* it may wait for room, a bit */
    uint32_t waits;    /* of this flush, which sets it to 0 */
    uint32_t buffer;   /* bytes of a socket's buffer */
    struct buffer_use {
        uint64_t unseen;   /* bytes taken since the heaviest looked how full it is */
        uint64_t standing; /* bytes that those who yield have in it, at most */
    } uses[2];             /* of the sockets, IPv4 and IPv6 */
    struct {
        uint32_t slot, bytes;
    } heaviest; /* see wg_congestion_weigh */
};

/* buffer: bytes of a socket's.  patient: it may wait for room, a bit. */
void wg_congestion_init(struct wg_congestion *congestion, uint32_t buffer, bool patient);
/* Of each run that is to be sent. */
void wg_congestion_weigh(struct wg_congestion *congestion, const struct wg_run *run);
/* Of each run that was. */
void wg_congestion_take(struct wg_congestion *congestion, const struct wg_run *run);
/* Whether to look how full the buffer is before the run is sent. */
bool wg_congestion_needs_look(struct wg_congestion *congestion, const struct wg_run *run);
/* queued: bytes in the buffer, negative if unknown. */
bool wg_congestion_has_room(struct wg_congestion *congestion, const struct wg_run *run, int queued);
/* Whether to wait for room once more; it is counted. */
bool wg_congestion_may_wait(struct wg_congestion *congestion, const struct wg_run *run);
/* The run is dropped for want of room: the peer that has to yield, or WG_NO_SLOT. */
uint32_t wg_congestion_yielder(struct wg_congestion *congestion, const struct wg_run *run);

/* ---- sender.c: batches of sealed messages out ------------------------------------------------ */

struct wg_sender; /* one batch of sealed messages, in one arena */
/* queue: whose sockets it sends from; has to outlive it.  patient: it may wait for room, a bit. */
struct wg_sender *wg_sender_new(const wg_queue *queue, bool patient);
void wg_sender_free(struct wg_sender *sender);
/* How many messages of length bytes surely fit; 0: flush first.  Then seal each at wg_sender_place
 * and commit it. Messages that follow each other to one endpoint with one TOS and one size (the
 * last may be shorter) go out as one UDP_SEGMENT send when all of them are WG_SENDER_BATCHED. */
enum wg_sender_manner {
    WG_SENDER_BATCHED = 1,
    WG_SENDER_YIELDING = 2, /* no waiting for room in the socket buffer */
};
uint32_t wg_sender_room(const struct wg_sender *sender, uint32_t length);
uint8_t *wg_sender_place(struct wg_sender *sender);
void wg_sender_commit(struct wg_sender *sender, uint32_t length, uint32_t slot,
                      const wg_endpoint *to, uint8_t tos, uint32_t manner);
/* Sends the batch and empties it. Handles GSO fallback (EIO, EINVAL, EMSGSIZE: this run is sent
 * unbatched, and no such one to this peer until it has a new session), a stale source
 * (EINVAL/EADDRNOTAVAIL: resent without it) and a full socket buffer (waited for a moment, then
 * dropped). */
void wg_sender_flush(wg_device *device, struct wg_sender *sender);

/* ---- backlog.c: what waits in a socket; the part that needs none is in api.h
 * --------------------------- */

void wg_backlog_open(wg_backlog *backlog, int fd); /* -1: for nothing */
/* wg_backlog_take for a batch; sets the socket's buffer. */
uint64_t wg_backlog_took(wg_backlog *backlog, int fd, const struct wg_datagrams *trains, int count,
                         uint64_t now_ns);
void wg_backlog_close(const wg_backlog *backlog, int fd); /* leaves the buffer as it was */

/* ---- tun.c
 * ------------------------------------------------------------------------------------------------
 */

/* One frame; returns its length, -EAGAIN, or -errno. */
ssize_t wg_tun_read(int fd, uint8_t *buffer, size_t size);
int wg_tun_write(int fd, const struct iovec *iov, int count);

#endif
