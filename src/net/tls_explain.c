/* tls_explain.c: why a handshake failed, in words that name the cure.
 *
 * OpenSSL's reason comes first, as people look for it; what to do about it
 * follows. Everything is bounded by struct err: names and suites are a peer's
 * own. */

#include "tls_explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#define TLS_EXPLAIN_NAMES 4
#define TLS_EXPLAIN_SUITES 5

struct tls_cure {
	int reason;
	const char *text;
};

#define NO_TLS                                                   \
	"the backend does not speak TLS here; expected another " \
	"\"tls\" for this port"
#define OLD_VERSION \
	"the backend has no TLS version that tls_min_version lets in"
#define NO_SUITE                                                          \
	"no cipher suite in common, or a client certificate is missing; " \
	"see tls_legacy and tls_client_cert"
#define LEGACY "tls_legacy: true accepts it from this backend"
#define CLIENT_CERT "the backend does not accept our tls_client_cert"
#define UNTRUSTED "expected one that an authority in tls_ca_file has issued"

static const struct tls_cure tls_explain_cures[] = {
    {SSL_R_WRONG_VERSION_NUMBER, NO_TLS},
    {SSL_R_PACKET_LENGTH_TOO_LONG, NO_TLS},
    {SSL_R_HTTP_REQUEST, NO_TLS},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, OLD_VERSION},
    {SSL_R_UNSUPPORTED_PROTOCOL, OLD_VERSION},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, NO_SUITE},
    {SSL_R_TLSV1_ALERT_INSUFFICIENT_SECURITY, NO_SUITE},
    {SSL_R_DH_KEY_TOO_SMALL, LEGACY},
    {SSL_R_EE_KEY_TOO_SMALL, LEGACY},
    {SSL_R_CA_KEY_TOO_SMALL, LEGACY},
    {SSL_R_CA_MD_TOO_WEAK, LEGACY},
    {SSL_R_WRONG_SIGNATURE_TYPE, LEGACY},
    {SSL_R_LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED, LEGACY},
    {SSL_R_UNSAFE_LEGACY_RENEGOTIATION_DISABLED, LEGACY},
    {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, CLIENT_CERT},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, CLIENT_CERT},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, CLIENT_CERT},
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, CLIENT_CERT},
    {SSL_R_TLSV1_UNRECOGNIZED_NAME,
	"the backend does not know our tls_server_name"},
};

#define NO_TLS_CLIENT "the client does not speak TLS here"
#define DISTRUSTED \
	"the client does not trust our certificate; does cert have its issuer?"

static const struct tls_cure tls_explain_client_cures[] = {
    {SSL_R_WRONG_VERSION_NUMBER, NO_TLS_CLIENT},
    {SSL_R_PACKET_LENGTH_TOO_LONG, NO_TLS_CLIENT},
    {SSL_R_HTTP_REQUEST, NO_TLS_CLIENT},
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, DISTRUSTED},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, DISTRUSTED},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, DISTRUSTED},
    {SSL_R_NO_APPLICATION_PROTOCOL, "its ALPN has no pop3"},
};

static const struct tls_cure tls_explain_verify_cures[] = {
    {X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, UNTRUSTED},
    {X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, UNTRUSTED},
    {X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, UNTRUSTED},
    {X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, UNTRUSTED},
    {X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, UNTRUSTED},
    {X509_V_ERR_EE_KEY_TOO_SMALL, LEGACY},
    {X509_V_ERR_CA_KEY_TOO_SMALL, LEGACY},
    {X509_V_ERR_CA_MD_TOO_WEAK, LEGACY},
    {X509_V_ERR_CERT_REJECTED, "expected the pinned one"},
};

static int tls_explain_index = -1; /* SSL ex data: char *, malloc'ed */

static void tls_explain_free_cb(void *parent, void *ptr, CRYPTO_EX_DATA *ad,
    int idx, long argl, void *argp);
static const char *tls_explain_cure(const struct tls_cure *cures, size_t n,
    int reason);
