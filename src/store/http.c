/* http.c: routes from a web service: a GET for each identifier.
 *
 * libcurl does HTTP, keeps connections alive, resolves names in a thread of its
 * own and verifies https; its sockets and its timer are events of this file. It
 * follows no redirection and no proxy from the environment, so that routes come
 * only from the configured service. */

#include "store/store.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <utlist.h>

#include "platform/clock.h"
#include "proto/identifier.h"
#include "health.h"

#define HTTP_KEY "mapping.http.url"
#define HTTP_BODY_MAX 4096 /* a name, or a small JSON object */
#define HTTP_SPARE_MAX 64 /* handles that are kept after a flood */
#define HTTP_WORD "%u" /* what the identifier replaces */

/* A struct store_call of ours; kept for the next request when it is over. */
struct http_call {
	struct http_call *next, *prev;
	struct store *st;
	CURL *easy;
	uint64_t asked;
	store_done *done;
	void *arg;
	size_t len;
	char body[HTTP_BODY_MAX + 1];
};

struct store {
	struct store_spec spec;
	const struct config_mapping *m;
	CURLM *multi;
	struct event *timer;
	struct http_call *calls, *spare;
	size_t n_calls, n_spare;
	struct store_health health;
	uint64_t answered; /* when anything was, last */
};

static pthread_once_t http_once = PTHREAD_ONCE_INIT;

static void http_global_init(void);
static void store_http_check(const struct config *cfg,
    struct config_problems *problems);
static CURLUcode http_check_url(const char *url, bool *loopback_out);
static struct store *store_http_open(const struct store_spec *spec,
    struct err *err);
static void store_http_close(struct store *st);
static struct store_call *store_http_call(struct store *st,
    const struct store_request *rq);
static void store_http_cancel(struct store_call *handle);
static bool http_start(struct store *st);
static char *http_url(const char *pattern, const char *key);
static size_t http_escape(const char *text, char *out);
static struct http_call *http_call_new(struct store *st);
static bool http_call_setup(struct http_call *call);
static void http_call_over(struct http_call *call);
static void http_call_free(struct http_call *call);
static size_t http_body_cb(char *data, size_t size, size_t n, void *arg);
static int http_socket_cb(CURL *easy, curl_socket_t fd, int what, void *arg,
    void *socket_arg);
static int http_timer_cb(CURLM *multi, long ms, void *arg);
static void http_event_cb(evutil_socket_t fd, short what, void *arg);
static void http_timeout_cb(evutil_socket_t fd, short what, void *arg);
static void http_act(struct store *st, curl_socket_t fd, int what);
static void http_done(struct http_call *call, CURLcode code);
static bool http_destination(struct http_call *call, char *out, size_t size);

const struct store_kind store_http = {
    .name = "HTTP",
    .source = SOURCE_HTTP,
    .schemes = {"http://", "https://"},
    .key = HTTP_KEY,
    .value = offsetof(struct config_mapping, http_url),
    .check = store_http_check,
    .open = store_http_open,
    .close = store_http_close,
    .call = store_http_call,
    .cancel = store_http_cancel,
};

static void
http_global_init(void)
{
	curl_global_init(CURL_GLOBAL_ALL);
}

static void
store_http_check(const struct config *cfg, struct config_problems *problems)
{
	const char *pattern = cfg->mapping.http_url;
	char *url = http_url(pattern, "alice@example.com");
	CURLUcode code = CURLUE_OUT_OF_MEMORY;
	bool loopback = false;

	pthread_once(&http_once, http_global_init);
	if (strstr(pattern, HTTP_WORD) == NULL)
		config_problem(cfg, problems, HTTP_KEY,
		    "there is no placeholder for the identifier; expected a "
		    "URL with %s",
		    HTTP_WORD);
	if (url != NULL)
		code = http_check_url(url, &loopback);
	if (code != CURLUE_OK)
		config_problem(cfg, problems, HTTP_KEY, "malformed: %s",
		    curl_url_strerror(code));
	else if (strncmp(pattern, "http:", strlen("http:")) == 0 && !loopback)
		store_warn_unverified(cfg, problems, HTTP_KEY, "https://");
	free(url);
}

