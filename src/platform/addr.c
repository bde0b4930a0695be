/* addr.c: socket addresses and CIDR ranges. */

#include "platform/addr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/hash.h"

static bool addr_parse_port(const char *text, uint16_t *out);
static const uint8_t *addr_bytes(const struct addr *a, size_t *len_out);

void
addr_set(struct addr *a, const struct sockaddr *sa, socklen_t len)
{
	memset(a, 0, sizeof(*a));
	if (sa->sa_family == AF_INET && len >= sizeof(a->u.in)) {
		memcpy(&a->u.in, sa, sizeof(a->u.in));
		a->len = sizeof(a->u.in);
	} else if (sa->sa_family == AF_INET6 && len >= sizeof(a->u.in6)) {
		struct sockaddr_in6 in6;

		memcpy(&in6, sa, sizeof(in6));
		if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
			a->u.in.sin_family = AF_INET;
			a->u.in.sin_port = in6.sin6_port;
			memcpy(&a->u.in.sin_addr, in6.sin6_addr.s6_addr + 12,
			    4);
			a->len = sizeof(a->u.in);
		} else {
			a->u.in6 = in6;
			a->len = sizeof(a->u.in6);
		}
	}
}

static const uint8_t *
addr_bytes(const struct addr *a, size_t *len_out)
{
	if (a->len == 0) {
		*len_out = 0;
		return NULL;
	}
	if (a->u.sa.sa_family == AF_INET) {
		*len_out = 4;
		return (const uint8_t *)&a->u.in.sin_addr;
	}
	*len_out = 16;
	return a->u.in6.sin6_addr.s6_addr;
}

const char *
addr_ip(const struct addr *a, char buf[ADDR_TEXT_MAX])
{
	size_t len;
	const uint8_t *bytes = addr_bytes(a, &len);

	if (bytes == NULL ||
	    inet_ntop(a->u.sa.sa_family, bytes, buf, ADDR_TEXT_MAX) == NULL)
		snprintf(buf, ADDR_TEXT_MAX, "-");
	return buf;
}

const char *
addr_text(const struct addr *a, char buf[ADDR_TEXT_MAX])
{
	char ip[ADDR_TEXT_MAX];

	addr_ip(a, ip);
	if (a->len == 0)
		snprintf(buf, ADDR_TEXT_MAX, "-");
	else if (a->u.sa.sa_family == AF_INET)
		snprintf(buf, ADDR_TEXT_MAX, "%.15s:%u", ip, addr_port(a));
	else
		snprintf(buf, ADDR_TEXT_MAX, "[%.45s]:%u", ip, addr_port(a));
	return buf;
}

uint16_t
addr_port(const struct addr *a)
{
	if (a->len == 0)
		return 0;
	return ntohs(a->u.sa.sa_family == AF_INET ? a->u.in.sin_port
						  : a->u.in6.sin6_port);
}

void
addr_set_port(struct addr *a, uint16_t port)
{
	if (a->len == 0)
		return;
	if (a->u.sa.sa_family == AF_INET)
		a->u.in.sin_port = htons(port);
	else
		a->u.in6.sin6_port = htons(port);
}

bool
addr_parse_ip(const char *text, struct addr *out)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
		addr_set(out, (struct sockaddr *)&in, sizeof(in));
	else if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
		addr_set(out, (struct sockaddr *)&in6, sizeof(in6));
	else
		return false;
	return true;
}

static bool
addr_parse_port(const char *text, uint16_t *out)
{
	unsigned long port;
	size_t len = strlen(text);

	if (len == 0 || len > 5 || strspn(text, "0123456789") != len)
		return false;
	port = strtoul(text, NULL, 10);
	if (port > 65535)
		return false;
	*out = (uint16_t)port;
	return true;
}

bool
addr_parse(const char *text, struct addr *out)
{
	char ip[ADDR_TEXT_MAX];
	const char *colon = strrchr(text, ':'), *start = text, *end = colon;
	bool brackets = text[0] == '[';
	uint16_t port;

	if (colon == NULL || !addr_parse_port(colon + 1, &port))
		return false;
	if (brackets) {
		start++;
		if (--end <= start || *end != ']')
			return false;
	}
	if ((size_t)(end - start) >= sizeof(ip))
		return false;
	memcpy(ip, start, (size_t)(end - start));
	ip[end - start] = '\0';
	if (brackets != (strchr(ip, ':') != NULL) || !addr_parse_ip(ip, out))
		return false;
	addr_set_port(out, port);
	return true;
}

bool
addr_same_ip(const struct addr *a, const struct addr *b)
{
	size_t alen, blen;
	const uint8_t *abytes = addr_bytes(a, &alen);
	const uint8_t *bbytes = addr_bytes(b, &blen);

	return alen == blen && alen > 0 && memcmp(abytes, bbytes, alen) == 0;
}

bool
addr_is_unspecified(const struct addr *a)
{
	static const uint8_t zero[16];
	size_t len;
	const uint8_t *bytes = addr_bytes(a, &len);

	return len > 0 && memcmp(bytes, zero, len) == 0;
}

struct addr_client
addr_client(const struct addr *a)
{
	struct addr_client client = {0};
	size_t len;
	const uint8_t *bytes = addr_bytes(a, &len);

	if (len > 0) {
		client.family = len == 4 ? 4 : 6;
		memcpy(client.bytes, bytes, len == 4 ? 4 : 8);
	}
	return client;
}

uint64_t
addr_client_hash(const struct addr *a)
{
	struct addr_client client = addr_client(a);

	return hash_keyed(&client, sizeof(client));
}

bool
cidr_parse(const char *text, struct cidr *out)
{
	char ip[ADDR_TEXT_MAX];
	const char *slash = strchr(text, '/');
	size_t iplen = slash != NULL ? (size_t)(slash - text) : strlen(text);
	size_t len;
	const uint8_t *bytes;
	struct addr a;
	uint16_t bits;
	bool mapped;

	if (iplen == 0 || iplen >= sizeof(ip))
		return false;
	memcpy(ip, text, iplen);
	ip[iplen] = '\0';
	if (!addr_parse_ip(ip, &a))
		return false;
	bytes = addr_bytes(&a, &len);
	mapped = len == 4 && strchr(ip, ':') != NULL;
	bits = (uint16_t)(len * 8);
	if (slash != NULL) {
		if (!addr_parse_port(slash + 1, &bits))
			return false;
		if (mapped) {
			if (bits < 96)
				return false;
			bits = (uint16_t)(bits - 96);
		}
		if (bits > len * 8)
			return false;
	}
	memset(out, 0, sizeof(*out));
	memcpy(out->bytes, bytes, len);
	out->bits = (uint8_t)bits;
	out->v6 = len == 16;
	for (size_t i = bits; i < len * 8; i++)
		if (out->bytes[i / 8] & (0x80 >> i % 8))
			return false;
	return true;
}

bool
cidr_match(const struct cidr *c, const struct addr *a)
{
	size_t len, whole = c->bits / 8;
	const uint8_t *bytes = addr_bytes(a, &len);
	uint8_t mask = (uint8_t)(0xff00 >> c->bits % 8);

	if (len != (c->v6 ? 16u : 4u) || memcmp(bytes, c->bytes, whole) != 0)
		return false;
	return c->bits % 8 == 0 || (bytes[whole] & mask) == c->bytes[whole];
}

bool
cidr_match_any(const struct cidr *list, size_t n, const struct addr *a)
{
	for (size_t i = 0; i < n; i++)
		if (cidr_match(&list[i], a))
			return true;
	return false;
}
