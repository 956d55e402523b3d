/* SPDX-License-Identifier: MIT */
/* Errors for the host itself. */
#ifndef WGPY_ICMP_H
#define WGPY_ICMP_H
#include "api.h"

struct wg_icmp_limits; /* rates, of one device */
struct wg_icmp_limits *wg_icmp_limits_new(void);
void wg_icmp_limits_free(struct wg_icmp_limits *icmp);
/* Answers a whole IP packet from the TUN that has nowhere to go; not under a lock.  Says nothing
 * where an ICMP error is forbidden, or too often. */
void wg_icmp_unreachable(wg_device *device, int tun_fd, const uint8_t *packet, uint32_t length,
                         uint64_t now_ns);

#endif
