/* SPDX-License-Identifier: MIT */
/* Pairs of sockets, and what comes out of one goes into the other.
 *
 * 1. Control adds a pair: it goes into the inbox, and the thread is woken.
 * 2. The thread takes it, and has epoll tell when a socket becomes readable or writable: edges, so
 *    that nothing is asked of epoll after that.
 * 3. It moves what can be moved (stream.c, datagram.c), of each pair so much at a time.
 * 4. When both streams have ended, or something has failed, or nothing has moved for the idle
 *    time, or control has dropped it, the pair is put among the ends; control takes it from there,
 *    and closes the sockets.
 *
 * The lock guards the inbox, the ends and the free numbers; all else of a pair is the thread's. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "relay.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

enum {
    EVENTS_MAX = 128, /* taken from epoll at a time */
    SIDE_BITS = 2,    /* of an event's data; the rest is the pair's number */
    WAKE = -1,        /* events of the wake eventfd, among those of the sockets */
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void wake(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one));

    (void)written; /* it fails only when the eventfd is at its limit, thus readable */
}

static void drain(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count));

    (void)got; /* nothing to drain is fine */
}

/* ---- lists ---- */

static void list_append(wg_relay *relay, struct list *list, uint32_t number)
{
    relay->pairs[number].next = NO_PAIR;
    *(list->first == NO_PAIR ? &list->first : &relay->pairs[list->last].next) = number;
    list->last = number;
}

static uint32_t list_take(wg_relay *relay, struct list *list)
{
    uint32_t number = list->first;

    if (number != NO_PAIR)
        list->first = relay->pairs[number].next;
    return number;
}

static void turn_append(wg_relay *relay, uint32_t number)
{
    struct pair *pair = &relay->pairs[number];

    if (pair->has_turn)
        return;
    pair->has_turn = true;
    pair->next_turn = NO_PAIR;
    *(relay->turns.first == NO_PAIR ? &relay->turns.first
                                    : &relay->pairs[relay->turns.last].next_turn) = number;
    relay->turns.last = number;
}

static void age_unlink(wg_relay *relay, uint32_t number)
{
    struct pair *pair = &relay->pairs[number];

    *(pair->older == NO_PAIR ? &relay->oldest : &relay->pairs[pair->older].newer) = pair->newer;
    *(pair->newer == NO_PAIR ? &relay->newest : &relay->pairs[pair->newer].older) = pair->older;
}

static void age_append(wg_relay *relay, uint32_t number, uint64_t time_ns)
{
    struct pair *pair = &relay->pairs[number];

    pair->moved_ns = time_ns;
    pair->older = relay->newest;
    pair->newer = NO_PAIR;
    *(relay->newest == NO_PAIR ? &relay->oldest : &relay->pairs[relay->newest].newer) = number;
    relay->newest = number;
}

/* ---- a pair ---- */

/* With an error, what the ends of streams have not read is thrown away, and they see a reset. */
static void pair_end(wg_relay *relay, uint32_t number, int error)
{
    const struct linger now = {.l_onoff = 1, .l_linger = 0};
    struct pair *pair = &relay->pairs[number];

    for (int i = 0; i < SIDES_MAX && pair->sides[i].fd >= 0; i++) {
        (void)epoll_ctl(relay->epoll_fd, EPOLL_CTL_DEL, pair->sides[i].fd, NULL);
        if (error && pair->is_stream)
            (void)setsockopt(pair->sides[i].fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    for (int i = 0; i < 2 && pair->is_stream; i++)
        wg_stream_release(relay, &pair->ways[i]);
    age_unlink(relay, number);
    pair->is_active = false;
    pthread_mutex_lock(&relay->lock);
    pair->error = error;
    bool first = relay->ended.first == NO_PAIR;
    list_append(relay, &relay->ended, number);
    pthread_mutex_unlock(&relay->lock);
    if (first)
        wake(relay->end_fd);
}

static int pair_step(wg_relay *relay, struct pair *pair, uint32_t i)
{
    return pair->is_stream ? wg_stream_step(relay, pair, i) : wg_datagram_step(relay, pair, i);
}

/* Moves what can be moved, for one turn. */
static void pair_move(wg_relay *relay, uint32_t number, uint64_t time_ns)
{
    struct pair *pair = &relay->pairs[number];
    bool got_on = false, more = false;

    for (uint32_t i = 0; i < SIDES_MAX && pair->sides[i].fd >= 0; i++) {
        int step = MOVED;
        for (int steps = 0; step == MOVED && steps < STEPS_MAX; steps++) {
            step = pair_step(relay, pair, i);
            if (step < 0) {
                pair_end(relay, number, -step);
                return;
            }
            got_on |= step == MOVED;
        }
        more |= step == MOVED;
        if (pair->is_stream && !pair->ways[i].waiting)
            wg_stream_release(relay, &pair->ways[i]);
    }
    if (pair->ways[0].is_done && pair->ways[1].is_done) {
        pair_end(relay, number, 0);
        return;
    }
    if (got_on) {
        age_unlink(relay, number);
        age_append(relay, number, time_ns);
    }
    if (more)
        turn_append(relay, number);
}

static int pending_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? errno : error;
}

/* A stream that has failed ends the pair even if nothing is to be read from it or written to it. */
static void pair_on_event(wg_relay *relay, uint32_t number, uint32_t i, uint32_t events,
                          uint64_t time_ns)
{
    struct pair *pair = &relay->pairs[number];
    struct side *side = &pair->sides[i];
    int error;

    if (!pair->is_active)
        return; /* it ended earlier in this batch */
    if (pair->is_stream && events & EPOLLERR && (error = pending_error(side->fd))) {
        pair_end(relay, number, error);
        return;
    }
    side->is_readable |= events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) ? true : false;
    side->is_writable |= events & (EPOLLOUT | EPOLLHUP) ? true : false;
    pair_move(relay, number, time_ns);
}

