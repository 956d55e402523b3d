/* SPDX-License-Identifier: MIT */
/* The public C API of the data plane.  This file is also the cffi cdef (build.py strips the
 * preprocessor lines), so nothing is declared twice.
 *
 * Every function returns 0 (or a count) or -errno.  Only the control thread calls functions that
 * change tables; they take the write side of the device's rwlock.  Times are nanoseconds of
 * CLOCK_BOOTTIME.
 * Section numbers are those of the WireGuard paper (Donenfeld, NDSS 2017; revision of 2020-06-01).
 */
#ifndef WGPY_API_H
#define WGPY_API_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Specification constants (section 6.1; message sizes 5.4). */
enum {
    WG_REKEY_AFTER_TIME_S = 120,
    WG_REJECT_AFTER_TIME_S = 180,
    WG_REKEY_TIMEOUT_S = 5,
    WG_KEEPALIVE_TIMEOUT_S = 10,
    WG_COOKIE_SECRET_TIME_S = 120, /* 5.4.7 */
    WG_KEY_LEN = 32,
    WG_TAG_LEN = 16,
    WG_MAC_LEN = 16,
    WG_NONCE_LEN = 12,
    WG_TRANSPORT_HEADER_LEN = 16,
    WG_TRANSPORT_OVERHEAD = WG_TRANSPORT_HEADER_LEN + WG_TAG_LEN,
    WG_INITIATION_LEN = 148,
    WG_RESPONSE_LEN = 92,
    WG_COOKIE_REPLY_LEN = 64,
    WG_MESSAGE_INITIATION = 1,
    WG_MESSAGE_RESPONSE = 2,
    WG_MESSAGE_COOKIE_REPLY = 3,
    WG_MESSAGE_TRANSPORT = 4,
};
#define WG_REKEY_AFTER_MESSAGES  1152921504606846976ull
#define WG_REJECT_AFTER_MESSAGES 18446744073709543423ull

/* Implementation constants. */
enum {
    WG_MAX_PEERS = 1 << 20,
    WG_STAGED_MAX = 128,           /* staged packets per peer; the oldest is dropped */
    WG_STAGED_MAX_BYTES = 1 << 20, /* memory for them, bytes per peer, likewise, ... */
    WG_STAGED_ALL_MAX = 64 << 20,  /* ... and of all peers, but for the newest of each */
    WG_REPLAY_WINDOW = 8128,       /* usable counters behind the newest (RFC 6479) */
    WG_EVENT_RING = 4096,          /* handshake messages waiting for control */
    WG_LOAD = WG_EVENT_RING / 8,   /* so many of them are load (5.3, as the kernel module), ... */
    WG_LOAD_TIME_S = 1,            /* ... for so long, and longer if as many come meanwhile */
    WG_HANDSHAKES_PER_S = 20,      /* from one source under load (kernel module) ... */
    WG_HANDSHAKES_BURST = 5,       /* ... and at once */
    WG_MAX_WORKERS = 16,           /* queues of the TUN, and pairs of sockets */
    WG_MAX_LANES = 6,              /* data threads per direction of one worker ... */
    WG_MAX_THREADS = 16,           /* ... and of all */
    WG_FRAME_MAX = 65535,          /* one IP packet or super-packet */
    WG_TUN_QUEUE_LEN = 500,        /* frames that Linux lets wait in each queue of a TUN */
    WG_VNET_HDR_LEN = 10,          /* struct virtio_net_hdr */
};
#define WG_NO_SLOT 4294967295u
#define WG_NEVER   18446744073709551615ull

typedef struct wg_device wg_device;

/* An outside address and, behind it, the local address it reached us on (sticky source).
 * family 0 means none. */
typedef struct {
    uint16_t family;         /* AF_INET, AF_INET6 or 0 */
    uint16_t port;           /* host order */
    uint32_t scope_id;       /* IPv6 link-local zone, else 0 */
    uint8_t addr[16];        /* network order; IPv4 in the first four */
    uint8_t source[16];      /* local address, same family; all zero when unknown */
    uint32_t source_ifindex; /* interface on which it reached us; 0 when unknown */
    uint16_t source_refused; /* 1: not to be sent from, see wg_peer_allow_source; else 0 */
    uint8_t looped;          /* 1: not to be sent to, see wg_peer_set_looped; else 0 */
    uint8_t hops;            /* IP TTL of this message to it; 0: the socket's */
} wg_endpoint;

