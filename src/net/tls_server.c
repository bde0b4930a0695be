/* tls_server.c: TLS towards clients.
 *
 * Every listener has one context, which knows all certificates. The client
 * hello callback selects one by SNI before anything else is decided. */

#include "net/tls_server.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "net/tls_identity.h"
#include "platform/clock.h"
#include "platform/log.h"
#include "platform/secret.h"
#include "proto/xclient.h"
#include "tls_common.h"
#include "tls_explain.h"

#define TLS_TICKET_ROTATE_MS (24ull * 3600 * 1000)
#define TLS_TICKET_LIFE_S (12 * 3600)

struct tls_server {
	const struct tls_identity_set *ids; /* borrowed */
	SSL_CTX **ctx; /* per listener; NULL for plain ones */
	size_t n;
};

/* The versions and suites that a listener accepts. */
struct tls_policy {
	int min_version;
	char suites[4096]; /* up to TLS 1.2 */
	char suites13[256];
};

struct tls_ticket_key {
	unsigned char name[16], aes[32], hmac[32];
};

/* The current key and the one before it. */
static struct {
	pthread_mutex_t lock;
	struct tls_ticket_key key[2];
	bool have_old;
	uint64_t made;
} tls_tickets = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool tls_server_setup(SSL_CTX *ctx, struct tls_server *ts,
    const struct config *cfg, const struct config_listener *l);
static void tls_policy_make(struct tls_policy *p, const struct config_tls *tls,
    const struct config_listener *l);
static bool tls_policy_allows(const struct config_tls *tls, const char *suite);
static bool tls_policy_apply(const struct tls_policy *p, SSL_CTX *ctx);
static bool tls_policy_dh(SSL_CTX *ctx);
static bool tls_policy_session_context(const struct tls_policy *p,
    SSL_CTX *ctx);
static int tls_server_hello_cb(SSL *ssl, int *alert, void *arg);
static int tls_server_name_cb(SSL *ssl, int *alert, void *arg);
static int tls_server_alpn_cb(SSL *ssl, const unsigned char **out,
    unsigned char *out_len, const unsigned char *in, unsigned int in_len,
    void *arg);
static int tls_ticket_cb(SSL *ssl, unsigned char *name, unsigned char *iv,
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int encrypt);
static bool tls_ticket_use(const struct tls_ticket_key *key, unsigned char *iv,
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int encrypt);

/* Contexts */

struct tls_server *
tls_server_new(const struct config *cfg, const struct tls_identity_set *ids,
    struct err *err)
{
	struct tls_server *ts = calloc(1, sizeof(*ts));

	if (ts != NULL)
		ts->ctx = calloc(cfg->n_listener + 1, sizeof(*ts->ctx));
	if (ts == NULL || ts->ctx == NULL) {
		free(ts);
		err_set(err, "out of memory");
		return NULL;
	}
	ts->ids = ids;
	ts->n = cfg->n_listener;
	for (size_t i = 0; i < ts->n; i++) {
		if (cfg->listener[i].tls == TLS_PLAIN)
			continue;
		ts->ctx[i] = SSL_CTX_new(TLS_server_method());
		if (ts->ctx[i] == NULL ||
		    !tls_server_setup(ts->ctx[i], ts, cfg, &cfg->listener[i])) {
			err_set_ssl(err, "listener %s: cannot set up TLS",
			    cfg->listener[i].name);
			tls_server_free(&ts);
			return NULL;
		}
	}
	return ts;
}

void
tls_server_free(struct tls_server **tsp)
{
	struct tls_server *ts = *tsp;

	*tsp = NULL;
	if (ts == NULL)
		return;
	for (size_t i = 0; i < ts->n; i++) {
		/* Connections keep the context, so clear its pointer to
		 * this. */
		if (ts->ctx[i] != NULL)
			SSL_CTX_set_client_hello_cb(ts->ctx[i], NULL, NULL);
		SSL_CTX_free(ts->ctx[i]);
	}
	free(ts->ctx);
	free(ts);
}

static bool
tls_server_setup(SSL_CTX *ctx, struct tls_server *ts, const struct config *cfg,
    const struct config_listener *l)
{
	struct tls_policy policy;

	tls_common_options(ctx);
	if (cfg->tls.ignore_client_order)
		SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_timeout(ctx, TLS_TICKET_LIFE_S);
	SSL_CTX_set_tlsext_servername_callback(ctx, tls_server_name_cb);
	SSL_CTX_set_alpn_select_cb(ctx, tls_server_alpn_cb, NULL);
	SSL_CTX_set_client_hello_cb(ctx, tls_server_hello_cb, ts);
	tls_policy_make(&policy, &cfg->tls, l);
	return tls_policy_apply(&policy, ctx) &&
	    tls_policy_session_context(&policy, ctx) &&
	    SSL_CTX_set_num_tickets(ctx, 1) == 1 &&
	    SSL_CTX_set_max_early_data(ctx, 0) == 1 &&
	    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, tls_ticket_cb) == 1 &&
	    tls_identity_use(tls_identities_default(ts->ids), ctx);
}

