/* proxy_protocol.c: PROXY headers in both versions.
 *
 * A header sets the client's address, so an ambiguous header is refused as a
 * whole. The caller decides who may send one. */

#include "proto/proxy_protocol.h"

#include <string.h>

#define PROXY_V1_MAX 107 /* with CRLF */
#define PROXY_V2_HEAD 16 /* signature, command, family, length */
#define PROXY_TLV_HEAD 3
#define PROXY_SSL_HEAD 5 /* client bits, verify result */
#define PROXY_TEXT_MAX 255 /* of OpenSSL's names for versions and ciphers */

static const uint8_t proxy_v1_signature[] = {'P', 'R', 'O', 'X', 'Y', ' '};
static const uint8_t proxy_v2_signature[] = {
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

enum { /* §2.2: version and command; family and transport */
	PROXY_V2_LOCAL = 0x20,
	PROXY_V2_PROXY = 0x21,
	PROXY_TCP4 = 0x11,
	PROXY_TCP6 = 0x21
};

enum {
	PROXY_TLV_AUTHORITY = 0x02,
	PROXY_TLV_CRC32C = 0x03,
	PROXY_TLV_SSL = 0x20,
	PROXY_SSL_VERSION = 0x21,
	PROXY_SSL_CIPHER = 0x23
};
#define PROXY_CLIENT_SSL 0x01

/* The octets of both addresses and ports, by family: UNSPEC (undefined content),
 * AF_INET, AF_INET6, AF_UNIX. */
static const size_t proxy_address_octets[] = {0, 12, 36, 216};

/* A word of a version 1 line, or the value of a TLV. */
struct proxy_slice {
	const uint8_t *data;
	size_t len;
};

static bool proxy_tlv_authority(const struct proxy_slice *header,
    const struct proxy_slice *v, struct proxy_header *out);
static bool proxy_tlv_crc32c(const struct proxy_slice *header,
    const struct proxy_slice *v, struct proxy_header *out);
static bool proxy_tlv_ssl(const struct proxy_slice *header,
    const struct proxy_slice *v, struct proxy_header *out);
static bool proxy_tlv_session(const struct proxy_slice *header,
    const struct proxy_slice *v, struct proxy_header *out);
static bool proxy_tlv_ttl(const struct proxy_slice *header,
    const struct proxy_slice *v, struct proxy_header *out);

static const struct {
	uint8_t type;
	bool (*take)(const struct proxy_slice *header,
	    const struct proxy_slice *v, struct proxy_header *out);
} proxy_tlvs[] = {
    {PROXY_TLV_AUTHORITY, proxy_tlv_authority},
    {PROXY_TLV_CRC32C, proxy_tlv_crc32c},
    {PROXY_TLV_SSL, proxy_tlv_ssl},
    {PROXY_TLV_SESSION, proxy_tlv_session},
    {PROXY_TLV_TTL, proxy_tlv_ttl},
};

struct proxy_writer {
	uint8_t *out;
	size_t size, len;
	bool full;
};

static bool proxy_begins(const uint8_t *data, size_t len, const uint8_t *sig,
    size_t sig_len);
static enum proxy_status proxy_v1_parse(const uint8_t *data, size_t len,
    struct proxy_header *out, size_t *used_out);
static bool proxy_v1_line_parse(const uint8_t *line, size_t len,
    struct proxy_header *out);
static bool proxy_v1_addr(const struct proxy_slice *ip,
    const struct proxy_slice *port, bool v6, struct addr *out);
static bool proxy_v1_port(const struct proxy_slice *word, uint16_t *out);
static bool proxy_is(const struct proxy_slice *word, const char *text);
static enum proxy_status proxy_v2_parse(const uint8_t *data, size_t len,
    struct proxy_header *out, size_t *used_out);
static bool proxy_v2_block_parse(const struct proxy_slice *header,
    struct proxy_header *out);
static void proxy_v2_addr(const uint8_t *ip, const uint8_t *port, bool v6,
    struct addr *out);
static bool proxy_tlvs_parse(const struct proxy_slice *header, size_t at,
    struct proxy_header *out);
static bool proxy_tlv_next(struct proxy_slice *rest, uint8_t *type_out,
    struct proxy_slice *value_out);
static uint32_t proxy_crc32c(const struct proxy_slice *header,
    const struct proxy_slice *blank);
static uint16_t proxy_get16(const uint8_t *p);
static bool proxy_values_good(const struct proxy_out *p);
static bool proxy_text_good(const char *text);
static void proxy_put(struct proxy_writer *w, const void *data, size_t len);
static void proxy_put16(struct proxy_writer *w, size_t n);
static void proxy_put_ip(struct proxy_writer *w, const struct addr *a, bool v6);
static void proxy_put_tlv(struct proxy_writer *w, uint8_t type,
    const void *data, size_t len);
static void proxy_put_ssl(struct proxy_writer *w, const struct proxy_out *p);
static void proxy_put_text(struct proxy_writer *w, uint8_t type,
    const char *text);
static void proxy_set_length(struct proxy_writer *w, size_t at);

enum proxy_status
proxy_header_parse(const uint8_t *data, size_t len, struct proxy_header *out,
    size_t *used_out)
{
	memset(out, 0, sizeof(*out));
	*used_out = 0;
	if (proxy_begins(data, len, proxy_v2_signature,
		sizeof(proxy_v2_signature)))
		return proxy_v2_parse(data, len, out, used_out);
	if (proxy_begins(data, len, proxy_v1_signature,
		sizeof(proxy_v1_signature)))
		return proxy_v1_parse(data, len, out, used_out);
	return PROXY_NONE;
}

/* Compares as far as both go. */
static bool
proxy_begins(const uint8_t *data, size_t len, const uint8_t *sig,
    size_t sig_len)
{
	size_t n = len < sig_len ? len : sig_len;

	return n == 0 || memcmp(data, sig, n) == 0;
}

static enum proxy_status
proxy_v1_parse(const uint8_t *data, size_t len, struct proxy_header *out,
    size_t *used_out)
{
	size_t n = len < PROXY_V1_MAX ? len : PROXY_V1_MAX;
	const uint8_t *lf = memchr(data, '\n', n);

	if (lf == NULL && n < PROXY_V1_MAX) {
		*used_out = len + 1;
		return PROXY_MORE;
	}
	/* The signature has no CR, so there is an octet before the LF. */
	if (lf == NULL || lf[-1] != '\r')
		return PROXY_BAD;
	if (!proxy_v1_line_parse(data, (size_t)(lf - 1 - data), out)) {
		memset(out, 0, sizeof(*out));
		return PROXY_BAD;
	}
	*used_out = (size_t)(lf + 1 - data);
	return PROXY_OK;
}

/* "PROXY TCP4 SOURCE DESTINATION PORT PORT", one space each. */
static bool
proxy_v1_line_parse(const uint8_t *line, size_t len, struct proxy_header *out)
{
	struct proxy_slice word[6];
	const uint8_t *end = line + len;
	size_t n = 0;
	bool v6;

	while (n < ARRAY_LEN(word)) {
		const uint8_t *space = memchr(line, ' ', (size_t)(end - line));

		word[n].data = line;
		word[n].len = (size_t)((space != NULL ? space : end) - line);
		n++;
		if (space == NULL)
			break;
		line = space + 1;
		/* The text after UNKNOWN is ignored (§2.1). */
		if (n == 2 && proxy_is(&word[1], "UNKNOWN"))
			break;
	}
	out->local = n == 2 && proxy_is(&word[1], "UNKNOWN");
	if (out->local)
		return true;
	v6 = n == 6 && proxy_is(&word[1], "TCP6");
	return n == 6 && word[5].data + word[5].len == end &&
	    (v6 || proxy_is(&word[1], "TCP4")) &&
	    proxy_v1_addr(&word[2], &word[4], v6, &out->src) &&
	    proxy_v1_addr(&word[3], &word[5], v6, &out->dst);
}

static bool
proxy_v1_addr(const struct proxy_slice *ip, const struct proxy_slice *port,
    bool v6, struct addr *out)
{
	char text[ADDR_TEXT_MAX];
	uint16_t number;

	/* A NUL would end the text early. */
	if (ip->len >= sizeof(text) || memchr(ip->data, '\0', ip->len) != NULL)
		return false;
	memcpy(text, ip->data, ip->len);
	text[ip->len] = '\0';
	if ((strchr(text, ':') != NULL) != v6 || !addr_parse_ip(text, out) ||
	    !proxy_v1_port(port, &number))
		return false;
	addr_set_port(out, number);
	return true;
}

static bool
proxy_v1_port(const struct proxy_slice *word, uint16_t *out)
{
	unsigned n = 0;

	if (word->len == 0 || word->len > 5 ||
	    (word->data[0] == '0' && word->len > 1))
		return false;
	for (size_t i = 0; i < word->len; i++) {
		if (word->data[i] < '0' || word->data[i] > '9')
			return false;
		n = n * 10 + (unsigned)(word->data[i] - '0');
	}
	*out = (uint16_t)n;
	return n <= 65535;
}

static bool
proxy_is(const struct proxy_slice *word, const char *text)
{
	return word->len == strlen(text) &&
	    memcmp(word->data, text, word->len) == 0;
}

static enum proxy_status
proxy_v2_parse(const uint8_t *data, size_t len, struct proxy_header *out,
    size_t *used_out)
{
	struct proxy_slice header = {.data = data};

	if (len < PROXY_V2_HEAD) {
		*used_out =
		    len < sizeof(proxy_v2_signature) ? len + 1 : PROXY_V2_HEAD;
		return PROXY_MORE;
	}
	header.len = PROXY_V2_HEAD + (size_t)proxy_get16(data + 14);
	if ((data[12] != PROXY_V2_LOCAL && data[12] != PROXY_V2_PROXY) ||
	    header.len > PROXY_HEADER_MAX)
		return PROXY_BAD;
	if (len < header.len) {
		*used_out = header.len;
		return PROXY_MORE;
	}
	if (!proxy_v2_block_parse(&header, out)) {
		memset(out, 0, sizeof(*out));
		return PROXY_BAD;
	}
	*used_out = header.len;
	return PROXY_OK;
}

static bool
proxy_v2_block_parse(const struct proxy_slice *header, struct proxy_header *out)
{
	const uint8_t *block = header->data + PROXY_V2_HEAD;
	uint8_t both = header->data[13];
	size_t family = both >> 4, octets;

	out->local = true;
	/* A health check: its block, including the family, is not read. */
	if (header->data[12] == PROXY_V2_LOCAL)
		return true;
	if (family >= ARRAY_LEN(proxy_address_octets) || (both & 0x0f) > 2)
		return false;
	octets = proxy_address_octets[family];
	if (octets == 0)
		return true;
	if (header->len - PROXY_V2_HEAD < octets)
		return false;
	if (both == PROXY_TCP4 || both == PROXY_TCP6) {
		bool v6 = both == PROXY_TCP6;
		size_t n = v6 ? 16 : 4;

		out->local = false;
		proxy_v2_addr(block, block + 2 * n, v6, &out->src);
		proxy_v2_addr(block + n, block + 2 * n + 2, v6, &out->dst);
	}
	return proxy_tlvs_parse(header, PROXY_V2_HEAD + octets, out);
}

static void
proxy_v2_addr(const uint8_t *ip, const uint8_t *port, bool v6, struct addr *out)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (v6) {
		memcpy(&in6.sin6_addr, ip, 16);
		memcpy(&in6.sin6_port, port, 2);
		addr_set(out, (const struct sockaddr *)&in6, sizeof(in6));
	} else {
		memcpy(&in.sin_addr, ip, 4);
		memcpy(&in.sin_port, port, 2);
		addr_set(out, (const struct sockaddr *)&in, sizeof(in));
	}
}

