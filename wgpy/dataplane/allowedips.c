/* SPDX-License-Identifier: MIT */
/* Cryptokey routing (section 2): which peer an inner address belongs to.
 *
 * One binary radix trie with path compression per family.  A key is an address as two 64-bit words
 * in host order, most significant bit first; IPv4 fills the top half of the first, so both families
 * share all code.  A node without a peer only joins two subtries, and always has both. */
#include <errno.h>
#include <stdlib.h>

#include "allowedips.h"
#include "bytes.h"
#include "tables.h"

#define CHANGES_PER_LOCK 512 /* so that a huge change does not hold up the data threads */

struct wg_allowedips_node {                 /* control writes; tables */
    struct wg_allowedips_node *children[2]; /* by the bit behind cidr; NULL: none */
    struct wg_allowedips_node *parent;      /* NULL at the root */
    struct wg_peer *peer;                   /* owner of the prefix; NULL for a branch */
    struct wg_allowedips_node *peer_prev;   /* the owner's list, in order of insertion */
    struct wg_allowedips_node *peer_next;   /* the same; of a spare or dead node: the next one */
    uint64_t key[2];                        /* masked to cidr bits */
    uint8_t cidr;                           /* prefix length, bits */
    uint8_t family;                         /* 4 or 6 */
    bool stale; /* to be removed at the end of wg_allowedips_replace; control alone */
};

/* ---- keys ---- */

static void key_load4(uint64_t key[2], const uint8_t *addr)
{
    key[0] = (uint64_t)wg_load_be32(addr) << 32;
    key[1] = 0;
}

static void key_load6(uint64_t key[2], const uint8_t *addr)
{
    key[0] = (uint64_t)wg_load_be32(addr) << 32 | wg_load_be32(addr + 4);
    key[1] = (uint64_t)wg_load_be32(addr + 8) << 32 | wg_load_be32(addr + 12);
}

static uint64_t word_mask(unsigned int bits)
{
    return bits == 0 ? 0 : bits >= 64 ? ~0ull : ~0ull << (64 - bits);
}

static void key_mask(uint64_t key[2], unsigned int cidr)
{
    key[0] &= word_mask(cidr);
    key[1] &= cidr > 64 ? word_mask(cidr - 64) : 0;
}

/* The bit behind a prefix of cidr bits.  A full-length prefix has none, and no children either. */
static unsigned int key_bit(const uint64_t key[2], unsigned int cidr)
{
    return key[(cidr >> 6) & 1] >> (63 - (cidr & 63)) & 1;
}

static unsigned int key_common_bits(const uint64_t a[2], const uint64_t b[2])
{
    if (a[0] != b[0])
        return (unsigned int)__builtin_clzll(a[0] ^ b[0]);
    return a[1] != b[1] ? 64 + (unsigned int)__builtin_clzll(a[1] ^ b[1]) : 128;
}

static bool node_covers(const struct wg_allowedips_node *node, const uint64_t key[2])
{
    return key_common_bits(node->key, key) >= node->cidr;
}

/* ---- lookup ---- */

static struct wg_peer *trie_longest_match(const struct wg_allowedips_node *node,
                                          const uint64_t key[2])
{
    struct wg_peer *found = NULL;

    for (; node && node_covers(node, key); node = node->children[key_bit(key, node->cidr)]) {
        if (node->peer)
            found = node->peer;
    }
    return found;
}

struct wg_peer *wg_allowedips_find4(const struct wg_allowedips *trie, const uint8_t addr[4])
{
    uint64_t key[2];

    key_load4(key, addr);
    return trie_longest_match(trie->root4, key);
}

struct wg_peer *wg_allowedips_find6(const struct wg_allowedips *trie, const uint8_t addr[16])
{
    uint64_t key[2];

    key_load6(key, addr);
    return trie_longest_match(trie->root6, key);
}

uint32_t wg_allowedips_lookup(wg_device *device, uint8_t family, const uint8_t *addr)
{
    struct wg_peer *peer = NULL;

    pthread_rwlock_rdlock(&device->tables);
    if (family == 4)
        peer = wg_allowedips_find4(&device->allowedips, addr);
    else if (family == 6)
        peer = wg_allowedips_find6(&device->allowedips, addr);
    uint32_t slot = peer ? peer->slot : WG_NO_SLOT;
    pthread_rwlock_unlock(&device->tables);
    return slot;
}

/* ---- a peer's list of prefixes ---- */

static void owner_set(struct wg_allowedips_node *node, struct wg_peer *peer)
{
    node->peer = peer;
    node->stale = false;
    node->peer_prev = peer->last_allowedip;
    node->peer_next = NULL;
    *(peer->last_allowedip ? &peer->last_allowedip->peer_next : &peer->first_allowedip) = node;
    peer->last_allowedip = node;
    peer->allowedip_count++;
}

