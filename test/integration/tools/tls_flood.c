/* tls_flood.c: a client that sends TLS records without data as fast as it can.
 *
 *	tls_flood PORT update|request|renegotiate SECONDS [LOGIN]
 *
 * update and request are KeyUpdates of TLS 1.3, the second kind asks for one in
 * return and never reads it. renegotiate is TLS 1.2's ClientHello. LOGIN is a
 * command that is sent first, so that the records meet the relay. When the
 * server closes, the next connection begins. Prints how many records were sent
 * and how many connections the server has closed. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>

#define FLOOD_BATCH 200 /* records in one write */
#define FLOOD_KEY 16
#define FLOOD_SALT 4
#define FLOOD_NONCE 8
#define FLOOD_TAG 16
#define FLOOD_HEADER 5
#define FLOOD_HELLO 44 /* a ClientHello that offers one suite */
#define FLOOD_RECORD (FLOOD_HEADER + FLOOD_NONCE + FLOOD_HELLO + FLOOD_TAG)

enum flood_kind { FLOOD_UPDATE, FLOOD_REQUEST, FLOOD_RENEGOTIATE };

struct flood {
	int fd;
	SSL *ssl; /* between two memory BIOs */
	/* TLS 1.2: the records are made by hand. */
	uint64_t seq;
	unsigned char key[FLOOD_KEY], salt[FLOOD_SALT];
};

static struct {
	SSL_CTX *ctx;
	struct sockaddr_in to;
	enum flood_kind kind;
	const char *login; /* NULL: none */
	double until;
	unsigned long records, closed;
} flood = {.to = {.sin_family = AF_INET}};

static double flood_now(void);
static bool flood_open(struct flood *f);
static void flood_close(struct flood *f);
static bool flood_send(struct flood *f);
static bool flood_receive(struct flood *f);
static bool flood_say(struct flood *f, const char *line);
static bool flood_line(struct flood *f);
static bool flood_keys(struct flood *f);
static bool flood_batch(struct flood *f);
static void flood_record(struct flood *f);

static double
flood_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Connected, encrypted, greeted and, if asked for, logged in. */
static bool
flood_open(struct flood *f)
{
	struct timeval patience = {.tv_sec = 10};
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());

	memset(f, 0, sizeof(*f));
	f->fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(f->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	f->ssl = SSL_new(flood.ctx);
	SSL_set_bio(f->ssl, in, out);
	SSL_set_connect_state(f->ssl);
	if (connect(f->fd, (struct sockaddr *)&flood.to, sizeof(flood.to)) ==
	    -1)
		return false;
	while (SSL_do_handshake(f->ssl) != 1)
		if (!flood_send(f) || !flood_receive(f))
			return false;
	return flood_send(f) && flood_line(f) && flood_keys(f) &&
	    (flood.login == NULL ||
		(flood_say(f, flood.login) && flood_line(f)));
}

static void
flood_close(struct flood *f)
{
	SSL_free(f->ssl);
	close(f->fd);
}

/* All that OpenSSL has written, or false: the server has closed, or the time is
 * over. */
static bool
flood_send(struct flood *f)
{
	BIO *out = SSL_get_wbio(f->ssl);
	struct timeval tick = {.tv_usec = 100000};
	char *data;
	long len = BIO_get_mem_data(out, &data);
	ssize_t n = 0;

	setsockopt(f->fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick));
	while (len > 0 && flood_now() < flood.until) {
		n = send(f->fd, data, (size_t)len, MSG_NOSIGNAL);
		if (n == -1 && errno != EAGAIN)
			return false;
		if (n > 0) {
			data += n;
			len -= n;
		}
	}
	(void)BIO_reset(out);
	return len == 0;
}

static bool
flood_receive(struct flood *f)
{
	char buf[4096];
	ssize_t n = recv(f->fd, buf, sizeof(buf), 0);

	return n > 0 && BIO_write(SSL_get_rbio(f->ssl), buf, (int)n) == n;
}

static bool
flood_say(struct flood *f, const char *line)
{
	char out[512];
	int len = snprintf(out, sizeof(out), "%s\r\n", line);

	f->seq++;
	return SSL_write(f->ssl, out, len) == len && flood_send(f);
}

/* Waits for a line that begins with "+". */
static bool
flood_line(struct flood *f)
{
	char c, first = 0;

	for (;;) {
		if (SSL_read(f->ssl, &c, 1) != 1) {
			if (!flood_receive(f))
				return false;
			continue;
		}
		if (first == 0)
			first = c;
		if (c == '\n')
			return first == '+';
	}
}

