/* pg_link.c: see pg_link.h.
 *
 * libpq would resolve names with a getaddrinfo() that blocks. So this file
 * resolves the name and passes its addresses as hostaddr besides the name;
 * sslmode=verify-full still checks the name. */

#include "pg_link.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>

#include "platform/addr.h"
#include "net/resolver.h"

#define PG_OPTIONS_MAX 128
#define PG_HOSTS_MAX 4096

struct pg_link {
	const struct pg_server *server;
	const struct store_spec *spec;
	const struct pg_link_events *events;
	void *arg;
	struct resolver_query *query;
	PGconn *pg;
	struct event *ev; /* remade as the descriptor or its events change */
	bool connected;
	bool busy; /* with a command */
	char reason[256];
};

static const char *pg_option(const PQconninfoOption *options,
    const char *keyword);
static void pg_first_line(char *text);
static void pg_link_resolve(struct pg_link *l);
static void pg_link_resolved(void *arg, const struct addr *addrs, size_t n,
    const char *reason);
static void pg_link_connect(struct pg_link *l, const char *hostaddr,
    const char *host);
static bool pg_link_await(struct pg_link *l, short what);
static bool pg_link_push(struct pg_link *l);
static void pg_link_event_cb(evutil_socket_t fd, short what, void *arg);
static void pg_link_poll(struct pg_link *l);
static void pg_link_read(struct pg_link *l);
static bool pg_link_is_over(const struct pg_link *l, const PGresult *res);
static void pg_link_over(struct pg_link *l);
static bool pg_is_copy(const PGresult *res);
static void pg_link_fail(struct pg_link *l, const char *reason);
static void pg_link_notice(void *arg, const char *text);

static const char *
pg_option(const PQconninfoOption *options, const char *keyword)
{
	for (; options->keyword != NULL; options++)
		if (strcmp(options->keyword, keyword) == 0)
			return options->val;
	return NULL;
}

static void
pg_first_line(char *text)
{
	text[strcspn(text, "\r\n")] = '\0';
}

int
pg_server_init(struct pg_server *s, const struct config *cfg, struct err *err)
{
	struct addr literal;
	const char *host, *port;

	memset(s, 0, sizeof(*s));
	/* libpq's message would quote the URL. */
	s->options = PQconninfoParse(cfg->mapping.sql_url, NULL);
	if (s->options == NULL)
		return err_set(err,
		    "malformed, or a parameter that libpq does not know");
	port = pg_option(s->options, "port");
	if (port != NULL && port[strspn(port, "0123456789,")] != '\0') {
		pg_server_clear(s);
		return err_set(err, "the port is not a number");
	}
	host = pg_option(s->options, "host");
	if (host == NULL || *host == '\0' || *host == '/' || *host == '@' ||
	    pg_option(s->options, "hostaddr") != NULL ||
	    addr_parse_ip(host, &literal))
		return 0;
	if (strchr(host, ',') != NULL) {
		pg_server_clear(s);
		return err_set(err,
		    "several hosts without hostaddr; expected their addresses");
	}
	s->host = host;
	return 0;
}

bool
pg_server_is_safe(const struct pg_server *s)
{
	const char *host = pg_option(s->options, "host");
	const char *mode = pg_option(s->options, "sslmode");

	if (mode != NULL && strncmp(mode, "verify-", strlen("verify-")) == 0)
		return true;
	if (host == NULL || *host == '\0')
		host = pg_option(s->options, "hostaddr");
	return host == NULL || *host == '\0' || *host == '/' || *host == '@' ||
	    store_is_loopback(host);
}

void
pg_server_clear(struct pg_server *s)
{
	PQconninfoFree(s->options);
	s->options = NULL;
	s->host = NULL;
}

struct pg_link *
pg_link_new(const struct pg_server *server, const struct store_spec *spec,
    const struct pg_link_events *events, void *arg)
{
	struct pg_link *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return NULL;
	l->server = server;
	l->spec = spec;
	l->events = events;
	l->arg = arg;
	return l;
}

void
pg_link_free(struct pg_link **lp)
{
	struct pg_link *l = *lp;

	if (l == NULL)
		return;
	*lp = NULL;
	pg_link_stop(l);
	free(l);
}

