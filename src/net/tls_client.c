/* tls_client.c: TLS towards backends.
 *
 * Sessions are kept on a small stack, newest on top, and popped for one use
 * (TLS 1.3: RFC 8446 §C.4). A TLS 1.2 session is pushed back when it has
 * served, so that a session that makes the backend hang up or fall silent is
 * never offered twice. All of them come from handshakes that passed this
 * destination's own verification, and they are freed with the runtime after a
 * change of the configuration. A resumption verifies nothing, so a session
 * lives no longer than the chain that was verified for it. */

#include "net/tls_client.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "proto/xclient.h"
#include "tls_common.h"
#include "tls_explain.h"
#include "tls_trust.h"

#define TLS_CLIENT_SESSIONS 128
#define TLS_CLIENT_BITS 112 /* security level 2 */

/* What a connection offered its backend. */
enum tls_offer { OFFER_SESSION = 1, OFFER_ALPN = 2 };

struct tls_client {
	const struct config_destination *dest;
	struct tls_trust *trust;
	SSL_CTX *ctx;
	SSL_SESSION *session[TLS_CLIENT_SESSIONS];
	size_t n_sessions;
};

static int tls_client_index = -1; /* SSL_CTX ex data: its tls_client */
static int tls_offer_index; /* SSL ex data: enum tls_offer's bits */
static int tls_ends_index; /* SSL_SESSION ex data: time_t; 0: never */

static bool tls_client_indices(void);
static bool tls_client_setup(struct tls_client *tc);
static bool tls_client_policy(SSL_CTX *ctx,
    const struct config_destination *dest);
static int tls_client_security_cb(const SSL *ssl, const SSL_CTX *ctx, int op,
    int bits, int nid, void *other, void *arg);
static int tls_client_level_cb(X509_STORE_CTX *store, void *arg);
static struct tls_client *tls_client_of(const SSL *ssl);
static int tls_client_new_session_cb(SSL *ssl, SSL_SESSION *session);
static void tls_client_keep(struct tls_client *tc, SSL_SESSION *session);
static void tls_client_forget(struct tls_client *tc);
static void tls_client_age_one(SSL_SESSION *session, long s);
static time_t tls_client_chain_ends(const SSL *ssl);
static time_t tls_client_ends(const SSL_SESSION *session);
static int tls_client_verify_cb(X509_STORE_CTX *store, void *arg);
static bool tls_client_pin_matches(const struct tls_client *tc, X509 *leaf);
static bool tls_client_alive(const SSL_SESSION *session, time_t now);
static SSL_SESSION *tls_client_session(struct tls_client *tc);
static bool tls_client_name(const struct tls_client *tc, SSL *ssl);
static bool tls_client_offer(struct tls_client *tc, SSL *ssl, bool resume);
static unsigned tls_client_offered(const SSL *ssl);
static bool tls_client_proves(const struct tls_client *tc, SSL *ssl,
    struct err *err);

struct tls_client *
tls_client_new(const struct config_destination *dest, struct tls_trust *trust,
    struct err *err)
{
	struct tls_client *tc = calloc(1, sizeof(*tc));

	if (tc == NULL) {
		err_set(err, "out of memory");
		return NULL;
	}
	tc->dest = dest;
	tc->trust = trust;
	if (dest->pop3.tls == TLS_PLAIN)
		return tc;
	if (!tls_client_indices() || !tls_client_setup(tc)) {
		err_set_ssl(err, "destination %s: cannot set up TLS",
		    dest->name);
		tls_client_free(&tc);
	}
	return tc;
}

/* One runtime is built at a time. */
static bool
tls_client_indices(void)
{
	if (tls_client_index != -1)
		return true;
	tls_offer_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	tls_ends_index =
	    SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (tls_offer_index == -1 || tls_ends_index == -1 ||
	    !tls_explain_init())
		return false;
	tls_client_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	return tls_client_index != -1;
}

static bool
tls_client_setup(struct tls_client *tc)
{
	const struct tls_trust *trust = tc->trust;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	tc->ctx = ctx;
	if (ctx == NULL)
		return false;
	tls_common_options(ctx);
	if (SSL_CTX_set_ex_data(ctx, tls_client_index, tc) != 1 ||
	    !tls_client_policy(ctx, tc->dest))
		return false;
	if (trust->cert != NULL &&
	    SSL_CTX_use_cert_and_key(ctx, trust->cert, trust->key, trust->chain,
		1) != 1)
		return false;
	SSL_CTX_set1_cert_store(ctx, trust->store);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, tls_explain_verify_cb);
	/* In place of the one that tls_client_policy() may have set. */
	if (tc->dest->tls_pinned || tc->dest->tls_allow_invalid_certs)
		SSL_CTX_set_cert_verify_callback(ctx, tls_client_verify_cb,
		    NULL);
	SSL_CTX_set_session_cache_mode(ctx,
	    SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, tls_client_new_session_cb);
	return true;
}

