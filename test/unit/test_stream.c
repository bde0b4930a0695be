/* test_stream.c: bufferevents for which there is no memory. */

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <openssl/crypto.h>

#include "net/stream.h"
#include "platform/secret.h"
#include "platform/util.h"

/* All of libevent's and OpenSSL's memory, and our own, comes this way. */
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

static unsigned long refuse; /* the how manyeth from now; 0: none */
static bool refuse_rest; /* and all behind it */

void *
__wrap_malloc(size_t size)
{
	if (refuse == 1 && refuse_rest)
		return NULL;
	if (refuse > 0 && --refuse == 0)
		return NULL;
	return __real_malloc(size);
}

static void *
ssl_malloc(size_t size, const char *file UNUSED, int line UNUSED)
{
	return secret_malloc(size);
}

static void *
ssl_realloc(void *p, size_t size, const char *file UNUSED, int line UNUSED)
{
	return secret_realloc(p, size);
}

static void
ssl_free(void *p, const char *file UNUSED, int line UNUSED)
{
	secret_free(p);
}

static SSL_CTX *ctx;
static struct event_base *base;

static void
setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	ctx = SSL_CTX_new(TLS_client_method());
	ck_assert_ptr_nonnull(ctx);
}

static void
teardown(void)
{
	SSL_CTX_free(ctx);
}

/* Returns NULL if there was no memory; fd is ours then. */
static struct bufferevent *
make(bool tls, int fd)
{
	SSL *ssl = tls ? SSL_new(ctx) : NULL;

	if (!tls)
		return stream_plain(base, fd);
	return ssl != NULL
	    ? stream_tls(base, fd, ssl, BUFFEREVENT_SSL_CONNECTING)
	    : NULL;
}

/* Each allocation fails once, alone or with all that follow. */
START_TEST(without_memory_there_is_no_bufferevent)
{
	bool tls = (_i & 1) != 0;
	int failed = 0;

	for (unsigned long n = 1;; n++) {
		struct bufferevent *bev;
		bool all;
		int fd[2];

		base = event_base_new();
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		refuse_rest = (_i & 2) != 0;
		refuse = n;
		bev = make(tls, fd[0]);
		all = refuse > 1 || (refuse == 1 && !refuse_rest);
		refuse = 0;
		if (bev == NULL) {
			failed++;
			ck_assert_int_ne(fcntl(fd[0], F_GETFD), -1);
			close(fd[0]);
		} else {
			/* What is left to do needs none. */
			refuse = 1;
			refuse_rest = true;
			bufferevent_setwatermark(bev, EV_READ, 0, 100);
			refuse = 0;
			bufferevent_free(bev);
			event_base_loop(base, EVLOOP_NONBLOCK);
			ck_assert_int_eq(fcntl(fd[0], F_GETFD), -1);
		}
		close(fd[1]);
		event_base_free(base);
		if (all)
			break;
	}
	ck_assert_int_gt(failed, 3);
}
END_TEST

START_TEST(the_limit_of_what_is_read_works)
{
	struct bufferevent *bev;
	int fd[2];
	char data[1000] = {0};

	base = event_base_new();
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	bev = stream_plain(base, fd[0]);
	ck_assert_ptr_nonnull(bev);
	bufferevent_setwatermark(bev, EV_READ, 0, 100);
	bufferevent_enable(bev, EV_READ);
	ck_assert_int_eq(write(fd[1], data, sizeof(data)), sizeof(data));
	for (int i = 0; i < 5; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	ck_assert_uint_eq(evbuffer_get_length(bufferevent_get_input(bev)), 100);
	bufferevent_setwatermark(bev, EV_READ, 0, 0);
	for (int i = 0; i < 5; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	ck_assert_uint_eq(evbuffer_get_length(bufferevent_get_input(bev)),
	    1000);
	bufferevent_free(bev);
	close(fd[1]);
	event_base_free(base);
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("stream");
	TCase *tc = tcase_create("stream");
	SRunner *runner;
	int failed;

	CRYPTO_set_mem_functions(ssl_malloc, ssl_realloc, ssl_free);
	event_set_mem_functions(secret_malloc, secret_realloc, secret_free);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	/* Plain and TLS, one failure and for good. */
	tcase_add_loop_test(tc, without_memory_there_is_no_bufferevent, 0, 4);
	tcase_add_test(tc, the_limit_of_what_is_read_works);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