static CURLUcode
http_check_url(const char *url, bool *loopback_out)
{
	CURLU *parsed = curl_url();
	char *host = NULL, *bare;
	CURLUcode code = CURLUE_OUT_OF_MEMORY;

	if (parsed != NULL)
		code = curl_url_set(parsed, CURLUPART_URL, url, 0);
	if (code == CURLUE_OK)
		code = curl_url_get(parsed, CURLUPART_HOST, &host, 0);
	if (code == CURLUE_OK) {
		/* Brackets around IPv6. */
		bare = *host == '[' ? host + 1 : host;
		bare[strcspn(bare, "]")] = '\0';
		*loopback_out = store_is_loopback(bare);
	}
	curl_free(host);
	curl_url_cleanup(parsed);
	return code;
}

static struct store *
store_http_open(const struct store_spec *spec, struct err *err)
{
	struct store *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	pthread_once(&http_once, http_global_init);
	st->spec = *spec;
	st->m = &spec->cfg->mapping;
	st->health.name = store_http.name;
	return st;
}

static void
store_http_close(struct store *st)
{
	struct http_call *call, *next;

	DL_FOREACH_SAFE (st->calls, call, next) {
		curl_multi_remove_handle(st->multi, call->easy);
		DL_DELETE(st->calls, call);
		http_call_free(call);
	}
	DL_FOREACH_SAFE (st->spare, call, next) {
		DL_DELETE(st->spare, call);
		http_call_free(call);
	}
	if (st->multi != NULL)
		curl_multi_cleanup(st->multi);
	if (st->timer != NULL)
		event_free(st->timer);
	free(st);
}

/* On the worker's thread, before the first request. */
static bool
http_start(struct store *st)
{
	long share =
	    (long)store_share(st->m->http_pool_size, st->spec.n_workers);

	if (st->multi != NULL)
		return true;
	st->timer = evtimer_new(st->spec.base, http_timeout_cb, st);
	if (st->timer == NULL)
		return false;
	st->multi = curl_multi_init();
	if (st->multi == NULL) {
		event_free(st->timer);
		st->timer = NULL;
		return false;
	}
	curl_multi_setopt(st->multi, CURLMOPT_SOCKETFUNCTION, http_socket_cb);
	curl_multi_setopt(st->multi, CURLMOPT_SOCKETDATA, st);
	curl_multi_setopt(st->multi, CURLMOPT_TIMERFUNCTION, http_timer_cb);
	curl_multi_setopt(st->multi, CURLMOPT_TIMERDATA, st);
	curl_multi_setopt(st->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, share);
	curl_multi_setopt(st->multi, CURLMOPT_MAXCONNECTS, share);
	return true;
}

static struct store_call *
store_http_call(struct store *st, const struct store_request *rq)
{
	struct http_call *call;
	char *url;

	if (rq->verb != STORE_GET)
		return store_fail(rq, "read-only: it is a web service");
	if (!store_health_may_ask(&st->health, st->m->lookup_timeout))
		return store_fail(rq, st->health.reason);
	if (st->n_calls >= STORE_WAITING_MAX)
		return store_fail(rq, STORE_TOO_MANY);
	if (!http_start(st))
		return store_fail(rq, "out of memory");
	call = http_call_new(st);
	url = http_url(st->m->http_url, rq->key);
	if (call == NULL || url == NULL ||
	    curl_easy_setopt(call->easy, CURLOPT_URL, url) != CURLE_OK ||
	    curl_multi_add_handle(st->multi, call->easy) != CURLM_OK) {
		free(url);
		if (call != NULL)
			http_call_over(call);
		return store_fail(rq, "out of memory");
	}
	free(url);
	call->done = rq->done;
	call->arg = rq->arg;
	call->asked = clock_ms();
	return (struct store_call *)(void *)call;
}

