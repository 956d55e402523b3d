/* SPDX-License-Identifier: MIT */
/* Packets out: TUN -> UDP.  Each worker one thread or several (its lanes), each in one long call
 * (wg_send_run).
 *
 *   take  1. poll     the TUN, and the wake eventfd (kicks, stop)
 *         2. kicked   peers that control kicked: send what is staged, or a keepalive
 *         3. frames   read frames (packets or super-packets) and begin to split them
 *         4. route    under the read lock: allowed IPs -> peer -> endpoint -> sending keypair; what
 *                     we sent to that peer ourselves goes nowhere (loops.c); take nonces
 *         5. stage    no keypair: keep the packets, ask control for a handshake
 *   work  6. seal     packet by packet, from the frame into the sender's arena (sealing.c)
 *   give  7. flush    outside the lock, when the arena is full or the TUN is empty (sender.c)
 *
 * The functions stand from the last step to the first: what is called above who calls it.
 *
 * Lanes take and give in turns (turnstile.c) and seal side by side.  A thread passes its turn to
 * take on when it has planned all of a full batch.  If the TUN was empty, or a batch needs more
 * room than the arena has, it keeps its turn until it has given.
 *
 * A frame is sealed in as many rounds as the arena needs; each round takes the lock and routes
 * anew, so no pointer outlives a lock. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "allowedips.h"
#include "ecn.h"
#include "endpoint.h"
#include "events.h"
#include "flows.h"
#include "gso.h"
#include "icmp.h"
#include "ip.h"
#include "keypair.h"
#include "loops.h"
#include "peer.h"
#include "sealing.h"
#include "sender.h"
#include "staged.h"
#include "tables.h"
#include "tally.h"
#include "tun.h"
#include "tunqueue.h"
#include "turnstile.h"
#include "ways.h"

#define FRAMES_PER_BATCH 128
#define FRAME_SPACE      (WG_VNET_HDR_LEN + WG_FRAME_MAX + WG_PADDING_MULTIPLE)
#define FRAME_ALIGNMENT  64
/* What is read before it is sealed.  Alone: one super-packet, while it is in the cache, or small
 * frames.  A lane, before the next one may: three super-packets, for they fit the arena. */
#define ALONE_SPACE (FRAME_SPACE + 16384)
#define LANE_SPACE  (3 * (FRAME_SPACE + FRAME_ALIGNMENT))

struct outgoing {              /* one frame on its way */
    struct wg_gso gso;         /* its packets, one by one */
    struct wg_sealing sealing; /* of this round; no packets: there is nothing to seal */
    struct wg_nested nested;   /* the message that it carries */
    uint8_t destination[16];   /* inner; splitting writes over the frame's own headers */
    uint8_t ecn;               /* bits of its TOS or traffic class, for the outside */
    bool unreachable;          /* its sender has to be told */
};

struct send_thread {                /* one's own */
    wg_device *device;              /* whose packets they are */
    uint32_t worker;                /* its own */
    int tun_fd;                     /* the worker's queue */
    struct wg_way_out *way;         /* what it shares with the worker's other lanes */
    struct wg_turn turn;            /* among them */
    struct wg_sealer sealer;        /* seals, for a batch */
    struct wg_sender *sender;       /* messages on their way out */
    uint8_t *space;                 /* frames, and room for the last packet's padding behind each */
    uint32_t space_len;             /* bytes */
    struct outgoing *outgoing;      /* frames of this batch */
    uint32_t count;                 /* entries in use */
    bool answers;                   /* to some of them */
    struct wg_sender_claims claims; /* what is planned, but not sealed yet */
};

enum outcome { DONE, NO_ROOM };

/* ---- 5. stage ---- */

static void stage_frame(struct send_thread *thread, struct wg_peer *peer, struct outgoing *frame)
{
    uint64_t now_ns = thread->sealer.now_ns;
    struct wg_packet packet;

    while (wg_gso_next(&frame->gso, &packet))
        wg_staged_add(peer, thread->worker, packet.data, packet.length, frame->ecn, now_ns);
    wg_peer_ask_handshake(peer, now_ns);
}

/* In turn, as they are few.  They leave after what is planned already, so that has to be sealed
 * first: there is no room for them. */
static enum outcome send_staged(struct send_thread *thread, struct wg_peer *peer,
                                struct wg_keypair *keypair)
{
    enum outcome outcome = DONE;
    struct wg_staged *staged;

    if (thread->claims.messages)
        return NO_ROOM;
    pthread_mutex_lock(&peer->staged_lock);
    while ((staged = wg_staged_oldest(peer, thread->worker))) {
        if (!wg_sender_room(thread->sender, &thread->claims,
                            wg_sealing_length_max(staged->length))) {
            outcome = NO_ROOM;
            break;
        }
        wg_staged_take(peer, staged);
        wg_sealing_staged(&thread->sealer, peer, keypair, staged);
        free(staged);
    }
    pthread_mutex_unlock(&peer->staged_lock);
    return outcome;
}

