/* server.c: the main thread: start, reload, drain.
 *
 * Start: configuration -> workers (no threads yet) -> runtime -> sockets,
 * opened or inherited -> privileges -> threads -> a first round through the
 * workers -> "ready" to the service manager. A reload does the same beside the
 * running configuration, and publishes only a complete result. */

#include "server/server.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>
#include <utlist.h>

#include "binds.h"
#include "handed.h"
#include "listen.h"
#include "platform/clock.h"
#include "platform/log.h"
#include "platform/log_sink.h"
#include "service/cache.h"
#include "net/mailbox.h"
#include "service/runtime.h"
#include "net/tls_server.h"
#include "pulse.h"
#include "reload.h"
#include "summary.h"
#include "systemd.h"
#include "worker.h"

#define SERVER_TICK_S 60 /* housekeeping: ticket keys */
#define SERVER_STATUS_S 10 /* the service manager's status line */
#define SERVER_FAILED_MAX 256
#define SERVER_STATUS_MAX (SERVER_FAILED_MAX + 160)
#define SERVER_STOP_MARGIN_MS 10000 /* from the end of the grace to our own */

/* A worker's word that its last session is gone. */
struct server_empty {
	struct server *server;
	struct mailbox_item item;
	bool said; /* the worker's */
};

enum server_phase {
	SERVER_SERVES,
	SERVER_LEAVES, /* told to stop; drain_delay runs */
	SERVER_DRAINS /* the listeners are closed */
};

struct server {
	const char *path;
	char *user, *group; /* of a start as root, else NULL */
	struct event_base *base;
	struct mailbox *mailbox;
	struct worker **worker;
	struct runtime_worker *runtime_worker; /* the same, for runtime_new() */
	size_t n_workers, n_empty;
	struct runtime *rt;
	struct worker_count *counts;
	uint64_t stats_ms; /* between two lines of counters; 0: none */
	struct event *signals[4], *tick, *delay, *grace, *beat, *stats;
	struct server_empty *empty; /* one per worker */
	struct handed handed; /* sockets, until they are published */
	struct pulse *pulse;
	struct reload *reload; /* under way */
	bool reload_again; /* when that is done */
	bool announce; /* "ready" is to be said when the workers answer */
	unsigned unsaid; /* reloads: so is "reloaded", so many times */
	bool watched, logs;
	enum server_phase phase;
	unsigned generation; /* of the runtime, 1 from the start */
	time_t reloaded; /* 0: not yet */
	char failed[SERVER_FAILED_MAX]; /* why the last reload did, or "" */
	char status[SERVER_STATUS_MAX]; /* as said last */
};

static struct config *server_load(const char *path,
    struct config_problems *problems);
static void server_check_host(const struct config *cfg,
    struct config_problems *problems);
static void server_report(const struct config_problems *problems);
static void server_log_problems(const struct config_problems *problems);
static unsigned server_threads(const struct config *cfg);
static int server_workers(struct server *sv, unsigned n, struct err *err);
static int server_start(struct server *sv, struct config *cfg,
    struct config_problems *problems);
static int server_set_up(struct server *sv, const struct config *cfg,
    struct err *err);
static int server_go(struct server *sv, struct err *err);
static void server_failed(const struct server *sv, const struct err *err);
static int server_publish(struct server *sv, struct runtime *rt,
    struct config_problems *problems);
static bool server_signals(struct server *sv);
static void server_reload_cb(evutil_socket_t sig, short what, void *arg);
static void server_reload(struct server *sv);
static void server_built(void *arg);
static void server_take(struct server *sv, struct reload *r);
static void server_announce(struct server *sv);
static void server_reloaded(struct server *sv, struct log_sink **sink);
static void server_not_reloaded(struct server *sv,
    const struct config_problems *problems);
static void server_log_waits(const char *key);
static void server_reopen_cb(evutil_socket_t sig, short what, void *arg);
static void server_stop_cb(evutil_socket_t sig, short what, void *arg);
static void server_delay_cb(evutil_socket_t fd, short what, void *arg);
static void server_drain(struct server *sv, int sig);
static void server_enter(struct server *sv, enum server_phase phase,
    uint64_t ms);
