/* SPDX-License-Identifier: MIT */
/* Packets -> frames for the TUN. */
#ifndef WGPY_GRO_H
#define WGPY_GRO_H
#include "tun.h"
#include "udp.h"

/* Packets of one batch, however many datagrams a kernel makes one message of: the shortest is an
 * IPv4 header that its sender did not pad. */
#define WG_GRO_PACKETS (WG_UDP_RECEIVE_SLOTS * (WG_UDP_BUFFER_LEN / (WG_TRANSPORT_OVERHEAD + 20)))

#define WG_GRO_SEGMENTS 128 /* per frame */

struct wg_gro; /* one per receive thread, preallocated */

struct wg_gro *wg_gro_new(void);
void wg_gro_free(struct wg_gro *gro);
void wg_gro_reset(struct wg_gro *gro, uint32_t features);
/* Takes a packet that passed every check (valid IP version and total length == length); it must
 * stay in place until the reset.  -ENOSPC: write the frames out, reset, add again. */
int wg_gro_add(struct wg_gro *gro, uint8_t *packet, uint32_t length);
/* Frames in order of their first packets: iov[0] is the virtio_net_hdr when features has VNET_HDR.
 * Returns the number of iovecs filled (at most WG_GRO_SEGMENTS + 2), 0 after the last frame.
 * *packets: how many the frame stands for.  A frame is valid until the next call. */
int wg_gro_next(struct wg_gro *gro, struct iovec *iov, uint32_t *packets);
/* After the TUN refused a coalesced frame with EINVAL: the packets of the frame that wg_gro_next
 * gave last, one at a time, each with a plain virtio_net_hdr.  Same return. */
int wg_gro_next_single(struct wg_gro *gro, struct iovec *iov);

#endif
