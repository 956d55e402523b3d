/* SPDX-License-Identifier: MIT */
/* What tests may do to the core.  This file is also a cdef, as api.h is (core.py): what it declares
 * of the core's own functions the compiler compares with their headers in doors.c. */
#ifndef WGPY_DOORS_H
#define WGPY_DOORS_H
#include <stdbool.h>

#include "api.h"

/* ---- stages by themselves ---- */

uint16_t wg_checksum_fold(const uint8_t *data, size_t length, uint64_t sum);

/* Splits a frame as read from the TUN into out: packets back to back, lengths[i] each.  Returns the
 * count, -EINVAL for a frame to drop, -ENOSPC if out or lengths is too small.  The frame is
 * clobbered. */
ssize_t door_gso_split(uint8_t *frame, size_t length, uint32_t features, uint8_t *out,
                       size_t out_size, uint32_t *lengths, size_t max);

/* Coalesces packets (back to back in data) into TUN frames, back to back in out, each with its
 * virtio_net_hdr when features has VNET_HDR; apart: as after the TUN refused every coalesced frame,
 * each taken apart again.  Returns the count of frames.  data is clobbered. */
ssize_t door_gro_coalesce(uint8_t *data, const uint32_t *lengths, size_t count, uint32_t features,
                          uint8_t *out, size_t out_size, uint32_t *frame_lengths, size_t max,
                          bool apart);

/* One message by a key of its own.  backend: NULL for the fastest, -ENOENT: there is no such one.
 * seal: out has length + 16 bytes.  open: out has length - 16; -EBADMSG: it is refused. */
int door_aead_seal(const char *backend, const uint8_t *key, uint64_t counter, const uint8_t *in,
                   size_t length, uint8_t *out);
int door_aead_open(const char *backend, const uint8_t *key, uint64_t counter, const uint8_t *in,
                   size_t length, uint8_t *out);

struct wg_ratelimiter;
struct wg_ratelimiter *wg_ratelimiter_new(uint32_t per_s, uint32_t burst);
void wg_ratelimiter_free(struct wg_ratelimiter *limiter);
bool wg_ratelimiter_allow(struct wg_ratelimiter *limiter, const wg_endpoint *source,
                          uint64_t now_ns);

struct wg_backlog;
struct wg_backlog *door_backlog_new(uint32_t bytes);
void door_backlog_free(struct wg_backlog *backlog);
uint32_t door_backlog_bytes(const struct wg_backlog *backlog); /* its depth now */
void wg_backlog_emptied(struct wg_backlog *backlog);
uint64_t wg_backlog_take(struct wg_backlog *backlog, uint64_t oldest_ns, uint64_t youngest_ns,
                         uint64_t now_ns);

struct wg_tun_queue;
struct wg_tun_queue *door_tun_queue_new(void);
void door_tun_queue_free(struct wg_tun_queue *queue);
uint32_t door_tun_queue_length(const struct wg_tun_queue *queue); /* 0: as many as by default */
void wg_tun_queue_take(struct wg_tun_queue *queue, uint32_t frames, bool emptied, uint64_t now_ns);

struct wg_replay;
struct wg_replay *door_replay_new(void);
void door_replay_free(struct wg_replay *replay);
bool wg_replay_accept(struct wg_replay *replay, uint64_t counter);

struct wg_turnstile;
struct wg_turn;
struct wg_turnstile *door_turnstile_new(uint32_t ticket); /* the first */
void door_turnstile_free(struct wg_turnstile *turnstile);
uint32_t door_turnstile_sleepers(const struct wg_turnstile *turnstile); /* to take, to give */
struct wg_turn *door_turn_new(struct wg_turnstile *turnstile);
void door_turn_free(struct wg_turn *turn);
uint32_t door_turn_ticket(const struct wg_turn *turn);
bool door_turn_take(struct wg_turn *turn);
void door_turn_pass(struct wg_turn *turn);
void door_turn_give(struct wg_turn *turn);
void door_turn_end(struct wg_turn *turn);
void door_turn_leave(struct wg_turn *turn);

/* ---- a device ---- */

/* Lets the peer's current session have sent so many messages; nobody can.  -ENOENT: no session. */
int door_set_send_counter(wg_device *device, uint32_t slot, uint64_t counter);

/* ---- the kernel's answers; NULL leaves them to it ---- */

void door_set_clock(uint64_t ahead_ns); /* of CLOCK_BOOTTIME */

struct fault_message {
    uint16_t port;    /* where it goes, host order */
    uint16_t segment; /* bytes of each datagram but the last; 0: not batched */
};

/* How many messages the kernel gets to see, or -errno. */
extern int (*fault_on_sendmmsg)(struct fault_message *messages, unsigned int count);
/* Per mille of the socket buffer that are in use, or -1: as it is. */
extern int (*fault_on_ioctl)(void);
/* Bit i: message i arrives truncated; or -errno. */
extern int (*fault_on_recvmmsg)(void);
/* 0, or -errno; start: the first bytes of the frame, or all of it. */
extern int (*fault_on_writev)(const uint8_t *start, size_t length);
/* 0, or -errno. */
extern int (*fault_on_read)(int fd);
/* 0, or -errno. */
extern int (*fault_on_poll)(unsigned int count, int timeout_ms);
/* Nanoseconds that are added to CLOCK_REALTIME. */
extern int64_t (*fault_on_clock_gettime)(void);

#endif
