/* test_base64.c: one spelling for each octet string, and no other. */

#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "proto/base64.h"
#include "run.h"

#define OCTETS(s) (s), sizeof(s) - 1

struct pair_case {
	const char *proves;
	const char *plain;
	size_t plain_len;
	const char *text;
};

static const struct pair_case good_cases[] = {
    /* RFC 4648 §10 */
    {"rfc4648_empty", OCTETS(""), ""},
    {"rfc4648_f", OCTETS("f"), "Zg=="},
    {"rfc4648_fo", OCTETS("fo"), "Zm8="},
    {"rfc4648_foo", OCTETS("foo"), "Zm9v"},
    {"rfc4648_foob", OCTETS("foob"), "Zm9vYg=="},
    {"rfc4648_fooba", OCTETS("fooba"), "Zm9vYmE="},
    {"rfc4648_foobar", OCTETS("foobar"), "Zm9vYmFy"},
    /* RFC 4616 §4, RFC 5034 §6 */
    {"plain_frame", OCTETS("test\0test\0test"), "dGVzdAB0ZXN0AHRlc3Q="},
    {"login_prompt", OCTETS("Username:"), "VXNlcm5hbWU6"},
    {"dummy_answer", OCTETS("\x01"), "AQ=="},
    {"last_digits", OCTETS("\xfb\xef\xbe\xff\xff\xff"), "++++////"},
    {"zeros", OCTETS("\0\0\0"), "AAAA"},
};

static const struct pair_case url_cases[] = {
    {"empty", OCTETS(""), ""},
    {"no_padding_one", OCTETS("f"), "Zg"},
    {"no_padding_two", OCTETS("fo"), "Zm8"},
    {"padding_one", OCTETS("f"), "Zg=="},
    {"padding_two", OCTETS("fo"), "Zm8="},
    {"whole_group", OCTETS("foo"), "Zm9v"},
    {"other_digits", OCTETS("\xfb\xef\xbe\xff\xff\xff"), "----____"},
    /* RFC 7515 appendix C */
    {"rfc7515", OCTETS("\x03\xec\xff\xe0\xc1"), "A-z_4ME"},
};

struct bad_case {
	const char *proves;
	const char *text;
	size_t len;
};

/* Bad in both alphabets. */
static const struct bad_case bad_cases[] = {
    {"one_digit", OCTETS("Z")},
    {"five_digits", OCTETS("Zm9vY")},
    {"only_padding", OCTETS("=")},
    {"cancel", OCTETS("*")},
    {"two_paddings", OCTETS("==")},
    {"four_paddings", OCTETS("====")},
    {"three_paddings", OCTETS("Z===")},
    {"padding_inside", OCTETS("Zg==Zg==")},
    {"padding_first", OCTETS("=Zg=")},
    {"padding_split", OCTETS("Z=g=")},
    {"padding_behind_group", OCTETS("Zm9v=")},
    {"group_of_padding_behind", OCTETS("Zm9v====")},
    {"padding_short", OCTETS("Zg=")},
    {"stray_bits_of_one", OCTETS("Zh==")},
    {"stray_bit_of_one_high", OCTETS("Zo==")},
    {"stray_bits_of_two", OCTETS("Zm9=")},
    {"stray_bits_unpadded", OCTETS("Zh")},
    {"space_before", OCTETS(" Zm9v")},
    {"space_behind", OCTETS("Zm9v ")},
    {"spaces_make_a_group", OCTETS("Zm9v    ")},
    {"newline_behind", OCTETS("Zm9v\n")},
    {"crlf_inside", OCTETS("Zm\r\n9v==")},
    {"tab_inside", OCTETS("Zm\t9")},
    {"nul_behind", OCTETS("Zm9v\0\0\0\0")},
    {"nul_inside", OCTETS("Zm\0v")},
    {"dash_eof_marker", OCTETS("Zm9v-\0==")},
    {"eight_bit", OCTETS("Zm9\xc3")},
    {"command", OCTETS("QUIT ")},
    {"dot", OCTETS("Zm9.")},
    {"mixed_alphabets", OCTETS("+-AA")},
};

static void
check_decodes(bool (*decode)(const char *, size_t, char *, size_t *),
    const struct pair_case *c)
{
	size_t text_len = strlen(c->text), len = 99;
	char *out = malloc(BASE64_DECODED_MAX(text_len));

	ck_assert_ptr_nonnull(out);
	ck_assert_msg(decode(c->text, text_len, out, &len), "%s", c->proves);
	ck_assert_msg(len == c->plain_len, "%s: %zu", c->proves, len);
	ck_assert_msg(memcmp(out, c->plain, len) == 0, "%s", c->proves);
	free(out);
}

START_TEST(good_text_is_decoded)
{
	check_decodes(base64_decode, &good_cases[_i]);
}
END_TEST