/* A known TLV that occurs twice is ambiguous. */
static bool
proxy_tlvs_parse(const struct proxy_slice *header, size_t at,
    struct proxy_header *out)
{
	struct proxy_slice rest = {header->data + at, header->len - at}, value;
	unsigned seen = 0;
	uint8_t type;

	while (rest.len > 0) {
		if (!proxy_tlv_next(&rest, &type, &value))
			return false;
		for (size_t i = 0; i < ARRAY_LEN(proxy_tlvs); i++) {
			if (proxy_tlvs[i].type != type)
				continue;
			if (seen & 1u << i ||
			    !proxy_tlvs[i].take(header, &value, out))
				return false;
			seen |= 1u << i;
		}
	}
	return true;
}

/* Takes one TLV off the front of rest. Returns false if it overruns. */
static bool
proxy_tlv_next(struct proxy_slice *rest, uint8_t *type_out,
    struct proxy_slice *value_out)
{
	size_t n;

	if (rest->len < PROXY_TLV_HEAD)
		return false;
	*type_out = rest->data[0];
	n = proxy_get16(rest->data + 1);
	if (n > rest->len - PROXY_TLV_HEAD)
		return false;
	value_out->data = rest->data + PROXY_TLV_HEAD;
	value_out->len = n;
	rest->data += PROXY_TLV_HEAD + n;
	rest->len -= PROXY_TLV_HEAD + n;
	return true;
}

