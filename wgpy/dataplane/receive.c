/* Packets in: UDP -> TUN.  Each worker one thread, one long call (wg_receive_run).
 *
 *   1. poll        both sockets, and the wake eventfd (stop)
 *   2. batch       recvmmsg: several trains of equal-size datagrams; what waited too long in a
 *                  queue that stands is dropped
 *   3. classify    size, type, mac1; under load mac2, or else a cookie reply, and a rate per
 *                  source; what is left of the handshake messages goes to control
 *   4. open        under the read lock: index -> keypair -> age -> AEAD in place -> replay
 *   5. arrival     once per train and keypair: confirm the key, roam, stamp, ask for a rekey
 *   6. inner       version, length, source against allowed IPs, ECN (RFC 6040)
 *   7. write       outside the lock: coalesced frames to the TUN
 *
 * The functions stand from the last step to the first: what is called above who calls it.
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
#include "ip.h"
#include "keypair.h"
#include "peer.h"
#include "ratelimiter.h"
#include "tables.h"
#include "tally.h"
#include "tun.h"
#include "udp.h"

#define BATCHES_PER_POLL 16 /* so that one busy socket does not starve the other */

struct receive_worker {                /* one receive thread's own */
    wg_device *device;                 /* whose packets they are */
    uint32_t index;                    /* of the worker */
    uint64_t now_ns;                   /* when this batch came; wg_clock_now_ns */
    uint64_t too_old_ns;               /* age from which on trains of this batch are dropped */
    uint32_t failures;                 /* receives in a row that failed */
    struct wg_udp_receiver *receiver;  /* its buffers */
    struct wg_cookie_checker *cookies; /* its judge of handshake messages */
    struct wg_gro *gro;                /* packets of this batch on their way to the TUN */
    struct wg_backlog backlogs[2];     /* of IPv4 and IPv6 */
    struct wg_datagrams trains[WG_UDP_RECEIVE_SLOTS]; /* of this batch */
};

/* ---- drops ---- */

static void drop_of_peer(struct receive_worker *worker, struct wg_peer *peer, enum wg_peer_drop why)
{
    wg_tally_add(&peer->drops[why], 1, worker->now_ns, NULL);
}

static void drop_unknown_index(struct receive_worker *worker, const wg_endpoint *source)
{
    wg_count(worker->device, rx_unknown_index, 1);
    wg_drop_from(worker->device, WG_DEVICE_DROP_UNKNOWN_INDEX, source, worker->now_ns);
}

static void refused_by_tun(struct receive_worker *worker, uint32_t packets, int error)
{
    wg_about about = wg_about_error(-error);

    wg_count(worker->device, rx_tun_errors, packets);
    wg_tally_add(&worker->device->drops[WG_DEVICE_DROP_TUN_ERROR], packets, worker->now_ns, &about);
}

/* ---- 7. write ---- */

/* Where the frame has to go, of which the IP header is in one piece. */
static int frame_fd(struct receive_worker *worker, const struct iovec *iov)
{
    wg_device *device = worker->device;
    const struct iovec *ip = iov + (device->io.features & WG_FEATURE_VNET_HDR ? 1 : 0);
    uint32_t queue = wg_flow_queue(device, worker->index, ip->iov_base, (uint32_t)ip->iov_len);

    return device->io.workers[queue].tun_fd;
}

/* Some kernels refuse coalesced frames with EINVAL: the same packets then go one by one. */
static int write_singly(struct receive_worker *worker, int fd)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    int error = 0, count;

    while (error != -EBADFD && (count = wg_gro_next_single(worker->gro, iov)) > 0) {
        error = wg_tun_write(fd, iov, count);
        wg_count(worker->device, rx_tun_writes, 1);
        if (error)
            refused_by_tun(worker, 1, error);
    }
    return error;
}

