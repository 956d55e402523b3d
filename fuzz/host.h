/* SPDX-License-Identifier: MIT */
/* A kernel of one thread, for the core under a fuzzer: descriptors that are only numbers, a clock
 * that stands, and randomness that repeats.  The linker leads the core's system calls here
 * (fuzzing.py); those on other descriptors go on to the system. */
#ifndef WGPY_FUZZ_HOST_H
#define WGPY_FUZZ_HOST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api.h"

enum {
    HOST_FD = 1 << 20, /* from here on they are ours */
    HOST_TUN = HOST_FD,
    HOST_UDP4,
    HOST_UDP6,
    HOST_EVENT,
    HOST_RECEIVE_WAKE,
    HOST_SEND_WAKE,
    HOST_IN_MAX = 96,        /* datagrams or frames of one input */
    HOST_OUT_MAX = 4096,     /* and what may come of them */
    HOST_OUT_BYTES = 4 << 20 /* all of those */
};

#define HOST_START_NS 1000000000000ull /* when every input begins, but see host_begin */

struct host_item {       /* a datagram, or a train of them, or a frame for the TUN */
    uint8_t *data;       /* its bytes */
    uint32_t length;     /* of data */
    uint32_t segment;    /* bytes of each datagram of a train; 0: it is none */
    uint64_t age_ns;     /* how long it waited */
    uint64_t advance_ns; /* time that passes before it comes */
    wg_endpoint from;    /* who sends it, and the address of ours that it comes to */
    uint8_t tos;         /* of its IP packet */
    uint8_t act;         /* what control does before it comes; 0: nothing */
    bool truncated;      /* the kernel cut it off */
    bool taken;          /* the core has it */
};

struct host_out {    /* what the core wrote */
    uint8_t *data;   /* in a buffer of the host */
    uint32_t length; /* of data */
    wg_endpoint to;  /* of a datagram: its destination, and source and hops if they were told */
    uint8_t tos;     /* likewise */
};

struct host {
    wg_device *device;                    /* stopped when nothing comes any more */
    uint64_t now_ns;                      /* CLOCK_BOOTTIME */
    uint32_t random;                      /* state of the generator */
    uint32_t in_count, sent_count;        /* entries in use, here ... */
    uint32_t frame_count;                 /* ... and here */
    struct host_item in[HOST_IN_MAX];     /* what comes, in order */
    struct host_out sent[HOST_OUT_MAX];   /* datagrams that left */
    struct host_out frames[HOST_OUT_MAX]; /* frames written to the TUN */
    void (*on_take)(struct host_item *);  /* called before the core gets it; may be NULL */
    uint8_t send_faults[16];              /* errno of the next sends, in turn; 0: none */
    uint32_t sends;                       /* that there were */
    uint8_t tun_faults[16];               /* errno of the next writes to the TUN, in turn */
    uint32_t tun_writes;                  /* that there were */
    uint8_t read_faults[4];               /* errno of the next reads of the TUN, in turn */
    uint32_t tun_reads;                   /* that there were */
    bool tun_refuses_super;               /* EINVAL for each super-packet */
    bool full;                            /* datagrams left that found no room in sent */
    int queued;                           /* bytes that SIOCOUTQ tells */
};
extern struct host host;

struct input {               /* what the fuzzer gave, from front to back; then zeros */
    const uint8_t *at, *end; /* what is left of it */
};
static inline bool input_left(const struct input *in) { return in->at < in->end; }
static inline uint8_t input_8(struct input *in) { return in->at < in->end ? *in->at++ : 0; }
static inline uint16_t input_16(struct input *in)
{
    uint8_t low = input_8(in);

    return (uint16_t)(low | input_8(in) << 8);
}

/* Forgets all that came and went.  The clock goes on by an hour, so that no rate and no secret of
 * the input before counts any more. */
void host_begin(void);
/* Ends the process, for the fuzzer to see, when the core did what it should not. */
void expect(bool holds, const char *otherwise);

#endif
