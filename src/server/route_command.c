/* route_command.c: shows how an identifier is routed, step by step. It uses the
 * daemon's own parts: one worker without a thread, whose loop runs until there
 * is an answer. */

#include "server/route_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <event2/event.h>

#include "config/config.h"
#include "platform/log.h"
#include "proto/identifier.h"
#include "service/route.h"
#include "service/runtime.h"
#include "store/store.h"
#include "summary.h"
#include "worker.h"

struct route_run {
	const struct route_command *cmd;
	struct runtime *rt;
	struct worker *worker;
	char key[IDENTIFIER_MAX + 1];
	bool over;
	int status;
};

static int route_open(struct route_run *run);
static bool route_identify(struct route_run *run);
static void route_wait(struct route_run *run);
static void route_end(struct route_run *run, int status);
static void route_ask(struct route_run *run);
static void route_asked(void *arg, const struct route_answer *answer);
static void route_write(struct route_run *run);
static void route_written(void *arg, const char *reason);
static void route_print_written(const struct config_mapping *m);
static void route_print_store(const struct route_run *run,
    const struct route_answer *answer);
static void route_print_failure(const struct route_answer *answer);
static void route_print_destination(const struct route_run *run, int i);
static void route_print(const char *what, const char *value);

int
route_command(const struct route_command *cmd)
{
	struct route_run run = {.cmd = cmd};
	struct runtime_slice *slice;

	run.status = route_open(&run);
	if (run.rt == NULL)
		return run.status;
	if (cmd->set != NULL || cmd->delete)
		route_write(&run);
	else if (route_identify(&run))
		route_ask(&run);
	slice = run.rt->slice[0];
	runtime_slice_leave(&slice);
	runtime_unref(&run.rt);
	worker_free(&run.worker);
	if (run.status != EXIT_SUCCESS)
		return run.status;
	return summary_flush();
}

static int
route_open(struct route_run *run)
{
	struct config_problems problems = {0};
	struct config *cfg = config_load(run->cmd->path, &problems);
	struct runtime_worker rw;
	struct err err = {""};

	run->worker = worker_new(0, &err);
	if (run->worker == NULL) {
		fprintf(stderr, "mailferry: %s\n", err.text);
		config_free(&cfg);
		config_problems_clear(&problems);
		return EX_OSERR;
	}
	rw.base = worker_base(run->worker);
	rw.mailbox = worker_mailbox(run->worker);
	rw.resolver = worker_resolver(run->worker);
	if (cfg != NULL)
		run->rt = runtime_new(cfg, NULL, &rw, 1, &problems);
	for (size_t i = 0; i < problems.n_error; i++)
		fprintf(stderr, "%s\n", problems.error[i]);
	config_problems_clear(&problems);
	if (run->rt != NULL)
		return EXIT_SUCCESS;
	worker_free(&run->worker);
	return EX_CONFIG;
}

