/* tls_common.c: what both sides of TLS share. */

#include "tls_common.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

const unsigned char tls_alpn[5] = {4, 'p', 'o', 'p', '3'};

static int tls_common_no_password(char *buf, int size, int rw, void *arg);

void
tls_common_options(SSL_CTX *ctx)
{
	SSL_CTX_set_options(ctx,
	    SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
		SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(ctx,
	    SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		SSL_MODE_ENABLE_PARTIAL_WRITE);
	/* With it SSL_read() stays inside for as long as a peer sends records
	 * without data, KeyUpdates for example: no timer runs meanwhile. */
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

/* A daemon cannot be asked: an encrypted key is an error, not a prompt. */
static int
tls_common_no_password(char *buf UNUSED, int size UNUSED, int rw UNUSED,
    void *arg UNUSED)
{
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
		err_set_ssl(err, "cannot read a certificate from %s", path);
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
		err_set_ssl(err, "%s: a bad certificate behind the first",
		    path);
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
	BIO *bio;

	ERR_clear_error();
	bio = BIO_new_file(path, "r");
	*key_out = NULL;
	if (bio != NULL)
		*key_out = PEM_read_bio_PrivateKey(bio, NULL,
		    tls_common_no_password, NULL);
	BIO_free(bio);
	if (*key_out == NULL)
		return err_set_ssl(err, "cannot read a private key from %s",
		    path);
	return 0;
}
