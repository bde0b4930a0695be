/* test_config.c: the configuration file, every rule of it.
 *
 * config/NAME.yaml is a file, and config/NAME.told holds the lines that are
 * told about it, errors first: an operator has nothing else to go by. With
 * TOLD=write in the environment this program writes the lines instead of
 * comparing them; "git diff" then shows what a change says differently.
 * What no file can show (values, bounds, the environment) is below. */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "../../src/config/keys.h"
#include "../../src/config/types.h"
#include "../../src/config/yaml.h"
#include "config/config.h"

/* The least that is accepted, a line each. */
#define LISTENER "listener: {a: {bind: [\"127.0.0.1:1995\"]}}\n"
#define ROUTING "routing: {default_destination: d}\n"
#define DESTINATION \
	"destination: {d: {host: mail.test, protocol: {pop3: {}}}}\n"
#define BASE LISTENER ROUTING DESTINATION

#define TEN(s) s s s s s s s s s s
#define HUNDRED(s) TEN(TEN(s))

/* Good files, and the one field that shows how they were understood. */
struct value_case {
	const char *text;
	size_t offset; /* of a number in struct config */
	uint64_t value;
};
#define MS(f) offsetof(struct config, f)

static const struct value_case duration_cases[] = {
    {BASE "server: {backend_timeout: 1ms}\n", MS(server.backend_timeout), 1},
    {BASE "server: {backend_timeout: 90s}\n", MS(server.backend_timeout),
	90000},
    {BASE "server: {backend_timeout: \"2m\"}\n", MS(server.backend_timeout),
	120000},
    {BASE "server: {backend_timeout: 24h}\n", MS(server.backend_timeout),
	86400000},
    {BASE "server: {shutdown_grace: 7d}\n", MS(server.shutdown_grace),
	604800000},
    {BASE "server: {shutdown_grace: 0s}\n", MS(server.shutdown_grace), 0},
    {BASE "server: {auth_failure_delay: 0ms}\n", MS(server.auth_failure_delay),
	0},
    {BASE "server: {tcp_user_timeout: 0s}\n", MS(server.tcp_user_timeout), 0},
    {BASE "server: {socket_buffer: 4096}\n", MS(server.socket_buffer), 4096},
    {BASE "server: {socket_buffer: 64k}\n", MS(server.socket_buffer), 65536},
    {BASE "server: {socket_buffer: \"1m\"}\n", MS(server.socket_buffer),
	1048576},
    {BASE "server: {socket_buffer: 1g}\n", MS(server.socket_buffer),
	1073741824},
};

static struct config_problems problems;

static void
setup(void)
{
	static char text[6001];

	memset(text, 'l', sizeof(text) - 1);
	setenv("TEST_LONG", text, 1);
	setenv("TEST_SECRET", "sesame", 1);
	setenv("TEST_LATIN1", "\xe9", 1);
	setenv("TEST_EMPTY", "", 1);
	unsetenv("MAILFERRY_UNSET");
	unsetenv("MAILFERRY_ADMIN_TOKEN");
}

static void
teardown(void)
{
	config_problems_clear(&problems);
}

static struct config *
parse(const char *text)
{
	return config_parse("t", text, strlen(text), &problems);
}

/* All problems as one text. */
static const char *
told(void)
{
	static char text[65536];
	size_t len = 0, i;

	text[0] = '\0';
	for (i = 0; i < problems.n_error; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s",
		    len == 0 ? "" : "\n", problems.error[i]);
	for (i = 0; i < problems.n_warning; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "%swarning: %s", len == 0 ? "" : "\n", problems.warning[i]);
	ck_assert_uint_lt(len, sizeof(text));
	return text;
}

static struct config *
parse_good(const char *text)
{
	struct config *cfg = parse(text);

	ck_assert_str_eq(told(), "");
	ck_assert_ptr_nonnull(cfg);
	return cfg;
}

/* The whole of a file, terminated. */
static char *
slurp_path(const char *path, size_t *len_out)
{
	char *text = calloc(1, 1 << 20);
	FILE *f = fopen(path, "r");

	ck_assert_ptr_nonnull(text);
	ck_assert_msg(f != NULL, "%s", path);
	*len_out = fread(text, 1, (1 << 20) - 1, f);
	ck_assert_uint_lt(*len_out, (1 << 20) - 1);
	fclose(f);
	return text;
}

static char *
slurp(const char *name)
{
	char path[4096];
	size_t len;

	snprintf(path, sizeof(path), "%s/%s", SOURCE_DIR, name);
	return slurp_path(path, &len);
}

static struct config *
load(const char *name)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/%s", SOURCE_DIR, name);
	return config_load(path, &problems);
}

/* n times a piece of text between two others. */
static char *
many(const char *before, const char *piece, size_t n, const char *after)
{
	size_t size = strlen(before) + n * strlen(piece) + strlen(after) + 1;
	char *text = calloc(1, size);
	size_t len;

	ck_assert_ptr_nonnull(text);
	len = (size_t)snprintf(text, size, "%s", before);
	while (n-- > 0)
		len += (size_t)snprintf(text + len, size - len, "%s", piece);
	snprintf(text + len, size - len, "%s", after);
	return text;
}

static struct dirent **case_files;
static int n_case_files;

static int
case_is_file(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot != NULL && strcmp(dot, ".yaml") == 0;
}

/* The path of the case beside its file, with another suffix. */
static void
case_path(const char *file, const char *suffix, char *buf, size_t size)
{
	snprintf(buf, size, "%s/config/%.*s%s", TEST_DIR,
	    (int)(strrchr(file, '.') - file), file, suffix);
}

static void
case_write(const char *path)
{
	FILE *f = fopen(path, "w");

	ck_assert_msg(f != NULL, "%s", path);
	fprintf(f, "%s%s", told(), *told() == '\0' ? "" : "\n");
	fclose(f);
}

static void
case_compare(const char *path)
{
	size_t len;
	char *expected = slurp_path(path, &len);

	if (len > 0 && expected[len - 1] == '\n')
		expected[len - 1] = '\0';
	ck_assert_msg(strcmp(told(), expected) == 0,
	    "%s: these lines were told:\n%s\nbut expected:\n%s", path, told(),
	    expected);
	free(expected);
}

