/* SPDX-License-Identifier: MIT */
/* Who waits, and who goes without, when a socket's buffer is full.
 *
 * A socket's buffer is full of what has not left the host yet.  All peers share it, so one behind a
 * slow link could have it to itself.  Therefore the heaviest peer has but half of it, for which it
 * waits a moment; if that was in vain, it yields for a while: it does not wait at all.
 *
 * The kernel tells how much is in the buffer, but not whose it is, and a heavy peer on a fast link
 * must not pay for the half that stands there for a slow one.  So we keep how much that is at most:
 * all there is when a peer begins to yield, then what is added for those who yield, and never more
 * than there is. */
#include "congestion.h"
#include "endpoint.h"
#include "udp.h"

#define WAITS_MAX         2         /* per flush */
#define DATAGRAM_OVERHEAD 1024      /* bytes of buffer, about */
#define HEAVIEST_MAX      (4 << 20) /* bytes, so that a peer that was heavy once is soon forgotten */

void wg_congestion_init(struct wg_congestion *congestion, uint32_t buffer, bool patient)
{
    *congestion =
        (struct wg_congestion){.patient = patient, .buffer = buffer, .heaviest.slot = WG_NO_SLOT};
}

/* Boyer and Moore's majority vote: if one peer was to be sent more than half of the bytes lately,
 * it is the heaviest. */
void wg_congestion_weigh(struct wg_congestion *congestion, const struct wg_run *run)
{
    uint32_t bytes = congestion->heaviest.bytes;

    if (run->slot == congestion->heaviest.slot) {
        bytes += run->length;
        congestion->heaviest.bytes = bytes < HEAVIEST_MAX ? bytes : HEAVIEST_MAX;
    } else if (run->length <= bytes) {
        congestion->heaviest.bytes = bytes - run->length;
    } else {
        congestion->heaviest.slot = run->slot;
        congestion->heaviest.bytes = run->length - bytes;
    }
}

static struct buffer_use *buffer_use(struct wg_congestion *congestion, const struct wg_run *run)
{
    return &congestion->uses[run->to.family == AF_INET6];
}

/* What the kernel counts for a run: every datagram has its own overhead when the device, or what
 * queues in front of it, has split the run. */
void wg_congestion_take(struct wg_congestion *congestion, const struct wg_run *run)
{
    struct buffer_use *use = buffer_use(congestion, run);
    uint32_t bytes = run->length + run->count * DATAGRAM_OVERHEAD;

    use->unseen += bytes;
    if (run->yields)
        use->standing += bytes;
}

/* Half of the buffer is for who yields, half of what those left for who sends the most. */
bool wg_congestion_has_room(struct wg_congestion *congestion, const struct wg_run *run, int queued)
{
    struct buffer_use *use = buffer_use(congestion, run);

    if (!run->yields)
        use->unseen = 0;
    if (queued < 0)
        return true;
    if (use->standing > (uint64_t)queued)
        use->standing = (uint64_t)queued;
    return (uint64_t)queued < (congestion->buffer + (run->yields ? 0 : use->standing)) / 2;
}

bool wg_congestion_may_wait(struct wg_congestion *congestion, const struct wg_run *run)
{
    if (!congestion->patient || run->yields || congestion->waits == WAITS_MAX)
        return false;
    congestion->waits++;
    return true;
}

/* Looks seldom, so that it costs nothing: a quarter of the buffer later it is not full yet. */
bool wg_congestion_needs_look(struct wg_congestion *congestion, const struct wg_run *run)
{
    const struct buffer_use *use = buffer_use(congestion, run);

    return run->yields || (run->slot == congestion->heaviest.slot &&
                           use->standing + 4 * use->unseen >= congestion->buffer);
}

uint32_t wg_congestion_yielder(struct wg_congestion *congestion, const struct wg_run *run)
{
    if (run->yields)
        return run->slot;
    buffer_use(congestion, run)->standing = congestion->buffer;
    return congestion->heaviest.slot;
}
