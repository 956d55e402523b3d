/* SPDX-License-Identifier: MIT */
/* Packets in: UDP -> TUN.  Each worker one thread or several (its lanes), each in one long call
 * (wg_receive_run).
 *
 *   take  1. poll      both sockets, and the wake eventfd (stop)
 *         2. batch     recvmmsg: several trains of equal-size datagrams; what waited too long in a
 *                      queue that stands is to be dropped
 *   work  3. classify  size, type; mac1, load, mac2, rate and the way to control: handshakes.c
 *         4. open      under the read lock: index -> keypair -> age -> AEAD in place -> replay
 *         5. arrival   once per train and keypair: confirm the key, roam, stamp, ask for a rekey
 *         6. inner     version, length, source against allowed IPs, ECN (RFC 6040)
 *   give  7. write     outside the lock: coalesced frames to the TUN
 *
 * The functions stand from the last step to the first: what is called above who calls it.
 *
 * Lanes take and give in turns (turnstile.c) and open side by side.  A thread passes its turn to
 * take on when its batch was full; else it keeps it until it has given.  What it meets in between
 * bears an order that is a little mixed: the replay window is wider than what all lanes have at
 * hand, and of two batches the one that came later says where a peer is (wg_peer_roam).
 *
 * Every datagram is hostile until its tag is right, and its content even then. */
#include <errno.h>
#include <stdlib.h>

#include "aead.h"
#include "allowedips.h"
#include "backlog.h"
#include "bytes.h"
#include "cookie.h"
#include "ecn.h"
#include "events.h"
#include "flows.h"
#include "gro.h"
#include "handshakes.h"
#include "ip.h"
#include "keypair.h"
#include "peer.h"
#include "tables.h"
#include "tally.h"
#include "tun.h"
#include "turnstile.h"
#include "udp.h"
#include "ways.h"

#define BATCHES_PER_POLL 16  /* so that one busy socket does not starve the other */
#define TRAIN_MAX        128 /* datagrams of one train: UDP_MAX_SEGMENTS of Linux 6.9 and newer */
_Static_assert(WG_MAX_LANES *WG_UDP_RECEIVE_SLOTS *TRAIN_MAX < WG_REPLAY_WINDOW,
               "what all lanes have at hand fits the replay window");

struct receive_thread {               /* one's own */
    wg_device *device;                /* whose packets they are */
    uint32_t worker;                  /* its own */
    uint32_t number;                  /* among all: an AEAD context is its own */
    struct wg_way_in *way;            /* what it shares with the worker's other lanes */
    struct wg_turn turn;              /* among them */
    uint64_t now_ns;                  /* when this batch came; wg_clock_now_ns */
    uint64_t too_old_ns;              /* age from which on trains of this batch are dropped */
    struct wg_udp_receiver *receiver; /* its buffers */
    struct wg_handshake_gate gate;    /* for handshake messages */
    struct wg_gro *gro;               /* packets of this batch on their way to the TUN */
    struct wg_datagrams trains[WG_UDP_RECEIVE_SLOTS]; /* of this batch */
};

/* ---- drops ---- */

static void drop_of_peer(struct receive_thread *thread, struct wg_peer *peer, enum wg_peer_drop why)
{
    wg_tally_add(&peer->drops[why], 1, thread->now_ns, NULL);
}

static void drop_unknown_index(struct receive_thread *thread, const wg_endpoint *source)
{
    wg_count(thread->device, rx_unknown_index, 1);
    wg_drop_from(thread->device, WG_DEVICE_DROP_UNKNOWN_INDEX, source, thread->now_ns);
}

static void refused_by_tun(struct receive_thread *thread, uint32_t packets, int error)
{
    wg_about about = wg_about_error(-error);

    wg_count(thread->device, rx_tun_errors, packets);
    wg_tally_add(&thread->device->drops[WG_DEVICE_DROP_TUN_ERROR], packets, thread->now_ns, &about);
}

/* ---- 7. write ---- */

/* Where the frame has to go, of which the IP header is in one piece. */
static int frame_fd(struct receive_thread *thread, const struct iovec *iov)
{
    wg_device *device = thread->device;
    const struct iovec *ip = iov + (device->io.features & WG_FEATURE_VNET_HDR ? 1 : 0);
    uint32_t queue = wg_flow_queue(device, thread->worker, ip->iov_base, (uint32_t)ip->iov_len);

    return device->io.workers[queue].tun_fd;
}

/* Some kernels refuse coalesced frames with EINVAL: the same packets then go one by one. */
static int write_singly(struct receive_thread *thread, int fd)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    int error = 0, count;

    while (error != -EBADFD && (count = wg_gro_next_single(thread->gro, iov)) > 0) {
        error = wg_tun_write(fd, iov, count);
        wg_count(thread->device, rx_tun_writes, 1);
        if (error)
            refused_by_tun(thread, 1, error);
    }
    return error;
}