START_TEST(file_is_told)
{
	const char *file = case_files[_i]->d_name;
	const char *mode = getenv("TOLD");
	char path[4096], *text;
	struct config *cfg;
	size_t len;

	case_path(file, ".yaml", path, sizeof(path));
	text = slurp_path(path, &len);
	cfg = config_parse("t", text, len, &problems);
	case_path(file, ".told", path, sizeof(path));
	if (mode != NULL && strcmp(mode, "write") == 0)
		case_write(path);
	else
		case_compare(path);
	ck_assert_ptr_null(strstr(told(), "sesame"));
	config_free(&cfg);
	ck_assert_ptr_null(cfg);
	free(text);
}
END_TEST

START_TEST(number_is_read)
{
	const struct value_case *c = &duration_cases[_i];
	struct config *cfg = parse_good(c->text);
	uint64_t value;

	memcpy(&value, (const char *)cfg + c->offset, sizeof(value));
	ck_assert_uint_eq(value, c->value);
	config_free(&cfg);
}
END_TEST

START_TEST(contract_is_read)
{
	struct config *cfg = load("test/fuzz/corpus/config/contract.yaml");
	const struct config_server *s;
	const struct config_destination *d;
	char text[ADDR_TEXT_MAX];

	ck_assert_uint_eq(problems.n_error, 0);
	/* state, admin, and three stores that are not asked */
	ck_assert_uint_eq(problems.n_warning, 5);
	s = &cfg->server;
	ck_assert_uint_eq(s->threads, 0);
	ck_assert_str_eq(s->hostname, "mail.example.com");
	ck_assert_str_eq(s->user, "mailferry");
	ck_assert_str_eq(s->group, "");
	ck_assert_uint_eq(s->bridge_idle, 1800000);
	ck_assert_uint_eq(s->queue_timeout, 10000);
	ck_assert_uint_eq(s->drain_delay, 0);
	ck_assert_uint_eq(s->upgrade_grace, 3600000);
	ck_assert_int_eq(s->log_level, LOG_INFO);
	ck_assert_int_eq(s->log_format, LOG_TEXT);
	ck_assert_str_eq(s->log_target, "stderr");
	ck_assert_uint_eq(cfg->tls.n_certificate, 1);
	ck_assert_str_eq(cfg->tls.certificate[0].name, "primary");
	ck_assert_str_eq(cfg->tls.certificate[0].cert[0],
	    "/etc/mailferry/tls/fullchain.pem");
	ck_assert_uint_eq(cfg->tls.certificate[0].n_pair, 1);
	ck_assert_uint_eq(cfg->tls.certificate[0].n_subjects, 2);
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[1], "*.example.com");
	ck_assert(cfg->tls.certificate[0].is_default);
	ck_assert_uint_eq(cfg->n_listener, 1);
	ck_assert_uint_eq(cfg->listener[0].n_bind, 2);
	ck_assert_str_eq(addr_text(&cfg->listener[0].bind[1], text),
	    "[::]:995");
	ck_assert_uint_eq(cfg->pop3.n_mechanism, 4);
	ck_assert_int_eq(cfg->pop3.mechanism[2], SASL_OAUTHBEARER);
	ck_assert_str_eq(cfg->mapping.sql_query,
	    "SELECT destination FROM mailbox_routes WHERE identifier = ?");
	ck_assert_str_eq(cfg->mapping.http_url,
	    "http://127.0.0.1:8080/route?user=%u");
	ck_assert_uint_eq(cfg->n_destination, 1);
	d = &cfg->destination[0];
	ck_assert_str_eq(d->tls_server_name, "mail-old.example.com");
	ck_assert_int_eq(d->forwarding, FORWARD_XCLIENT);
	ck_assert_int_eq(d->pop3.forwarding, FORWARD_XCLIENT);
	ck_assert_int_eq(d->pop3.tls, TLS_STARTTLS);
	ck_assert_uint_eq(d->pop3.port, 110);
	ck_assert(!d->tls_pinned);
	ck_assert_int_eq(d->tls_min_version, TLS_V1_2);
	ck_assert(!d->tls_legacy);
	ck_assert_uint_eq(d->max_waiting, 1024);
	ck_assert_str_eq(cfg->routing.at_substitutes, "");
	ck_assert_int_eq(cfg->routing.guard, GUARD_WARN);
	ck_assert_int_eq(cfg->listener[0].profile, PROFILE_INTERMEDIATE);
	ck_assert_str_eq(cfg->state.path, "/var/lib/mailferry/state.db");
	ck_assert_uint_eq(cfg->state.keep, 400ULL * 86400 * 1000);
	ck_assert(cfg->admin.present);
	ck_assert_str_eq(cfg->admin.certificate, "primary");
	ck_assert_uint_eq(cfg->admin.n_allow, 0);
	ck_assert_uint_eq(cfg->admin.n_peers, 0);
	ck_assert_str_eq(addr_text(&cfg->admin.bind, text), "127.0.0.1:9443");
	ck_assert_str_eq(cfg->admin.socket, "/run/mailferry/control.sock");
	config_free(&cfg);
}
END_TEST

START_TEST(defaults_are_filled_in)
{
	struct config *cfg = parse_good(BASE);
	const struct config_listener *l = &cfg->listener[0];
	const struct config_destination *d = &cfg->destination[0];
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	ck_assert_str_eq(cfg->server.hostname, host);
	ck_assert_str_eq(cfg->server.user, "");
	ck_assert_uint_eq(cfg->server.backend_timeout, 10000);
	ck_assert_uint_eq(cfg->server.proxy_ttl, 7);
	ck_assert_uint_eq(cfg->limits.n_exempt, 0);
	ck_assert_uint_eq(cfg->limits.auth_failure_window, 600000);
	ck_assert_uint_eq(cfg->tls.n_certificate, 0);
	ck_assert_int_eq(cfg->tls.min_version, TLS_V1_2);
	ck_assert_int_eq(l->protocol, PROTOCOL_POP3);
	ck_assert_int_eq(l->tls, TLS_IMPLICIT);
	ck_assert_int_eq(l->proxy_protocol, PROXY_OFF);
	ck_assert_int_eq(l->min_version, TLS_V1_2);
	ck_assert_uint_eq(l->max_connections, 8192);
	ck_assert_str_eq(cfg->pop3.banner, "mailferry ready");
	ck_assert_str_eq(cfg->pop3.implementation, "mailferry");
	ck_assert_uint_eq(cfg->pop3.n_mechanism, 4);
	ck_assert_int_eq(cfg->pop3.mechanism[3], SASL_XOAUTH2);
	ck_assert_uint_eq(cfg->pop3.n_advertise, 5);
	ck_assert_str_eq(cfg->pop3.advertise[0], "TOP");
	ck_assert_str_eq(cfg->pop3.advertise[4], "PIPELINING");
	ck_assert_str_eq(cfg->jwt_username_claim, "email");
	ck_assert_uint_eq(cfg->routing.n_master_user_separators, 0);
	ck_assert_int_eq(cfg->mapping.normalize, NORMALIZE_LOWERCASE);
	ck_assert_int_eq(cfg->mapping.source, SOURCE_FILE);
	ck_assert_str_eq(cfg->mapping.file_path, "");
	ck_assert_uint_eq(cfg->mapping.cache_max_entries, 1000000);
	ck_assert_str_eq(cfg->mapping.redis_url, "");
	ck_assert_str_eq(cfg->mapping.redis_key_prefix, "route:");
	ck_assert_str_eq(d->tls_server_name, "mail.test");
	ck_assert_int_eq(d->pop3.tls, TLS_IMPLICIT);
	ck_assert_uint_eq(d->pop3.port, 995);
	ck_assert_int_eq(d->pop3.forwarding, FORWARD_XCLIENT);
	ck_assert_int_eq(d->pop3.auth, AUTH_AUTO);
	ck_assert_uint_eq(d->max_connecting, 32);
	ck_assert(!cfg->admin.present);
	config_free(&cfg);
}
END_TEST

