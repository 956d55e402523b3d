/* SPDX-License-Identifier: MIT */
/* What makes a handshake message worth an answer. */
#ifndef WGPY_COOKIE_H
#define WGPY_COOKIE_H
#include <stdbool.h>

#include "api.h"

struct wg_cookie_checker; /* of one receive thread */
struct wg_cookie_checker *wg_cookie_checker_new(wg_device *device, uint32_t worker);
void wg_cookie_checker_free(struct wg_cookie_checker *checker);
/* These three: read side of tables; a whole message 1 or 2. want_reply: its mac1 was valid. */
bool wg_cookie_mac1_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length);
bool wg_cookie_mac2_valid(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source, uint64_t now_ns);
void wg_cookie_want_reply(struct wg_cookie_checker *checker, const uint8_t *message,
                          uint32_t length, const wg_endpoint *source);
/* Sends the replies wanted since the last call, without waiting. A batch has no more than 64. */
void wg_cookie_send_replies(struct wg_cookie_checker *checker, uint64_t now_ns);

#endif