/* The descriptors of one worker, -1 for a missing one. */
typedef struct {
    int32_t tun_fd;  /* TUN queue, or any descriptor that keeps frame boundaries; O_NONBLOCK */
    int32_t udp4_fd; /* bound IPv4 socket */
    int32_t udp6_fd; /* bound IPv6 socket */
} wg_worker_io;

/* What the data threads borrow from start to stop. */
typedef struct {
    wg_worker_io workers[WG_MAX_WORKERS]; /* by worker */
    uint32_t features;                    /* enum wg_feature bits */
} wg_io;

enum wg_feature {
    WG_FEATURE_VNET_HDR = 1, /* frames carry a virtio_net_hdr */
    WG_FEATURE_TUN_TSO = 2,  /* the TUN takes and gives TCP super-packets */
    WG_FEATURE_TUN_USO = 4,  /* the TUN takes and gives UDP super-packets */
    WG_FEATURE_UDP_GSO = 8,  /* UDP_SEGMENT works on the sockets */
    WG_FEATURE_UDP_GRO = 16, /* UDP_GRO is set on the sockets */
};

/* What is shown of a peer that is configured, but for what only control knows. */
typedef struct {
    uint64_t tx_bytes;    /* as in wg_peer_stats */
    uint64_t rx_bytes;    /* likewise */
    wg_endpoint endpoint; /* family 0: none */
    uint32_t allowed_ips; /* how many prefixes it has */
    uint32_t unused;      /* padding */
} wg_peer_shown;

enum {
    WG_ALLOWEDIP_LINE_MAX = 64, /* bytes; "allowed_ip=", an IPv6 address of up to 45, "/128\n" */
};

/* One prefix of a peer.  remove: take it away, if and only if this peer owns exactly it. */
typedef struct {
    uint8_t addr[16]; /* network order; IPv4 in the first four */
    uint8_t family;   /* 4 or 6 */
    uint8_t cidr;     /* prefix length in bits */
    uint8_t remove;   /* 0 or 1 */
    uint8_t unused;   /* padding */
} wg_allowedip;

/* One session, handed over once (5.4.5).  The caller wipes its copy. */
typedef struct {
    uint8_t send_key[32];    /* ours, to seal with */
    uint8_t receive_key[32]; /* the peer's, to open with */
    uint32_t local_index;    /* reserved before with wg_index_reserve */
    uint32_t remote_index;   /* the peer's */
    uint64_t created_ns;     /* when the handshake ended */
    uint8_t initiator;       /* 1 when we sent the initiation */
    uint8_t unused[7];       /* padding */
} wg_session;

/* Everything that timers and `wg show` need to know of a peer's traffic; 0 means never or not. */
typedef struct {
    uint64_t tx_bytes;               /* UDP payload bytes of all valid messages sent */
    uint64_t rx_bytes;               /* and received */
    uint64_t tx_any_ns;              /* last authenticated message sent */
    uint64_t rx_any_ns;              /* last authenticated message received */
    uint64_t tx_data_ns;             /* last transport message with a payload sent */
    uint64_t rx_data_ns;             /* and received */
    uint64_t tx_unanswered_since_ns; /* first payload sent since anything came back */
    uint64_t rx_unanswered_since_ns; /* first payload received since anything was sent */
    uint64_t tx_congested;           /* messages dropped because the socket buffer stayed full */
    uint32_t staged;                 /* packets waiting for a session */
    uint32_t sessions;               /* keypairs held: bit 0 current, 1 previous, 2 next */
    wg_endpoint endpoint;            /* where it is sent to now */
} wg_peer_stats;

/* What was dropped of a peer's packets, and why; of the device's, where no peer is known; and the
 * handshake messages that were refused before control saw them.  The ends of these names, with
 * hyphens, are what Python calls the reasons. */
