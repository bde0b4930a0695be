/* reload.c: reads all files and makes all of a runtime, on a thread of its own.
 *
 * Of what the workers use, this thread touches only counted references and
 * atomic words (destinations, the route cache). Event bases are only named to
 * what is built; nothing is added to them before the runtime is published. */

#include "reload.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "listen.h"
#include "net/mailbox.h"
#include "platform/err.h"
#include "platform/log_sink.h"
#include "service/runtime.h"

struct reload_job {
	struct reload_spec spec;
	struct mailbox_item item;
};

static void *reload_main(void *arg);
static void reload_host(struct reload *r, const struct config *cfg);

struct reload *
reload_start(const struct reload_spec *spec)
{
	struct reload *r = calloc(1, sizeof(*r));
	pthread_t thread;
	sigset_t all, old;
	int error;

	if (r == NULL)
		return NULL;
	r->job = calloc(1, sizeof(*r->job));
	if (r->job == NULL) {
		free(r);
		return NULL;
	}
	r->job->spec = *spec;
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = pthread_create(&thread, NULL, reload_main, r);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error == 0)
		pthread_detach(thread);
	else
		reload_main(r); /* late is better than not at all */
	return r;
}

static void *
reload_main(void *arg)
{
	struct reload *r = arg;
	const struct reload_spec *spec = &r->job->spec;
	struct config *cfg = config_load(spec->path, &r->problems);

	if (cfg != NULL) {
		reload_host(r, cfg);
		r->rt = runtime_new(cfg, spec->old, spec->workers,
		    spec->n_workers, &r->problems);
	}
	r->job->item.fn = spec->done;
	r->job->item.arg = spec->arg;
	mailbox_post(spec->mailbox, &r->job->item);
	return NULL;
}

/* What is needed of the host: the log, and the user of the next start, who may
 * be a new one. */
static void
reload_host(struct reload *r, const struct config *cfg)
{
	const struct reload_spec *spec = &r->job->spec;
	const struct config_server *s = &cfg->server;
	struct err err;

	if (reload_is_new(spec->user, s->user) ||
	    reload_is_new(spec->group, s->group))
		listen_check_user(cfg, &r->problems, false);
	r->sink = log_sink_open(s->log_target, &err);
	if (r->sink == NULL)
		config_problem(cfg, &r->problems, "server.log_target", "%s",
		    err.text);
}

bool
reload_is_new(const char *started, const char *now)
{
	return started != NULL && strcmp(started, now) != 0;
}

void
reload_free(struct reload **rp)
{
	struct reload *r = *rp;

	*rp = NULL;
	if (r->rt != NULL)
		runtime_discard(&r->rt);
	log_sink_free(&r->sink);
	config_problems_clear(&r->problems);
	free(r->job);
	free(r);
}
