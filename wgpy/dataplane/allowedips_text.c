/* SPDX-License-Identifier: MIT */
/* Allowed IPs as lines of the configuration protocol, and back: there may be very many.
 *
 * The C library reads and writes addresses, as Python does, so both take the same for one. */
#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#include "api.h"

#define NAME     "allowed_ip="
#define NAME_LEN (sizeof(NAME) - 1)
#define VALUE_MAX                                                                                  \
    (1 + INET6_ADDRSTRLEN + 4) /* bytes, with the terminating 0: '-', address, "/128" */

/* ---- lines to entries ---- */

/* A prefix length in the only way to write it; -1: none. */
static int bits_parse(const char *text)
{
    int bits = 0;

    if (!*text || (text[0] == '0' && text[1]))
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        bits = 10 * bits + (*text - '0');
        if (bits > 128)
            return -1;
    }
    return bits;
}

/* value is terminated, and is written to. */
static bool value_parse(char *value, wg_allowedip *entry)
{
    char *slash = strchr(value, '/');

    *entry = (wg_allowedip){.remove = value[0] == '-'};
    if (slash)
        *slash = 0;
    const char *address = value + entry->remove;
    bool v6 = strchr(address, ':');
    int most = v6 ? 128 : 32;
    int bits = slash ? bits_parse(slash + 1) : most;
    if (bits < 0 || bits > most || inet_pton(v6 ? AF_INET6 : AF_INET, address, entry->addr) != 1)
        return false;
    entry->family = v6 ? 6 : 4;
    entry->cidr = (uint8_t)bits;
    return true;
}

static bool line_parse(const char *line, size_t length, wg_allowedip *entry)
{
    char value[VALUE_MAX];
    size_t size = length - NAME_LEN;

    if (length < NAME_LEN || size >= sizeof(value) || memcmp(line, NAME, NAME_LEN))
        return false;
    memcpy(value, line + NAME_LEN, size);
    value[size] = 0;
    return strlen(value) == size && value_parse(value, entry);
}

size_t wg_allowedips_parse(const char *text, size_t length, wg_allowedip *entries, size_t max,
                           size_t *used)
{
    const char *line = text, *end = text + length, *newline;
    size_t count = 0;

    while (count < max && (newline = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        if (!line_parse(line, (size_t)(newline - line), &entries[count]))
            break;
        count++;
        line = newline + 1;
    }
    *used = (size_t)(line - text);
    return count;
}

/* ---- entries to lines ---- */

static char *number_format(char *out, uint8_t number)
{
    if (number >= 100)
        *out++ = (char)('0' + number / 100);
    if (number >= 10)
        *out++ = (char)('0' + number / 10 % 10);
    *out++ = (char)('0' + number % 10);
    return out;
}

static char *address_format(char *out, const wg_allowedip *entry)
{
    if (entry->family == 6) {
        inet_ntop(AF_INET6, entry->addr, out, INET6_ADDRSTRLEN);
        return out + strlen(out);
    }
    for (int i = 0; i < 4; i++) {
        out = number_format(out, entry->addr[i]);
        *out++ = '.';
    }
    return out - 1;
}

size_t wg_allowedips_format(const wg_allowedip *entries, size_t count, char *text)
{
    char *out = text;

    for (size_t i = 0; i < count; i++) {
        memcpy(out, NAME, NAME_LEN);
        out = address_format(out + NAME_LEN, &entries[i]);
        *out++ = '/';
        out = number_format(out, entries[i].cidr);
        *out++ = '\n';
    }
    return (size_t)(out - text);
}
