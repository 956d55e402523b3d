/* SPDX-License-Identifier: MIT */
/* Who waits and who goes without, when a socket's buffer is full. */
#ifndef WGPY_CONGESTION_H
#define WGPY_CONGESTION_H
#include "udp.h"

struct wg_congestion { /* of one sender; its thread's */
    bool patient;      /* it may wait for room, a bit */
    uint32_t waits;    /* of this flush, which sets it to 0 */
    uint32_t buffer;   /* bytes of a socket's buffer */
    struct buffer_use {
        uint64_t unseen;   /* bytes taken since the heaviest looked how full it is */
        uint64_t standing; /* bytes that those who yield have in it, at most */
    } uses[2];             /* of the sockets, IPv4 and IPv6 */
    struct {
        uint32_t slot, bytes; /* the peer, and its lead */
    } heaviest;               /* see wg_congestion_weigh */
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

#endif
