/* resolver.h: host names to addresses, one worker's.
 *
 * libevent's DNS with a small memory in front: an answer serves for 30 s, and
 * for an hour while the name servers fail or are silent (RFC 8767). Lookups of
 * one name that are under way at once are one query. */

#ifndef SERVICE_RESOLVER_H
#define SERVICE_RESOLVER_H

#include <stddef.h>
#include <stdint.h>

#include "platform/addr.h"

struct evdns_base;
struct event_base;
struct resolver;
struct resolver_query;

#define RESOLVER_ADDRS_MAX 16 /* of one name; further ones are not used */

/* addrs: port 0, in the name server's order. n 0: reason says why. */
typedef void resolver_done(void *arg, const struct addr *addrs, size_t n,
    const char *reason);

/* Takes dns over. NULL: no memory, dns stays the caller's. */
struct resolver *resolver_new(struct event_base *base, struct evdns_base *dns);
/* Without queries under way; runs the base's loop once. */
void resolver_free(struct resolver **r);

/* Calls done exactly once unless cancelled, possibly before it returns; then,
 * or for want of memory (reason), it returns NULL. */
struct resolver_query *resolver_lookup(struct resolver *r, const char *name,
    resolver_done *done, void *arg);
/* Clears *q; NULL is fine. */
void resolver_cancel(struct resolver_query **q);

/* For tests: answers seem ms older than they are. */
void resolver_age(struct resolver *r, uint64_t ms);

#endif
