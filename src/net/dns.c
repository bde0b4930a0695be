/* dns.c: c-ares on a libevent loop.
 *
 * It asks the next name server when one refuses, fails or is silent, and asks
 * again by TCP when an answer is cut: libevent's own resolver does not.
 *
 * Each question has a channel of its own. Questions of one channel share a
 * socket, where c-ares 1.18 takes the ICMP error of one ("refused") for that of
 * another, and lets the first one wait for its timeout. It also gives each one
 * a port of its own, and the newest resolv.conf. */

#include "dns.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ares.h>
#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "platform/util.h"

/* A backend that cannot be resolved should say so before backend_timeout (10 s)
 * is over. c-ares waits twice as long in each further round. */
#define DNS_TIMEOUT_MS 1000
#define DNS_TRIES_ONE 3 /* 1 + 2 + 4 s */
#define DNS_TRIES 2 /* per server: two take 2 + 4 s */
#define DNS_SERVERS_MAX 8
#define DNS_TURN_MS (5 * 60 * 1000) /* then the first one may be back */
#define DNS_EDNS_SIZE 1232 /* no fragments (DNS flag day 2020) */
#define DNS_CONF_MAX 65536

/* RFC 1035, RFC 3596 */
#define DNS_PORT 53
#define DNS_IN 1
#define DNS_A 1
#define DNS_AAAA 28

struct dns_socket {
	struct dns_socket *next;
	ares_socket_t fd;
	struct event *event;
};

struct dns_question {
	struct event_base *base;
	ares_channel channel;
	struct event *timer;
	struct dns_socket *sockets;
	struct dns_turn *turn;
	unsigned n_servers, first; /* which was asked first */
	bool ipv6;
	bool answered; /* told once c-ares has returned */
	struct dns_answer answer;
	struct addr addr[RESOLVER_ADDRS_MAX];
	dns_done *done;
	void *arg;
};

/* What c-ares 1.18 does not read in resolv.conf. */
struct dns_conf {
	int timeout_ms, tries;
	unsigned n_servers; /* as written */
	struct addr server[DNS_SERVERS_MAX]; /* those that can be read here */
	unsigned n_read;
	bool ports; /* one has a port: "127.0.0.1:5353", "[::1]:5353" */
};

static bool dns_open(struct dns_question *q, const char *resolv_conf);
static bool dns_order(struct dns_question *q, const struct dns_conf *conf);
static bool dns_init(struct dns_question *q, const struct dns_conf *conf,
    const char *resolv_conf);
static void dns_conf_read(struct dns_conf *conf, const char *resolv_conf);
static void dns_conf_line(struct dns_conf *conf, char *line);
static void dns_conf_server(struct dns_conf *conf, const char *server);
static void dns_conf_option(struct dns_conf *conf, const char *option);
static void dns_socket_cb(void *arg, ares_socket_t fd, int readable,
    int writable);
static void dns_socket_free(struct dns_socket *s);
static void dns_event_cb(evutil_socket_t fd, short what, void *arg);
static void dns_timer_cb(evutil_socket_t fd, short what, void *arg);
static void dns_go_on(struct dns_question *q);
static void dns_answer_cb(void *arg, int status, int timeouts,
    unsigned char *data, int len);
static void dns_next_turn(struct dns_question *q);
static int dns_parse_ipv4(struct dns_question *q, const unsigned char *data,
    int len);
static int dns_parse_ipv6(struct dns_question *q, const unsigned char *data,
    int len);
static void dns_take(struct dns_question *q, const struct sockaddr *sa,
    socklen_t len, int ttl);
static void dns_judge(struct dns_answer *a, int status);

struct dns_question *
dns_ask(struct event_base *base, const char *resolv_conf, struct dns_turn *turn,
    const char *name, bool ipv6, dns_done *done, void *arg)
{
	struct dns_question *q = calloc(1, sizeof(*q));

	if (q == NULL)
		return NULL;
	q->base = base;
	q->turn = turn;
	q->first = (int64_t)clock_ms() < turn->until ? turn->first : 0;
	q->ipv6 = ipv6;
	q->done = done;
	q->arg = arg;
	q->answer.addr = q->addr;
	q->timer = evtimer_new(base, dns_timer_cb, q);
	if (q->timer == NULL || !dns_open(q, resolv_conf)) {
		dns_cancel(&q);
		return NULL;
	}
	ares_search(q->channel, name, DNS_IN, ipv6 ? DNS_AAAA : DNS_A,
	    dns_answer_cb, q);
	/* What is known already is told from the loop nevertheless. */
	if (q->answered)
		event_active(q->timer, EV_TIMEOUT, 0);
	else
		dns_go_on(q);
	return q;
}

