/* SPDX-License-Identifier: MIT */
/* The two inboxes, and how to wait for them. */
#ifndef WGPY_EVENTS_H
#define WGPY_EVENTS_H
#include <poll.h>
#include <stdbool.h>

#include "tables.h"

void wg_event_pend(struct wg_peer *peer, uint32_t pending); /* never lost, coalesces */
void wg_event_forget(struct wg_peer *peer);                 /* peer is going away */
/* Copies a handshake message into the ring.  False: it is full. */
bool wg_event_message(wg_device *device, uint32_t slot, const wg_endpoint *source,
                      const uint8_t *data, uint32_t length);
/* Called for each message.  False: so many wait, or did within the last second, that it has to show
 * mac2 (5.3). */
bool wg_events_admit(wg_device *device, uint64_t now_ns);
bool wg_events_are_load(wg_device *device, uint64_t now_ns); /* the same, of no message */
/* Puts the peer into the inboxes of the send threads that have something to do.  Returns those to
 * wake, bit i for worker i, when the lock is let go.  Read side of tables. */
uint32_t wg_kick_add(struct wg_peer *peer, uint32_t kinds);
void wg_kick_wake(const wg_device *device, uint32_t workers);
/* The worker's next kicked peer and its kinds, or NULL. Read side of tables.  When its send_wake_fd
 * is readable, drain that first, then take until NULL: it is written only when the first peer is
 * kicked. */
struct wg_peer *wg_kick_take(wg_device *device, uint32_t worker, uint32_t *kinds);
void wg_kick_forget(struct wg_peer *peer);
void wg_wake(int fd); /* makes an eventfd readable */
void wg_wake_drain(int fd);

/* A descriptor that does nothing but fail must not take a core: after so many failures in a row,
 * wait so long for the wake eventfd alone. */
#define WG_FAILURES_IN_A_ROW 128
#define WG_PAUSE_MS          10
/* poll(2), but it cannot fail: then all are said to be ready, after a pause. */
void wg_poll(struct pollfd *fds, uint32_t count, int timeout_ms);

#endif
