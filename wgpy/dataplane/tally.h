/* SPDX-License-Identifier: MIT */
/* What was dropped or refused: how often, when last, and what about. */
#ifndef WGPY_TALLY_H
#define WGPY_TALLY_H
#include "tables.h"

wg_about wg_about_endpoint(const wg_endpoint *endpoint, int error); /* error: an errno, or 0 */
wg_about wg_about_address(const uint8_t *address, bool v4);
wg_about wg_about_error(int error);
/* now_ns: of the batch.  about may be NULL. */
void wg_tally_add(struct wg_tally_cell *cell, uint64_t count, uint64_t now_ns,
                  const wg_about *about);
void wg_drop_from(wg_device *device, enum wg_device_drop why, const wg_endpoint *source,
                  uint64_t now_ns);
/* To an inner address that is in nobody's allowed IPs. */
void wg_drop_to(wg_device *device, const uint8_t *destination, bool v4, uint32_t packets,
                uint64_t now_ns);
void wg_refuse(wg_device *device, enum wg_refusal why, const wg_endpoint *source, uint64_t now_ns);
void wg_tallies_read(struct wg_tally_cell *cells, wg_tally *tallies, uint32_t count);

#endif
