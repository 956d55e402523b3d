/* Packets out: TUN -> UDP.  Each worker one thread, one long call (wg_send_run).
 *
 *   1. poll        the TUN, and the wake eventfd (kicks, stop)
 *   2. kicked      peers that control kicked: send what is staged, or a keepalive
 *   3. frame       read one frame (a packet or a super-packet) and begin to split it
 *   4. route       under the read lock: allowed IPs -> peer -> endpoint -> sending keypair; what we
 *                  sent to that peer ourselves goes nowhere (loops.c)
 *   5. stage       no keypair: keep the packets, ask control for a handshake
 *   6. seal        packet by packet, from the frame into the sender's arena
 *   7. flush       outside the lock, when the arena is full or the TUN is empty (sender.c)
 *
 * The functions stand from the last step to the first: what is called above who calls it.
 *
 * A frame is sealed in as many rounds as the arena needs; each round takes the lock and routes
 * anew, so no pointer outlives a lock. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"
#include "allowedips.h"
#include "bytes.h"
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
#include "sender.h"
#include "staged.h"
#include "tables.h"
#include "tally.h"
#include "tun.h"
#include "tunqueue.h"

#define FRAMES_PER_BATCH 128

struct send_worker {               /* one send thread's own */
    wg_device *device;             /* whose packets they are */
    uint32_t index;                /* of the worker */
    int tun_fd;                    /* its queue */
    uint64_t now_ns;               /* of this batch; wg_clock_now_ns */
    uint32_t failures;             /* reads in a row that failed */
    uint32_t frames;               /* read in the last batch */
    struct wg_tun_queue tun_queue; /* how much may wait in it */
    struct wg_sender *sender;      /* messages on their way out */
    uint8_t *frame;                /* one TUN frame, and room for the last packet's padding */
};

struct outgoing {            /* one frame on its way */
    struct wg_gso gso;       /* its packets, one by one */
    struct wg_nested nested; /* the message that it carries */
    uint8_t destination[16]; /* inner; splitting writes over the frame's own headers */
    uint8_t ecn;             /* bits of its TOS or traffic class, for the outside */
};

enum outcome { DONE, NO_ROOM, UNREACHABLE };

/* ---- 6. seal ---- */

/* Payload is padded to 16 bytes, but never beyond the tunnel's MTU, so that padding alone cannot
 * make the outer packet too long (5.4.6). A super-packet's segments count as packets of their own.
 */
static uint32_t padded_length(uint32_t length, uint32_t mtu)
{
    uint32_t last = mtu && length > mtu ? length % mtu : length;
    uint32_t padded = (last + WG_PADDING_MAX) & ~(uint32_t)WG_PADDING_MAX;

    if (mtu && padded > mtu)
        padded = mtu;
    return length + (padded > last ? padded - last : 0);
}

struct sealing {                /* what all messages of one round share */
    struct wg_peer *peer;       /* whose messages they are */
    struct wg_keypair *keypair; /* to seal with */
    wg_endpoint to;             /* the peer's, with hops */
    uint64_t counter;           /* of the next message */
    uint64_t bytes;             /* UDP payload so far */
    uint32_t mtu;               /* of the tunnel, bytes; 0: unknown */
    bool yields;                /* the peer, see wg_peer.yields_until_ns */
};

static bool gso_allowed(const struct send_worker *worker, struct wg_peer *peer, uint32_t length)
{
    uint32_t refused = atomic_load_explicit(&peer->gso_refused, memory_order_relaxed);

    return worker->device->io.features & WG_FEATURE_UDP_GSO && (!refused || length < refused);
}

static uint32_t udp_manner(const struct send_worker *worker, const struct sealing *sealing,
                           uint32_t length)
{
    return (gso_allowed(worker, sealing->peer, length) ? WG_SENDER_BATCHED : 0u) |
           (sealing->yields ? WG_SENDER_YIELDING : 0u);
}

/* plaintext has room for the padding behind it; what stands there is put back. */
static void seal_packet(struct send_worker *worker, struct sealing *sealing, uint8_t *plaintext,
                        uint32_t length, uint8_t ecn)
{
    uint32_t padded = padded_length(length, sealing->mtu);
    uint32_t message = padded + WG_TRANSPORT_OVERHEAD;
    uint8_t *out = wg_sender_place(worker->sender);
    uint8_t behind[WG_PADDING_MAX];

    memcpy(behind, plaintext + length, padded - length);
    memset(plaintext + length, 0, padded - length);
    wg_store_le32(out, WG_MESSAGE_TRANSPORT);
    wg_store_le32(out + 4, sealing->keypair->remote_index);
    wg_store_le64(out + 8, sealing->counter);
    wg_aead_seal(&sealing->keypair->send_key, worker->index, sealing->counter,
                 out + WG_TRANSPORT_HEADER_LEN, plaintext, padded);
    memcpy(plaintext + length, behind, padded - length);
    wg_sender_commit(worker->sender, message, sealing->peer->slot, &sealing->to, ecn,
                     udp_manner(worker, sealing, message));
    sealing->counter++;
    sealing->bytes += message;
}