/* Forward-secret suites, less the ones switched off, AEAD first. Outlook on
 * Windows 7 to 8.1, Apple Mail before 10.11 and old Android have none with both
 * and an RSA certificate: ECDHE with CBC, or DHE. Devices of before TLS 1.2,
 * where a listener lets them in, have RSA key exchange. */
static void
tls_policy_make(struct tls_policy *p, const struct config_tls *tls,
    const struct config_listener *l)
{
	static const char modern[] = "ECDHE+AESGCM:ECDHE+CHACHA20";
	static const char intermediate[] =
	    "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:"
	    "ECDHE+AES:DHE+AES";
	bool old = l->min_version < TLS_V1_2;
	static const char *const v13[] = {"TLS_AES_256_GCM_SHA384",
	    "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"};
	size_t len;

	memset(p, 0, sizeof(*p));
	p->min_version = tls_common_version(l->min_version);
	snprintf(p->suites, sizeof(p->suites), "%s%s:!AESCCM:!aNULL:!eNULL%s",
	    l->profile == PROFILE_MODERN && !old ? modern : intermediate,
	    old ? ":RSA+AES" : "", old ? ":@SECLEVEL=0" : "");
	for (size_t i = 0; i < tls->n_disable_cipher_suites; i++) {
		const char *name =
		    OPENSSL_cipher_name(tls->disable_cipher_suites[i]);

		len = strlen(p->suites);
		if (strncmp(name, "TLS_", 4) != 0)
			snprintf(p->suites + len, sizeof(p->suites) - len,
			    ":!%s", name);
	}
	for (size_t i = 0; i < ARRAY_LEN(v13); i++) {
		len = strlen(p->suites13);
		if (tls_policy_allows(tls, v13[i]))
			snprintf(p->suites13 + len, sizeof(p->suites13) - len,
			    "%s%s", len > 0 ? ":" : "", v13[i]);
	}
}

static bool
tls_policy_allows(const struct config_tls *tls, const char *suite)
{
	for (size_t i = 0; i < tls->n_disable_cipher_suites; i++)
		if (strcmp(tls->disable_cipher_suites[i], suite) == 0)
			return false;
	return true;
}

static bool
tls_policy_apply(const struct tls_policy *p, SSL_CTX *ctx)
{
	if (SSL_CTX_set_min_proto_version(ctx, p->min_version) != 1 ||
	    !tls_policy_dh(ctx))
		return false;
	/* Without a suite for 1.2 only 1.3 remains, and vice versa. The
	 * configuration was checked: at least one of them remains. */
	if (SSL_CTX_set_cipher_list(ctx, p->suites) != 1) {
		ERR_clear_error();
		SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	}
	if (p->suites13[0] == '\0')
		return SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION) == 1;
	return SSL_CTX_set_ciphersuites(ctx, p->suites13) == 1;
}

/* One group, whatever the certificate's key: a larger one only costs more. */
static bool
tls_policy_dh(SSL_CTX *ctx)
{
	EVP_PKEY_CTX *gen = EVP_PKEY_CTX_new_from_name(NULL, "DH", NULL);
	char group[] = "ffdhe2048";
	OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group,
		0),
	    OSSL_PARAM_construct_end(),
	};
	EVP_PKEY *dh = NULL;
	bool ok = gen != NULL && EVP_PKEY_paramgen_init(gen) == 1 &&
	    EVP_PKEY_CTX_set_params(gen, params) == 1 &&
	    EVP_PKEY_paramgen(gen, &dh) == 1 &&
	    SSL_CTX_set0_tmp_dh_pkey(ctx, dh) == 1;

	if (!ok)
		EVP_PKEY_free(dh);
	EVP_PKEY_CTX_free(gen);
	return ok;
}

/* Listeners share ticket keys, and OpenSSL does not check the suite of a
 * resumed session again. So a session is valid only where the policy is the
 * same. */
static bool
tls_policy_session_context(const struct tls_policy *p, SSL_CTX *ctx)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len = 0;

	return EVP_Digest(p, sizeof(*p), digest, &len, EVP_sha256(), NULL) ==
	    1 &&
	    SSL_CTX_set_session_id_context(ctx, digest, len) == 1;
}

SSL *
tls_server_ssl(struct tls_server *ts, size_t listener)
{
	SSL *ssl = SSL_new(ts->ctx[listener]);

	if (ssl == NULL)
		ERR_clear_error();
	return ssl;
}

/* Selects the certificate by name. Checks length and characters of the name
 * once, here; ignores a name that is not a host name. */