START_TEST(bad_values_leave_defaults)
{
	struct config *cfg = parse(BASE
	    "server: {threads: x, backend_timeout: 0s, log_level: loud}\n"
	    "capabilities: {pop3: {sasl: none, advertise: none}}\n"
	    "tls: nothing\n"
	    "admin: {bind: x, socket: [a]}\n");

	ck_assert_uint_eq(problems.n_error, 8);
	ck_assert_uint_eq(cfg->server.threads, 0);
	ck_assert_uint_eq(cfg->server.backend_timeout, 10000);
	ck_assert_int_eq(cfg->server.log_level, LOG_INFO);
	ck_assert_uint_eq(cfg->pop3.n_mechanism, 4);
	ck_assert_uint_eq(cfg->pop3.n_advertise, 5);
	ck_assert_int_eq(cfg->tls.min_version, TLS_V1_2);
	ck_assert_uint_eq(cfg->admin.bind.len, 0);
	ck_assert_str_eq(cfg->admin.socket, "");
	config_free(&cfg);
}
END_TEST

START_TEST(leg_follows_its_destination)
{
	struct config *cfg = parse(LISTENER ROUTING
	    "destination:\n"
	    "  d: {host: d.test, protocol: {pop3: {tls: starttls}}}\n"
	    "  c: {host: c.test, forwarding: xclient,\n"
	    "      protocol: {pop3: {port: 1110}}}\n"
	    "  b: {host: b.test, proxy_protocol: false,\n"
	    "      protocol: {pop3: {forwarding: proxy}}}\n"
	    "  a: {host: 192.0.2.1, tls_allow_invalid_certs: true,\n"
	    "      proxy_protocol: false, protocol: {pop3: {}}}\n");
	const struct config_destination *d = cfg->destination;

	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(cfg->n_destination, 4);
	ck_assert_str_eq(d[0].name, "a");
	ck_assert_int_eq(d[0].pop3.forwarding, FORWARD_NONE);
	ck_assert_uint_eq(d[0].host_addr.len, sizeof(struct sockaddr_in));
	ck_assert_str_eq(d[0].tls_server_name, "192.0.2.1");
	ck_assert_int_eq(d[1].forwarding, FORWARD_NONE);
	ck_assert_int_eq(d[1].pop3.forwarding, FORWARD_PROXY);
	ck_assert_int_eq(d[2].pop3.forwarding, FORWARD_XCLIENT);
	ck_assert_uint_eq(d[2].pop3.port, 1110);
	ck_assert_uint_eq(d[2].host_addr.len, 0);
	ck_assert_uint_eq(d[3].pop3.port, 110);
	config_free(&cfg);
}
END_TEST

START_TEST(destination_is_found)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  new: {host: a.test, protocol: {pop3: {}}}\n"
	    "  d: {host: b.test, protocol: {pop3: {}}}\n"
	    "  new.2: {host: c.test, protocol: {pop3: {}}}\n");

	ck_assert_int_eq(config_destination_find(cfg, "d", 1), 0);
	ck_assert_int_eq(config_destination_find(cfg, "new", 3), 1);
	ck_assert_int_eq(config_destination_find(cfg, "new.2\tx", 5), 2);
	ck_assert_int_eq(config_destination_find(cfg, "ne", 2), -1);
	ck_assert_int_eq(config_destination_find(cfg, "new.", 4), -1);
	ck_assert_int_eq(config_destination_find(cfg, "New", 3), -1);
	ck_assert_int_eq(config_destination_find(cfg, "", 0), -1);
	ck_assert_int_eq(config_destination_find(cfg, "d\0dddddd", 8), -1);
	config_free(&cfg);
}
END_TEST

START_TEST(leg_without_name_check_needs_no_name)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d:\n"
	    "    host: \"2001:db8::1\"\n"
	    "    tls_pinned_cert_sha256: \"AB:" TEN("cd") TEN(":Cd")
		TEN("ef") "00\"\n"
			  "    protocol: {pop3: {}}\n"
			  "  plain:\n"
			  "    host: 192.0.2.1\n"
			  "    allow_plaintext_auth: true\n"
			  "    protocol: {pop3: {tls: plain}}\n");

	ck_assert(cfg->destination[0].tls_pinned);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[0], 0xab);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[1], 0xcd);
	ck_assert_uint_eq(cfg->destination[0].tls_pin[31], 0x00);
	ck_assert(!cfg->destination[1].tls_pinned);
	config_free(&cfg);
}
END_TEST

START_TEST(no_loop_is_seen_where_none_is)
{
	struct config *cfg = parse_good(ROUTING
	    "listener:\n"
	    "  a: {bind: [\"127.0.0.1:995\", \"0.0.0.0:1995\", \"[::]:2995\"]}\n"
	    "destination:\n"
	    "  d: {host: 127.0.0.2, tls_server_name: n, "
	    "protocol: {pop3: {port: 995}}}\n"
	    "  e: {host: 127.0.0.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 996}}}\n"
	    "  f: {host: 192.0.2.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 1995}}}\n"
	    "  g: {host: \"::1\", tls_server_name: n, "
	    "protocol: {pop3: {port: 1995}}}\n"
	    "  h: {host: 127.0.0.1, tls_server_name: n, "
	    "protocol: {pop3: {port: 2995}}}\n"
	    "  i: {host: localhost, protocol: {pop3: {port: 995}}}\n");

	config_free(&cfg);
}
END_TEST

