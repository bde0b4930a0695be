/* test_identifier.c: the key that is looked up, and what never becomes one. */

#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/identifier.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

static char percent[] = "%", plus_plus[] = "++", star[] = "*", empty[] = "";
static char *const no_separators[] = {NULL};
static char *const one_separator[] = {percent};
static char *const star_separator[] = {star};
static char *const separators[] = {star, plus_plus, percent};
static char *const empty_separator[] = {empty, percent};

static const struct identifier_rules plain_rules = {
    no_separators, 0, "", "", NORMALIZE_NONE};
static const struct identifier_rules lower_rules = {
    no_separators, 0, "", "", NORMALIZE_LOWERCASE};
static const struct identifier_rules domain_rules = {
    no_separators, 0, "", "Example.COM", NORMALIZE_NONE};
static const struct identifier_rules lower_domain_rules = {
    no_separators, 0, "", "Example.COM", NORMALIZE_LOWERCASE};
static const struct identifier_rules fold_domain_rules = {
    no_separators, 0, "", "Example.COM", NORMALIZE_DOMAIN};
static const struct identifier_rules cut_rules = {
    one_separator, 1, "", "", NORMALIZE_NONE};
static const struct identifier_rules cut_domain_rules = {
    one_separator, 1, "", "example.com", NORMALIZE_NONE};
static const struct identifier_rules many_rules = {
    separators, 3, "", "", NORMALIZE_NONE};
static const struct identifier_rules empty_rules = {
    empty_separator, 2, "", "", NORMALIZE_NONE};

static const struct identifier_rules at_rules = {
    no_separators, 0, "%+", "example.com", NORMALIZE_LOWERCASE};
static const struct identifier_rules cut_at_rules = {
    star_separator, 1, "%", "", NORMALIZE_LOWERCASE};

struct identifier_case {
	const char *proves;
	const struct identifier_rules *rules;
	const char *name;
	size_t len;
	enum identifier_status status;
	const char *key;
};

