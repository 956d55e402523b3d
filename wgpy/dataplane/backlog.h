/* SPDX-License-Identifier: MIT */
/* What waits in a socket. */
#ifndef WGPY_BACKLOG_H
#define WGPY_BACKLOG_H
#include "udp.h"

/* How deep a socket's receive buffer is to be, by how long waited what is taken from it; its
 * receive thread's. */
struct wg_backlog {
    uint32_t deepest;      /* bytes */
    uint32_t bytes;        /* its depth now */
    uint64_t taken_ns;     /* when something was taken last; 0: never, here and below */
    uint64_t changed_ns;   /* when the depth was last judged */
    uint64_t cut_ns;       /* when it was last cut */
    uint64_t old_since_ns; /* from when on all that was taken was too old */
    bool was_old;          /* something taken since changed_ns was */
    bool draining;         /* what came before the cut is being dropped */
};

void wg_backlog_init(struct wg_backlog *backlog, uint32_t bytes);
/* Nothing is left in the socket. */
void wg_backlog_emptied(struct wg_backlog *backlog);
/* Something was taken from its head, of which the first waited for oldest_ns and the last for
 * youngest_ns, 0 where that is unknown.  Returns the age from which on it is to be dropped,
 * WG_NEVER for none. */
uint64_t wg_backlog_take(struct wg_backlog *backlog, uint64_t oldest_ns, uint64_t youngest_ns,
                         uint64_t now_ns);
void wg_backlog_open(struct wg_backlog *backlog, int fd); /* -1: for nothing */
/* wg_backlog_take for a batch; sets the socket's buffer. */
uint64_t wg_backlog_took(struct wg_backlog *backlog, int fd, const struct wg_datagrams *trains,
                         int count, uint64_t now_ns);
void wg_backlog_close(const struct wg_backlog *backlog, int fd); /* leaves the buffer as it was */

#endif