static void server_grace_cb(evutil_socket_t fd, short what, void *arg);
static void server_tick_cb(evutil_socket_t fd, short what, void *arg);
static void server_stats_run(struct server *sv);
static void server_stats_cb(evutil_socket_t fd, short what, void *arg);
static void server_stats(const struct server *sv);
static bool server_heart(struct server *sv);
static void server_beat_cb(evutil_socket_t fd, short what, void *arg);
static void server_beat(void *arg);
static unsigned server_open(const struct server *sv);
static void server_status(const struct server *sv,
    char text[SERVER_STATUS_MAX]);
static void server_tell_empty(void *arg);
static void server_count_empty(void *arg);
static void server_clear(struct server *sv);
static void server_log_start(const struct server *sv, const char *what);

/* runtime_new() reports a source that is not built in as a problem of the
 * configuration. */
static struct config *
server_load(const char *path, struct config_problems *problems)
{
	memset(problems, 0, sizeof(*problems));
	return config_load(path, problems);
}

static void
server_report(const struct config_problems *problems)
{
	for (size_t i = 0; i < problems->n_warning; i++)
		fprintf(stderr, "%s (warning)\n", problems->warning[i]);
	for (size_t i = 0; i < problems->n_error; i++)
		fprintf(stderr, "%s\n", problems->error[i]);
}

static void
server_log_problems(const struct config_problems *problems)
{
	for (size_t i = 0; i < problems->n_warning; i++)
		log_msg(LOG_WARNING, "%s", problems->warning[i]);
	for (size_t i = 0; i < problems->n_error; i++)
		log_msg(LOG_ERR, "%s", problems->error[i]);
}

int
server_check(const char *path)
{
	struct config_problems problems;
	struct config *cfg = server_load(path, &problems);
	struct runtime *rt = NULL;

	if (cfg != NULL) {
		server_check_host(cfg, &problems);
		rt = runtime_new(cfg, NULL, NULL, 0, &problems);
	}
	server_report(&problems);
	config_problems_clear(&problems);
	if (rt == NULL)
		return EX_CONFIG;
	summary_print(rt, server_threads(rt->cfg));
	runtime_discard(&rt);
	printf("configuration ok\n");
	return summary_flush();
}

/* Checks what a start needs of this host besides the files that the runtime
 * reads. A configuration may be checked on another host, so a missing user is
 * only a warning, and only for root. */
static void
server_check_host(const struct config *cfg, struct config_problems *problems)
{
	struct err err;

	if (geteuid() == 0)
		listen_check_user(cfg, problems, true);
	if (log_sink_check(cfg->server.log_target, &err) == -1)
		config_problem(cfg, problems, "server.log_target", "%s",
		    err.text);
}

int
server_dump(const char *path)
{
	struct config_problems problems;
	struct config *cfg = server_load(path, &problems);
	bool ok = cfg != NULL && problems.n_error == 0;

	server_report(&problems);
	config_problems_clear(&problems);
	if (ok)
		config_dump(cfg, stdout);
	config_free(&cfg);
	return ok ? summary_flush() : EX_CONFIG;
}

int
server_run(const char *path)
{
	struct server sv = {.path = path};
	struct config_problems problems;
	struct config *cfg;
	int status = EX_CONFIG;

	cfg = server_load(path, &problems);
	if (cfg == NULL)
		server_report(&problems);
	else
		status = server_start(&sv, cfg, &problems);
	config_problems_clear(&problems);
	if (status == EXIT_SUCCESS) {
		server_log_start(&sv, "ready");
		server_announce(&sv);
		server_stats_run(&sv);
		event_base_loop(sv.base, 0);
		server_stats(&sv);
		log_msg(LOG_INFO, "stopped");
	}
	server_clear(&sv);
	log_sink_flush();
	/* The thread of a reload may hang in a file, and still holds a part. */
	if (sv.reload != NULL)
		_exit(status);
	return status;
}