static void owner_clear(struct wg_allowedips_node *node)
{
    struct wg_peer *peer = node->peer;

    *(node->peer_prev ? &node->peer_prev->peer_next : &peer->first_allowedip) = node->peer_next;
    *(node->peer_next ? &node->peer_next->peer_prev : &peer->last_allowedip) = node->peer_prev;
    node->peer = NULL;
    peer->allowedip_count--;
}

/* ---- nodes in and out of the trie ---- */

/* Nodes that are allocated before the lock and freed after it. */
struct spares {
    struct wg_allowedips_node *first; /* chained by peer_next */
};

static void spares_put(struct spares *spares, struct wg_allowedips_node *node)
{
    node->peer_next = spares->first;
    spares->first = node;
}

static int spares_fill(struct spares *spares, size_t count)
{
    for (; count; count--) {
        struct wg_allowedips_node *node = malloc(sizeof(*node));
        if (!node)
            return -ENOMEM;
        spares_put(spares, node);
    }
    return 0;
}

static void spares_free(struct spares *spares)
{
    while (spares->first) {
        struct wg_allowedips_node *node = spares->first;
        spares->first = node->peer_next;
        free(node);
    }
}

static struct wg_allowedips_node *node_take(struct spares *spares, uint8_t family,
                                            const uint64_t key[2], unsigned int cidr)
{
    struct wg_allowedips_node *node = spares->first;

    spares->first = node->peer_next;
    *node = (struct wg_allowedips_node){
        .key = {key[0], key[1]}, .cidr = (uint8_t)cidr, .family = family};
    key_mask(node->key, cidr);
    return node;
}

static struct wg_allowedips_node **trie_root(struct wg_allowedips *trie, uint8_t family)
{
    return family == 4 ? &trie->root4 : &trie->root6;
}

/* The pointer that leads to node. */
static struct wg_allowedips_node **node_link(struct wg_allowedips *trie,
                                             const struct wg_allowedips_node *node)
{
    return node->parent ? &node->parent->children[key_bit(node->key, node->parent->cidr)]
                        : trie_root(trie, node->family);
}

static void node_adopt(struct wg_allowedips_node *parent, struct wg_allowedips_node *child)
{
    parent->children[key_bit(child->key, parent->cidr)] = child;
    child->parent = parent;
}

/* Takes the node out of the trie unless something needs it: its prefix is owned, or it joins two.
 */
static void node_prune(struct wg_allowedips *trie, struct wg_allowedips_node *node,
                       struct spares *dead)
{
    struct wg_allowedips_node *child = node->children[node->children[0] ? 0 : 1];

    if (node->peer || (node->children[0] && node->children[1]))
        return;
    *node_link(trie, node) = child;
    if (child)
        child->parent = node->parent;
    spares_put(dead, node);
}

static void prefix_remove(struct wg_allowedips *trie, struct wg_allowedips_node *node,
                          struct spares *dead)
{
    struct wg_allowedips_node *parent = node->parent;

    owner_clear(node);
    node_prune(trie, node, dead);
    if (parent)
        node_prune(trie, parent, dead);
}

/* Goes down while nodes cover the prefix and are shorter; returns the link to the first other one.
 */
static struct wg_allowedips_node **trie_descend(struct wg_allowedips *trie, uint8_t family,
                                                const uint64_t key[2], unsigned int cidr,
                                                struct wg_allowedips_node **parent)
{
    struct wg_allowedips_node **link = trie_root(trie, family);

    for (*parent = NULL; *link && (*link)->cidr < cidr && node_covers(*link, key);) {
        *parent = *link;
        link = &(*link)->children[key_bit(key, (*link)->cidr)];
    }
    return link;
}

/* The node of exactly this prefix, put into the trie if missing: above, beside or instead of what
 * the link leads to. Takes up to two spares. */
static struct wg_allowedips_node *node_ensure(struct wg_allowedips *trie, uint8_t family,
                                              const uint64_t key[2], unsigned int cidr,
                                              struct spares *spares)
{
    struct wg_allowedips_node *parent, *node, *top;
    struct wg_allowedips_node **link = trie_descend(trie, family, key, cidr, &parent);
    struct wg_allowedips_node *other = *link;
    unsigned int common = other ? key_common_bits(other->key, key) : 0;

    if (other && other->cidr == cidr && common >= cidr)
        return other;
    top = node = node_take(spares, family, key, cidr);
    if (other && common < cidr) {
        top = node_take(spares, family, key, common);
        node_adopt(top, node);
    }
    if (other)
        node_adopt(top, other);
    top->parent = parent;
    *link = top;
    return node;
}

/* ---- changes ---- */

static bool entry_valid(const wg_allowedip *entry)
{
    return entry->remove <= 1 && ((entry->family == 4 && entry->cidr <= 32) ||
                                  (entry->family == 6 && entry->cidr <= 128));
}

static void entry_key(const wg_allowedip *entry, uint64_t key[2])
{
    if (entry->family == 4)
        key_load4(key, entry->addr);
    else
        key_load6(key, entry->addr);
    key_mask(key, entry->cidr);
}