/* Versions, and what an old server may be like. */
static bool
tls_client_policy(SSL_CTX *ctx, const struct config_destination *dest)
{
	/* Everything that OpenSSL still has, in its own order. */
	static const char legacy[] = "DEFAULT:@SECLEVEL=0";

	if (SSL_CTX_set_min_proto_version(ctx,
		tls_common_version(dest->tls_min_version)) != 1)
		return false;
	if (dest->tls_legacy) {
		SSL_CTX_set_options(ctx, SSL_OP_LEGACY_SERVER_CONNECT);
		return SSL_CTX_set_cipher_list(ctx, legacy) == 1;
	}
	if (dest->tls_min_version < TLS_V1_2) {
		/* OpenSSL has TLS 1.0 and 1.1 at level 0 only. */
		SSL_CTX_set_security_level(ctx, 0);
		SSL_CTX_set_security_callback(ctx, tls_client_security_cb);
		SSL_CTX_set_cert_verify_callback(ctx, tls_client_level_cb,
		    NULL);
	}
	return true;
}

/* Level 2, but for the version and for the signatures of its handshake. */
static int
tls_client_security_cb(const SSL *ssl UNUSED, const SSL_CTX *ctx UNUSED, int op,
    int bits, int nid UNUSED, void *other UNUSED, void *arg UNUSED)
{
	switch (op) {
	case SSL_SECOP_VERSION:
	case SSL_SECOP_COMPRESSION:
	case SSL_SECOP_TICKET:
	case SSL_SECOP_SIGALG_SUPPORTED:
	case SSL_SECOP_SIGALG_SHARED:
	case SSL_SECOP_SIGALG_CHECK:
	case SSL_SECOP_SIGALG_MASK:
		return 1;
	default:
		return bits >= TLS_CLIENT_BITS;
	}
}

/* Certificates go by the level alone, not by the callback above. */
static int
tls_client_level_cb(X509_STORE_CTX *store, void *arg UNUSED)
{
	X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(store), 2);
	return X509_verify_cert(store);
}

void
tls_client_free(struct tls_client **tcp)
{
	struct tls_client *tc = *tcp;

	*tcp = NULL;
	if (tc == NULL)
		return;
	/* Relayed connections keep the context, so their callbacks must find
	 * NULL. The trust store is large, and no handshake needs it again. */
	if (tc->ctx != NULL && tls_client_index != -1) {
		SSL_CTX_set_ex_data(tc->ctx, tls_client_index, NULL);
		SSL_CTX_set_cert_store(tc->ctx, NULL);
	}
	tls_client_forget(tc);
	SSL_CTX_free(tc->ctx);
	free(tc);
}

/* Returns NULL once tls_client_free() has freed the one that made ssl. */
static struct tls_client *
tls_client_of(const SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), tls_client_index);
}

/* Replaces the verification of the chain: only the pin decides; without a pin
 * every certificate is accepted. */
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

/* Called for a new session or ticket. A ticket of a resumed connection is a
 * copy, with the expiry date of the first one's chain. */
static int
tls_client_new_session_cb(SSL *ssl, SSL_SESSION *session)
{
	struct tls_client *tc = tls_client_of(ssl);
	time_t ends;

	if (tc == NULL || !SSL_SESSION_is_resumable(session))
		return 0;
	if (tls_client_ends(session) == 0 && !tc->dest->tls_pinned &&
	    !tc->dest->tls_allow_invalid_certs) {
		ends = tls_client_chain_ends(ssl);
		if (SSL_SESSION_set_ex_data(session, tls_ends_index,
			(void *)(uintptr_t)ends) != 1)
			return 0;
	}
	tls_client_keep(tc, session);
	return 1; /* ours now */
}

/* Takes the reference. Drops the oldest if the stack is full. */
static void
tls_client_keep(struct tls_client *tc, SSL_SESSION *session)
{
	if (tc->n_sessions == TLS_CLIENT_SESSIONS) {
		SSL_SESSION_free(tc->session[0]);
		tc->n_sessions--;
		memmove(&tc->session[0], &tc->session[1],
		    tc->n_sessions * sizeof(tc->session[0]));
	}
	tc->session[tc->n_sessions++] = session;
}

static void
tls_client_forget(struct tls_client *tc)
{
	while (tc->n_sessions > 0)
		SSL_SESSION_free(tc->session[--tc->n_sessions]);
}

