/* SPDX-License-Identifier: MIT */
/* Several threads do the same work side by side, and what comes out is in order all the same:
 *
 *   take (in turn)         work (side by side)         give (in turn)
 *   fetch a batch,         the long part               wait until all earlier tickets
 *   draw a ticket                                      have given; hand it on
 *
 * Who takes is whoever comes first.  A thread may keep its turn to take until it has given: while
 * little comes, one thread does it all, the others sleep, and nobody is woken for a packet.  Who
 * gives waits for tickets only, never for a turn to take; who takes may wait for its own turn to
 * give.  So nobody waits in a circle, and every ticket gets its turn, for nobody leaves with one.
 *
 * Waiting is a short spin, since turns are short, and then a futex.  A sleeper is counted before
 * the kernel compares the word, and the word is changed before the count is read, all sequentially
 * consistent: either the kernel sees the change, or the sleeper is seen and woken. */
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "turnstile.h"

enum { TAKEN = 1, CLOSED = 2 }; /* bits of wg_turnstile.taking */

#define SPINS 100 /* some microseconds, less than it takes to sleep and to be woken */

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* ---- futex ---- */

#define EVERYBODY FUTEX_BITSET_MATCH_ANY

/* A place in line among tickets: so many threads never wait at once that two share one. */
static uint32_t ticket_bit(uint32_t ticket) { return 1u << ticket % 32; }

static void futex_sleep(_Atomic uint32_t *word, uint32_t while_it_is, uint32_t bits,
                        _Atomic uint32_t *sleepers)
{
    atomic_fetch_add(sleepers, 1);
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, while_it_is, NULL, NULL, bits);
    atomic_fetch_sub(sleepers, 1);
}

static void futex_wake(_Atomic uint32_t *word, int count, uint32_t bits, _Atomic uint32_t *sleepers)
{
    if (atomic_load(sleepers))
        syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, count, NULL, NULL, bits);
}

/* ---- take ---- */

void wg_turnstile_init(struct wg_turnstile *turnstile)
{
    atomic_init(&turnstile->taking, 0);
    atomic_init(&turnstile->take_sleepers, 0);
    atomic_init(&turnstile->giving, 0);
    atomic_init(&turnstile->give_sleepers, 0);
    turnstile->next_ticket = 0;
}

void wg_turn_init(struct wg_turn *turn, struct wg_turnstile *turnstile)
{
    bool alone = !turnstile;

    *turn = (struct wg_turn){.turnstile = turnstile, .takes = alone, .gives = alone};
}

/* Whether it is free no more; *word is what it was. */
static bool try_take(struct wg_turnstile *turnstile, uint32_t *word)
{
    *word = atomic_load(&turnstile->taking);
    return !*word && atomic_compare_exchange_strong(&turnstile->taking, word, TAKEN);
}

bool wg_turn_wait_take(struct wg_turn *turn)
{
    struct wg_turnstile *turnstile = turn->turnstile;
    uint32_t word;

    for (uint32_t spins = 0; !try_take(turnstile, &word); spins++) {
        if (word & CLOSED)
            return false;
        if (spins < SPINS)
            spin_pause();
        else
            futex_sleep(&turnstile->taking, TAKEN, EVERYBODY, &turnstile->take_sleepers);
    }
    turn->takes = true;
    return true;
}

static void draw(struct wg_turn *turn)
{
    turn->ticket = turn->turnstile->next_ticket++;
    turn->drawn = true;
}

void wg_turn_pass_on(struct wg_turn *turn)
{
    struct wg_turnstile *turnstile = turn->turnstile;

    if (!turn->drawn)
        draw(turn);
    turn->takes = false;
    atomic_fetch_and(&turnstile->taking, ~(uint32_t)TAKEN);
    futex_wake(&turnstile->taking, 1, EVERYBODY, &turnstile->take_sleepers);
}

void wg_turn_close(struct wg_turn *turn)
{
    struct wg_turnstile *turnstile = turn->turnstile;

    atomic_fetch_or(&turnstile->taking, CLOSED);
    futex_wake(&turnstile->taking, INT_MAX, EVERYBODY, &turnstile->take_sleepers);
}

/* ---- give ---- */

void wg_turn_wait_give(struct wg_turn *turn)
{
    struct wg_turnstile *turnstile = turn->turnstile;
    uint32_t now_gives;

    if (!turn->drawn)
        draw(turn);
    for (uint32_t spins = 0; (now_gives = atomic_load(&turnstile->giving)) != turn->ticket;
         spins++) {
        if (spins < SPINS)
            spin_pause();
        else
            futex_sleep(&turnstile->giving, now_gives, ticket_bit(turn->ticket),
                        &turnstile->give_sleepers);
    }
    turn->gives = true;
}

void wg_turn_gave(struct wg_turn *turn)
{
    struct wg_turnstile *turnstile = turn->turnstile;
    uint32_t next = turn->ticket + 1;

    turn->drawn = turn->gives = false;
    atomic_store(&turnstile->giving, next);
    futex_wake(&turnstile->giving, INT_MAX, ticket_bit(next), &turnstile->give_sleepers);
}
