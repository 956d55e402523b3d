/* SPDX-License-Identifier: MIT */
/* A kernel of one thread: see host.h. */
#include <errno.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "bytes.h"
#include "host.h"
#include "tables.h"

#define SOCKET_BUFFER (4 << 20)

struct host host;
static uint8_t out_bytes[HOST_OUT_BYTES];
static size_t out_used;

int __real_ioctl(int fd, unsigned long request, void *value);
int __wrap_ioctl(int fd, unsigned long request, void *value);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout);
ssize_t __real_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
ssize_t __real_read(int fd, void *buffer, size_t size);
ssize_t __wrap_read(int fd, void *buffer, size_t size);
ssize_t __real_write(int fd, const void *buffer, size_t size);
ssize_t __wrap_write(int fd, const void *buffer, size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __wrap_getrandom(void *out, size_t length, unsigned int flags);

void expect(bool holds, const char *otherwise)
{
    if (holds)
        return;
    fprintf(stderr, "fuzz: %s\n", otherwise);
    abort();
}

void host_begin(void)
{
    uint64_t now_ns = host.now_ns ? host.now_ns : HOST_START_NS;
    wg_device *device = host.device;

    memset(&host, 0, offsetof(struct host, in));
    host.on_take = NULL;
    memset(host.send_faults, 0, sizeof(host) - offsetof(struct host, send_faults));
    host.device = device;
    host.now_ns = now_ns + WG_SECONDS(3600);
    host.random = 1;
    out_used = 0;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

static uint8_t *out_copy(const void *data, size_t length)
{
    uint8_t *copy = out_bytes + out_used;

    expect(out_used + length <= sizeof(out_bytes), "more came out than the host has room for");
    memcpy(copy, data, length);
    out_used += length;
    return copy;
}

/* ---- datagrams out ---- */

static struct host_out out_read(const struct msghdr *msg, uint32_t *segment)
{
    const struct sockaddr_in6 *v6 = msg->msg_name;
    const struct sockaddr_in *v4 = msg->msg_name;
    struct host_out out = {.to = {.family = v6->sin6_family, .port = ntohs(v6->sin6_port)}};

    if (out.to.family == AF_INET)
        memcpy(out.to.addr, &v4->sin_addr, 4);
    else
        memcpy(out.to.addr, &v6->sin6_addr, 16);
    for (struct cmsghdr *at = CMSG_FIRSTHDR(msg); at; at = CMSG_NXTHDR((struct msghdr *)msg, at)) {
        if (at->cmsg_level == IPPROTO_UDP && at->cmsg_type == UDP_SEGMENT)
            *segment = *(uint16_t *)CMSG_DATA(at);
        else if ((at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TTL) ||
                 (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_HOPLIMIT))
            out.to.hops = *CMSG_DATA(at);
        else if ((at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TOS) ||
                 (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_TCLASS))
            out.tos = *CMSG_DATA(at);
    }
    return out;
}

static void send_one(struct msghdr *msg)
{
    uint32_t length = (uint32_t)msg->msg_iov[0].iov_len, segment = length;
    struct host_out out = out_read(msg, &segment);

    expect(msg->msg_iovlen == 1 && length && length <= 65535 - 8, "a datagram of no length");
    expect(segment && (length + segment - 1) / segment <= 64, "more segments than Linux takes");
    host.full |= host.sent_count + 64 > HOST_OUT_MAX || out_used + length > sizeof(out_bytes);
    if (host.full)
        return;
    const uint8_t *data = out_copy(msg->msg_iov[0].iov_base, length);
    for (uint32_t at = 0; at < length; at += segment) {
        out.data = (uint8_t *)(uintptr_t)data + at;
        out.length = length - at < segment ? length - at : segment;
        host.sent[host.sent_count++] = out;
    }
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    unsigned int sent = 0;

    expect(fd == HOST_UDP4 || fd == HOST_UDP6, "a send that is not to a socket");
    expect(flags == MSG_DONTWAIT, "a send that may wait");
    for (; sent < count; sent++) {
        uint8_t error = host.send_faults[host.sends++ % sizeof(host.send_faults)];
        if (error)
            return sent ? (int)sent : refuse(error);
        send_one(&messages[sent].msg_hdr);
    }
    return (int)sent;
}

/* ---- datagrams in ---- */

static struct cmsghdr *control_put(struct cmsghdr *at, int level, int type, const void *value,
                                   size_t length)
{
    at->cmsg_level = level;
    at->cmsg_type = type;
    at->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(at), value, length);
    return (struct cmsghdr *)((uint8_t *)at + CMSG_SPACE(length));
}

static void put_source(struct msghdr *msg, const wg_endpoint *from)
{
    memset(msg->msg_name, 0, msg->msg_namelen);
    if (from->family == AF_INET) {
        struct sockaddr_in *v4 = msg->msg_name;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(from->port);
        memcpy(&v4->sin_addr, from->addr, 4);
    } else {
        struct sockaddr_in6 *v6 = msg->msg_name;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(from->port);
        memcpy(&v6->sin6_addr, from->addr, 16);
    }
}

static void put_controls(struct msghdr *msg, const struct host_item *item)
{
    bool v4 = item->from.family == AF_INET;
    struct cmsghdr *at = msg->msg_control;
    uint64_t wall_ns = host.now_ns - item->age_ns;
    int64_t stamp[2] = {(int64_t)(wall_ns / WG_NS_PER_S), (int64_t)(wall_ns % WG_NS_PER_S)};
    int tos = item->tos, segment = (int)item->segment;

    if (v4) {
        struct in_pktinfo info = {.ipi_ifindex = 2};
        memcpy(&info.ipi_addr, item->from.source, 4);
        info.ipi_spec_dst = info.ipi_addr;
        at = control_put(at, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
        at = control_put(at, IPPROTO_IP, IP_TOS, &item->tos, 1);
    } else {
        struct in6_pktinfo info = {.ipi6_ifindex = 2};
        memcpy(&info.ipi6_addr, item->from.source, 16);
        at = control_put(at, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
        at = control_put(at, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    }
    at = control_put(at, SOL_SOCKET, SO_TIMESTAMPNS_NEW, stamp, sizeof(stamp));
    if (segment)
        at = control_put(at, IPPROTO_UDP, UDP_GRO, &segment, sizeof(segment));
    expect((uint8_t *)at <= (uint8_t *)msg->msg_control + msg->msg_controllen,
           "no room for what the kernel says of a datagram");
    msg->msg_controllen = (size_t)((uint8_t *)at - (uint8_t *)msg->msg_control);
}

static void give(struct mmsghdr *message, struct host_item *item)
{
    struct msghdr *msg = &message->msg_hdr;

    item->taken = true;
    if (host.on_take)
        host.on_take(item);
    expect(msg->msg_iov[0].iov_len >= 65535, "a buffer that a datagram does not fit");
    memcpy(msg->msg_iov[0].iov_base, item->data, item->length);
    message->msg_len = item->length;
    msg->msg_flags = item->truncated ? MSG_TRUNC : 0;
    put_source(msg, &item->from);
    put_controls(msg, item);
}

static struct host_item *next_of(int fd)
{
    for (uint32_t i = 0; i < host.in_count; i++) {
        struct host_item *item = &host.in[i];
        bool fits = fd == HOST_TUN || item->from.family == (fd == HOST_UDP4 ? AF_INET : AF_INET6);
        if (!item->taken && fits)
            return item;
    }
    return NULL;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout)
{
    unsigned int given = 0;
    struct host_item *item;

    (void)timeout;
    expect(flags == MSG_DONTWAIT, "a receive that may wait");
    while (given < count && (item = next_of(fd)) && !(given && (item->advance_ns || item->act))) {
        host.now_ns += item->advance_ns;
        give(&messages[given++], item);
    }
    return given ? (int)given : refuse(EAGAIN);
}

/* ---- the TUN ---- */

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
    if (fd < HOST_FD)
        return __real_writev(fd, iov, count);
    uint8_t error = host.tun_faults[host.tun_writes++ % sizeof(host.tun_faults)];
    bool vnet = host.device->io.features & WG_FEATURE_VNET_HDR;
    const uint8_t *start = iov[0].iov_base;
    struct host_out *frame = &host.frames[host.frame_count];

    expect(fd == HOST_TUN, "a frame that is not for the TUN");
    if (vnet && iov[0].iov_len >= 2 && start[1] && host.tun_refuses_super)
        error = EINVAL;
    if (error)
        return refuse(error);
    expect(host.frame_count++ < HOST_OUT_MAX, "more frames than the host has room for");
    *frame = (struct host_out){.data = out_bytes + out_used};
    for (int i = 0; i < count; i++) {
        out_copy(iov[i].iov_base, iov[i].iov_len);
        frame->length += (uint32_t)iov[i].iov_len;
    }
    return (ssize_t)frame->length;
}

static ssize_t tun_read(uint8_t *buffer, size_t size)
{
    uint8_t error = host.read_faults[host.tun_reads++ % sizeof(host.read_faults)];
    struct host_item *item = next_of(HOST_TUN);

    if (!item)
        return refuse(EAGAIN);
    if (error)
        return refuse(error);
    item->taken = true;
    host.now_ns += item->advance_ns;
    if (host.on_take)
        host.on_take(item);
    size_t length = item->length < size ? item->length : size;
    memcpy(buffer, item->data, length);
    return (ssize_t)length;
}

/* ---- the rest ---- */

ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
    if (fd < HOST_FD)
        return __real_read(fd, buffer, size);
    if (fd == HOST_TUN)
        return tun_read(buffer, size);
    return refuse(EAGAIN);
}

ssize_t __wrap_write(int fd, const void *buffer, size_t size)
{
    return fd < HOST_FD ? __real_write(fd, buffer, size) : (ssize_t)size;
}

/* Whoever waits when nothing is left is told to stop. */
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    int ready = 0;

    if (count && fds[0].fd >= 0 && fds[0].fd < HOST_FD)
        return __real_poll(fds, count, timeout_ms);
    for (nfds_t i = 0; i < count; i++) {
        bool data = fds[i].fd >= HOST_TUN && fds[i].fd <= HOST_UDP6;
        bool some = data && (fds[i].events == POLLOUT ? host.queued < SOCKET_BUFFER / 2
                                                      : next_of(fds[i].fd) != NULL);
        fds[i].revents = some ? fds[i].events : 0;
        ready += some;
    }
    if (!ready && fds[0].events == POLLIN && !next_of(HOST_TUN))
        atomic_store(&host.device->stopping, true);
    return ready;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    if (fd < HOST_FD)
        return __real_getsockopt(fd, level, name, value, length);
    *(int *)value = SOCKET_BUFFER;
    return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    (void)level, (void)value, (void)length;
    expect(fd >= HOST_FD && (name == SO_RCVBUFFORCE || name == SO_RCVBUF), "an unknown option");
    return name == SO_RCVBUFFORCE ? refuse(EPERM) : 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *value)
{
    if (fd < HOST_FD)
        return __real_ioctl(fd, request, value);
    *(int *)value = host.queued;
    return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    (void)clock;
    now->tv_sec = (time_t)(host.now_ns / WG_NS_PER_S);
    now->tv_nsec = (long)(host.now_ns % WG_NS_PER_S);
    return 0;
}

/* xorshift32: the same for each input. */
ssize_t __wrap_getrandom(void *out, size_t length, unsigned int flags)
{
    uint8_t *bytes = out;

    (void)flags;
    for (size_t i = 0; i < length; i++) {
        host.random ^= host.random << 13;
        host.random ^= host.random >> 17;
        host.random ^= host.random << 5;
        bytes[i] = (uint8_t)(host.random >> 8);
    }
    return (ssize_t)length;
}
