/* test_resolver.c: names to addresses, against a name server of our own. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/dns.h>
#include <event2/dns_struct.h>
#include <event2/event.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "platform/util.h"
#include "net/resolver.h"
#include "run.h"

#define SERVERS 2

/* What the name servers do with a question for a family's addresses. */
enum behaviour { ANSWERS, NODATA, NXDOMAIN, SERVFAIL, MUTE, HOLDS };

static struct event_base *base;
static struct evdns_server_port *server[SERVERS];
static int server_fd[SERVERS];
static struct resolver *resolver;
static int asked, asked_of[SERVERS];
static enum behaviour four, six;
static int n_four, ttl;
static struct evdns_server_request *held;
static char dir[] = "/tmp/test_resolver.XXXXXX";
static char resolv_conf[64], hosts[64];

struct answer {
	int times;
	size_t n;
	struct addr first, last;
	bool reason;
};

/* "none.test" is not there, whatever they do. */
static void
server_cb(struct evdns_server_request *req, void *arg)
{
	unsigned char ip[4] = {192, 0, 2, 7};
	const unsigned char ip6[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 7};
	const struct evdns_server_question *q = req->questions[0];
	bool a = q->type == EVDNS_TYPE_A;
	enum behaviour what = a ? four : six;
	int error = DNS_ERR_NONE;

	ck_assert_int_eq(req->nquestions, 1);
	if (a) {
		asked++;
		asked_of[*(const int *)arg]++;
	}
	if (strncasecmp(q->name, "none", 4) == 0)
		what = NXDOMAIN;
	if (what == MUTE) {
		evdns_server_request_drop(req);
		return;
	}
	if ((what == ANSWERS || what == HOLDS) && a)
		for (int i = 0; i < n_four; i++, ip[3]++)
			evdns_server_request_add_a_reply(req, q->name, 1, ip,
			    ttl);
	else if (what == ANSWERS || what == HOLDS)
		evdns_server_request_add_aaaa_reply(req, q->name, 1, ip6, ttl);
	else if (what == NXDOMAIN)
		error = DNS_ERR_NOTEXIST;
	else if (what == SERVFAIL)
		error = DNS_ERR_SERVERFAILED;
	if (what == HOLDS)
		held = req;
	else
		evdns_server_request_respond(req, error);
}

static void
write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

/* Which name server the resolver has, and how long it waits for it. */
static void
use_server(int which, int timeout)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);
	char text[128];

	ck_assert_int_eq(getsockname(server_fd[which], (struct sockaddr *)&in,
			     &len),
	    0);
	snprintf(text, sizeof(text),
	    "nameserver 127.0.0.1:%u\noptions timeout:%d attempts:1 "
	    "initial-probe-timeout:1\n",
	    ntohs(in.sin_port), timeout);
	write_file(resolv_conf, text);
}

/* Ports: 0 is one where nobody is. */
static void
use_ports(unsigned first, unsigned second)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char text[128];

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	close(fd);
	snprintf(text, sizeof(text),
	    "nameserver 127.0.0.1:%u\nnameserver 127.0.0.1:%u\n",
	    first != 0 ? first : ntohs(in.sin_port),
	    second != 0 ? second : ntohs(in.sin_port));
	write_file(resolv_conf, text);
}

static unsigned
server_port(int which)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	ck_assert_int_eq(getsockname(server_fd[which], (struct sockaddr *)&in,
			     &len),
	    0);
	return ntohs(in.sin_port);
}

static void
setup(void)
{
	static int number[SERVERS] = {0, 1};

	hash_init();
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(resolv_conf, sizeof(resolv_conf), "%s/resolv.conf", dir);
	snprintf(hosts, sizeof(hosts), "%s/hosts", dir);
	base = event_base_new();
	for (int i = 0; i < SERVERS; i++) {
		struct sockaddr_in in = {.sin_family = AF_INET};

		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		server_fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		ck_assert_int_eq(bind(server_fd[i], (struct sockaddr *)&in,
				     sizeof(in)),
		    0);
		server[i] = evdns_add_server_port_with_base(base, server_fd[i],
		    0, server_cb, &number[i]);
	}
	use_server(0, 1);
	resolver = resolver_new(base, resolv_conf, hosts);
	ck_assert_ptr_nonnull(resolver);
	asked = asked_of[0] = asked_of[1] = 0;
	four = ANSWERS;
	six = NODATA;
	n_four = 1;
	ttl = 60;
	held = NULL;
}

static void
teardown(void)
{
	resolver_free(&resolver);
	for (int i = 0; i < SERVERS; i++) {
		evdns_close_server_port(server[i]);
		close(server_fd[i]);
	}
	event_base_free(base);
	unlink(resolv_conf);
	unlink(hosts);
	rmdir(dir);
	memset(dir + sizeof(dir) - 7, 'X', 6);
}

