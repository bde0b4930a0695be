/* rules.c: the rules over more than one key.
 *
 * Each rule is one function; the tables below are the index. A rule reports
 * nothing if its keys are already bad: notes_at() checks this. */

#include "rules.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "keys.h"
#include "near.h"
#include "notes.h"
#include "platform/log.h"

/* A cipher suite that mailferry uses towards clients. */
struct config_suite {
	const char *name;
	enum tls_version version;
};

static void rules_server(const struct config *cfg, struct notes *n);
static void rules_certificates(const struct config *cfg, struct notes *n);
static void rules_suites(const struct config *cfg, struct notes *n);
static bool rules_suites_left(const struct config_tls *tls,
    enum tls_version min_version);
static void rules_binds(const struct config *cfg, struct notes *n);
static void rules_bind_check(const struct config *cfg, struct notes *n,
    size_t listener, size_t bind);
static bool rules_is_same(const struct addr *a, const struct addr *b);
static void rules_advertise(const struct config *cfg, struct notes *n);
static void rules_default_destination(const struct config *cfg,
    struct notes *n);
static void rules_undeclared(struct notes *n, const char *shown,
    const char *near, const char *expected);
static const char *rules_destination_near(const struct config *cfg,
    const char *name);
static void rules_mapping(const struct config *cfg, struct notes *n);
static void rules_unused(const struct config *cfg, struct notes *n);
static void rules_admin(const struct config *cfg, struct notes *n);
static void rules_admin_token(const struct config *cfg, struct notes *n);
static void rules_unused_sections(const struct config *cfg, struct notes *n);
static void rules_substitutes(const struct config *cfg, struct notes *n);
static void rules_guard(const struct config *cfg, struct notes *n);
static void rules_admin_tls(const struct config *cfg, struct notes *n);
static void rules_admin_bind(const struct config *cfg, struct notes *n);
static void rules_own_name(const struct config *cfg, struct notes *n);
static void rules_trust(const struct config *cfg, struct notes *n);
static void rules_trust_all(struct notes *n, const char *key,
    const struct cidr *list, size_t len);
static void rules_listener_port(struct notes *n,
    const struct config_listener *l);
static void rules_listener_profile(struct notes *n,
    const struct config_listener *l);
static bool rules_port_contradicts(unsigned port, enum tls_mode tls);
static void rules_destination_port(struct notes *n,
    const struct config_destination *d);
static void rules_old_backend(struct notes *n,
    const struct config_destination *d);
static void rules_proxy(struct notes *n, const struct config_listener *l);
static void rules_old_tls(struct notes *n, const struct config_listener *l);
static void rules_endpoint(struct notes *n, const struct config_destination *d);
static void rules_plaintext(struct notes *n,
    const struct config_destination *d);
static void rules_server_name(struct notes *n,
    const struct config_destination *d);
static void rules_client_cert(struct notes *n,
    const struct config_destination *d);
static void rules_invalid_certs(struct notes *n,
    const struct config_destination *d);
static void rules_old_forwarding(struct notes *n,
    const struct config_destination *d);
static void rules_forwarding(struct notes *n,
    const struct config_destination *d);
static void rules_loops(const struct config *cfg, struct notes *n);
static void rules_loop(const struct config *cfg, struct notes *n,
    const char *name, const struct addr *to);
static bool rules_reaches(const struct addr *to, const struct addr *bound);
static bool rules_is_loopback(const struct addr *a);

static void (*const rules_of_all[])(const struct config *, struct notes *) = {
    rules_server,
    rules_certificates,
    rules_suites,
    rules_binds,
    rules_advertise,
    rules_default_destination,
    rules_mapping,
    rules_unused_sections,
    rules_substitutes,
    rules_guard,
    rules_unused,
    rules_admin,
    rules_admin_token,
    rules_admin_tls,
    rules_admin_bind,
    rules_trust,
    rules_loops,
    rules_own_name,
};

static void (*const rules_of_listener[])(struct notes *,
    const struct config_listener *) = {
    rules_proxy,
    rules_old_tls,
    rules_listener_port,
    rules_listener_profile,
};