void
pg_link_stop(struct pg_link *l)
{
	resolver_cancel(&l->query);
	if (l->ev != NULL)
		event_free(l->ev);
	l->ev = NULL;
	PQfinish(l->pg);
	l->pg = NULL;
	l->connected = l->busy = false;
}

PGconn *
pg_link_pg(struct pg_link *l)
{
	return l->pg;
}

/* The loop takes the first step, so nothing is called back from here. */
bool
pg_link_start(struct pg_link *l)
{
	assert(l->pg == NULL && l->ev == NULL && l->query == NULL);
	l->ev = event_new(l->spec->base, -1, EV_TIMEOUT, pg_link_event_cb, l);
	if (l->ev == NULL)
		return false;
	event_active(l->ev, EV_TIMEOUT, 0);
	return true;
}

static void
pg_link_resolve(struct pg_link *l)
{
	struct resolver_query *query = resolver_lookup(l->spec->resolver,
	    l->server->host, pg_link_resolved, l);

	/* NULL: it has called back already, and the link may be freed. */
	if (query != NULL)
		l->query = query;
}

static void
pg_link_resolved(void *arg, const struct addr *addrs, size_t n,
    const char *reason)
{
	struct pg_link *l = arg;
	char hostaddr[PG_HOSTS_MAX] = "", host[PG_HOSTS_MAX] = "";
	char ip[ADDR_TEXT_MAX];
	size_t len_addr = 0, len_host = 0;

	l->query = NULL;
	for (size_t i = 0; i < n; i++) {
		const char *comma = i > 0 ? "," : "";

		addr_ip(&addrs[i], ip);
		if (len_host + strlen(l->server->host) + 2 > sizeof(host) ||
		    len_addr + strlen(ip) + 2 > sizeof(hostaddr))
			break;
		len_addr +=
		    (size_t)sprintf(hostaddr + len_addr, "%s%s", comma, ip);
		len_host += (size_t)sprintf(host + len_host, "%s%s", comma,
		    l->server->host);
	}
	if (n == 0)
		pg_link_fail(l, reason);
	else
		pg_link_connect(l, hostaddr, host);
}

/* hostaddr, host: replace the URL's, unless NULL. */
static void
pg_link_connect(struct pg_link *l, const char *hostaddr, const char *host)
{
	/* libpq uses the last value of a keyword. So the keywords before the
	 * URL's are defaults, and those after it are fixed. */
	const char *keyword[PG_OPTIONS_MAX + 1], *value[PG_OPTIONS_MAX + 1];
	size_t n = 0;
	const PQconninfoOption *o;

#define PG_SET(k, v) (keyword[n] = (k), value[n] = (v), n++)
	PG_SET("keepalives_idle", "20");
	PG_SET("keepalives_interval", "10");
	PG_SET("keepalives_count", "2");
	PG_SET("tcp_user_timeout", "30000");
	PG_SET("fallback_application_name", "mailferry");
	for (o = l->server->options;
	     o->keyword != NULL && n < PG_OPTIONS_MAX - 4; o++)
		if (o->val != NULL)
			PG_SET(o->keyword, o->val);
	if (hostaddr != NULL) {
		PG_SET("hostaddr", hostaddr);
		PG_SET("host", host);
	}
	PG_SET("gssencmode", "disable"); /* it would block */
	PG_SET("client_encoding", "UTF8");
#undef PG_SET
	keyword[n] = value[n] = NULL;
	l->pg = PQconnectStartParams(keyword, value, 0);
	if (l->pg == NULL) {
		pg_link_fail(l, "out of memory");
		return;
	}
	PQsetNoticeProcessor(l->pg, pg_link_notice, NULL);
	if (PQstatus(l->pg) == CONNECTION_BAD)
		pg_link_fail(l, pg_link_reason(l));
	else if (!pg_link_await(l, EV_WRITE))
		pg_link_fail(l, "out of memory");
}

/* libpq would print them on stderr. */
static void
pg_link_notice(void *arg, const char *text)
{
	(void)arg;
	(void)text;
}

/* Once connected the descriptor stays, and so may the event. */
static bool
pg_link_await(struct pg_link *l, short what)
{
	if (l->connected && l->ev != NULL &&
	    event_get_events(l->ev) == (what | EV_PERSIST))
		return true;
	if (l->ev != NULL)
		event_free(l->ev);
	l->ev = event_new(l->spec->base, PQsocket(l->pg),
	    (short)(what | EV_PERSIST), pg_link_event_cb, l);
	return l->ev != NULL && event_add(l->ev, NULL) == 0;
}

