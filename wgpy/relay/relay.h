/* SPDX-License-Identifier: MIT */
/* What the files of the relay share: its tables, and how each kind of pair moves. */
#ifndef WGPY_RELAY_H
#define WGPY_RELAY_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api.h"

#define NO_PAIR UINT32_MAX

enum {
    SIDES_MAX = 3,
    SPARE_PIPES = 16, /* kept open for the next way that needs one */
    STEPS_MAX = 32,   /* of a way, before it is another's turn */
};

/* What came of a step, if it is not -errno. */
enum step { STUCK, MOVED };

struct pipe {
    int in;  /* descriptor to write; the thread */
    int out; /* descriptor to read; the thread */
};

/* From one socket to the other. */
struct way {
    struct pipe pipe; /* of streams, in is -1 if it has none; the thread */
    uint32_t waiting; /* bytes in the pipe; the thread */
    uint64_t moved;   /* bytes that the other socket took; the thread, then control, by the lock */
    bool at_end;      /* the first socket has sent all; the thread */
    bool is_done;     /* and the other has been told; the thread */
};

struct side {
    int fd;           /* the socket, or -1; control before it adds the pair */
    bool is_readable; /* as far as is known; the thread */
    bool is_writable; /* likewise, of streams; the thread */
};

/* Of streams: two sockets.  Of datagrams: the client's, and one or two that its datagrams leave by:
 * one of each family if they say where they go. */
struct pair {
    struct side sides[SIDES_MAX]; /* see there */
    struct way ways[2];           /* from sides[0], to sides[0]; see there */
    bool is_stream;               /* control before it adds the pair */
    int names_fd;                 /* for datagrams to names, -1: they have no header; likewise */
    uint32_t failures;            /* in a row, of datagrams; the thread */
    uint64_t lost;                /* datagrams; the thread, then control, by the lock */
    uint64_t moved_ns;            /* time of the last progress, CLOCK_MONOTONIC; the thread */
    uint32_t newer;               /* next in the order of that; the thread */
    uint32_t older;               /* and the one before; the thread */
    uint32_t next;                /* on the list on which it is: free, new, ended; the lock */
    int32_t error;                /* why it ended, errno; the thread, then control, by the lock */
    uint32_t next_turn;           /* next of those with more to move, or that had; the thread */
    bool has_turn;                /* it is one of those, even when it has ended; the thread */
    bool is_active;               /* between inbox and ends; the thread */
    atomic_bool is_dropped;       /* it is to end; control */
};

struct list {
    uint32_t first; /* NO_PAIR: it is empty; the lock, or the thread if the list is its own */
    uint32_t last;  /* likewise */
};

struct batch; /* of datagrams on their way */

struct wg_relay {
    pthread_mutex_t lock;           /* of the lists of control and thread */
    uint32_t pairs_max;             /* length of pairs; before the thread */
    uint64_t idle_ns;               /* 0: no limit; before the thread */
    int epoll_fd;                   /* before the thread */
    int wake_fd;                    /* eventfd for the thread; before it */
    int end_fd;                     /* eventfd for control; before the thread */
    atomic_bool is_stopping;        /* control */
    atomic_bool has_dropped;        /* some pair is to end; control, and the thread */
    uint32_t free;                  /* first of the free numbers; the lock */
    struct list added;              /* pairs that the thread does not know; the lock */
    struct list ended;              /* pairs that control does not know to have ended; the lock */
    struct list turns;              /* pairs with more to move, by next_turn; the thread */
    uint32_t oldest;                /* the pair that was idle for longest; the thread */
    uint32_t newest;                /* that which moved last; the thread */
    struct pipe spare[SPARE_PIPES]; /* empty pipes; the thread */
    uint32_t spares;                /* how many; the thread */
    _Atomic uint32_t pipes;         /* open pipes; the thread */
    struct batch *batch;            /* room for datagrams; before the thread */
    struct pair pairs[];            /* by number */
};

/* One step from the first socket to the second, or the other way.  Returns enum step or -errno. */
int wg_stream_step(wg_relay *relay, struct pair *pair, uint32_t way);
void wg_stream_release(wg_relay *relay, struct way *way); /* the pipe that it needs no more */
void wg_pipe_close(wg_relay *relay, const struct pipe *pipe);

/* The same of datagrams, a batch from one of the sockets. */
int wg_datagram_step(wg_relay *relay, struct pair *pair, uint32_t side);
struct batch *wg_batch_new(void); /* or NULL */

#endif
