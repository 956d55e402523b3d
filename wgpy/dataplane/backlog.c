/* SPDX-License-Identifier: MIT */
/* How much may wait in a socket: as much as is handled in a short time.
 *
 * A deep receive buffer takes bursts, and what comes while the thread does not run.  When more
 * comes than can be handled, all its depth does is to make every packet wait.  The two are told
 * apart by age, as in CoDel (RFC 8289): after a burst the queue is soon empty, or what is taken
 * from it is young; if neither happens for an interval, the queue stands.  Then the buffer is cut
 * to what is handled within the target, and what waits in it already is dropped unread; from then
 * on the kernel drops what is too much at the door.  To go on dropping here by age would not do: in
 * a flood of small packets that takes all the thread's time, and nothing young is ever reached.
 *
 * While nothing stands the buffer is given back: fast if all is young, else in small steps, until
 * it stands again.  So its depth follows the speed, which may change.
 *
 * An interval begins when something old is taken, not when it came: old packets by themselves say
 * no more than that nobody ran (SIGSTOP, a suspend, a cgroup's quota) or that the clock was set.
 * Nor does their age then tell the speed, but the time does that they have been taken for. */
#include "backlog.h"
#include "bytes.h"
#include "udp.h"

#define TARGET_NS   5000000ull   /* RFC 8289, section 4.3 */
#define INTERVAL_NS 100000000ull /* likewise, section 4.2 */
/* Two of the longest trains: with less, every burst of one sender would find it full. */
#define LEAST_BYTES (2 * WG_UDP_BUFFER_LEN)

static uint32_t within_bounds(const struct wg_backlog *backlog, uint64_t bytes)
{
    if (bytes < LEAST_BYTES)
        bytes = LEAST_BYTES;
    return bytes < backlog->deepest ? (uint32_t)bytes : backlog->deepest;
}

void wg_backlog_init(struct wg_backlog *backlog, uint32_t bytes)
{
    *backlog = (struct wg_backlog){.deepest = bytes, .bytes = bytes};
}

void wg_backlog_emptied(struct wg_backlog *backlog)
{
    backlog->old_since_ns = 0;
    backlog->draining = false;
}

/* In one go from the depth that is for bursts; then in steps, for by then it nearly fits, and one
 * age says little: what is too small costs throughput. */
static void cut(struct wg_backlog *backlog, uint64_t age_ns, uint64_t now_ns)
{
    uint64_t for_ns = now_ns - backlog->old_since_ns;
    uint64_t waited_ns = age_ns < for_ns ? age_ns : for_ns;
    uint64_t bytes = backlog->bytes * TARGET_NS / waited_ns, step = backlog->bytes / 4 * 3;

    if (backlog->bytes < backlog->deepest && bytes < step)
        bytes = step;
    backlog->bytes = within_bounds(backlog, bytes);
    backlog->changed_ns = backlog->cut_ns = now_ns;
    backlog->old_since_ns = 0;
    backlog->draining = true;
}

static void give_back(struct wg_backlog *backlog, uint64_t now_ns)
{
    uint64_t more = backlog->was_old ? backlog->bytes / 8 : backlog->bytes;

    backlog->bytes = within_bounds(backlog, backlog->bytes + more);
    backlog->changed_ns = now_ns;
    backlog->was_old = false;
}

/* What came before the cut is no witness against what the buffer is now. */
static bool is_drained(const struct wg_backlog *backlog, uint64_t youngest_ns, uint64_t now_ns)
{
    return youngest_ns < TARGET_NS || youngest_ns < now_ns - backlog->cut_ns;
}

static void watch(struct wg_backlog *backlog, uint64_t youngest_ns, uint64_t now_ns)
{
    bool old = youngest_ns >= TARGET_NS, was_watched = backlog->old_since_ns;

    if (!old)
        backlog->old_since_ns = 0;
    else if (!was_watched)
        backlog->old_since_ns = now_ns;
    if (old && now_ns - backlog->old_since_ns >= INTERVAL_NS)
        cut(backlog, youngest_ns, now_ns);
    else if (!(old && was_watched) && now_ns - backlog->changed_ns >= INTERVAL_NS)
        give_back(backlog, now_ns);
}

uint64_t wg_backlog_take(struct wg_backlog *backlog, uint64_t oldest_ns, uint64_t youngest_ns,
                         uint64_t now_ns)
{
    bool rested = now_ns - backlog->taken_ns >= INTERVAL_NS;

    backlog->taken_ns = now_ns;
    if (backlog->draining && !is_drained(backlog, youngest_ns, now_ns))
        return INTERVAL_NS;
    backlog->draining = false;
    backlog->was_old |= oldest_ns >= TARGET_NS;
    if (rested && oldest_ns < TARGET_NS)
        backlog->bytes = backlog->deepest;
    watch(backlog, youngest_ns, now_ns);
    return backlog->draining ? INTERVAL_NS : WG_NEVER;
}

/* ---- the socket ---- */

void wg_backlog_open(struct wg_backlog *backlog, int fd)
{
    wg_backlog_init(backlog, fd >= 0 ? wg_udp_receive_buffer(fd) : 0);
}

uint64_t wg_backlog_took(struct wg_backlog *backlog, int fd, const struct wg_datagrams *trains,
                         int count, uint64_t now_ns)
{
    uint32_t before = backlog->bytes;
    uint64_t too_old_ns =
        wg_backlog_take(backlog, trains[0].age_ns, trains[count - 1].age_ns, now_ns);

    if (wg_unlikely(backlog->bytes != before))
        wg_udp_set_receive_buffer(fd, backlog->bytes);
    return too_old_ns;
}

void wg_backlog_close(const struct wg_backlog *backlog, int fd)
{
    if (backlog->bytes != backlog->deepest)
        wg_udp_set_receive_buffer(fd, backlog->deepest);
}
