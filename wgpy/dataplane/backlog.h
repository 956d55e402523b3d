/* What waits in a socket; the part that needs none is in api.h. */
#ifndef WGPY_BACKLOG_H
#define WGPY_BACKLOG_H
#include "udp.h"

void wg_backlog_open(wg_backlog *backlog, int fd); /* -1: for nothing */
/* wg_backlog_take for a batch; sets the socket's buffer. */
uint64_t wg_backlog_took(wg_backlog *backlog, int fd, const struct wg_datagrams *trains, int count,
                         uint64_t now_ns);
void wg_backlog_close(const wg_backlog *backlog, int fd); /* leaves the buffer as it was */

#endif