/* A text that is not a host name is not passed on, but the client is served. */
static bool
proxy_tlv_authority(const struct proxy_slice *header UNUSED,
    const struct proxy_slice *v, struct proxy_header *out)
{
	if (hostname_valid((const char *)v->data, v->len))
		memcpy(out->authority, v->data, v->len);
	return true;
}

static bool
proxy_tlv_crc32c(const struct proxy_slice *header, const struct proxy_slice *v,
    struct proxy_header *out UNUSED)
{
	return v->len == 4 &&
	    ((uint32_t)proxy_get16(v->data) << 16 | proxy_get16(v->data + 2)) ==
	    proxy_crc32c(header, v);
}

static bool
proxy_tlv_ssl(const struct proxy_slice *header UNUSED,
    const struct proxy_slice *v, struct proxy_header *out)
{
	struct proxy_slice rest = *v, value;
	uint8_t type;

	if (v->len < PROXY_SSL_HEAD)
		return false;
	rest.data += PROXY_SSL_HEAD;
	rest.len -= PROXY_SSL_HEAD;
	while (rest.len > 0)
		if (!proxy_tlv_next(&rest, &type, &value))
			return false;
	out->has_tls = true;
	out->tls = (v->data[0] & PROXY_CLIENT_SSL) != 0;
	return true;
}

