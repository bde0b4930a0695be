/* test_addr.c: addresses and CIDR ranges. */

#include <check.h>
#include <stdlib.h>

#include "platform/addr.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "run.h"

START_TEST(addresses_parse_and_print)
{
	static const struct {
		const char *in, *out; /* out NULL: refused */
	} rows[] = {
	    {"192.0.2.1:110", "192.0.2.1:110"},
	    {"[2001:db8::1]:995", "[2001:db8::1]:995"},
	    {"[::]:0", "[::]:0"},
	    {"[::ffff:192.0.2.1]:1", "192.0.2.1:1"},
	    {"192.0.2.1", NULL},
	    {"2001:db8::1:110", NULL},
	    {"[192.0.2.1]:110", NULL},
	    {"192.0.2.1:65536", NULL},
	    {"192.0.2.1:", NULL},
	    {"192.0.2.1:1x", NULL},
	    {"192.0.2.1:-1", NULL},
	    {"192.0.2.256:1", NULL},
	    {"[]:1", NULL},
	    {"[::1:1", NULL},
	    {"localhost:110", NULL},
	    {"", NULL},
	};
	char text[ADDR_TEXT_MAX];
	struct addr a;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		bool ok = addr_parse(rows[i].in, &a);

		ck_assert_msg(ok == (rows[i].out != NULL), "%s", rows[i].in);
		if (ok)
			ck_assert_str_eq(addr_text(&a, text), rows[i].out);
	}
}
END_TEST

START_TEST(cidrs_match)
{
	static const struct {
		const char *cidr, *ip;
		bool match;
	} rows[] = {
	    {"192.0.2.0/24", "192.0.2.255", true},
	    {"192.0.2.0/24", "192.0.3.0", false},
	    {"192.0.2.128/25", "192.0.2.127", false},
	    {"0.0.0.0/0", "203.0.113.9", true},
	    {"0.0.0.0/0", "::1", false},
	    {"::/0", "::1", true},
	    {"::/0", "192.0.2.1", false},
	    {"2001:db8::/33", "2001:db8:7fff::1", true},
	    {"2001:db8::/33", "2001:db8:8000::1", false},
	    {"192.0.2.1", "192.0.2.1", true},
	    {"192.0.2.1", "::ffff:192.0.2.1", true},
	    {"::ffff:192.0.2.0/120", "192.0.2.77", true},
	    {"::1", "::1", true},
	};
	struct cidr c;
	struct addr a;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ck_assert(cidr_parse(rows[i].cidr, &c));
		ck_assert(addr_parse_ip(rows[i].ip, &a));
		ck_assert_msg(cidr_match(&c, &a) == rows[i].match, "%s %s",
		    rows[i].cidr, rows[i].ip);
	}
}
END_TEST

START_TEST(bad_cidrs_are_refused)
{
	static const char *const rows[] = {"", "/", "192.0.2.0/33",
	    "192.0.2.1/24", "192.0.2.0/", "192.0.2.0/x", "2001:db8::/129",
	    "2001:db8::1/64", "::ffff:192.0.2.0/95", "host/8", "192.0.2/24",
	    "192.0.2.0/24/1"};
	struct cidr c;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert_msg(!cidr_parse(rows[i], &c), "%s", rows[i]);
}
END_TEST

START_TEST(no_address_is_nobodys)
{
	struct addr none = {.len = 0}, a;
	char text[ADDR_TEXT_MAX];
	struct cidr c;

	ck_assert(addr_parse_ip("0.0.0.0", &a));
	ck_assert(addr_is_unspecified(&a));
	ck_assert(!addr_is_unspecified(&none));
	ck_assert(!addr_same_ip(&none, &none));
	ck_assert(cidr_parse("0.0.0.0/0", &c));
	ck_assert(!cidr_match(&c, &none));
	ck_assert_str_eq(addr_text(&none, text), "-");
}
END_TEST

START_TEST(one_client_is_an_address_or_a_64)
{
	static const struct {
		const char *a, *b;
		bool same;
	} rows[] = {
	    {"192.0.2.1", "192.0.2.1", true},
	    {"192.0.2.1", "192.0.2.2", false},
	    {"::ffff:192.0.2.1", "192.0.2.1", true},
	    {"2001:db8:1:1::1", "2001:db8:1:1:ffff::2", true},
	    {"2001:db8:1:1::1", "2001:db8:1:2::1", false},
	    {"0.0.0.0", "::", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct addr a, b;

		ck_assert(addr_parse_ip(rows[i].a, &a));
		ck_assert(addr_parse_ip(rows[i].b, &b));
		addr_set_port(&b, 110);
		ck_assert_int_eq(addr_client_hash(&a) == addr_client_hash(&b),
		    rows[i].same);
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("addr");
	TCase *tc = tcase_create("addr");

	hash_init();
	tcase_add_test(tc, addresses_parse_and_print);
	tcase_add_test(tc, cidrs_match);
	tcase_add_test(tc, bad_cidrs_are_refused);
	tcase_add_test(tc, no_address_is_nobodys);
	tcase_add_test(tc, one_client_is_an_address_or_a_64);
	suite_add_tcase(suite, tc);
	return run(suite);
}
