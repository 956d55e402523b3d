/* SPDX-License-Identifier: MIT */
/* The two inboxes: events from the data threads to control, kicks from control to the send threads.
 *
 * Kicks are of each send thread its own.  Each inbox has an eventfd.  The writer writes it, after
 * unlocking, when the inbox was empty; the reader drains it first and takes afterwards.  So
 * whatever comes in after the last look makes it readable again.  A reader that leaves something
 * behind writes it itself, for who comes then finds the inbox not empty and wakes nobody.  Thus
 * what waits is always announced. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"
#include "events.h"
#include "tables.h"

enum { MESSAGE_FORGOTTEN = 0 }; /* wg_event.kind of a message whose peer is gone */

void wg_wake(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one));

    (void)written; /* it fails only when the eventfd is at its limit, thus readable */
}

void wg_wake_drain(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count));

    (void)got; /* nothing to drain is fine */
}

void wg_poll(struct pollfd *fds, uint32_t count, int timeout_ms)
{
    const struct timespec pause = {.tv_nsec = WG_PAUSE_MS * 1000000L};

    if (poll(fds, count, timeout_ms) >= 0)
        return;
    if (errno != EINTR)
        nanosleep(&pause, NULL);
    for (uint32_t i = 0; i < count; i++)
        fds[i].revents = fds[i].events;
}

/* ---- events: data threads -> control ---- */

static bool events_empty(const wg_device *device)
{
    for (int list = 0; list < WG_PENDING_LISTS; list++) {
        if (device->pending[list].first)
            return false;
    }
    return !device->ring_count;
}

static void pending_append(struct wg_peer *peer, enum wg_pending_list list)
{
    wg_device *device = peer->device;
    struct wg_peer *last = device->pending[list].last;

    peer->pending[list].before = last;
    peer->pending[list].next = NULL;
    *(last ? &last->pending[list].next : &device->pending[list].first) = peer;
    device->pending[list].last = peer;
}

static void pending_unlink(struct wg_peer *peer, enum wg_pending_list list)
{
    wg_device *device = peer->device;
    struct wg_peer *before = peer->pending[list].before, *next = peer->pending[list].next;

    *(before ? &before->pending[list].next : &device->pending[list].first) = next;
    *(next ? &next->pending[list].before : &device->pending[list].last) = before;
    peer->pending[list].bits = 0;
}

/* The list for what the peer wants, on which it stays until it is taken. */
static enum wg_pending_list want_list(struct wg_peer *peer)
{
    if (peer->pending[WG_PENDING_WANTS].bits)
        return WG_PENDING_WANTS;
    if (peer->pending[WG_PENDING_UNHEARD].bits)
        return WG_PENDING_UNHEARD;
    uint64_t heard_ns = atomic_load_explicit(&peer->rx_any_ns, memory_order_relaxed);
    bool unheard = peer->want_heard_ns == heard_ns;
    peer->want_heard_ns = heard_ns;
    return unheard ? WG_PENDING_UNHEARD : WG_PENDING_WANTS;
}

void wg_event_pend(struct wg_peer *peer, uint32_t pending)
{
    wg_device *device = peer->device;

    pthread_mutex_lock(&device->events_lock);
    enum wg_pending_list list = pending == WG_WANT_HANDSHAKE ? want_list(peer) : WG_PENDING_URGENT;
    bool wake = events_empty(device);
    if (!peer->pending[list].bits)
        pending_append(peer, list);
    peer->pending[list].bits |= pending;
    pthread_mutex_unlock(&device->events_lock);
    if (wake)
        wg_wake(device->event_fd);
}

/* The entry i places behind the oldest. */
static wg_event *ring_at(wg_device *device, uint32_t i)
{
    return &device->ring[(device->ring_head + i) % WG_EVENT_RING];
}