void
dns_cancel(struct dns_question **qp)
{
	struct dns_question *q = *qp;
	struct dns_socket *s, *tmp;

	*qp = NULL;
	if (q == NULL)
		return;
	if (q->channel != NULL)
		ares_destroy(q->channel);
	LL_FOREACH_SAFE (q->sockets, s, tmp)
		dns_socket_free(s);
	if (q->timer != NULL)
		event_free(q->timer);
	free(q);
}

static bool
dns_open(struct dns_question *q, const char *resolv_conf)
{
	struct dns_conf conf;

	dns_conf_read(&conf, resolv_conf);
	q->n_servers = conf.n_servers;
	/* One that cannot be read is as one that is not there: 127.0.0.1. */
	return (dns_init(q, &conf, resolv_conf) ||
		   dns_init(q, &conf, "/dev/null")) &&
	    dns_order(q, &conf);
}

/* What c-ares has read in the file does, unless it does not know the ports, or
 * the first server is silent. */
static bool
dns_order(struct dns_question *q, const struct dns_conf *conf)
{
	char list[DNS_SERVERS_MAX * (ADDR_TEXT_MAX + 1) + 1] = "";
	char text[ADDR_TEXT_MAX];
	size_t len = 0;

	if (conf->n_read == 0 || conf->n_read != conf->n_servers ||
	    (q->first == 0 && !conf->ports))
		return true;
	for (unsigned i = 0; i < conf->n_read; i++) {
		const struct addr *a =
		    &conf->server[(q->first + i) % conf->n_read];

		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s",
		    i > 0 ? "," : "", addr_text(a, text));
	}
	return ares_set_servers_ports_csv(q->channel, list) == ARES_SUCCESS;
}

static bool
dns_init(struct dns_question *q, const struct dns_conf *conf,
    const char *resolv_conf)
{
	char path[4096], lookups[] = "b";
	struct ares_options o = {
	    .flags = ARES_FLAG_EDNS,
	    .timeout = conf->timeout_ms,
	    .tries = conf->tries,
	    .lookups = lookups, /* hosts(5) is hosts.c's */
	    .sock_state_cb = dns_socket_cb,
	    .sock_state_cb_data = q,
	    .ednspsz = DNS_EDNS_SIZE,
	    .resolvconf_path = path,
	};

	snprintf(path, sizeof(path), "%s", resolv_conf);
	return ares_init_options(&q->channel, &o,
		   ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
		       ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB |
		       ARES_OPT_EDNSPSZ | ARES_OPT_RESOLVCONF) == ARES_SUCCESS;
}

static void
dns_conf_read(struct dns_conf *conf, const char *resolv_conf)
{
	char line[1024];
	size_t size = 0;
	FILE *f = fopen(resolv_conf, "re");

	memset(conf, 0, sizeof(*conf));
	while (f != NULL && fgets(line, sizeof(line), f) != NULL &&
	    (size += strlen(line)) < DNS_CONF_MAX)
		dns_conf_line(conf, line);
	if (f != NULL)
		fclose(f);
	if (conf->timeout_ms == 0)
		conf->timeout_ms = DNS_TIMEOUT_MS;
	if (conf->tries == 0)
		conf->tries = conf->n_servers > 1 ? DNS_TRIES : DNS_TRIES_ONE;
}

static void
dns_conf_line(struct dns_conf *conf, char *line)
{
	char *save = NULL;
	const char *first = strtok_r(line, " \t\r\n", &save);
	const char *word = strtok_r(NULL, " \t\r\n", &save);

	if (first == NULL || word == NULL)
		return;
	if (strcmp(first, "nameserver") == 0)
		dns_conf_server(conf, word);
	else if (strcmp(first, "options") == 0)
		for (; word != NULL; word = strtok_r(NULL, " \t\r\n", &save))
			dns_conf_option(conf, word);
}

static void
dns_conf_server(struct dns_conf *conf, const char *server)
{
	struct addr *a = &conf->server[conf->n_read];

	conf->n_servers++;
	if (conf->n_read == DNS_SERVERS_MAX)
		return;
	if (addr_parse_ip(server, a))
		addr_set_port(a, DNS_PORT);
	else if (addr_parse(server, a))
		conf->ports = true;
	else
		return;
	conf->n_read++;
}

/* "timeout:2", "attempts:3"; bounded as in resolv.conf(5). */
static void
dns_conf_option(struct dns_conf *conf, const char *option)
{
	const char *colon = strchr(option, ':');
	long value = colon != NULL ? strtol(colon + 1, NULL, 10) : 0;

	if (value <= 0)
		return;
	if (strncmp(option, "timeout:", 8) == 0)
		conf->timeout_ms = 1000 * (int)(value < 30 ? value : 30);
	else if (strncmp(option, "attempts:", 9) == 0)
		conf->tries = (int)(value < 5 ? value : 5);
}

/* Its sockets and its time */