/* Returns the CPUs that the process may use, not those of the machine. */
static unsigned
server_threads(const struct config *cfg)
{
	cpu_set_t set;

	if (cfg->server.threads != 0)
		return cfg->server.threads;
	if (sched_getaffinity(0, sizeof(set), &set) == -1)
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

static int
server_workers(struct server *sv, unsigned n, struct err *err)
{
	sv->worker = calloc(n, sizeof(struct worker *));
	sv->runtime_worker = calloc(n, sizeof(*sv->runtime_worker));
	sv->empty = calloc(n, sizeof(*sv->empty));
	if (sv->worker == NULL || sv->runtime_worker == NULL ||
	    sv->empty == NULL)
		return err_set(err, "out of memory");
	for (; sv->n_workers < n; sv->n_workers++) {
		struct worker *w = worker_new((unsigned)sv->n_workers, err);

		if (w == NULL)
			return -1;
		sv->worker[sv->n_workers] = w;
		sv->runtime_worker[sv->n_workers].base = worker_base(w);
		sv->runtime_worker[sv->n_workers].mailbox = worker_mailbox(w);
		sv->runtime_worker[sv->n_workers].resolver = worker_resolver(w);
	}
	return 0;
}

/* Takes ownership of cfg. Returns an exit status. */
static int
server_start(struct server *sv, struct config *cfg,
    struct config_problems *problems)
{
	struct err err = {""};
	struct runtime *rt = NULL;
	int status = EX_OSERR;

	if (server_set_up(sv, cfg, &err) == -1) {
		config_free(&cfg);
		goto out;
	}
	rt =
	    runtime_new(cfg, NULL, sv->runtime_worker, sv->n_workers, problems);
	if (rt == NULL) {
		server_report(problems);
		status = EX_CONFIG;
		goto out;
	}
	cfg = rt->cfg;
	if (log_open(cfg->server.log_target, cfg->server.log_format,
		cfg->server.log_level, &err) == -1) {
		status = EX_CANTCREAT;
		goto out;
	}
	sv->logs = true;
	if (server_publish(sv, rt, problems) == -1) {
		server_report(problems);
		server_log_problems(problems);
		goto out;
	}
	rt = NULL;
	server_log_problems(problems);
	if (listen_drop_privileges(cfg, &err) == -1)
		status = EX_NOPERM;
	else if (server_go(sv, &err) == 0)
		status = EXIT_SUCCESS;
out:
	if (rt != NULL)
		runtime_discard(&rt);
	if (err.text[0] != '\0')
		server_failed(sv, &err);
	return status;
}

/* Makes everything that does not use the configuration yet. */
static int
server_set_up(struct server *sv, const struct config *cfg, struct err *err)
{
	listen_raise_limits();
	if (geteuid() == 0) {
		sv->user = strdup(cfg->server.user);
		sv->group = strdup(cfg->server.group);
	}
	sv->base = event_base_new();
	if (sv->base != NULL)
		sv->mailbox = mailbox_new(sv->base);
	if (sv->mailbox == NULL || !server_signals(sv))
		return err_set(err, "out of memory or descriptors");
	if (server_workers(sv, server_threads(cfg), err) == -1 ||
	    handed_from_environment(&sv->handed, err) == -1)
		return -1;
	return server_heart(sv) ? 0 : err_set(err, "out of memory");
}

/* Starts all threads. */
static int
server_go(struct server *sv, struct err *err)
{
	if (geteuid() == 0)
		log_msg(LOG_WARNING,
		    "running as root; set server.user to drop root");
	if (log_sink_start(err) == -1)
		return -1;
	for (size_t i = 0; i < sv->n_workers; i++)
		if (worker_start(sv->worker[i], err) == -1)
			return -1;
	return 0;
}

/* Also prints to the terminal, for a start by hand. */
static void
server_failed(const struct server *sv, const struct err *err)
{
	fprintf(stderr, "mailferry: %s\n", err->text);
	if (sv->logs)
		log_msg(LOG_ERR, "%s", err->text);
}

/* Hands the runtime to the workers. Returns -1 if it has added a problem;
 * nothing has then changed, and the caller still owns rt. */
static int
server_publish(struct server *sv, struct runtime *rt,
    struct config_problems *problems)
{
	struct binds_spec spec = {
	    .cfg = rt->cfg,
	    .old = sv->rt != NULL ? sv->rt->cfg : NULL,
	    .handed = &sv->handed,
	    .counts = &sv->counts,
	    .n_workers = sv->n_workers,
	};
	struct binds binds;

	if (binds_open(&binds, &spec, problems) == -1)
		return -1;
	runtime_publish(rt);
	for (size_t i = 0; i < sv->n_workers; i++) {
		if (worker_publish(sv->worker[i], rt->slice[i],
			binds_of(&binds, i), binds.n))
			continue;
		/* Out of memory: half a publication cannot be undone. */
		log_msg(LOG_ERR, "out of memory");
		log_sink_flush();
		abort();
	}
	binds_clear(&binds);
	handed_clear(&sv->handed);
	runtime_unref(&sv->rt);
	sv->rt = rt;
	sv->generation++;
	return 0;
}

static bool
server_signals(struct server *sv)
{
	static const struct {
		int sig;
		event_callback_fn cb;
	} rows[] = {
	    {SIGHUP, server_reload_cb},
	    {SIGUSR1, server_reopen_cb},
	    {SIGTERM, server_stop_cb},
	    {SIGINT, server_stop_cb},
	};
	struct timeval tick = {SERVER_TICK_S, 0};

	signal(SIGPIPE, SIG_IGN);
	_Static_assert(ARRAY_LEN(rows) == ARRAY_LEN(sv->signals), "rows");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		sv->signals[i] =
		    evsignal_new(sv->base, rows[i].sig, rows[i].cb, sv);
		if (sv->signals[i] == NULL ||
		    event_add(sv->signals[i], NULL) == -1)
			return false;
	}
	sv->tick = event_new(sv->base, -1, EV_PERSIST, server_tick_cb, sv);
	sv->delay = evtimer_new(sv->base, server_delay_cb, sv);
	sv->grace = evtimer_new(sv->base, server_grace_cb, sv);
	sv->stats = event_new(sv->base, -1, EV_PERSIST, server_stats_cb, sv);
	return sv->stats != NULL && sv->tick != NULL &&
	    event_add(sv->tick, &tick) == 0 && sv->grace != NULL &&
	    sv->delay != NULL;
}