/* Takes count nonces. False, and none taken that could be used: the keypair is used up (6.1). */
static bool sealing_begin(struct send_worker *worker, struct sealing *sealing, struct wg_peer *peer,
                          struct wg_keypair *keypair, uint32_t count)
{
    *sealing = (struct sealing){
        .peer = peer,
        .keypair = keypair,
        .to = wg_peer_endpoint(peer),
        .counter = atomic_fetch_add_explicit(&keypair->send_counter, count, memory_order_relaxed),
        .mtu = atomic_load_explicit(&worker->device->mtu, memory_order_relaxed),
        .yields =
            worker->now_ns < atomic_load_explicit(&peer->yields_until_ns, memory_order_relaxed),
    };
    return sealing->counter <= WG_REJECT_AFTER_MESSAGES - count;
}

static bool should_rekey(const struct wg_keypair *keypair, uint64_t counter, uint64_t now_ns)
{
    return counter > WG_REKEY_AFTER_MESSAGES ||
           (keypair->initiator &&
            wg_keypair_age_ns(keypair, now_ns) >= WG_SECONDS(WG_REKEY_AFTER_TIME_S));
}

static void sealing_end(struct send_worker *worker, struct sealing *sealing, uint32_t packets)
{
    wg_peer_stamp_sent(sealing->peer, sealing->bytes, packets, worker->now_ns);
    if (should_rekey(sealing->keypair, sealing->counter, worker->now_ns))
        wg_peer_ask_handshake(sealing->peer, worker->now_ns);
}

/* ---- 5. stage ---- */

static void stage_frame(struct send_worker *worker, struct wg_peer *peer, struct outgoing *frame)
{
    struct wg_packet packet;

    while (wg_gso_next(&frame->gso, &packet))
        wg_staged_add(peer, worker->index, packet.data, packet.length, frame->ecn, worker->now_ns);
    wg_peer_ask_handshake(peer, worker->now_ns);
}

static uint32_t message_length_max(uint32_t packet_length)
{
    return packet_length + WG_PADDING_MAX + WG_TRANSPORT_OVERHEAD;
}

static void send_staged_packet(struct send_worker *worker, struct wg_peer *peer,
                               struct wg_keypair *keypair, struct wg_staged *staged)
{
    struct sealing sealing;

    if (!sealing_begin(worker, &sealing, peer, keypair, 1))
        return;
    seal_packet(worker, &sealing, staged->data, staged->length, staged->ecn);
    sealing_end(worker, &sealing, staged->length > 0);
    if (staged->length)
        wg_count(worker->device, tx_packets, 1);
}

static enum outcome send_staged(struct send_worker *worker, struct wg_peer *peer,
                                struct wg_keypair *keypair)
{
    enum outcome outcome = DONE;
    struct wg_staged *staged;