/* Returns when the first certificate of the verified chain expires. */
static time_t
tls_client_chain_ends(const SSL *ssl)
{
	STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
	time_t ends = 0;

	for (int i = 0; i < sk_X509_num(chain); i++) {
		const X509 *x = sk_X509_value(chain, i);
		struct tm tm;
		time_t t;

		if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) != 1)
			continue;
		t = timegm(&tm);
		if (ends == 0 || t < ends)
			ends = t;
	}
	return ends;
}

static time_t
tls_client_ends(const SSL_SESSION *session)
{
	return (time_t)(uintptr_t)SSL_SESSION_get_ex_data(session,
	    tls_ends_index);
}

void
tls_client_age(struct tls_client *tc, long s)
{
	for (size_t i = 0; i < tc->n_sessions; i++)
		tls_client_age_one(tc->session[i], s);
}

static void
tls_client_age_one(SSL_SESSION *session, long s)
{
	time_t ends = tls_client_ends(session);

	SSL_SESSION_set_time(session, SSL_SESSION_get_time(session) - s);
	if (ends != 0)
		SSL_SESSION_set_ex_data(session, tls_ends_index,
		    (void *)(uintptr_t)(ends - s));
}

static bool
tls_client_alive(const SSL_SESSION *session, time_t now)
{
	long age = (long)now - SSL_SESSION_get_time(session);
	time_t ends = tls_client_ends(session);

	return age >= 0 && age < SSL_SESSION_get_timeout(session) &&
	    (ends == 0 || now < ends);
}

/* Returns the newest session that has not expired; the caller owns the
 * reference. */
static SSL_SESSION *
tls_client_session(struct tls_client *tc)
{
	time_t now = time(NULL);

	while (tc->n_sessions > 0) {
		SSL_SESSION *s = tc->session[--tc->n_sessions];

		if (tls_client_alive(s, now))
			return s;
		SSL_SESSION_free(s);
	}
	return NULL;
}

/* Sets the name or address for the verification, and SNI, which is only sent
 * for names. */
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
tls_client_ssl(struct tls_client *tc, bool resume)
{
	SSL *ssl = SSL_new(tc->ctx);

	if (ssl == NULL || !tls_client_name(tc, ssl) ||
	    !tls_client_offer(tc, ssl, resume)) {
		ERR_clear_error();
		SSL_free(ssl);
		return NULL;
	}
	return ssl;
}

static bool
tls_client_offer(struct tls_client *tc, SSL *ssl, bool resume)
{
	SSL_SESSION *session = resume ? tls_client_session(tc) : NULL;
	unsigned offer = 0;

	if (session != NULL && SSL_set_session(ssl, session) == 1)
		offer |= OFFER_SESSION;
	SSL_SESSION_free(session);
	if (!atomic_load(&tc->trust->no_alpn)) {
		if (SSL_set_alpn_protos(ssl, tls_alpn, sizeof(tls_alpn)) != 0)
			return false;
		offer |= OFFER_ALPN;
	}
	return SSL_set_ex_data(ssl, tls_offer_index,
		   (void *)(uintptr_t)offer) == 1;
}

static unsigned
tls_client_offered(const SSL *ssl)
{
	return (unsigned)(uintptr_t)SSL_get_ex_data(ssl, tls_offer_index);
}

bool
tls_client_verified(struct tls_client *tc, SSL *ssl, struct err *err)
{
	unsigned offer = tls_client_offered(ssl);

	if (!tls_client_proves(tc, ssl, err))
		return false;
	/* OpenSSL does not call back for a TLS 1.2 session that has served,
	 * nor for the new ticket that may have come with it. */
	if (offer & OFFER_SESSION && SSL_session_reused(ssl) == 1 &&
	    SSL_version(ssl) < TLS1_3_VERSION) {
		tls_client_keep(tc, SSL_get1_session(ssl));
		SSL_set_ex_data(ssl, tls_offer_index,
		    (void *)(uintptr_t)(offer & ~(unsigned)OFFER_SESSION));
	}
	return true;
}

static bool
tls_client_proves(const struct tls_client *tc, SSL *ssl, struct err *err)
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

bool
tls_client_failed(struct tls_client *tc, SSL *ssl, unsigned long code,
    struct err *err)
{
	unsigned offer = tls_client_offered(ssl);

	tls_explain_backend(ssl, code, err);
	if (SSL_get_verify_result(ssl) != X509_V_OK)
		return false;
	if (offer & OFFER_ALPN &&
	    ERR_GET_REASON(code) == SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL) {
		atomic_store(&tc->trust->no_alpn, true);
		return true;
	}
	if (offer & OFFER_SESSION) {
		tls_client_forget(tc);
		return true;
	}
	return false;
}
