/* SPDX-License-Identifier: MIT */
/* Datagrams in and out. */
#ifndef WGPY_UDP_H
#define WGPY_UDP_H
#include <stdbool.h>

#include "api.h"

#define WG_UDP_RECEIVE_SLOTS 8 /* recvmmsg messages; more gained nothing */
#define WG_UDP_BUFFER_LEN    65536

struct wg_datagrams {   /* one recvmmsg message: equal-size datagrams, the last may be shorter */
    uint8_t *data;      /* in the receiver's buffers, until it receives again */
    uint32_t length;    /* bytes of all */
    uint32_t segment;   /* bytes per datagram, >= 1 */
    uint8_t tos;        /* TOS or traffic class of the IP packet */
    uint64_t age_ns;    /* since they came to this host; 0 if unknown */
    wg_endpoint source; /* who sent it, and the address of ours that it came to */
};

struct wg_udp_receiver; /* buffers and mmsghdrs of one receive thread */
struct wg_udp_receiver *wg_udp_receiver_new(void);
void wg_udp_receiver_free(struct wg_udp_receiver *receiver);
/* Without blocking; returns how many are filled, or -errno (-EAGAIN: none). */
int wg_udp_receive(struct wg_udp_receiver *receiver, int fd, struct wg_datagrams *out, int max);
uint32_t wg_udp_receive_buffer(int fd); /* bytes that may wait in it; 0 if unknown */
void wg_udp_set_receive_buffer(int fd, uint32_t bytes);

/* One datagram, without waiting; 0 or -errno. */
int wg_udp_send(const wg_worker_io *io, const wg_endpoint *to, const uint8_t *data, uint32_t length,
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
    uint8_t tos;      /* for the IP packets */
    bool open;        /* another message may follow */
    bool yields;      /* its peer yields to others */
    wg_endpoint to;   /* and the address to send from */
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
int wg_udp_fd(const wg_worker_io *io, const wg_endpoint *to); /* the socket of its family */
uint32_t wg_udp_send_buffer(const wg_worker_io *io);          /* its length, bytes */
int wg_udp_queued(int fd);                                    /* bytes in it; negative: unknown */
bool wg_udp_wait_room(int fd); /* for a moment; false: half of it is not free by then */

#endif
