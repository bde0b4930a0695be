/* dns.h: one question to the name servers of a resolv.conf, by c-ares. */

#ifndef NET_DNS_H
#define NET_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/resolver.h"

enum dns_result {
	DNS_FOUND,
	DNS_NONE, /* no such name, or no address of that family */
	DNS_FAILED /* nobody could say */
};

/* addr: in the name server's order, port 0; ttl: seconds, the least one;
 * reason: a few words unless FOUND. All valid for the call. */
struct dns_answer {
	enum dns_result result;
	const char *reason;
	const struct addr *addr;
	size_t n;
	uint32_t ttl;
};
typedef void dns_done(void *arg, const struct dns_answer *answer);

struct dns_question;

/* Which name server is asked first: once one has been silent, the next one for
 * a while. The caller's, all zero at first, for as long as its questions. */
struct dns_turn {
	unsigned first;
	int64_t until; /* clock_ms() */
};

/* Asks the name servers of the file, as it is now, for a name's IPv4 or IPv6
 * addresses. Calls done exactly once, from the loop, unless cancelled; the
 * handle is gone then. NULL: no memory. */
struct dns_question *dns_ask(struct event_base *base, const char *resolv_conf,
    struct dns_turn *turn, const char *name, bool ipv6, dns_done *done,
    void *arg);
/* Clears *q; NULL is fine. Not from done. */
void dns_cancel(struct dns_question **q);

#endif
