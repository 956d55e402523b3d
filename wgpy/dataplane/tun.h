/* SPDX-License-Identifier: MIT */
/* Frames of the TUN. */
#ifndef WGPY_TUN_H
#define WGPY_TUN_H
#include <linux/virtio_net.h>
#include <sys/uio.h>

#include "api.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
_Static_assert(sizeof(struct virtio_net_hdr) == WG_VNET_HDR_LEN, "struct virtio_net_hdr");

/* One frame; returns its length, -EAGAIN, or -errno. */
ssize_t wg_tun_read(int fd, uint8_t *buffer, size_t size);
int wg_tun_write(int fd, const struct iovec *iov, int count);

#endif