static void (*const rules_of_destination[])(struct notes *,
    const struct config_destination *) = {
    rules_endpoint,
    rules_plaintext,
    rules_server_name,
    rules_client_cert,
    rules_invalid_certs,
    rules_destination_port,
    rules_old_backend,
    rules_old_forwarding,
    rules_forwarding,
};

/* All are forward secret and authenticated. */
static const struct config_suite rules_suite_table[] = {
    {"TLS_AES_256_GCM_SHA384", TLS_V1_3},
    {"TLS_CHACHA20_POLY1305_SHA256", TLS_V1_3},
    {"TLS_AES_128_GCM_SHA256", TLS_V1_3},
    {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", TLS_V1_2},
    {"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", TLS_V1_2},
    {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TLS_V1_2},
    {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TLS_V1_2},
};

/* Lines of CAPA that mailferry sets itself. */
static const char *const rules_own_capabilities[] = {
    "USER", "SASL", "STLS", "IMPLEMENTATION"};

void
rules_check(const struct config *cfg, struct notes *n)
{
	size_t i, k;

	for (i = 0; i < ARRAY_LEN(rules_of_all); i++)
		rules_of_all[i](cfg, n);
	for (k = 0; k < cfg->n_listener; k++)
		for (i = 0; i < ARRAY_LEN(rules_of_listener); i++)
			rules_of_listener[i](n, &cfg->listener[k]);
	for (k = 0; k < cfg->n_destination; k++)
		for (i = 0; i < ARRAY_LEN(rules_of_destination); i++)
			rules_of_destination[i](n, &cfg->destination[k]);
}

static void
rules_server(const struct config *cfg, struct notes *n)
{
	if (cfg->server.bridge_idle < 600 * 1000 &&
	    notes_at(n, "server.bridge_idle"))
		notes_warn(n,
		    "below the 10 minutes that RFC 1939 grants an idle client; "
		    "expected 10m or more");
}

static void
rules_certificates(const struct config *cfg, struct notes *n)
{
	const struct config_tls *tls = &cfg->tls;
	const struct config_certificate *first = NULL, *c;
	size_t i;

	for (i = 0; i < tls->n_certificate; i++) {
		c = &tls->certificate[i];
		if (c->n_cert != c->n_key &&
		    notes_at(n, "tls.certificate.%s.cert", c->name) &&
		    notes_at(n, "tls.certificate.%s.key", c->name))
			notes_error(n,
			    "%zu beside %zu of cert; expected one for each",
			    c->n_key, c->n_cert);
		if (!c->is_default)
			continue;
		if (first != NULL &&
		    notes_at(n, "tls.certificate.%s.default", c->name))
			notes_error(n,
			    "\"%s\" is already the default; expected one "
			    "default",
			    first->name);
		if (first == NULL)
			first = c;
	}
}

/* Each listener may require TLS 1.3. */
static void
rules_suites(const struct config *cfg, struct notes *n)
{
	const char *whom = "clients";
	enum tls_version version = cfg->tls.min_version;
	size_t i;

	for (i = 0; i < cfg->n_listener; i++)
		if (cfg->listener[i].min_version > version &&
		    cfg->listener[i].tls != TLS_PLAIN) {
			version = cfg->listener[i].min_version;
			whom = cfg->listener[i].name;
		}
	if (!rules_suites_left(&cfg->tls, version) &&
	    notes_at(n, "tls.protocols.disable_cipher_suites"))
		notes_error(n,
		    "no cipher suite is left for %s; expected at least one "
		    "of TLS %s",
		    whom, version == TLS_V1_3 ? "1.3" : "1.2 or 1.3");
}

static bool
rules_suites_left(const struct config_tls *tls, enum tls_version min_version)
{
	size_t i, k;

	for (i = 0; i < ARRAY_LEN(rules_suite_table); i++) {
		if (rules_suite_table[i].version < min_version &&
		    min_version == TLS_V1_3)
			continue;
		for (k = 0; k < tls->n_disable_cipher_suites; k++)
			if (strcmp(tls->disable_cipher_suites[k],
				rules_suite_table[i].name) == 0)
				break;
		if (k == tls->n_disable_cipher_suites)
			return true;
	}
	return false;
}

static void
rules_binds(const struct config *cfg, struct notes *n)
{
	size_t i, k;

	for (i = 0; i < cfg->n_listener; i++) {
		/* Bad elements are left out, so the indices would be wrong. */
		if (!notes_at(n, "listener.%s.bind", cfg->listener[i].name))
			continue;
		for (k = 0; k < cfg->listener[i].n_bind; k++)
			rules_bind_check(cfg, n, i, k);
	}
}

/* Reports a bind address that an earlier line or the management has. */
static void
rules_bind_check(const struct config *cfg, struct notes *n, size_t listener,
    size_t bind)
{
	const struct addr *own = &cfg->listener[listener].bind[bind];
	const char *taken = NULL;
	char text[ADDR_TEXT_MAX];
	size_t i, k;

	for (i = 0; i <= listener; i++)
		for (k = 0; k < cfg->listener[i].n_bind; k++) {
			if (i == listener && k >= bind)
				break;
			if (rules_is_same(own, &cfg->listener[i].bind[k]))
				taken = cfg->listener[i].name;
		}
	if (taken != NULL &&
	    notes_at(n, "listener.%s.bind[%zu]", cfg->listener[listener].name,
		bind))
		notes_error(n,
		    "listener.%s listens on %s already; expected another "
		    "address or port",
		    taken, addr_text(own, text));
	if (rules_is_same(own, &cfg->admin.bind) && notes_at(n, "admin.bind"))
		notes_error(n,
		    "listener.%s listens on %s already; expected another "
		    "address or port",
		    cfg->listener[listener].name, addr_text(own, text));
}

static bool
rules_is_same(const struct addr *a, const struct addr *b)
{
	return addr_port(a) == addr_port(b) && addr_same_ip(a, b);
}

/* CAPA would show it twice. */
static void
rules_advertise(const struct config *cfg, struct notes *n)
{
	const struct config_pop3 *pop3 = &cfg->pop3;
	size_t i, k;

	for (i = 0; i < pop3->n_advertise; i++)
		for (k = 0; k < ARRAY_LEN(rules_own_capabilities); k++) {
			const char *own = rules_own_capabilities[k];
			size_t len = strlen(own);
			const char *line = pop3->advertise[i];

			if (strncasecmp(line, own, len) == 0 &&
			    strchr(" ", line[len]) != NULL &&
			    notes_at(n, "capabilities.pop3.advertise"))
				notes_warn(n,
				    "mailferry adds %s itself; expected other "
				    "lines",
				    own);
		}
}

static void
rules_default_destination(const struct config *cfg, struct notes *n)
{
	const char *name = cfg->routing.default_destination;
	char shown[LOG_FIELD_MAX * 4 + 8];
	int i = config_destination_find(cfg, name, strlen(name));

	if (cfg->n_destination == 0 && !notes_at(n, "destination"))
		return;
	if (!notes_at(n, "routing.default_destination"))
		return;
	log_escape(name, strlen(name), shown, sizeof(shown));
	if (i == -1)
		rules_undeclared(n, shown, rules_destination_near(cfg, name),
		    "a name below destination");
	else if (!cfg->destination[i].pop3.present && cfg->n_listener > 0)
		notes_error(n,
		    "\"%s\" has no endpoint for pop3, which listener.%s "
		    "accepts; expected a destination with protocol.pop3",
		    shown, cfg->listener[0].name);
}

static void
rules_undeclared(struct notes *n, const char *shown, const char *near,
    const char *expected)
{
	if (near != NULL)
		notes_error(n, "\"%s\" is not declared; did you mean \"%s\"?",
		    shown, near);
	else
		notes_error(n, "\"%s\" is not declared; expected %s", shown,
		    expected);
}

static const char *
rules_destination_near(const struct config *cfg, const char *name)
{
	const char *nearest = NULL;
	size_t least = SIZE_MAX;

	for (size_t i = 0; i < cfg->n_destination; i++) {
		size_t d = near_distance(cfg->destination[i].name, name);

		if (d < least) {
			least = d;
			nearest = cfg->destination[i].name;
		}
	}
	return nearest;
}

/* No mapping at all is fine: everybody goes to the default destination. */
static void
rules_mapping(const struct config *cfg, struct notes *n)
{
	const char *source =
	    config_keys_word("mapping.source", cfg->mapping.source);

	if (!notes_has(n, "mapping") || notes_has(n, "mapping.%s", source))
		return;
	if (notes_at(n, "mapping.source"))
		notes_error(n, "\"%s\" has no section; expected mapping.%s",
		    source, source);
}

static void
rules_unused(const struct config *cfg, struct notes *n)
{
	const struct {
		const char *key;
		bool is_set;
		const char *why;
	} unused[] = {
	    {"server.upgrade_grace", cfg->server.upgrade_grace != 3600 * 1000,
		"this version cannot upgrade in place: ignored"},
	    {"routing.guard", cfg->routing.guard != GUARD_WARN,
		"this version has no guard: ignored"},
	    {"state", cfg->state.present,
		"this version keeps no state: ignored"},
	    {"admin", cfg->admin.present,
		"this version has no management listener: ignored"},
	};

	for (size_t i = 0; i < ARRAY_LEN(unused); i++)
		if (unused[i].is_set && notes_at(n, "%s", unused[i].key))
			notes_warn(n, "%s", unused[i].why);
}

/* A store that was written down and is not asked is easily overlooked. */
static void
rules_unused_sections(const struct config *cfg, struct notes *n)
{
	const char *used =
	    config_keys_word("mapping.source", cfg->mapping.source);

	for (int i = 0; i < MAPPING_SOURCES; i++) {
		const char *name = config_keys_word("mapping.source", i);

		if (i != (int)cfg->mapping.source &&
		    notes_has(n, "mapping.%s", name) &&
		    notes_at(n, "mapping.%s", name))
			notes_warn(n,
			    "not used, because source is \"%s\"; expected "
			    "source: %s",
			    used, name);
	}
}

/* The suffix is cut before an @ is looked for. */
static void
rules_substitutes(const struct config *cfg, struct notes *n)
{
	const struct config_routing *routing = &cfg->routing;

	for (size_t i = 0; i < routing->n_master_user_separators; i++)
		if (strpbrk(routing->master_user_separators[i],
			routing->at_substitutes) != NULL &&
		    notes_at(n, "routing.at_substitutes")) {
			notes_error(n,
			    "\"%s\" is a master-user separator too; expected "
			    "other characters",
			    routing->master_user_separators[i]);
			return;
		}
}

/* What it compares with is kept there. */
static void
rules_guard(const struct config *cfg, struct notes *n)
{
	if (cfg->routing.guard == GUARD_REFUSE && !cfg->state.present &&
	    notes_at(n, "routing.guard"))
		notes_error(n, "refuse without state; expected state:");
}

static void
rules_admin_tls(const struct config *cfg, struct notes *n)
{
	const struct config_admin *admin = &cfg->admin;
	const char *nearest = NULL;
	char shown[LOG_FIELD_MAX * 4 + 8];
	size_t least = SIZE_MAX;

	if (*admin->certificate == '\0')
		return;
	for (size_t i = 0; i < cfg->tls.n_certificate; i++) {
		const char *name = cfg->tls.certificate[i].name;
		size_t d = near_distance(name, admin->certificate);

		if (strcmp(name, admin->certificate) == 0)
			return;
		if (d < least) {
			least = d;
			nearest = name;
		}
	}
	log_escape(admin->certificate, strlen(admin->certificate), shown,
	    sizeof(shown));
	if (notes_at(n, "tls.certificate") && notes_at(n, "admin.certificate"))
		rules_undeclared(n, shown, nearest,
		    "a name below tls.certificate");
}

/* The socket asks for no token, and lets in whom the system lets in. */
static void
rules_admin_bind(const struct config *cfg, struct notes *n)
{
	const struct config_admin *admin = &cfg->admin;

	if (admin->bind.len > 0)
		return;
	if (admin->n_allow > 0 && notes_at(n, "admin.allow"))
		notes_warn(n, "not used without bind; expected bind");
	if (*admin->read_token_file != '\0' &&
	    notes_at(n, "admin.read_token_file"))
		notes_warn(n, "not used without bind; expected bind");
}

/* By name; rules_loops() has the addresses. */
static void
rules_own_name(const struct config *cfg, struct notes *n)
{
	for (size_t i = 0; i < cfg->n_destination; i++) {
		const struct config_destination *d = &cfg->destination[i];

		if (!d->pop3.present ||
		    strcasecmp(d->host, cfg->server.hostname) != 0)
			continue;
		for (size_t k = 0; k < cfg->n_listener; k++)
			if (cfg->listener[k].n_bind > 0 &&
			    addr_port(&cfg->listener[k].bind[0]) ==
				d->pop3.port &&
			    notes_at(n, "destination.%s.host", d->name))
				notes_warn(n,
				    "routing loop: %s is our own name, and "
				    "listener.%s has its port; expected "
				    "another server",
				    d->host, cfg->listener[k].name);
	}
}

static void
rules_trust(const struct config *cfg, struct notes *n)
{
	char key[NOTES_PATH_MAX];

	for (size_t i = 0; i < cfg->n_listener; i++) {
		const struct config_listener *l = &cfg->listener[i];

		snprintf(key, sizeof(key), "listener.%s.proxy_trusted",
		    l->name);
		rules_trust_all(n, key, l->proxy_trusted, l->n_proxy_trusted);
		snprintf(key, sizeof(key), "listener.%s.xclient_trusted",
		    l->name);
		rules_trust_all(n, key, l->xclient_trusted,
		    l->n_xclient_trusted);
	}
	rules_trust_all(n, "limits.exempt", cfg->limits.exempt,
	    cfg->limits.n_exempt);
}

/* Whoever may say any address is bound by no limit per address. */
static void
rules_trust_all(struct notes *n, const char *key, const struct cidr *list,
    size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (list[i].bits == 0 && notes_at(n, "%s", key)) {
			notes_warn(n,
			    "everybody is trusted; expected the networks of "
			    "your own hosts");
			return;
		}
}

static void
rules_listener_port(struct notes *n, const struct config_listener *l)
{
	for (size_t i = 0; i < l->n_bind; i++) {
		unsigned port = addr_port(&l->bind[i]);

		if (!rules_port_contradicts(port, l->tls) ||
		    !notes_at(n, "listener.%s.tls", l->name))
			continue;
		notes_warn(n, "contradicts port %u; expected %s", port,
		    port == 995 ? "implicit" : "starttls");
		return;
	}
}

static bool
rules_port_contradicts(unsigned port, enum tls_mode tls)
{
	return (port == 995 && tls != TLS_IMPLICIT) ||
	    (port == 110 && tls == TLS_IMPLICIT);
}

static void
rules_destination_port(struct notes *n, const struct config_destination *d)
{
	if (d->pop3.present &&
	    rules_port_contradicts(d->pop3.port, d->pop3.tls) &&
	    notes_at(n, "destination.%s.protocol.pop3.port", d->name))
		notes_warn(n, "%u contradicts tls; expected tls: %s",
		    d->pop3.port,
		    d->pop3.port == 995 ? "implicit" : "starttls");
}

/* TLS before 1.2 has no suite with AEAD. */
static void
rules_listener_profile(struct notes *n, const struct config_listener *l)
{
	if (l->min_version < TLS_V1_2 && l->profile == PROFILE_MODERN &&
	    l->tls != TLS_PLAIN && notes_at(n, "listener.%s.profile", l->name))
		notes_warn(n,
		    "modern has no cipher suite for TLS before 1.2; expected "
		    "intermediate");
}

static void
rules_old_backend(struct notes *n, const struct config_destination *d)
{
	if (d->tls_min_version < TLS_V1_2 &&
	    notes_at(n, "destination.%s.tls_min_version", d->name))
		notes_warn(n,
		    "TLS before 1.2 is broken, for old servers only; expected "
		    "1.2 or 1.3");
	if (d->tls_legacy && notes_at(n, "destination.%s.tls_legacy", d->name))
		notes_warn(n,
		    "weak keys and cipher suites are accepted, for old servers "
		    "only; expected false");
}

static void
rules_admin(const struct config *cfg, struct notes *n)
{
	const struct config_admin *admin = &cfg->admin;

	if (admin->present && admin->bind.len == 0 && *admin->socket == '\0' &&
	    notes_at(n, "admin"))
		notes_error(n,
		    "neither bind nor socket; expected at least one of them");
}

/* The server of the API reads a token in a file and checks its length. */
static void
rules_admin_token(const struct config *cfg, struct notes *n)
{
	const struct config_admin *admin = &cfg->admin;
	bool token = *admin->bearer_token != '\0';
	bool file = *admin->bearer_token_file != '\0';

	if (!admin->present || !notes_at(n, "admin.bearer_token_file") ||
	    !notes_at(n, "admin.bearer_token"))
		return;
	if (admin->bind.len > 0 && !token && !file)
		notes_error(n,
		    "no token; expected bearer_token_file, bearer_token or the "
		    "environment's MAILFERRY_ADMIN_TOKEN");
	if (token && file)
		notes_error(n,
		    "beside bearer_token_file; expected one of them");
	if (token && strlen(admin->bearer_token) < admin->min_token_len)
		notes_error(n,
		    "too short, maybe from MAILFERRY_ADMIN_TOKEN; expected at "
		    "least %u octets, as min_token_len says",
		    admin->min_token_len);
}

static void
rules_proxy(struct notes *n, const struct config_listener *l)
{
	if (l->proxy_protocol == PROXY_OFF) {
		if (l->n_proxy_trusted > 0 &&
		    notes_at(n, "listener.%s.proxy_trusted", l->name))
			notes_warn(n,
			    "not used while proxy_protocol is off; expected "
			    "proxy_protocol: required");
		return;
	}
	if (l->n_proxy_trusted == 0 &&
	    notes_at(n, "listener.%s.proxy_trusted", l->name))
		notes_error(n,
		    "no peer may send the header that proxy_protocol requires; "
		    "expected at least one CIDR");
	if (l->proxy_protocol == PROXY_OPTIONAL && l->tls != TLS_IMPLICIT &&
	    notes_at(n, "listener.%s.proxy_protocol", l->name))
		notes_warn(n,
		    "optional delays every cleartext greeting by up to "
		    "proxy_header_timeout; expected required");
}

static void
rules_old_tls(struct notes *n, const struct config_listener *l)
{
	if (l->min_version < TLS_V1_2 &&
	    notes_at(n, "listener.%s.min_version", l->name))
		notes_warn(n,
		    "TLS before 1.2 is broken, for old devices only; expected "
		    "1.2 or 1.3");
}

static void
rules_endpoint(struct notes *n, const struct config_destination *d)
{
	if (!d->pop3.present && notes_at(n, "destination.%s.protocol", d->name))
		notes_error(n, "no endpoint; expected pop3");
}

static void
rules_plaintext(struct notes *n, const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls == TLS_PLAIN &&
	    !d->allow_plaintext_auth &&
	    notes_at(n, "destination.%s.protocol.pop3.tls", d->name))
		notes_error(n,
		    "plain sends passwords in clear; expected implicit or "
		    "starttls, or the destination's allow_plaintext_auth: true");
}

