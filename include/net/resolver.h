/* resolver.h: resolves host names for one worker.
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

/* addrs have port 0 and the name server's order. If n is 0, reason says why. */
typedef void resolver_done(void *arg, const struct addr *addrs, size_t n,
    const char *reason);

/* Makes a resolver that looks into hosts(5) and then asks the name servers in
 * resolv_conf. Reads both files again when they change. The caller keeps the
 * paths for the resolver's life. Returns NULL if memory is short. */
struct resolver *resolver_new(struct event_base *base, const char *resolv_conf,
    const char *hosts);
/* Without queries under way. Not from a callback. */
void resolver_free(struct resolver **r);

/* Resolves a name. Calls done exactly once unless cancelled. Returns NULL if
 * done was called before the return, also if memory is short (reason). */
struct resolver_query *resolver_lookup(struct resolver *r, const char *name,
    resolver_done *done, void *arg);
/* Cancels and clears *q; NULL is allowed. */
void resolver_cancel(struct resolver_query **q);

/* For tests: makes all answers ms older. */
void resolver_age(struct resolver *r, uint64_t ms);

#endif