    pthread_mutex_lock(&peer->staged_lock);
    while ((staged = wg_staged_oldest(peer, worker->index))) {
        if (!wg_sender_room(worker->sender, message_length_max(staged->length))) {
            outcome = NO_ROOM;
            break;
        }
        wg_staged_take(peer, staged);
        send_staged_packet(worker, peer, keypair, staged);
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

static void drop_without_peer(struct send_worker *worker, const struct outgoing *frame)
{
    uint32_t packets = packets_left(frame);

    wg_count(worker->device, tx_no_peer, packets);
    wg_drop_to(worker->device, frame->destination, frame->gso.version == 4, packets,
               worker->now_ns);
}

/* It has no endpoint, or what goes there comes back. */
static void drop_of_peer(struct send_worker *worker, const struct outgoing *frame,
                         struct wg_peer *peer, bool looped)
{
    struct wg_tally_cell *cell =
        &peer->drops[looped ? WG_PEER_DROP_LOOPED : WG_PEER_DROP_NO_ENDPOINT];
    uint32_t packets = packets_left(frame);

    if (looped)
        wg_count(worker->device, tx_looped, packets);
    else
        wg_count(worker->device, tx_no_endpoint, packets);
    wg_tally_add(cell, packets, worker->now_ns, NULL);
}

static struct wg_peer *route_frame(struct send_worker *worker, const struct outgoing *frame)
{
    const struct wg_allowedips *trie = &worker->device->allowedips;
    struct wg_peer *peer = frame->gso.version == 4 ? wg_allowedips_find4(trie, frame->destination)
                                                   : wg_allowedips_find6(trie, frame->destination);
    if (!peer) {
        drop_without_peer(worker, frame);
        return NULL;
    }
    wg_endpoint endpoint = wg_peer_endpoint(peer);
    if (wg_endpoint_is_sendable(&endpoint))
        return peer;
    drop_of_peer(worker, frame, peer, endpoint.looped);
    return NULL;
}

static enum outcome seal_frame(struct send_worker *worker, struct wg_peer *peer,
                               struct wg_keypair *keypair, struct outgoing *frame)
{
    struct wg_gso *gso = &frame->gso;
    uint32_t left = packets_left(frame);
    uint32_t room = wg_sender_room(worker->sender, message_length_max(wg_gso_packet_length(gso)));
    uint32_t count = room < left ? room : left;
    struct sealing sealing;
    struct wg_packet packet;

    if (!count)
        return NO_ROOM;
    if (!sealing_begin(worker, &sealing, peer, keypair, count)) {
        wg_peer_ask_handshake(peer, worker->now_ns);
        return DONE;
    }
    sealing.to.hops = frame->nested.hops;
    for (uint32_t i = 0; i < count && wg_gso_next(gso, &packet); i++)
        seal_packet(worker, &sealing, packet.data, packet.length, frame->ecn);
    sealing_end(worker, &sealing, count);
    wg_count(worker->device, tx_packets, count);
    return count < left ? NO_ROOM : DONE;
}

/* A message that must not be carried to the peer. */
static bool drop_nested(struct send_worker *worker, struct wg_peer *peer,
                        const struct outgoing *frame)
{
    bool ours = wg_nested_is_to(&frame->nested, peer);

    if (!ours && frame->nested.hops)
        return false;
    drop_of_peer(worker, frame, peer, true);
    if (ours)
        wg_event_pend(peer, WG_LOOP_SEEN);
    return true;
}

/* One round under the read lock. */
static enum outcome send_frame_round(struct send_worker *worker, struct outgoing *frame)
{
    struct wg_peer *peer = route_frame(worker, frame);

    if (!peer)
        return UNREACHABLE;
    if (frame->nested.type && drop_nested(worker, peer, frame))
        return DONE;
    struct wg_keypair *keypair = wg_keypair_sending(peer, worker->now_ns);
    if (!keypair) {
        stage_frame(worker, peer, frame);
        return DONE;
    }
    if (wg_staged_waits(peer, worker->index) && send_staged(worker, peer, keypair) == NO_ROOM)
        return NO_ROOM;
    return seal_frame(worker, peer, keypair, frame);
}

/* The frame, or its first packet, comes back as an ICMP error, as from the kernel module. */
static void answer_unreachable(struct send_worker *worker, struct outgoing *frame)
{
    struct wg_packet packet;

    if (wg_gso_next(&frame->gso, &packet))
        wg_icmp_unreachable(worker->device, worker->tun_fd, packet.data, packet.length,
                            worker->now_ns);
}

/* ---- 3. frame ---- */

static bool frame_begin(struct send_worker *worker, struct outgoing *frame, size_t length)
{
    if (wg_gso_begin(&frame->gso, worker->frame, length, worker->device->io.features))
        return false;
    const uint8_t *ip = frame->gso.ip;
    bool v4 = frame->gso.version == 4;
    memcpy(frame->destination, wg_ip_destination(ip),
           v4 ? WG_IPV4_ADDRESS_LEN : WG_IPV6_ADDRESS_LEN);
    frame->ecn = wg_ecn_get(ip, v4);
    frame->nested = wg_nested_read(ip, frame->gso.length);
    wg_flow_sent(worker->device, worker->index, ip, frame->gso.length);
    return true;
}

static void send_frame(struct send_worker *worker, size_t length)
{
    wg_device *device = worker->device;
    struct outgoing frame;
    enum outcome outcome;

    wg_count(device, tx_frames, 1);
    if (!frame_begin(worker, &frame, length)) {
        wg_count(device, tx_invalid, 1);
        wg_tally_add(&device->drops[WG_DEVICE_DROP_INVALID_FRAME], 1, worker->now_ns, NULL);
        return;
    }
    do {
        pthread_rwlock_rdlock(&device->tables);
        outcome = send_frame_round(worker, &frame);
        pthread_rwlock_unlock(&device->tables);
        if (outcome == NO_ROOM)
            wg_sender_flush(device, worker->sender);
    } while (outcome == NO_ROOM);
    if (outcome == UNREACHABLE)
        answer_unreachable(worker, &frame);
}

static bool is_gone(int error) { return error == -EBADFD || error == -EBADF; }

/* One packet may be unreadable - Linux says EINVAL for a kind of super-packet that its header has
 * no name for - and the next is not.  Returns 0 to read on, else why not. */
static int read_failed(struct send_worker *worker, int error)
{
    if (error == -EAGAIN || is_gone(error))
        return error;
    wg_about about = wg_about_error(-error);
    wg_count(worker->device, tx_tun_errors, 1);
    wg_tally_add(&worker->device->drops[WG_DEVICE_DROP_TUN_ERROR], 1, worker->now_ns, &about);
    if (++worker->failures < WG_FAILURES_IN_A_ROW)
        return 0;
    worker->failures = 0;
    return error;
}

/* Reads and seals until the TUN is empty or the batch is full. */
static int send_frames(struct send_worker *worker)
{
    int error = 0;

    worker->frames = 0;
    for (int i = 0; i < FRAMES_PER_BATCH && !error; i++) {
        ssize_t length = wg_tun_read(worker->tun_fd, worker->frame, WG_VNET_HDR_LEN + WG_FRAME_MAX);
        if (length < 0) {
            error = read_failed(worker, (int)length);
            continue;
        }
        worker->failures = 0;
        worker->frames++;
        send_frame(worker, (size_t)length);
    }
    return error;
}

/* ---- 2. kicked ---- */

static enum outcome send_kicked_peer(struct send_worker *worker, struct wg_peer *peer,
                                     uint32_t kinds)
{
    wg_endpoint endpoint = wg_peer_endpoint(peer);

    if (kinds & WG_KICK_KEEPALIVE && !atomic_load(&peer->staged_count))
        wg_staged_add(peer, worker->index, worker->frame, 0, 0, worker->now_ns);
    if (!wg_staged_waits(peer, worker->index) || !wg_endpoint_is_sendable(&endpoint))
        return DONE;
    struct wg_keypair *keypair = wg_keypair_sending(peer, worker->now_ns);
    if (!keypair) {
        wg_peer_ask_handshake(peer, worker->now_ns);
        return DONE;
    }
    return send_staged(worker, peer, keypair);
}

static void send_kicked(struct send_worker *worker)
{
    wg_device *device = worker->device;
    struct wg_peer *peer;

    do {
        uint32_t kinds, slot = WG_NO_SLOT;
        enum outcome outcome = DONE;

        pthread_rwlock_rdlock(&device->tables);
        peer = wg_kick_take(device, worker->index, &kinds);
        if (peer) {
            slot = peer->slot;
            outcome = send_kicked_peer(worker, peer, kinds);
        }
        pthread_rwlock_unlock(&device->tables);
        if (outcome == NO_ROOM) {
            wg_sender_flush(device, worker->sender);
            wg_peer_kick(device, slot, WG_KICK_STAGED); /* the rest, in its next turn */
        }
    } while (peer);
}

/* ---- 1. poll ---- */

/* How long to wait for a frame at most. */
static int patience_ms(const struct send_worker *worker, bool failing)
{
    if (failing)
        return WG_PAUSE_MS;
    return worker->tun_queue.length ? WG_TUN_QUEUE_REST_MS : -1;
}

/* For a frame, unless reading fails, and then for a moment; either way for control. */
static void send_wait(struct send_worker *worker, bool failing)
{
    int wake_fd = worker->device->send_wake_fds[worker->index];
    struct pollfd fds[2] = {{.fd = failing ? -1 : worker->tun_fd, .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};

    wg_poll(fds, 2, patience_ms(worker, failing));
    if (fds[1].revents)
        wg_wake_drain(wake_fd);
}

static int send_loop(struct send_worker *worker)
{
    wg_device *device = worker->device;
    int error = 0;

    while (!atomic_load(&device->stopping)) {
        if (error)
            send_wait(worker, error != -EAGAIN);
        worker->now_ns = wg_clock_now_ns();
        wg_tun_queue_took(device, worker->index, &worker->tun_queue, worker->frames, error,
                          worker->now_ns);
        send_kicked(worker);
        error = send_frames(worker);
        wg_sender_flush(device, worker->sender);
        if (is_gone(error))
            return error;
    }
    return 0;
}

int wg_send_run(wg_device *device, uint32_t worker_index)
{
    size_t frame_size = WG_VNET_HDR_LEN + WG_FRAME_MAX + WG_PADDING_MULTIPLE;
    int error = -ENOMEM;

    if (worker_index >= device->workers)
        return -EINVAL;
    const wg_worker_io *io = &device->io.workers[worker_index];
    struct send_worker worker = {.device = device, .index = worker_index, .tun_fd = io->tun_fd};
    wg_tun_queue_init(&worker.tun_queue);
    worker.frame = calloc(1, frame_size);
    worker.sender = wg_sender_new(io, true); /* its waits hold back who writes to the TUN */
    if (worker.frame && worker.sender)
        error = send_loop(&worker);
    wg_tun_queue_close(device, worker_index);
    wg_sender_free(worker.sender);
    if (worker.frame)
        OPENSSL_cleanse(worker.frame, frame_size);
    free(worker.frame);
    return error;
}