/* Other proxies use these two numbers as well (Google's 0xE0 is a connection id
 * of eight octets), so an unexpected value is not refused. */
static bool
proxy_tlv_session(const struct proxy_slice *header UNUSED,
    const struct proxy_slice *v, struct proxy_header *out)
{
	if (xclient_session_valid((const char *)v->data, v->len))
		memcpy(out->session, v->data, v->len);
	return true;
}

static bool
proxy_tlv_ttl(const struct proxy_slice *header UNUSED,
    const struct proxy_slice *v, struct proxy_header *out)
{
	/* No proxy sends 0; it must not start a new budget. */
	if (v->len == 1)
		out->ttl = v->data[0] > 0 ? v->data[0] : 1;
	return true;
}

/* Returns the CRC-32C (Castagnoli) of the header, with blank read as zeros. It
 * works bit by bit, because a header is short and a connection has only one. */
static uint32_t
proxy_crc32c(const struct proxy_slice *header, const struct proxy_slice *blank)
{
	uint32_t crc = 0xffffffff;

	for (const uint8_t *p = header->data; p < header->data + header->len;
	     p++) {
		if (p < blank->data || p >= blank->data + blank->len)
			crc ^= *p;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static uint16_t
proxy_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

size_t
proxy_header_format(const struct proxy_out *p, uint8_t *out, size_t size)
{
	uint8_t ttl = (uint8_t)p->ttl;
	struct proxy_writer w = {.out = out, .size = size};
	uint8_t head[] = {PROXY_V2_PROXY, PROXY_TCP4, 0, 0};
	bool v6;

	if (!proxy_values_good(p))
		return 0;
	v6 = p->src.u.sa.sa_family == AF_INET6 ||
	    p->dst.u.sa.sa_family == AF_INET6;
	if (v6)
		head[1] = PROXY_TCP6;
	proxy_put(&w, proxy_v2_signature, sizeof(proxy_v2_signature));
	proxy_put(&w, head, sizeof(head));
	proxy_put_ip(&w, &p->src, v6);
	proxy_put_ip(&w, &p->dst, v6);
	proxy_put16(&w, addr_port(&p->src));
	proxy_put16(&w, addr_port(&p->dst));
	proxy_put_text(&w, PROXY_TLV_AUTHORITY, p->authority);
	if (p->tls)
		proxy_put_ssl(&w, p);
	proxy_put_text(&w, PROXY_TLV_SESSION, p->session);
	if (p->ttl != 0)
		proxy_put_tlv(&w, PROXY_TLV_TTL, &ttl, sizeof(ttl));
	proxy_set_length(&w, PROXY_V2_HEAD - 2);
	return w.full ? 0 : w.len;
}

static bool
proxy_values_good(const struct proxy_out *p)
{
	const char *name = p->authority, *session = p->session;

	if (p->src.len == 0 || p->dst.len == 0 || p->ttl > 255)
		return false;
	if (name != NULL && name[0] != '\0' &&
	    !hostname_valid(name, strlen(name)))
		return false;
	if (session != NULL && session[0] != '\0' &&
	    !xclient_session_valid(session, strlen(session)))
		return false;
	return proxy_text_good(p->tls_version) &&
	    proxy_text_good(p->tls_cipher);
}

/* Returns true for NULL and for printable ASCII of a sane length. */
static bool
proxy_text_good(const char *text)
{
	if (text == NULL)
		return true;
	for (size_t i = 0; text[i] != '\0'; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < ' ' || c >= 0x7f || i >= PROXY_TEXT_MAX)
			return false;
	}
	return true;
}

static void
proxy_put(struct proxy_writer *w, const void *data, size_t len)
{
	if (w->full || len > w->size - w->len) {
		w->full = true;
		return;
	}
	memcpy(w->out + w->len, data, len);
	w->len += len;
}

static void
proxy_put16(struct proxy_writer *w, size_t n)
{
	uint8_t octets[2] = {(uint8_t)(n >> 8), (uint8_t)n};

	proxy_put(w, octets, sizeof(octets));
}

/* v6: the header is AF_INET6, for any family of a. */
static void
proxy_put_ip(struct proxy_writer *w, const struct addr *a, bool v6)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (a->u.sa.sa_family == AF_INET6) {
		proxy_put(w, &a->u.in6.sin6_addr, 16);
		return;
	}
	if (v6)
		proxy_put(w, mapped, sizeof(mapped));
	proxy_put(w, &a->u.in.sin_addr, 4);
}

