/* SPDX-License-Identifier: MIT */
/* Whose turn it is, of threads that do the same work side by side. */
#ifndef WGPY_TURNSTILE_H
#define WGPY_TURNSTILE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct wg_turnstile {               /* what they share */
    _Atomic uint32_t taking;        /* bits of turnstile.c; any thread; a futex */
    _Atomic uint32_t take_sleepers; /* threads that may sleep there; any thread */
    uint32_t next_ticket;           /* whose turn it is to take, it draws it */
    _Atomic uint32_t giving;        /* the ticket whose turn it is; whose it was; a futex */
    _Atomic uint32_t give_sleepers; /* threads that may sleep there; any thread */
};

struct wg_turn {                    /* one thread's own */
    struct wg_turnstile *turnstile; /* NULL: it is alone and never waits */
    uint32_t ticket;                /* while drawn */
    bool takes;                     /* it is its turn to take */
    bool drawn;                     /* it has a ticket */
    bool gives;                     /* and it is its turn to give */
};

void wg_turnstile_init(struct wg_turnstile *turnstile);
void wg_turn_init(struct wg_turn *turn, struct wg_turnstile *turnstile);
/* Of threads that are not alone; see below. */
bool wg_turn_wait_take(struct wg_turn *turn);
void wg_turn_pass_on(struct wg_turn *turn);
void wg_turn_wait_give(struct wg_turn *turn);
void wg_turn_gave(struct wg_turn *turn);
void wg_turn_close(struct wg_turn *turn);

/* Waits until it is the thread's turn to take, unless it has not passed it on since the last time.
 * False: somebody left, and so has this thread to. */
static inline bool wg_turn_take(struct wg_turn *turn)
{
    return turn->takes || wg_turn_wait_take(turn);
}
/* Draws a ticket and lets the next one take.  May be called under a lock: it waits for nothing. */
static inline void wg_turn_pass(struct wg_turn *turn)
{
    if (turn->turnstile)
        wg_turn_pass_on(turn);
}
/* Draws a ticket unless it has one and waits until all before it have given. */
static inline void wg_turn_give(struct wg_turn *turn)
{
    if (!turn->gives)
        wg_turn_wait_give(turn);
}
/* Has it a ticket, it has called wg_turn_give: the next one's turn. */
static inline void wg_turn_end(struct wg_turn *turn)
{
    if (turn->drawn)
        wg_turn_gave(turn);
}
/* For good, and without a ticket: nobody takes any more. */
static inline void wg_turn_leave(struct wg_turn *turn)
{
    if (turn->turnstile)
        wg_turn_close(turn);
}

#endif