/* The request took too long. If no other request got an answer meanwhile, the
 * service hangs. */
static void
store_http_cancel(struct store_call *handle)
{
	struct http_call *call = (struct http_call *)(void *)handle;
	struct store *st = call->st;

	curl_multi_remove_handle(st->multi, call->easy);
	if (st->answered < call->asked)
		store_health_failed(&st->health, "it does not answer");
	http_call_over(call);
}

/* Returns pattern with key, encoded, for each word. The caller calls free(). */
static char *
http_url(const char *pattern, const char *key)
{
	char escaped[3 * IDENTIFIER_MAX + 1];
	size_t len = http_escape(key, escaped), n = 0;
	char *url, *out;

	for (const char *p = pattern; (p = strstr(p, HTTP_WORD)) != NULL; p++)
		n++;
	url = out = malloc(strlen(pattern) + n * len + 1);
	if (url == NULL)
		return NULL;
	while (*pattern != '\0') {
		if (strncmp(pattern, HTTP_WORD, strlen(HTTP_WORD)) == 0) {
			memcpy(out, escaped, len);
			out += len;
			pattern += strlen(HTTP_WORD);
		} else {
			*out++ = *pattern++;
		}
	}
	*out = '\0';
	return url;
}

/* Writes all characters but RFC 3986's unreserved ones as %NN. */
static size_t
http_escape(const char *text, char *out)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-._~";
	size_t len = 0;

	for (; *text != '\0' && len < 3 * IDENTIFIER_MAX; text++) {
		if (strchr(plain, *text) != NULL)
			out[len++] = *text;
		else
			len += (size_t)sprintf(out + len, "%%%02X",
			    (unsigned char)*text);
	}
	out[len] = '\0';
	return len;
}

/* Returns a new call in st->calls, with a handle that has everything but the
 * URL. */
static struct http_call *
http_call_new(struct store *st)
{
	struct http_call *call = st->spare;

	if (call != NULL) {
		DL_DELETE(st->spare, call);
		st->n_spare--;
	} else {
		call = calloc(1, sizeof(*call));
		if (call == NULL)
			return NULL;
		call->st = st;
		if (!http_call_setup(call)) {
			http_call_free(call);
			return NULL;
		}
	}
	call->len = 0;
	DL_APPEND(st->calls, call);
	st->n_calls++;
	return call;
}

static bool
http_call_setup(struct http_call *call)
{
	const struct config_mapping *m = call->st->m;
	CURL *easy = call->easy = curl_easy_init();

	if (easy == NULL)
		return false;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, http_body_cb);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	/* A cancelled request does not wait for the thread that resolves its
	 * name. */
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
	    (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT,
	    "mailferry/" MAILFERRY_VERSION);
	curl_easy_setopt(easy, CURLOPT_MAXFILESIZE, (long)HTTP_BODY_MAX);
	if (*m->http_ca_file != '\0')
		curl_easy_setopt(easy, CURLOPT_CAINFO, m->http_ca_file);
	return true;
}

static void
http_call_over(struct http_call *call)
{
	struct store *st = call->st;

	DL_DELETE(st->calls, call);
	st->n_calls--;
	if (st->n_spare >= HTTP_SPARE_MAX) {
		http_call_free(call);
		return;
	}
	DL_APPEND(st->spare, call);
	st->n_spare++;
}

static void
http_call_free(struct http_call *call)
{
	curl_easy_cleanup(call->easy);
	free(call);
}

static size_t
http_body_cb(char *data, size_t size, size_t n, void *arg)
{
	struct http_call *call = arg;

	if (size * n > HTTP_BODY_MAX - call->len)
		return 0; /* an error */
	memcpy(call->body + call->len, data, size * n);
	call->len += size * n;
	return size * n;
}