static void
rules_server_name(struct notes *n, const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls != TLS_PLAIN &&
	    d->host_addr.len > 0 && *d->tls_server_name == '\0' &&
	    !d->tls_pinned && !d->tls_allow_invalid_certs &&
	    notes_at(n, "destination.%s.tls_server_name", d->name))
		notes_error(n,
		    "missing, and host is an address; expected the name in its "
		    "certificate, or tls_pinned_cert_sha256");
}

static void
rules_client_cert(struct notes *n, const struct config_destination *d)
{
	bool cert = *d->tls_client_cert != '\0';
	bool key = *d->tls_client_key != '\0';

	if (cert && !key &&
	    notes_at(n, "destination.%s.tls_client_cert", d->name))
		notes_error(n,
		    "without tls_client_key; expected both or neither");
	if (key && !cert &&
	    notes_at(n, "destination.%s.tls_client_key", d->name))
		notes_error(n,
		    "without tls_client_cert; expected both or neither");
}

static void
rules_invalid_certs(struct notes *n, const struct config_destination *d)
{
	if (d->tls_allow_invalid_certs &&
	    notes_at(n, "destination.%s.tls_allow_invalid_certs", d->name))
		notes_warn(n,
		    "an attacker in between can read the passwords; expected "
		    "tls_pinned_cert_sha256");
}