static const struct identifier_case cases[] = {
    {"address_stays", &plain_rules, OCTETS("alice@example.com"), IDENTIFIER_OK,
	"alice@example.com"},
    {"case_stays", &plain_rules, OCTETS("Alice@Example.com"), IDENTIFIER_OK,
	"Alice@Example.com"},
    {"case_is_lowered", &lower_rules, OCTETS("Alice@Example.COM"),
	IDENTIFIER_OK, "alice@example.com"},
    {"lowering_is_ascii", &lower_rules, OCTETS("\xc3\x84Z[@`{\xc3\x96"),
	IDENTIFIER_OK, "\xc3\x84z[@`{\xc3\x96"},
    {"bare_name_without_domain", &plain_rules, OCTETS("alice"), IDENTIFIER_OK,
	"alice"},
    {"bare_name_gets_domain", &domain_rules, OCTETS("alice"), IDENTIFIER_OK,
	"alice@Example.COM"},
    {"domain_is_lowered_too", &lower_domain_rules, OCTETS("Alice"),
	IDENTIFIER_OK, "alice@example.com"},
    {"only_domain_is_lowered", &fold_domain_rules, OCTETS("A@Lice@Example.COM"),
	IDENTIFIER_OK, "A@Lice@example.com"},
    {"only_default_domain_is_lowered", &fold_domain_rules, OCTETS("Alice"),
	IDENTIFIER_OK, "Alice@example.com"},
    {"full_name_keeps_domain", &domain_rules, OCTETS("alice@a.test"),
	IDENTIFIER_OK, "alice@a.test"},
    {"name_with_at_only_is_not_bare", &domain_rules, OCTETS("alice@"),
	IDENTIFIER_OK, "alice@"},
    {"master_is_cut", &cut_rules, OCTETS("alice%admin"), IDENTIFIER_OK,
	"alice"},
    {"cut_goes_to_the_end", &cut_rules, OCTETS("alice%admin@example.com"),
	IDENTIFIER_OK, "alice"},
    {"cut_name_gets_domain", &cut_domain_rules, OCTETS("alice%admin@a.test"),
	IDENTIFIER_OK, "alice@example.com"},
    {"address_before_cut", &cut_domain_rules, OCTETS("alice@a.test%admin"),
	IDENTIFIER_OK, "alice@a.test"},
    {"first_separator_cuts", &cut_rules, OCTETS("a%b%c"), IDENTIFIER_OK, "a"},
    {"separator_at_end", &cut_rules, OCTETS("alice%"), IDENTIFIER_OK, "alice"},
    {"leftmost_of_all_separators_cuts", &many_rules, OCTETS("a%b++c*d"),
	IDENTIFIER_OK, "a"},
    {"leftmost_wins_over_list_order", &many_rules, OCTETS("a++b*c"),
	IDENTIFIER_OK, "a"},
    {"half_a_separator_is_none", &many_rules, OCTETS("a+b@c.test"),
	IDENTIFIER_OK, "a+b@c.test"},
    {"separator_cut_short_is_none", &many_rules, OCTETS("a+"), IDENTIFIER_OK,
	"a+"},
    {"empty_separator_is_none", &empty_rules, OCTETS("alice%x"), IDENTIFIER_OK,
	"alice"},
    {"odd_but_allowed", &plain_rules, OCTETS("o'hara+x!y\\z%40@a.test"),
	IDENTIFIER_OK, "o'hara+x!y\\z%40@a.test"},
    {"injection_is_only_text", &plain_rules,
	OCTETS("'/**/OR/**/1=1;--${x}%{y}%u"), IDENTIFIER_OK,
	"'/**/OR/**/1=1;--${x}%{y}%u"},
    {"bad_utf8_is_let_through", &plain_rules, OCTETS("\xff\xfe\x80@a.test"),
	IDENTIFIER_OK, "\xff\xfe\x80@a.test"},
    {"substitute_is_an_at", &at_rules, OCTETS("alice%Example.COM"),
	IDENTIFIER_OK, "alice@example.com"},
    {"last_substitute_is_the_at", &at_rules, OCTETS("alice+tag%a.test"),
	IDENTIFIER_OK, "alice+tag@a.test"},
    {"substitute_beside_an_at_is_none", &at_rules, OCTETS("a+tag%x@a.test"),
	IDENTIFIER_OK, "a+tag%x@a.test"},
    {"substitute_has_two_sides", &at_rules, OCTETS("alice%"), IDENTIFIER_OK,
	"alice%@example.com"},
    {"substitute_has_two_sides_too", &at_rules, OCTETS("%a"), IDENTIFIER_OK,
	"%a@example.com"},
    {"substitute_alone", &at_rules, OCTETS("%"), IDENTIFIER_OK,
	"%@example.com"},
    {"master_is_cut_first", &cut_at_rules, OCTETS("alice%a.test*admin%x"),
	IDENTIFIER_OK, "alice@a.test"},
    {"dot_at_the_end", &plain_rules, OCTETS("alice@example.com."),
	IDENTIFIER_OK, "alice@example.com"},
    {"dots_at_the_end", &plain_rules, OCTETS("alice@example.com.."),
	IDENTIFIER_OK, "alice@example.com"},
    {"dot_alone", &plain_rules, OCTETS("alice@."), IDENTIFIER_OK, "alice@."},
    {"dot_of_a_bare_name", &plain_rules, OCTETS("alice."), IDENTIFIER_OK,
	"alice."},
    {"domain_becomes_its_a_label", &plain_rules,
	OCTETS("anna@b\xc3\xbc"
	       "cher.example"),
	IDENTIFIER_OK, "anna@xn--bcher-kva.example"},
    {"a_label_stays", &plain_rules, OCTETS("anna@xn--bcher-kva.example."),
	IDENTIFIER_OK, "anna@xn--bcher-kva.example"},
    {"capital_and_ideographic_dot", &lower_rules,
	OCTETS("anna@B\xc3\x9c"
	       "CHER\xe3\x80\x82"
	       "example\xe3\x80\x82"),
	IDENTIFIER_OK, "anna@xn--bcher-kva.example"},
    {"decomposed_domain", &plain_rules,
	OCTETS("anna@bu\xcc\x88"
	       "cher.example"),
	IDENTIFIER_OK, "anna@xn--bcher-kva.example"},
    {"local_part_stays", &plain_rules,
	OCTETS("b\xc3\xbc"
	       "cher@b\xc3\xbc"
	       "cher.example"),
	IDENTIFIER_OK,
	"b\xc3\xbc"
	"cher@xn--bcher-kva.example"},
    {"domain_of_all", &plain_rules,
	OCTETS("@b\xc3\xbc"
	       "cher.example"),
	IDENTIFIER_OK, "@xn--bcher-kva.example"},
    {"wide_at_is_none", &plain_rules,
	OCTETS("a@b\xef\xbc\xa0"
	       "c.test"),
	IDENTIFIER_OK,
	"a@b\xef\xbc\xa0"
	"c.test"},
    {"wide_quote_and_space_are_none", &plain_rules,
	OCTETS("a@b\xef\xbc\x82\xe3\x80\x80.test"), IDENTIFIER_OK,
	"a@b\xef\xbc\x82\xe3\x80\x80.test"},
    {"nobody", &plain_rules, OCTETS(""), IDENTIFIER_EMPTY, ""},
    {"nobody_gets_no_domain", &domain_rules, OCTETS(""), IDENTIFIER_EMPTY, ""},
    {"cut_to_nothing", &cut_rules, OCTETS("%admin"), IDENTIFIER_EMPTY, ""},
    {"cut_to_nothing_gets_no_domain", &cut_domain_rules, OCTETS("%admin"),
	IDENTIFIER_EMPTY, ""},
    {"space", &plain_rules, OCTETS("al ice"), IDENTIFIER_BAD, ""},
    {"only_space", &plain_rules, OCTETS(" "), IDENTIFIER_BAD, ""},
    {"space_in_cut_suffix", &cut_rules, OCTETS("alice%ad min"), IDENTIFIER_BAD,
	""},
    {"quote_in_cut_suffix", &cut_rules, OCTETS("alice%\""), IDENTIFIER_BAD, ""},
    {"crlf_in_cut_suffix", &cut_rules, OCTETS("alice%\r\nDELE 1"),
	IDENTIFIER_BAD, ""},
    {"nul_in_cut_suffix", &cut_rules, OCTETS("alice%\0"), IDENTIFIER_BAD, ""},
    {"nul_ends_nothing", &plain_rules, OCTETS("alice\0@a.test"), IDENTIFIER_BAD,
	""},
};

