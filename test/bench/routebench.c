/* routebench.c: route lookups as a worker makes them: the router of a
 * configuration, its cache and its store, asked for N identifiers, so many at
 * a time; then for the same ones again, which are cached by then. Prints one
 * line of JSON. */

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sysexits.h>

#include <event2/event.h>
#include <event2/thread.h>

#include "../../src/server/worker.h"
#include "platform/clock.h"
#include "platform/hash.h"
#include "service/route.h"
#include "service/runtime.h"
#include "net/tls_server.h"

struct bench {
	struct router *router;
	struct event *go; /* more may be asked */
	unsigned n, next, done, open, at_once;
	unsigned found, failed;
};

struct pass {
	double seconds, cpu;
	unsigned found, failed;
};

static void bench_go_cb(evutil_socket_t fd, short what, void *arg);

static void
bench_done(void *arg, const struct route_answer *answer)
{
	struct bench *b = arg;

	b->found += answer->status == ROUTE_FOUND;
	b->failed += answer->status == ROUTE_FAILED;
	b->done++;
	b->open--;
	event_active(b->go, EV_TIMEOUT, 0);
}

static void
bench_go_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct bench *b = arg;
	char key[64];

	while (b->open < b->at_once && b->next < b->n) {
		snprintf(key, sizeof(key), "user%07u@example.com", b->next++);
		b->open++;
		route_lookup(b->router, key, bench_done, b);
	}
}

static double
bench_cpu(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
	    (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static void
bench_pass(struct bench *b, struct event_base *base, struct pass *out)
{
	uint64_t start = clock_ms();
	double cpu = bench_cpu();

	b->next = b->done = b->open = b->found = b->failed = 0;
	event_active(b->go, EV_TIMEOUT, 0);
	while (b->done < b->n)
		event_base_loop(base, EVLOOP_ONCE);
	out->seconds = (double)(clock_ms() - start + 1) / 1000;
	out->cpu = bench_cpu() - cpu;
	out->found = b->found;
	out->failed = b->failed;
}

int
main(int argc, char **argv)
{
	struct bench b = {.n = 100000, .at_once = 64};
	struct config_problems problems = {0};
	struct runtime_worker rw;
	struct runtime_slice *slice;
	struct pass cold, warm;
	struct worker *w;
	struct runtime *rt = NULL;
	struct config *cfg;
	struct err err;
	int opt;

	while ((opt = getopt(argc, argv, "n:a:")) != -1) {
		if (opt == 'n')
			b.n = (unsigned)strtoul(optarg, NULL, 10);
		else if (opt == 'a')
			b.at_once = (unsigned)strtoul(optarg, NULL, 10);
		else
			return EX_USAGE;
	}
	if (optind != argc - 1)
		return EX_USAGE;
	hash_init();
	evthread_use_pthreads();
	tls_tickets_init();
	w = worker_new(0, &err);
	cfg = config_load(argv[optind], &problems);
	if (w == NULL)
		return EX_OSERR;
	rw.base = worker_base(w);
	rw.mailbox = worker_mailbox(w);
	rw.resolver = worker_resolver(w);
	if (cfg != NULL)
		rt = runtime_new(cfg, NULL, &rw, 1, &problems);
	for (size_t i = 0; i < problems.n_error; i++)
		fprintf(stderr, "%s\n", problems.error[i]);
	config_problems_clear(&problems);
	if (rt == NULL)
		return EX_CONFIG;
	slice = rt->slice[0];
	b.router = slice->router;
	b.go = evtimer_new(rw.base, bench_go_cb, &b);
	bench_pass(&b, rw.base, &cold);
	bench_pass(&b, rw.base, &warm);
	printf("{\"n\": %u, \"found\": %u, \"failed\": %u, "
	       "\"cold_per_s\": %.0f, \"cold_cpu_us\": %.2f, "
	       "\"warm_per_s\": %.0f, \"warm_cpu_us\": %.2f}\n",
	    b.n, cold.found, cold.failed, b.n / cold.seconds,
	    cold.cpu / b.n * 1e6, b.n / warm.seconds, warm.cpu / b.n * 1e6);
	event_free(b.go);
	runtime_slice_leave(&slice);
	runtime_unref(&rt);
	worker_free(&w);
	return cold.failed + warm.failed == 0 ? EXIT_SUCCESS : EX_TEMPFAIL;
}
