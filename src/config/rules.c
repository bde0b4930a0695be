/* rules.c: what must hold in a configuration beyond the value of one key.
 *
 * One function for each rule; the tables below are the index. A rule stays
 * silent where its keys are bad already: notes_at() knows. */

#include "rules.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "keys.h"
#include "notes.h"
#include "platform/log.h"

/* A cipher suite that we would use towards clients. */
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
static void rules_mapping(const struct config *cfg, struct notes *n);
static void rules_unused(const struct config *cfg, struct notes *n);
static void rules_admin(const struct config *cfg, struct notes *n);
static void rules_admin_token(const struct config *cfg, struct notes *n);
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
    rules_unused,
    rules_admin,
    rules_admin_token,
    rules_loops,
};

static void (*const rules_of_listener[])(struct notes *,
    const struct config_listener *) = {
    rules_proxy,
    rules_old_tls,
};

static void (*const rules_of_destination[])(struct notes *,
    const struct config_destination *) = {
    rules_endpoint,
    rules_plaintext,
    rules_server_name,
    rules_client_cert,
    rules_invalid_certs,
    rules_old_forwarding,
    rules_forwarding,
};

/* Forward secret and authenticated, all of them. */
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
		    "under the 10 minutes that RFC 1939 grants an idle client "
		    "(10m or more)");
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
			notes_error(n, "%zu beside %zu of cert (one for each)",
			    c->n_key, c->n_cert);
		if (!c->is_default)
			continue;
		if (first != NULL &&
		    notes_at(n, "tls.certificate.%s.default", c->name))
			notes_error(n,
			    "\"%s\" is the default already (one default)",
			    first->name);
		if (first == NULL)
			first = c;
	}
}

/* Listeners may ask for TLS 1.3 each by itself. */
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
		    "no cipher suite is left for %s (at least one of TLS "
		    "%s)",
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
		/* Bad elements are left out: the numbers would be wrong. */
		if (!notes_at(n, "listener.%s.bind", cfg->listener[i].name))
			continue;
		for (k = 0; k < cfg->listener[i].n_bind; k++)
			rules_bind_check(cfg, n, i, k);
	}
}

/* Is a bind address one of an earlier line, or the management's? */
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
		    "%s is listened on by listener.%s already (an address of "
		    "its own)",
		    addr_text(own, text), taken);
	if (rules_is_same(own, &cfg->admin.bind) && notes_at(n, "admin.bind"))
		notes_error(n,
		    "%s is listened on by listener.%s already (an address of "
		    "its own)",
		    addr_text(own, text), cfg->listener[listener].name);
}

static bool
rules_is_same(const struct addr *a, const struct addr *b)
{
	return addr_port(a) == addr_port(b) && addr_same_ip(a, b);
}

/* CAPA would say it twice. */
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
				    "%s is added as needed (further lines)",
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
		notes_error(n,
		    "\"%s\" is not declared (a name below destination)", shown);
	else if (!cfg->destination[i].pop3.present && cfg->n_listener > 0)
		notes_error(n,
		    "\"%s\" has no endpoint for pop3, which listener.%s "
		    "accepts (a destination with protocol.pop3)",
		    shown, cfg->listener[0].name);
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
		notes_error(n, "\"%s\" has no section (mapping.%s)", source,
		    source);
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

static void
rules_admin(const struct config *cfg, struct notes *n)
{
	const struct config_admin *admin = &cfg->admin;

	if (admin->present && admin->bind.len == 0 && *admin->socket == '\0' &&
	    notes_at(n, "admin"))
		notes_error(n,
		    "neither bind nor socket (at least one of them)");
}