START_TEST(octets_are_encoded)
{
	const struct pair_case *c = &good_cases[_i];
	size_t size = BASE64_ENCODED_MAX(c->plain_len);
	char *out = malloc(size);

	ck_assert_ptr_nonnull(out);
	ck_assert_uint_eq(base64_encode(c->plain, c->plain_len, out),
	    strlen(c->text));
	ck_assert_str_eq(out, c->text);
	free(out);
}
END_TEST

START_TEST(url_text_is_decoded)
{
	check_decodes(base64url_decode, &url_cases[_i]);
}
END_TEST

START_TEST(bad_text_is_refused)
{
	const struct bad_case *c = &bad_cases[_i];
	char out[64];
	size_t len;

	ck_assert_msg(!base64_decode(c->text, c->len, out, &len), "%s",
	    c->proves);
	ck_assert_msg(!base64url_decode(c->text, c->len, out, &len), "%s",
	    c->proves);
}
END_TEST

START_TEST(alphabets_are_apart)
{
	char out[64];
	size_t len;

	ck_assert(!base64_decode("----", 4, out, &len));
	ck_assert(!base64_decode("____", 4, out, &len));
	ck_assert(!base64url_decode("++++", 4, out, &len));
	ck_assert(!base64url_decode("////", 4, out, &len));
}
END_TEST

/* RFC 4648 §3.2: only the URL form may leave it out. */
START_TEST(padding_is_not_optional)
{
	char out[64];
	size_t len;

	ck_assert(!base64_decode("Zg", 2, out, &len));
	ck_assert(!base64_decode("Zm8", 3, out, &len));
}
END_TEST

START_TEST(each_octet_is_a_digit_or_refused)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				     "abcdefghijklmnopqrstuvwxyz0123456789";
	char out[64];
	size_t len;

	for (int c = 0; c < 256; c++) {
		bool common = c != 0 && strchr(digits, c) != NULL;

		for (size_t at = 0; at < 8; at++) {
			char text[8];

			memset(text, 'A', sizeof(text));
			text[at] = (char)c;
			/* The last may be padding. */
			if (c == '=' && at == 7)
				continue;
			ck_assert_int_eq(base64_decode(text, 8, out, &len),
			    common || c == '+' || c == '/');
			ck_assert_int_eq(base64url_decode(text, 8, out, &len),
			    common || c == '-' || c == '_');
		}
	}
}
END_TEST

START_TEST(any_length_comes_back)
{
	enum { MOST = 1030 }; /* across the chunks of the decoder */
	char plain[MOST], text[BASE64_ENCODED_MAX(MOST)];

	for (size_t i = 0; i < MOST; i++)
		plain[i] = (char)(i * 7 + i / 256);
	for (size_t n = 0; n <= MOST; n++) {
		size_t text_len = base64_encode(plain, n, text), len;
		char *out = malloc(BASE64_DECODED_MAX(text_len));

		ck_assert_ptr_nonnull(out);
		ck_assert_uint_eq(text_len, strlen(text));
		ck_assert_uint_le(text_len + 1, BASE64_ENCODED_MAX(n));
		ck_assert(base64_decode(text, text_len, out, &len));
		ck_assert_uint_eq(len, n);
		ck_assert(memcmp(out, plain, n) == 0);
		free(out);
	}
}
END_TEST

/* The longest line's worth, and a fault in its last digit. */
START_TEST(long_text_is_judged_to_its_end)
{
	enum { LONG = 65536 };
	char *text = malloc(LONG), *out = malloc(BASE64_DECODED_MAX(LONG));
	size_t len;

	ck_assert(text != NULL && out != NULL);
	memset(text, 'x', LONG);
	ck_assert(base64_decode(text, LONG, out, &len));
	ck_assert_uint_eq(len, LONG / 4 * 3);
	text[LONG - 1] = ' ';
	ck_assert(!base64_decode(text, LONG, out, &len));
	free(text);
	free(out);
}
END_TEST

static Suite *
base64_suite(void)
{
	Suite *suite = suite_create("base64");
	TCase *tc = tcase_create("base64");

	tcase_add_loop_test(tc, good_text_is_decoded, 0,
	    (int)ARRAY_LEN(good_cases));
	tcase_add_loop_test(tc, octets_are_encoded, 0,
	    (int)ARRAY_LEN(good_cases));
	tcase_add_loop_test(tc, url_text_is_decoded, 0,
	    (int)ARRAY_LEN(url_cases));
	tcase_add_loop_test(tc, bad_text_is_refused, 0,
	    (int)ARRAY_LEN(bad_cases));
	tcase_add_test(tc, alphabets_are_apart);
	tcase_add_test(tc, padding_is_not_optional);
	tcase_add_test(tc, each_octet_is_a_digit_or_refused);
	tcase_add_test(tc, any_length_comes_back);
	tcase_add_test(tc, long_text_is_judged_to_its_end);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(base64_suite());
}