START_TEST(name_becomes_key)
{
	const struct identifier_case *c = &cases[_i];
	char out[IDENTIFIER_MAX + 1];
	enum identifier_status status;

	memset(out, 'x', sizeof(out));
	status = identifier_make(c->rules, c->name, c->len, out);
	ck_assert_msg(status == c->status, "%s: %d", c->proves, (int)status);
	ck_assert_msg(strcmp(out, c->key) == 0, "%s: %s", c->proves, out);
}
END_TEST

/* All 256 octets, at the start, in the middle and at the end. */
START_TEST(each_octet_is_kept_or_refused)
{
	for (int c = 0; c < 256; c++) {
		bool bad = c <= ' ' || c == 0x7f || c == '"';

		for (size_t at = 0; at < 17; at += 8) {
			char name[] = "alice@example.com";
			char out[IDENTIFIER_MAX + 1];
			enum identifier_status status;

			name[at] = (char)c;
			status = identifier_make(&plain_rules, name, 17, out);
			ck_assert_int_eq(status,
			    bad ? IDENTIFIER_BAD : IDENTIFIER_OK);
			/* A dot at the domain's end is cut. */
			if (c == '.' && at == 16)
				name[at] = '\0';
			ck_assert_msg(bad || strcmp(out, name) == 0, "%d", c);
		}
	}
}
END_TEST

START_TEST(length_has_an_end)
{
	char name[IDENTIFIER_MAX + 1], out[IDENTIFIER_MAX + 1];
	const size_t suffix = strlen("@example.com");

	memset(name, 'a', sizeof(name));
	ck_assert_int_eq(identifier_make(&plain_rules, name, IDENTIFIER_MAX,
			     out),
	    IDENTIFIER_OK);
	ck_assert_uint_eq(strlen(out), IDENTIFIER_MAX);
	ck_assert_int_eq(identifier_make(&plain_rules, name, IDENTIFIER_MAX + 1,
			     out),
	    IDENTIFIER_BAD);
	/* The default domain has to fit as well. */
	ck_assert_int_eq(identifier_make(&cut_domain_rules, name,
			     IDENTIFIER_MAX - suffix, out),
	    IDENTIFIER_OK);
	ck_assert_uint_eq(strlen(out), IDENTIFIER_MAX);
	for (size_t n = IDENTIFIER_MAX - suffix + 1; n <= IDENTIFIER_MAX; n++) {
		ck_assert_int_eq(identifier_make(&cut_domain_rules, name, n,
				     out),
		    IDENTIFIER_BAD);
		ck_assert_str_eq(out, "");
	}
}
END_TEST