/* ---- 4. route ---- */

static uint32_t packets_left(const struct outgoing *frame)
{
    return frame->gso.count - frame->gso.index;
}

static void drop_without_peer(struct send_thread *thread, const struct outgoing *frame)
{
    uint32_t packets = packets_left(frame);

    wg_count(thread->device, tx_no_peer, packets);
    wg_drop_to(thread->device, frame->destination, frame->gso.version == 4, packets,
               thread->sealer.now_ns);
}

/* It has no endpoint, or what goes there comes back. */
static void drop_of_peer(struct send_thread *thread, const struct outgoing *frame,
                         struct wg_peer *peer, bool looped)
{
    struct wg_tally_cell *cell =
        &peer->drops[looped ? WG_PEER_DROP_LOOPED : WG_PEER_DROP_NO_ENDPOINT];
    uint32_t packets = packets_left(frame);

    if (looped)
        wg_count(thread->device, tx_looped, packets);
    else
        wg_count(thread->device, tx_no_endpoint, packets);
    wg_tally_add(cell, packets, thread->sealer.now_ns, NULL);
}

static struct wg_peer *route_frame(struct send_thread *thread, const struct outgoing *frame)
{
    const struct wg_allowedips *trie = &thread->device->allowedips;
    struct wg_peer *peer = frame->gso.version == 4 ? wg_allowedips_find4(trie, frame->destination)
                                                   : wg_allowedips_find6(trie, frame->destination);
    if (!peer) {
        drop_without_peer(thread, frame);
        return NULL;
    }
    wg_endpoint endpoint = wg_peer_endpoint(peer);
    if (wg_endpoint_is_sendable(&endpoint))
        return peer;
    drop_of_peer(thread, frame, peer, endpoint.looped);
    return NULL;
}

static enum outcome plan_sealing(struct send_thread *thread, struct wg_peer *peer,
                                 struct wg_keypair *keypair, struct outgoing *frame)
{
    uint32_t left = packets_left(frame);
    uint32_t length = wg_sealing_length_max(wg_gso_packet_length(&frame->gso));
    uint32_t room = wg_sender_room(thread->sender, &thread->claims, length);
    uint32_t count = room < left ? room : left;

    if (!count)
        return NO_ROOM;
    if (!wg_sealing_begin(&thread->sealer, &frame->sealing, peer, keypair, count)) {
        frame->sealing.packets = 0;
        wg_peer_ask_handshake(peer, thread->sealer.now_ns);
        return DONE;
    }
    frame->sealing.to.hops = frame->nested.hops;
    frame->sealing.ecn = frame->ecn;
    thread->claims.bytes += count * length;
    thread->claims.messages += count;
    return count < left ? NO_ROOM : DONE;
}

/* A message that must not be carried to the peer. */
static bool drop_nested(struct send_thread *thread, struct wg_peer *peer,
                        const struct outgoing *frame)
{
    bool ours = wg_nested_is_to(&frame->nested, peer);

    if (!ours && frame->nested.hops)
        return false;
    drop_of_peer(thread, frame, peer, true);
    if (ours)
        wg_event_pend(peer, WG_LOOP_SEEN);
    return true;
}

/* NO_ROOM: it, or the rest of it, needs another round. */
static enum outcome plan_frame(struct send_thread *thread, struct outgoing *frame)
{
    struct wg_peer *peer = route_frame(thread, frame);

    frame->unreachable = !peer;
    thread->answers |= !peer;
    if (!peer || (frame->nested.type && drop_nested(thread, peer, frame)))
        return DONE;
    struct wg_keypair *keypair = wg_keypair_sending(peer, thread->sealer.now_ns);
    if (!keypair) {
        stage_frame(thread, peer, frame);
        return DONE;
    }
    if (wg_staged_waits(peer, thread->worker) && send_staged(thread, peer, keypair) == NO_ROOM)
        return NO_ROOM;
    return plan_sealing(thread, peer, keypair, frame);
}

/* Returns the first frame that needs another round. */
static uint32_t plan_frames(struct send_thread *thread, uint32_t first)
{
    uint32_t next = first;

    while (next < thread->count && plan_frame(thread, &thread->outgoing[next]) == DONE)
        next++;
    return next;
}

/* What is planned of the frames from first to last. */
static void seal_frames(struct send_thread *thread, uint32_t first, uint32_t last)
{
    thread->claims = (struct wg_sender_claims){0};
    for (uint32_t i = first; i <= last && i < thread->count; i++) {
        struct outgoing *frame = &thread->outgoing[i];
        if (!frame->sealing.packets)
            continue;
        wg_sealing_frame(&thread->sealer, &frame->sealing, &frame->gso);
        frame->sealing.packets = 0;
    }
}