enum wg_peer_drop {
    WG_PEER_DROP_NO_ENDPOINT,
    WG_PEER_DROP_LOOPED,      /* it came back to its own peer, or is nested too deep */
    WG_PEER_DROP_STAGED,      /* pushed out by newer ones while there was no session */
    WG_PEER_DROP_SEND_ERROR,  /* the kernel refused it; about: the endpoint, and the errno */
    WG_PEER_DROP_CONGESTED,   /* the socket buffer stayed full */
    WG_PEER_DROP_EXPIRED,     /* session older than REJECT_AFTER_TIME */
    WG_PEER_DROP_BAD_TAG,     /* AEAD refused */
    WG_PEER_DROP_REPLAYED,    /* counter seen or too old */
    WG_PEER_DROP_NOT_ALLOWED, /* inner source not in the peer's allowed IPs; about: it */
    WG_PEER_DROP_MALFORMED,   /* decrypted, but no IP packet or a wrong length */
    WG_PEER_DROPS,
};
enum wg_device_drop {
    WG_DEVICE_DROP_NO_PEER,       /* inner destination in nobody's allowed IPs; about: it */
    WG_DEVICE_DROP_MULTICAST,     /* likewise, but not one host's: each host sends such by itself */
    WG_DEVICE_DROP_INVALID_FRAME, /* from the TUN, but no IP packet we can split */
    WG_DEVICE_DROP_TUN_ERROR,     /* a read of the TUN, or a packet that it refused; errno */
    WG_DEVICE_DROP_INVALID,       /* datagram of wrong size or type; about: its source */
    WG_DEVICE_DROP_UNKNOWN_INDEX, /* message for no index of ours; about: its source */
    WG_DEVICE_DROP_EVENTS_LOST,   /* handshake message for which the ring was full; its source */
    WG_DEVICE_DROP_OVERDUE,       /* unread: it waited in a queue that stood; about: its source */
    WG_DEVICE_DROPS,
};
enum wg_refusal { /* about: the source, each */
                  WG_REFUSAL_BAD_MAC1,
                  WG_REFUSAL_NO_PRIVATE_KEY, /* we have none, so no mac1 can be right */
                  WG_REFUSAL_UNDER_LOAD,     /* no right mac2 under load */
                  WG_REFUSAL_RATE_LIMITED,   /* with one, but its source sends too many */
                  WG_REFUSALS,
};

/* What something was about that was dropped or refused. */
typedef struct {
    uint8_t addr[16];  /* network order; IPv4 in the first four */
    uint32_t scope_id; /* IPv6 link-local zone, else 0 */
    uint16_t family;   /* AF_INET, AF_INET6; 0: no address */
    uint16_t port;     /* host order; 0: the address alone */
    int32_t error;     /* errno of a system call; 0: none failed */
} wg_about;

typedef struct {
    uint64_t count;   /* exact */
    uint64_t last_ns; /* when last, or a moment before; 0: never */
    wg_about about;   /* one of those at that time */
    uint32_t unused;  /* padding */
} wg_tally;

/* What is asked for seldom, and only to be shown. */
typedef struct {
    uint64_t tx_packets;           /* inner packets sealed */
    uint64_t rx_packets;           /* and opened, whatever became of them */
    uint64_t session_ns;           /* when the session that sends now was made; 0: there is none */
    uint32_t looped;               /* 1: nothing is sent to its endpoint, see wg_peer_set_looped */
    uint32_t unused;               /* padding */
    wg_tally drops[WG_PEER_DROPS]; /* by enum wg_peer_drop */
} wg_peer_facts;

typedef struct {
    uint32_t under_load;             /* 1: handshake messages have to show mac2 (5.3) */
    uint32_t unused;                 /* padding */
    wg_tally drops[WG_DEVICE_DROPS]; /* by enum wg_device_drop */
    wg_tally refusals[WG_REFUSALS];  /* by enum wg_refusal */
} wg_device_facts;

