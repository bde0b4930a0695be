/* test_proxy_protocol.c: headers in and out, octet by octet, against the
 * specification. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/proxy_protocol.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

#define TEN(s) s s s s s s s s s s

#define SIG "\r\n\r\n\0\r\nQUIT\n"
/* 192.0.2.1:12345 to 198.51.100.2:110 */
#define V4 "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x00\x6e"
/* [2001:db8::1]:12345 to [2001:db8::2]:995 */
#define V6                                           \
	"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01" \
	"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02" \
	"\x30\x39\x03\xe3"
/* ::ffff:192.0.2.1 to ::ffff:198.51.100.2 */
#define MAPPED                                         \
	"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01" \
	"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x02" \
	"\x30\x39\x00\x6e"
#define UNIX TEN(TEN("\0")) "\0\0\0\0\0\0\0\0" TEN(TEN("\0")) "\0\0\0\0\0\0\0\0"

#define TEXT4 "192.0.2.1:12345 198.51.100.2:110"
#define TEXT6 "[2001:db8::1]:12345 [2001:db8::2]:995"
#define LOCAL "local"

struct header_case {
	const char *proves;
	const char *data;
	size_t len;
	enum proxy_status status;
	const char *said; /* header_text(), when OK */
};

#define OK(text) PROXY_OK, text
#define BAD PROXY_BAD, NULL
#define NONE PROXY_NONE, NULL