static void
server_tick_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg UNUSED)
{
	tls_tickets_tick(clock_ms());
}

static void
server_reopen_cb(evutil_socket_t sig UNUSED, short what UNUSED,
    void *arg UNUSED)
{
	log_sink_reopen();
}

static void
server_reload_cb(evutil_socket_t sig UNUSED, short what UNUSED, void *arg)
{
	struct server *sv = arg;

	log_sink_reopen();
	if (sv->phase != SERVER_SERVES)
		return;
	/* What the one under way has read may be older than this signal. */
	if (sv->reload != NULL)
		sv->reload_again = true;
	else
		server_reload(sv);
}

static void
server_reload(struct server *sv)
{
	struct reload_spec spec = {
	    .path = sv->path,
	    .user = sv->user,
	    .group = sv->group,
	    .old = sv->rt,
	    .workers = sv->runtime_worker,
	    .n_workers = sv->n_workers,
	    .mailbox = sv->mailbox,
	    .done = server_built,
	    .arg = sv,
	};

	sv->announce = false;
	systemd_reloading("reloading");
	sv->reload = reload_start(&spec);
	if (sv->reload == NULL) {
		log_msg(LOG_ERR, "out of memory");
		server_announce(sv);
	}
}

/* Everything is read and made, or something is wrong. */
static void
server_built(void *arg)
{
	struct server *sv = arg;
	struct reload *r = sv->reload;

	sv->reload = NULL;
	if (sv->phase == SERVER_SERVES)
		server_take(sv, r);
	reload_free(&r);
	if (sv->reload_again && sv->phase == SERVER_SERVES) {
		sv->reload_again = false;
		server_reload(sv);
		return;
	}
	/* Also when it failed: the service goes on. */
	server_announce(sv);
}

