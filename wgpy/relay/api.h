/* SPDX-License-Identifier: MIT */
/* The relay, as Python calls it: pairs of sockets whose bytes it moves from one to the other.
 *
 * This file is the cdef of cffi, too: no macros but numbers, no static inline. */
#ifndef WGPY_RELAY_API_H
#define WGPY_RELAY_API_H
#include <stdint.h>

typedef struct wg_relay wg_relay;

/* Sockets that do not block, and are open until the end of the pair is taken. */
typedef struct {
    int32_t fds[3];    /* two of streams; of datagrams the client's, connected, and one or two that
                          they leave by; the others are -1 */
    int32_t names_fd;  /* of datagrams that begin with a header of SOCKS5: one of IPv4 leaves by the
                          second socket, one of IPv6 by the third, and the whole of one to a name is
                          sent here; else -1, and they leave by the second, which is connected */
    uint8_t is_stream; /* 1: of streams, 0: of datagrams */
} wg_relay_pair;

/* How a pair ended. */
typedef struct {
    uint64_t bytes[2]; /* from the first socket, to it */
    uint64_t lost;     /* datagrams that were malformed, or not sent */
    uint32_t pair;     /* as wg_relay_add returned it, and free from now on */
    int32_t error;     /* errno; 0: both were closed in order */
} wg_relay_end;

/* All descriptors are open until wg_relay_free: an epoll instance, and eventfds for the relay's
 * thread and for whoever takes the ends.  An idle time of 0 is for ever.  NULL: out of memory. */
wg_relay *wg_relay_new(uint32_t pairs_max, uint64_t idle_ns, int epoll_fd, int wake_fd, int end_fd);
void wg_relay_free(wg_relay *relay); /* no thread is in wg_relay_run */

/* The thread of the relay; returns after wg_relay_stop, then 0, or -errno when it cannot go on. */
int wg_relay_run(wg_relay *relay);
void wg_relay_stop(wg_relay *relay);

/* Returns the number of the pair, or -ENOBUFS. */
int wg_relay_add(wg_relay *relay, const wg_relay_pair *pair);
void wg_relay_drop(wg_relay *relay,
                   uint32_t pair); /* it ends soon, by ECANCELED if by nothing else */
/* Takes up to max ends; end_fd is readable as long as there are any. */
int wg_relay_take(wg_relay *relay, wg_relay_end *ends, int max);
uint32_t wg_relay_pipes(wg_relay *relay); /* that are open now */

#endif