START_TEST(domain_is_found)
{
	static const struct {
		const char *key, *domain;
	} domains[] = {
	    {"alice@example.com", "@example.com"},
	    {"a@b@example.com", "@example.com"},
	    {"@example.com", "@example.com"},
	    {"alice", NULL},
	    {"alice@", NULL},
	    {"a@b@", NULL},
	    {"@", NULL},
	    {"", NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(domains); i++) {
		const char *key = domains[i].key;
		const char *domain = identifier_domain(key);

		ck_assert_pstr_eq(domain, domains[i].domain);
		ck_assert(domain == NULL ||
		    (domain >= key && domain < key + strlen(key)));
	}
}
END_TEST

static const struct {
	const struct identifier_rules *rules;
	const char *key;
	size_t len;
	const char *fault; /* NULL: made is asked for */
	const char *made;
} stored[] = {
    {&lower_rules, OCTETS("alice@example.com"), NULL, "alice@example.com"},
    {&lower_rules, OCTETS("@example.com"), NULL, "@example.com"},
    {&lower_rules, OCTETS("alice"), NULL, "alice"},
    {&lower_rules, OCTETS("o'hara+x%y@a.test."), NULL, "o'hara+x%y@a.test"},
    {&lower_rules,
	OCTETS("anna@b\xc3\xbc"
	       "cher.example"),
	NULL, "anna@xn--bcher-kva.example"},
    {&plain_rules, OCTETS("Alice@Example.com"), NULL, "Alice@Example.com"},
    {&lower_rules, OCTETS(""), "empty", NULL},
    {&lower_rules,
	OCTETS("\xef\xbb\xbf"
	       "alice@a.test"),
	"byte-order", NULL},
    {&lower_rules, OCTETS("\"alice@a.test\""), "double quote", NULL},
    {&lower_rules, OCTETS("alice@a.test\n"), "white space", NULL},
    {&lower_rules, OCTETS(" alice@a.test"), "white space", NULL},
    {&lower_rules, OCTETS("alice\0@a.test"), "control", NULL},
    {&lower_rules, OCTETS("al\x1b[ice@a.test"), "control", NULL},
    {&lower_rules, OCTETS("al\xc2\x85ice@a.test"), "control", NULL},
    {&lower_rules, OCTETS("alice@a.test\xc2\xa0"), "cannot be seen", NULL},
    {&lower_rules,
	OCTETS("\xe2\x80\x8b"
	       "alice@a.test"),
	"cannot be seen", NULL},
    {&lower_rules, OCTETS("j\xfcrgen@a.test"), "UTF-8", NULL},
    {&lower_rules, OCTETS("a\xc0\x80@a.test"), "UTF-8", NULL},
    {&lower_rules, OCTETS("a\xed\xa0\x80@a.test"), "UTF-8", NULL},
    {&lower_rules, OCTETS("a@a.test\xf0\x9f\x98"), "UTF-8", NULL},
    {&lower_rules, OCTETS("#alice@a.test"), "comment", NULL},
    {&lower_rules, OCTETS("Alice@a.test"), "capital", NULL},
    {&lower_rules, OCTETS("ALICE"), "capital", NULL},
    {&cut_rules, OCTETS("alice%x@a.test"), "separators", NULL},
    {&cut_rules, OCTETS("@a%b.test"), "separators", NULL},
    {&domain_rules, OCTETS("alice"), "default_domain", NULL},
    {&at_rules, OCTETS("alice%a.test"), "at_substitutes", NULL},
    {&at_rules, OCTETS("alice"), "default_domain", NULL},
    {&at_rules, OCTETS("alice+x@a.test"), NULL, "alice+x@a.test"},
};

START_TEST(what_no_lookup_asks_for_is_said)
{
	char out[IDENTIFIER_MAX + 1], again[IDENTIFIER_MAX + 1];
	const char *fault = identifier_stored(stored[_i].rules, stored[_i].key,
	    stored[_i].len, out);

	if (stored[_i].fault != NULL) {
		ck_assert_msg(fault != NULL &&
			strstr(fault, stored[_i].fault) != NULL,
		    "%s: %s", stored[_i].key, fault);
		return;
	}
	ck_assert_pstr_eq(fault, NULL);
	ck_assert_str_eq(out, stored[_i].made);
	ck_assert_int_eq(identifier_make(stored[_i].rules, out, strlen(out),
			     again),
	    IDENTIFIER_OK);
	ck_assert_str_eq(again, out);
}
END_TEST

static Suite *
identifier_suite(void)
{
	Suite *suite = suite_create("identifier");
	TCase *tc = tcase_create("identifier");

	tcase_add_loop_test(tc, name_becomes_key, 0, (int)ARRAY_LEN(cases));
	tcase_add_test(tc, each_octet_is_kept_or_refused);
	tcase_add_test(tc, length_has_an_end);
	tcase_add_test(tc, domain_is_found);
	tcase_add_loop_test(tc, what_no_lookup_asks_for_is_said, 0,
	    (int)ARRAY_LEN(stored));
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(identifier_suite());
}