START_TEST(environment_is_put_in)
{
	struct config *cfg = parse_good(BASE
	    "server:\n"
	    "  user: \"a${TEST_SECRET}-$${TEST_SECRET}$1\"\n"
	    "  group: ${TEST_SECRET}\n"
	    "  hostname: '${TEST_EMPTY}'\n"
	    "capabilities: {pop3: {advertise: [\"$$\", $, $$$]}}\n");

	ck_assert_str_eq(cfg->server.user, "asesame-${TEST_SECRET}$1");
	ck_assert_str_eq(cfg->server.group, "sesame");
	ck_assert_str_ne(cfg->server.hostname, "");
	ck_assert_str_eq(cfg->pop3.advertise[0], "$$");
	ck_assert_str_eq(cfg->pop3.advertise[1], "$");
	ck_assert_str_eq(cfg->pop3.advertise[2], "$$$");
	config_free(&cfg);
}
END_TEST

START_TEST(aliases_are_followed)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d: &leg {host: &h x.test, protocol: {pop3: {}}}\n"
	    "  g: &leg {host: &h a.test, protocol: {pop3: {}}}\n"
	    "  e: *leg\n"
	    "  f: {host: *h, protocol: {pop3: {}}}\n");

	ck_assert_uint_eq(cfg->n_destination, 4);
	ck_assert_str_eq(cfg->destination[1].name, "e");
	ck_assert_str_eq(cfg->destination[1].host, "a.test");
	ck_assert_str_eq(cfg->destination[2].host, "a.test");
	config_free(&cfg);
}
END_TEST

START_TEST(relative_paths_start_at_the_file)
{
	static const char text[] =
	    BASE "tls: {certificate: {a: {cert: c.pem, key: /k.pem}}}\n"
		 "server: {log_target: log/x}\n"
		 "mapping: {file: {path: ../m.tsv}}\n";
	struct config *cfg =
	    config_parse("/etc/ferry/t", text, strlen(text), &problems);
	char cwd[3000], path[4096];

	ck_assert_str_eq(told(), "");
	ck_assert_str_eq(cfg->tls.certificate[0].cert[0], "/etc/ferry/c.pem");
	ck_assert_str_eq(cfg->tls.certificate[0].key[0], "/k.pem");
	ck_assert_str_eq(cfg->server.log_target, "/etc/ferry/log/x");
	ck_assert_str_eq(cfg->mapping.file_path, "/etc/ferry/../m.tsv");
	config_free(&cfg);
	cfg = config_parse("conf/t", text, strlen(text), &problems);
	ck_assert_ptr_nonnull(getcwd(cwd, sizeof(cwd)));
	snprintf(path, sizeof(path), "%s/conf/c.pem", cwd);
	ck_assert_str_eq(cfg->tls.certificate[0].cert[0], path);
	config_free(&cfg);
	cfg = config_parse("t", text, strlen(text), &problems);
	snprintf(path, sizeof(path), "%s/c.pem", cwd);
	ck_assert_str_eq(cfg->tls.certificate[0].cert[0], path);
	config_free(&cfg);
	cfg = config_parse("/t", text, strlen(text), &problems);
	ck_assert_str_eq(cfg->tls.certificate[0].cert[0], "/c.pem");
	config_free(&cfg);
}
END_TEST

START_TEST(one_certificate_is_the_default)
{
	struct config *cfg = parse_good(BASE
	    "tls: {certificate: {b: {cert: /c, key: /k, "
	    "subjects: [A.Test, \"*.B.test\"]}, a: {cert: /c, key: /k}}}\n");

	ck_assert(cfg->tls.certificate[0].is_default);
	ck_assert(!cfg->tls.certificate[1].is_default);
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[0], "a.test");
	ck_assert_str_eq(cfg->tls.certificate[0].subjects[1], "*.b.test");
	config_free(&cfg);
}
END_TEST

START_TEST(certificate_may_have_several_pairs)
{
	struct config *cfg = parse_good(BASE
	    "tls: {certificate: {b: {cert: [/c, /d], key: [/k, /l]}}}\n");
	const struct config_certificate *c = cfg->tls.certificate;

	ck_assert_uint_eq(c->n_pair, 2);
	ck_assert_str_eq(c->cert[1], "/d");
	ck_assert_str_eq(c->key[1], "/l");
	config_free(&cfg);
}
END_TEST

START_TEST(listener_follows_tls_section)
{
	struct config *cfg = parse(ROUTING DESTINATION
	    "tls: {protocols: {min_version: 1.3, profile: modern}}\n"
	    "listener:\n"
	    "  a: {bind: [\"127.0.0.1:1995\"]}\n"
	    "  b: {bind: [\"127.0.0.1:2995\"], min_version: \"1.0\",\n"
	    "      profile: intermediate}\n");

	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_int_eq(cfg->listener[0].min_version, TLS_V1_3);
	ck_assert_int_eq(cfg->listener[0].profile, PROFILE_MODERN);
	ck_assert_int_eq(cfg->listener[1].min_version, TLS_V1_0);
	ck_assert_int_eq(cfg->listener[1].profile, PROFILE_INTERMEDIATE);
	config_free(&cfg);
}
END_TEST

START_TEST(some_suites_may_go)
{
	struct config *cfg = parse_good(BASE
	    "tls: {protocols: {disable_cipher_suites: "
	    "[TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, "
	    "TLS_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_CBC_SHA]}}\n");

	ck_assert_uint_eq(cfg->tls.n_disable_cipher_suites, 4);
	config_free(&cfg);
}
END_TEST

START_TEST(lines_may_be_as_long_as_512)
{
	static const struct {
		const char *before, *after;
		size_t most;
	} lines[] = {
	    {"banner: ", "", 512 - strlen("+OK [XCLIENT] \r\n")},
	    {"implementation: ", "", 512 - strlen("IMPLEMENTATION \r\n")},
	    {"advertise: [", "]", 512 - strlen("\r\n")},
	};
	char before[512], after[16], *text;
	struct config *cfg;
	size_t i, over;

	for (i = 0; i < ARRAY_LEN(lines); i++)
		for (over = 0; over < 2; over++) {
			snprintf(before, sizeof(before),
			    BASE "capabilities: {pop3: {%s", lines[i].before);
			snprintf(after, sizeof(after), "%s}}\n",
			    lines[i].after);
			text = many(before, "b", lines[i].most + over, after);
			cfg = parse(text);
			ck_assert_uint_eq(problems.n_error, over);
			config_problems_clear(&problems);
			config_free(&cfg);
			free(text);
		}
}
END_TEST