static void entry_insert(struct wg_peer *peer, const wg_allowedip *entry, const uint64_t key[2],
                         struct spares *spares)
{
    struct wg_allowedips_node *node =
        node_ensure(&peer->device->allowedips, entry->family, key, entry->cidr, spares);

    if (node->peer == peer && !node->stale)
        return;
    if (node->peer)
        owner_clear(node);
    owner_set(node, peer);
}

static void entry_remove(struct wg_peer *peer, const wg_allowedip *entry, const uint64_t key[2],
                         struct spares *dead)
{
    struct wg_allowedips *trie = &peer->device->allowedips;
    struct wg_allowedips_node *parent;
    struct wg_allowedips_node *node = *trie_descend(trie, entry->family, key, entry->cidr, &parent);

    if (node && node->cidr == entry->cidr && node_covers(node, key) && node->peer == peer)
        prefix_remove(trie, node, dead);
}

static void entry_apply(struct wg_peer *peer, const wg_allowedip *entry, struct spares *spares)
{
    uint64_t key[2];

    entry_key(entry, key);
    if (entry->remove)
        entry_remove(peer, entry, key, spares);
    else
        entry_insert(peer, entry, key, spares);
}

/* Validates all, and allocates for the worst case: a leaf and a branch for each. */
static int change_prepare(const wg_allowedip *entries, size_t count, struct spares *spares)
{
    size_t inserts = 0;

    for (size_t i = 0; i < count; i++) {
        if (!entry_valid(&entries[i]))
            return -EINVAL;
        inserts += !entries[i].remove;
    }
    return spares_fill(spares, 2 * inserts);
}

int wg_allowedips_change(wg_device *device, uint32_t slot, const wg_allowedip *entries,
                         size_t count)
{
    struct wg_peer *peer = wg_peer_find(device, slot);
    struct spares spares = {NULL};

    if (!peer)
        return -ENOENT;
    int error = change_prepare(entries, count, &spares);
    for (size_t i = 0; !error && i < count;) {
        pthread_rwlock_wrlock(&device->tables);
        for (size_t end = i + CHANGES_PER_LOCK; i < count && i < end; i++)
            entry_apply(peer, &entries[i], &spares);
        pthread_rwlock_unlock(&device->tables);
    }
    spares_free(&spares);
    return error;
}

static void owned_mark(struct wg_peer *peer, bool stale)
{
    for (struct wg_allowedips_node *node = peer->first_allowedip; node; node = node->peer_next)
        node->stale = stale;
}

/* The entries went to the end of the list, so what is stale comes first. */
static void stale_remove(struct wg_peer *peer)
{
    wg_device *device = peer->device;
    struct spares dead = {NULL};

    while (peer->first_allowedip && peer->first_allowedip->stale) {
        pthread_rwlock_wrlock(&device->tables);
        for (int i = 0; i < CHANGES_PER_LOCK; i++) {
            if (!peer->first_allowedip || !peer->first_allowedip->stale)
                break;
            prefix_remove(&device->allowedips, peer->first_allowedip, &dead);
        }
        pthread_rwlock_unlock(&device->tables);
        spares_free(&dead);
    }
}

int wg_allowedips_replace(wg_device *device, uint32_t slot, const wg_allowedip *entries,
                          size_t count)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    owned_mark(peer, true);
    int error = wg_allowedips_change(device, slot, entries, count);
    if (error)
        owned_mark(peer, false);
    stale_remove(peer);
    return error;
}

/* ---- list ---- */

static void entry_fill(wg_allowedip *entry, const struct wg_allowedips_node *node)
{
    *entry = (wg_allowedip){.family = node->family, .cidr = node->cidr};
    wg_store_be32(entry->addr, (uint32_t)(node->key[0] >> 32));
    wg_store_be32(entry->addr + 4, (uint32_t)node->key[0]);
    wg_store_be32(entry->addr + 8, (uint32_t)(node->key[1] >> 32));
    wg_store_be32(entry->addr + 12, (uint32_t)node->key[1]);
}

/* Control is the only writer, so it needs no lock to read. */
ssize_t wg_allowedips_list(wg_device *device, uint32_t slot, wg_allowedip *entries, size_t max)
{
    struct wg_peer *peer = wg_peer_find(device, slot);

    if (!peer)
        return -ENOENT;
    const struct wg_allowedips_node *node = peer->first_allowedip;
    for (size_t i = 0; node && i < max; i++, node = node->peer_next)
        entry_fill(&entries[i], node);
    return peer->allowedip_count;
}

/* ---- the end ---- */

/* At most 129 levels deep. */
static void trie_free(struct wg_allowedips_node *node)
{
    if (!node)
        return;
    trie_free(node->children[0]);
    trie_free(node->children[1]);
    free(node);
}

void wg_allowedips_destroy(struct wg_allowedips *trie)
{
    trie_free(trie->root4);
    trie_free(trie->root6);
    *trie = (struct wg_allowedips){NULL, NULL};
}