/* c-ares has opened a socket, waits for something else there, or closes it. */
static void
dns_socket_cb(void *arg, ares_socket_t fd, int readable, int writable)
{
	short what =
	    (short)((readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
	struct dns_question *q = arg;
	struct dns_socket *s;

	LL_FOREACH (q->sockets, s)
		if (s->fd == fd)
			break;
	if (s != NULL) {
		LL_DELETE(q->sockets, s);
		dns_socket_free(s);
	}
	if (what == 0)
		return;
	/* Without memory the question ends by its timeout. */
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return;
	s->fd = fd;
	s->event =
	    event_new(q->base, fd, (short)(what | EV_PERSIST), dns_event_cb, q);
	if (s->event == NULL || event_add(s->event, NULL) == -1)
		dns_socket_free(s);
	else
		LL_PREPEND(q->sockets, s);
}

static void
dns_socket_free(struct dns_socket *s)
{
	if (s->event != NULL)
		event_free(s->event);
	free(s);
}

static void
dns_event_cb(evutil_socket_t fd, short what, void *arg)
{
	struct dns_question *q = arg;

	ares_process_fd(q->channel, what & EV_READ ? fd : ARES_SOCKET_BAD,
	    what & EV_WRITE ? fd : ARES_SOCKET_BAD);
	dns_go_on(q);
}

static void
dns_timer_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	struct dns_question *q = arg;

	ares_process_fd(q->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	dns_go_on(q);
}

/* Not from c-ares: the answer may be there, and q gone afterwards. */
static void
dns_go_on(struct dns_question *q)
{
	struct timeval tv;

	if (q->answered) {
		q->done(q->arg, &q->answer);
		dns_cancel(&q);
	} else if (ares_timeout(q->channel, NULL, &tv) != NULL) {
		evtimer_add(q->timer, &tv);
	}
}

/* The answer */

static void
dns_answer_cb(void *arg, int status, int timeouts, unsigned char *data, int len)
{
	struct dns_question *q = arg;

	q->answered = true;
	if (timeouts > 0)
		dns_next_turn(q);
	if (status == ARES_SUCCESS)
		status = q->ipv6 ? dns_parse_ipv6(q, data, len)
				 : dns_parse_ipv4(q, data, len);
	dns_judge(&q->answer, status);
}

/* The one that was asked first has been silent. */
static void
dns_next_turn(struct dns_question *q)
{
	if (q->n_servers < 2)
		return;
	q->turn->first = (q->first + 1) % q->n_servers;
	q->turn->until = (int64_t)clock_ms() + DNS_TURN_MS;
}

static int
dns_parse_ipv4(struct dns_question *q, const unsigned char *data, int len)
{
	struct ares_addrttl got[RESOLVER_ADDRS_MAX];
	struct sockaddr_in in = {.sin_family = AF_INET};
	int n = RESOLVER_ADDRS_MAX;
	int status = ares_parse_a_reply(data, len, NULL, got, &n);

	for (int i = 0; status == ARES_SUCCESS && i < n; i++) {
		in.sin_addr = got[i].ipaddr;
		dns_take(q, (struct sockaddr *)&in, sizeof(in), got[i].ttl);
	}
	return status;
}

static int
dns_parse_ipv6(struct dns_question *q, const unsigned char *data, int len)
{
	struct ares_addr6ttl got[RESOLVER_ADDRS_MAX];
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	int n = RESOLVER_ADDRS_MAX;
	int status = ares_parse_aaaa_reply(data, len, NULL, got, &n);

	for (int i = 0; status == ARES_SUCCESS && i < n; i++) {
		memcpy(&in6.sin6_addr, &got[i].ip6addr, sizeof(in6.sin6_addr));
		dns_take(q, (struct sockaddr *)&in6, sizeof(in6), got[i].ttl);
	}
	return status;
}

static void
dns_take(struct dns_question *q, const struct sockaddr *sa, socklen_t len,
    int ttl)
{
	struct dns_answer *a = &q->answer;
	uint32_t seconds = ttl > 0 ? (uint32_t)ttl : 0;

	if (a->n == 0 || seconds < a->ttl)
		a->ttl = seconds;
	addr_set(&q->addr[a->n++], sa, len);
}

static void
dns_judge(struct dns_answer *a, int status)
{
	a->result = DNS_FAILED;
	switch (status) {
	case ARES_SUCCESS:
		a->result = a->n > 0 ? DNS_FOUND : DNS_NONE;
		a->reason = "the name has no address";
		break;
	case ARES_ENODATA:
		a->result = DNS_NONE;
		a->reason = "the name has no address";
		break;
	case ARES_ENOTFOUND:
	case ARES_EBADNAME:
		a->result = DNS_NONE;
		a->reason = "the name does not exist";
		break;
	case ARES_ECONNREFUSED:
		/* Also what c-ares makes of SERVFAIL and REFUSED from all. */
		a->reason = "every name server of resolv.conf refuses or fails";
		break;
	case ARES_ETIMEOUT:
		a->reason = "no name server of resolv.conf answers in time";
		break;
	default:
		a->reason = ares_strerror(status);
		break;
	}
}