START_TEST(token_of_the_environment_wins)
{
	static const char text[] =
	    BASE "admin: {bind: 127.0.0.1:9443, bearer_token_file: /f}\n";
	struct config *cfg = parse(text);

	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_str_eq(cfg->admin.bearer_token, "");
	ck_assert_str_eq(cfg->admin.bearer_token_file, "/f");
	config_free(&cfg);
	setenv("MAILFERRY_ADMIN_TOKEN", TEN("sesame"), 1);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_str_eq(cfg->admin.bearer_token, TEN("sesame"));
	ck_assert_str_eq(cfg->admin.bearer_token_file, "");
	config_free(&cfg);
	config_problems_clear(&problems);
	setenv("MAILFERRY_ADMIN_TOKEN", "sesame", 1);
	cfg = parse(text);
	ck_assert_str_eq(problems.error[0],
	    "t:4:8: admin.bearer_token: too short, maybe from "
	    "MAILFERRY_ADMIN_TOKEN; expected at least 32 "
	    "octets, as min_token_len says");
	config_free(&cfg);
	config_problems_clear(&problems);
	setenv("MAILFERRY_ADMIN_TOKEN", "sesame sesame", 1);
	cfg = parse(text);
	ck_assert_str_eq(problems.error[0],
	    "t:4:8: admin.bearer_token: the environment's "
	    "MAILFERRY_ADMIN_TOKEN is not a token; expected printable ASCII "
	    "without spaces");
	config_free(&cfg);
}
END_TEST

START_TEST(later_problems_know_their_place)
{
	struct config *cfg = parse_good(LISTENER ROUTING
	    "destination:\n"
	    "  d:\n"
	    "    host: a.test\n"
	    "    source_ips: [192.0.2.1, 192.0.2.2]\n"
	    "    protocol: {pop3: {}}\n"
	    "  d.e:\n"
	    "    host: b.test\n"
	    "    protocol: {pop3: {}}\n");

	config_problem(cfg, &problems, "destination.d.host", "%s (%d)", "x", 1);
	config_problem(cfg, &problems, "destination.d.source_ips[1]", "second");
	config_problem(cfg, &problems, "destination.d.source_ips[2]", "third");
	config_problem(cfg, &problems, "destination.d.tls_ca_file", "parent");
	config_problem(cfg, &problems, "destination.d.e.host", "dotted");
	config_problem(cfg, &problems, "mapping.file.path", "root");
	config_problem(cfg, &problems, "", "nowhere");
	config_warning(cfg, &problems, "listener.a.bind[0]", "beware");
	ck_assert_str_eq(told(),
	    "t:5:11: destination.d.host: x (1)\n"
	    "t:6:29: destination.d.source_ips[1]: second\n"
	    "t:6:17: destination.d.source_ips[2]: third\n"
	    "t:5:5: destination.d.tls_ca_file: parent\n"
	    "t:9:11: destination.d.e.host: dotted\n"
	    "t:1:1: mapping.file.path: root\n"
	    "t:1:1: nowhere\n"
	    "warning: t:1:23: listener.a.bind[0]: beware");
	config_free(&cfg);
}
END_TEST

START_TEST(problems_have_an_end)
{
	size_t n = 3000, i, len = 0;
	char *text = calloc(n, 16);
	struct config *cfg;

	ck_assert_ptr_nonnull(text);
	for (i = 0; i < n; i++)
		len += (size_t)sprintf(text + len, "key%zu: 1\n", i);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 1001);
	ck_assert_str_eq(problems.error[1000],
	    "t:1:1: more problems than can be shown");
	config_free(&cfg);
	free(text);
}
END_TEST

START_TEST(lists_have_an_end)
{
	static const struct {
		const char *before, *piece, *after;
		size_t most;
		const char *told;
	} lists[] = {
	    {BASE "limits: {exempt: [", "1.2.3.4, ", "]}\n", 4096,
		"t:4:18: limits.exempt: the list is too long; expected a list of 0 "
		"to 4096, each ADDRESS/BITS with no bit set behind them, or "
		"one address"},
	    {BASE "server: {user: '", "u", "'}\n", 255, NULL},
	    {BASE "server: {user: '", "u", "'}\n", 16384, NULL},
	    {BASE "server: {user: '", "$${", "'}\n", 8192, NULL},
	    {BASE "tls: {certificate: {a: {cert: /c, key: /", "k", "}}}\n",
		4094, NULL},
	    {BASE "tls: {certificate: {a: {cert: /c, key: ", "k", "}}}\n", 8192,
		NULL},
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(lists); i++) {
		char *text = many(lists[i].before, lists[i].piece,
		    lists[i].most + 1, lists[i].after);
		struct config *cfg = parse(text);

		ck_assert_uint_eq(problems.n_error, 1);
		if (lists[i].told != NULL)
			ck_assert_str_eq(told(), lists[i].told);
		config_problems_clear(&problems);
		config_free(&cfg);
		free(text);
	}
}
END_TEST

START_TEST(listeners_have_an_end)
{
	char text[8192] = ROUTING DESTINATION "listener:\n";
	size_t len = strlen(text), i;
	struct config *cfg;

	for (i = 0; i < 65; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "  l%zu: {bind: [\"127.0.0.1:%zu\"]}\n", i, 1000 + i);
	cfg = parse(text);
	ck_assert_str_eq(told(),
	    "t:4:3: listener: the mapping is too long; expected 1 to 64 names "
	    "of your own");
	ck_assert_uint_eq(cfg->n_listener, 0);
	config_free(&cfg);
}
END_TEST

START_TEST(anchors_have_an_end)
{
	char text[8192] = "a: [";
	size_t len = strlen(text), i;

	for (i = 0; i < 257; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		    "&a%zu x,\n", i);
	snprintf(text + len, sizeof(text) - len, "]\n");
	ck_assert_ptr_null(parse(text));
	ck_assert_str_eq(told(),
	    "t:257:1: too many anchors; expected at most 256");
}
END_TEST

