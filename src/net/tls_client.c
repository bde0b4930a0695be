/* tls_client.c: TLS towards backends.
 *
 * Sessions are kept as objects on a small stack, newest on top. A TLS 1.3
 * ticket is popped for one use (RFC 8446 §C.4); a TLS 1.2 session stays. All of
 * them come from handshakes that passed this destination's own verification,
 * and go with the runtime when anything is configured anew. */

#include "net/tls_client.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "proto/xclient.h"
#include "tls_common.h"

#define TLS_CLIENT_SESSIONS 128

struct tls_trust {
	X509_STORE *store;
	X509 *cert; /* ours, or NULL */
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
};

struct tls_client {
	const struct config_destination *dest;
	SSL_CTX *ctx;
	SSL_SESSION *session[TLS_CLIENT_SESSIONS];
	size_t n_sessions;
};

static int tls_client_index = -1; /* SSL_CTX ex data: its tls_client */

static void tls_trust_settle(X509_STORE *store);
static bool tls_trust_store(struct tls_trust *t,
    const struct config_destination *d, struct err *err);
static bool tls_trust_identity(struct tls_trust *t, const char *cert,
    const char *key, struct err *err);
static bool tls_client_setup(struct tls_client *tc,
    const struct tls_trust *trust);
static struct tls_client *tls_client_of(const SSL *ssl);
static int tls_client_new_session_cb(SSL *ssl, SSL_SESSION *session);
static int tls_client_verify_cb(X509_STORE_CTX *store, void *arg);
static bool tls_client_pin_matches(const struct tls_client *tc, X509 *leaf);
static SSL_SESSION *tls_client_session(struct tls_client *tc);
static bool tls_client_name(const struct tls_client *tc, SSL *ssl);

struct tls_trust *
tls_trust_load(const struct config *cfg, size_t destination,
    struct config_problems *problems)
{
	const struct config_destination *d = &cfg->destination[destination];
	struct tls_trust *t = calloc(1, sizeof(*t));
	struct err err = {"out of memory"};
	const char *which = "tls_ca_file";
	char key[256];
	bool ok = false;

	if (t != NULL)
		ok = tls_trust_store(t, d, &err);
	if (ok && d->tls_client_cert[0] != '\0') {
		which = "tls_client_cert";
		ok = tls_trust_identity(t, d->tls_client_cert,
		    d->tls_client_key, &err);
	}
	if (ok)
		return t;
	snprintf(key, sizeof(key), "destination.%s.%s", d->name, which);
	config_problem(cfg, problems, key, "%s", err.text);
	tls_trust_free(&t);
	return NULL;
}

static bool
tls_trust_store(struct tls_trust *t, const struct config_destination *d,
    struct err *err)
{
	int ok;

	if (d->pop3.tls == TLS_PLAIN)
		return true;
	t->store = X509_STORE_new();
	if (t->store == NULL)
		return false;
	ERR_clear_error();
	if (d->tls_ca_file[0] != '\0')
		ok = X509_STORE_load_file(t->store, d->tls_ca_file);
	else
		ok = X509_STORE_set_default_paths(t->store);
	if (ok != 1) {
		err_set_ssl(err, "cannot read CA certificates from %s",
		    d->tls_ca_file[0] != '\0' ? d->tls_ca_file
					      : "the system's store");
		return false;
	}
	ERR_clear_error();
	tls_trust_settle(t->store);
	return true;
}

/* The workers share it, and must find nothing left to be worked out. */
static void
tls_trust_settle(X509_STORE *store)
{
	STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(store);

	for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
		X509 *cert =
		    X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

		if (cert != NULL)
			tls_common_settle(cert);
	}
}

static bool
tls_trust_identity(struct tls_trust *t, const char *cert, const char *key,
    struct err *err)
{
	if (tls_common_load_cert(cert, &t->cert, &t->chain, err) == -1 ||
	    tls_common_load_key(key, &t->key, err) == -1)
		return false;
	if (X509_check_private_key(t->cert, t->key) != 1) {
		ERR_clear_error();
		err_set(err, "%s and %s are not a pair", cert, key);
		return false;
	}
	return true;
}

void
tls_trust_free(struct tls_trust **tp)
{
	struct tls_trust *t = *tp;

	*tp = NULL;
	if (t == NULL)
		return;
	X509_STORE_free(t->store);
	X509_free(t->cert);
	sk_X509_pop_free(t->chain, X509_free);
	EVP_PKEY_free(t->key);
	free(t);
}

struct tls_client *
tls_client_new(const struct config_destination *dest,
    const struct tls_trust *trust, struct err *err)
{
	struct tls_client *tc = calloc(1, sizeof(*tc));

	if (tc == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	tc->dest = dest;
	if (dest->pop3.tls == TLS_PLAIN)
		return tc;
	if (!tls_client_setup(tc, trust)) {
		err_set_ssl(err, "destination %s: cannot set up TLS",
		    dest->name);
		tls_client_free(&tc);
	}
	return tc;
}

static bool
tls_client_setup(struct tls_client *tc, const struct tls_trust *trust)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	tc->ctx = ctx;
	if (ctx == NULL)
		return false;
	if (tls_client_index == -1)
		tls_client_index =
		    SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	tls_common_options(ctx);
	if (SSL_CTX_set_ex_data(ctx, tls_client_index, tc) != 1 ||
	    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
	    SSL_CTX_set_alpn_protos(ctx, tls_alpn, sizeof(tls_alpn)) != 0)
		return false;
	if (trust->cert != NULL &&
	    SSL_CTX_use_cert_and_key(ctx, trust->cert, trust->key, trust->chain,
		1) != 1)
		return false;
	SSL_CTX_set1_cert_store(ctx, trust->store);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (tc->dest->tls_pinned || tc->dest->tls_allow_invalid_certs)
		SSL_CTX_set_cert_verify_callback(ctx, tls_client_verify_cb,
		    NULL);
	SSL_CTX_set_session_cache_mode(ctx,
	    SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, tls_client_new_session_cb);
	return true;
}