/* The loop of the worker, which has no thread. */
static void
route_wait(struct route_run *run)
{
	while (!run->over)
		event_base_loop(worker_base(run->worker),
		    EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
}

static void
route_end(struct route_run *run, int status)
{
	run->status = status;
	run->over = true;
}

/* Makes the key from the name, as session.c does. */
static bool
route_identify(struct route_run *run)
{
	const struct config *cfg = run->rt->cfg;
	const char *name = run->cmd->identifier;
	const struct identifier_rules rules = config_identifier_rules(cfg);
	size_t len = strlen(name), cut = identifier_cut(&rules, name, len);

	route_print("identifier", name);
	switch (route_key(cfg, name, len, run->key)) {
	case IDENTIFIER_OK:
		break;
	case IDENTIFIER_EMPTY:
		run->key[0] = '\0';
		break;
	case IDENTIFIER_BAD:
		printf("refused       a control character, a space, a double "
		       "quote, or too long\n");
		route_end(run, EX_DATAERR);
		return false;
	}
	if (cut < len)
		route_print("master user", name + cut);
	route_print("looked up as", run->key[0] != '\0' ? run->key : "nobody");
	return true;
}

static void
route_ask(struct route_run *run)
{
	route_lookup(run->rt->slice[0]->router, run->key, route_asked, run);
	route_wait(run);
}

static void
route_asked(void *arg, const struct route_answer *answer)
{
	struct route_run *run = arg;

	route_print_store(run, answer);
	route_print("route", route_reason_name(answer->reason));
	if (answer->status == ROUTE_FAILED) {
		printf("destination   none: a login gets -ERR [SYS/TEMP] "
		       "(mapping.on_store_error)\n");
		route_end(run, EX_TEMPFAIL);
		return;
	}
	route_print_destination(run, answer->destination);
	route_end(run, EXIT_SUCCESS);
}

static void
route_print_store(const struct route_run *run,
    const struct route_answer *answer)
{
	const struct config *cfg = run->rt->cfg;
	const struct store_kind *kind = store_kind_find(&cfg->mapping);
	const char *domain = identifier_domain(run->key);
	bool both = domain != NULL && domain != run->key;
	char shown[LOG_FIELD_MAX * 4 + 8];

	printf("store         %s: ", kind->name);
	if (answer->status == ROUTE_FOUND)
		printf("has %s: %s\n",
		    log_escape(answer->key, strlen(answer->key), shown,
			sizeof(shown)),
		    cfg->destination[answer->destination].name);
	else if (run->key[0] == '\0')
		printf("not asked\n");
	else if (answer->key != NULL)
		route_print_failure(answer);
	else
		printf("does not know it%s%s\n", both ? ", nor " : "",
		    both ? log_escape(domain, strlen(domain), shown,
			       sizeof(shown))
			 : "");
}

static void
route_print_failure(const struct route_answer *answer)
{
	char shown[LOG_FIELD_MAX * 4 + 8];

	printf("%s %s%s\n",
	    answer->undeclared ? "has a destination that is not declared for"
			       : "failed for",
	    log_escape(answer->key, strlen(answer->key), shown, sizeof(shown)),
	    answer->status == ROUTE_DEFAULT
		? "; the default serves (mapping.on_store_error)"
		: "");
}

static void
route_print_destination(const struct route_run *run, int i)
{
	static const char *const tls[] = {
	    [TLS_IMPLICIT] = "implicit TLS",
	    [TLS_STARTTLS] = "STARTTLS",
	    [TLS_PLAIN] = "not encrypted",
	};
	const struct config *cfg = run->rt->cfg;
	const struct config_destination *d = &cfg->destination[i];

	printf("destination   %s%s\n", d->name,
	    strcmp(d->name, cfg->routing.default_destination) == 0
		? " (the default)"
		: "");
	printf("endpoint      ");
	summary_endpoint(d);
	printf(", %s, forwarding: %s\n", tls[d->pop3.tls],
	    summary_forwarding[d->pop3.forwarding]);
}

static void
route_print(const char *what, const char *value)
{
	printf("%-13s ", what);
	summary_text(value);
	printf("\n");
}

static void
route_write(struct route_run *run)
{
	route_change(run->rt->slice[0]->router, run->cmd->identifier,
	    run->cmd->set, route_written, run);
	route_wait(run);
}

static void
route_written(void *arg, const char *reason)
{
	struct route_run *run = arg;

	if (reason != NULL) {
		fprintf(stderr, "mailferry: %s\n", reason);
		route_end(run, EX_CANTCREAT);
		return;
	}
	route_print_written(&run->rt->cfg->mapping);
	route_end(run, EXIT_SUCCESS);
}

/* Without a channel nobody tells the daemons. */
static void
route_print_written(const struct config_mapping *m)
{
	bool told = (m->source == SOURCE_REDIS && *m->redis_channel != '\0') ||
	    (m->source == SOURCE_SQL && *m->sql_channel != '\0');
	bool whole = m->positive_ttl % 1000 == 0;

	if (store_kind_find(m)->local)
		printf("written; in effect after a reload (SIGHUP)\n");
	else if (told || m->positive_ttl == 0)
		printf("written\n");
	else
		printf("written; running daemons may keep the old answer for "
		       "%llu%s (mapping.positive_ttl)\n",
		    (unsigned long long)m->positive_ttl / (whole ? 1000 : 1),
		    whole ? "s" : "ms");
}
