/* test_jwt.c: whom a token speaks of, and tokens that say nothing. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <jansson.h>

#include "platform/secret.h"
#include "proto/base64.h"
#include "proto/jwt.h"
#include "run.h"

#define HEADER "eyJhbGciOiJSUzI1NiJ9" /* {"alg":"RS256"} */

/* A list of depth n, n square brackets each way. */
#define DEPTH6 "[[[[[[1]]]]]]"

struct claims_case {
	const char *proves;
	const char *first_claim;
	const char *json;
	const char *account; /* NULL: the token tells nothing */
};

static const struct claims_case claims_cases[] = {
    {"first_claim_first", "upn",
	"{\"email\":\"a@a.test\",\"upn\":\"u@a.test\"}", "u@a.test"},
    {"first_claim_of_any_name", "https://a.test/mailbox",
	"{\"email\":\"a@a.test\",\"https://a.test/mailbox\":\"m@a.test\"}",
	"m@a.test"},
    {"first_claim_missing", "mailbox", "{\"email\":\"a@a.test\"}", "a@a.test"},
    {"first_claim_no_address", "name",
	"{\"name\":\"Alice\",\"email\":\"a@a.test\"}", "a@a.test"},
    {"no_first_claim", "", "{\"email\":\"a@a.test\"}", "a@a.test"},
    {"empty_claim_is_not_asked_for", "",
	"{\"\":\"x@a.test\",\"sub\":\"s@a.test\"}", "s@a.test"},
    {"email_before_the_others", "",
	"{\"sub\":\"s@a.test\",\"unique_name\":\"n@a.test\","
	"\"upn\":\"u@a.test\",\"preferred_username\":\"p@a.test\","
	"\"email\":\"e@a.test\"}",
	"e@a.test"},
    {"preferred_username_second", "",
	"{\"sub\":\"s@a.test\",\"unique_name\":\"n@a.test\","
	"\"upn\":\"u@a.test\",\"preferred_username\":\"p@a.test\"}",
	"p@a.test"},
    {"upn_third", "",
	"{\"sub\":\"s@a.test\",\"unique_name\":\"n@a.test\","
	"\"upn\":\"u@a.test\"}",
	"u@a.test"},
    {"unique_name_fourth", "",
	"{\"sub\":\"s@a.test\",\"unique_name\":\"n@a.test\"}", "n@a.test"},
    {"sub_last", "", "{\"sub\":\"s@a.test\"}", "s@a.test"},
    {"other_claims_do_not_count", "", "{\"aud\":\"x@a.test\"}", NULL},
    {"claim_names_have_a_case", "", "{\"Email\":\"x@a.test\"}", NULL},
    {"no_address_no_account", "", "{\"email\":\"alice\",\"sub\":\"0815\"}",
	NULL},
    {"one_that_is_no_address_is_passed_over", "",
	"{\"email\":\"alice\",\"sub\":\"s@a.test\"}", "s@a.test"},
    {"number_is_passed_over", "", "{\"email\":1,\"sub\":\"s@a.test\"}",
	"s@a.test"},
    {"null_is_passed_over", "", "{\"email\":null,\"sub\":\"s@a.test\"}",
	"s@a.test"},
    {"list_is_passed_over", "",
	"{\"email\":[\"x@a.test\"],\"sub\":\"s@a.test\"}", "s@a.test"},
    {"nested_claims_do_not_count", "", "{\"x\":{\"email\":\"x@a.test\"}}",
	NULL},
    {"last_of_two_counts", "",
	"{\"email\":\"x@a.test\",\"email\":\"y@a.test\"}", "y@a.test"},
    {"escapes_are_read", "", "{\"email\":\"\\u0061@a.te\\u0073t\"}",
	"a@a.test"},
    {"utf8_is_let_through", "", "{\"email\":\"\\u00e4@a.test\"}",
	"\xc3\xa4@a.test"},
    {"white_space_around", "", " { \"email\" : \"a@a.test\" } ", "a@a.test"},
    {"nul_in_claim", "", "{\"email\":\"a\\u0000@a.test\"}", NULL},
    {"newline_in_claim", "", "{\"email\":\"a@a.test\\r\\nDELE 1\"}", NULL},
    {"space_in_claim", "", "{\"email\":\"a b@a.test\"}", NULL},
    {"display_name_is_no_address", "", "{\"email\":\"A <a@a.test>\"}", NULL},
    {"quote_in_claim", "", "{\"email\":\"\\\"a\\\"@a.test\"}", NULL},
    {"delete_in_claim", "", "{\"email\":\"a\\u007f@a.test\"}", NULL},
    {"two_ats", "", "{\"email\":\"a@b@a.test\"}", NULL},
    {"nothing_before_at", "", "{\"email\":\"@a.test\"}", NULL},
    {"nothing_behind_at", "", "{\"email\":\"a@\"}", NULL},
    {"only_at", "", "{\"email\":\"@\"}", NULL},
    {"empty_claim", "", "{\"email\":\"\"}", NULL},
    {"path_is_only_text", "", "{\"email\":\"../../etc@a.test\"}",
	"../../etc@a.test"},
    {"empty_object", "", "{}", NULL},
    {"empty_payload", "", "", NULL},
    {"list", "", "[\"email\",\"a@a.test\"]", NULL},
    {"string", "email", "\"a@a.test\"", NULL},
    {"no_json", "", "email=a@a.test", NULL},
    {"json_cut_short", "", "{\"email\":\"a@a.test\"", NULL},
    {"something_behind", "", "{\"email\":\"a@a.test\"}x", NULL},
    {"bad_utf8", "", "{\"email\":\"\xff@a.test\"}", NULL},
    {"depth_of_eight", "", "{\"x\":[" DEPTH6 "],\"email\":\"a@a.test\"}",
	"a@a.test"},
    {"depth_of_nine", "", "{\"x\":[[" DEPTH6 "]],\"email\":\"a@a.test\"}",
	NULL},
    {"depth_of_nine_objects", "",
	"{\"x\":{\"x\":{\"x\":{\"x\":{\"x\":{\"x\":{\"x\":{\"x\":{}}}}}}}},"
	"\"email\":\"a@a.test\"}",
	NULL},
    {"brackets_in_strings_are_no_depth", "",
	"{\"x\":\"[[[[[[[[[[{{{{\\\"[[[[[[[[\\\\\",\"email\":\"a@a.test\"}",
	"a@a.test"},
    {"flat_lists_are_no_depth", "",
	"{\"x\":[[],[],[],[],[],[],[],[],[],[],[]],\"email\":\"a@a.test\"}",
	"a@a.test"},
    {"closing_first_buys_no_depth", "", "]]]]]]]]]]{\"email\":\"a@a.test\"}",
	NULL},
};