enum wg_event_kind {
    WG_EVENT_PENDING = 1, /* pending holds bits of enum wg_pending, slot the peer */
    WG_EVENT_MESSAGE = 2, /* a handshake message that is not cheap to refuse any more (5.3) */
};

enum wg_pending {
    WG_WANT_HANDSHAKE = 1,  /* there is traffic and no (fresh) session */
    WG_KEY_CONFIRMED = 2,   /* the next keypair was used by the peer: call wg_keypair_confirm */
    WG_TIMER_ARMED = 4,     /* a stamp moved so that a deadline lies before the wake time */
    WG_LOOP_SEEN = 8,       /* a message of ours to the peer came out of the TUN, for the peer */
    WG_ENDPOINT_MOVED = 16, /* the peer speaks from another address or port, see
                               wg_peer_watch_endpoint */
};

typedef struct {
    uint32_t kind;                   /* enum wg_event_kind */
    uint32_t slot;                   /* the peer; for a MESSAGE of type 1 WG_NO_SLOT */
    uint32_t pending;                /* PENDING only */
    uint32_t length;                 /* MESSAGE only: bytes in data */
    wg_endpoint source;              /* MESSAGE only */
    uint8_t data[WG_INITIATION_LEN]; /* MESSAGE only: as it came */
    uint32_t unused;                 /* padding */
} wg_event;

enum wg_kick_kind {
    WG_KICK_STAGED = 1,    /* send what is staged */
    WG_KICK_KEEPALIVE = 2, /* if nothing is staged, stage an empty packet first */
};

/* Why packets were dropped, and how the offloads did; device-wide, monotonic. */
typedef struct {
    uint64_t tx_no_peer;        /* inner destination in nobody's allowed IPs */
    uint64_t tx_no_endpoint;    /* peer without an endpoint */
    uint64_t tx_looped;         /* message back to its own peer, or nested too deep; looped peer */
    uint64_t tx_invalid;        /* frame from the TUN that is no IP packet we can split */
    uint64_t tx_staged_dropped; /* oldest staged packets pushed out */
    uint64_t tx_send_errors;    /* datagrams the kernel refused */
    uint64_t tx_congested;      /* datagrams dropped because the socket buffer stayed full */
    uint64_t tx_unreachables;   /* ICMP errors about the first three, written to the TUN */
    uint64_t tx_cookie_replies; /* cookie replies sent */
    uint64_t tx_packets;        /* inner packets sealed */
    uint64_t tx_frames;         /* TUN reads */
    uint64_t tx_tun_errors;     /* TUN reads that failed */
    uint64_t tx_datagrams;      /* UDP datagrams (GSO sends count each segment) */
    uint64_t tx_calls;          /* sendmmsg messages handed to the kernel */
    uint64_t rx_invalid;        /* datagrams of wrong size or type */
    uint64_t rx_bad_mac1;       /* handshake messages with a wrong mac1 */
    uint64_t rx_under_load;     /* without a right mac2 under load; some get a cookie reply */
    uint64_t rx_rate_limited;   /* with one, but from a source that sends too many */
    uint64_t rx_unknown_index;  /* messages for no index of ours */
    uint64_t rx_expired;        /* session older than REJECT_AFTER_TIME */
    uint64_t rx_bad_tag;        /* AEAD refused */
    uint64_t rx_replayed;       /* counter seen or too old */
    uint64_t rx_not_allowed;    /* inner source not in the peer's allowed IPs */
    uint64_t rx_malformed;      /* decrypted, but no IP packet or a wrong length */
    uint64_t rx_ecn_ignored;    /* came marked with congestion, but cannot carry the mark */
    uint64_t rx_overdue;        /* dropped unread: they waited in a queue that stood */
    uint64_t rx_packets;        /* inner packets opened */
    uint64_t rx_datagrams;      /* UDP datagrams (GRO receives count each segment) */
    uint64_t rx_calls;          /* recvmmsg messages */
    uint64_t rx_socket_errors;  /* recvmmsg calls that failed */
    uint64_t rx_tun_writes;     /* frames written to the TUN */
    uint64_t rx_tun_errors;     /* packets the TUN refused */
    uint64_t rx_events_dropped; /* handshake messages lost to a full ring */
} wg_counters;

