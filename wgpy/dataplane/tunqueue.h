/* SPDX-License-Identifier: MIT */
/* How many frames wait in a queue of the TUN. */
#ifndef WGPY_TUNQUEUE_H
#define WGPY_TUNQUEUE_H
#include <stdbool.h>

#include "api.h"

#define WG_TUN_QUEUE_REST_MS                                                                       \
    1000 /* after so long without a frame, take none: it may be given back */

/* How many frames are to wait in a queue of the TUN, by how fast they are handled; its send
 * thread's. */
struct wg_tun_queue {
    uint32_t length;    /* frames; 0: as many as by default */
    uint32_t frames;    /* taken since since_ns */
    uint32_t in_one_go; /* frames, taken since it was last seen empty */
    bool was_full;      /* since since_ns so many were taken in one go as it holds */
    uint64_t since_ns;  /* when it was cut or judged last, or else not empty first; 0: it is */
};

void wg_tun_queue_init(struct wg_tun_queue *queue);
/* So many frames were handled, and then it was empty or not. */
void wg_tun_queue_take(struct wg_tun_queue *queue, uint32_t frames, bool emptied, uint64_t now_ns);
/* wg_tun_queue_take for a worker's queue; tells control if its length is to change. */
void wg_tun_queue_took(wg_device *device, uint32_t worker, struct wg_tun_queue *queue,
                       uint32_t frames, bool emptied, uint64_t now_ns);
void wg_tun_queue_close(wg_device *device, uint32_t worker); /* as by default */

#endif
