/* SPDX-License-Identifier: MIT */
/* UDP datagrams in and out, many per system call.
 *
 * Out: a run of messages leaves as one UDP_SEGMENT send (udp(7)), several runs as one sendmmsg;
 * what makes a run, and what follows when one is refused, is in sender.c.  In: recvmmsg with
 * UDP_GRO, each message a train of equal-size datagrams.
 *
 * Where the kernel surprises:
 * - UDP_SEGMENT gives EIO by a route through IPsec, and before Linux 6.11 by a device without
 *   transmit checksum offload.
 * - A segment above the route's MTU gives EINVAL before about Linux 6.14, EMSGSIZE after.
 * - A source address that is no longer ours gives EINVAL; it looks the same as the case above.  In
 *   IPv4, newer kernels give ENETUNREACH; it looks the same as no route at all.
 * - Who waits for room in a socket buffer is woken when half of it is free: seconds, behind a slow
 *   link. */
#ifndef _GNU_SOURCE /* sendmmsg, recvmmsg, struct in6_pktinfo */
#error "compile with -D_GNU_SOURCE"
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "bytes.h"
#include "endpoint.h"
#include "udp.h"

#define WAIT_MS 10 /* a fast link has made room by then */
#define CONTROL_LEN                                                                                \
    (CMSG_SPACE(sizeof(struct in6_pktinfo)) + 2 * CMSG_SPACE(sizeof(int)) +                        \
     CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(struct arrival_time)))

struct arrival_time { /* of CLOCK_REALTIME: struct __kernel_timespec */
    int64_t s, ns;    /* seconds, and nanoseconds on top */
};

union sockaddr_any {        /* as the kernel has it */
    struct sockaddr sa;     /* tells the family */
    struct sockaddr_in v4;  /* AF_INET */
    struct sockaddr_in6 v6; /* AF_INET6 */
};

union control {                 /* room for all control messages of one message */
    struct cmsghdr align;       /* makes the address right for the first */
    uint8_t bytes[CONTROL_LEN]; /* back to back */
};

/* ---- endpoints ---- */

static socklen_t endpoint_to_sockaddr(const wg_endpoint *endpoint, union sockaddr_any *out)
{
    memset(out, 0, sizeof(*out));
    if (endpoint->family == AF_INET) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(endpoint->port);
        memcpy(&out->v4.sin_addr, endpoint->addr, 4);
        return sizeof(out->v4);
    }
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(endpoint->port);
    memcpy(&out->v6.sin6_addr, endpoint->addr, 16);
    out->v6.sin6_scope_id = endpoint->scope_id;
    return sizeof(out->v6);
}

static void endpoint_from_sockaddr(const union sockaddr_any *from, wg_endpoint *out)
{
    memset(out, 0, sizeof(*out));
    out->family = from->sa.sa_family;
    if (out->family == AF_INET) {
        out->port = ntohs(from->v4.sin_port);
        memcpy(out->addr, &from->v4.sin_addr, 4);
    } else if (out->family == AF_INET6) {
        out->port = ntohs(from->v6.sin6_port);
        memcpy(out->addr, &from->v6.sin6_addr, 16);
        out->scope_id = from->v6.sin6_scope_id;
    }
}

/* ---- control messages ---- */

static struct cmsghdr *control_put(struct msghdr *msg, struct cmsghdr *at, int level, int type,
                                   const void *value, size_t length)
{
    at->cmsg_level = level;
    at->cmsg_type = type;
    at->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(at), value, length);
    msg->msg_controllen += CMSG_SPACE(length);
    return (struct cmsghdr *)((uint8_t *)at + CMSG_SPACE(length));
}

/* The interface is left open: IPv4 takes an address to which no route leads by the interface named
 * here for a neighbour on its wire.  Control judges by which one it may leave
 * (wgpy/linux/routes.py). */