uint64_t wg_clock_now_ns(void); /* what all times here are compared with */

/* ---- device ---- */

/* workers: 1 to WG_MAX_WORKERS, with lanes, 1 to WG_MAX_LANES, data threads per direction each, of
 * all WG_MAX_THREADS at most; -EINVAL: other numbers.  event_fd tells control that wg_events_take
 * has something; receive_wake_fd ends the receive threads' poll and send_wake_fds[i] that of the
 * send threads of worker i.  All are eventfds, O_NONBLOCK, borrowed until wg_device_destroy.  aead
 * names a backend ("openssl", "ipsec-mb") or is NULL for the fastest.  -ENOENT: no such one. */
int wg_device_create(wg_device **device, uint32_t workers, uint32_t lanes, int event_fd,
                     int receive_wake_fd, const int32_t *send_wake_fds, const char *aead);
void wg_device_destroy(wg_device *device);
const char *wg_device_aead(const wg_device *device);
const char *wg_aead_backends(void); /* those built in and usable here, fastest first, by commas */
void wg_device_set_mtu(wg_device *device, uint32_t mtu);
/* How many frames each queue of the TUN should hold, 0: as many as by default (WG_TUN_QUEUE_LEN).
 * event_fd is readable after each change. */
uint32_t wg_device_tun_queue(const wg_device *device);
/* BLAKE2s(LABEL_MAC1 || our public key) (5.4.4); NULL refuses every handshake message. */
int wg_device_set_mac1_key(wg_device *device, const uint8_t *key);
/* BLAKE2s(LABEL_COOKIE || our public key) (5.4.7); with NULL no cookie reply is sent. */
int wg_device_set_cookie_key(wg_device *device, const uint8_t *key);
void wg_device_counters(const wg_device *device, wg_counters *counters);
void wg_device_facts_read(wg_device *device, uint64_t now_ns, wg_device_facts *facts);

/* Data threads: start publishes io and clears the stop flag, then each thread calls one run
 * function (GIL released) and stays in it until stop or a dead descriptor.  worker and lane are
 * below the device's and together unique per direction.  run returns 0 after stop, else -errno
 * (-EBADFD: the TUN device is gone; -EBADF: a descriptor is; -ENOMEM: it could not begin).  Nothing
 * else ends it: an error is counted, and after many in a row there is a pause. */
int wg_device_start(wg_device *device, const wg_io *io);
void wg_device_stop(wg_device *device);
int wg_send_run(wg_device *device, uint32_t worker, uint32_t lane);
int wg_receive_run(wg_device *device, uint32_t worker, uint32_t lane);

/* ---- peers ---- */

int wg_peer_add(wg_device *device, uint32_t *slot);
int wg_peer_remove(wg_device *device, uint32_t slot);
int wg_peer_set_endpoint(wg_device *device, uint32_t slot, const wg_endpoint *endpoint);
int wg_peer_clear_source(wg_device *device, uint32_t slot);
/* Whether to send from the source of a path: the peer's address without the port, the source and
 * its interface.  Holds until the peer has another path. */
int wg_peer_allow_source(wg_device *device, uint32_t slot, const wg_endpoint *path, int allowed);
/* Whether what is sent to this address and port comes back to go to the peer: then nothing is.
 * Holds until the peer has another. */
int wg_peer_set_looped(wg_device *device, uint32_t slot, const wg_endpoint *endpoint, int looped);
/* C raises no WANT_HANDSHAKE before gate_ns. */
int wg_peer_set_handshake_gate(wg_device *device, uint32_t slot, uint64_t gate_ns);
/* C raises TIMER_ARMED when a stamp moves so that now + its timeout < wake_ns. */
int wg_peer_set_wake(wg_device *device, uint32_t slot, uint64_t wake_ns);
/* Sets rx_unanswered_since: the keepalive just sent answers what came before, not what came since.
 */
