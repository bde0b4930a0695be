/* summary.c: "mailferry -t": prints what would run. */

#include "summary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "config/config.h"
#include "platform/log.h"
#include "service/runtime.h"
#include "store/store.h"
#include "store/file.h"
#include "net/tls_identity.h"

#define SUMMARY_NAMES 4 /* of a certificate; the others are counted */

static void summary_server(const struct config *cfg, unsigned workers);
static void summary_listener(const struct config *cfg,
    const struct config_listener *l);
static void summary_certificate(const struct runtime *rt, size_t i,
    const struct tls_identity_info *info);
static void summary_destination(const struct config *cfg,
    const struct config_destination *d);
static void summary_verification(const struct config_destination *d);
static void summary_mapping(const struct runtime *rt);

static const char *const summary_tls[] = {
    [TLS_IMPLICIT] = "implicit TLS",
    [TLS_STARTTLS] = "STARTTLS",
    [TLS_PLAIN] = "no TLS",
};

const char *const summary_forwarding[] = {
    [FORWARD_PROXY] = "PROXY protocol",
    [FORWARD_XCLIENT] = "XCLIENT",
    [FORWARD_NONE] = "none",
};

void
summary_print(const struct runtime *rt, unsigned workers)
{
	const struct config *cfg = rt->cfg;
	struct tls_identity_info info;

	summary_server(cfg, workers);
	printf("\nlisteners\n");
	for (size_t i = 0; i < cfg->n_listener; i++)
		summary_listener(cfg, &cfg->listener[i]);
	if (tls_identities_info(rt->identities, 0, &info))
		printf("\ncertificates\n");
	for (size_t i = 0; tls_identities_info(rt->identities, i, &info); i++)
		summary_certificate(rt, i, &info);
	printf("\ndestinations\n");
	for (size_t i = 0; i < cfg->n_destination; i++)
		summary_destination(cfg, &cfg->destination[i]);
	printf("\nmapping\n");
	summary_mapping(rt);
	printf("\n");
}

static void
summary_server(const struct config *cfg, unsigned workers)
{
	const struct config_server *s = &cfg->server;

	printf("server\n  ");
	summary_text(s->hostname);
	printf(", %u worker%s", workers, workers == 1 ? "" : "s");
	if (*s->user != '\0') {
		printf(", as user ");
		summary_text(s->user);
	}
	printf(", log: ");
	summary_text(s->log_target);
	printf("\n");
}

static void
summary_listener(const struct config *cfg, const struct config_listener *l)
{
	static const char *const proxy[] = {
	    [PROXY_OFF] = "",
	    [PROXY_OPTIONAL] = ", PROXY protocol optional",
	    [PROXY_REQUIRED] = ", PROXY protocol required",
	};
	static const char *const version[] = {
	    [TLS_V1_0] = "1.0",
	    [TLS_V1_1] = "1.1",
	    [TLS_V1_2] = "1.2",
	    [TLS_V1_3] = "1.3",
	};
	char text[ADDR_TEXT_MAX];

	printf("  %s:", l->name);
	for (size_t i = 0; i < l->n_bind; i++)
		printf(" %s", addr_text(&l->bind[i], text));
	printf(", %s%s", summary_tls[l->tls], proxy[l->proxy_protocol]);
	if (l->n_xclient_trusted > 0)
		printf(", XCLIENT from %zu network%s", l->n_xclient_trusted,
		    l->n_xclient_trusted == 1 ? "" : "s");
	if (l->min_version != cfg->tls.min_version && l->tls != TLS_PLAIN)
		printf(", TLS %s or newer", version[l->min_version]);
	printf(", %u connections", l->max_connections);
	config_listener_changes(l, stdout);
	printf("\n");
}

static void
summary_certificate(const struct runtime *rt, size_t i,
    const struct tls_identity_info *info)
{
	const struct config *cfg = rt->cfg;

	printf("  %s:",
	    info->self_made ? "(self-signed, made at every start)"
			    : cfg->tls.certificate[i].name);
	for (size_t n = 0; n < info->n_names && n < SUMMARY_NAMES; n++) {
		printf(" ");
		summary_text(info->name[n]);
	}
	if (info->n_names > SUMMARY_NAMES)
		printf(" and %zu more", info->n_names - SUMMARY_NAMES);
	if (info->days < 0)
		printf(", expired on %s", info->ends);
	else
		printf(", until %s (%d day%s)", info->ends, info->days,
		    info->days == 1 ? "" : "s");
	printf(", issued by ");
	summary_text(info->issuer);
	printf("%s\n", info->is_default ? ", default" : "");
}

static void
summary_destination(const struct config *cfg,
    const struct config_destination *d)
{
	static const char *const auth[] = {
	    [AUTH_AUTO] = "",
	    [AUTH_SASL] = ", by AUTH",
	    [AUTH_USER] = ", by USER and PASS",
	};

	printf("  %s: ", d->name);
	summary_endpoint(d);
	printf(", %s", summary_tls[d->pop3.tls]);
	if (d->pop3.tls != TLS_PLAIN)
		summary_verification(d);
	printf(", forwarding: %s%s%s\n", summary_forwarding[d->pop3.forwarding],
	    auth[d->pop3.auth],
	    strcmp(d->name, cfg->routing.default_destination) == 0 ? ", default"
								   : "");
}

void
summary_endpoint(const struct config_destination *d)
{
	bool v6 = strchr(d->host, ':') != NULL;

	printf("%s%s%s:%u", v6 ? "[" : "", d->host, v6 ? "]" : "",
	    d->pop3.port);
}

static void
summary_verification(const struct config_destination *d)
{
	if (d->tls_pinned)
		printf(" (pinned certificate)");
	else if (d->tls_allow_invalid_certs)
		printf(" (ANY certificate)");
	else {
		printf(" (verified as ");
		summary_text(d->tls_server_name);
		printf(" by ");
		summary_text(*d->tls_ca_file != '\0' ? d->tls_ca_file
						     : "the system's CAs");
		printf(")");
	}
}

static void
summary_mapping(const struct runtime *rt)
{
	const struct config_mapping *m = &rt->cfg->mapping;
	char text[STORE_DESCRIPTION_MAX];

	store_describe(rt->cfg, rt->table, text, sizeof(text));
	printf("  %s: ", store_kind_find(m)->name);
	summary_text(text);
	printf("%s\n",
	    m->normalize == NORMALIZE_NONE	   ? ", case counts"
		: m->normalize == NORMALIZE_DOMAIN ? ", case counts before @"
						   : "");
}

/* Escapes text that an operator wrote. */
void
summary_text(const char *text)
{
	char shown[LOG_FIELD_MAX * 4 + 8];

	fputs(log_escape(text, strlen(text), shown, sizeof(shown)), stdout);
}

int
summary_flush(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_SUCCESS;
	fprintf(stderr, "mailferry: cannot write: %s\n", strerror(errno));
	return EX_IOERR;
}