static struct cmsghdr *control_put_source(struct msghdr *msg, struct cmsghdr *at,
                                          const wg_endpoint *to)
{
    if (to->family == AF_INET) {
        struct in_pktinfo info = {.ipi_ifindex = 0};
        memcpy(&info.ipi_spec_dst, to->source, 4);
        return control_put(msg, at, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
    }
    struct in6_pktinfo info = {.ipi6_ifindex = 0};
    memcpy(&info.ipi6_addr, to->source, 16);
    return control_put(msg, at, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
}

static struct cmsghdr *control_put_hops(struct msghdr *msg, struct cmsghdr *at,
                                        const wg_endpoint *to)
{
    bool v4 = to->family == AF_INET;
    int hops = to->hops;

    return control_put(msg, at, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TTL : IPV6_HOPLIMIT, &hops,
                       sizeof(hops));
}

/* Source, TTL, TOS and segment size, each only when it says something: an empty control is no
 * control. */
static void message_set_control(struct msghdr *msg, union control *control, const wg_endpoint *to,
                                uint8_t tos, uint16_t segment)
{
    struct cmsghdr *at = &control->align;

    msg->msg_control = control;
    msg->msg_controllen = 0;
    if (wg_endpoint_has_source(to))
        at = control_put_source(msg, at, to);
    if (to->hops)
        at = control_put_hops(msg, at, to);
    if (tos) {
        int value = tos;
        bool v4 = to->family == AF_INET;
        at = control_put(msg, at, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, &value,
                         sizeof(value));
    }
    if (segment)
        control_put(msg, at, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment));
    if (!msg->msg_controllen)
        msg->msg_control = NULL;
}

/* 0 for what seems to come from the future: the clock was set back. */
static uint64_t age_read(const struct cmsghdr *at, uint64_t wall_ns)
{
    struct arrival_time arrived;

    memcpy(&arrived, CMSG_DATA(at), sizeof(arrived));
    uint64_t arrived_ns = WG_SECONDS(arrived.s) + (uint64_t)arrived.ns;
    return arrived_ns < wall_ns ? wall_ns - arrived_ns : 0;
}

static void control_read(const struct cmsghdr *at, uint64_t wall_ns, struct wg_datagrams *out)
{
    if (at->cmsg_level == IPPROTO_UDP && at->cmsg_type == UDP_GRO) {
        int segment;
        memcpy(&segment, CMSG_DATA(at), sizeof(segment));
        if (segment > 0)
            out->segment = (uint32_t)segment;
    } else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo info;
        memcpy(&info, CMSG_DATA(at), sizeof(info));
        memcpy(out->source.source, &info.ipi_spec_dst, 4);
        out->source.source_ifindex = (uint32_t)info.ipi_ifindex;
    } else if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo info;
        memcpy(&info, CMSG_DATA(at), sizeof(info));
        memcpy(out->source.source, &info.ipi6_addr, 16);
        out->source.source_ifindex = info.ipi6_ifindex;
    } else if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SO_TIMESTAMPNS_NEW) {
        out->age_ns = age_read(at, wall_ns);
    } else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TOS) {
        out->tos = *CMSG_DATA(at);
    } else if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_TCLASS) {
        int tclass;
        memcpy(&tclass, CMSG_DATA(at), sizeof(tclass));
        out->tos = (uint8_t)tclass;
    }
}

/* ---- out ---- */

struct wg_udp_messages {                     /* one thread's own; one entry of each array per run */
    uint8_t *arena;                          /* WG_UDP_ARENA_LEN bytes, prefaulted */
    struct mmsghdr slots[WG_UDP_SEND_SLOTS]; /* what sendmmsg takes; points to the rest */
    struct iovec iov[WG_UDP_SEND_SLOTS];     /* into the arena */
    union sockaddr_any names[WG_UDP_SEND_SLOTS]; /* to whom */
    union control controls[WG_UDP_SEND_SLOTS];   /* source, TOS, hops, segment */
};