START_TEST(environment_is_utf8)
{
	static const struct {
		const char *value;
		bool good;
	} values[] = {
	    {"caf\xc3\xa9", true},
	    {"\xe2\x82\xac", true},
	    {"\xf0\x9f\x98\x80", true},
	    {"\xc3", false},
	    {"\xc3(", false},
	    {"\x80", false},
	    {"\xc0\xaf", false}, /* too long for its character */
	    {"\xe0\x80\xaf", false},
	    {"\xed\xa0\x80", false}, /* a surrogate */
	    {"\xf4\x90\x80\x80", false},
	    {"\xf8\x88\x80\x80\x80", false},
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(values); i++) {
		struct config *cfg;

		setenv("TEST_VALUE", values[i].value, 1);
		cfg = parse(BASE "server: {user: \"${TEST_VALUE}\"}\n");
		ck_assert_uint_eq(problems.n_error, !values[i].good);
		if (values[i].good)
			ck_assert_str_eq(cfg->server.user, values[i].value);
		config_problems_clear(&problems);
		config_free(&cfg);
	}
}
END_TEST

START_TEST(nothing_is_freed_safely)
{
	struct config *cfg = NULL;

	config_free(&cfg);
	ck_assert_ptr_null(cfg);
}
END_TEST

START_TEST(unreadable_file_is_told)
{
	ck_assert_ptr_null(config_load("/nonexistent/t", &problems));
	ck_assert_ptr_null(config_load("/", &problems));
	ck_assert_str_eq(told(),
	    "/nonexistent/t:1:1: cannot be read: No such file or directory\n"
	    "/:1:1: cannot be read: Is a directory");
}
END_TEST

START_TEST(endless_file_is_refused)
{
	ck_assert_ptr_null(config_load("/dev/zero", &problems));
	ck_assert_str_eq(told(),
	    "/dev/zero:1:1: the file is too big; expected at most 1 MiB");
}
END_TEST

START_TEST(big_file_is_read)
{
	size_t n = 5000, i, len = 0;
	char *text = calloc(n + 8, 128), name[32];
	struct config *cfg;

	ck_assert_ptr_nonnull(text);
	len += (size_t)sprintf(text,
	    "\xef\xbb\xbf" LISTENER
	    "routing: {default_destination: d1}\ndestination:\n");
	for (i = 0; i < n; i++)
		len += (size_t)sprintf(text + len,
		    "  d%zu: {host: h%zu.test, forwarding: none, "
		    "protocol: {pop3: {}}}\n",
		    i, i);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 0);
	ck_assert_uint_eq(problems.n_warning, 1000);
	for (i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "d%zu", i);
		ck_assert_int_ne(config_destination_find(cfg, name,
				     strlen(name)),
		    -1);
	}
	config_free(&cfg);
	free(text);
}
END_TEST

/* A file that is cut off anywhere is an error or a smaller file. */
START_TEST(no_prefix_does_harm)
{
	char *text = slurp("test/fuzz/corpus/config/contract.yaml");
	size_t len = strlen(text), i;
	struct config *cfg;

	for (i = 0; i < len; i += 7) {
		cfg = config_parse("t", text, i, &problems);
		config_problems_clear(&problems);
		config_free(&cfg);
	}
	free(text);
}
END_TEST

/* "destination.*.host" as nested flow mappings around value. */
static void
nest(const char *path, const char *value, char *buf, size_t size)
{
	size_t depth = 0, len = 0;
	const char *p;

	for (p = path; *p != '\0'; p += strcspn(p, ".")) {
		p += *p == '.';
		len += (size_t)snprintf(buf + len, size - len,
		    "{%s%.*s: ", *p == '*' ? "star" : "",
		    *p == '*' ? 0 : (int)strcspn(p, "."), p);
		depth++;
	}
	len += (size_t)snprintf(buf + len, size - len, "%s", value);
	while (depth-- > 0)
		len += (size_t)snprintf(buf + len, size - len, "}");
	ck_assert_uint_lt(len, size);
}

/* Every key, with whatever does not belong there. */
START_TEST(no_shape_does_harm)
{
	static const char *const values[] = {"", "x", "\"\\0\"", "[]", "{}",
	    "[x]", "[[]]", "[{}]", "[~]", "{x: y}", "{x: {}}", "{\"\": {}}",
	    "-1", "99999999999999999999", "\"${MAILFERRY_UNSET}\"",
	    "[\"${MAILFERRY_UNSET}\"]"};
	char text[1024];
	size_t i, k;

	for (i = 1; i < n_config_keys; i++)
		for (k = 0; k < ARRAY_LEN(values); k++) {
			struct config *cfg;

			nest(config_keys[i].path, values[k], text,
			    sizeof(text));
			cfg = parse(text);
			ck_assert_msg(cfg != NULL && problems.n_error > 0,
			    "%s: %s", text, told());
			config_problems_clear(&problems);
			config_free(&cfg);
		}
}
END_TEST

START_TEST(every_row_is_complete)
{
	char text[1024];
	size_t i;

	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];

		ck_assert_msg(*key->help != '\0', "%s", key->path);
		config_keys_accepts(key, false, text, sizeof(text));
		ck_assert_msg(*text != '\0', "%s", key->path);
		if (key->shape == CONFIG_NAMED)
			ck_assert_int_eq(config_keys_element(key)
					     ->path[strlen(key->path)],
			    '.');
	}
}
END_TEST

static char *
explained(const char *path, bool good)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	ck_assert_int_eq(config_explain(path, good ? out : stdout,
			     good ? stderr : out),
	    good);
	ck_assert_int_eq(fclose(out), 0);
	return text;
}

START_TEST(key_is_explained)
{
	static const char *const same[] = {"destination.*.max_waiting",
	    "destination.new.max_waiting", "destination.n.e.w.max_waiting"};

	for (size_t i = 0; i < ARRAY_LEN(same); i++) {
		char *text = explained(same[i], true);

		ck_assert_str_eq(text,
		    "destination.*.max_waiting\n"
		    "  type:     integer\n"
		    "  expected: an integer from 0 to 1000000\n"
		    "  default:  1024\n"
		    "  Logins that may wait for `max_connecting`. Beyond it "
		    "logins get a\n"
		    "  temporary error at once.\n");
		free(text);
	}
}
END_TEST

START_TEST(every_key_is_explained)
{
	char *text = explained("all", true), head[256];

	for (size_t i = 1; i < n_config_keys; i++) {
		char *one = explained(config_keys[i].path, true);

		ck_assert_ptr_nonnull(strstr(text, one));
		snprintf(head, sizeof(head), "%s\n", config_keys[i].path);
		ck_assert_int_eq(strncmp(one, head, strlen(head)), 0);
		free(one);
	}
	free(text);
}
END_TEST