/* A frame, or its first packet, comes back as an ICMP error, as from the kernel module. */
static void answer_unreachables(struct send_thread *thread)
{
    struct wg_packet packet;

    for (uint32_t i = 0; i < thread->count; i++) {
        struct outgoing *frame = &thread->outgoing[i];
        if (frame->unreachable && wg_gso_next(&frame->gso, &packet))
            wg_icmp_unreachable(thread->device, thread->tun_fd, packet.data, packet.length,
                                thread->sealer.now_ns);
    }
    thread->answers = false;
}

/* ---- 3. frames ---- */

static void send_flush(struct send_thread *thread)
{
    if (wg_sender_is_empty(thread->sender) && !thread->turn.drawn)
        return;
    wg_turn_give(&thread->turn);
    wg_sender_flush(thread->device, thread->sender);
}

/* more: there may be more frames for others to take. */
static void send_batch(struct send_thread *thread, bool more)
{
    wg_device *device = thread->device;

    for (uint32_t first = 0, next; first < thread->count; first = next) {
        pthread_rwlock_rdlock(&device->tables);
        next = plan_frames(thread, first);
        if (more && next == thread->count)
            wg_turn_pass(&thread->turn);
        seal_frames(thread, first, next);
        pthread_rwlock_unlock(&device->tables);
        if (next < thread->count)
            send_flush(thread);
    }
    if (thread->answers)
        answer_unreachables(thread);
    thread->count = 0;
}

static bool frame_begin(struct send_thread *thread, struct outgoing *frame, uint8_t *data,
                        size_t length)
{
    if (wg_gso_begin(&frame->gso, data, length, thread->device->io.features))
        return false;
    const uint8_t *ip = frame->gso.ip;
    bool v4 = frame->gso.version == 4;
    memcpy(frame->destination, wg_ip_destination(ip),
           v4 ? WG_IPV4_ADDRESS_LEN : WG_IPV6_ADDRESS_LEN);
    frame->ecn = wg_ecn_get(ip, v4);
    frame->nested = wg_nested_read(ip, frame->gso.length);
    frame->sealing.packets = 0;
    wg_flow_sent(thread->device, thread->worker, ip, frame->gso.length);
    return true;
}

static void frame_came(struct send_thread *thread, uint8_t *data, size_t length)
{
    wg_device *device = thread->device;

    thread->way->failures = 0;
    thread->way->frames++;
    wg_count(device, tx_frames, 1);
    if (frame_begin(thread, &thread->outgoing[thread->count], data, length)) {
        thread->count++;
        return;
    }
    wg_count(device, tx_invalid, 1);
    wg_tally_add(&device->drops[WG_DEVICE_DROP_INVALID_FRAME], 1, thread->sealer.now_ns, NULL);
}

static bool is_gone(int error) { return error == -EBADFD || error == -EBADF; }

/* One packet may be unreadable - Linux says EINVAL for a kind of super-packet that its header has
 * no name for - and the next is not.  Returns 0 to read on, else why not. */
static int read_failed(struct send_thread *thread, int error)
{
    struct wg_way_out *way = thread->way;

    if (error == -EAGAIN || is_gone(error))
        return error;
    wg_about about = wg_about_error(-error);
    wg_count(thread->device, tx_tun_errors, 1);
    wg_tally_add(&thread->device->drops[WG_DEVICE_DROP_TUN_ERROR], 1, thread->sealer.now_ns,
                 &about);
    if (++way->failures < WG_FAILURES_IN_A_ROW)
        return 0;
    way->failures = 0;
    return error;
}

/* Frames one behind the other, as many as there is space for. */
static int read_frames(struct send_thread *thread)
{
    uint32_t at = 0;
    int error = 0;

    while (!error && thread->count < FRAMES_PER_BATCH && at + FRAME_SPACE <= thread->space_len) {
        ssize_t length =
            wg_tun_read(thread->tun_fd, thread->space + at, WG_VNET_HDR_LEN + WG_FRAME_MAX);
        if (length < 0) {
            error = read_failed(thread, (int)length);
            continue;
        }
        frame_came(thread, thread->space + at, (size_t)length);
        at += ((uint32_t)length + WG_PADDING_MULTIPLE + FRAME_ALIGNMENT - 1) &
              ~(uint32_t)(FRAME_ALIGNMENT - 1);
    }
    return error;
}

/* Reads and seals: who is alone until the TUN is empty or the batch is full, a lane what it has
 * space for. */