static void
pg_link_event_cb(evutil_socket_t fd UNUSED, short what, void *arg)
{
	struct pg_link *l = arg;

	if (l->pg == NULL) {
		if (l->server->host == NULL)
			pg_link_connect(l, NULL, NULL);
		else
			pg_link_resolve(l);
	} else if (!l->connected) {
		pg_link_poll(l);
	} else if (what & EV_WRITE && !pg_link_push(l)) {
		pg_link_fail(l, pg_link_reason(l));
	} else if (what & EV_READ) {
		pg_link_read(l);
	}
}

static void
pg_link_poll(struct pg_link *l)
{
	switch (PQconnectPoll(l->pg)) {
	case PGRES_POLLING_READING:
		if (!pg_link_await(l, EV_READ))
			pg_link_fail(l, "out of memory");
		return;
	case PGRES_POLLING_WRITING:
		if (!pg_link_await(l, EV_WRITE))
			pg_link_fail(l, "out of memory");
		return;
	case PGRES_POLLING_OK:
		if (PQsetnonblocking(l->pg, 1) == -1 ||
		    !pg_link_await(l, EV_READ)) {
			pg_link_fail(l, "out of memory");
			return;
		}
		l->connected = true;
		l->events->ready(l->arg);
		return;
	case PGRES_POLLING_FAILED:
	case PGRES_POLLING_ACTIVE:
		pg_link_fail(l, pg_link_reason(l));
		return;
	}
}

bool
pg_link_flush(struct pg_link *l, int sent)
{
	l->busy = sent == 1;
	return l->busy && pg_link_push(l);
}

static bool
pg_link_push(struct pg_link *l)
{
	int left = PQflush(l->pg);

	if (left == -1)
		return false;
	return pg_link_await(l, left == 1 ? EV_READ | EV_WRITE : EV_READ);
}

/* Reads all results. The end of a command may free this link, so it is handled
 * last. */
static void
pg_link_read(struct pg_link *l)
{
	PGnotify *note;
	PGresult *res;

	if (PQconsumeInput(l->pg) == 0) {
		pg_link_fail(l, pg_link_reason(l));
		return;
	}
	while ((note = PQnotifies(l->pg)) != NULL) {
		l->events->notify(l->arg, note->extra);
		PQfreemem(note);
	}
	while (l->busy && !PQisBusy(l->pg)) {
		res = PQgetResult(l->pg);
		if (res != NULL && pg_is_copy(res)) {
			PQclear(res);
			pg_link_fail(l, "a COPY is no lookup");
			return;
		}
		if (pg_link_is_over(l, res)) {
			PQclear(res);
			pg_link_over(l);
			return;
		}
		if (res != NULL)
			l->events->result(l->arg, res);
	}
}

/* A pipeline ends with its sync; NULL separates its commands. */
static bool
pg_link_is_over(const struct pg_link *l, const PGresult *res)
{
	if (res == NULL)
		return PQpipelineStatus(l->pg) == PQ_PIPELINE_OFF ||
		    PQstatus(l->pg) == CONNECTION_BAD;
	return PQresultStatus(res) == PGRES_PIPELINE_SYNC;
}

static void
pg_link_over(struct pg_link *l)
{
	l->busy = false;
	if (PQstatus(l->pg) == CONNECTION_BAD ||
	    (PQpipelineStatus(l->pg) != PQ_PIPELINE_OFF &&
		PQexitPipelineMode(l->pg) == 0))
		pg_link_fail(l, pg_link_reason(l));
	else
		l->events->result(l->arg, NULL);
}

/* libpq repeats this until its data is read or sent. */
static bool
pg_is_copy(const PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	return status == PGRES_COPY_IN || status == PGRES_COPY_OUT ||
	    status == PGRES_COPY_BOTH;
}

const char *
pg_link_reason(struct pg_link *l)
{
	snprintf(l->reason, sizeof(l->reason), "%s", PQerrorMessage(l->pg));
	pg_first_line(l->reason);
	return l->reason;
}

static void
pg_link_fail(struct pg_link *l, const char *reason)
{
	char text[sizeof(l->reason)];

	snprintf(text, sizeof(text), "%s", reason);
	pg_link_stop(l);
	l->events->lost(l->arg, text);
}