static void pair_begin(wg_relay *relay, uint32_t number, uint64_t time_ns)
{
    struct pair *pair = &relay->pairs[number];
    int error = 0;

    pair->is_active = true;
    age_append(relay, number, time_ns);
    for (uint32_t i = 0; i < SIDES_MAX && pair->sides[i].fd >= 0 && !error; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET,
                                    .data.u64 = (uint64_t)number << SIDE_BITS | i};
        event.events |= pair->is_stream ? EPOLLOUT : 0u; /* who sends datagrams does not wait */
        if (epoll_ctl(relay->epoll_fd, EPOLL_CTL_ADD, pair->sides[i].fd, &event) < 0)
            error = errno;
    }
    if (error)
        pair_end(relay, number, error);
}

/* ---- the thread ---- */

static void take_added(wg_relay *relay, uint64_t time_ns)
{
    for (;;) {
        pthread_mutex_lock(&relay->lock);
        uint32_t number = list_take(relay, &relay->added);
        pthread_mutex_unlock(&relay->lock);
        if (number == NO_PAIR)
            return;
        pair_begin(relay, number, time_ns);
    }
}

static void end_dropped(wg_relay *relay)
{
    if (!atomic_exchange(&relay->has_dropped, false))
        return;
    for (uint32_t number = 0; number < relay->pairs_max; number++) {
        struct pair *pair = &relay->pairs[number];
        if (pair->is_active && atomic_load(&pair->is_dropped))
            pair_end(relay, number, ECANCELED);
    }
}

/* Those that were there before: who has more to move again has its turn after all others. */
static void take_turns(wg_relay *relay, uint64_t time_ns)
{
    uint32_t number = relay->turns.first;

    relay->turns.first = NO_PAIR;
    while (number != NO_PAIR) {
        struct pair *pair = &relay->pairs[number];
        uint32_t next = pair->next_turn;
        pair->has_turn = false;
        if (pair->is_active)
            pair_move(relay, number, time_ns);
        number = next;
    }
}

static void end_idle(wg_relay *relay, uint64_t time_ns)
{
    while (relay->idle_ns && relay->oldest != NO_PAIR &&
           time_ns - relay->pairs[relay->oldest].moved_ns >= relay->idle_ns)
        pair_end(relay, relay->oldest, ETIMEDOUT);
}

static int timeout_ms(const wg_relay *relay, uint64_t time_ns)
{
    uint64_t left_ms;

    if (relay->turns.first != NO_PAIR)
        return 0;
    if (!relay->idle_ns || relay->oldest == NO_PAIR)
        return -1;
    left_ms = (relay->pairs[relay->oldest].moved_ns + relay->idle_ns - time_ns) / NS_PER_MS + 1;
    return left_ms < INT_MAX ? (int)left_ms : INT_MAX;
}

static void handle(wg_relay *relay, const struct epoll_event *event, uint64_t time_ns)
{
    uint64_t data = event->data.u64;

    if (data == (uint64_t)WAKE) {
        drain(relay->wake_fd);
        take_added(relay, time_ns);
        end_dropped(relay);
        return;
    }
    pair_on_event(relay, (uint32_t)(data >> SIDE_BITS), data & ((1 << SIDE_BITS) - 1),
                  event->events, time_ns);
}