/* RFC 5246, 6.3: the client's half of the key block of AES-128-GCM. */
static bool
flood_keys(struct flood *f)
{
	unsigned char master[48], seed[64], block[2 * (FLOOD_KEY + FLOOD_SALT)];
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_TLS1_PRF, NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	OSSL_PARAM params[5], *p = params;
	char digest[] = "SHA256", label[] = "key expansion";
	bool ok;

	f->seq = 1; /* behind Finished */
	SSL_SESSION_get_master_key(SSL_get0_session(f->ssl), master,
	    sizeof(master));
	SSL_get_server_random(f->ssl, seed, 32);
	SSL_get_client_random(f->ssl, seed + 32, 32);
	*p++ =
	    OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master,
	    sizeof(master));
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, label,
	    strlen(label));
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed,
	    sizeof(seed));
	*p = OSSL_PARAM_construct_end();
	ok = EVP_KDF_derive(ctx, block, sizeof(block), params) == 1;
	memcpy(f->key, block, FLOOD_KEY);
	memcpy(f->salt, block + 2 * FLOOD_KEY, FLOOD_SALT);
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok;
}

static bool
flood_batch(struct flood *f)
{
	for (int i = 0; i < FLOOD_BATCH; i++) {
		if (flood.kind == FLOOD_RENEGOTIATE) {
			flood_record(f);
			continue;
		}
		SSL_key_update(f->ssl,
		    flood.kind == FLOOD_REQUEST ? SSL_KEY_UPDATE_REQUESTED
						: SSL_KEY_UPDATE_NOT_REQUESTED);
		if (SSL_do_handshake(f->ssl) != 1)
			return false;
	}
	flood.records += FLOOD_BATCH;
	return flood_send(f);
}

/* One record of type 22, sealed as RFC 5288 says. */
static void
flood_record(struct flood *f)
{
	static const unsigned char hello[FLOOD_HELLO] = {1, 0, 0, 40, 3, 3,
	    [38] = 0, [39] = 0, [40] = 2, [41] = 0xc0, [42] = 0x2f, [43] = 1};
	unsigned char record[FLOOD_RECORD] = {
	    22, 3, 3, 0, FLOOD_RECORD - FLOOD_HEADER};
	unsigned char iv[FLOOD_SALT + FLOOD_NONCE],
	    aad[13] = {[8] = 22, [9] = 3, [10] = 3, [12] = FLOOD_HELLO};
	unsigned char *nonce = record + FLOOD_HEADER;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;

	for (int i = 0; i < FLOOD_NONCE; i++)
		nonce[i] = aad[i] = (unsigned char)(f->seq >> (56 - 8 * i));
	f->seq++;
	memcpy(iv, f->salt, FLOOD_SALT);
	memcpy(iv + FLOOD_SALT, nonce, FLOOD_NONCE);
	EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, f->key, iv);
	EVP_EncryptUpdate(ctx, NULL, &n, aad, sizeof(aad));
	EVP_EncryptUpdate(ctx, nonce + FLOOD_NONCE, &n, hello, sizeof(hello));
	EVP_EncryptFinal_ex(ctx, nonce + FLOOD_NONCE + n, &n);
	EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, FLOOD_TAG,
	    record + FLOOD_RECORD - FLOOD_TAG);
	EVP_CIPHER_CTX_free(ctx);
	BIO_write(SSL_get_wbio(f->ssl), record, sizeof(record));
}

int
main(int argc, char **argv)
{
	static const char *const kinds[] = {"update", "request", "renegotiate"};
	struct flood f;
	int kind = 0;

	while (argc >= 4 && kind < 3 && strcmp(argv[2], kinds[kind]) != 0)
		kind++;
	if (argc < 4 || kind == 3)
		return 2;
	flood.kind = (enum flood_kind)kind;
	flood.to.sin_port = htons((uint16_t)atoi(argv[1]));
	flood.to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	flood.until = flood_now() + atof(argv[3]);
	flood.login = argc > 4 ? argv[4] : NULL;
	flood.ctx = SSL_CTX_new(TLS_client_method());
	if (flood.kind == FLOOD_RENEGOTIATE) {
		SSL_CTX_set_max_proto_version(flood.ctx, TLS1_2_VERSION);
		SSL_CTX_set_cipher_list(flood.ctx,
		    "ECDHE-ECDSA-AES128-GCM-SHA256:"
		    "ECDHE-RSA-AES128-GCM-SHA256");
	}
	while (flood_now() < flood.until) {
		bool open = flood_open(&f);

		while (open && flood_batch(&f))
			;
		if (open && flood_now() < flood.until)
			flood.closed++;
		flood_close(&f);
	}
	printf("%lu %lu\n", flood.records, flood.closed);
	SSL_CTX_free(flood.ctx);
	return 0;
}