bool wg_event_message(wg_device *device, uint32_t slot, const wg_endpoint *source,
                      const uint8_t *data, uint32_t length)
{
    bool wake = false, fits;

    pthread_mutex_lock(&device->events_lock);
    fits = device->ring_count < WG_EVENT_RING && length <= WG_INITIATION_LEN;
    if (fits) {
        wake = events_empty(device);
        wg_event *event = ring_at(device, device->ring_count++);
        *event =
            (wg_event){.kind = WG_EVENT_MESSAGE, .slot = slot, .length = length, .source = *source};
        memcpy(event->data, data, length);
    }
    pthread_mutex_unlock(&device->events_lock);
    if (wake)
        wg_wake(device->event_fd);
    return fits;
}

/* What is refused under load counts like what waits: else a flood that never ends would be let in
 * for a moment every second, as soon as control has caught up. */
bool wg_events_admit(wg_device *device, uint64_t now_ns)
{
    pthread_mutex_lock(&device->events_lock);
    bool under_load = now_ns < device->load_until_ns;
    if (under_load)
        device->load_messages++;
    if (device->ring_count >= WG_LOAD || (under_load && device->load_messages >= WG_LOAD)) {
        under_load = true;
        device->load_until_ns = now_ns + WG_SECONDS(WG_LOAD_TIME_S);
        device->load_messages = 0;
    }
    pthread_mutex_unlock(&device->events_lock);
    return !under_load;
}

bool wg_events_are_load(wg_device *device, uint64_t now_ns)
{
    pthread_mutex_lock(&device->events_lock);
    bool under_load = now_ns < device->load_until_ns;
    pthread_mutex_unlock(&device->events_lock);
    return under_load;
}

static wg_event pending_take(struct wg_peer *peer, enum wg_pending_list list)
{
    uint32_t bits = peer->pending[list].bits;

    pending_unlink(peer, list);
    return (wg_event){.kind = WG_EVENT_PENDING, .slot = peer->slot, .pending = bits};
}

static int take_urgent(wg_device *device, wg_event *events, int max)
{
    int count = 0;

    while (count < max && device->pending[WG_PENDING_URGENT].first) {
        struct wg_peer *peer = device->pending[WG_PENDING_URGENT].first;
        events[count++] = pending_take(peer, WG_PENDING_URGENT);
    }
    return count;
}

/* Whoever did not answer last time takes turns with the others, so that they do not wait for all
 * of those.  The oldest and the newest of the others take turns too: when thousands are written to
 * for the first time, none of which will answer, who comes after them does not wait for them all.
 * Nobody is overtaken for ever: of every four, each list gives its oldest. */
static struct wg_peer *next_want(wg_device *device)
{
    uint32_t turn = device->want_turn++;
    struct wg_peer *unheard = device->pending[WG_PENDING_UNHEARD].first;
    struct wg_peer *want =
        turn & 2 ? device->pending[WG_PENDING_WANTS].last : device->pending[WG_PENDING_WANTS].first;

    return unheard && (turn & 1 || !want) ? unheard : want;
}

static int take_wants(wg_device *device, wg_event *events, int max)
{
    struct wg_peer *peer;
    int count = 0;

    while (count < max && (peer = next_want(device)))
        events[count++] = pending_take(peer, want_list(peer));
    return count;
}

static int take_messages(wg_device *device, wg_event *events, int max)
{
    int count = 0;

    while (count < max && device->ring_count) {
        const wg_event *event = ring_at(device, 0);
        if (event->kind != MESSAGE_FORGOTTEN)
            events[count++] = *event;
        device->ring_head = (device->ring_head + 1) % WG_EVENT_RING;
        device->ring_count--;
    }
    return count;
}

/* Each kind has a share that the others cannot take: half is for what is urgent, a quarter for
 * messages.  Wants have a quarter even if nothing else waits, for a handshake each takes long, and
 * what comes meanwhile, as from those who are there, waits for the end of the turn. */