static void
server_take(struct server *sv, struct reload *r)
{
	bool ok = r->rt != NULL && server_publish(sv, r->rt, &r->problems) == 0;

	server_log_problems(&r->problems);
	if (!ok) {
		server_not_reloaded(sv, &r->problems);
		return;
	}
	r->rt = NULL;
	server_reloaded(sv, &r->sink);
}

/* "Ready" is said when all workers have taken what was sent to them. */
static void
server_announce(struct server *sv)
{
	sv->announce = true;
	pulse_ask_anew(sv->pulse);
}

/* The service manager's status shows the first problem until a reload works. It
 * is one line of UTF-8. */
static void
server_not_reloaded(struct server *sv, const struct config_problems *problems)
{
	const char *why = problems->error[0];

	log_msg(LOG_ERR, "reload failed; the old configuration stays");
	log_escape_all(why, strlen(why), sv->failed, sizeof(sv->failed));
}

static void
server_reloaded(struct server *sv, struct log_sink **sink)
{
	const struct config_server *s = &sv->rt->cfg->server;

	log_use(sink, s->log_format, s->log_level);
	sv->failed[0] = '\0';
	sv->reloaded = time(NULL);
	if (server_threads(sv->rt->cfg) != sv->n_workers)
		server_log_waits("server.threads");
	if (reload_is_new(sv->user, s->user))
		server_log_waits("server.user");
	if (reload_is_new(sv->group, s->group))
		server_log_waits("server.group");
	server_stats_run(sv);
	sv->unsaid++;
}

static void
server_log_waits(const char *key)
{
	log_msg(LOG_WARNING, "%s takes effect at the next start", key);
}

/* The first signal begins server.drain_delay, during which balancers learn that
 * the host goes and clients are still served; the next one ends that, and
 * another one the drain. */
static void
server_stop_cb(evutil_socket_t sig, short what UNUSED, void *arg)
{
	struct server *sv = arg;
	const struct config_server *s = &sv->rt->cfg->server;
	struct timeval tv = clock_timeval(s->drain_delay);

	if (sv->phase == SERVER_DRAINS) {
		event_base_loopbreak(sv->base);
		return;
	}
	if (sv->phase == SERVER_LEAVES || s->drain_delay == 0) {
		server_drain(sv, (int)sig);
		return;
	}
	log_msg(LOG_INFO, "signal %d: listeners stay open for %llu ms",
	    (int)sig, (unsigned long long)s->drain_delay);
	server_enter(sv, SERVER_LEAVES, s->drain_delay + s->shutdown_grace);
	evtimer_add(sv->delay, &tv);
}

static void
server_delay_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	server_drain(arg, 0);
}

/* sig: 0 at the end of the delay. */
static void
server_drain(struct server *sv, int sig)
{
	uint64_t ms = sv->rt->cfg->server.shutdown_grace;
	struct timeval tv = clock_timeval(ms);

	evtimer_del(sv->delay);
	if (sig != 0)
		log_msg(LOG_INFO, "signal %d: draining for at most %llu ms",
		    sig, (unsigned long long)ms);
	else
		log_msg(LOG_INFO,
		    "drain_delay is over: draining for at most %llu ms",
		    (unsigned long long)ms);
	server_enter(sv, SERVER_DRAINS, ms);
	evtimer_add(sv->grace, &tv);
	for (size_t i = 0; i < sv->n_workers; i++) {
		sv->empty[i].server = sv;
		sv->empty[i].item.fn = server_count_empty;
		sv->empty[i].item.arg = sv;
		worker_drain(sv->worker[i], server_tell_empty, &sv->empty[i]);
	}
}

/* A manager that knows of a shorter time only would kill us. */
static void
server_enter(struct server *sv, enum server_phase phase, uint64_t ms)
{
	sv->phase = phase;
	server_status(sv, sv->status);
	systemd_stopping(ms + SERVER_STOP_MARGIN_MS, sv->status);
}

