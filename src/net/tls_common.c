/* tls_common.c: the common part of both sides of TLS. */

#include "tls_common.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>

#define TLS_COMMON_LOOK 65536 /* of a file that is no PEM */

const unsigned char tls_alpn[5] = {4, 'p', 'o', 'p', '3'};

static int tls_common_no_password(char *buf, int size, int rw, void *arg);
static bool tls_common_is_der(const unsigned char *data, long len);
static bool tls_common_is_pkcs12(const unsigned char *data, long len);

void
tls_common_options(SSL_CTX *ctx)
{
	SSL_CTX_set_options(ctx,
	    SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
		SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx,
	    SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		SSL_MODE_ENABLE_PARTIAL_WRITE);
	/* With this mode SSL_read() does not return while a peer sends records
	 * without data, such as KeyUpdates, and no timer runs. */
	SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
}

int
tls_common_version(enum tls_version v)
{
	static const int versions[] = {
	    [TLS_V1_0] = TLS1_VERSION,
	    [TLS_V1_1] = TLS1_1_VERSION,
	    [TLS_V1_2] = TLS1_2_VERSION,
	    [TLS_V1_3] = TLS1_3_VERSION,
	};

	return versions[v];
}

/* A daemon cannot be asked: an encrypted key is an error, not a prompt. arg: a
 * bool that is set, or NULL. */
static int
tls_common_no_password(char *buf UNUSED, int size UNUSED, int rw UNUSED,
    void *arg)
{
	if (arg != NULL)
		*(bool *)arg = true;
	return -1;
}

void
tls_common_settle(X509 *cert)
{
	/* -1: of no purpose, only looked at. */
	X509_check_purpose(cert, -1, 0);
	ERR_clear_error();
}

int
tls_common_load_cert(const char *path, X509 **leaf_out,
    STACK_OF(X509) * *chain_out, struct err *err)
{
	BIO *bio;
	X509 *x;
	STACK_OF(X509) *chain = sk_X509_new_null();

	ERR_clear_error();
	bio = BIO_new_file(path, "r");
	*leaf_out = NULL;
	if (bio != NULL)
		*leaf_out = PEM_read_bio_X509_AUX(bio, NULL,
		    tls_common_no_password, NULL);
	if (*leaf_out == NULL || chain == NULL) {
		tls_common_not_pem(path, "certificate", err);
		goto fail;
	}
	while ((x = PEM_read_bio_X509(bio, NULL, tls_common_no_password,
		    NULL)) != NULL) {
		if (sk_X509_push(chain, x) == 0) {
			X509_free(x);
			err_set(err, "out of memory");
			goto fail;
		}
	}
	if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
		err_set_ssl(err, "%s: a bad certificate after the first", path);
		goto fail;
	}
	ERR_clear_error();
	BIO_free(bio);
	tls_common_settle(*leaf_out);
	for (int i = 0; i < sk_X509_num(chain); i++)
		tls_common_settle(sk_X509_value(chain, i));
	*chain_out = chain;
	return 0;
fail:
	BIO_free(bio);
	X509_free(*leaf_out);
	*leaf_out = NULL;
	sk_X509_pop_free(chain, X509_free);
	return -1;
}

int
tls_common_load_key(const char *path, EVP_PKEY **key_out, struct err *err)
{
	bool encrypted = false;
	BIO *bio;

	ERR_clear_error();
	bio = BIO_new_file(path, "r");
	*key_out = NULL;
	if (bio != NULL)
		*key_out = PEM_read_bio_PrivateKey(bio, NULL,
		    tls_common_no_password, &encrypted);
	BIO_free(bio);
	if (*key_out != NULL)
		return 0;
	if (!encrypted)
		return tls_common_not_pem(path, "private key", err);
	ERR_clear_error();
	return err_set(err,
	    "the key in %s is encrypted; expected one without a passphrase, "
	    "as openssl pkey -in FILE writes it",
	    path);
}

int
tls_common_not_pem(const char *path, const char *what, struct err *err)
{
	unsigned char data[TLS_COMMON_LOOK];
	bool no_pem =
	    ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE ||
	    ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_UNSUPPORTED;
	BIO *bio = no_pem ? BIO_new_file(path, "rb") : NULL;
	int len = bio != NULL ? BIO_read(bio, data, sizeof(data)) : 0;

	BIO_free(bio);
	if (len <= 0)
		return err_set_ssl(err, "cannot read a %s from %s", what, path);
	if (tls_common_is_pkcs12(data, len))
		err_set(err,
		    "%s is PKCS#12; expected PEM, as openssl pkcs12 -nodes -in "
		    "FILE writes it",
		    path);
	else if (tls_common_is_der(data, len))
		err_set(err,
		    "%s is DER; expected PEM, as openssl x509 (or pkey) "
		    "-inform der -in FILE writes it",
		    path);
	else
		err_set(err, "there is no %s in %s; expected PEM", what, path);
	ERR_clear_error();
	return -1;
}

static bool
tls_common_is_pkcs12(const unsigned char *data, long len)
{
	PKCS12 *p = d2i_PKCS12(NULL, &data, len);

	PKCS12_free(p);
	return p != NULL;
}

static bool
tls_common_is_der(const unsigned char *data, long len)
{
	const unsigned char *again = data;
	X509 *x = d2i_X509(NULL, &data, len);
	EVP_PKEY *k = d2i_AutoPrivateKey(NULL, &again, len);

	X509_free(x);
	EVP_PKEY_free(k);
	return x != NULL || k != NULL;
}