static int
tls_server_hello_cb(SSL *ssl, int *alert, void *arg)
{
	struct tls_server *ts = arg;
	const unsigned char *ext;
	size_t len, n;
	char name[XCLIENT_NAME_MAX + 1] = "";
	const struct tls_identity *id;

	/* server_name_list: total(2) type(1)=host_name length(2) name */
	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext,
		&len) == 1 &&
	    len > 5 && ext[2] == TLSEXT_NAMETYPE_host_name) {
		n = (size_t)ext[3] << 8 | ext[4];
		if (n > 0 && n <= len - 5 && ext[5 + n - 1] == '.')
			n--;
		if (n <= len - 5 && n <= XCLIENT_NAME_MAX &&
		    hostname_valid((const char *)ext + 5, n)) {
			for (size_t i = 0; i < n; i++) {
				char ch = (char)ext[5 + i];

				name[i] = ch >= 'A' && ch <= 'Z'
				    ? (char)(ch - 'A' + 'a')
				    : ch;
			}
			name[n] = '\0';
		}
	}
	id = tls_identities_find(ts->ids, name, NULL);
	if (id == tls_identities_default(ts->ids))
		return SSL_CLIENT_HELLO_SUCCESS; /* the context has it */
	if (!tls_identity_use_once(id, ssl)) {
		ERR_clear_error();
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_CLIENT_HELLO_ERROR;
	}
	return SSL_CLIENT_HELLO_SUCCESS;
}

/* The certificate is already selected. OpenSSL keeps an acknowledged name in
 * the session, and TLS 1.2 takes it from there when it resumes. */
static int
tls_server_name_cb(SSL *ssl UNUSED, int *alert UNUSED, void *arg UNUSED)
{
	return SSL_TLSEXT_ERR_OK;
}

const char *
tls_server_sni(SSL *ssl)
{
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

	if (name == NULL || !hostname_valid(name, strlen(name)))
		return "";
	return name;
}

/* Accepts only pop3: a client that an attacker redirected here from another
 * protocol gets an alert (ALPACA). */
static int
tls_server_alpn_cb(SSL *ssl UNUSED, const unsigned char **out,
    unsigned char *out_len, const unsigned char *in, unsigned int in_len,
    void *arg UNUSED)
{
	unsigned char *chosen;

	if (SSL_select_next_proto(&chosen, out_len, tls_alpn, sizeof(tls_alpn),
		in, in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

void
tls_server_failed(const SSL *ssl, unsigned long code, struct err *err)
{
	tls_explain_client(ssl, code, err);
}

/* Tickets */

void
tls_tickets_init(void)
{
	pthread_mutex_lock(&tls_tickets.lock);
	if (RAND_priv_bytes((unsigned char *)&tls_tickets.key[0],
		sizeof(tls_tickets.key[0])) != 1)
		abort();
	tls_tickets.made = clock_ms();
	pthread_mutex_unlock(&tls_tickets.lock);
}

void
tls_tickets_tick(uint64_t now)
{
	struct tls_ticket_key fresh;

	if (RAND_priv_bytes((unsigned char *)&fresh, sizeof(fresh)) != 1)
		return;
	pthread_mutex_lock(&tls_tickets.lock);
	if (now - tls_tickets.made >= TLS_TICKET_ROTATE_MS) {
		tls_tickets.key[1] = tls_tickets.key[0];
		tls_tickets.key[0] = fresh;
		tls_tickets.have_old = true;
		tls_tickets.made = now;
	}
	pthread_mutex_unlock(&tls_tickets.lock);
	secret_wipe(&fresh, sizeof(fresh));
}

static int
tls_ticket_cb(SSL *ssl, unsigned char *name, unsigned char *iv,
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int encrypt)
{
	struct tls_ticket_key key;
	int which = 0;
	bool ok;

	pthread_mutex_lock(&tls_tickets.lock);
	if (!encrypt && memcmp(name, tls_tickets.key[0].name, 16) != 0)
		which = tls_tickets.have_old &&
			memcmp(name, tls_tickets.key[1].name, 16) == 0
		    ? 1
		    : -1;
	if (which != -1)
		key = tls_tickets.key[which];
	pthread_mutex_unlock(&tls_tickets.lock);
	if (which == -1)
		return 0; /* unknown key: a full handshake */
	if (encrypt) {
		memcpy(name, key.name, sizeof(key.name));
		if (RAND_bytes(iv, 16) != 1)
			return -1;
	}
	ok = tls_ticket_use(&key, iv, cipher, mac, encrypt);
	secret_wipe(&key, sizeof(key));
	if (!ok)
		return -1;
	if (encrypt)
		return 1;
	/* 2: valid, with a new ticket. Always in TLS 1.3, where a ticket serves
	 * once, and for tickets of the old key. */
	return SSL_version(ssl) >= TLS1_3_VERSION || which == 1 ? 2 : 1;
}

static bool
tls_ticket_use(const struct tls_ticket_key *key, unsigned char *iv,
    EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int encrypt)
{
	unsigned char hmac[sizeof(key->hmac)];
	char digest[] = "SHA256";
	OSSL_PARAM params[3];
	bool ok;

	memcpy(hmac, key->hmac, sizeof(hmac));
	params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, hmac,
	    sizeof(hmac));
	params[1] =
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	params[2] = OSSL_PARAM_construct_end();
	ok = EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->aes, iv,
		 encrypt) == 1 &&
	    EVP_MAC_CTX_set_params(mac, params) == 1;
	secret_wipe(hmac, sizeof(hmac));
	return ok;
}