/* Only a TUN that is gone is an error; EIO is a link that is down just now. */
static int write_frames(struct receive_thread *thread)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    uint32_t packets;
    int error = 0, count;

    while (error != -EBADFD && (count = wg_gro_next(thread->gro, iov, &packets)) > 0) {
        int fd = frame_fd(thread, iov);
        error = wg_tun_write(fd, iov, count);
        wg_count(thread->device, rx_tun_writes, 1);
        if (error == -EINVAL && packets > 1)
            error = write_singly(thread, fd);
        else if (error)
            refused_by_tun(thread, packets, error);
    }
    return error == -EBADFD ? error : 0;
}

/* ---- 6. inner ---- */

/* The IP packet's own length within the padded payload, or 0 when it is no IP packet. */
static uint32_t inner_length(const uint8_t *ip, uint32_t padded)
{
    uint32_t length = 0, header = WG_IPV4_LEN;

    if (padded >= WG_IPV4_LEN && wg_ip_version(ip) == 4) {
        length = wg_load_be16(ip + WG_IPV4_TOTAL_LENGTH);
    } else if (padded >= WG_IPV6_LEN && wg_ip_version(ip) == 6) {
        header = WG_IPV6_LEN;
        length = wg_load_be16(ip + WG_IPV6_PAYLOAD_LENGTH) + WG_IPV6_LEN;
    }
    return length >= header && length <= padded ? length : 0;
}

static bool source_allowed(const wg_device *device, const uint8_t *ip, const struct wg_peer *peer)
{
    const struct wg_allowedips *trie = &device->allowedips;

    return peer == (wg_ip_is_v4(ip) ? wg_allowedips_find4(trie, wg_ip_source(ip))
                                    : wg_allowedips_find6(trie, wg_ip_source(ip)));
}

static void drop_not_allowed(struct receive_thread *thread, struct wg_peer *peer, const uint8_t *ip)
{
    wg_about about = wg_about_address(wg_ip_source(ip), wg_ip_is_v4(ip));

    wg_count(thread->device, rx_not_allowed, 1);
    wg_tally_add(&peer->drops[WG_PEER_DROP_NOT_ALLOWED], 1, thread->now_ns, &about);
}

static void receive_inner(struct receive_thread *thread, struct wg_peer *peer, uint8_t *ip,
                          uint32_t padded, uint8_t outer_tos)
{
    wg_device *device = thread->device;
    uint32_t length = inner_length(ip, padded);

    if (!length) {
        wg_count(device, rx_malformed, 1);
        drop_of_peer(thread, peer, WG_PEER_DROP_MALFORMED);
        return;
    }
    if (!source_allowed(device, ip, peer)) {
        drop_not_allowed(thread, peer, ip);
        return;
    }
    if (wg_unlikely(!wg_ecn_decapsulate(ip, outer_tos)))
        wg_count(device, rx_ecn_ignored, 1);
    int error = wg_gro_add(thread->gro, ip, length);
    if (error)
        refused_by_tun(thread, 1, error);
}

/* ---- 5. arrival ---- */

struct arrival {                /* what came in one train under one keypair */
    struct wg_keypair *keypair; /* NULL: nothing yet */
    uint64_t bytes;             /* UDP payload */
    uint32_t packets;           /* messages */
    uint32_t data;              /* those of them that had a payload */
};

/* The responder's next key is in use from the first authenticated message on (6.3, kernel module).
 */
static void confirm_key(struct wg_keypair *keypair)
{
    if (keypair->peer->keypairs.next == keypair && !atomic_exchange(&keypair->confirmed, true))
        wg_event_pend(keypair->peer, WG_KEY_CONFIRMED);
}

/* 6.2: the initiator of an ageing session renews it even when it only receives; once per key. */
static void rekey_on_receive(struct receive_thread *thread, struct wg_peer *peer)
{
    struct wg_keypair *current = peer->keypairs.current;
    uint64_t limit =
        WG_SECONDS(WG_REJECT_AFTER_TIME_S - WG_KEEPALIVE_TIMEOUT_S - WG_REKEY_TIMEOUT_S);

    if (current && current->initiator && atomic_load(&current->can_send) &&
        wg_keypair_age_ns(current, thread->now_ns) >= limit &&
        !atomic_exchange(&current->asked_last_minute, true))
        wg_peer_ask_handshake(peer, thread->now_ns);
}

static void arrival_end(struct receive_thread *thread, struct arrival *arrival,
                        const wg_endpoint *source)
{
    struct wg_keypair *keypair = arrival->keypair;

    if (!keypair)
        return;
    confirm_key(keypair);
    wg_peer_roam(keypair->peer, source, thread->now_ns);
    wg_peer_stamp_received(keypair->peer, arrival->bytes, arrival->data, thread->now_ns);
    rekey_on_receive(thread, keypair->peer);
    wg_count(thread->device, rx_packets, arrival->packets);
    arrival->keypair = NULL;
}

