/* addr.h: socket addresses and CIDR ranges as plain values. */

#ifndef PLATFORM_ADDR_H
#define PLATFORM_ADDR_H

#include <sys/socket.h>
#include <netinet/in.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An IPv4 or IPv6 address with its port. len 0: no address. A v4-mapped IPv6
 * address is folded to IPv4 by addr_set(), so that one client has one name. */
struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} u;
	socklen_t len;
};

struct cidr {
	uint8_t bytes[16]; /* network order; IPv4: the first four */
	uint8_t bits;
	bool v6;
};

/* "[2001:db8::1]:65535" and its NUL fit. */
#define ADDR_TEXT_MAX 64

/* Copies sa (AF_INET, AF_INET6); any other family gives an empty addr. */
void addr_set(struct addr *a, const struct sockaddr *sa, socklen_t len);

/* Writes the address without its port: "192.0.2.1", "2001:db8::1" (no brackets,
 * no scope), "-" if empty. Returns buf. */
const char *addr_ip(const struct addr *a, char buf[ADDR_TEXT_MAX]);

/* Writes address and port: "192.0.2.1:110", "[2001:db8::1]:110", "-" if
 * empty. */
const char *addr_text(const struct addr *a, char buf[ADDR_TEXT_MAX]);

uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);

/* Parses a literal address without brackets or port (v4-mapped is folded). */
bool addr_parse_ip(const char *text, struct addr *out);

/* Parses "ADDRESS:PORT", IPv6 in brackets, port 0..65535. No names. */
bool addr_parse(const char *text, struct addr *out);

/* Returns true for the same address; ignores the port. */
bool addr_same_ip(const struct addr *a, const struct addr *b);
bool addr_is_unspecified(const struct addr *a);

/* One client: an IPv4 address, or an IPv6 /64, which usually belongs to one
 * customer. Has no padding, so that it can be compared and hashed as bytes. */
struct addr_client {
	uint8_t bytes[8];
	uint8_t family; /* 4 or 6; 0: no address */
};
struct addr_client addr_client(const struct addr *a);
/* Returns hash_keyed() of a's client. */
uint64_t addr_client_hash(const struct addr *a);

/* Parses "192.0.2.0/24", "2001:db8::/32", or an address (all its bits). A bit
 * that is set after the prefix is an error. ::ffff:a.b.c.d/96+n becomes
 * IPv4. */
bool cidr_parse(const char *text, struct cidr *out);
bool cidr_match(const struct cidr *c, const struct addr *a);
bool cidr_match_any(const struct cidr *list, size_t n, const struct addr *a);

#endif
