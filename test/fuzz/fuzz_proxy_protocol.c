/* fuzz_proxy_protocol.c: any octets as the start of a connection.
 *
 * A header is the same however it is cut, ends where it says, and what was
 * believed of it can be said again. */

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/proxy_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static enum proxy_status parse_copy(const uint8_t *data, size_t len,
    struct proxy_header *out, size_t *used_out);
static void header_check(const struct proxy_header *h);
static void header_again(const struct proxy_header *h);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proxy_header h, part;
	size_t used, part_used, step;
	enum proxy_status status = parse_copy(data, size, &h, &used);

	if (status == PROXY_MORE) {
		assert(used > size && used <= PROXY_HEADER_MAX);
		return 0;
	}
	if (status != PROXY_OK) {
		assert(used == 0);
		return 0;
	}
	assert(used > 0 && used <= size && used <= PROXY_HEADER_MAX);
	header_check(&h);
	step = used / 64 + 1;
	for (size_t n = 0; n < used; n += step) {
		assert(parse_copy(data, n, &part, &part_used) == PROXY_MORE);
		assert(part_used > n && part_used <= used);
	}
	assert(parse_copy(data, used, &part, &part_used) == PROXY_OK);
	assert(part_used == used);
	assert(memcmp(&part, &h, sizeof(h)) == 0);
	if (!h.local)
		header_again(&h);
	return 0;
}

static enum proxy_status
parse_copy(const uint8_t *data, size_t len, struct proxy_header *out,
    size_t *used_out)
{
	uint8_t *copy = malloc(len > 0 ? len : 1);
	enum proxy_status status;

	if (copy == NULL)
		abort();
	if (len > 0)
		memcpy(copy, data, len);
	status = proxy_header_parse(copy, len, out, used_out);
	free(copy);
	return status;
}

static void
header_check(const struct proxy_header *h)
{
	size_t session = strnlen(h->session, sizeof(h->session));
	size_t name = strnlen(h->authority, sizeof(h->authority));

	assert(session == 0 || xclient_session_valid(h->session, session));
	assert(name == 0 || hostname_valid(h->authority, name));
	assert(h->ttl <= 255 && (h->has_tls || !h->tls));
	assert(h->local == (h->src.len == 0));
	assert(h->local == (h->dst.len == 0));
}

static void
header_again(const struct proxy_header *h)
{
	struct proxy_out p = {.src = h->src,
	    .dst = h->dst,
	    .tls = h->tls,
	    .tls_version = "TLSv1.3",
	    .authority = h->authority,
	    .session = h->session,
	    .ttl = h->ttl};
	uint8_t out[1024];
	size_t len = proxy_header_format(&p, out, sizeof(out)), used;
	struct proxy_header again;

	assert(len > 0);
	assert(parse_copy(out, len, &again, &used) == PROXY_OK && used == len);
	assert(addr_same_ip(&again.src, &h->src));
	assert(addr_same_ip(&again.dst, &h->dst));
	assert(addr_port(&again.src) == addr_port(&h->src));
	assert(addr_port(&again.dst) == addr_port(&h->dst));
	assert(again.tls == h->tls && again.ttl == h->ttl);
	assert(strcmp(again.session, h->session) == 0);
	assert(strcmp(again.authority, h->authority) == 0);
}
