/* SPDX-License-Identifier: MIT */
/* Several queues of one TUN. */
#ifndef WGPY_FLOWS_H
#define WGPY_FLOWS_H
#include "api.h"

/* Both do nothing but say `worker` when there is only one.  An IP packet or super-packet. */
void wg_flow_sent(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length);
/* The worker whose queue the packet has to be written to. */
uint32_t wg_flow_queue(wg_device *device, uint32_t worker, const uint8_t *ip, uint32_t length);

#endif
