/* test_sasl_exchange.c: proves sasl_exchange.c: one exchange per case, line by
 * line. */

#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "platform/util.h"
#include "proto/sasl_exchange.h"
#include "run.h"

#define LINES_MAX 3

/* ir "-": none was sent. steps: P(rompt) D(one) C(ancelled) M(alformed), one
 * for the start and one per line. */
static const struct exchange_case {
	const char *name;
	enum sasl_mechanism mech;
	const char *ir;
	const char *line[LINES_MAX];
	const char *steps;
	const char *last; /* the prompt, the reason, or the account */
} cases[] = {
    {"PLAIN inline", SASL_PLAIN, "AGFsaWNlAHNlY3JldA==", {NULL}, "D", "alice"},
    {"PLAIN after a prompt", SASL_PLAIN, "-", {"AGFsaWNlAHNlY3JldA=="}, "PD",
	"alice"},
    {"PLAIN with an authzid", SASL_PLAIN, "Ym9iAGFsaWNlAHNlY3JldA==", {NULL},
	"D", "bob"},
    {"PLAIN cancelled", SASL_PLAIN, "-", {"*"}, "PC", NULL},
    {"PLAIN that is no base64", SASL_PLAIN, "QUIT!", {NULL}, "M", "bad base64"},
    {"PLAIN empty", SASL_PLAIN, "=", {NULL}, "M", "PLAIN: malformed message"},
    {"PLAIN with one NUL", SASL_PLAIN, "AGFsaWNl", {NULL}, "M",
	"PLAIN: malformed message"},
    {"LOGIN", SASL_LOGIN, "-", {"YWxpY2U=", "c2VjcmV0"}, "PPD", "alice"},
    {"LOGIN with an initial name", SASL_LOGIN, "YWxpY2U=", {"c2VjcmV0"}, "PD",
	"alice"},
    {"LOGIN prompts for the password", SASL_LOGIN, "YWxpY2U=", {NULL}, "P",
	"UGFzc3dvcmQ6"},
    {"LOGIN prompts for the name", SASL_LOGIN, "-", {NULL}, "P",
	"VXNlcm5hbWU6"},
    {"LOGIN without a name", SASL_LOGIN, "=", {NULL}, "M",
	"LOGIN: no acceptable user name"},
    {"LOGIN with an empty password", SASL_LOGIN, "YWxpY2U=", {""}, "PD",
	"alice"},
    {"LOGIN with NUL in the password", SASL_LOGIN, "YWxpY2U=", {"AA=="}, "PM",
	"LOGIN: NUL in the password"},
    {"LOGIN cancelled at the password", SASL_LOGIN, "YWxpY2U=", {"*"}, "PC",
	NULL},
    /* user=alice^Aauth=Bearer t^A^A */
    {"XOAUTH2", SASL_XOAUTH2, "dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0AQE=", {NULL},
	"D", "alice"},
    {"XOAUTH2 empty", SASL_XOAUTH2, "=", {NULL}, "M",
	"malformed bearer message"},
    /* n,a=a=2Cb,^Aauth=Bearer t^A^A */
    {"OAUTHBEARER with an encoded name", SASL_OAUTHBEARER,
	"bixhPWE9MkNiLAFhdXRoPUJlYXJlciB0AQE=", {NULL}, "D", "a,b"},
    /* n,,^Aauth=Bearer t^A^A */
    {"OAUTHBEARER that names nobody", SASL_OAUTHBEARER,
	"biwsAWF1dGg9QmVhcmVyIHQBAQ==", {NULL}, "D", ""},
};

static char
step_letter(enum sasl_step step)
{
	switch (step) {
	case SASL_STEP_PROMPT:
		return 'P';
	case SASL_STEP_DONE:
		return 'D';
	case SASL_STEP_CANCELLED:
		return 'C';
	case SASL_STEP_MALFORMED:
		return 'M';
	case SASL_STEP_NO_MEMORY:
		break;
	}
	return '?';
}

static void
account_is(const struct credentials *cred, const char *name)
{
	ck_assert_uint_eq(cred->name.len, strlen(name));
	ck_assert_mem_eq(cred->name.len > 0 ? cred->name.data : "", name,
	    strlen(name));
}

