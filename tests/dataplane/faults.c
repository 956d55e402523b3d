/* SPDX-License-Identifier: MIT */
/* Stands between the core and the kernel, for core.py links with --wrap: before each call the
 * test's hook says how the kernel answers it (faults.py). */
#include <errno.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "bytes.h"
#include "doors.h"

int (*fault_on_sendmmsg)(struct fault_message *messages, unsigned int count);
int (*fault_on_ioctl)(void);
int (*fault_on_recvmmsg)(void);
int (*fault_on_writev)(const uint8_t *start, size_t length);
int (*fault_on_read)(int fd);
int (*fault_on_poll)(unsigned int count, int timeout_ms);
int64_t (*fault_on_clock_gettime)(void);
static _Atomic uint64_t clock_ahead_ns;

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __real_ioctl(int fd, unsigned long request, void *value);
int __wrap_ioctl(int fd, unsigned long request, void *value);
int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout);
ssize_t __real_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
ssize_t __real_read(int fd, void *buffer, size_t size);
ssize_t __wrap_read(int fd, void *buffer, size_t size);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

static int refuse(int error)
{
    errno = -error;
    return -1;
}

static struct fault_message message_read(struct msghdr *msg)
{
    const struct sockaddr_in *to = msg->msg_name; /* the port stands where it does in IPv6 */
    struct fault_message message = {.port = ntohs(to->sin_port)};

    for (struct cmsghdr *at = CMSG_FIRSTHDR(msg); at; at = CMSG_NXTHDR(msg, at))
        if (at->cmsg_level == IPPROTO_UDP && at->cmsg_type == UDP_SEGMENT)
            memcpy(&message.segment, CMSG_DATA(at), sizeof(message.segment));
    return message;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    struct fault_message seen[count];

    if (fault_on_sendmmsg) {
        for (unsigned int i = 0; i < count; i++)
            seen[i] = message_read(&messages[i].msg_hdr);
        int most = fault_on_sendmmsg(seen, count);
        if (most < 0)
            return refuse(most);
        count = (unsigned int)most;
    }
    return __real_sendmmsg(fd, messages, count, flags);
}

/* The core asks for nothing but how full the buffer of a socket is. */
int __wrap_ioctl(int fd, unsigned long request, void *value)
{
    int used = fault_on_ioctl ? fault_on_ioctl() : -1, room;
    socklen_t length = sizeof(room);

    if (used < 0 || getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &length))
        return __real_ioctl(fd, request, value);
    *(int *)value = (int)((long)room * used / 1000);
    return 0;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout)
{
    int truncated = fault_on_recvmmsg ? fault_on_recvmmsg() : 0;

    if (truncated < 0)
        return refuse(truncated);
    int received = __real_recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; i < received; i++)
        if (truncated >> i & 1)
            messages[i].msg_hdr.msg_flags |= MSG_TRUNC;
    return received;
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
    int error = fault_on_writev ? fault_on_writev(iov[0].iov_base, iov[0].iov_len) : 0;

    return error < 0 ? refuse(error) : __real_writev(fd, iov, count);
}

ssize_t __wrap_read(int fd, void *buffer, size_t size)
{
    int error = fault_on_read ? fault_on_read(fd) : 0;

    return error < 0 ? refuse(error) : __real_read(fd, buffer, size);
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    int error = fault_on_poll ? fault_on_poll((unsigned int)count, timeout_ms) : 0;

    return error < 0 ? refuse(error) : __real_poll(fds, count, timeout_ms);
}

static void clock_add(struct timespec *now, int64_t ns)
{
    ns += now->tv_nsec;
    now->tv_sec += ns / (int64_t)WG_NS_PER_S;
    now->tv_nsec = ns % (int64_t)WG_NS_PER_S;
}

void door_set_clock(uint64_t ahead_ns) { clock_ahead_ns = ahead_ns; }

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
    int error = __real_clock_gettime(clock, now);

    if (clock == CLOCK_BOOTTIME)
        clock_add(now, (int64_t)clock_ahead_ns);
    else if (fault_on_clock_gettime)
        clock_add(now, fault_on_clock_gettime());
    return error;
}