static void
rules_old_forwarding(struct notes *n, const struct config_destination *d)
{
	if ((int)d->proxy_protocol != CONFIG_UNSET &&
	    notes_at(n, "destination.%s.proxy_protocol", d->name))
		notes_warn(n, "an old spelling; expected forwarding: %s",
		    d->proxy_protocol == FORWARD_PROXY ? "proxy" : "none");
}

/* Told at the key that decided it. */
static void
rules_forwarding(struct notes *n, const struct config_destination *d)
{
	static const char *const keys[] = {
	    "protocol.pop3.forwarding", "forwarding", "proxy_protocol"};
	size_t i = 0;

	if (!d->pop3.present || d->pop3.forwarding != FORWARD_NONE)
		return;
	while (i < ARRAY_LEN(keys) - 1 &&
	    !notes_has(n, "destination.%s.%s", d->name, keys[i]))
		i++;
	if (notes_at(n, "destination.%s.%s", d->name, keys[i]))
		notes_warn(n,
		    "no forwarding: the backend's limits per address hit all "
		    "users at once; expected proxy or xclient");
}

static void
rules_loops(const struct config *cfg, struct notes *n)
{
	for (size_t i = 0; i < cfg->n_destination; i++) {
		const struct config_destination *d = &cfg->destination[i];
		struct addr to = d->host_addr;

		if (to.len == 0 || !d->pop3.present)
			continue;
		addr_set_port(&to, d->pop3.port);
		rules_loop(cfg, n, d->name, &to);
	}
}

