/* SPDX-License-Identifier: MIT */
/* What the threads of one worker share, each way. */
#ifndef WGPY_WAYS_H
#define WGPY_WAYS_H
#include "backlog.h"
#include "congestion.h"
#include "tunqueue.h"
#include "turnstile.h"

/* Whoever has a turn (turnstile.h) is alone with what it guards. */
struct wg_way_out {                  /* TUN -> UDP; send threads */
    struct wg_turnstile turnstile;   /* their order */
    _Atomic uint32_t threads;        /* that are at it */
    int error;                       /* of the last read of the TUN, 0: there may be more; take */
    uint32_t failures;               /* reads in a row that failed; take */
    uint32_t frames;                 /* read in the last batch; take */
    struct wg_tun_queue tun_queue;   /* how much may wait in it; take */
    struct wg_congestion congestion; /* of the sockets; give */
};

struct wg_way_in {                 /* UDP -> TUN; receive threads */
    struct wg_turnstile turnstile; /* their order */
    _Atomic uint32_t threads;      /* that are at it */
    uint32_t failures;             /* receives in a row that failed; take */
    uint32_t batches[2];           /* to try before the next poll, IPv4 and IPv6; take */
    struct wg_backlog backlogs[2]; /* of IPv4 and IPv6; take */
};

struct wg_ways {           /* of one worker */
    struct wg_way_out out; /* each way its own */
    struct wg_way_in in;   /* likewise */
};

/* Before the threads start: the sockets are there. */
void wg_ways_open(struct wg_ways *ways, const wg_worker_io *io);
/* Each thread says when it comes and goes; the last leaves sockets and TUN as they were. */
void wg_way_out_enter(wg_device *device, uint32_t worker, struct wg_turn *turn);
void wg_way_out_leave(wg_device *device, uint32_t worker, struct wg_turn *turn);
void wg_way_in_enter(wg_device *device, uint32_t worker, struct wg_turn *turn);
void wg_way_in_leave(wg_device *device, uint32_t worker, struct wg_turn *turn);

#endif