START_TEST(exchange_goes_as_it_should)
{
	const struct exchange_case *t = &cases[_i];
	struct sasl_exchange x = {.wait = SASL_WAIT_MESSAGE};
	struct sasl_outcome out;
	bool ir = strcmp(t->ir, "-") != 0;
	enum sasl_step step = sasl_exchange_start(&x, t->mech,
	    ir ? t->ir : NULL, ir ? strlen(t->ir) : 0, &out);
	size_t n = 0;

	ck_assert_msg(step_letter(step) == t->steps[0], "%s: %c", t->name,
	    step_letter(step));
	while (t->steps[n + 1] != '\0') {
		step = sasl_exchange_line(&x, t->line[n], strlen(t->line[n]),
		    &out);
		n++;
		ck_assert_msg(step_letter(step) == t->steps[n], "%s: %c",
		    t->name, step_letter(step));
	}
	if (step == SASL_STEP_DONE)
		account_is(&out.cred, t->last);
	else if (step == SASL_STEP_PROMPT)
		ck_assert_str_eq(out.prompt, t->last);
	else if (step == SASL_STEP_MALFORMED)
		ck_assert_str_eq(out.why, t->last);
	credentials_clear(&out.cred);
	sasl_exchange_clear(&x);
}
END_TEST

START_TEST(login_becomes_a_plain_frame)
{
	struct sasl_exchange x = {.wait = SASL_WAIT_MESSAGE};
	struct sasl_outcome out;

	ck_assert_int_eq(sasl_exchange_start(&x, SASL_LOGIN, "YWxpY2U=", 8,
			     &out),
	    SASL_STEP_PROMPT);
	ck_assert_int_eq(sasl_exchange_line(&x, "IHNlY3JldCA=", 12, &out),
	    SASL_STEP_DONE);
	ck_assert_str_eq(out.cred.how, "LOGIN");
	ck_assert_int_eq(out.cred.mech, SASL_PLAIN);
	ck_assert_uint_eq(out.cred.frame.len, 15);
	ck_assert_mem_eq(out.cred.frame.data, "\0alice\0 secret ", 15);
	ck_assert_ptr_null(x.name.data);
	credentials_clear(&out.cred);
}
END_TEST

START_TEST(bearer_frame_is_kept_as_it_came)
{
	static const char ir[] = "dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0AQE=";
	struct sasl_exchange x = {.wait = SASL_WAIT_MESSAGE};
	struct sasl_outcome out;

	ck_assert_int_eq(sasl_exchange_start(&x, SASL_XOAUTH2, ir,
			     sizeof(ir) - 1, &out),
	    SASL_STEP_DONE);
	ck_assert_uint_eq(out.cred.frame.len, sizeof(ir) - 1);
	ck_assert_mem_eq(out.cred.frame.data, ir, sizeof(ir) - 1);
	ck_assert_mem_eq(out.cred.bearer.data, "user=alice", 10);
	credentials_clear(&out.cred);
	credentials_clear(&out.cred);
}
END_TEST

START_TEST(authcid_is_told_when_it_differs)
{
	static const struct {
		const char *frame;
		size_t len;
		const char *authcid;
	} t[] = {
	    {"\0alice\0pw", 9, NULL},
	    {"alice\0alice\0pw", 14, NULL},
	    {"alice\0admin\0pw", 14, "admin"},
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct credentials cred = {.mech = SASL_PLAIN};
		char *who;

		ck_assert(secret_set(&cred.frame, t[i].frame, t[i].len));
		who = credentials_authcid(&cred);
		if (t[i].authcid == NULL)
			ck_assert_ptr_null(who);
		else
			ck_assert_str_eq(who, t[i].authcid);
		free(who);
		credentials_clear(&cred);
	}
}
END_TEST

START_TEST(credentials_move_leaves_nothing_behind)
{
	struct credentials from = {.how = NULL}, to = {.how = NULL};

	ck_assert(credentials_set_password(&from, "USER", "a", 1, "b", 1));
	credentials_move(&to, &from);
	ck_assert_ptr_null(from.frame.data);
	ck_assert_ptr_null(from.name.data);
	ck_assert_mem_eq(to.frame.data, "\0a\0b", 4);
	credentials_clear(&to);
}
END_TEST

static Suite *
sasl_exchange_suite(void)
{
	Suite *suite = suite_create("sasl_exchange");
	TCase *tc = tcase_create("sasl_exchange");

	tcase_add_loop_test(tc, exchange_goes_as_it_should, 0,
	    (int)ARRAY_LEN(cases));
	tcase_add_test(tc, login_becomes_a_plain_frame);
	tcase_add_test(tc, bearer_frame_is_kept_as_it_came);
	tcase_add_test(tc, authcid_is_told_when_it_differs);
	tcase_add_test(tc, credentials_move_leaves_nothing_behind);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	return run(sasl_exchange_suite());
}