static const struct header_case header_cases[] = {
    {"v1_tcp4", OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 12345 110\r\n"),
	OK(TEXT4)},
    {"v1_tcp6", OCTETS("PROXY TCP6 2001:db8::1 2001:DB8::2 12345 995\r\n"),
	OK(TEXT6)},
    {"v1_ports_of_zero",
	OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n"),
	OK("192.0.2.1:0 198.51.100.2:65535")},
    {"v1_mapped_is_folded",
	OCTETS("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 12345 110\r\n"),
	OK(TEXT4)},
    {"v1_longest_tcp4",
	OCTETS("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
	OK("255.255.255.255:65535 255.255.255.255:65535")},
    {"v1_longest_tcp6",
	OCTETS("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
	OK("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535 "
	   "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")},
    {"v1_unknown", OCTETS("PROXY UNKNOWN\r\n"), OK(LOCAL)},
    {"v1_longest_unknown",
	OCTETS("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
	OK(LOCAL)},
    {"v1_unknown_and_anything", OCTETS("PROXY UNKNOWN  a \0 b c d e f g\r\n"),
	OK(LOCAL)},
    {"v1_too_long",
	OCTETS("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 655350\r\n"),
	BAD},
    {"v1_bare_lf", OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 1 110\n"), BAD},
    {"v1_lf_in_the_middle", OCTETS("PROXY UNKNOWN a\nUSER x\r\n"), BAD},
    {"v1_cr_in_the_middle",
	OCTETS("PROXY TCP4 192.0.2.1 198.51.100.2 1 11\r0\r\n"), BAD},
    {"v1_family_in_small", OCTETS("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n"),
	BAD},
    {"v1_udp", OCTETS("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n"), BAD},
    {"v1_nothing", OCTETS("PROXY \r\n"), BAD},
    {"v1_family_alone", OCTETS("PROXY TCP4\r\n"), BAD},
    {"v1_unknown_and_more", OCTETS("PROXY UNKNOWNS\r\n"), BAD},
    {"v1_no_ports", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2\r\n"), BAD},
    {"v1_one_port", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"), BAD},
    {"v1_third_port", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n"), BAD},
    {"v1_space_behind", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n"), BAD},
    {"v1_two_spaces", OCTETS("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n"), BAD},
    {"v1_two_spaces_first", OCTETS("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
	BAD},
    {"v1_tab", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 1\t2\r\n"), BAD},
    {"v1_v6_as_tcp4", OCTETS("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n"),
	BAD},
    {"v1_v4_as_tcp6", OCTETS("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n"), BAD},
    {"v1_mixed", OCTETS("PROXY TCP6 2001:db8::1 192.0.2.2 1 2\r\n"), BAD},
    {"v1_no_address", OCTETS("PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n"), BAD},
    {"v1_octal", OCTETS("PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n"), BAD},
    {"v1_nul_in_address", OCTETS("PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n"),
	BAD},
    {"v1_scope", OCTETS("PROXY TCP6 fe80::1%1 2001:db8::2 1 2\r\n"), BAD},
    {"v1_long_address",
	OCTETS("PROXY TCP6 " TEN("0000000") " 2001:db8::2 1 2\r\n"), BAD},
    {"v1_port_over", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n"), BAD},
    {"v1_port_wraps", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 4294967297 2\r\n"),
	BAD},
    {"v1_port_negative", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n"),
	BAD},
    {"v1_port_with_zeros", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"),
	BAD},
    {"v1_ports_of_zeros", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 00 2\r\n"),
	BAD},
    {"v1_port_hex", OCTETS("PROXY TCP4 192.0.2.1 192.0.2.2 0x1 2\r\n"), BAD},

    {"v2_tcp4", OCTETS(SIG "\x21\x11\x00\x0c" V4), OK(TEXT4)},
    {"v2_tcp6", OCTETS(SIG "\x21\x21\x00\x24" V6), OK(TEXT6)},
    {"v2_mapped_is_folded", OCTETS(SIG "\x21\x21\x00\x24" MAPPED), OK(TEXT4)},
    {"v2_local", OCTETS(SIG "\x20\x00\x00\x00"), OK(LOCAL)},
    {"v2_local_with_addresses", OCTETS(SIG "\x20\x11\x00\x0c" V4), OK(LOCAL)},
    {"v2_local_ignores_family", OCTETS(SIG "\x20\xff\x00\x03xyz"), OK(LOCAL)},
    {"v2_unspec", OCTETS(SIG "\x21\x00\x00\x00"), OK(LOCAL)},
    {"v2_unspec_and_anything", OCTETS(SIG "\x21\x00\x00\x05xyzzy"), OK(LOCAL)},
    {"v2_inet_unspec", OCTETS(SIG "\x21\x10\x00\x0c" V4), OK(LOCAL)},
    {"v2_udp4", OCTETS(SIG "\x21\x12\x00\x0c" V4), OK(LOCAL)},
    {"v2_udp6", OCTETS(SIG "\x21\x22\x00\x24" V6), OK(LOCAL)},
    {"v2_unix_stream", OCTETS(SIG "\x21\x31\x00\xd8" UNIX), OK(LOCAL)},
    {"v2_unix_datagram", OCTETS(SIG "\x21\x32\x00\xd8" UNIX), OK(LOCAL)},
    {"v2_unix_with_ttl", OCTETS(SIG "\x21\x31\x00\xdc" UNIX "\xe1\x00\x01\x03"),
	OK(LOCAL " ttl=3")},
    {"v2_version_1", OCTETS(SIG "\x11\x11\x00\x0c" V4), BAD},
    {"v2_version_3", OCTETS(SIG "\x31\x11\x00\x0c" V4), BAD},
    {"v2_command_2", OCTETS(SIG "\x22\x11\x00\x0c" V4), BAD},
    {"v2_family_4", OCTETS(SIG "\x21\x41\x00\x0c" V4), BAD},
    {"v2_transport_3", OCTETS(SIG "\x21\x13\x00\x0c" V4), BAD},
    {"v2_unspec_transport_3", OCTETS(SIG "\x21\x03\x00\x00"), BAD},
    {"v2_no_addresses", OCTETS(SIG "\x21\x11\x00\x00"), BAD},
    {"v2_block_short", OCTETS(SIG "\x21\x11\x00\x0b" V4), BAD},
    {"v2_v4_as_v6", OCTETS(SIG "\x21\x21\x00\x0c" V4), BAD},
    {"v2_unix_short", OCTETS(SIG "\x21\x31\x00\x24" V6), BAD},
    {"v2_too_long", OCTETS(SIG "\x21\x11\x0f\xf1" V4), BAD},
    {"v2_far_too_long", OCTETS(SIG "\x20\x00\xff\xff"), BAD},

    {"noop", OCTETS(SIG "\x21\x11\x00\x12" V4 "\x04\0\0\x04\0\0"), OK(TEXT4)},
    {"noop_with_value", OCTETS(SIG "\x21\x11\x00\x11" V4 "\x04\0\x02xx"),
	OK(TEXT4)},
    {"unknown_types_are_skipped",
	OCTETS(SIG "\x21\x11\x00\x1e" V4
		   "\x05\0\x03uid\xea\0\x02\x01x\xff\0\0\x01\0\x01p"),
	OK(TEXT4)},
    {"unknown_types_may_come_twice",
	OCTETS(SIG "\x21\x11\x00\x14" V4 "\xea\0\x01x\xea\0\x01y"), OK(TEXT4)},
    {"ssl", OCTETS(SIG "\x21\x11\x00\x14" V4 "\x20\0\x05\x01\0\0\0\x01"),
	OK(TEXT4 " tls")},
    {"ssl_not_used", OCTETS(SIG "\x21\x11\x00\x14" V4 "\x20\0\x05\0\0\0\0\x01"),
	OK(TEXT4 " clear")},
    {"ssl_certificate_but_no_tls",
	OCTETS(SIG "\x21\x11\x00\x14" V4 "\x20\0\x05\x06\0\0\0\0"),
	OK(TEXT4 " clear")},
    {"ssl_with_subtypes",
	OCTETS(SIG "\x21\x11\x00\x20" V4
		   "\x20\0\x11\x07\0\0\0\0\x21\0\x03v13\x22\0\x03"
		   "cn."),
	OK(TEXT4 " tls")},
    {"ssl_short", OCTETS(SIG "\x21\x11\x00\x13" V4 "\x20\0\x04\x01\0\0\0"),
	BAD},
    {"ssl_empty", OCTETS(SIG "\x21\x11\x00\x0f" V4 "\x20\0\0"), BAD},
    {"ssl_subtype_overruns",
	OCTETS(SIG "\x21\x11\x00\x18" V4 "\x20\0\x09\x01\0\0\0\x01\x21\0\x02x"),
	BAD},
    {"ssl_subtype_cut",
	OCTETS(SIG "\x21\x11\x00\x16" V4 "\x20\0\x07\x01\0\0\0\x01\x21\0"),
	BAD},
    {"ssl_subtype_reaches_into_the_next",
	OCTETS(SIG "\x21\x11\x00\x1b" V4
		   "\x20\0\x08\x01\0\0\0\x01\x21\0\x04\xe1\0\x01\x05"),
	BAD},
    {"ssl_twice",
	OCTETS(SIG "\x21\x11\x00\x1c" V4
		   "\x20\0\x05\x01\0\0\0\x01\x20\0\x05\0\0\0\0\x01"),
	BAD},
    {"session",
	OCTETS(SIG "\x21\x11\x00\x15" V4 "\xe0\0\x06"
		   "aB3._-"),
	OK(TEXT4 " session=aB3._-")},
    {"session_of_google",
	OCTETS(SIG "\x21\x11\x00\x17" V4 "\xe0\0\x08\0\x01\x02\x03\x04\x05\x06"
		   "\x07"),
	OK(TEXT4)},
    {"session_empty", OCTETS(SIG "\x21\x11\x00\x0f" V4 "\xe0\0\0"), OK(TEXT4)},
    {"session_with_newline",
	OCTETS(SIG "\x21\x11\x00\x12" V4 "\xe0\0\x03"
		   "a\r\n"),
	OK(TEXT4)},
    {"session_twice",
	OCTETS(SIG "\x21\x11\x00\x14" V4 "\xe0\0\x01"
		   "a\xe0\0\x01"
		   "b"),
	BAD},
    {"ttl", OCTETS(SIG "\x21\x11\x00\x10" V4 "\xe1\0\x01\xff"),
	OK(TEXT4 " ttl=255")},
    {"ttl_zero_ends_here_too", OCTETS(SIG "\x21\x11\x00\x10" V4 "\xe1\0\x01\0"),
	OK(TEXT4 " ttl=1")},
    {"ttl_of_two_octets", OCTETS(SIG "\x21\x11\x00\x11" V4 "\xe1\0\x02\0\x07"),
	OK(TEXT4)},
    {"ttl_twice",
	OCTETS(SIG "\x21\x11\x00\x14" V4 "\xe1\0\x01\x07\xe1\0\x01\x07"), BAD},
    {"authority",
	OCTETS(SIG "\x21\x11\x00\x15" V4 "\x02\0\x06"
		   "a.test"),
	OK(TEXT4 " authority=a.test")},
    {"authority_is_no_name",
	OCTETS(SIG "\x21\x11\x00\x15" V4 "\x02\0\x06"
		   "a\r\nb.c"),
	OK(TEXT4)},
    {"authority_is_an_address",
	OCTETS(SIG "\x21\x11\x00\x18" V4 "\x02\0\x09"
		   "192.0.2.1"),
	OK(TEXT4)},
    {"tlv_cut_in_its_head", OCTETS(SIG "\x21\x11\x00\x0d" V4 "\x04"), BAD},
    {"tlv_cut_in_its_length", OCTETS(SIG "\x21\x11\x00\x0e" V4 "\x04\0"), BAD},
    {"tlv_overruns", OCTETS(SIG "\x21\x11\x00\x10" V4 "\x04\0\x02x"), BAD},
    {"tlv_overruns_into_the_mail",
	OCTETS(SIG "\x21\x11\x00\x0f" V4 "\x04\0\x06"
		   "USER x\r\n"),
	BAD},
    {"tlv_overruns_far", OCTETS(SIG "\x21\x11\x00\x0f" V4 "\xea\xff\xff"), BAD},
    {"crc_short", OCTETS(SIG "\x21\x11\x00\x12" V4 "\x03\0\x03\0\0\0"), BAD},
    {"crc_wrong", OCTETS(SIG "\x21\x11\x00\x13" V4 "\x03\0\x04\0\0\0\0"), BAD},

    {"greeting_of_a_client", OCTETS("CAPA\r\n"), NONE},
    {"pass_is_not_proxy", OCTETS("PASS x\r\n"), NONE},
    {"proxy_without_space", OCTETS("PROXYTCP4"), NONE},
    {"proxy_in_small", OCTETS("proxy TCP4 "), NONE},
    {"tls_client_hello", OCTETS("\x16\x03\x01\x02\x00"), NONE},
    {"empty_lines", OCTETS("\r\n\r\n\r\n"), NONE},
    {"signature_with_another_end", OCTETS("\r\n\r\n\0\r\nQUIT\r\n"), NONE},
    {"nul", OCTETS("\0"), NONE},
};

/* All that a header said, in words. */
static const char *
header_text(const struct proxy_header *h, char *out, size_t size)
{
	char src[ADDR_TEXT_MAX], dst[ADDR_TEXT_MAX], ttl[16] = "";

	if (h->ttl != 0)
		snprintf(ttl, sizeof(ttl), " ttl=%u", h->ttl);
	snprintf(out, size, "%s%s%s%s%s%s%s%s%s",
	    h->local ? LOCAL : addr_text(&h->src, src), h->local ? "" : " ",
	    h->local ? "" : addr_text(&h->dst, dst),
	    h->has_tls ? (h->tls ? " tls" : " clear") : "",
	    h->session[0] != '\0' ? " session=" : "", h->session, ttl,
	    h->authority[0] != '\0' ? " authority=" : "", h->authority);
	return out;
}

/* Parses the first n octets of data, from memory that ends there. */
static enum proxy_status
parse_copy(const char *data, size_t n, struct proxy_header *out, size_t *used)
{
	uint8_t *copy = malloc(n > 0 ? n : 1);
	enum proxy_status status;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, data, n);
	memset(out, 0xff, sizeof(*out));
	*used = 99;
	status = proxy_header_parse(copy, n, out, used);
	free(copy);
	return status;
}

START_TEST(header_is_judged)
{
	const struct header_case *c = &header_cases[_i];
	struct proxy_header h;
	char text[1024];
	size_t used;
	enum proxy_status status = parse_copy(c->data, c->len, &h, &used);

	ck_assert_msg(status == c->status, "%s: %d", c->proves, (int)status);
	if (status != PROXY_OK) {
		ck_assert_msg(used == 0, "%s", c->proves);
		ck_assert_msg(h.src.len == 0 && !h.local && h.ttl == 0 &&
			h.session[0] == '\0' && !h.has_tls,
		    "%s: something was believed", c->proves);
		return;
	}
	ck_assert_msg(used == c->len, "%s: %zu", c->proves, used);
	ck_assert_msg(strcmp(header_text(&h, text, sizeof(text)), c->said) == 0,
	    "%s: %s", c->proves, text);
	ck_assert_msg(!h.local || (h.src.len == 0 && h.dst.len == 0), "%s",
	    c->proves);
}
END_TEST

/* Cut anywhere, a header wants more, and never more than it has. */
START_TEST(each_prefix_wants_more)
{
	const struct header_case *c = &header_cases[_i];
	struct proxy_header h;
	size_t used;

	for (size_t n = 0; c->status == PROXY_OK && n < c->len; n++) {
		ck_assert_msg(parse_copy(c->data, n, &h, &used) == PROXY_MORE,
		    "%s: %zu", c->proves, n);
		ck_assert_msg(used > n && used <= c->len, "%s: %zu of %zu",
		    c->proves, used, n);
	}
}
END_TEST

/* What stands behind it is the client's. */
START_TEST(header_ends_where_it_ends)
{
	const struct header_case *c = &header_cases[_i];
	char data[512];
	struct proxy_header h;
	size_t used;

	if (c->status != PROXY_OK)
		return;
	memcpy(data, c->data, c->len);
	memcpy(data + c->len, "PROXY x\r\n", 9);
	ck_assert_msg(parse_copy(data, c->len + 9, &h, &used) == PROXY_OK, "%s",
	    c->proves);
	ck_assert_msg(used == c->len, "%s: %zu", c->proves, used);
}
END_TEST

START_TEST(endless_line_is_refused)
{
	char data[108] = "PROXY UNKNOWN ";
	struct proxy_header h;
	size_t used;

	memset(data + 14, 'x', sizeof(data) - 14);
	ck_assert_int_eq(parse_copy(data, 106, &h, &used), PROXY_MORE);
	ck_assert_int_eq(parse_copy(data, 107, &h, &used), PROXY_BAD);
	data[105] = '\r';
	data[106] = '\n';
	ck_assert_int_eq(parse_copy(data, 107, &h, &used), PROXY_OK);
	data[105] = 'x';
	data[106] = '\r';
	data[107] = '\n';
	ck_assert_int_eq(parse_copy(data, 108, &h, &used), PROXY_BAD);
}
END_TEST

START_TEST(longest_block_passes)
{
	char *data = malloc(PROXY_HEADER_MAX);
	static const char head[] = SIG "\x21\x11\x0f\xf0" V4 "\x04\x0f\xe1";
	struct proxy_header h;
	size_t used;

	ck_assert_ptr_nonnull(data);
	memset(data, 0, PROXY_HEADER_MAX);
	memcpy(data, head, sizeof(head) - 1);
	ck_assert_int_eq(parse_copy(data, 16, &h, &used), PROXY_MORE);
	ck_assert_uint_eq(used, PROXY_HEADER_MAX);
	ck_assert_int_eq(parse_copy(data, PROXY_HEADER_MAX, &h, &used),
	    PROXY_OK);
	free(data);
}
END_TEST

/* RFC 4960 appendix B, its table's entries made as they are needed. */
static uint32_t
crc32c(const uint8_t *data, size_t len)
{
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < len; i++) {
		uint32_t entry = (crc ^ data[i]) & 0xff;

		for (int bit = 0; bit < 8; bit++)
			entry = (entry & 1) != 0 ? entry >> 1 ^ 0x82f63b78
						 : entry >> 1;
		crc = crc >> 8 ^ entry;
	}
	return crc ^ 0xffffffff;
}

START_TEST(checksum_is_verified)
{
	uint8_t data[] =
	    SIG "\x21\x11\x00\x17" V4 "\x03\0\x04\0\0\0\0\xe1\0\x01\x05";
	const size_t len = sizeof(data) - 1, at = 16 + 12 + 3;
	struct proxy_header h;
	uint32_t crc;
	size_t used;

	/* The check value that catalogues give for CRC-32C. */
	ck_assert_uint_eq(crc32c((const uint8_t *)"123456789", 9), 0xe3069283);
	crc = crc32c(data, len);
	for (size_t i = 0; i < 4; i++)
		data[at + i] = (uint8_t)(crc >> (24 - 8 * i));
	ck_assert_int_eq(parse_copy((char *)data, len, &h, &used), PROXY_OK);
	ck_assert_uint_eq(h.ttl, 5);
	/* Any bit that tips is seen, but in the type that asks for it. */
	for (size_t bit = 16 * 8; bit < len * 8; bit++) {
		if (bit / 8 == at - 3)
			continue;
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_int_eq(parse_copy((char *)data, len, &h, &used),
		    PROXY_BAD);
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}
END_TEST

/* A header whose sum was not made here: both could err alike. */
START_TEST(checksum_has_a_known_value)
{
	static const char data[] =
	    SIG "\x21\x11\x00\x13" V4 "\x03\0\x04\xfe\xa4\xa9\x57";
	struct proxy_header h;
	size_t used;

	ck_assert_int_eq(parse_copy(data, sizeof(data) - 1, &h, &used),
	    PROXY_OK);
}
END_TEST

static struct addr
addr_of(const char *text)
{
	struct addr a;

	ck_assert(addr_parse(text, &a));
	return a;
}

static void
check_wire(const struct proxy_out *p, const char *want, size_t want_len)
{
	uint8_t out[1024];
	size_t len = proxy_header_format(p, out, sizeof(out));

	ck_assert_uint_eq(len, want_len);
	for (size_t i = 0; i < len; i++)
		ck_assert_msg(out[i] == (uint8_t)want[i], "octet %zu: %02x", i,
		    out[i]);
	/* No room is no header, not half of one. */
	for (size_t size = 0; size < len; size++) {
		uint8_t *exact = malloc(size > 0 ? size : 1);

		ck_assert_ptr_nonnull(exact);
		ck_assert_uint_eq(proxy_header_format(p, exact, size), 0);
		free(exact);
	}
}

START_TEST(wire_of_ipv4)
{
	struct proxy_out p = {.src = addr_of("192.0.2.1:12345"),
	    .dst = addr_of("198.51.100.2:110"),
	    .authority = "",
	    .session = ""};

	check_wire(&p, OCTETS(SIG "\x21\x11\x00\x0c" V4));
}
END_TEST

START_TEST(wire_of_ipv6)
{
	struct proxy_out p = {.src = addr_of("[2001:db8::1]:12345"),
	    .dst = addr_of("[2001:db8::2]:995"),
	    .authority = "",
	    .session = "abc",
	    .ttl = 7};

	check_wire(&p,
	    OCTETS(SIG "\x21\x21\x00\x2e" V6 "\xe0\x00\x03"
		       "abc"
		       "\xe1\x00\x01\x07"));
}
END_TEST

/* An IPv4 client on an IPv6 listener, over TLS, with all that can be said. */
START_TEST(wire_of_mixed_families_and_tls)
{
	static const char want[] =
	    SIG "\x21\x21\x00\x6f"
		"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01"
		"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"
		"\x30\x39\x03\xe3"
		"\x02\x00\x10"
		"mail.example.com"
		/* SSL: client, verify, then version and cipher */
		"\x20\x00\x28"
		"\x01"
		"\x00\x00\x00\x01"
		"\x21\x00\x07"
		"TLSv1.3"
		"\x23\x00\x16"
		"TLS_AES_256_GCM_SHA384"
		"\xe0\x00\x06"
		"aB3._-"
		"\xe1\x00\x01\x06";
	struct proxy_out p = {.src = addr_of("192.0.2.1:12345"),
	    .dst = addr_of("[2001:db8::2]:995"),
	    .tls = true,
	    .tls_version = "TLSv1.3",
	    .tls_cipher = "TLS_AES_256_GCM_SHA384",
	    .authority = "mail.example.com",
	    .session = "aB3._-",
	    .ttl = 6};

	check_wire(&p, OCTETS(want));
}
END_TEST

START_TEST(wire_of_mixed_families_other_way)
{
	struct proxy_out p = {.src = addr_of("[2001:db8::1]:12345"),
	    .dst = addr_of("198.51.100.2:110")};

	check_wire(&p,
	    OCTETS(SIG "\x21\x21\x00\x24"
		       "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
		       "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x02"
		       "\x30\x39\x00\x6e"));
}
END_TEST

START_TEST(tls_of_unknown_kind)
{
	struct proxy_out p = {.src = addr_of("192.0.2.1:12345"),
	    .dst = addr_of("198.51.100.2:110"),
	    .tls = true};

	check_wire(&p,
	    OCTETS(SIG "\x21\x11\x00\x14" V4 "\x20\0\x05\x01\0\0\0\x01"));
}
END_TEST

START_TEST(clear_leg_has_no_tls_part)
{
	struct proxy_out p = {.src = addr_of("192.0.2.1:12345"),
	    .dst = addr_of("198.51.100.2:110"),
	    .tls_version = "TLSv1.3",
	    .tls_cipher = "x"};

	check_wire(&p, OCTETS(SIG "\x21\x11\x00\x0c" V4));
}
END_TEST

START_TEST(header_comes_back)
{
	static const char *const ends[][2] = {
	    {"192.0.2.1:12345", "198.51.100.2:110"},
	    {"[2001:db8::1]:1", "[2001:db8::2]:65535"},
	    {"192.0.2.1:0", "[2001:db8::2]:995"},
	    {"[2001:db8::1]:0", "198.51.100.2:0"},
	};
	uint8_t out[1024];

	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		struct proxy_out p = {.src = addr_of(ends[i][0]),
		    .dst = addr_of(ends[i][1]),
		    .tls = i % 2 == 0,
		    .tls_version = "TLSv1.2",
		    .authority = "mail.example.com",
		    .session = "0123456789",
		    .ttl = (unsigned)(255 - i)};
		size_t len = proxy_header_format(&p, out, sizeof(out)), used;
		struct proxy_header h;

		ck_assert_int_eq(proxy_header_parse(out, len, &h, &used),
		    PROXY_OK);
		ck_assert_uint_eq(used, len);
		ck_assert(!h.local);
		ck_assert(addr_same_ip(&h.src, &p.src));
		ck_assert(addr_same_ip(&h.dst, &p.dst));
		ck_assert_uint_eq(addr_port(&h.src), addr_port(&p.src));
		ck_assert_uint_eq(addr_port(&h.dst), addr_port(&p.dst));
		ck_assert_int_eq(h.has_tls, p.tls);
		ck_assert_int_eq(h.tls, p.tls);
		ck_assert_str_eq(h.session, p.session);
		ck_assert_str_eq(h.authority, p.authority);
		ck_assert_uint_eq(h.ttl, p.ttl);
	}
}
END_TEST

START_TEST(rule_breakers_stop_the_header)
{
	const struct proxy_out good = {.src = addr_of("192.0.2.1:12345"),
	    .dst = addr_of("198.51.100.2:110"),
	    .tls = true,
	    .tls_version = "TLSv1.3",
	    .tls_cipher = "x",
	    .authority = "a.test",
	    .session = "x",
	    .ttl = 255};
	char longer[300];
	uint8_t out[1024];
	struct proxy_out p;

	memset(longer, 'x', sizeof(longer));
	longer[256] = '\0';
	ck_assert_uint_gt(proxy_header_format(&good, out, sizeof(out)), 0);

#define REFUSED(change)                                                       \
	do {                                                                  \
		p = good;                                                     \
		change;                                                       \
		ck_assert_msg(proxy_header_format(&p, out, sizeof(out)) == 0, \
		    "%s", #change);                                           \
	} while (0)

	REFUSED(p.src.len = 0);
	REFUSED(p.dst.len = 0);
	REFUSED(p.ttl = 256);
	REFUSED(p.session = "a b");
	REFUSED(p.session = "a\r\n");
	REFUSED(p.session = longer);
	REFUSED(p.authority = "a.test\r\n");
	REFUSED(p.authority = "192.0.2.1");
	REFUSED(p.authority = longer);
	REFUSED(p.tls_version = "TLS\n");
	REFUSED(p.tls_version = longer);
	REFUSED(p.tls_cipher = "\xc3\xa4");
	REFUSED(p.tls_cipher = "\x7f");
#undef REFUSED
}
END_TEST

static Suite *
proxy_protocol_suite(void)
{
	Suite *suite = suite_create("proxy_protocol");
	TCase *tc = tcase_create("proxy_protocol");
	const int n = (int)ARRAY_LEN(header_cases);

	tcase_add_loop_test(tc, header_is_judged, 0, n);
	tcase_add_loop_test(tc, each_prefix_wants_more, 0, n);
	tcase_add_loop_test(tc, header_ends_where_it_ends, 0, n);
	tcase_add_test(tc, endless_line_is_refused);
	tcase_add_test(tc, longest_block_passes);
	tcase_add_test(tc, checksum_is_verified);
	tcase_add_test(tc, checksum_has_a_known_value);
	tcase_add_test(tc, wire_of_ipv4);
	tcase_add_test(tc, wire_of_ipv6);
	tcase_add_test(tc, wire_of_mixed_families_and_tls);
	tcase_add_test(tc, wire_of_mixed_families_other_way);
	tcase_add_test(tc, tls_of_unknown_kind);
	tcase_add_test(tc, clear_leg_has_no_tls_part);
	tcase_add_test(tc, header_comes_back);
	tcase_add_test(tc, rule_breakers_stop_the_header);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(proxy_protocol_suite());
}
