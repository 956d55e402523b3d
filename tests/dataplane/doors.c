/* SPDX-License-Identifier: MIT */
/* Doors to the stages of the core, and to a device: see doors.h. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"
#include "backlog.h"
#include "checksum.h"
#include "doors.h"
#include "gro.h"
#include "gso.h"
#include "keypair.h"
#include "ratelimiter.h"
#include "tables.h"
#include "tunqueue.h"
#include "turnstile.h"

/* ---- gso ---- */

ssize_t door_gso_split(uint8_t *frame, size_t length, uint32_t features, uint8_t *out,
                       size_t out_size, uint32_t *lengths, size_t max)
{
    struct wg_gso gso;
    struct wg_packet packet;
    size_t count = 0;
    int error = wg_gso_begin(&gso, frame, length, features);

    if (error)
        return error;
    while (wg_gso_next(&gso, &packet)) {
        if (count == max || packet.length > out_size)
            return -ENOSPC;
        memcpy(out, packet.data, packet.length);
        out += packet.length;
        out_size -= packet.length;
        lengths[count++] = packet.length;
    }
    return (ssize_t)count;
}

/* ---- gro ---- */

struct frame_sink {    /* where frames go, back to back */
    uint8_t *out;      /* for the next */
    size_t room;       /* bytes from there on */
    uint32_t *lengths; /* of each, bytes */
    size_t max, count; /* lengths that there may be, and are */
};

static int copy_frame(struct frame_sink *sink, const struct iovec *iov, int count)
{
    size_t length = 0;

    if (sink->count == sink->max)
        return -ENOSPC;
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len > sink->room)
            return -ENOSPC;
        memcpy(sink->out, iov[i].iov_base, iov[i].iov_len);
        sink->out += iov[i].iov_len;
        sink->room -= iov[i].iov_len;
        length += iov[i].iov_len;
    }
    sink->lengths[sink->count++] = (uint32_t)length;
    return 0;
}

static int drain_frames(struct wg_gro *gro, struct frame_sink *sink, bool apart)
{
    struct iovec iov[WG_GRO_SEGMENTS + 2];
    uint32_t packets;
    int count, error = 0;

    while (!error && (count = wg_gro_next(gro, iov, &packets))) {
        if (!apart)
            error = copy_frame(sink, iov, count);
        while (apart && !error && (count = wg_gro_next_single(gro, iov)))
            error = copy_frame(sink, iov, count);
    }
    return error;
}

static ssize_t coalesce_batches(uint8_t *data, const uint32_t *lengths, size_t count,
                                uint32_t features, struct frame_sink *sink, bool apart)
{
    struct wg_gro *gro = wg_gro_new();
    int error = gro ? 0 : -ENOMEM;

    for (size_t i = 0; i < count && !error; i++) {
        if (i % WG_GRO_PACKETS == 0) {
            error = drain_frames(gro, sink, apart);
            wg_gro_reset(gro, features);
        }
        if (!error)
            error = wg_gro_add(gro, data, lengths[i]);
        data += lengths[i];
    }
    if (!error)
        error = drain_frames(gro, sink, apart);
    wg_gro_free(gro);
    return error ? error : (ssize_t)sink->count;
}

ssize_t door_gro_coalesce(uint8_t *data, const uint32_t *lengths, size_t count, uint32_t features,
                          uint8_t *out, size_t out_size, uint32_t *frame_lengths, size_t max,
                          bool apart)
{
    struct frame_sink sink = {out, out_size, frame_lengths, max, 0};

    return coalesce_batches(data, lengths, count, features, &sink, apart);
}

/* ---- aead ---- */

static int key_begin(struct wg_aead_key *key, const char *name, const uint8_t *raw, bool seal,
                     size_t length)
{
    const struct wg_aead_backend *backend = wg_aead_find(name);

    if (!backend)
        return -ENOENT;
    return length > INT_MAX ? -EMSGSIZE : wg_aead_key_init(key, backend, raw, seal, 1);
}

int door_aead_seal(const char *backend, const uint8_t *key, uint64_t counter, const uint8_t *in,
                   size_t length, uint8_t *out)
{
    struct wg_aead_key sealing;
    int error = key_begin(&sealing, backend, key, true, length);

    if (error)
        return error;
    wg_aead_seal(&sealing, 0, counter, out, in, length);
    wg_aead_key_clear(&sealing);
    return 0;
}

int door_aead_open(const char *backend, const uint8_t *key, uint64_t counter, const uint8_t *in,
                   size_t length, uint8_t *out)
{
    struct wg_aead_key opening;
    int error = length < WG_TAG_LEN ? -EBADMSG : key_begin(&opening, backend, key, false, length);

    if (error)
        return error;
    bool genuine = wg_aead_open(&opening, 0, counter, out, in, length);
    wg_aead_key_clear(&opening);
    return genuine ? 0 : -EBADMSG;
}

/* ---- backlog, queue of the TUN, replay ---- */

struct wg_backlog *door_backlog_new(uint32_t bytes)
{
    struct wg_backlog *backlog = malloc(sizeof(*backlog));

    if (backlog)
        wg_backlog_init(backlog, bytes);
    return backlog;
}

void door_backlog_free(struct wg_backlog *backlog) { free(backlog); }

uint32_t door_backlog_bytes(const struct wg_backlog *backlog) { return backlog->bytes; }

struct wg_tun_queue *door_tun_queue_new(void)
{
    struct wg_tun_queue *queue = malloc(sizeof(*queue));

    if (queue)
        wg_tun_queue_init(queue);
    return queue;
}

void door_tun_queue_free(struct wg_tun_queue *queue) { free(queue); }

uint32_t door_tun_queue_length(const struct wg_tun_queue *queue) { return queue->length; }

struct wg_replay *door_replay_new(void) { return calloc(1, sizeof(struct wg_replay)); }

void door_replay_free(struct wg_replay *replay) { free(replay); }

/* ---- turnstile ---- */

struct wg_turnstile *door_turnstile_new(uint32_t ticket)
{
    struct wg_turnstile *turnstile = malloc(sizeof(*turnstile));

    if (turnstile) {
        wg_turnstile_init(turnstile);
        turnstile->next_ticket = ticket;
        atomic_store(&turnstile->giving, ticket);
    }
    return turnstile;
}

void door_turnstile_free(struct wg_turnstile *turnstile) { free(turnstile); }

uint32_t door_turnstile_sleepers(const struct wg_turnstile *turnstile)
{
    return atomic_load(&turnstile->take_sleepers) + atomic_load(&turnstile->give_sleepers);
}

struct wg_turn *door_turn_new(struct wg_turnstile *turnstile)
{
    struct wg_turn *turn = malloc(sizeof(*turn));

    if (turn)
        wg_turn_init(turn, turnstile);
    return turn;
}

void door_turn_free(struct wg_turn *turn) { free(turn); }

uint32_t door_turn_ticket(const struct wg_turn *turn) { return turn->ticket; }

bool door_turn_take(struct wg_turn *turn) { return wg_turn_take(turn); }

void door_turn_pass(struct wg_turn *turn) { wg_turn_pass(turn); }

void door_turn_give(struct wg_turn *turn) { wg_turn_give(turn); }

void door_turn_end(struct wg_turn *turn) { wg_turn_end(turn); }

void door_turn_leave(struct wg_turn *turn) { wg_turn_leave(turn); }

/* ---- a device ---- */

int door_set_send_counter(wg_device *device, uint32_t slot, uint64_t counter)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer || !peer->keypairs.current)
        return -ENOENT;
    atomic_store(&peer->keypairs.current->send_counter, counter);
    return 0;
}
