/* SPDX-License-Identifier: MIT */
/* One trie per family. */
#ifndef WGPY_ALLOWEDIPS_H
#define WGPY_ALLOWEDIPS_H
#include "tables.h"

struct wg_peer *wg_allowedips_find4(const struct wg_allowedips *trie, const uint8_t addr[4]);
struct wg_peer *wg_allowedips_find6(const struct wg_allowedips *trie, const uint8_t addr[16]);
void wg_allowedips_destroy(struct wg_allowedips *trie);

#endif
