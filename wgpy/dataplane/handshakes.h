/* SPDX-License-Identifier: MIT */
/* Handshake messages in. */
#ifndef WGPY_HANDSHAKES_H
#define WGPY_HANDSHAKES_H
#include "cookie.h"
#include "tables.h"

struct wg_handshake_gate {             /* one receive thread's own */
    wg_device *device;                 /* whose messages they are */
    struct wg_cookie_checker *cookies; /* its judge of macs */
    uint64_t now_ns;                   /* when this batch came; wg_clock_now_ns */
};

uint32_t wg_handshake_length(uint32_t type); /* bytes; 0: no such message */
/* A message of that type and length.  Read side of tables. */
void wg_handshake_receive(const struct wg_handshake_gate *gate, uint32_t type,
                          const uint8_t *message, uint32_t length, const wg_endpoint *source);

#endif