START_TEST(section_and_element_are_explained)
{
	static const struct {
		const char *path, *begin;
	} cases[] = {
	    {"listener",
		"listener\n  type:     sections by names of your own\n"
		"  expected: 1 to 64 names of your own\n  required\n"},
	    {"listener.pop3s", "listener.*\n  type:     section\n  keys:"},
	    {"listener.pop3s.bind[0]", "listener.*.bind\n  type:     list of"},
	    {"routing.default_domain",
		"routing.default_domain\n"
		"  type:     name\n  expected: a DNS "
		"name\n  Appended"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *text = explained(cases[i].path, true);

		ck_assert_msg(strncmp(text, cases[i].begin,
				  strlen(cases[i].begin)) == 0,
		    "%s", text);
		free(text);
	}
}
END_TEST

START_TEST(unknown_key_is_not_explained)
{
	static const struct {
		const char *path, *told;
	} cases[] = {
	    {"server.thread",
		"mailferry: unknown key; did you mean \"server.threads\"?\n"},
	    {"destination.new.hots",
		"mailferry: unknown key; did you mean "
		"\"destination.new.host\"?\n"},
	    {"server.threads.x",
		"mailferry: unknown key; did you mean \"server.threads\"?\n"},
	    {"oauth.x",
		"mailferry: unknown key; expected oauth with "
		"jwt_username_claim\n"},
	    {"",
		"mailferry: unknown key; expected server, limits, tls, "
		"listener, capabilities, oauth, routing, mapping, "
		"destination, state or admin\n"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *text = explained(cases[i].path, false);

		ck_assert_str_eq(text, cases[i].told);
		free(text);
	}
}
END_TEST

START_TEST(sample_is_good)
{
	struct config *cfg = load("etc/mailferry.yaml");

	ck_assert_str_eq(told(), "");
	ck_assert_ptr_nonnull(cfg);
	config_free(&cfg);
}
END_TEST

/* Makes "  #key: value" a key; prose has a space behind the "#". */
static void
uncomment(char *text)
{
	char *p = text, *out = text;
	bool begin = true;

	for (; *p != '\0'; p++) {
		if (begin && *p == '#' && p[1] != ' ' && p[1] != '\n') {
			begin = false;
			continue;
		}
		*out++ = *p;
		begin = *p == '\n' || (begin && *p == ' ');
	}
	*out = '\0';
}

/* The value of a row, the first name standing for every star. */
static const struct config_node *
sample_value(const struct config_tree *tree, const char *path)
{
	const struct config_node *node = tree->root;
	char name[64];

	while (*path != '\0' && node != NULL) {
		size_t len = strcspn(path, ".");

		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		if (strcmp(name, "*") != 0)
			node = config_yaml_get(node, name);
		else
			node = node->first == NULL ? NULL : node->first->value;
		path += len + (path[len] == '.');
	}
	return node;
}

START_TEST(sample_has_every_key)
{
	char *text = slurp("etc/mailferry.yaml");
	struct config_fault fault = {{0, 0}, ""};
	struct config_tree *tree;
	struct config *cfg;
	size_t i;

	uncomment(text);
	cfg = parse(text);
	ck_assert_uint_eq(problems.n_error, 0);
	config_free(&cfg);
	tree = config_yaml_parse(text, strlen(text), &fault);
	ck_assert_msg(tree != NULL, "%s", fault.text);
	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const struct config_node *node = sample_value(tree, key->path);

		ck_assert_msg(node != NULL, "no %s", key->path);
	}
	config_yaml_free(&tree);
	free(text);
}
END_TEST

/* What the sample has commented out is what holds without it. */
START_TEST(sample_shows_defaults)
{
	char *text = slurp("etc/mailferry.yaml"), line[512];
	size_t i;

	for (i = 0; i < n_config_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const char *name = config_keys_name(key);

		if (key->shape != CONFIG_VALUE || key->text == NULL ||
		    *key->text == '\0')
			continue;
		snprintf(line, sizeof(line), "#%s: %s", name, key->text);
		if (strstr(text, line) != NULL)
			continue;
		snprintf(line, sizeof(line), "#%s: \"%s\"", name, key->text);
		ck_assert_msg(strstr(text, line) != NULL, "no %s", line);
	}
	free(text);
}
END_TEST

static const struct {
	const char *url, *shown;
} url_cases[] = {
    {"redis://h:1/0", "redis://h:1/0"},
    {"redis://me@h", "redis://********@h"},
    {"redis://:sesame@h:1/0", "redis://:********@h:1/0"},
    {"redis://me:a@b@h", "redis://me:********@h"},
    {"postgres://u:a?b@h/d", "postgres://u:********@h/d"},
    {"postgres://u:a#b@h/d", "postgres://u:********@h/d"},
    {"mysql://u:a/b@h/d", "mysql://u:********@h/d"},
    {"mysql://u:a/b@c@h/d?x=y", "mysql://u:********@h/d?x=********"},
    {"postgres://h/d?user=me@h", "postgres://h/d?user=me@h"},
    {"postgres://h/d?options=-c%20x", "postgres://h/d?options=********"},
    {"postgres://h/d?passw%6Frd=a", "postgres://h/d?passw%6Frd=********"},
    {"postgres://h/d?Sslmode=a", "postgres://h/d?Sslmode=********"},
    {"redis://:sesame", "redis://********"},
    {"redis://:sesame/0", "redis://********"},
    {"redis://[2001:db8::1]:6379/0", "redis://[2001:db8::1]:6379/0"},
    {"redis://[2001:db8::1]:sesame", "redis://********"},
    {"http://h/r#sesame", "http://h/r#********"},
    {"http://h/r?sesame", "http://h/r?********"},
    {"http://h/r?ab", "http://h/r?********"},
    {"postgres://h/d?password=a&sslmode=require",
	"postgres://h/d?password=********&sslmode=require"},
    {"postgres://h/d?sslpassword=a&password=b&x",
	"postgres://h/d?sslpassword=********&password=********&********"},
    {"postgres://h/d?sslkey=/k&passfile=/p",
	"postgres://h/d?sslkey=/k&passfile=/p"},
    {"http://h/r?user=%u&key=a", "http://h/r?user=%u&key=********"},
    {"http://h/r?k=%a", "http://h/r?k=********"},
    {"http://h/r?key=%u", "http://h/r?key=%u"},
    {"http://h/r?Access_Token=a&u=%u", "http://h/r?Access_Token=********&u=%u"},
    {"http://h/r?token=", "http://h/r?token="},
    {"http://h/r?monkey=a&=b", "http://h/r?monkey=********&=********"},
    {"sqlite:///var/lib/r.db", "sqlite:///var/lib/r.db"},
    {"sesame", "********"},
};

START_TEST(url_is_masked)
{
	char once[CONFIG_URL_MAX + 1], twice[CONFIG_URL_MAX + 1];

	config_mask_url(url_cases[_i].url, once);
	ck_assert_str_eq(once, url_cases[_i].shown);
	config_mask_url(once, twice);
	ck_assert_str_eq(twice, once);
}
END_TEST

/* Stars are longer than what they hide. */
START_TEST(long_url_stays_a_url)
{
	char url[CONFIG_URL_MAX + 1] = "http://h/?", shown[CONFIG_URL_MAX + 1];

	while (strlen(url) + 6 <= CONFIG_URL_MAX)
		strcat(url, "key=a&");
	config_mask_url(url, shown);
	ck_assert_str_eq(shown, "http://********");
}
END_TEST

START_TEST(environment_is_not_shown)
{
	static const char *const cases[][2] = {
	    {"http://h/${TEST_SECRET}/%u", "http://h/********/%u"},
	    {"http://h/r?u=%u&x=${TEST_SECRET}", "http://h/r?u=%u&x=********"},
	    {"http://me:${TEST_SECRET}@h/%u", "http://me:********@h/%u"},
	    {"http://h/%u$${x}", "http://h/%u${x}"},
	};
	char text[1024], shown[CONFIG_URL_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct config *cfg;

		snprintf(text, sizeof(text),
		    BASE "mapping: {source: http, http: {url: \"%s\"}}\n",
		    cases[i][0]);
		cfg = parse_good(text);
		config_show_url(cfg, "mapping.http.url", cfg->mapping.http_url,
		    shown);
		ck_assert_str_eq(shown, cases[i][1]);
		config_free(&cfg);
	}
	ck_assert_int_eq(setenv("TEST_URL", "http://h/r?u=%u", 1), 0);
	{
		struct config *cfg = parse_good(BASE
		    "mapping: {source: http, http: {url: \"${TEST_URL}\"}}\n");

		config_show_url(cfg, "mapping.http.url", cfg->mapping.http_url,
		    shown);
		ck_assert_str_eq(shown, "http://********");
		config_free(&cfg);
	}
	unsetenv("TEST_URL");
}
END_TEST

static char *
dumped(const struct config *cfg)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	ck_assert_ptr_nonnull(out);
	config_dump(cfg, out);
	ck_assert_int_eq(fclose(out), 0);
	return text;
}

