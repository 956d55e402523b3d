/* SPDX-License-Identifier: MIT */
/* Streams: bytes go from socket to pipe to socket by splice(2), and never through here.
 *
 * A pipe is a way's only while it holds bytes that the other socket does not take, so there are
 * few of them, and what waits is bounded. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay.h"

enum { PIPE_LEN = 256 << 10 }; /* bytes; where a user may have no more, the kernel gives less */

/* ---- pipes ---- */

static int pipe_open(wg_relay *relay, struct pipe *pipe)
{
    int fds[2];

    if (relay->spares) {
        *pipe = relay->spare[--relay->spares];
        return 0;
    }
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_LEN); /* a smaller one does */
    *pipe = (struct pipe){.out = fds[0], .in = fds[1]};
    atomic_fetch_add_explicit(&relay->pipes, 1, memory_order_relaxed);
    return 0;
}

void wg_pipe_close(wg_relay *relay, const struct pipe *pipe)
{
    close(pipe->in);
    close(pipe->out);
    atomic_fetch_sub_explicit(&relay->pipes, 1, memory_order_relaxed);
}

void wg_stream_release(wg_relay *relay, struct way *way)
{
    if (way->pipe.in < 0)
        return;
    if (!way->waiting && relay->spares < SPARE_PIPES)
        relay->spare[relay->spares++] = way->pipe;
    else
        wg_pipe_close(relay, &way->pipe);
    way->pipe.in = -1;
}

/* ---- a way ---- */

/* Returns whether it got on, or -errno. */
static int way_empty(struct way *way, struct side *to)
{
    ssize_t sent;

    if (!to->is_writable)
        return STUCK;
    sent = splice(way->pipe.out, NULL, to->fd, NULL, way->waiting, SPLICE_F_NONBLOCK);
    if (sent < 0 && errno == EAGAIN) {
        to->is_writable = false;
        return STUCK;
    }
    if (sent < 0)
        return errno == EINTR ? MOVED : -errno;
    way->waiting -= (uint32_t)sent;
    way->moved += (uint64_t)sent;
    return MOVED;
}

/* Only into an empty pipe, so that EAGAIN has one meaning. */
static int way_fill(wg_relay *relay, struct way *way, struct side *from)
{
    ssize_t got;
    int error;

    if (!from->is_readable)
        return STUCK;
    if (way->pipe.in < 0 && (error = pipe_open(relay, &way->pipe)) < 0)
        return error;
    got = splice(from->fd, NULL, way->pipe.in, NULL, PIPE_LEN, SPLICE_F_NONBLOCK);
    if (got < 0 && errno == EAGAIN) {
        from->is_readable = false;
        return STUCK;
    }
    if (got < 0)
        return errno == EINTR ? MOVED : -errno;
    way->waiting = (uint32_t)got;
    way->at_end = !got;
    return MOVED;
}

int wg_stream_step(wg_relay *relay, struct pair *pair, uint32_t i)
{
    struct way *way = &pair->ways[i];
    struct side *from = &pair->sides[i], *to = &pair->sides[!i];

    if (way->is_done)
        return STUCK;
    if (way->waiting)
        return way_empty(way, to);
    if (!way->at_end)
        return way_fill(relay, way, from);
    way->is_done = true;
    return shutdown(to->fd, SHUT_WR) < 0 ? -errno : MOVED;
}