/* Only a TUN that is gone is an error; EIO is a link that is down just now. */
static int write_frames(struct receive_worker *worker)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    uint32_t packets;
    int error = 0, count;

    while (error != -EBADFD && (count = wg_gro_next(worker->gro, iov, &packets)) > 0) {
        int fd = frame_fd(worker, iov);
        error = wg_tun_write(fd, iov, count);
        wg_count(worker->device, rx_tun_writes, 1);
        if (error == -EINVAL && packets > 1)
            error = write_singly(worker, fd);
        else if (error)
            refused_by_tun(worker, packets, error);
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

static void drop_not_allowed(struct receive_worker *worker, struct wg_peer *peer, const uint8_t *ip)
{
    wg_about about = wg_about_address(wg_ip_source(ip), wg_ip_is_v4(ip));

    wg_count(worker->device, rx_not_allowed, 1);
    wg_tally_add(&peer->drops[WG_PEER_DROP_NOT_ALLOWED], 1, worker->now_ns, &about);
}

static void receive_inner(struct receive_worker *worker, struct wg_peer *peer, uint8_t *ip,
                          uint32_t padded, uint8_t outer_tos)
{
    wg_device *device = worker->device;
    uint32_t length = inner_length(ip, padded);

    if (!length) {
        wg_count(device, rx_malformed, 1);
        drop_of_peer(worker, peer, WG_PEER_DROP_MALFORMED);
        return;
    }
    if (!source_allowed(device, ip, peer)) {
        drop_not_allowed(worker, peer, ip);
        return;
    }
    if (wg_unlikely(!wg_ecn_decapsulate(ip, outer_tos)))
        wg_count(device, rx_ecn_ignored, 1);
    int error = wg_gro_add(worker->gro, ip, length);
    if (error)
        refused_by_tun(worker, 1, error);
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
static void rekey_on_receive(struct receive_worker *worker, struct wg_peer *peer)
{
    struct wg_keypair *current = peer->keypairs.current;
    uint64_t limit =
        WG_SECONDS(WG_REJECT_AFTER_TIME_S - WG_KEEPALIVE_TIMEOUT_S - WG_REKEY_TIMEOUT_S);

    if (current && current->initiator && atomic_load(&current->can_send) &&
        wg_keypair_age_ns(current, worker->now_ns) >= limit &&
        !atomic_exchange(&current->asked_last_minute, true))
        wg_peer_ask_handshake(peer, worker->now_ns);
}

static void arrival_end(struct receive_worker *worker, struct arrival *arrival,
                        const wg_endpoint *source)
{
    struct wg_keypair *keypair = arrival->keypair;

    if (!keypair)
        return;
    confirm_key(keypair);
    wg_peer_roam(keypair->peer, source);
    wg_peer_stamp_received(keypair->peer, arrival->bytes, arrival->data, worker->now_ns);
    rekey_on_receive(worker, keypair->peer);
    wg_count(worker->device, rx_packets, arrival->packets);
    arrival->keypair = NULL;
}

static void arrival_add(struct receive_worker *worker, struct arrival *arrival,
                        struct wg_keypair *keypair, uint32_t length, const wg_endpoint *source)
{
    if (arrival->keypair != keypair) {
        arrival_end(worker, arrival, source);
        *arrival = (struct arrival){.keypair = keypair};
    }
    arrival->bytes += length;
    arrival->packets++;
    arrival->data += length > WG_TRANSPORT_OVERHEAD;
}

/* ---- 4. open ---- */

static struct wg_keypair *receiving_keypair(struct receive_worker *worker, const uint8_t *message,
                                            const wg_endpoint *source)
{
    struct wg_index_entry *entry = wg_index_find(worker->device, wg_load_le32(message + 4));

    if (!entry || !entry->keypair) {
        drop_unknown_index(worker, source);
        return NULL;
    }
    if (wg_keypair_age_ns(entry->keypair, worker->now_ns) >= WG_SECONDS(WG_REJECT_AFTER_TIME_S)) {
        wg_count(worker->device, rx_expired, 1);
        drop_of_peer(worker, entry->peer, WG_PEER_DROP_EXPIRED);
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
static bool open_message(struct receive_worker *worker, struct wg_keypair *keypair,
                         uint8_t *message, uint32_t length)
{
    uint64_t counter = wg_load_le64(message + 8);
    uint8_t *payload = message + WG_TRANSPORT_HEADER_LEN;

    if (!wg_aead_open(&keypair->receive_key, worker->index, counter, payload, payload,
                      length - WG_TRANSPORT_HEADER_LEN)) {
        wg_count(worker->device, rx_bad_tag, 1);
        drop_of_peer(worker, keypair->peer, WG_PEER_DROP_BAD_TAG);
        return false;
    }
    if (!replay_accepts(keypair, counter)) {
        wg_count(worker->device, rx_replayed, 1);
        drop_of_peer(worker, keypair->peer, WG_PEER_DROP_REPLAYED);
        return false;
    }
    return true;
}

/* ---- 3. classify ---- */

static uint32_t handshake_length(uint32_t type)
{
    switch (type) {
    case WG_MESSAGE_INITIATION:
        return WG_INITIATION_LEN;
    case WG_MESSAGE_RESPONSE:
        return WG_RESPONSE_LEN;
    case WG_MESSAGE_COOKIE_REPLY:
        return WG_COOKIE_REPLY_LEN;
    default:
        return 0;
    }
}

/* The peer that a response or a cookie reply is for, by its receiver index; false: no index of
 * ours. */
static bool handshake_slot(wg_device *device, uint32_t type, const uint8_t *message, uint32_t *slot)
{
    *slot = WG_NO_SLOT;
    if (type == WG_MESSAGE_INITIATION)
        return true;
    uint32_t offset = type == WG_MESSAGE_RESPONSE ? 8 : 4;
    struct wg_index_entry *entry = wg_index_find(device, wg_load_le32(message + offset));
    if (!entry || (type == WG_MESSAGE_RESPONSE && entry->keypair))
        return false;
    *slot = entry->peer->slot;
    return true;
}

/* 5.3: under load only a source that reads its mail is served, and not too often. */
static bool admit_handshake(struct receive_worker *worker, const uint8_t *message, uint32_t length,
                            const wg_endpoint *source)
{
    wg_device *device = worker->device;

    if (wg_events_admit(device, worker->now_ns))
        return true;
    if (!wg_cookie_mac2_valid(worker->cookies, message, length, source, worker->now_ns)) {
        wg_count(device, rx_under_load, 1);
        wg_refuse(device, WG_REFUSAL_UNDER_LOAD, source, worker->now_ns);
        wg_cookie_want_reply(worker->cookies, message, length, source);
        return false;
    }
    if (!wg_ratelimiter_allow(device->handshake_limiter, source, worker->now_ns)) {
        wg_count(device, rx_rate_limited, 1);
        wg_refuse(device, WG_REFUSAL_RATE_LIMITED, source, worker->now_ns);
        return false;
    }
    return true;
}

/* Garbage never reaches Python, and a flood hardly. */
static void receive_handshake(struct receive_worker *worker, uint32_t type, const uint8_t *message,
                              uint32_t length, const wg_endpoint *source)
{
    wg_device *device = worker->device;
    uint32_t slot;

    if (!handshake_slot(device, type, message, &slot)) {
        drop_unknown_index(worker, source);
        return;
    }
    if (type != WG_MESSAGE_COOKIE_REPLY) {
        if (!wg_cookie_mac1_valid(worker->cookies, message, length)) {
            wg_count(device, rx_bad_mac1, 1);
            wg_refuse(device,
                      device->cookie_keys.has_mac1 ? WG_REFUSAL_BAD_MAC1
                                                   : WG_REFUSAL_NO_PRIVATE_KEY,
                      source, worker->now_ns);
            return;
        }
        if (!admit_handshake(worker, message, length, source))
            return;
    }
    if (!wg_event_message(device, slot, source, message, length)) {
        wg_count(device, rx_events_dropped, 1);
        wg_drop_from(device, WG_DEVICE_DROP_EVENTS_LOST, source, worker->now_ns);
    }
}

/* ---- 2. batch ---- */

static void receive_transport(struct receive_worker *worker, struct arrival *arrival,
                              uint8_t *message, uint32_t length, const struct wg_datagrams *train)
{
    struct wg_keypair *keypair = receiving_keypair(worker, message, &train->source);

    if (!keypair || !open_message(worker, keypair, message, length))
        return;
    arrival_add(worker, arrival, keypair, length, &train->source);
    if (length > WG_TRANSPORT_OVERHEAD)
        receive_inner(worker, keypair->peer, message + WG_TRANSPORT_HEADER_LEN,
                      length - WG_TRANSPORT_OVERHEAD, train->tos);
}

/* Handshake messages are few, and worth more than their place in the queue: none is overdue. */
static void receive_message(struct receive_worker *worker, struct arrival *arrival,
                            uint8_t *message, uint32_t length, const struct wg_datagrams *train)
{
    uint32_t type = length >= 4 ? wg_load_le32(message) : 0;

    if (type == WG_MESSAGE_TRANSPORT && length >= WG_TRANSPORT_OVERHEAD) {
        if (wg_unlikely(train->age_ns >= worker->too_old_ns)) {
            wg_count(worker->device, rx_overdue, 1);
            wg_drop_from(worker->device, WG_DEVICE_DROP_OVERDUE, &train->source, worker->now_ns);
        } else {
            receive_transport(worker, arrival, message, length, train);
        }
    } else if (type && length == handshake_length(type)) {
        receive_handshake(worker, type, message, length, &train->source);
    } else {
        wg_count(worker->device, rx_invalid, 1);
        wg_drop_from(worker->device, WG_DEVICE_DROP_INVALID, &train->source, worker->now_ns);
    }
}

static void receive_train(struct receive_worker *worker, const struct wg_datagrams *train)
{
    struct arrival arrival = {0};
    uint32_t count = 0;

    for (uint32_t at = 0; at < train->length; at += train->segment, count++) {
        uint32_t left = train->length - at;
        receive_message(worker, &arrival, train->data + at,
                        left < train->segment ? left : train->segment, train);
    }
    arrival_end(worker, &arrival, &train->source);
    wg_count(worker->device, rx_datagrams, count);
}

/* Most socket errors are a report about some earlier datagram and say nothing about the socket. */
static int receive_failed(struct receive_worker *worker, int error)
{
    if (error == -EAGAIN || error == -EBADF)
        return error;
    wg_count(worker->device, rx_socket_errors, 1);
    worker->failures++;
    return -EAGAIN;
}

/* Returns the number of trains, -EAGAIN when the socket is empty or failed, -EBADF or -EBADFD when
 * it or the TUN is gone. */
static int receive_batch(struct receive_worker *worker, int fd, struct wg_backlog *backlog)
{
    wg_device *device = worker->device;
    int count = wg_udp_receive(worker->receiver, fd, worker->trains, WG_UDP_RECEIVE_SLOTS);

    if (count == -EAGAIN)
        wg_backlog_emptied(backlog);
    if (count <= 0)
        return receive_failed(worker, count ? count : -EAGAIN);
    worker->failures = 0;
    worker->now_ns = wg_clock_now_ns();
    worker->too_old_ns = wg_backlog_took(backlog, fd, worker->trains, count, worker->now_ns);
    wg_gro_reset(worker->gro, device->io.features);
    pthread_rwlock_rdlock(&device->tables);
    for (int i = 0; i < count; i++)
        receive_train(worker, &worker->trains[i]);
    pthread_rwlock_unlock(&device->tables);
    wg_count(device, rx_calls, (uint64_t)count);
    int error = write_frames(worker);
    wg_cookie_send_replies(worker->cookies, worker->now_ns);
    return error ? error : count;
}

/* ---- 1. poll ---- */

static int receive_socket(struct receive_worker *worker, int fd, struct wg_backlog *backlog)
{
    for (int i = 0; i < BATCHES_PER_POLL; i++) {
        int count = receive_batch(worker, fd, backlog);
        if (count < 0)
            return count == -EAGAIN ? 0 : count;
    }
    return 0;
}

static int receive_loop(struct receive_worker *worker)
{
    wg_device *device = worker->device;
    const wg_worker_io *io = &device->io.workers[worker->index];
    struct pollfd fds[3] = {{.fd = io->udp4_fd, .events = POLLIN},
                            {.fd = io->udp6_fd, .events = POLLIN},
                            {.fd = device->receive_wake_fd, .events = POLLIN}};

    while (!atomic_load(&device->stopping)) {
        bool failing = worker->failures >= WG_FAILURES_IN_A_ROW;
        if (failing)
            worker->failures = 0;
        wg_poll(failing ? fds + 2 : fds, failing ? 1 : 3, failing ? WG_PAUSE_MS : -1);
        for (int i = 0; i < 2; i++) {
            bool ready = fds[i].fd >= 0 && fds[i].revents;
            int error = ready ? receive_socket(worker, fds[i].fd, &worker->backlogs[i]) : 0;
            if (error)
                return error;
        }
    }
    return 0;
}

int wg_receive_run(wg_device *device, uint32_t worker_index)
{
    struct receive_worker worker = {.device = device, .index = worker_index};
    int error = -ENOMEM;

    if (worker_index >= device->workers)
        return -EINVAL;
    const wg_worker_io *io = &device->io.workers[worker_index];
    wg_backlog_open(&worker.backlogs[0], io->udp4_fd);
    wg_backlog_open(&worker.backlogs[1], io->udp6_fd);
    worker.receiver = wg_udp_receiver_new();
    worker.gro = wg_gro_new();
    worker.cookies = wg_cookie_checker_new(device, worker_index);
    if (worker.receiver && worker.gro && worker.cookies)
        error = receive_loop(&worker);
    wg_backlog_close(&worker.backlogs[0], io->udp4_fd);
    wg_backlog_close(&worker.backlogs[1], io->udp6_fd);
    wg_udp_receiver_free(worker.receiver);
    wg_gro_free(worker.gro);
    wg_cookie_checker_free(worker.cookies);
    return error;
}