/* out: prefix, the payload in base64url, suffix. On the heap. */
static char *
token_make(const char *prefix, const char *payload, size_t len,
    const char *suffix)
{
	size_t size = strlen(prefix) + BASE64_ENCODED_MAX(len) + strlen(suffix);
	char *token = malloc(size + 1), *text;

	ck_assert_ptr_nonnull(token);
	text = stpcpy(token, prefix);
	(void)base64_encode(payload, len, text);
	for (; *text != '\0' && *text != '='; text++) {
		if (*text == '+')
			*text = '-';
		else if (*text == '/')
			*text = '_';
	}
	strcpy(text, suffix);
	return token;
}

START_TEST(claims_name_the_account)
{
	const struct claims_case *c = &claims_cases[_i];
	char *token = token_make(HEADER ".", c->json, strlen(c->json), ".c2ln");
	char out[256] = "";
	bool found =
	    jwt_account(token, strlen(token), c->first_claim, out, sizeof(out));

	ck_assert_msg(found == (c->account != NULL), "%s", c->proves);
	ck_assert_msg(!found || strcmp(out, c->account) == 0, "%s: %s",
	    c->proves, out);
	free(token);
}
END_TEST

struct token_case {
	const char *proves;
	const char *token;
	const char *account;
};

#define EMAIL "eyJlbWFpbCI6ImFAYS50ZXN0In0" /* {"email":"a@a.test"} */
#define ADDRESS "YUBhLnRlc3Q" /* a@a.test */