static int send_frames(struct send_thread *thread)
{
    struct wg_way_out *way = thread->way;
    bool alone = !thread->turn.turnstile;
    int error;

    way->frames = 0;
    do {
        error = way->error = read_frames(thread);
        send_batch(thread, !error);
    } while (alone && !error && way->frames < FRAMES_PER_BATCH);
    return error;
}

/* ---- 2. kicked ---- */

static enum outcome send_kicked_peer(struct send_thread *thread, struct wg_peer *peer,
                                     uint32_t kinds)
{
    wg_endpoint endpoint = wg_peer_endpoint(peer);

    if (kinds & WG_KICK_KEEPALIVE && !atomic_load(&peer->staged_count))
        wg_staged_add(peer, thread->worker, thread->space, 0, 0, thread->sealer.now_ns);
    if (!wg_staged_waits(peer, thread->worker) || !wg_endpoint_is_sendable(&endpoint))
        return DONE;
    struct wg_keypair *keypair = wg_keypair_sending(peer, thread->sealer.now_ns);
    if (!keypair) {
        wg_peer_ask_handshake(peer, thread->sealer.now_ns);
        return DONE;
    }
    return send_staged(thread, peer, keypair);
}

static void send_kicked(struct send_thread *thread)
{
    wg_device *device = thread->device;
    struct wg_peer *peer;

    do {
        uint32_t kinds, slot = WG_NO_SLOT;
        enum outcome outcome = DONE;

        pthread_rwlock_rdlock(&device->tables);
        peer = wg_kick_take(device, thread->worker, &kinds);
        if (peer) {
            slot = peer->slot;
            outcome = send_kicked_peer(thread, peer, kinds);
        }
        pthread_rwlock_unlock(&device->tables);
        if (outcome == NO_ROOM) {
            send_flush(thread);
            wg_peer_kick(device, slot, WG_KICK_STAGED); /* the rest, in its next turn */
        }
    } while (peer);
}

/* ---- 1. poll ---- */

/* How long to wait for a frame at most. */
static int patience_ms(const struct send_thread *thread, bool failing)
{
    if (failing)
        return WG_PAUSE_MS;
    return thread->way->tun_queue.length ? WG_TUN_QUEUE_REST_MS : -1;
}

/* For a frame, unless reading fails, and then for a moment; either way for control. */
static void send_wait(struct send_thread *thread, bool failing)
{
    int wake_fd = thread->device->send_wake_fds[thread->worker];
    struct pollfd fds[2] = {{.fd = failing ? -1 : thread->tun_fd, .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};

    wg_poll(fds, 2, patience_ms(thread, failing));
    if (fds[1].revents)
        wg_wake_drain(wake_fd);
}

/* All but what others may do meanwhile is in turn. */
static int send_turn(struct send_thread *thread)
{
    struct wg_way_out *way = thread->way;

    if (way->error)
        send_wait(thread, way->error != -EAGAIN);
    thread->sealer.now_ns = wg_clock_now_ns();
    wg_tun_queue_took(thread->device, thread->worker, &way->tun_queue, way->frames, way->error,
                      thread->sealer.now_ns);
    send_kicked(thread);
    int error = send_frames(thread);
    send_flush(thread);
    wg_turn_end(&thread->turn);
    return is_gone(error) ? error : 0;
}

static int send_loop(struct send_thread *thread)
{
    int error = 0;

    wg_way_out_enter(thread->device, thread->worker, &thread->turn);
    while (!error && !atomic_load(&thread->device->stopping) && wg_turn_take(&thread->turn))
        error = send_turn(thread);
    wg_way_out_leave(thread->device, thread->worker, &thread->turn);
    return error;
}

int wg_send_run(wg_device *device, uint32_t worker, uint32_t lane)
{
    int error = -ENOMEM;

    if (worker >= device->workers || lane >= device->lanes)
        return -EINVAL;
    const wg_worker_io *io = &device->io.workers[worker];
    struct send_thread thread = {
        .device = device,
        .worker = worker,
        .tun_fd = io->tun_fd,
        .way = &device->ways[worker].out,
        .sealer = {.device = device, .thread = worker * device->lanes + lane},
        .space_len = device->lanes == 1 ? ALONE_SPACE : LANE_SPACE,
    };
    thread.space = calloc(1, thread.space_len);
    thread.outgoing = malloc(FRAMES_PER_BATCH * sizeof(struct outgoing));
    thread.sender = thread.sealer.sender = wg_sender_new(io, &thread.way->congestion);
    if (thread.space && thread.outgoing && thread.sender)
        error = send_loop(&thread);
    wg_sender_free(thread.sender);
    if (thread.space)
        OPENSSL_cleanse(thread.space, thread.space_len);
    free(thread.space);
    free(thread.outgoing);
    return error;
}