static void
resolved(void *arg, const struct addr *addrs, size_t n, const char *reason)
{
	struct answer *a = arg;

	a->times++;
	a->n = n;
	a->reason = reason != NULL;
	if (n > 0) {
		a->first = addrs[0];
		a->last = addrs[n - 1];
	}
}

static void
wait_for(const struct answer *a)
{
	while (a->times == 0)
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
}

/* Asks, and waits for the answer. */
static struct answer
look_up(const char *name)
{
	struct answer a = {0};

	resolver_lookup(resolver, name, resolved, &a);
	wait_for(&a);
	return a;
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
	four = SERVFAIL;
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

/* The name servers are given up much later. */
START_TEST(a_silent_name_server_is_waited_for_once)
{
	struct answer a = {0}, b = {0}, c = {0}, d = {0};
	uint64_t start;

	ck_assert_ptr_nonnull(resolver_lookup(resolver, "mail.test", resolved,
	    &a));
	wait_for(&a);
	use_server(0, 5);
	four = six = MUTE;
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
	four = ANSWERS;
	six = NODATA;
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

START_TEST(that_there_is_none_is_an_answer)
{
	static const enum behaviour none[][2] = {
	    {NXDOMAIN, NXDOMAIN}, {NODATA, NODATA}, {NODATA, NXDOMAIN}};
	struct answer a;

	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		four = ANSWERS;
		six = NODATA;
		resolver_age(resolver, 31000);
		ck_assert_uint_eq(look_up("mail.test").n, 1);
		four = none[i][0];
		six = none[i][1];
		resolver_age(resolver, 31000);
		for (int again = 0; again < 2; again++) {
			a = look_up("mail.test");
			ck_assert_uint_eq(a.n, 0);
			ck_assert(a.reason);
		}
	}
}
END_TEST

START_TEST(that_one_family_has_none_is_not)
{
	static const enum behaviour fails[][2] = {{NODATA, SERVFAIL},
	    {SERVFAIL, NODATA}, {NXDOMAIN, SERVFAIL}, {MUTE, NODATA},
	    {NODATA, MUTE}};

	for (size_t i = 0; i < ARRAY_LEN(fails); i++) {
		four = ANSWERS;
		six = NODATA;
		do
			resolver_age(resolver, 31000);
		while (look_up("mail.test").n == 0);
		four = fails[i][0];
		six = fails[i][1];
		resolver_age(resolver, 31000);
		ck_assert_uint_eq(look_up("mail.test").n, 1);
	}
}
END_TEST

/* One that has addresses is not kept waiting for the other one. */
START_TEST(a_silent_family_is_not_waited_for)
{
	struct answer a;
	uint64_t start = clock_ms();
	char text[ADDR_TEXT_MAX];

	six = HOLDS;
	a = look_up("mail.test");
	ck_assert_uint_eq(a.n, 1);
	ck_assert_str_eq(addr_ip(&a.first, text), "192.0.2.7");
	ck_assert_uint_lt(clock_ms() - start, 500);
	/* But used, when it comes. */
	ck_assert_ptr_nonnull(held);
	evdns_server_request_respond(held, 0);
	while (look_up("mail.test").n < 2)
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
	a = look_up("mail.test");
	ck_assert_str_eq(addr_ip(&a.first, text), "192.0.2.7");
	ck_assert_str_eq(addr_ip(&a.last, text), "2001:db8::7");
	ck_assert_int_eq(asked, 1);
}
END_TEST

static void
respond_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg UNUSED)
{
	ck_assert_ptr_nonnull(held);
	evdns_server_request_respond(held, 0);
}

/* One that has none says nothing about the other one. */
START_TEST(a_slow_family_is_waited_for)
{
	const struct timeval tv = {0, 600 * 1000};
	struct event *ev = evtimer_new(base, respond_cb, NULL);

	evtimer_add(ev, &tv);
	four = HOLDS;
	ck_assert_uint_eq(look_up("mail.test").n, 1);
	event_free(ev);
}
END_TEST

START_TEST(changed_files_are_read_again)
{
	struct answer a, b = {0};
	char text[ADDR_TEXT_MAX];

	ck_assert_uint_eq(look_up("mail.test").n, 1);
	resolver_age(resolver, 31000);
	look_up("mail.test");
	ck_assert_int_eq(asked_of[0], 2);
	use_server(1, 1);
	resolver_age(resolver, 31000);
	ck_assert_uint_eq(look_up("mail.test").n, 1);
	ck_assert_int_eq(asked_of[1], 1);
	/* Under way when it changes: it gets its answer. */
	four = HOLDS;
	ck_assert_ptr_nonnull(resolver_lookup(resolver, "slow.test", resolved,
	    &b));
	while (held == NULL)
		ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
	four = ANSWERS;
	use_server(0, 1);
	resolver_age(resolver, 31000);
	ck_assert_uint_eq(look_up("mail.test").n, 1);
	ck_assert_int_eq(asked_of[0], 3);
	evdns_server_request_respond(held, 0);
	wait_for(&b);
	ck_assert_uint_eq(b.n, 1);
	/* And hosts. */
	write_file(hosts, "192.0.2.9 x Mail.Test\n");
	resolver_age(resolver, 31000);
	a = look_up("mail.test");
	ck_assert_str_eq(addr_ip(&a.first, text), "192.0.2.9");
	ck_assert_int_eq(asked_of[0], 3);
}
END_TEST