/* What YAML takes for a line end, or only takes escaped. */
START_TEST(dump_reads_back)
{
	struct config *cfg = parse_good(BASE
	    "capabilities: {pop3: {banner: \"a\\Nb\\L c\\P d\\u009b\\u009f"
	    "\\_e\\uFEFFf\\uFFFEg\\u20ac \\U0001F600\"}}\n");
	struct config *again;
	char *first = dumped(cfg), *second;

	again = parse_good(first);
	ck_assert_str_eq(again->pop3.banner, cfg->pop3.banner);
	second = dumped(again);
	ck_assert_str_eq(second, first);
	free(first);
	free(second);
	config_free(&again);
	config_free(&cfg);
}
END_TEST

static Suite *
config_suite(void)
{
	Suite *suite = suite_create("config");
	TCase *tc = tcase_create("config");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, file_is_told, 0, n_case_files);
	tcase_add_loop_test(tc, number_is_read, 0,
	    (int)ARRAY_LEN(duration_cases));
	tcase_add_test(tc, contract_is_read);
	tcase_add_test(tc, defaults_are_filled_in);
	tcase_add_test(tc, bad_values_leave_defaults);
	tcase_add_test(tc, leg_follows_its_destination);
	tcase_add_test(tc, destination_is_found);
	tcase_add_test(tc, leg_without_name_check_needs_no_name);
	tcase_add_test(tc, no_loop_is_seen_where_none_is);
	tcase_add_test(tc, environment_is_put_in);
	tcase_add_test(tc, aliases_are_followed);
	tcase_add_test(tc, relative_paths_start_at_the_file);
	tcase_add_test(tc, one_certificate_is_the_default);
	tcase_add_test(tc, certificate_may_have_several_pairs);
	tcase_add_test(tc, listener_follows_tls_section);
	tcase_add_test(tc, some_suites_may_go);
	tcase_add_test(tc, lines_may_be_as_long_as_512);
	tcase_add_test(tc, token_of_the_environment_wins);
	tcase_add_test(tc, later_problems_know_their_place);
	tcase_add_test(tc, problems_have_an_end);
	tcase_add_test(tc, lists_have_an_end);
	tcase_add_test(tc, listeners_have_an_end);
	tcase_add_test(tc, anchors_have_an_end);
	tcase_add_test(tc, environment_is_utf8);
	tcase_add_test(tc, nothing_is_freed_safely);
	tcase_add_test(tc, unreadable_file_is_told);
	tcase_add_test(tc, endless_file_is_refused);
	tcase_add_test(tc, big_file_is_read);
	tcase_add_test(tc, no_prefix_does_harm);
	tcase_add_test(tc, no_shape_does_harm);
	tcase_add_test(tc, every_row_is_complete);
	tcase_add_test(tc, key_is_explained);
	tcase_add_test(tc, every_key_is_explained);
	tcase_add_test(tc, section_and_element_are_explained);
	tcase_add_test(tc, unknown_key_is_not_explained);
	tcase_add_loop_test(tc, url_is_masked, 0, (int)ARRAY_LEN(url_cases));
	tcase_add_test(tc, long_url_stays_a_url);
	tcase_add_test(tc, environment_is_not_shown);
	tcase_add_test(tc, dump_reads_back);
	tcase_add_test(tc, sample_is_good);
	tcase_add_test(tc, sample_has_every_key);
	tcase_add_test(tc, sample_shows_defaults);
	suite_add_tcase(suite, tc);
	return suite;
}

int
main(void)
{
	SRunner *runner;
	int failed;

	n_case_files =
	    scandir(TEST_DIR "/config", &case_files, case_is_file, alphasort);
	if (n_case_files <= 0) {
		perror(TEST_DIR "/config");
		return EXIT_FAILURE;
	}
	runner = srunner_create(config_suite());
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	while (n_case_files > 0)
		free(case_files[--n_case_files]);
	free(case_files);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