int wg_relay_run(wg_relay *relay)
{
    struct epoll_event events[EVENTS_MAX];
    struct epoll_event wakes = {.events = EPOLLIN, .data.u64 = (uint64_t)WAKE};
    uint64_t time_ns = now_ns();

    if (epoll_ctl(relay->epoll_fd, EPOLL_CTL_ADD, relay->wake_fd, &wakes) < 0)
        return -errno;
    while (!atomic_load(&relay->is_stopping)) {
        int count = epoll_wait(relay->epoll_fd, events, EVENTS_MAX, timeout_ms(relay, time_ns));
        if (count < 0 && errno != EINTR)
            return -errno;
        time_ns = now_ns();
        for (int i = 0; i < count; i++)
            handle(relay, &events[i], time_ns);
        take_turns(relay, time_ns);
        end_idle(relay, time_ns);
    }
    return 0;
}

/* ---- control ---- */

void wg_relay_stop(wg_relay *relay)
{
    atomic_store(&relay->is_stopping, true);
    wake(relay->wake_fd);
}

wg_relay *wg_relay_new(uint32_t pairs_max, uint64_t idle_ns, int epoll_fd, int wake_fd, int end_fd)
{
    const struct list empty = {NO_PAIR, NO_PAIR};
    wg_relay *relay = calloc(1, sizeof(*relay) + pairs_max * sizeof(struct pair));

    if (!relay || !(relay->batch = wg_batch_new())) {
        free(relay);
        return NULL;
    }
    pthread_mutex_init(&relay->lock, NULL);
    relay->pairs_max = pairs_max;
    relay->idle_ns = idle_ns;
    relay->epoll_fd = epoll_fd;
    relay->wake_fd = wake_fd;
    relay->end_fd = end_fd;
    relay->added = relay->ended = relay->turns = empty;
    relay->oldest = relay->newest = NO_PAIR;
    for (uint32_t i = 0; i < pairs_max; i++)
        relay->pairs[i].next = i + 1 < pairs_max ? i + 1 : NO_PAIR;
    relay->free = pairs_max ? 0 : NO_PAIR;
    return relay;
}

void wg_relay_free(wg_relay *relay)
{
    for (uint32_t number = relay->oldest; number != NO_PAIR; number = relay->pairs[number].newer) {
        for (int i = 0; i < 2 && relay->pairs[number].is_stream; i++)
            wg_stream_release(relay, &relay->pairs[number].ways[i]);
    }
    while (relay->spares)
        wg_pipe_close(relay, &relay->spare[--relay->spares]);
    free(relay->batch);
    pthread_mutex_destroy(&relay->lock);
    free(relay);
}

int wg_relay_add(wg_relay *relay, const wg_relay_pair *new)
{
    pthread_mutex_lock(&relay->lock);
    uint32_t number = relay->free;
    if (number != NO_PAIR) {
        struct pair *pair = &relay->pairs[number];
        relay->free = pair->next;
        for (int i = 0; i < SIDES_MAX; i++)
            pair->sides[i] = (struct side){.fd = new->fds[i]};
        pair->ways[0] = pair->ways[1] = (struct way){.pipe.in = -1};
        pair->is_stream = new->is_stream;
        pair->names_fd = new->names_fd;
        pair->failures = 0;
        pair->lost = 0;
        atomic_store(&pair->is_dropped, false);
        list_append(relay, &relay->added, number);
    }
    pthread_mutex_unlock(&relay->lock);
    if (number == NO_PAIR)
        return -ENOBUFS;
    wake(relay->wake_fd);
    return (int)number;
}

void wg_relay_drop(wg_relay *relay, uint32_t number)
{
    atomic_store(&relay->pairs[number].is_dropped, true);
    atomic_store(&relay->has_dropped, true);
    wake(relay->wake_fd);
}

int wg_relay_take(wg_relay *relay, wg_relay_end *ends, int max)
{
    int count = 0;

    drain(relay->end_fd);
    pthread_mutex_lock(&relay->lock);
    for (uint32_t number; count < max; count++) {
        if ((number = list_take(relay, &relay->ended)) == NO_PAIR)
            break;
        struct pair *pair = &relay->pairs[number];
        ends[count] = (wg_relay_end){.bytes = {pair->ways[0].moved, pair->ways[1].moved},
                                     .lost = pair->lost,
                                     .pair = number,
                                     .error = pair->error};
        pair->next = relay->free;
        relay->free = number;
    }
    bool left = relay->ended.first != NO_PAIR;
    pthread_mutex_unlock(&relay->lock);
    if (left)
        wake(relay->end_fd);
    return count;
}

uint32_t wg_relay_pipes(wg_relay *relay)
{
    return atomic_load_explicit(&relay->pipes, memory_order_relaxed);
}