START_TEST(a_ttl_below_half_a_minute_is_honoured)
{
	ttl = 5;
	look_up("mail.test");
	resolver_age(resolver, 4000);
	look_up("mail.test");
	ck_assert_int_eq(asked, 1);
	resolver_age(resolver, 1100);
	look_up("mail.test");
	ck_assert_int_eq(asked, 2);
	/* Nobody is asked for each login because of a long one. */
	ttl = 3600;
	resolver_age(resolver, 6000);
	look_up("mail.test");
	resolver_age(resolver, 29000);
	look_up("mail.test");
	ck_assert_int_eq(asked, 3);
	resolver_age(resolver, 2000);
	look_up("mail.test");
	ck_assert_int_eq(asked, 4);
}
END_TEST

START_TEST(many_addresses_are_all_used)
{
	struct answer a;
	char text[ADDR_TEXT_MAX];

	n_four = 28; /* as many as libevent's server answers with */
	a = look_up("mail.test");
	ck_assert_uint_eq(a.n, 28);
	ck_assert_str_eq(addr_ip(&a.first, text), "192.0.2.7");
	ck_assert_str_eq(addr_ip(&a.last, text), "192.0.2.34");
}
END_TEST

START_TEST(a_refusing_name_server_is_passed_over_at_once)
{
	uint64_t start = clock_ms();

	use_ports(0, server_port(1));
	resolver_age(resolver, 31000);
	ck_assert_uint_eq(look_up("mail.test").n, 1);
	ck_assert_int_eq(asked_of[1], 1);
	ck_assert_uint_lt(clock_ms() - start, 900);
}
END_TEST

/* It costs one question a second, not each. */
START_TEST(a_silent_name_server_is_passed_over)
{
	uint64_t start = clock_ms();
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	use_ports(ntohs(in.sin_port), server_port(1));
	resolver_age(resolver, 31000);
	ck_assert_uint_eq(look_up("mail.test").n, 1);
	ck_assert_uint_lt(clock_ms() - start, 4000);
	start = clock_ms();
	ck_assert_uint_eq(look_up("other.test").n, 1);
	ck_assert_uint_lt(clock_ms() - start, 900);
	/* After a while the first one may be back. */
	use_ports(server_port(0), server_port(1));
	resolver_age(resolver, 10 * 60 * 1000);
	ck_assert_uint_eq(look_up("third.test").n, 1);
	ck_assert_int_eq(asked_of[0], 1);
	close(fd);
}
END_TEST

START_TEST(without_a_name_server_there_is_a_reason_at_once)
{
	uint64_t start = clock_ms();
	struct answer a;

	use_ports(0, 0);
	resolver_age(resolver, 31000);
	a = look_up("mail.test");
	ck_assert_uint_eq(a.n, 0);
	ck_assert(a.reason);
	ck_assert_uint_lt(clock_ms() - start, 900);
}
END_TEST

START_TEST(it_may_end_while_a_question_is_under_way)
{
	struct answer a = {0};
	struct resolver_query *q;

	four = six = MUTE;
	q = resolver_lookup(resolver, "mail.test", resolved, &a);
	ck_assert_int_eq(event_base_loop(base, EVLOOP_ONCE), 0);
	resolver_cancel(&q);
	ck_assert_int_eq(a.times, 0);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("resolver");
	TCase *tc = tcase_create("resolver");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, an_answer_is_remembered);
	tcase_add_test(tc, a_failing_name_server_leaves_the_last_addresses);
	tcase_add_test(tc, a_silent_name_server_is_waited_for_once);
	tcase_add_test(tc, lookups_of_one_name_are_one_query);
	tcase_add_test(tc, a_name_that_is_not_there_says_so);
	tcase_add_test(tc, that_there_is_none_is_an_answer);
	tcase_add_test(tc, that_one_family_has_none_is_not);
	tcase_add_test(tc, a_silent_family_is_not_waited_for);
	tcase_add_test(tc, a_slow_family_is_waited_for);
	tcase_add_test(tc, changed_files_are_read_again);
	tcase_add_test(tc, a_ttl_below_half_a_minute_is_honoured);
	tcase_add_test(tc, many_addresses_are_all_used);
	tcase_add_test(tc, a_refusing_name_server_is_passed_over_at_once);
	tcase_add_test(tc, a_silent_name_server_is_passed_over);
	tcase_add_test(tc, without_a_name_server_there_is_a_reason_at_once);
	tcase_add_test(tc, it_may_end_while_a_question_is_under_way);
	suite_add_tcase(suite, tc);
	return run(suite);
}