static void arrival_add(struct receive_thread *thread, struct arrival *arrival,
                        struct wg_keypair *keypair, uint32_t length, const wg_endpoint *source)
{
    if (arrival->keypair != keypair) {
        arrival_end(thread, arrival, source);
        *arrival = (struct arrival){.keypair = keypair};
    }
    arrival->bytes += length;
    arrival->packets++;
    arrival->data += length > WG_TRANSPORT_OVERHEAD;
}

/* ---- 4. open ---- */

static struct wg_keypair *receiving_keypair(struct receive_thread *thread, const uint8_t *message,
                                            const wg_endpoint *source)
{
    struct wg_index_entry *entry = wg_index_find(thread->device, wg_load_le32(message + 4));

    if (!entry || !entry->keypair) {
        drop_unknown_index(thread, source);
        return NULL;
    }
    if (wg_keypair_age_ns(entry->keypair, thread->now_ns) >= WG_SECONDS(WG_REJECT_AFTER_TIME_S)) {
        wg_count(thread->device, rx_expired, 1);
        drop_of_peer(thread, entry->peer, WG_PEER_DROP_EXPIRED);
        return NULL;
    }
    return entry->keypair;
}

static bool replay_accepts(struct wg_keypair *keypair, uint64_t counter)
{
    pthread_spin_lock(&keypair->replay_lock);
    bool accepted = wg_replay_accept(&keypair->replay, counter);
    pthread_spin_unlock(&keypair->replay_lock);
    return accepted;
}

/* In place: the payload ends up behind the transport header. */
static bool open_message(struct receive_thread *thread, struct wg_keypair *keypair,
                         uint8_t *message, uint32_t length)
{
    uint64_t counter = wg_load_le64(message + 8);
    uint8_t *payload = message + WG_TRANSPORT_HEADER_LEN;

    if (!wg_aead_open(&keypair->receive_key, thread->number, counter, payload, payload,
                      length - WG_TRANSPORT_HEADER_LEN)) {
        wg_count(thread->device, rx_bad_tag, 1);
        drop_of_peer(thread, keypair->peer, WG_PEER_DROP_BAD_TAG);
        return false;
    }
    if (!replay_accepts(keypair, counter)) {
        wg_count(thread->device, rx_replayed, 1);
        drop_of_peer(thread, keypair->peer, WG_PEER_DROP_REPLAYED);
        return false;
    }
    return true;
}

/* ---- 2. batch ---- */

static void receive_transport(struct receive_thread *thread, struct arrival *arrival,
                              uint8_t *message, uint32_t length, const struct wg_datagrams *train)
{
    struct wg_keypair *keypair = receiving_keypair(thread, message, &train->source);

    if (!keypair || !open_message(thread, keypair, message, length))
        return;
    arrival_add(thread, arrival, keypair, length, &train->source);
    if (length > WG_TRANSPORT_OVERHEAD)
        receive_inner(thread, keypair->peer, message + WG_TRANSPORT_HEADER_LEN,
                      length - WG_TRANSPORT_OVERHEAD, train->tos);
}

/* Handshake messages are few, and worth more than their place in the queue: none is overdue. */
static void receive_message(struct receive_thread *thread, struct arrival *arrival,
                            uint8_t *message, uint32_t length, const struct wg_datagrams *train)
{
    uint32_t type = length >= 4 ? wg_load_le32(message) : 0;

    if (type == WG_MESSAGE_TRANSPORT && length >= WG_TRANSPORT_OVERHEAD) {
        if (wg_unlikely(train->age_ns >= thread->too_old_ns)) {
            wg_count(thread->device, rx_overdue, 1);
            wg_drop_from(thread->device, WG_DEVICE_DROP_OVERDUE, &train->source, thread->now_ns);
        } else {
            receive_transport(thread, arrival, message, length, train);
        }
    } else if (type && length == wg_handshake_length(type)) {
        wg_handshake_receive(&thread->gate, type, message, length, &train->source);
    } else {
        wg_count(thread->device, rx_invalid, 1);
        wg_drop_from(thread->device, WG_DEVICE_DROP_INVALID, &train->source, thread->now_ns);
    }
}

static void receive_train(struct receive_thread *thread, const struct wg_datagrams *train)
{
    struct arrival arrival = {0};
    uint32_t count = 0;

    for (uint32_t at = 0; at < train->length; at += train->segment, count++) {
        uint32_t left = train->length - at;
        receive_message(thread, &arrival, train->data + at,
                        left < train->segment ? left : train->segment, train);
    }
    arrival_end(thread, &arrival, &train->source);
    wg_count(thread->device, rx_datagrams, count);
}