static void
proxy_put_tlv(struct proxy_writer *w, uint8_t type, const void *data,
    size_t len)
{
	proxy_put(w, &type, 1);
	proxy_put16(w, len);
	proxy_put(w, data, len);
}

static void
proxy_put_text(struct proxy_writer *w, uint8_t type, const char *text)
{
	if (text != NULL && text[0] != '\0')
		proxy_put_tlv(w, type, text, strlen(text));
}

static void
proxy_put_ssl(struct proxy_writer *w, const struct proxy_out *p)
{
	/* verify is 0 for a valid certificate; mailferry requests none. */
	static const uint8_t head[PROXY_SSL_HEAD] = {
	    PROXY_CLIENT_SSL, 0, 0, 0, 1};
	size_t at = w->len + 1;

	proxy_put_tlv(w, PROXY_TLV_SSL, head, sizeof(head));
	proxy_put_text(w, PROXY_SSL_VERSION, p->tls_version);
	proxy_put_text(w, PROXY_SSL_CIPHER, p->tls_cipher);
	proxy_set_length(w, at);
}

/* Writes the length of the data after them into the two octets at "at". */
static void
proxy_set_length(struct proxy_writer *w, size_t at)
{
	size_t n = w->len - at - 2;

	if (w->full)
		return;
	w->out[at] = (uint8_t)(n >> 8);
	w->out[at + 1] = (uint8_t)n;
}