/* A page fault costs more than a packet: map and touch everything at start. */
static void *pages_new(size_t length)
{
    void *pages = mmap(NULL, length, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

struct wg_udp_messages *wg_udp_messages_new(void)
{
    struct wg_udp_messages *messages = calloc(1, sizeof(*messages));

    if (!messages)
        return NULL;
    messages->arena = pages_new(WG_UDP_ARENA_LEN);
    if (!messages->arena) {
        free(messages);
        return NULL;
    }
    return messages;
}

void wg_udp_messages_free(struct wg_udp_messages *messages)
{
    if (!messages)
        return;
    munmap(messages->arena, WG_UDP_ARENA_LEN);
    free(messages);
}

uint8_t *wg_udp_messages_arena(struct wg_udp_messages *messages) { return messages->arena; }

int wg_udp_fd(const wg_worker_io *io, const wg_endpoint *to)
{
    return to->family == AF_INET ? io->udp4_fd : io->udp6_fd;
}

void wg_udp_messages_set(struct wg_udp_messages *messages, uint32_t i, const struct wg_run *run)
{
    struct msghdr *msg = &messages->slots[i].msg_hdr;

    messages->iov[i] =
        (struct iovec){.iov_base = messages->arena + run->offset, .iov_len = run->length};
    *msg = (struct msghdr){.msg_name = &messages->names[i],
                           .msg_namelen = endpoint_to_sockaddr(&run->to, &messages->names[i]),
                           .msg_iov = &messages->iov[i],
                           .msg_iovlen = 1};
    message_set_control(msg, &messages->controls[i], &run->to, run->tos,
                        run->count > 1 ? (uint16_t)run->segment : 0);
}

uint32_t wg_udp_messages_send(struct wg_udp_messages *messages, int fd, uint32_t first,
                              uint32_t count, int *error)
{
    uint32_t sent = 0;

    *error = 0;
    while (sent < count) {
        int n = sendmmsg(fd, messages->slots + first + sent, count - sent, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            *error = n < 0 ? errno : EIO;
            break;
        }
        sent += (uint32_t)n;
    }
    return sent;
}

/* ---- out, one at a time ---- */

bool wg_udp_is_stale_source(int error)
{
    return error == EINVAL || error == EADDRNOTAVAIL || error == ENETUNREACH || error == ENODEV;
}

int wg_udp_send(const wg_worker_io *io, const wg_endpoint *to, const uint8_t *data, uint32_t length,
                uint8_t tos)
{
    union sockaddr_any name;
    union control control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    struct msghdr msg = {.msg_name = &name, .msg_iov = &iov, .msg_iovlen = 1};

    msg.msg_namelen = endpoint_to_sockaddr(to, &name);
    message_set_control(&msg, &control, to, tos, 0);
    return sendmsg(wg_udp_fd(io, to), &msg, MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* ---- in ---- */

struct wg_udp_receiver { /* one thread's own; one entry of each array per message */
    uint8_t *buffers;    /* WG_UDP_RECEIVE_SLOTS of WG_UDP_BUFFER_LEN, prefaulted */
    struct mmsghdr messages[WG_UDP_RECEIVE_SLOTS];  /* what recvmmsg takes; points to the rest */
    struct iovec iov[WG_UDP_RECEIVE_SLOTS];         /* into buffers */
    union sockaddr_any names[WG_UDP_RECEIVE_SLOTS]; /* from whom */
    union control controls[WG_UDP_RECEIVE_SLOTS];   /* local address, TOS, segment, time */
};

struct wg_udp_receiver *wg_udp_receiver_new(void)
{
    struct wg_udp_receiver *receiver = calloc(1, sizeof(*receiver));

    if (!receiver)
        return NULL;
    receiver->buffers = pages_new((size_t)WG_UDP_RECEIVE_SLOTS * WG_UDP_BUFFER_LEN);
    if (!receiver->buffers) {
        free(receiver);
        return NULL;
    }
    return receiver;
}

void wg_udp_receiver_free(struct wg_udp_receiver *receiver)
{
    if (!receiver)
        return;
    munmap(receiver->buffers, (size_t)WG_UDP_RECEIVE_SLOTS * WG_UDP_BUFFER_LEN);
    free(receiver);
}

/* The kernel overwrites lengths and flags at each call, so every slot is prepared anew. */
static void slots_prepare(struct wg_udp_receiver *receiver, int count)
{
    for (int i = 0; i < count; i++) {
        receiver->iov[i] =
            (struct iovec){.iov_base = receiver->buffers + (size_t)i * WG_UDP_BUFFER_LEN,
                           .iov_len = WG_UDP_BUFFER_LEN};
        receiver->messages[i].msg_hdr = (struct msghdr){.msg_name = &receiver->names[i],
                                                        .msg_namelen = sizeof(receiver->names[i]),
                                                        .msg_iov = &receiver->iov[i],
                                                        .msg_iovlen = 1,
                                                        .msg_control = &receiver->controls[i],
                                                        .msg_controllen = CONTROL_LEN};
    }
}

static void slot_read(struct wg_udp_receiver *receiver, int i, uint64_t wall_ns,
                      struct wg_datagrams *out)
{
    struct msghdr *msg = &receiver->messages[i].msg_hdr;

    out->data = receiver->iov[i].iov_base;
    out->length = msg->msg_flags & MSG_TRUNC ? 0 : receiver->messages[i].msg_len;
    out->segment = out->length ? out->length : 1;
    out->tos = 0;
    out->age_ns = 0;
    endpoint_from_sockaddr(&receiver->names[i], &out->source);
    for (struct cmsghdr *at = CMSG_FIRSTHDR(msg); at; at = CMSG_NXTHDR(msg, at))
        control_read(at, wall_ns, out);
}

static uint64_t now_wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return WG_SECONDS(now.tv_sec) + (uint64_t)now.tv_nsec;
}

int wg_udp_receive(struct wg_udp_receiver *receiver, int fd, struct wg_datagrams *out, int max)
{
    int count;

    if (max > WG_UDP_RECEIVE_SLOTS)
        max = WG_UDP_RECEIVE_SLOTS;
    slots_prepare(receiver, max);
    do {
        count = recvmmsg(fd, receiver->messages, (unsigned int)max, MSG_DONTWAIT, NULL);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    uint64_t wall_ns = now_wall_ns();
    for (int i = 0; i < count; i++)
        slot_read(receiver, i, wall_ns, &out[i]);
    return count;
}

/* ---- a socket's buffers ---- */

/* Both sockets are alike. */
uint32_t wg_udp_send_buffer(const wg_worker_io *io)
{
    int fd = io->udp4_fd >= 0 ? io->udp4_fd : io->udp6_fd, length = 0;
    socklen_t size = sizeof(length);

    return getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &length, &size) ? UINT32_MAX : (uint32_t)length;
}

int wg_udp_queued(int fd)
{
    int queued;

    return ioctl(fd, SIOCOUTQ, &queued) < 0 ? -1 : queued;
}

/* UDP is ready to be written to when half of the buffer is free. */
bool wg_udp_wait_room(int fd)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};

    return poll(&room, 1, WAIT_MS) > 0;
}

/* The kernel doubles it: socket(7). */
uint32_t wg_udp_receive_buffer(int fd)
{
    int bytes = 0;
    socklen_t length = sizeof(bytes);

    getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &length);
    return (uint32_t)bytes / 2;
}

void wg_udp_set_receive_buffer(int fd, uint32_t bytes)
{
    int value = (int)bytes;

    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &value, sizeof(value)))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, sizeof(value));
}
