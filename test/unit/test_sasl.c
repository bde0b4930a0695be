/* test_sasl.c: whose frame it is; frames with two readings are refused. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/sasl.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

START_TEST(mechanisms_have_names)
{
	static const char *const names[] = {
	    "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"};

	for (size_t i = 0; i < SASL_MECHANISMS; i++) {
		enum sasl_mechanism mech = SASL_MECHANISMS;

		ck_assert_str_eq(sasl_name((enum sasl_mechanism)i), names[i]);
		ck_assert(sasl_mechanism_find(names[i], strlen(names[i]),
		    &mech));
		ck_assert_uint_eq(mech, i);
		ck_assert_uint_eq(SASL_BIT(mech), 1u << i);
	}
}
END_TEST

START_TEST(names_have_no_case_and_no_neighbours)
{
	static const struct {
		const char *name;
		size_t len;
		bool found;
	} names[] = {
	    {OCTETS("plain"), true},
	    {OCTETS("pLaIn"), true},
	    {OCTETS("xoauth2"), true},
	    {OCTETS("PLAI"), false},
	    {OCTETS("PLAINS"), false},
	    {OCTETS("PLAIN "), false},
	    {OCTETS(" PLAIN"), false},
	    {OCTETS("PLAIN\0"), false},
	    {OCTETS("OAUTH"), false},
	    {OCTETS("XOAUTH"), false},
	    {OCTETS("CRAM-MD5"), false},
	    {OCTETS(""), false},
	};
	enum sasl_mechanism mech;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		ck_assert_msg(sasl_mechanism_find(names[i].name, names[i].len,
				  &mech) == names[i].found,
		    "%s", names[i].name);
}
END_TEST

struct plain_case {
	const char *proves;
	const char *frame;
	size_t len;
	bool good;
	const char *authzid, *authcid, *password;
};

static const struct plain_case plain_cases[] = {
    /* RFC 4616 §4 */
    {"rfc4616_first", OCTETS("\0tim\0tanstaaftanstaaf"), true, "", "tim",
	"tanstaaftanstaaf"},
    {"rfc4616_second", OCTETS("Ursel\0Kurt\0xipj3plmq"), true, "Ursel", "Kurt",
	"xipj3plmq"},
    /* RFC 5034 §6 */
    {"rfc5034", OCTETS("test\0test\0test"), true, "test", "test", "test"},
    {"empty_password", OCTETS("\0tim\0"), true, "", "tim", ""},
    {"password_keeps_spaces", OCTETS("\0tim\0 a b "), true, "", "tim", " a b "},
    {"password_keeps_8_bit", OCTETS("\0tim\0\xff\xc3\xa4"), true, "", "tim",
	"\xff\xc3\xa4"},
    /* Whether they may be sent on is the replay's business. */
    {"password_keeps_crlf", OCTETS("\0tim\0a\r\nb"), true, "", "tim", "a\r\nb"},
    {"no_nul", OCTETS("tim"), false, "", "", ""},
    {"one_nul", OCTETS("tim\0secret"), false, "", "", ""},
    {"three_nuls", OCTETS("\0tim\0secret\0"), false, "", "", ""},
    {"three_nuls_inside", OCTETS("\0tim\0sec\0ret"), false, "", "", ""},
    {"no_authcid", OCTETS("tim\0\0secret"), false, "", "", ""},
    {"only_nuls", OCTETS("\0\0"), false, "", "", ""},
    {"empty", OCTETS(""), false, "", "", ""},
};

static bool
slice_is(const char *data, size_t len, const char *want)
{
	return len == strlen(want) &&
	    (len == 0 || memcmp(data, want, len) == 0);
}

/* At its exact size, so that a sanitizer sees a step too far. */
static char *
frame_copy(const char *frame, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, frame, len);
	return copy;
}

START_TEST(plain_frame_is_split)
{
	const struct plain_case *c = &plain_cases[_i];
	char *frame = frame_copy(c->frame, c->len);
	struct sasl_plain p;

	ck_assert_msg(sasl_plain_parse(frame, c->len, &p) == c->good, "%s",
	    c->proves);
	if (c->good) {
		ck_assert_msg(slice_is(p.authzid, p.authzid_len, c->authzid) &&
			slice_is(p.authcid, p.authcid_len, c->authcid) &&
			slice_is(p.password, p.password_len, c->password),
		    "%s", c->proves);
	}
	free(frame);
}
END_TEST