static void tls_explain_names(X509 *leaf, struct err *out);
static void tls_explain_add(struct err *out, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
static void tls_explain_dates(X509 *cert, int error, struct err *out);
static void tls_explain_offer(const SSL *ssl, struct err *out);
static const char *tls_explain_version(int version);

bool
tls_explain_init(void)
{
	if (tls_explain_index == -1)
		tls_explain_index = SSL_get_ex_new_index(0, NULL, NULL, NULL,
		    tls_explain_free_cb);
	return tls_explain_index != -1;
}

static void
tls_explain_free_cb(void *parent UNUSED, void *ptr, CRYPTO_EX_DATA *ad UNUSED,
    int idx UNUSED, long argl UNUSED, void *argp UNUSED)
{
	free(ptr);
}

static void
tls_explain_add(struct err *out, const char *fmt, ...)
{
	size_t len = strlen(out->text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out->text + len, sizeof(out->text) - len, fmt, ap);
	va_end(ap);
}

static const char *
tls_explain_cure(const struct tls_cure *cures, size_t n, int reason)
{
	for (size_t i = 0; i < n; i++)
		if (cures[i].reason == reason)
			return cures[i].text;
	return NULL;
}

/* Towards backends */

int
tls_explain_verify_cb(int ok, X509_STORE_CTX *store)
{
	int error = X509_STORE_CTX_get_error(store);
	SSL *ssl = X509_STORE_CTX_get_ex_data(store,
	    SSL_get_ex_data_X509_STORE_CTX_idx());
	struct err words = {""};

	if (ok || SSL_get_ex_data(ssl, tls_explain_index) != NULL)
		return ok;
	if (error == X509_V_ERR_HOSTNAME_MISMATCH ||
	    error == X509_V_ERR_IP_ADDRESS_MISMATCH)
		tls_explain_names(X509_STORE_CTX_get0_cert(store), &words);
	else
		tls_explain_dates(X509_STORE_CTX_get_current_cert(store), error,
		    &words);
	if (words.text[0] != '\0')
		SSL_set_ex_data(ssl, tls_explain_index, strdup(words.text));
	return ok;
}

/* Which names a certificate has, of those that are printable. */
static void
tls_explain_names(X509 *leaf, struct err *out)
{
	GENERAL_NAMES *sans =
	    X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	int n = 0, total = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(sans); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(sans, i);

		if (g->type != GEN_DNS || ++total > TLS_EXPLAIN_NAMES)
			continue;
		tls_explain_add(out, "%s%.*s", n++ > 0 ? ", " : "it is for ",
		    ASN1_STRING_length(g->d.dNSName) < 64
			? ASN1_STRING_length(g->d.dNSName)
			: 64,
		    (const char *)ASN1_STRING_get0_data(g->d.dNSName));
	}
	if (total > n)
		tls_explain_add(out, " and %d more", total - n);
	if (n == 0)
		tls_explain_add(out, "it is for no host name");
	GENERAL_NAMES_free(sans);
}

static void
tls_explain_dates(X509 *cert, int error, struct err *out)
{
	const ASN1_TIME *when;
	char date[32];
	struct tm tm;

	if (cert == NULL ||
	    (error != X509_V_ERR_CERT_HAS_EXPIRED &&
		error != X509_V_ERR_CERT_NOT_YET_VALID))
		return;
	when = error == X509_V_ERR_CERT_HAS_EXPIRED ? X509_get0_notAfter(cert)
						    : X509_get0_notBefore(cert);
	if (ASN1_TIME_to_tm(when, &tm) == 1 &&
	    strftime(date, sizeof(date), "%Y-%m-%d", &tm) > 0)
		tls_explain_add(out, "it %s on %s",
		    error == X509_V_ERR_CERT_HAS_EXPIRED ? "ended" : "begins",
		    date);
}

void
tls_explain_backend(const SSL *ssl, unsigned long code, struct err *err)
{
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	int verify = (int)SSL_get_verify_result(ssl);
	const char *cure = NULL;

	if (verify != X509_V_OK) {
		err_set(err, "the certificate is refused: %s",
		    X509_verify_cert_error_string(verify));
		cure = SSL_get_ex_data(ssl, tls_explain_index);
		if (cure == NULL)
			cure = tls_explain_cure(tls_explain_verify_cures,
			    ARRAY_LEN(tls_explain_verify_cures), verify);
	} else {
		err_set(err, "TLS handshake failed: %s",
		    reason != NULL ? reason : "connection closed");
		if (reason != NULL)
			cure = tls_explain_cure(tls_explain_cures,
			    ARRAY_LEN(tls_explain_cures), ERR_GET_REASON(code));
	}
	if (cure != NULL)
		tls_explain_add(err, "; %s", cure);
}

/* Towards clients */

void
tls_explain_client(const SSL *ssl, unsigned long code, struct err *err)
{
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	const char *cure;

	err_set(err, "%s", reason != NULL ? reason : "connection closed");
	if (reason == NULL)
		return;
	cure = tls_explain_cure(tls_explain_client_cures,
	    ARRAY_LEN(tls_explain_client_cures), ERR_GET_REASON(code));
	if (cure != NULL)
		tls_explain_add(err, "; %s", cure);
	switch (ERR_GET_REASON(code)) {
	case SSL_R_UNSUPPORTED_PROTOCOL:
	case SSL_R_VERSION_TOO_LOW:
		tls_explain_add(err, "; the client offers %s at most",
		    tls_explain_version(SSL_client_version(ssl)));
		break;
	case SSL_R_NO_SHARED_CIPHER:
		tls_explain_offer(ssl, err);
		break;
	default:
		break;
	}
}

static const char *
tls_explain_version(int version)
{
	switch (version) {
	case SSL3_VERSION:
		return "SSL 3.0";
	case TLS1_VERSION:
		return "TLS 1.0";
	case TLS1_1_VERSION:
		return "TLS 1.1";
	default:
		return version < SSL3_VERSION ? "SSL 2.0" : "TLS 1.2";
	}
}

static void
tls_explain_offer(const SSL *ssl, struct err *out)
{
	STACK_OF(SSL_CIPHER) *offer = SSL_get_client_ciphers(ssl);
	int total = sk_SSL_CIPHER_num(offer);

	tls_explain_add(out, "; the client offers %s with ",
	    tls_explain_version(SSL_client_version(ssl)));
	if (total <= 0)
		tls_explain_add(out, "no suite that is known here");
	for (int i = 0; i < total && i < TLS_EXPLAIN_SUITES; i++)
		tls_explain_add(out, "%s%s", i > 0 ? ", " : "",
		    SSL_CIPHER_standard_name(sk_SSL_CIPHER_value(offer, i)));
	if (total > TLS_EXPLAIN_SUITES)
		tls_explain_add(out, " and %d more",
		    total - TLS_EXPLAIN_SUITES);
}
