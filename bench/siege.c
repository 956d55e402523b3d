/* SPDX-License-Identifier: MIT */
/* Sends handshake messages at a steady rate from many source addresses.
 *
 *   siege ADDRESS PORT FIRST_SOURCE SOURCES RATE SECONDS < MESSAGES
 *
 * MESSAGES are initiations, back to back; they are sent over and over, each from the next source.
 * Prints "flooding" when it begins, and at the end (SIGTERM makes it come early) how many went out
 * and in how many milliseconds.
 * One socket: the source goes with each message (ip(7), IP_PKTINFO).  What comes back is lost. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    MESSAGE_LEN = 148,
    MESSAGES_MAX = 65536,
    BATCH = 64,
    TICK_NS = 1000000,
    DEBT_TICKS = 20, /* what a late wake-up may make up for */
};

union control {                                           /* the source of one message */
    struct cmsghdr header;                                /* makes the address right */
    uint8_t bytes[CMSG_SPACE(sizeof(struct in_pktinfo))]; /* header and value */
};

static uint8_t messages[MESSAGES_MAX][MESSAGE_LEN];
static struct mmsghdr batch[BATCH];
static struct iovec iov[BATCH];
static union control controls[BATCH];

static volatile sig_atomic_t ended;

static void end(int number)
{
    (void)number;
    ended = 1;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct in_addr address(const char *text)
{
    struct in_addr out;

    if (inet_pton(AF_INET, text, &out) != 1) {
        fprintf(stderr, "%s: no IPv4 address\n", text);
        exit(1);
    }
    return out;
}

static void prepare(struct sockaddr_in *to)
{
    for (int i = 0; i < BATCH; i++) {
        iov[i].iov_len = MESSAGE_LEN;
        batch[i].msg_hdr = (struct msghdr){.msg_name = to,
                                           .msg_namelen = sizeof(*to),
                                           .msg_iov = &iov[i],
                                           .msg_iovlen = 1,
                                           .msg_control = &controls[i],
                                           .msg_controllen = sizeof(controls[i])};
        controls[i].header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)),
                                              .cmsg_level = IPPROTO_IP,
                                              .cmsg_type = IP_PKTINFO};
    }
}

static void fill(int i, uint64_t number, size_t count, uint32_t first_source, uint32_t sources)
{
    struct in_pktinfo info = {0};

    info.ipi_spec_dst.s_addr = htonl(first_source + (uint32_t)(number % sources));
    memcpy(CMSG_DATA(&controls[i].header), &info, sizeof(info));
    iov[i].iov_base = messages[number % count];
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: siege ADDRESS PORT FIRST_SOURCE SOURCES RATE SECONDS\n");
        return 1;
    }
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(argv[2])),
                             .sin_addr = address(argv[1])};
    uint32_t first_source = ntohl(address(argv[3]).s_addr), sources = (uint32_t)atoi(argv[4]);
    uint64_t rate = strtoull(argv[5], NULL, 10);
    uint64_t length_ns = strtoull(argv[6], NULL, 10) * 1000000000u;
    size_t count = fread(messages, MESSAGE_LEN, MESSAGES_MAX, stdin);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), small = 4096;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)))
        die("socket");
    if (!count || !sources || !rate)
        return 1;
    prepare(&to);
    signal(SIGTERM, end);
    puts("flooding");
    fflush(stdout);

    uint64_t start = now_ns(), wake = start, sent = 0, forgiven = 0;
    uint64_t debt_max = rate * DEBT_TICKS * TICK_NS / 1000000000u + 1;
    while (!ended) {
        uint64_t now = now_ns();
        if (now - start >= length_ns)
            break;
        uint64_t due = (uint64_t)((double)(now - start) * (double)rate / 1e9) - forgiven;
        if (due - sent > debt_max) {
            forgiven += due - sent - debt_max;
            due = sent + debt_max;
        }
        while (sent < due) {
            unsigned int n = due - sent < BATCH ? (unsigned int)(due - sent) : BATCH;
            for (unsigned int i = 0; i < n; i++)
                fill((int)i, sent + i, count, first_source, sources);
            int done = sendmmsg(fd, batch, n, 0);
            /* An ICMP error about an earlier message is reported by a later send. */
            if (done < 0 && errno != ECONNREFUSED && errno != ENOBUFS && errno != EINTR)
                die("sendmmsg");
            sent += done < 0 ? 1 : (uint64_t)done;
        }
        wake += TICK_NS;
        if (wake < now)
            wake = now;
        struct timespec until = {.tv_sec = (time_t)(wake / 1000000000u),
                                 .tv_nsec = (long)(wake % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    printf("%llu %llu\n", (unsigned long long)sent,
           (unsigned long long)((now_ns() - start) / 1000000u));
    return 0;
}