int wg_events_take(wg_device *device, wg_event *events, int max)
{
    int wants = (max + 3) / 4;

    wg_wake_drain(device->event_fd);
    pthread_mutex_lock(&device->events_lock);
    int count = take_urgent(device, events, (max + 1) / 2);
    count += take_messages(device, events + count, max - max / 4 - count);
    count += take_wants(device, events + count, max - count < wants ? max - count : wants);
    bool left = !events_empty(device);
    pthread_mutex_unlock(&device->events_lock);
    if (left)
        wg_wake(device->event_fd);
    return count;
}

void wg_event_forget(struct wg_peer *peer)
{
    wg_device *device = peer->device;

    pthread_mutex_lock(&device->events_lock);
    for (int list = 0; list < WG_PENDING_LISTS; list++) {
        if (peer->pending[list].bits)
            pending_unlink(peer, list);
    }
    for (uint32_t i = 0; i < device->ring_count; i++) {
        if (ring_at(device, i)->slot == peer->slot)
            ring_at(device, i)->kind = MESSAGE_FORGOTTEN;
    }
    pthread_mutex_unlock(&device->events_lock);
}

/* ---- kicks: control -> send threads ---- */

/* Returns whether it is the first of the worker's list. */
static bool kick_append(struct wg_peer *peer, uint32_t worker, uint32_t kinds)
{
    wg_device *device = peer->device;
    struct wg_kick *kick = &peer->kicks[worker];

    pthread_mutex_lock(&device->kicks_lock);
    bool first = !device->kicked[worker].first;
    kick->kinds |= kinds;
    if (!kick->listed) {
        kick->next = NULL;
        kick->listed = true;
        *(first ? &device->kicked[worker].first
                : &device->kicked[worker].last->kicks[worker].next) = peer;
        device->kicked[worker].last = peer;
    }
    pthread_mutex_unlock(&device->kicks_lock);
    return first;
}

/* Who has something staged, and for a keepalive one. */
uint32_t wg_kick_add(struct wg_peer *peer, uint32_t kinds)
{
    uint32_t workers = atomic_load(&peer->staged_workers), wake = 0;

    if (kinds & WG_KICK_KEEPALIVE)
        workers |= 1;
    for (uint32_t worker = 0; worker < peer->device->workers; worker++) {
        if (workers >> worker & 1 && kick_append(peer, worker, kinds))
            wake |= 1u << worker;
    }
    return wake;
}

void wg_kick_wake(const wg_device *device, uint32_t workers)
{
    for (uint32_t worker = 0; workers >> worker; worker++) {
        if (workers >> worker & 1)
            wg_wake(device->send_wake_fds[worker]);
    }
}

struct wg_peer *wg_kick_take(wg_device *device, uint32_t worker, uint32_t *kinds)
{
    pthread_mutex_lock(&device->kicks_lock);
    struct wg_peer *peer = device->kicked[worker].first;
    if (peer) {
        struct wg_kick *kick = &peer->kicks[worker];
        device->kicked[worker].first = kick->next;
        *kinds = kick->kinds;
        *kick = (struct wg_kick){0};
    }
    pthread_mutex_unlock(&device->kicks_lock);
    return peer;
}

static void kicked_unlink(struct wg_peer *peer, uint32_t worker)
{
    wg_device *device = peer->device;
    struct wg_peer *before = NULL, *next = peer->kicks[worker].next;

    for (struct wg_peer *p = device->kicked[worker].first; p != peer; p = p->kicks[worker].next)
        before = p;
    *(before ? &before->kicks[worker].next : &device->kicked[worker].first) = next;
    if (device->kicked[worker].last == peer)
        device->kicked[worker].last = before;
    peer->kicks[worker].listed = false;
}

void wg_kick_forget(struct wg_peer *peer)
{
    wg_device *device = peer->device;

    pthread_mutex_lock(&device->kicks_lock);
    for (uint32_t worker = 0; worker < device->workers; worker++) {
        if (peer->kicks[worker].listed)
            kicked_unlink(peer, worker);
    }
    pthread_mutex_unlock(&device->kicks_lock);
}