struct bearer_case {
	const char *proves;
	enum sasl_mechanism mech;
	const char *frame;
	size_t len;
	bool good;
	const char *user, *token;
};

#define OAB SASL_OAUTHBEARER
#define XO2 SASL_XOAUTH2
#define AUTH "auth=Bearer t0ken\1"
#define BAD false, "", ""

static const struct bearer_case bearer_cases[] = {
    /* RFC 7628 §4.1, §4.2 */
    {"rfc7628_imap", OAB,
	OCTETS("n,a=user@example.com,\1host=server.example.com\1port=143\1"
	       "auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\1\1"),
	true, "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="},
    {"rfc7628_smtp", OAB,
	OCTETS("n,a=user@example.com,\1host=server.example.com\1port=587\1"
	       "auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\1\1"),
	true, "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="},
    {"dummy_answer", OAB, OCTETS("\1"), BAD},
    {"only_token", OAB, OCTETS("n,,\1" AUTH "\1"), true, "", "t0ken"},
    {"y_flag", OAB, OCTETS("y,,\1" AUTH "\1"), true, "", "t0ken"},
    {"y_flag_and_name", OAB, OCTETS("y,a=b,\1" AUTH "\1"), true, "b", "t0ken"},
    {"empty_name_is_nobody", OAB, OCTETS("n,a=,\1" AUTH "\1"), true, "",
	"t0ken"},
    {"name_stays_encoded", OAB, OCTETS("n,a=a=2Cb=3Dc,\1" AUTH "\1"), true,
	"a=2Cb=3Dc", "t0ken"},
    {"scheme_has_no_case", OAB, OCTETS("n,,\1auth=bEARER t\1\1"), true, "",
	"t"},
    {"scheme_and_spaces", OAB, OCTETS("n,,\1auth=Bearer   t\1\1"), true, "",
	"t"},
    {"user_pair_is_no_name_here", OAB, OCTETS("n,a=a,\1user=b\1" AUTH "\1"),
	true, "a", "t0ken"},
    {"auth_first", OAB, OCTETS("n,,\1" AUTH "host=h\1port=1\1\1"), true, "",
	"t0ken"},
    {"unknown_keys", OAB, OCTETS("n,,\1x=\1" AUTH "Y==\1\1"), true, "",
	"t0ken"},
    {"channel_binding", OAB, OCTETS("p=tls-unique,,\1" AUTH "\1"), BAD},
    {"channel_binding_bare", OAB, OCTETS("p,,\1" AUTH "\1"), BAD},
    {"nonstandard_flag", OAB, OCTETS("F,n,,\1" AUTH "\1"), BAD},
    {"flag_in_upper_case", OAB, OCTETS("N,,\1" AUTH "\1"), BAD},
    {"no_header", OAB, OCTETS("\1" AUTH "\1"), BAD},
    {"one_comma", OAB, OCTETS("n,\1" AUTH "\1"), BAD},
    {"three_commas", OAB, OCTETS("n,,,\1" AUTH "\1"), BAD},
    {"comma_in_name", OAB, OCTETS("n,a=a,b,\1" AUTH "\1"), BAD},
    {"name_without_key", OAB, OCTETS("n,alice,\1" AUTH "\1"), BAD},
    {"name_key_alone", OAB, OCTETS("n,a,\1" AUTH "\1"), BAD},
    {"name_with_bad_escape", OAB, OCTETS("n,a=a=20b,\1" AUTH "\1"), BAD},
    {"name_with_small_escape", OAB, OCTETS("n,a=a=2cb,\1" AUTH "\1"), BAD},
    {"name_with_cut_escape", OAB, OCTETS("n,a=a=2,\1" AUTH "\1"), BAD},
    {"name_ends_in_equals", OAB, OCTETS("n,a=a=,\1" AUTH "\1"), BAD},
    {"no_separator_behind_header", OAB, OCTETS("n,," AUTH "\1"), BAD},
    {"separator_in_name", OAB, OCTETS("n,a=a\1b,\1" AUTH "\1"), BAD},
    {"header_alone", OAB, OCTETS("n,,"), BAD},
    {"header_and_separator", OAB, OCTETS("n,,\1"), BAD},
    {"no_pairs", OAB, OCTETS("n,,\1\1"), BAD},
    {"no_auth", OAB, OCTETS("n,,\1host=h\1\1"), BAD},
    {"no_last_separator", OAB, OCTETS("n,,\1" AUTH), BAD},
    {"no_separator_at_all", OAB, OCTETS("n,,\1auth=Bearer t"), BAD},
    {"something_behind", OAB, OCTETS("n,,\1" AUTH "\1x"), BAD},
    {"separator_behind", OAB, OCTETS("n,,\1" AUTH "\1\1"), BAD},
    {"auth_twice", OAB, OCTETS("n,,\1" AUTH AUTH "\1"), BAD},
    {"auth_twice_in_other_case", OAB, OCTETS("n,,\1" AUTH "AUTH=x\1\1"), BAD},
    {"unknown_key_twice", OAB, OCTETS("n,,\1x=1\1" AUTH "x=1\1\1"), BAD},
    {"auth_in_other_case", OAB, OCTETS("n,,\1Auth=Bearer t\1\1"), BAD},
    {"key_with_digit", OAB, OCTETS("n,,\1x1=y\1" AUTH "\1"), BAD},
    {"key_empty", OAB, OCTETS("n,,\1=y\1" AUTH "\1"), BAD},
    {"key_alone", OAB, OCTETS("n,,\1x\1" AUTH "\1"), BAD},
    {"no_token", OAB, OCTETS("n,,\1auth=Bearer \1\1"), BAD},
    {"no_token_but_spaces", OAB, OCTETS("n,,\1auth=Bearer   \1\1"), BAD},
    {"no_scheme", OAB, OCTETS("n,,\1auth=t0ken\1\1"), BAD},
    {"other_scheme", OAB, OCTETS("n,,\1auth=Basic t0ken\1\1"), BAD},
    {"scheme_without_space", OAB, OCTETS("n,,\1auth=Bearert0ken\1\1"), BAD},
    {"auth_empty", OAB, OCTETS("n,,\1auth=\1\1"), BAD},
    {"empty", OAB, OCTETS(""), BAD},
    {"one_octet", OAB, OCTETS("n"), BAD},
    {"xoauth2_frame", OAB, OCTETS("user=a\1" AUTH "\1"), BAD},

    /* Google's and Microsoft's documents have the same example. */
    {"xoauth2_example", XO2,
	OCTETS("user=someuser@example.com\1"
	       "auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\1\1"),
	true, "someuser@example.com",
	"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"},
    {"xoauth2_auth_first", XO2, OCTETS(AUTH "user=a\1\1"), true, "a", "t0ken"},
    {"xoauth2_user_empty", XO2, OCTETS("user=\1" AUTH "\1"), true, "", "t0ken"},
    {"xoauth2_user_not_decoded", XO2, OCTETS("user=a=2Cb\1" AUTH "\1"), true,
	"a=2Cb", "t0ken"},
    {"xoauth2_odd_user", XO2, OCTETS("user=a, b=\1" AUTH "\1"), true,
	"a, b=", "t0ken"},
    {"xoauth2_no_user", XO2, OCTETS(AUTH "\1"), true, "", "t0ken"},
    {"xoauth2_user_twice", XO2, OCTETS("user=a\1user=b\1" AUTH "\1"), BAD},
    {"xoauth2_user_in_two_cases", XO2, OCTETS("user=a\1User=b\1" AUTH "\1"),
	BAD},
    {"xoauth2_no_auth", XO2, OCTETS("user=a\1\1"), BAD},
    {"xoauth2_one_separator_missing", XO2, OCTETS("user=a\1" AUTH), BAD},
    {"xoauth2_text_separators", XO2, OCTETS("user=a^Aauth=Bearer t^A^A"), BAD},
    {"xoauth2_empty", XO2, OCTETS(""), BAD},
    {"xoauth2_separator", XO2, OCTETS("\1"), BAD},
    {"oauthbearer_frame", XO2, OCTETS("n,a=a,\1" AUTH "\1"), BAD},
};