static const struct token_case token_cases[] = {
    {"three_parts", HEADER "." EMAIL ".c2ln", "a@a.test"},
    {"signature_may_be_empty", HEADER "." EMAIL ".", "a@a.test"},
    {"header_is_not_read", "." EMAIL ".", "a@a.test"},
    {"padding_is_optional", HEADER "." EMAIL "=.c2ln", "a@a.test"},
    {"two_parts", HEADER "." EMAIL, NULL},
    {"four_parts", HEADER "." EMAIL ".c2ln.x", NULL},
    {"five_parts_are_encrypted", HEADER "." EMAIL ".x.x.x", NULL},
    {"one_part", EMAIL, NULL},
    {"opaque_token", "ya29.a0AfH6SMBx-1_2", NULL},
    {"empty", "", NULL},
    {"only_dots", "..", NULL},
    {"one_dot", ".", NULL},
    {"bad_base64", HEADER "." EMAIL "*.c2ln", NULL},
    {"space_in_base64", HEADER ". " EMAIL ".c2ln", NULL},
    {"sw1_address", "sw1.abc." ADDRESS, "a@a.test"},
    {"sw1_two_parts", "sw1." ADDRESS, "a@a.test"},
    {"sw1_many_parts", "sw1.a.b.c.d." ADDRESS, "a@a.test"},
    {"sw1_padding", "sw1.a." ADDRESS "=", "a@a.test"},
    {"sw1_last_part_counts", "sw1." ADDRESS ".x", NULL},
    {"sw1_nothing_behind", "sw1.a.", NULL},
    {"sw1_alone", "sw1.", NULL},
    {"sw1_without_dot", "sw1", NULL},
    {"sw1_has_a_case", "SW1.a." ADDRESS, NULL},
    {"sw1_no_address", "sw1.a.YWxpY2U", NULL},
    {"sw1_nul", "sw1.a.YUBhLnRlc3QA", NULL},
    {"sw1_newline", "sw1.a.YUBhLnRlc3QK", NULL},
    {"sw1_is_never_claims", "sw1." EMAIL ".x", NULL},
    {"sw2_is_no_sw1", "sw2.a." ADDRESS, NULL},
};

START_TEST(token_has_its_form)
{
	const struct token_case *c = &token_cases[_i];
	size_t len = strlen(c->token);
	char *token = malloc(len + 1), out[256] = "";
	bool found;

	ck_assert_ptr_nonnull(token);
	memcpy(token, c->token, len);
	found = jwt_account(token, len, "", out, sizeof(out));
	ck_assert_msg(found == (c->account != NULL), "%s", c->proves);
	ck_assert_msg(!found || strcmp(out, c->account) == 0, "%s: %s",
	    c->proves, out);
	free(token);
}
END_TEST

START_TEST(address_has_to_fit)
{
	static const char token[] = HEADER "." EMAIL ".",
			  sw1[] = "sw1." ADDRESS;
	char out[9];

	ck_assert(jwt_account(token, sizeof(token) - 1, "", out, 9));
	ck_assert(!jwt_account(token, sizeof(token) - 1, "", out, 8));
	ck_assert(!jwt_account(token, sizeof(token) - 1, "", out, 0));
	ck_assert(jwt_account(sw1, sizeof(sw1) - 1, "", out, 9));
	ck_assert(!jwt_account(sw1, sizeof(sw1) - 1, "", out, 8));
}
END_TEST

START_TEST(size_has_an_end)
{
	enum { MOST = 65536 };
	static const char tail[] = "." EMAIL ".";
	char *token = malloc(MOST + 1), out[16];

	ck_assert_ptr_nonnull(token);
	memset(token, 'x', MOST + 1);
	memcpy(token + MOST - strlen(tail), tail, strlen(tail));
	ck_assert(jwt_account(token, MOST, "", out, sizeof(out)));
	memset(token, 'x', MOST + 1);
	memcpy(token + MOST + 1 - strlen(tail), tail, strlen(tail));
	ck_assert(!jwt_account(token, MOST + 1, "", out, sizeof(out)));
	free(token);
}
END_TEST

/* As deep as a line can be long: jansson would recurse. */
START_TEST(deep_payload_is_not_parsed)
{
	enum { DEEP = 40000 };
	char *json = malloc(DEEP), *token, out[16];

	ck_assert_ptr_nonnull(json);
	memset(json, '[', DEEP);
	token = token_make("x.", json, DEEP, ".");
	ck_assert(!jwt_account(token, strlen(token), "", out, sizeof(out)));
	free(token);
	free(json);
}
END_TEST

START_TEST(jansson_wipes_the_claims)
{
	json_malloc_t alloc;
	json_free_t release;

	json_get_alloc_funcs(&alloc, &release);
	ck_assert(alloc == secret_malloc);
	ck_assert(release == secret_free);
}
END_TEST

static Suite *
jwt_suite(void)
{
	Suite *suite = suite_create("jwt");
	TCase *tc = tcase_create("jwt");

	tcase_add_loop_test(tc, claims_name_the_account, 0,
	    (int)ARRAY_LEN(claims_cases));
	tcase_add_loop_test(tc, token_has_its_form, 0,
	    (int)ARRAY_LEN(token_cases));
	tcase_add_test(tc, address_has_to_fit);
	tcase_add_test(tc, size_has_an_end);
	tcase_add_test(tc, deep_payload_is_not_parsed);
	tcase_add_test(tc, jansson_wipes_the_claims);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(jwt_suite());
}
