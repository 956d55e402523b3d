/* SPDX-License-Identifier: MIT */
/* Datagrams: a batch is received, each gets or loses a header of SOCKS5 in place, and leaves.
 *
 * 1. wg_datagram_step receives what one socket of a pair has, behind room for a header.
 * 2. From a client with headers: address says where each goes, and which socket it leaves by; what
 *    is malformed is dropped; what goes to a name is control's (names_fd).
 * 3. To such a client: prepend says whence each came.
 * 4. send_run sends those in a row that leave by one socket; a full one is waited for a while. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay.h"

enum {
    BATCH = 32,
    DATAGRAM_MAX = 65535,
    FAILURES_MAX = 16, /* in a row, of one pair */
    FULL_MS = 10,      /* that a full socket is waited for */
    /* RFC 1928, 7: two reserved bytes, fragment, type of address, address, port. */
    TYPE_AT = 3,
    ADDRESS_AT = 4,
    HEADER_MAX = ADDRESS_AT + 16 + 2,
    TYPE_IPV4 = 1,
    TYPE_NAME = 3,
    TYPE_IPV6 = 4,
};

union address {
    struct sockaddr any;    /* its family; the thread */
    struct sockaddr_in v4;  /* if that is AF_INET; the thread */
    struct sockaddr_in6 v6; /* if that is AF_INET6; the thread */
};

struct batch {
    struct mmsghdr messages[BATCH];                 /* received, then sent; the thread */
    struct iovec parts[BATCH];                      /* one each; the thread */
    union address addresses[BATCH];                 /* whence, then where to; the thread */
    int leaves_by[BATCH];                           /* descriptors, -1: dropped; the thread */
    uint8_t room[BATCH][HEADER_MAX + DATAGRAM_MAX]; /* header and payload; the thread */
};

struct batch *wg_batch_new(void) { return calloc(1, sizeof(struct batch)); }

/* Returns how many came, 0 for none now, or -errno. */
static int receive(struct batch *batch, int fd)
{
    for (int i = 0; i < BATCH; i++) {
        batch->parts[i] = (struct iovec){&batch->room[i][HEADER_MAX], DATAGRAM_MAX};
        batch->messages[i].msg_hdr = (struct msghdr){.msg_name = &batch->addresses[i],
                                                     .msg_namelen = sizeof(union address),
                                                     .msg_iov = &batch->parts[i],
                                                     .msg_iovlen = 1};
    }
    int count = recvmmsg(fd, batch->messages, BATCH, MSG_DONTWAIT, NULL);
    if (count < 0)
        return errno == EAGAIN ? 0 : -errno;
    for (int i = 0; i < count; i++)
        batch->parts[i].iov_len = batch->messages[i].msg_len;
    return count;
}

/* Takes the header off and returns the descriptor to send by, -1 for what is not to be sent. */
static int address_untrusted(const struct pair *pair, struct iovec *part, union address *to)
{
    const uint8_t *data = part->iov_base;
    size_t header;

    if (part->iov_len <= ADDRESS_AT || data[0] || data[1] || data[2])
        return -1; /* nothing, or a fragment */
    if (data[TYPE_AT] == TYPE_NAME)
        return pair->names_fd;
    *to = (union address){0};
    if (data[TYPE_AT] == TYPE_IPV4) {
        header = ADDRESS_AT + sizeof(to->v4.sin_addr) + sizeof(to->v4.sin_port);
        if (part->iov_len < header)
            return -1;
        to->v4.sin_family = AF_INET;
        memcpy(&to->v4.sin_addr, data + ADDRESS_AT, sizeof(to->v4.sin_addr));
        memcpy(&to->v4.sin_port, data + header - 2, 2);
    } else if (data[TYPE_AT] == TYPE_IPV6) {
        header = HEADER_MAX;
        if (part->iov_len < header)
            return -1;
        to->v6.sin6_family = AF_INET6;
        memcpy(&to->v6.sin6_addr, data + ADDRESS_AT, sizeof(to->v6.sin6_addr));
        memcpy(&to->v6.sin6_port, data + header - 2, 2);
    } else {
        return -1;
    }
    part->iov_base = (uint8_t *)part->iov_base + header;
    part->iov_len -= header;
    return pair->sides[to->any.sa_family == AF_INET ? 1 : 2].fd;
}

