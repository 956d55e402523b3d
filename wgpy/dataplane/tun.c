/* SPDX-License-Identifier: MIT */
/* The TUN descriptor: one frame per call.  Tests pass any descriptor that keeps frame boundaries.
 */
#include <errno.h>
#include <unistd.h>

#include "tun.h"

ssize_t wg_tun_read(int fd, uint8_t *buffer, size_t size)
{
    ssize_t length;

    do {
        length = read(fd, buffer, size);
    } while (length < 0 && errno == EINTR);
    if (length < 0)
        return -errno;
    return length == 0 ? -EBADFD : length; /* a closed socket pair ends like a deleted TUN */
}

int wg_tun_write(int fd, const struct iovec *iov, int count)
{
    ssize_t written;

    do {
        written = writev(fd, iov, count);
    } while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : 0;
}