/* Another interval begins at once. One that has not changed goes on: reloads
 * may come more often than it ends. */
static void
server_stats_run(struct server *sv)
{
	uint64_t ms = sv->rt->cfg->server.stats_interval;
	struct timeval tv = clock_timeval(ms);

	if (ms == sv->stats_ms)
		return;
	sv->stats_ms = ms;
	evtimer_del(sv->stats);
	if (ms != 0)
		evtimer_add(sv->stats, &tv);
}

static void
server_stats_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	server_stats(arg);
}

/* Sessions: since the start. */
static void
server_stats(const struct server *sv)
{
	static const char *const names[] = {
	    [COUNT_CONNECTIONS] = "connections",
	    [COUNT_FULL] = "refused_full",
	    [COUNT_PER_IP] = "refused_per_ip",
	    [COUNT_LOGINS] = "logins",
	    [COUNT_FAILED] = "logins_failed",
	    [COUNT_THROTTLED] = "logins_throttled",
	    [COUNT_DEFERRED] = "logins_deferred",
	};
	struct cache_counters cache;
	struct log_line l;

	_Static_assert(ARRAY_LEN(names) == SESSION_COUNTS, "unnamed count");
	log_begin(&l, LOG_INFO, "statistics");
	log_uint(&l, "open", server_open(sv));
	for (int i = 0; i < SESSION_COUNTS; i++) {
		uint64_t n = 0;

		for (size_t w = 0; w < sv->n_workers; w++)
			n += worker_counted(sv->worker[w],
			    (enum session_count)i);
		log_uint(&l, names[i], n);
	}
	cache_count(sv->rt->cache, &cache);
	log_uint(&l, "cache_entries", cache.entries);
	log_uint(&l, "cache_hits", cache.hits);
	log_uint(&l, "cache_misses", cache.misses);
	log_uint(&l, "cache_waits", cache.waits);
	log_uint(&l, "cache_stale", cache.stale);
	log_uint(&l, "cache_failed", cache.failed);
	log_uint(&l, "cache_evicted", cache.evicted);
	log_uint(&l, "log_lines_lost", log_sink_lost());
	log_end(&l);
}

/* Asks the workers so often that a worker may be late by half of the service
 * manager's time. */
static bool
server_heart(struct server *sv)
{
	uint64_t us = systemd_watchdog();
	struct timeval tv = clock_timeval(SERVER_STATUS_S * 1000);
	struct mailbox **boxes = calloc(sv->n_workers, sizeof(*boxes));

	if (boxes == NULL)
		return false;
	for (size_t i = 0; i < sv->n_workers; i++)
		boxes[i] = worker_mailbox(sv->worker[i]);
	sv->pulse =
	    pulse_new(sv->mailbox, boxes, sv->n_workers, server_beat, sv);
	free(boxes);
	if (sv->pulse == NULL)
		return false;
	if (!systemd_is_there())
		return true;
	sv->watched = us > 0;
	if (sv->watched && us / 1000 / 4 < SERVER_STATUS_S * 1000)
		tv = clock_timeval(us / 1000 / 4 + 1);
	sv->beat = event_new(sv->base, -1, EV_PERSIST, server_beat_cb, sv);
	return sv->beat != NULL && event_add(sv->beat, &tv) == 0;
}

static void
server_beat_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct server *sv = arg;

	pulse_ask(sv->pulse);
}

/* Every worker has answered, and has taken what was published before. So
 * "reloaded" in the log is true for all workers. */
static void
server_beat(void *arg)
{
	struct server *sv = arg;
	char text[SERVER_STATUS_MAX];

	for (; sv->unsaid > 0; sv->unsaid--)
		server_log_start(sv, "reloaded");
	if (sv->watched)
		systemd_ping();
	server_status(sv, text);
	if (sv->announce && sv->phase == SERVER_SERVES)
		sv->announce = !systemd_ready(text);
	else if (strcmp(text, sv->status) != 0)
		systemd_status(text);
	memcpy(sv->status, text, sizeof(text));
}