/* There is room for it in front of the payload. */
static void prepend(struct iovec *part, const union address *from)
{
    uint8_t header[HEADER_MAX] = {0};
    size_t length;

    if (from->any.sa_family == AF_INET) {
        length = ADDRESS_AT + sizeof(from->v4.sin_addr) + 2;
        header[TYPE_AT] = TYPE_IPV4;
        memcpy(header + ADDRESS_AT, &from->v4.sin_addr, sizeof(from->v4.sin_addr));
        memcpy(header + length - 2, &from->v4.sin_port, 2);
    } else {
        length = HEADER_MAX;
        header[TYPE_AT] = TYPE_IPV6;
        memcpy(header + ADDRESS_AT, &from->v6.sin6_addr, sizeof(from->v6.sin6_addr));
        memcpy(header + length - 2, &from->v6.sin6_port, 2);
    }
    part->iov_base = (uint8_t *)part->iov_base - length;
    part->iov_len += length;
    memcpy(part->iov_base, header, length);
}

/* Decides of one that came what leaves, and by which descriptor. */
static void direct(struct batch *batch, const struct pair *pair, uint32_t side, int i)
{
    struct msghdr *message = &batch->messages[i].msg_hdr;
    union address *address = &batch->addresses[i];
    bool has_header = pair->names_fd >= 0;

    message->msg_name = NULL; /* the socket is connected */
    message->msg_namelen = 0;
    if (side) {
        batch->leaves_by[i] = pair->sides[0].fd;
        if (has_header)
            prepend(&batch->parts[i], address);
        return;
    }
    if (!has_header) {
        batch->leaves_by[i] = pair->sides[1].fd;
        return;
    }
    batch->leaves_by[i] = address_untrusted(pair, &batch->parts[i], address);
    if (batch->leaves_by[i] != pair->names_fd) {
        message->msg_name = address;
        message->msg_namelen =
            address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
    }
}

static bool becomes_writable(int fd)
{
    struct pollfd wanted = {.fd = fd, .events = POLLOUT};

    return poll(&wanted, 1, FULL_MS) > 0;
}

/* Sends those from first to end by one descriptor; returns how many were lost.  Control may be
 * slow, and is not waited for.  An error that a former datagram met is told once and instead of
 * sending, so each has a second chance. */
static uint32_t send_run(struct batch *batch, int fd, bool waits, int first, int end,
                         uint64_t *moved)
{
    uint32_t lost = 0;
    bool again = false, is_full = !waits;

    while (first < end) {
        int sent = sendmmsg(fd, &batch->messages[first], (unsigned)(end - first), MSG_DONTWAIT);
        for (int i = 0; i < sent; i++)
            *moved += batch->parts[first + i].iov_len;
        if (sent > 0) {
            first += sent;
            again = false;
        } else if (sent < 0 && errno == EAGAIN && !is_full) {
            is_full = !becomes_writable(fd); /* it is waited for once */
        } else if (sent < 0 && errno != EAGAIN && !again) {
            again = true;
        } else {
            lost++;
            first++;
            again = false;
        }
    }
    return lost;
}

int wg_datagram_step(wg_relay *relay, struct pair *pair, uint32_t side)
{
    struct batch *batch = relay->batch;
    int count;

    if (!pair->sides[side].is_readable)
        return STUCK;
    count = receive(batch, pair->sides[side].fd);
    if (!count) {
        pair->sides[side].is_readable = false;
        return STUCK;
    }
    if (count < 0) /* mostly ICMP's word on one that was sent */
        return ++pair->failures < FAILURES_MAX ? MOVED : count;
    pair->failures = 0;
    for (int i = 0; i < count; i++)
        direct(batch, pair, side, i);
    for (int i = 0, end; i < count; i = end) {
        int fd = batch->leaves_by[i];
        for (end = i + 1; end < count && batch->leaves_by[end] == fd;)
            end++;
        uint64_t *moved = &pair->ways[side ? 1 : 0].moved;
        pair->lost +=
            fd < 0 ? (uint32_t)(end - i) : send_run(batch, fd, fd != pair->names_fd, i, end, moved);
    }
    return MOVED;
}