/* A whole batch, but for the turns before and after. */
static int receive_batch(struct receive_thread *thread, int count)
{
    wg_device *device = thread->device;

    wg_gro_reset(thread->gro, device->io.features);
    pthread_rwlock_rdlock(&device->tables);
    for (int i = 0; i < count; i++)
        receive_train(thread, &thread->trains[i]);
    pthread_rwlock_unlock(&device->tables);
    wg_count(device, rx_calls, (uint64_t)count);
    wg_turn_give(&thread->turn);
    int error = write_frames(thread);
    wg_turn_end(&thread->turn);
    wg_cookie_send_replies(thread->gate.cookies, thread->now_ns);
    return error;
}

/* Most socket errors are a report about some earlier datagram and say nothing about the socket.
 * Returns 0 when it is empty or failed, -EBADF when it is gone. */
static int receive_failed(struct receive_thread *thread, int error)
{
    if (error == -EAGAIN)
        return 0;
    if (error == -EBADF)
        return error;
    wg_count(thread->device, rx_socket_errors, 1);
    thread->way->failures++;
    return 0;
}

/* From the socket of IPv4 (0) or IPv6.  Returns the number of trains, or as receive_failed. */
static int receive_trains(struct receive_thread *thread, int socket)
{
    const wg_worker_io *io = &thread->device->io.workers[thread->worker];
    int fd = socket ? io->udp6_fd : io->udp4_fd;
    struct wg_way_in *way = thread->way;
    struct wg_backlog *backlog = &way->backlogs[socket];
    int count = wg_udp_receive(thread->receiver, fd, thread->trains, WG_UDP_RECEIVE_SLOTS);

    if (count == -EAGAIN)
        wg_backlog_emptied(backlog);
    if (count <= 0) {
        way->batches[socket] = 0;
        return receive_failed(thread, count ? count : -EAGAIN);
    }
    way->batches[socket]--;
    way->failures = 0;
    thread->now_ns = thread->gate.now_ns = wg_clock_now_ns();
    thread->too_old_ns = wg_backlog_took(backlog, fd, thread->trains, count, thread->now_ns);
    return count;
}

/* ---- 1. poll ---- */

static void receive_wait(struct receive_thread *thread)
{
    wg_device *device = thread->device;
    const wg_worker_io *io = &device->io.workers[thread->worker];
    struct wg_way_in *way = thread->way;
    struct pollfd fds[3] = {{.fd = io->udp4_fd, .events = POLLIN},
                            {.fd = io->udp6_fd, .events = POLLIN},
                            {.fd = device->receive_wake_fd, .events = POLLIN}};
    bool failing = way->failures >= WG_FAILURES_IN_A_ROW;

    if (failing)
        way->failures = 0;
    wg_poll(failing ? fds + 2 : fds, failing ? 1 : 3, failing ? WG_PAUSE_MS : -1);
    for (int i = 0; i < 2; i++)
        way->batches[i] = fds[i].fd >= 0 && fds[i].revents ? BATCHES_PER_POLL : 0;
}

/* All but what others may do meanwhile is in turn. */
static int receive_turn(struct receive_thread *thread)
{
    const uint32_t *batches = thread->way->batches;

    if (!batches[0] && !batches[1]) {
        receive_wait(thread);
        return 0;
    }
    int count = receive_trains(thread, batches[0] ? 0 : 1);
    if (count <= 0)
        return count;
    if (count == WG_UDP_RECEIVE_SLOTS)
        wg_turn_pass(&thread->turn);
    return receive_batch(thread, count);
}

static int receive_loop(struct receive_thread *thread)
{
    int error = 0;

    wg_way_in_enter(thread->device, thread->worker, &thread->turn);
    while (!error && !atomic_load(&thread->device->stopping) && wg_turn_take(&thread->turn))
        error = receive_turn(thread);
    wg_way_in_leave(thread->device, thread->worker, &thread->turn);
    return error;
}

int wg_receive_run(wg_device *device, uint32_t worker, uint32_t lane)
{
    int error = -ENOMEM;

    if (worker >= device->workers || lane >= device->lanes)
        return -EINVAL;
    struct receive_thread thread = {
        .device = device,
        .worker = worker,
        .number = worker * device->lanes + lane,
        .way = &device->ways[worker].in,
        .receiver = wg_udp_receiver_new(),
        .gro = wg_gro_new(),
        .gate = {.device = device, .cookies = wg_cookie_checker_new(device, worker)},
    };
    if (thread.receiver && thread.gro && thread.gate.cookies)
        error = receive_loop(&thread);
    wg_udp_receiver_free(thread.receiver);
    wg_gro_free(thread.gro);
    wg_cookie_checker_free(thread.gate.cookies);
    return error;
}