START_TEST(bearer_frame_is_read)
{
	const struct bearer_case *c = &bearer_cases[_i];
	char *frame = frame_copy(c->frame, c->len);
	struct sasl_bearer b;

	ck_assert_msg(sasl_bearer_parse(c->mech, frame, c->len, &b) == c->good,
	    "%s", c->proves);
	if (c->good) {
		ck_assert_msg(slice_is(b.user, b.user_len, c->user), "%s",
		    c->proves);
		ck_assert_msg(slice_is(b.token, b.token_len, c->token), "%s",
		    c->proves);
	}
	free(frame);
}
END_TEST

/* A frame is whole or nothing: no prefix of a good one is good. */
START_TEST(bearer_frame_cut_short_is_refused)
{
	const struct bearer_case *c = &bearer_cases[_i];
	struct sasl_bearer b;

	for (size_t n = 0; c->good && n < c->len; n++) {
		char *frame = frame_copy(c->frame, n);

		ck_assert_msg(!sasl_bearer_parse(c->mech, frame, n, &b),
		    "%s: %zu", c->proves, n);
		free(frame);
	}
}
END_TEST

START_TEST(pairs_have_a_number)
{
	char frame[256];
	struct sasl_bearer b;

	for (int keys = 1; keys < 20; keys++) {
		int n = sprintf(frame, "n,,\1" AUTH);

		for (int i = 1; i < keys; i++)
			n += sprintf(frame + n, "%c=\1", 'b' + i);
		n += sprintf(frame + n, "\1");
		ck_assert_int_eq(sasl_bearer_parse(SASL_OAUTHBEARER, frame,
				     (size_t)n, &b),
		    keys <= 16);
	}
}
END_TEST