/* A token in a file is read, and measured, by who serves it. */
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
		    "missing (bearer_token_file, bearer_token or the "
		    "environment's MAILFERRY_ADMIN_TOKEN)");
	if (token && file)
		notes_error(n, "beside bearer_token_file (one of them)");
	if (token && strlen(admin->bearer_token) < admin->min_token_len)
		notes_error(n,
		    "too short, maybe from MAILFERRY_ADMIN_TOKEN (at least %u "
		    "octets, as min_token_len says)",
		    admin->min_token_len);
}

static void
rules_proxy(struct notes *n, const struct config_listener *l)
{
	if (l->proxy_protocol == PROXY_OFF)
		return;
	if (l->n_proxy_trusted == 0 &&
	    notes_at(n, "listener.%s.proxy_trusted", l->name))
		notes_error(n,
		    "nobody may send the header that proxy_protocol asks for "
		    "(at least one CIDR)");
	if (l->proxy_protocol == PROXY_OPTIONAL && l->tls != TLS_IMPLICIT &&
	    notes_at(n, "listener.%s.proxy_protocol", l->name))
		notes_warn(n,
		    "optional delays every greeting in clear by up to "
		    "proxy_header_timeout (required)");
}

static void
rules_old_tls(struct notes *n, const struct config_listener *l)
{
	if (l->min_version < TLS_V1_2 &&
	    notes_at(n, "listener.%s.min_version", l->name))
		notes_warn(n,
		    "TLS before 1.2 is broken, for old devices only (1.2 or "
		    "1.3)");
}

static void
rules_endpoint(struct notes *n, const struct config_destination *d)
{
	if (!d->pop3.present && notes_at(n, "destination.%s.protocol", d->name))
		notes_error(n, "no endpoint (pop3)");
}

static void
rules_plaintext(struct notes *n, const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls == TLS_PLAIN &&
	    !d->allow_plaintext_auth &&
	    notes_at(n, "destination.%s.protocol.pop3.tls", d->name))
		notes_error(n,
		    "plain sends passwords in clear (implicit or starttls, or "
		    "the destination's allow_plaintext_auth: true)");
}

static void
rules_server_name(struct notes *n, const struct config_destination *d)
{
	if (d->pop3.present && d->pop3.tls != TLS_PLAIN &&
	    d->host_addr.len > 0 && *d->tls_server_name == '\0' &&
	    !d->tls_pinned && !d->tls_allow_invalid_certs &&
	    notes_at(n, "destination.%s.tls_server_name", d->name))
		notes_error(n,
		    "missing, as host is an address (the name in its "
		    "certificate, or tls_pinned_cert_sha256)");
}

static void
rules_client_cert(struct notes *n, const struct config_destination *d)
{
	bool cert = *d->tls_client_cert != '\0';
	bool key = *d->tls_client_key != '\0';

	if (cert && !key &&
	    notes_at(n, "destination.%s.tls_client_cert", d->name))
		notes_error(n, "without tls_client_key (both or neither)");
	if (key && !cert &&
	    notes_at(n, "destination.%s.tls_client_key", d->name))
		notes_error(n, "without tls_client_cert (both or neither)");
}

static void
rules_invalid_certs(struct notes *n, const struct config_destination *d)
{
	if (d->tls_allow_invalid_certs &&
	    notes_at(n, "destination.%s.tls_allow_invalid_certs", d->name))
		notes_warn(n,
		    "anybody in between can read the passwords "
		    "(tls_pinned_cert_sha256)");
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
		    "users at once (proxy or xclient)");
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
				    "%s is our own listener.%s: a loop "
				    "(another server)",
				    addr_text(to, text), l->name);
	}
}

/* Would a connection to arrive at the socket bound? Only what addresses tell
 * by themselves; the session knows more once names are resolved. */
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
	/* Linux takes a connection to 0.0.0.0 to 127.0.0.1. */
	return addr_is_unspecified(to) && rules_is_loopback(bound);
}

static bool
rules_is_loopback(const struct addr *a)
{
	if (a->u.sa.sa_family == AF_INET)
		return ntohl(a->u.in.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->u.in6.sin6_addr);
}
