/* worker.c: accepts connections and runs sessions.
 *
 * Everything here runs on the worker's own thread, except where the header says
 * otherwise. The main thread sends messages to its mailbox. */

#include "worker.h"

#include <errno.h>
#include <linux/filter.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <event2/listener.h>
#include <utlist.h>

#include "platform/clock.h"
#include "config/config.h"
#include "platform/log.h"
#include "net/mailbox.h"
#include "net/resolver.h"
#include "service/runtime.h"
#include "session/session.h"

#define WORKER_BACKLOG 4096
#define WORKER_RESOLV_CONF "/etc/resolv.conf"
#define WORKER_HOSTS "/etc/hosts"
#define WORKER_PAUSE_MS 200 /* pause of accept when descriptors are short */

struct worker_listener {
	struct worker_listener *next, *prev;
	struct worker *worker;
	struct evconnlistener *ev;
	struct addr addr;
	size_t listener;
	struct worker_count *count;
};

struct worker {
	unsigned index;
	pthread_t thread;
	bool started;
	struct event_base *base;
	struct mailbox *mailbox;
	struct session_env env;
	struct worker_listener *listeners;
	struct event *pause;
	struct mailbox_item drain, stop;
};

struct worker_news {
	struct mailbox_item item;
	struct worker *worker;
	struct runtime_slice *slice;
	size_t n;
	struct worker_bind bind[];
};

static void *worker_main(void *arg);
static void worker_take(void *arg);
static bool worker_stays(const struct worker_news *news,
    const struct worker_listener *l);
static bool worker_same(const struct addr *a, const struct addr *b);
static void worker_accept_rest(struct worker_listener *l);
static bool worker_listen(struct worker *w, const struct worker_bind *bind);
static void worker_unlisten(struct worker *w, struct worker_listener *l);
static void worker_accept_cb(struct evconnlistener *ev, evutil_socket_t fd,
    struct sockaddr *peer, int len, void *arg);
static void worker_full(struct worker_listener *l,
    const struct config_listener *cfg);
static void worker_error_cb(struct evconnlistener *ev, void *arg);
static void worker_pause_cb(evutil_socket_t fd, short what, void *arg);
static void worker_gone(void *arg);
static void worker_drain_now(void *arg);
static void worker_stop_now(void *arg);

struct worker *
worker_new(unsigned index, struct err *err)
{
	struct event_config *ec = event_config_new();
	struct worker *w = calloc(1, sizeof(*w));

	if (w == NULL || ec == NULL)
		goto fail;
	w->index = index;
	/* One thread per base, so it needs no locks. */
	event_config_set_flag(ec, EVENT_BASE_FLAG_NOLOCK);
	w->base = event_base_new_with_config(ec);
	if (w->base == NULL)
		goto fail;
	w->mailbox = mailbox_new(w->base);
	w->pause = evtimer_new(w->base, worker_pause_cb, w);
	w->env.base = w->base;
	w->env.mailbox = w->mailbox;
	w->env.resolver =
	    resolver_new(w->base, WORKER_RESOLV_CONF, WORKER_HOSTS);
	if (w->mailbox == NULL || w->pause == NULL || w->env.resolver == NULL)
		goto fail;
	if (session_env_init(&w->env, err) == -1)
		goto fail;
	event_config_free(ec);
	return w;
fail:
	err_set(err, "cannot set up a worker: out of memory or descriptors");
	if (ec != NULL)
		event_config_free(ec);
	worker_free(&w);
	return NULL;
}

struct event_base *
worker_base(struct worker *w)
{
	return w->base;
}

struct resolver *
worker_resolver(struct worker *w)
{
	return w->env.resolver;
}

struct mailbox *
worker_mailbox(struct worker *w)
{
	return w->mailbox;
}

uint64_t
worker_counted(const struct worker *w, enum session_count what)
{
	return atomic_load_explicit(&w->env.count[what], memory_order_relaxed);
}

int
worker_start(struct worker *w, struct err *err)
{
	sigset_t all, old;
	int error;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error != 0)
		return err_set(err, "cannot start a thread: %s",
		    strerror(error));
	w->started = true;
	return 0;
}

