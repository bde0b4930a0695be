/* resolver.h: host names to addresses, one worker's.
 *
 * c-ares with a small memory in front: an answer serves for 30 s, or for its
 * TTL if that is shorter, and for an hour while the name servers fail or are
 * silent (RFC 8767). That there is no such name, or no address of it, is an
 * answer too. Lookups of one name that are under way at once are one query. */

#ifndef NET_RESOLVER_H
#define NET_RESOLVER_H

#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"

struct event_base;
struct resolver;
struct resolver_query;

#define RESOLVER_ADDRS_MAX 128 /* of one name; further ones are not used */

/* addrs: port 0, in the name server's order. n 0: reason says why. */
typedef void resolver_done(void *arg, const struct addr *addrs, size_t n,
    const char *reason);

/* Asks the name servers in resolv_conf, once hosts(5) has no address; of both
 * files the newest version. The paths are the caller's for as long. NULL: no
 * memory. */
struct resolver *resolver_new(struct event_base *base, const char *resolv_conf,
    const char *hosts);
/* Without queries under way. Not from a callback. */
void resolver_free(struct resolver **r);

/* Calls done exactly once unless cancelled, possibly before it returns; then,
 * or for want of memory (reason), it returns NULL. */
struct resolver_query *resolver_lookup(struct resolver *r, const char *name,
    resolver_done *done, void *arg);
/* Clears *q; NULL is fine. */
void resolver_cancel(struct resolver_query **q);

/* For tests: all that is known seems ms older than it is. */
void resolver_age(struct resolver *r, uint64_t ms);

#endif