/* Names are judged by identifier.h: the frame only has to have one reading. */
START_TEST(any_octet_is_kept_in_a_name)
{
	for (int c = 0; c < 256; c++) {
		char oab[] = "n,a=aXb,\1" AUTH "\1",
		     xo2[] = "user=aXb\1" AUTH "\1";
		struct sasl_bearer b;
		bool good;

		oab[5] = xo2[6] = (char)c;
		good = sasl_bearer_parse(OAB, oab, sizeof(oab) - 1, &b);
		ck_assert_int_eq(good, c != ',' && c != '=' && c != '\1');
		ck_assert(!good || (b.user_len == 3 && b.user == oab + 4));
		good = sasl_bearer_parse(XO2, xo2, sizeof(xo2) - 1, &b);
		ck_assert_int_eq(good, c != '\1');
		ck_assert(!good || (b.user_len == 3 && b.user == xo2 + 5));
	}
}
END_TEST

START_TEST(gs2_name_is_decoded)
{
	static const struct {
		const char *name, *decoded;
	} names[] = {
	    {"", ""},
	    {"alice@example.com", "alice@example.com"},
	    {"=2C", ","},
	    {"=3D", "="},
	    {"a=2Cb=3Dc", "a,b=c"},
	    {"=3D2C", "=2C"},
	    {"=3D3D=2C=2C", "=3D,,"},
	    {"a,b", "a,b"},
	    {"=", NULL},
	    {"a=", NULL},
	    {"a=2", NULL},
	    {"=2c", NULL},
	    {"=3d", NULL},
	    {"=20", NULL},
	    {"==2C", NULL},
	    {"a=2Cb=", NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		size_t len = strlen(names[i].name), n;
		char *name = frame_copy(names[i].name, len);
		char *out = malloc(len > 0 ? len : 1);
		bool good = sasl_gs2_name_decode(name, len, out, &n);

		ck_assert_msg(good == (names[i].decoded != NULL), "%s",
		    names[i].name);
		ck_assert_msg(!good || slice_is(out, n, names[i].decoded), "%s",
		    names[i].name);
		free(out);
		free(name);
	}
}
END_TEST

static Suite *
sasl_suite(void)
{
	Suite *suite = suite_create("sasl");
	TCase *tc = tcase_create("sasl");

	tcase_add_test(tc, mechanisms_have_names);
	tcase_add_test(tc, names_have_no_case_and_no_neighbours);
	tcase_add_loop_test(tc, plain_frame_is_split, 0,
	    (int)ARRAY_LEN(plain_cases));
	tcase_add_loop_test(tc, bearer_frame_is_read, 0,
	    (int)ARRAY_LEN(bearer_cases));
	tcase_add_loop_test(tc, bearer_frame_cut_short_is_refused, 0,
	    (int)ARRAY_LEN(bearer_cases));
	tcase_add_test(tc, pairs_have_a_number);
	tcase_add_test(tc, any_octet_is_kept_in_a_name);
	tcase_add_test(tc, gs2_name_is_decoded);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(sasl_suite());
}