/* Connections that are there now. */
static unsigned
server_open(const struct server *sv)
{
	const struct worker_count *c;
	unsigned n = 0;

	LL_FOREACH (sv->counts, c)
		n += atomic_load(&c->connections);
	return n;
}

static void
server_status(const struct server *sv, char text[SERVER_STATUS_MAX])
{
	unsigned n = server_open(sv);
	char when[40] = "";
	struct tm tm;

	if (sv->phase != SERVER_SERVES) {
		snprintf(text, SERVER_STATUS_MAX, "%s: %u connections",
		    sv->phase == SERVER_LEAVES ? "leaving" : "draining", n);
		return;
	}
	if (sv->reloaded != 0 && gmtime_r(&sv->reloaded, &tm) != NULL)
		strftime(when, sizeof(when), ", reloaded %Y-%m-%dT%H:%M:%SZ",
		    &tm);
	snprintf(text, SERVER_STATUS_MAX,
	    "%s%s%s%sserving generation %u%s: %zu listeners, %zu workers, "
	    "%u connections",
	    sv->reload != NULL ? "reloading; " : "",
	    sv->failed[0] != '\0' ? "reload failed: " : "", sv->failed,
	    sv->failed[0] != '\0' ? "; " : "", sv->generation, when,
	    sv->rt->cfg->n_listener, sv->n_workers, n);
}

/* Called on the worker's thread, possibly more than once; only the first
 * counts. */
static void
server_tell_empty(void *arg)
{
	struct server_empty *empty = arg;

	if (!empty->said)
		mailbox_post(empty->server->mailbox, &empty->item);
	empty->said = true;
}

static void
server_count_empty(void *arg)
{
	struct server *sv = arg;

	if (++sv->n_empty == sv->n_workers)
		event_base_loopbreak(sv->base);
}

static void
server_grace_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct server *sv = arg;

	log_msg(LOG_WARNING,
	    "shutdown_grace is over: closing the remaining sessions");
	event_base_loopbreak(sv->base);
}

static void
server_clear(struct server *sv)
{
	struct worker_count *c, *tmp;

	pulse_stop(sv->pulse);
	for (size_t i = 0; i < sv->n_workers; i++)
		worker_stop(sv->worker[i]);
	for (size_t i = 0; i < sv->n_workers; i++)
		worker_end(sv->worker[i]);
	if (sv->reload != NULL)
		return;
	for (size_t i = 0; i < sv->n_workers; i++)
		worker_free(&sv->worker[i]);
	runtime_unref(&sv->rt);
	for (size_t i = 0; i < ARRAY_LEN(sv->signals); i++)
		if (sv->signals[i] != NULL)
			event_free(sv->signals[i]);
	if (sv->tick != NULL)
		event_free(sv->tick);
	if (sv->delay != NULL)
		event_free(sv->delay);
	if (sv->grace != NULL)
		event_free(sv->grace);
	if (sv->beat != NULL)
		event_free(sv->beat);
	if (sv->stats != NULL)
		event_free(sv->stats);
	mailbox_free(&sv->mailbox);
	pulse_free(&sv->pulse);
	handed_clear(&sv->handed);
	LL_FOREACH_SAFE (sv->counts, c, tmp)
		free(c);
	free(sv->worker);
	free(sv->runtime_worker);
	free(sv->empty);
	free(sv->user);
	free(sv->group);
	if (sv->base != NULL)
		event_base_free(sv->base);
}

static void
server_log_start(const struct server *sv, const char *what)
{
	const struct config *cfg = sv->rt->cfg;
	struct log_line l;

	log_begin(&l, LOG_INFO, "%s", what);
	log_cstr(&l, "version", MAILFERRY_VERSION);
	log_uint(&l, "generation", sv->generation);
	log_uint(&l, "workers", sv->n_workers);
	log_uint(&l, "listeners", cfg->n_listener);
	log_uint(&l, "destinations", cfg->n_destination);
	log_end(&l);
}