static void
rules_loop(const struct config *cfg, struct notes *n, const char *name,
    const struct addr *to)
{
	char text[ADDR_TEXT_MAX];

	for (size_t i = 0; i < cfg->n_listener; i++) {
		const struct config_listener *l = &cfg->listener[i];

		for (size_t k = 0; k < l->n_bind; k++)
			if (rules_reaches(to, &l->bind[k]) &&
			    notes_at(n, "destination.%s.host", name))
				notes_error(n,
				    "routing loop: %s is our own listener.%s; "
				    "expected another server",
				    addr_text(to, text), l->name);
	}
}

/* Returns true if a connection to this address would reach the socket bound.
 * Checks only literal addresses; the session checks again when names are
 * resolved. */
static bool
rules_reaches(const struct addr *to, const struct addr *bound)
{
	bool local = rules_is_loopback(to) || addr_is_unspecified(to);

	if (addr_port(to) != addr_port(bound))
		return false;
	if (addr_same_ip(to, bound))
		return true;
	if (to->u.sa.sa_family != bound->u.sa.sa_family)
		return false;
	if (addr_is_unspecified(bound))
		return local;
	/* Linux sends a connection to 0.0.0.0 to 127.0.0.1. */
	return addr_is_unspecified(to) && rules_is_loopback(bound);
}

static bool
rules_is_loopback(const struct addr *a)
{
	if (a->u.sa.sa_family == AF_INET)
		return ntohl(a->u.in.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->u.in6.sin6_addr);
}
