/* test_xclient.c: one line, with nothing in it that a stranger chose freely. */

#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/xclient.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

#define TEN(s) s s s s s s s s s s
#define A63 TEN("abcdef") "abc"
#define A253 A63 "." A63 "." A63 "." TEN("abcdef") "a"

static struct addr
addr_of(const char *ip, uint16_t port)
{
	struct addr a;

	ck_assert(addr_parse_ip(ip, &a));
	addr_set_port(&a, port);
	return a;
}

static struct xclient
xclient_full(void)
{
	struct xclient x = {.addr = addr_of("192.0.2.1", 12345),
	    .has_port = true,
	    .dest = addr_of("2001:db8::2", 995),
	    .has_dest_port = true,
	    .session = "aB3._-",
	    .ttl = 6,
	    .transport = XCLIENT_TRANSPORT_TLS,
	    .dest_name = "mail.example.com"};

	return x;
}

START_TEST(values_come_in_order)
{
	static const char want[] =
	    "XCLIENT ADDR=192.0.2.1 PORT=12345 DESTADDR=2001:db8::2 "
	    "DESTPORT=995 SESSION=aB3._- TTL=6 CLIENT-TRANSPORT=TLS "
	    "DESTNAME=mail.example.com";
	struct xclient x = xclient_full();
	char out[XCLIENT_LINE_MAX + 1];

	ck_assert_uint_eq(xclient_format(&x, out, sizeof(out)),
	    sizeof(want) - 1);
	ck_assert_str_eq(out, want);
}
END_TEST

START_TEST(unset_values_are_left_out)
{
	struct xclient x = {.addr = addr_of("2001:db8::1", 0),
	    .has_port = true,
	    .transport = XCLIENT_TRANSPORT_INSECURE};
	char out[XCLIENT_LINE_MAX + 1];

	ck_assert_uint_gt(xclient_format(&x, out, sizeof(out)), 0);
	ck_assert_str_eq(out,
	    "XCLIENT ADDR=2001:db8::1 CLIENT-TRANSPORT=insecure");
	memset(&x, 0, sizeof(x));
	x.ttl = 255;
	ck_assert_uint_gt(xclient_format(&x, out, sizeof(out)), 0);
	ck_assert_str_eq(out, "XCLIENT TTL=255");
}
END_TEST

START_TEST(line_has_to_fit)
{
	struct xclient x = xclient_full();
	char out[XCLIENT_LINE_MAX + 1];
	size_t len = xclient_format(&x, out, sizeof(out));

	for (size_t size = 0; size <= len; size++) {
		char *exact = malloc(size > 0 ? size : 1);

		ck_assert_ptr_nonnull(exact);
		ck_assert_uint_eq(xclient_format(&x, exact, size), 0);
		free(exact);
	}
	ck_assert_uint_eq(xclient_format(&x, out, len + 1), len);
}
END_TEST

/* The longest of everything stays far below what Dovecot reads. */
START_TEST(longest_line_passes)
{
	struct xclient x = {
	    .addr = addr_of("2001:db8:1111:2222:3333:4444:5555:6666", 65535),
	    .has_port = true,
	    .dest = addr_of("2001:db8:1111:2222:3333:4444:5555:7777", 65535),
	    .has_dest_port = true,
	    .ttl = 255,
	    .transport = XCLIENT_TRANSPORT_INSECURE,
	    .dest_name = A253};
	char out[XCLIENT_LINE_MAX + 1];
	size_t len;

	memset(x.session, 'x', XCLIENT_SESSION_MAX);
	ck_assert_uint_eq(strlen(x.dest_name), XCLIENT_NAME_MAX);
	len = xclient_format(&x, out, sizeof(out));
	ck_assert_uint_gt(len, 400);
	ck_assert_uint_lt(len, XCLIENT_LINE_MAX);
}
END_TEST