static void *
worker_main(void *arg)
{
	struct worker *w = arg;
	char name[16];

	snprintf(name, sizeof(name), "worker-%u", w->index % 1000);
	pthread_setname_np(pthread_self(), name);
	event_base_loop(w->base, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

bool
worker_publish(struct worker *w, struct runtime_slice *slice,
    const struct worker_bind *binds, size_t n)
{
	struct worker_news *news =
	    calloc(1, sizeof(*news) + n * sizeof(news->bind[0]));

	if (news == NULL)
		return false;
	news->item.fn = worker_take;
	news->item.arg = news;
	news->worker = w;
	news->slice = slice;
	news->n = n;
	memcpy(news->bind, binds, n * sizeof(news->bind[0]));
	mailbox_post(w->mailbox, &news->item);
	return true;
}

static void
worker_take(void *arg)
{
	struct worker_news *news = arg;
	struct worker *w = news->worker;
	struct worker_listener *l, *tmp;

	DL_FOREACH_SAFE (w->listeners, l, tmp) {
		if (worker_stays(news, l))
			continue;
		worker_accept_rest(l);
		worker_unlisten(w, l);
	}
	runtime_slice_leave(&w->env.slice);
	w->env.slice = news->slice;
	runtime_slice_begin(w->env.slice);
	for (size_t i = 0; i < news->n; i++)
		if (!worker_listen(w, &news->bind[i]))
			log_msg(LOG_ERR,
			    "out of memory: a listening socket is lost");
	free(news);
}

static bool
worker_stays(const struct worker_news *news, const struct worker_listener *l)
{
	for (size_t i = 0; i < news->n; i++)
		if (worker_same(&l->addr, &news->bind[i].addr))
			return true;
	return false;
}

static bool
worker_same(const struct addr *a, const struct addr *b)
{
	return addr_same_ip(a, b) && addr_port(a) == addr_port(b);
}

/* A close would reset clients that the kernel has already accepted. This makes
 * the kernel accept no more: clients try again a second later, and reach the
 * socket that takes over, if there is one. */
static void
worker_accept_rest(struct worker_listener *l)
{
	struct sock_filter drop = {BPF_RET | BPF_K, 0, 0, 0};
	struct sock_fprog filter = {1, &drop};
	evutil_socket_t own = evconnlistener_get_fd(l->ev);
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int fd;

	setsockopt(own, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter));
	while ((fd = accept4(own, (struct sockaddr *)&peer, &len,
		    SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1) {
		worker_accept_cb(l->ev, fd, (struct sockaddr *)&peer, (int)len,
		    l);
		len = sizeof(peer);
	}
}

/* Uses a new socket, or the existing one with a new listener. */
static bool
worker_listen(struct worker *w, const struct worker_bind *bind)
{
	struct worker_listener *l;

	DL_FOREACH (w->listeners, l)
		if (worker_same(&l->addr, &bind->addr))
			break;
	if (l == NULL) {
		l = calloc(1, sizeof(*l));
		if (l == NULL) {
			close(bind->fd);
			return false;
		}
		l->worker = w;
		l->addr = bind->addr;
		l->ev = evconnlistener_new(w->base, worker_accept_cb, l,
		    LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
		    0 /* it listens already */, bind->fd);
		if (l->ev == NULL) {
			close(bind->fd);
			free(l);
			return false;
		}
		evconnlistener_set_error_cb(l->ev, worker_error_cb);
		DL_APPEND(w->listeners, l);
	}
	l->listener = bind->listener;
	l->count = bind->count;
	return true;
}

static void
worker_unlisten(struct worker *w, struct worker_listener *l)
{
	DL_DELETE(w->listeners, l);
	evconnlistener_free(l->ev);
	free(l);
}

/* A full listener still replies, up to a bound: a client that gets [SYS/TEMP]
 * comes back, and a client that gets no reply reports an error. */
static void
worker_accept_cb(struct evconnlistener *ev UNUSED, evutil_socket_t fd,
    struct sockaddr *peer, int len, void *arg)
{
	struct worker_listener *l = arg;
	const struct config_listener *cfg =
	    &l->worker->env.slice->rt->cfg->listener[l->listener];
	unsigned n = atomic_fetch_add(&l->count->connections, 1);
	struct session_arrival a = {
	    .fd = fd,
	    .listener = l->listener,
	    .listener_name = l->count->name,
	    .brakes = &l->count->brakes,
	    .peer = peer,
	    .peer_len = (socklen_t)len,
	    .gone = worker_gone,
	    .gone_arg = l->count,
	};

	session_env_count(&l->worker->env, COUNT_CONNECTIONS);
	if (cfg->max_connections != 0 && n >= cfg->max_connections) {
		worker_full(l, cfg);
		a.full = true;
		if (n >= cfg->max_connections + cfg->max_connections / 8 + 16) {
			session_turn_away(cfg, fd);
			worker_gone(l->count);
			return;
		}
	}
	session_accept(&l->worker->env, &a);
}

static void
worker_full(struct worker_listener *l, const struct config_listener *cfg)
{
	struct log_line line;
	unsigned held;

	session_env_count(&l->worker->env, COUNT_FULL);
	if (!log_brake_pass(&l->count->brakes.full, clock_ms(), &held))
		return;
	log_begin(&line, LOG_WARNING, "connections are refused");
	log_cstr(&line, "listener", cfg->name);
	log_cstr(&line, "reason", "max_connections");
	log_uint(&line, "max_connections", cfg->max_connections);
	log_uint(&line, "more", held);
	log_end(&line);
}

static void
worker_gone(void *arg)
{
	struct worker_count *count = arg;

	atomic_fetch_sub(&count->connections, 1);
}

/* The event is level-triggered: without a pause it would be called again at
 * once while descriptors are short. */
static void
worker_error_cb(struct evconnlistener *ev UNUSED, void *arg)
{
	struct worker_listener *l = arg;
	struct worker *w = l->worker;
	struct timeval tv = {0, WORKER_PAUSE_MS * 1000};

	log_msg(LOG_ERR, "cannot accept connections: %s", strerror(errno));
	DL_FOREACH (w->listeners, l)
		evconnlistener_disable(l->ev);
	evtimer_add(w->pause, &tv);
}

static void
worker_pause_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct worker *w = arg;
	struct worker_listener *l;

	DL_FOREACH (w->listeners, l)
		evconnlistener_enable(l->ev);
}

void
worker_drain(struct worker *w, void (*empty)(void *arg), void *arg)
{
	w->env.empty = empty;
	w->env.arg = arg;
	w->drain.fn = worker_drain_now;
	w->drain.arg = w;
	mailbox_post(w->mailbox, &w->drain);
}

static void
worker_drain_now(void *arg)
{
	struct worker *w = arg;
	struct worker_listener *l, *tmp;

	DL_FOREACH_SAFE (w->listeners, l, tmp)
		worker_unlisten(w, l);
	evtimer_del(w->pause);
	session_drain(&w->env);
}

void
worker_stop(struct worker *w)
{
	if (!w->started)
		return;
	w->stop.fn = worker_stop_now;
	w->stop.arg = w;
	mailbox_post(w->mailbox, &w->stop);
	pthread_join(w->thread, NULL);
	w->started = false;
}

void
worker_end(struct worker *w)
{
	struct worker_listener *l, *tmp;

	w->env.empty = NULL;
	/* A session that ends may wake another one: messages come last. */
	session_env_clear(&w->env);
	mailbox_free(&w->mailbox);
	DL_FOREACH_SAFE (w->listeners, l, tmp)
		worker_unlisten(w, l);
}

void
worker_free(struct worker **wp)
{
	struct worker *w = *wp;

	if (w == NULL)
		return;
	*wp = NULL;
	worker_end(w);
	runtime_slice_leave(&w->env.slice);
	resolver_free(&w->env.resolver);
	if (w->pause != NULL)
		event_free(w->pause);
	if (w->base != NULL)
		event_base_free(w->base);
	free(w);
}

static void
worker_stop_now(void *arg)
{
	struct worker *w = arg;

	event_base_loopbreak(w->base);
}