void
tls_client_free(struct tls_client **tcp)
{
	struct tls_client *tc = *tcp;

	*tcp = NULL;
	if (tc == NULL)
		return;
	/* Relayed connections keep the context: their callbacks find NULL. No
	 * handshake needs its trust store again, which is large. */
	if (tc->ctx != NULL && tls_client_index != -1) {
		SSL_CTX_set_ex_data(tc->ctx, tls_client_index, NULL);
		SSL_CTX_set_cert_store(tc->ctx, NULL);
	}
	while (tc->n_sessions > 0)
		SSL_SESSION_free(tc->session[--tc->n_sessions]);
	SSL_CTX_free(tc->ctx);
	free(tc);
}

/* Returns NULL once tls_client_free() has freed the one that made ssl. */
static struct tls_client *
tls_client_of(const SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), tls_client_index);
}

/* In place of the chain: the pin decides alone; without one, anything goes. */
static int
tls_client_verify_cb(X509_STORE_CTX *store, void *arg UNUSED)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(store,
	    SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct tls_client *tc = tls_client_of(ssl);
	X509 *leaf = X509_STORE_CTX_get0_cert(store);

	if (tc == NULL ||
	    (tc->dest->tls_pinned && !tls_client_pin_matches(tc, leaf))) {
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
		return 0;
	}
	X509_STORE_CTX_set_error(store, X509_V_OK);
	return 1;
}

static bool
tls_client_pin_matches(const struct tls_client *tc, X509 *leaf)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len = 0;

	return leaf != NULL &&
	    X509_digest(leaf, EVP_sha256(), digest, &len) == 1 &&
	    len == sizeof(tc->dest->tls_pin) &&
	    memcmp(digest, tc->dest->tls_pin, len) == 0;
}

/* A ticket has come. The oldest makes room. */
static int
tls_client_new_session_cb(SSL *ssl, SSL_SESSION *session)
{
	struct tls_client *tc = tls_client_of(ssl);

	if (tc == NULL || !SSL_SESSION_is_resumable(session))
		return 0;
	if (tc->n_sessions == TLS_CLIENT_SESSIONS) {
		SSL_SESSION_free(tc->session[0]);
		tc->n_sessions--;
		memmove(&tc->session[0], &tc->session[1],
		    tc->n_sessions * sizeof(tc->session[0]));
	}
	tc->session[tc->n_sessions++] = session;
	return 1; /* ours now */
}

/* The newest session that still lives, as the caller's reference. */
static SSL_SESSION *
tls_client_session(struct tls_client *tc)
{
	while (tc->n_sessions > 0) {
		SSL_SESSION *s = tc->session[tc->n_sessions - 1];
		long age = (long)time(NULL) - SSL_SESSION_get_time(s);

		if (age < 0 || age >= SSL_SESSION_get_timeout(s)) {
			SSL_SESSION_free(s);
			tc->n_sessions--;
			continue;
		}
		if (SSL_SESSION_get_protocol_version(s) >= TLS1_3_VERSION)
			tc->n_sessions--;
		else
			SSL_SESSION_up_ref(s);
		return s;
	}
	return NULL;
}

/* What the certificate must be for, and SNI: only names are sent. */
static bool
tls_client_name(const struct tls_client *tc, SSL *ssl)
{
	const char *name = tc->dest->tls_server_name;
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	char sni[XCLIENT_NAME_MAX + 1]; /* the macro's cast drops const */
	struct addr addr;

	if (name[0] == '\0')
		return true;
	if (addr_parse_ip(name, &addr))
		return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	snprintf(sni, sizeof(sni), "%s", name);
	return SSL_set1_host(ssl, name) == 1 &&
	    SSL_set_tlsext_host_name(ssl, sni) == 1;
}

SSL *
tls_client_ssl(struct tls_client *tc)
{
	SSL *ssl = SSL_new(tc->ctx);
	SSL_SESSION *session;

	if (ssl == NULL || !tls_client_name(tc, ssl)) {
		ERR_clear_error();
		SSL_free(ssl);
		return NULL;
	}
	session = tls_client_session(tc);
	if (session != NULL) {
		SSL_set_session(ssl, session);
		SSL_SESSION_free(session);
	}
	return ssl;
}

bool
tls_client_verified(const struct tls_client *tc, SSL *ssl, struct err *err)
{
	const struct config_destination *d = tc->dest;
	const unsigned char *alpn;
	unsigned int alpn_len;
	X509 *leaf;

	if (!SSL_is_init_finished(ssl)) {
		err_set(err, "the TLS handshake is not finished");
		return false;
	}
	SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
	if (alpn_len > 0 &&
	    (alpn_len != sizeof(tls_alpn) - 1 ||
		memcmp(alpn, tls_alpn + 1, alpn_len) != 0)) {
		err_set(err, "the backend selected another protocol by ALPN");
		return false;
	}
	leaf = SSL_get0_peer_certificate(ssl);
	if (d->tls_pinned && !tls_client_pin_matches(tc, leaf)) {
		err_set(err, "the certificate is not the pinned one");
		return false;
	}
	if (d->tls_pinned || d->tls_allow_invalid_certs)
		return true;
	if (leaf == NULL || SSL_get_verify_result(ssl) != X509_V_OK) {
		err_set(err, "the certificate is not verified");
		return false;
	}
	return true;
}