START_TEST(rule_breakers_stop_the_line)
{
	char out[XCLIENT_LINE_MAX + 1];
	struct xclient x;

#define REFUSED(change)                                                        \
	do {                                                                   \
		x = xclient_full();                                            \
		change;                                                        \
		ck_assert_msg(xclient_format(&x, out, sizeof(out)) == 0, "%s", \
		    #change);                                                  \
	} while (0)

	REFUSED(x.addr.len = 0);
	REFUSED(x.dest.len = 0);
	REFUSED(x.ttl = 256);
	REFUSED(strcpy(x.session, "a b"));
	REFUSED(strcpy(x.session, "a\r\nQUIT"));
	REFUSED(strcpy(x.session, "[UNAVAILABLE]"));
	REFUSED(strcpy(x.session, "a;b"));
	REFUSED(memset(x.session, 'x', sizeof(x.session)));
	REFUSED(strcpy(x.dest_name, "a.test TTL=9"));
	REFUSED(strcpy(x.dest_name, "a.test\r\nUSER x"));
	REFUSED(strcpy(x.dest_name, "a.test\n"));
	REFUSED(strcpy(x.dest_name, "192.0.2.1"));
	REFUSED(strcpy(x.dest_name, "a.test."));
	REFUSED(memset(x.dest_name, 'x', sizeof(x.dest_name)));
#undef REFUSED
}
END_TEST

struct parse_case {
	const char *proves;
	const char *arg;
	size_t len;
	const char *said; /* xclient_format() of it; NULL: refused */
};

static const struct parse_case parse_cases[] = {
    {"everything",
	OCTETS("ADDR=192.0.2.1 PORT=12345 DESTADDR=2001:db8::2 DESTPORT=995 "
	       "SESSION=aB3._- TTL=6 CLIENT-TRANSPORT=TLS "
	       "DESTNAME=mail.example.com"),
	"ADDR=192.0.2.1 PORT=12345 DESTADDR=2001:db8::2 DESTPORT=995 "
	"SESSION=aB3._- TTL=6 CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com"},
    {"any_order", OCTETS("TTL=6 PORT=1 ADDR=192.0.2.1"),
	"ADDR=192.0.2.1 PORT=1 TTL=6"},
    {"names_have_no_case", OCTETS("addr=192.0.2.1 Port=1 client-TRANSPORT=tls"),
	"ADDR=192.0.2.1 PORT=1 CLIENT-TRANSPORT=TLS"},
    {"insecure", OCTETS("CLIENT-TRANSPORT=Insecure"),
	"CLIENT-TRANSPORT=insecure"},
    {"unknown_names_are_skipped",
	OCTETS("LOGIN=alice FORWARD=Zm9v ADDR=192.0.2.1 X= X=y"),
	"ADDR=192.0.2.1"},
    {"bare_ipv6", OCTETS("ADDR=2001:db8::1"), "ADDR=2001:db8::1"},
    {"ipv6_in_brackets", OCTETS("ADDR=[2001:db8::1] PORT=1"),
	"ADDR=2001:db8::1 PORT=1"},
    {"ipv4_in_brackets", OCTETS("ADDR=[192.0.2.1]"), "ADDR=192.0.2.1"},
    {"ipv6_of_postfix", OCTETS("ADDR=IPV6:2001:db8::1"), "ADDR=2001:db8::1"},
    {"tag_has_no_case", OCTETS("ADDR=ipv6:2001:db8::1"), "ADDR=2001:db8::1"},
    {"mapped_is_folded", OCTETS("ADDR=::ffff:192.0.2.1"), "ADDR=192.0.2.1"},
    {"unavailable", OCTETS("ADDR=[UNAVAILABLE] PORT=[unavailable] TTL=2"),
	"TTL=2"},
    {"tempunavail", OCTETS("ADDR=[TEMPUNAVAIL] DESTNAME=[TEMPUNAVAIL] TTL=2"),
	"TTL=2"},
    {"unavailable_session", OCTETS("SESSION=[UNAVAILABLE] TTL=2"), "TTL=2"},
    {"session_of_dovecot", OCTETS("SESSION=kPYL/ZYmXsF+AAAB TTL=2"),
	"SESSION=kPYL/ZYmXsF+AAAB TTL=2"},
    {"session_foreign", OCTETS("SESSION=a;b TTL=2"), "TTL=2"},
    {"more_spaces", OCTETS("  ADDR=192.0.2.1   TTL=2  "),
	"ADDR=192.0.2.1 TTL=2"},
    {"ttl_range", OCTETS("TTL=255"), "TTL=255"},
    {"port_range", OCTETS("ADDR=192.0.2.1 PORT=65535"),
	"ADDR=192.0.2.1 PORT=65535"},
    {"no_equals", OCTETS("ADDR"), NULL},
    {"no_equals_in_the_second", OCTETS("TTL=2 x"), NULL},
    {"no_name", OCTETS("=x"), NULL},
    {"name_twice", OCTETS("ADDR=192.0.2.1 ADDR=192.0.2.2"), NULL},
    {"name_twice_in_other_case", OCTETS("TTL=2 ttl=2"), NULL},
    {"unavailable_counts_once", OCTETS("TTL=[UNAVAILABLE] TTL=2"), NULL},
    {"port_without_addr", OCTETS("PORT=1"), NULL},
    {"port_with_dest_only", OCTETS("DESTADDR=192.0.2.1 PORT=1"), NULL},
    {"dest_port_without_dest", OCTETS("ADDR=192.0.2.1 DESTPORT=1"), NULL},
    {"port_of_the_unavailable", OCTETS("ADDR=[UNAVAILABLE] PORT=1"), NULL},
    {"addr_empty", OCTETS("ADDR="), NULL},
    {"addr_name", OCTETS("ADDR=a.test"), NULL},
    {"addr_short", OCTETS("ADDR=192.0.2"), NULL},
    {"addr_octal", OCTETS("ADDR=192.0.02.1"), NULL},
    {"addr_with_port", OCTETS("ADDR=192.0.2.1:110"), NULL},
    {"addr_with_scope", OCTETS("ADDR=fe80::1%eth0"), NULL},
    {"addr_half_bracket", OCTETS("ADDR=[2001:db8::1"), NULL},
    {"addr_brackets_empty", OCTETS("ADDR=[]"), NULL},
    {"addr_tag_empty", OCTETS("ADDR=IPV6:"), NULL},
    {"addr_tag_of_ipv4", OCTETS("ADDR=IPV6:192.0.2.1"), NULL},
    {"addr_tag_in_brackets", OCTETS("ADDR=[IPV6:2001:db8::1]"), NULL},
    {"addr_nul", OCTETS("ADDR=192.0.2.1\0"), NULL},
    {"addr_long", OCTETS("ADDR=" TEN("0000000000")), NULL},
    {"port_zero", OCTETS("ADDR=192.0.2.1 PORT=0"), NULL},
    {"port_over", OCTETS("ADDR=192.0.2.1 PORT=65536"), NULL},
    {"port_empty", OCTETS("ADDR=192.0.2.1 PORT="), NULL},
    {"port_negative", OCTETS("ADDR=192.0.2.1 PORT=-1"), NULL},
    {"port_plus", OCTETS("ADDR=192.0.2.1 PORT=+1"), NULL},
    {"port_hex", OCTETS("ADDR=192.0.2.1 PORT=0x1"), NULL},
    {"port_wraps", OCTETS("ADDR=192.0.2.1 PORT=4294967297"), NULL},
    {"ttl_zero", OCTETS("TTL=0"), NULL},
    {"ttl_over", OCTETS("TTL=256"), NULL},
    {"ttl_text", OCTETS("TTL=x"), NULL},
    {"session_empty", OCTETS("SESSION="), NULL},
    {"session_long", OCTETS("SESSION=" TEN("abcdef") "abcde"), NULL},
    {"session_long_and_foreign", OCTETS("SESSION=" TEN("abcde/") "abcde"),
	NULL},
    {"session_control", OCTETS("SESSION=a\tb"), NULL},
    {"session_8_bit", OCTETS("SESSION=a\xc3\xa4"), NULL},
    {"transport_other", OCTETS("CLIENT-TRANSPORT=SSL"), NULL},
    {"transport_empty", OCTETS("CLIENT-TRANSPORT="), NULL},
    {"dest_name_bad", OCTETS("DESTNAME=a_.test"), NULL},
    {"dest_name_address", OCTETS("DESTNAME=192.0.2.1"), NULL},
    {"dest_name_empty", OCTETS("DESTNAME="), NULL},
};

START_TEST(attributes_are_parsed)
{
	const struct parse_case *c = &parse_cases[_i];
	char *arg = malloc(c->len), out[XCLIENT_LINE_MAX + 1];
	struct xclient x;
	bool good;

	ck_assert_ptr_nonnull(arg);
	memcpy(arg, c->arg, c->len);
	good = xclient_parse(arg, c->len, &x);
	ck_assert_msg(good == (c->said != NULL), "%s", c->proves);
	if (good) {
		ck_assert_uint_gt(xclient_format(&x, out, sizeof(out)), 0);
		ck_assert_msg(strcmp(out + strlen("XCLIENT "), c->said) == 0,
		    "%s: %s", c->proves, out);
	}
	free(arg);
}
END_TEST

START_TEST(nothing_may_be_said)
{
	struct xclient x = {.ttl = 9};

	ck_assert(xclient_parse("", 0, &x));
	ck_assert(x.ttl == 0 && x.addr.len == 0 && !x.has_port);
}
END_TEST

START_TEST(session_has_its_alphabet)
{
	char s[XCLIENT_SESSION_MAX + 1];

	for (int c = 0; c < 256; c++) {
		bool good = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		    (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		    c == '-' || c == '+' || c == '/' || c == '=';

		for (size_t at = 0; at < 3; at++) {
			memset(s, 'x', 3);
			s[at] = (char)c;
			ck_assert_int_eq(xclient_session_valid(s, 3), good);
		}
	}
	memset(s, 'x', sizeof(s));
	ck_assert(xclient_session_valid(s, XCLIENT_SESSION_MAX));
	ck_assert(!xclient_session_valid(s, XCLIENT_SESSION_MAX + 1));
	ck_assert(!xclient_session_valid(s, 0));
}
END_TEST

START_TEST(host_names_are_known)
{
	static const struct {
		const char *name;
		size_t len;
		bool valid;
	} names[] = {
	    {OCTETS("mail.example.com"), true},
	    {OCTETS("MAIL.Example.COM"), true},
	    {OCTETS("localhost"), true},
	    {OCTETS("a"), true},
	    {OCTETS("a.1"), true},
	    {OCTETS("1.a"), true},
	    {OCTETS("3com.com"), true},
	    {OCTETS("xn--mller-kva.de"), true},
	    {OCTETS("a--b.test"), true},
	    {OCTETS("1-2"), true},
	    {OCTETS("old_host.test"), true},
	    {OCTETS(A63 ".test"), true},
	    {OCTETS(A253), true},
	    {OCTETS(""), false},
	    {OCTETS("."), false},
	    {OCTETS("a."), false},
	    {OCTETS(".a"), false},
	    {OCTETS("a..b"), false},
	    {OCTETS("-a.test"), false},
	    {OCTETS("a-.test"), false},
	    {OCTETS("a.test-"), false},
	    {OCTETS("-"), false},
	    {OCTETS("_a.test"), false},
	    {OCTETS("a_.test"), false},
	    {OCTETS("a.test_"), false},
	    {OCTETS("192.0.2.1"), false},
	    {OCTETS("1"), false},
	    {OCTETS("1_2"), false},
	    {OCTETS("2001:db8::1"), false},
	    {OCTETS("[2001:db8::1]"), false},
	    {OCTETS("*.example.com"), false},
	    {OCTETS("a b"), false},
	    {OCTETS("a.test "), false},
	    {OCTETS("a.test\r\n"), false},
	    {OCTETS("a.test\0"), false},
	    {OCTETS("a\0b.test"), false},
	    {OCTETS("m\xc3\xbcller.de"), false},
	    {OCTETS("a/../b.test"), false},
	    {OCTETS("a.test:995"), false},
	    {OCTETS(A63 "d.test"), false},
	    {OCTETS(A253 "b"), false},
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *name = malloc(names[i].len > 0 ? names[i].len : 1);

		ck_assert_ptr_nonnull(name);
		memcpy(name, names[i].name, names[i].len);
		ck_assert_msg(hostname_valid(name, names[i].len) ==
			names[i].valid,
		    "%s", names[i].name);
		free(name);
	}
}
END_TEST

START_TEST(each_octet_of_a_host_name_is_judged)
{
	for (int c = 0; c < 256; c++) {
		bool inner = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		    (c >= '0' && c <= '9');
		char first[] = "Xbc.test", middle[] = "aXc.test";
		char last[] = "abX.test";

		first[0] = middle[1] = last[2] = (char)c;
		ck_assert_int_eq(hostname_valid(first, 8), inner);
		ck_assert_int_eq(hostname_valid(last, 8), inner);
		ck_assert_int_eq(hostname_valid(middle, 8),
		    inner || c == '-' || c == '_' || c == '.');
	}
}
END_TEST

static Suite *
xclient_suite(void)
{
	Suite *suite = suite_create("xclient");
	TCase *tc = tcase_create("xclient");

	tcase_add_test(tc, values_come_in_order);
	tcase_add_test(tc, unset_values_are_left_out);
	tcase_add_test(tc, line_has_to_fit);
	tcase_add_test(tc, longest_line_passes);
	tcase_add_test(tc, rule_breakers_stop_the_line);
	tcase_add_loop_test(tc, attributes_are_parsed, 0,
	    (int)ARRAY_LEN(parse_cases));
	tcase_add_test(tc, nothing_may_be_said);
	tcase_add_test(tc, session_has_its_alphabet);
	tcase_add_test(tc, host_names_are_known);
	tcase_add_test(tc, each_octet_of_a_host_name_is_judged);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(xclient_suite());
}