/* libcurl wants events of fd. */
static int
http_socket_cb(CURL *easy UNUSED, curl_socket_t fd, int what, void *arg,
    void *socket_arg)
{
	struct store *st = arg;
	struct event *ev = socket_arg;
	short events = EV_PERSIST;

	if (ev != NULL)
		event_free(ev);
	curl_multi_assign(st->multi, fd, NULL);
	if (what == CURL_POLL_REMOVE)
		return 0;
	if (what & CURL_POLL_IN)
		events |= EV_READ;
	if (what & CURL_POLL_OUT)
		events |= EV_WRITE;
	ev = event_new(st->spec.base, fd, events, http_event_cb, st);
	if (ev == NULL || event_add(ev, NULL) == -1) {
		if (ev != NULL)
			event_free(ev);
		return -1;
	}
	curl_multi_assign(st->multi, fd, ev);
	return 0;
}

static int
http_timer_cb(CURLM *multi UNUSED, long ms, void *arg)
{
	struct store *st = arg;
	struct timeval tv = clock_timeval(ms > 0 ? (uint64_t)ms : 0);

	if (ms < 0)
		evtimer_del(st->timer);
	else
		evtimer_add(st->timer, &tv);
	return 0;
}

static void
http_event_cb(evutil_socket_t fd, short what, void *arg)
{
	int bits = (what & EV_READ ? CURL_CSELECT_IN : 0) |
	    (what & EV_WRITE ? CURL_CSELECT_OUT : 0);

	http_act(arg, fd, bits);
}

static void
http_timeout_cb(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
	http_act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static void
http_act(struct store *st, curl_socket_t fd, int what)
{
	struct http_call *call;
	CURLMsg *msg;
	CURLcode code;
	int running, left;
	char *private = NULL;

	curl_multi_socket_action(st->multi, fd, what, &running);
	while ((msg = curl_multi_info_read(st->multi, &left)) != NULL) {
		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private);
		call = (struct http_call *)(void *)private;
		code = msg->data.result;
		curl_multi_remove_handle(st->multi, call->easy);
		http_done(call, code);
	}
}

static void
http_done(struct http_call *call, CURLcode code)
{
	struct store *st = call->st;
	store_done *done = call->done;
	void *arg = call->arg;
	char text[HTTP_BODY_MAX + 1] = "";
	enum store_result result = STORE_FAILED;
	long status = 0;

	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code == CURLE_WRITE_ERROR || code == CURLE_FILESIZE_EXCEEDED)
		snprintf(text, sizeof(text), "its answer is too long");
	else if (code != CURLE_OK)
		snprintf(text, sizeof(text), "%s", curl_easy_strerror(code));
	else if (status == 404)
		result = STORE_UNKNOWN;
	else if (status != 200)
		snprintf(text, sizeof(text), "status %ld", status);
	else if (http_destination(call, text, sizeof(text)))
		result = STORE_FOUND;
	else
		snprintf(text, sizeof(text), "no destination in its answer");
	if (code == CURLE_OK || code == CURLE_WRITE_ERROR ||
	    code == CURLE_FILESIZE_EXCEEDED) {
		store_health_well(&st->health);
		st->answered = clock_ms();
	} else if (st->answered < call->asked) {
		store_health_failed(&st->health, text);
	}
	http_call_over(call);
	done(arg, result, result == STORE_UNKNOWN ? NULL : text);
}

/* Parses one name, or {"destination": "name"}. Everything else is an error: an
 * error page, for example, must not route anybody. */
static bool
http_destination(struct http_call *call, char *out, size_t size)
{
	static const char blank[] = " \t\r\n";
	static const char name[] = "abcdefghijklmnopqrstuvwxyz"
				   "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	const char *word = call->body;
	json_t *json = NULL;
	size_t len;
	bool one;

	call->body[call->len] = '\0';
	one = strlen(word) == call->len;
	word += strspn(word, blank);
	if (one && *word == '{') {
		json = json_loads(word, 0, NULL);
		word = json_string_value(json_object_get(json, "destination"));
	}
	if (word == NULL)
		word = "";
	len = strspn(word, name);
	one = one && len > 0 && word[len + strspn(word + len, blank)] == '\0';
	snprintf(out, size, "%.*s", (int)len, word);
	json_decref(json);
	return one;
}