int wg_peer_rearm_keepalive(wg_device *device, uint32_t slot, uint64_t since_ns);
int wg_peer_stats_read(wg_device *device, uint32_t slot, wg_peer_stats *stats);
int wg_peer_facts_read(wg_device *device, uint32_t slot, uint64_t now_ns, wg_peer_facts *facts);
/* C raises ENDPOINT_MOVED for a new peer, and again only after this: a peer that moves with each
 * packet keeps nobody busy. */
int wg_peer_watch_endpoint(wg_device *device, uint32_t slot);
int wg_peer_kick(wg_device *device, uint32_t slot, uint32_t kinds);
int wg_peer_drop_staged(wg_device *device, uint32_t slot);
/* A handshake message of the peer was authenticated: roam, count, stamp. */
int wg_peer_received(wg_device *device, uint32_t slot, const wg_endpoint *source, uint32_t length,
                     uint64_t now_ns);

/* ---- allowed IPs ---- */

/* Applies entries in order, all or (-ENOMEM, -EINVAL) none. Host bits are masked. */
int wg_allowedips_change(wg_device *device, uint32_t slot, const wg_allowedip *entries,
                         size_t count);
/* The same, and removes what the peer had and the entries do not add again; what they do is never
 * away in between. No entries (NULL, 0): removes all. */
int wg_allowedips_replace(wg_device *device, uint32_t slot, const wg_allowedip *entries,
                          size_t count);
/* Fills up to max entries of the peer, in order of insertion; returns how many the peer has. */
ssize_t wg_allowedips_list(wg_device *device, uint32_t slot, wg_allowedip *entries, size_t max);
/* Reads lines of the configuration protocol as wg sends them, "allowed_ip=[-]ADDRESS[/BITS]\n",
 * into up to max entries; returns how many, used: the bytes that they took. Stops before the first
 * line that is another, that has an error or no end: it is for who can tell what is wrong. */
size_t wg_allowedips_parse(const char *text, size_t length, wg_allowedip *entries, size_t max,
                           size_t *used);
/* Writes such lines, without '-', of WG_ALLOWEDIP_LINE_MAX bytes at most each; returns how many
 * bytes there are. */
size_t wg_allowedips_format(const wg_allowedip *entries, size_t count, char *text);
/* Reads what `wg show` shows of some peers, and up to max of their prefixes, peer after peer, each
 * in order of insertion; returns how many prefixes they have. */
ssize_t wg_peers_show(wg_device *device, const uint32_t *slots, size_t count, wg_peer_shown *shown,
                      wg_allowedip *entries, size_t max);
/* The slot whose prefix is the longest match, or WG_NO_SLOT. family 4 or 6. */
uint32_t wg_allowedips_lookup(wg_device *device, uint8_t family, const uint8_t *addr);

/* ---- sessions ---- */

/* A random index that no handshake or session of this device uses. */
int wg_index_reserve(wg_device *device, uint32_t slot, uint32_t *index);
int wg_index_release(wg_device *device, uint32_t index);
/* The session's index stops being a handshake's and becomes the keypair's. Rotation as section 6.3:
 * initiator -> current, responder -> next. */
int wg_keypair_install(wg_device *device, uint32_t slot, const wg_session *session);
int wg_keypair_confirm(wg_device *device, uint32_t slot);
/* expire: current and next stop sending, so that new traffic asks for a handshake.
 * drop: all are wiped. */
int wg_keypairs_expire(wg_device *device, uint32_t slot);
int wg_keypairs_drop(wg_device *device, uint32_t slot);

/* ---- the two inboxes ---- */

/* Takes up to max events; returns how many.  WANT_HANDSHAKE comes last and is at most a quarter of
 * them (rounded up), the other pending bits come first and are at most half; so a peer may be among
 * them twice.  event_fd is readable afterwards if something is left. */
int wg_events_take(wg_device *device, wg_event *events, int max);
/* Sends a handshake message from control to the peer's endpoint (-EDESTADDRREQ if there is none,
 * -ELOOP if it is looped), counts it and stamps it as an authenticated one.  tos: the outer TOS
 * byte. */
int wg_message_send(wg_device *device, uint32_t slot, const uint8_t *data, uint32_t length,
                    uint8_t tos, uint64_t now_ns);

#endif
