/* test_resolver.c: names to addresses, against a name server of our own. */

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/dns.h>
#include <event2/dns_struct.h>
#include <event2/event.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "service/resolver.h"

static struct event_base *base;
static struct evdns_server_port *server;
static struct resolver *resolver;
static int server_fd, asked;
static struct evdns_base *dns;
static bool broken, mute;

struct answer {
	int times;
	size_t n;
	struct addr first;
	bool reason;
};

/* A records only; "none.test" has none. */
static void
server_cb(struct evdns_server_request *req, void *arg UNUSED)
{
	const unsigned char ip[4] = {192, 0, 2, 7};
	int error = broken ? DNS_ERR_SERVERFAILED : DNS_ERR_NONE;

	for (int i = 0; i < req->nquestions; i++) {
		const struct evdns_server_question *q = req->questions[i];

		if (q->type != EVDNS_TYPE_A)
			continue;
		asked++;
		if (strncasecmp(q->name, "none", 4) == 0)
			error = DNS_ERR_NOTEXIST;
		else if (!broken)
			evdns_server_request_add_a_reply(req, q->name, 1, ip,
			    1);
	}
	if (mute)
		evdns_server_request_drop(req);
	else
		evdns_server_request_respond(req, error);
}

static void
setup(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	hash_init();
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	base = event_base_new();
	server_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	ck_assert_int_eq(bind(server_fd, (struct sockaddr *)&in, len), 0);
	ck_assert_int_eq(getsockname(server_fd, (struct sockaddr *)&in, &len),
	    0);
	server = evdns_add_server_port_with_base(base, server_fd, 0, server_cb,
	    NULL);
	dns = evdns_base_new(base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	ck_assert_int_eq(evdns_base_nameserver_sockaddr_add(dns,
			     (struct sockaddr *)&in, len, 0),
	    0);
	evdns_base_set_option(dns, "timeout:", "1");
	evdns_base_set_option(dns, "attempts:", "1");
	resolver = resolver_new(base, dns);
	ck_assert_ptr_nonnull(resolver);
	asked = 0;
	broken = mute = false;
}

static void
teardown(void)
{
	resolver_free(&resolver);
	evdns_close_server_port(server);
	close(server_fd);
	event_base_free(base);
}

static void
resolved(void *arg, const struct addr *addrs, size_t n, const char *reason)
{
	struct answer *a = arg;

	a->times++;
	a->n = n;
	a->reason = reason != NULL;
	if (n > 0)
		a->first = addrs[0];
}

static void
wait_for(const struct answer *a)
{
	while (a->times == 0)
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

START_TEST(an_answer_is_remembered)
{
	struct answer a = {0}, b = {0};
	char text[ADDR_TEXT_MAX];

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &a));
	wait_for(&a);
	ck_assert_uint_eq(a.n, 1);
	ck_assert_str_eq(addr_ip(&a.first, text), "192.0.2.7");
	ck_assert_ptr_null(resolver_lookup(resolver, "mail.test", resolved,
	    &b));
	ck_assert_int_eq(b.times, 1);
	ck_assert_int_eq(asked, 1);
	/* ... for half a minute. */
	resolver_age(resolver, 31000);
	b.times = 0;
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &b));
	wait_for(&b);
	ck_assert_int_eq(asked, 2);
}
END_TEST

START_TEST(a_failing_name_server_leaves_the_last_addresses)
{
	struct answer a = {0}, b = {0}, c = {0};

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &a));
	wait_for(&a);
	broken = true;
	resolver_age(resolver, 31000);
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &b));
	wait_for(&b);
	ck_assert_uint_eq(b.n, 1);
	resolver_age(resolver, 3600 * 1000);
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &c));
	wait_for(&c);
	ck_assert_uint_eq(c.n, 0);
	ck_assert(c.reason);
}
END_TEST

/* libevent itself gives up much later. */
START_TEST(a_silent_name_server_is_waited_for_once)
{
	struct answer a = {0}, b = {0}, c = {0}, d = {0};
	uint64_t start;

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &a));
	wait_for(&a);
	evdns_base_set_option(dns, "timeout:", "5");
	evdns_base_set_option(dns, "initial-probe-timeout:", "1");
	mute = true;
	resolver_age(resolver, 31000);
	start = clock_ms();
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &b));
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &c));
	wait_for(&b);
	ck_assert_uint_lt(clock_ms() - start, 3000);
	ck_assert_uint_eq(b.n, 1);
	ck_assert_uint_eq(c.n, 1);
	ck_assert_ptr_null(resolver_lookup(resolver, "mail.test", resolved,
	    &d));
	ck_assert_uint_eq(d.n, 1);
	/* Once it speaks again, that is noticed. */
	mute = false;
	for (int before = asked; asked == before;) {
		resolver_age(resolver, 6000);
		resolver_lookup(resolver, "mail.test", resolved, &d);
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
	}
	b.times = 0;
	ck_assert_ptr_null(resolver_lookup(resolver, "mail.test", resolved,
	    &b));
	ck_assert_int_eq(b.times, 1);
}
END_TEST

START_TEST(lookups_of_one_name_are_one_query)
{
	struct answer a = {0}, b = {0}, c = {0};
	struct resolver_query *q;

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &a));
	q = resolver_lookup(resolver, "mail.test", resolved, &b);
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &c));
	resolver_cancel(&q);
	ck_assert_ptr_null(q);
	wait_for(&c);
	ck_assert_int_eq(a.times, 1);
	ck_assert_int_eq(b.times, 0);
	ck_assert_int_eq(asked, 1);
}
END_TEST

START_TEST(a_name_that_is_not_there_says_so)
{
	struct answer a = {0};

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "none.test", resolved,
	    &a));
	wait_for(&a);
	ck_assert_uint_eq(a.n, 0);
	ck_assert(a.reason);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("resolver");
	TCase *tc = tcase_create("resolver");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, an_answer_is_remembered);
	tcase_add_test(tc, a_failing_name_server_leaves_the_last_addresses);
	tcase_add_test(tc, a_silent_name_server_is_waited_for_once);
	tcase_add_test(tc, lookups_of_one_name_are_one_query);
	tcase_add_test(tc, a_name_that_is_not_there_says_so);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
