/* test_tls.c: both sides of TLS against each other, over memory. */

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>

#include "platform/clock.h"
#include "platform/hash.h"
#include "net/tls_client.h"
#include "net/tls_identity.h"
#include "net/tls_server.h"
#include "run.h"

#define DAY_MS (24ull * 3600 * 1000)
#define TEN_DAYS (10 * 86400L)

static char dir[64];
static struct config_problems problems;

/* A self-signed certificate for names ("DNS:a,DNS:b") as DIR/name.pem, its key,
 * which it frees, as DIR/name.key; life: seconds until it expires. */
static void
make_cert(const char *name, const char *sans, long life, EVP_PKEY *key)
{
	X509 *x = X509_new();
	X509_EXTENSION *ext;
	X509V3_CTX ctx;
	char path[128];
	FILE *f;

	X509_set_version(x, X509_VERSION_3);
	ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -10L * 86400);
	X509_gmtime_adj(X509_getm_notAfter(x), life);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
	    (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(x));
	X509_set_pubkey(x, key);
	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, sans);
	ck_assert_ptr_nonnull(ext);
	X509_add_ext(x, ext, -1);
	X509_EXTENSION_free(ext);
	ck_assert_int_gt(X509_sign(x, key, EVP_sha256()), 0);
	snprintf(path, sizeof(path), "%s/%s.pem", dir, name);
	f = fopen(path, "w");
	ck_assert_int_eq(PEM_write_X509(f, x), 1);
	fclose(f);
	snprintf(path, sizeof(path), "%s/%s.key", dir, name);
	f = fopen(path, "w");
	ck_assert_int_eq(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL,
			     NULL),
	    1);
	fclose(f);
	X509_free(x);
	EVP_PKEY_free(key);
}

static FILE *
open_file(const char *name, const char *mode)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, mode);
	ck_assert_ptr_nonnull(f);
	return f;
}

static void
setup(void)
{
	hash_init();
	tls_tickets_init();
	strcpy(dir, "/tmp/test_tls.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	make_cert("one", "DNS:mail.example.com,DNS:*.wild.example", TEN_DAYS,
	    EVP_EC_gen("P-256"));
	make_cert("two", "DNS:other.example.net", TEN_DAYS,
	    EVP_EC_gen("P-256"));
	make_cert("old", "DNS:mail.example.com", -86400, EVP_EC_gen("P-256"));
	make_cert("rsa", "DNS:rsa.example.net", TEN_DAYS, EVP_RSA_gen(2048));
	make_cert("soon", "DNS:mail.example.com", 1000, EVP_EC_gen("P-256"));
}

static void
teardown(void)
{
	struct dirent *e;
	DIR *d = opendir(dir);

	config_problems_clear(&problems);
	while ((e = readdir(d)) != NULL)
		unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	rmdir(dir);
}

/* A configuration whose destination d has these further keys. */
static struct config *
make_config(const char *cert, const char *dest)
{
	char text[4096];
	struct config *cfg;
	int n = snprintf(text, sizeof(text),
	    "listener: {a: {bind: ['127.0.0.1:995']},"
	    " b: {bind: ['127.0.0.1:996']},"
	    " old: {bind: ['127.0.0.1:997'], min_version: '1.0'},"
	    " strict: {bind: ['127.0.0.1:998'], profile: modern},"
	    " strictest: {bind: ['127.0.0.1:999'], min_version: '1.3'}}\n"
	    "routing: {default_destination: d}\n"
	    "tls: {certificate: {"
	    "both: {cert: [%s/one.pem, %s/rsa.pem], key: [%s/one.key,"
	    " %s/rsa.key], subjects: [both.example.net]}, "
	    "one: {cert: %s/%s.pem, key: %s/%s.key, default: true}, "
	    "two: {cert: %s/two.pem, key: %s/two.key}, "
	    "rsa: {cert: %s/rsa.pem, key: %s/rsa.key}}}\n"
	    "destination: {d: {host: mail.example.com, forwarding: none, %s, "
	    "protocol: {pop3: {tls: implicit}}}}\n",
	    dir, dir, dir, dir, dir, cert, dir, cert, dir, dir, dir, dir, dest);

	cfg = config_parse("/tmp/x.yaml", text, (size_t)n, &problems);
	ck_assert_ptr_nonnull(cfg);
	for (size_t i = 0; i < problems.n_error; i++)
		fprintf(stderr, "%s\n", problems.error[i]);
	ck_assert_uint_eq(problems.n_error, 0);
	return cfg;
}

struct pair {
	struct config *cfg;
	struct tls_identity_set *ids;
	struct tls_server *server;
	struct tls_trust *trust;
	struct tls_client *client;
};

static void
pair_open(struct pair *p, const char *cert, const char *dest)
{
	struct err err;

	p->cfg = make_config(cert, dest);
	p->ids = tls_identities_load(p->cfg, &problems);
	ck_assert_ptr_nonnull(p->ids);
	p->server = tls_server_new(p->cfg, p->ids, &err);
	ck_assert_ptr_nonnull(p->server);
	p->trust = tls_trust_load(p->cfg, 0, &problems);
	ck_assert_ptr_nonnull(p->trust);
	p->client = tls_client_new(&p->cfg->destination[0], p->trust, &err);
	ck_assert_ptr_nonnull(p->client);
}

static void
pair_close(struct pair *p)
{
	tls_client_free(&p->client);
	tls_trust_free(&p->trust);
	tls_server_free(&p->server);
	tls_identities_free(&p->ids);
	config_free(&p->cfg);
}

/* Reads one octet; returns how many records without data came before it. */
static int
read_byte(SSL *ssl)
{
	char byte;

	for (int i = 0; i < 20; i++) {
		int rc = SSL_read(ssl, &byte, 1);

		if (rc == 1)
			return i;
		ck_assert_int_eq(SSL_get_error(ssl, rc), SSL_ERROR_WANT_READ);
	}
	ck_abort_msg("nothing but records without data");
}

/* Runs both ends until both are done or one has failed; returns the client's
 * error then. */
static unsigned long
shake_code(SSL *client, SSL *server)
{
	BIO *a, *b;
	unsigned long code = 0;

	ck_assert_int_eq(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(client, a, a);
	SSL_set_bio(server, b, b);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	for (int i = 0; i < 10 && code == 0; i++) {
		int c = SSL_do_handshake(client);

		if (c <= 0 && SSL_get_error(client, c) != SSL_ERROR_WANT_READ)
			code = ERR_peek_error();
		SSL_do_handshake(server);
		ERR_clear_error();
	}
	return code;
}

static bool
shake(SSL *client, SSL *server)
{
	shake_code(client, server);
	if (!SSL_is_init_finished(client) || !SSL_is_init_finished(server))
		return false;
	/* The ticket is behind the handshake. */
	ck_assert_int_eq(SSL_write(server, "+", 1), 1);
	read_byte(client);
	return true;
}

/* One connection between the two, the server's up to that version (0: any);
 * what the client would say of it. */
static bool
connected_by(struct pair *p, struct tls_server *server, int version,
    bool *resumed_out)
{
	SSL *c = tls_client_ssl(p->client, true);
	SSL *s = tls_server_ssl(server, 0);
	struct err err;
	bool ok;

	ck_assert_ptr_nonnull(c);
	ck_assert_ptr_nonnull(s);
	SSL_set_max_proto_version(s, version);
	ok = shake(c, s);
	if (ok)
		ok = tls_client_verified(p->client, c, &err);
	else
		ck_assert(!tls_client_verified(p->client, c, &err));
	if (resumed_out != NULL)
		*resumed_out = SSL_session_reused(c) == 1;
	/* A connection that is dropped without it spoils its ticket. */
	SSL_shutdown(c);
	ERR_clear_error();
	SSL_free(c);
	SSL_free(s);
	return ok;
}

static bool
connected(struct pair *p, struct tls_server *server, bool *resumed_out)
{
	return connected_by(p, server, 0, resumed_out);
}

START_TEST(certificates_are_chosen_by_name)
{
	static const struct {
		const char *sni, *cn;
	} rows[] = {
	    {NULL, "one"},
	    {"mail.example.com", "one"},
	    {"MAIL.example.COM", "one"},
	    {"other.example.net", "two"},
	    {"OTHER.Example.net", "two"},
	    {"deep.other.example.net", "two"},
	    {"rsa.example.net", "rsa"}, /* another type of key */
	    {"a.wild.example", "one"},
	    {"unknown.example.org", "one"},
	    {"bad name", "one"},
	    {"other.example.net\r\nX", "one"},
	};
	struct pair p;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		SSL *c = SSL_new(ctx), *s = tls_server_ssl(p.server, 0);
		char sni[64] = "", cn[64] = "";

		if (rows[i].sni != NULL) {
			snprintf(sni, sizeof(sni), "%s", rows[i].sni);
			SSL_set_tlsext_host_name(c, sni);
		}
		ck_assert_msg(shake(c, s), "%s", sni);
		X509_NAME_get_text_by_NID(
		    X509_get_subject_name(SSL_get0_peer_certificate(c)),
		    NID_commonName, cn, sizeof(cn));
		ck_assert_msg(strcmp(cn, rows[i].cn) == 0, "%s: %s", sni, cn);
		if (strpbrk(sni, " \r\n") != NULL)
			ck_assert_str_eq(tls_server_sni(s), "");
		SSL_free(c);
		SSL_free(s);
	}
	SSL_CTX_free(ctx);
	pair_close(&p);
}
END_TEST

/* A stranger's handshake must not cost more where there are more names. */
START_TEST(ten_thousand_names_cost_no_more_than_one)
{
	enum { NAMES = 10000 };
	struct config *cfg =
	    make_config("one", "tls_allow_invalid_certs: true");
	struct config_certificate *c = &cfg->tls.certificate[2];
	const struct tls_identity *def, *found;
	struct tls_identity_set *ids;
	char name[64];
	unsigned looks;

	c->subjects = calloc(NAMES, sizeof(*c->subjects));
	for (c->n_subjects = 0; c->n_subjects < NAMES; c->n_subjects++) {
		snprintf(name, sizeof(name), "h%zu.example", c->n_subjects);
		c->subjects[c->n_subjects] = strdup(name);
	}
	ids = tls_identities_load(cfg, &problems);
	def = tls_identities_default(ids);
	for (size_t i = 0; i < NAMES; i++) {
		found = tls_identities_find(ids, c->subjects[i], &looks);
		ck_assert(found != def);
		ck_assert_uint_eq(looks, 1);
	}
	/* Exactly, as a wildcard, and each parent. */
	found = tls_identities_find(ids, "a.b.c.h9999.example", &looks);
	ck_assert(found != def);
	ck_assert_uint_le(looks, 5);
	ck_assert(tls_identities_find(ids, "a.b.c.d", &looks) == def);
	ck_assert_uint_le(looks, 5);
	ck_assert(tls_identities_find(ids, "", &looks) == def);
	for (size_t i = 0; i < NAMES; i++)
		free(c->subjects[i]);
	free(c->subjects);
	c->n_subjects = 0;
	c->subjects = NULL;
	tls_identities_free(&ids);
	config_free(&cfg);
}
END_TEST

/* A pin decides alone, and also over tls_allow_invalid_certs. */
START_TEST(identity_is_judged_as_configured)
{
	static const struct {
		const char *cert, *ca; /* the CA file: that certificate */
		bool pin, right, allow, ok;
	} rows[] = {
	    {"one", "one", false, false, false, true},
	    {"one", "two", false, false, false, false}, /* unknown root */
	    {"old", "old", false, false, false, false}, /* expired */
	    {"two", "two", false, false, false, false}, /* wrong name */
	    {"one", "two", false, false, true, true},
	    {"old", "two", false, false, true, true},
	    {"old", "two", true, true, false, true},
	    {"two", "one", true, true, false, true},
	    {"one", "one", true, false, false, false},
	    {"one", "one", true, false, true, false},
	    {"one", "two", true, true, true, true},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char dest[512], pin[100] = "", path[128];
		unsigned char md[32] = {0};
		unsigned int len = 0;
		struct pair p;
		FILE *f;
		X509 *x;

		snprintf(path, sizeof(path), "%s/%s.pem", dir, rows[i].cert);
		f = fopen(path, "r");
		x = PEM_read_X509(f, NULL, NULL, NULL);
		fclose(f);
		ck_assert_int_eq(X509_digest(x, EVP_sha256(), md, &len), 1);
		X509_free(x);
		md[0] ^= rows[i].right ? 0 : 1;
		for (size_t j = 0; j < sizeof(md); j++)
			snprintf(pin + 2 * j, 3, "%02x", md[j]);
		snprintf(dest, sizeof(dest),
		    "tls_ca_file: %s/%s.pem, tls_allow_invalid_certs: %s, "
		    "tls_pinned_cert_sha256: '%s'",
		    dir, rows[i].ca, rows[i].allow ? "true" : "false",
		    rows[i].pin ? pin : "");
		pair_open(&p, rows[i].cert, dest);
		ck_assert_msg(connected(&p, p.server, NULL) == rows[i].ok,
		    "row %zu", i);
		pair_close(&p);
	}
}
END_TEST

START_TEST(sessions_resume_on_every_worker_and_tickets_serve_once)
{
	struct pair p;
	struct tls_server *other;
	struct err err;
	bool resumed;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	other = tls_server_new(p.cfg, p.ids, &err);
	ck_assert(connected(&p, p.server, &resumed));
	ck_assert(!resumed);
	ck_assert(connected(&p, other, &resumed));
	ck_assert(resumed);
	/* Each connection took one ticket and brought one. */
	for (int i = 0; i < 300; i++) {
		ck_assert(connected(&p, p.server, &resumed));
		ck_assert(resumed);
	}
	tls_server_free(&other);
	pair_close(&p);
}
END_TEST

/* The relay outlives the runtime that it began with. */
START_TEST(a_connection_outlives_its_client_and_server)
{
	struct pair p;
	SSL *c, *s;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	c = tls_client_ssl(p.client, true);
	s = tls_server_ssl(p.server, 0);
	ck_assert(shake(c, s));
	/* A ticket that nobody has read yet. */
	ck_assert_int_eq(SSL_new_session_ticket(s), 1);
	ck_assert_int_eq(SSL_write(s, "+", 1), 1);
	pair_close(&p);
	ck_assert_int_eq(read_byte(c), 1);
	SSL_free(c);
	SSL_free(s);
}
END_TEST

START_TEST(a_handshake_outlives_its_server)
{
	struct pair p;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *c = SSL_new(ctx), *s;
	char sni[] = "other.example.net";

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	s = tls_server_ssl(p.server, 0);
	pair_close(&p);
	SSL_set_tlsext_host_name(c, sni);
	ck_assert(shake(c, s));
	SSL_free(c);
	SSL_free(s);
	SSL_CTX_free(ctx);
}
END_TEST

/* A stranger who sends nothing but KeyUpdates must not keep SSL_read() inside:
 * each call takes one record. */
START_TEST(a_read_takes_one_record_without_data)
{
	struct pair p;
	SSL *end[2];

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	end[0] = tls_client_ssl(p.client, true);
	end[1] = tls_server_ssl(p.server, 0);
	ck_assert(shake(end[0], end[1]));
	for (int i = 0; i < 2; i++) {
		SSL *from = end[i], *to = end[1 - i];

		for (int n = 0; n < 5; n++) {
			SSL_key_update(from, SSL_KEY_UPDATE_NOT_REQUESTED);
			ck_assert_int_eq(SSL_do_handshake(from), 1);
		}
		ck_assert_int_eq(SSL_write(from, "+", 1), 1);
		ck_assert_int_eq(read_byte(to), 5);
	}
	SSL_free(end[0]);
	SSL_free(end[1]);
	pair_close(&p);
}
END_TEST

/* Listeners by index; a session of the first, offered to the second. */
START_TEST(a_session_resumes_only_under_the_same_policy)
{
	static const struct {
		size_t first, second;
		int version;
		bool resumed;
	} rows[] = {
	    {0, 0, TLS1_2_VERSION, true},
	    {0, 1, TLS1_2_VERSION, true},
	    {2, 0, TLS1_2_VERSION, false},
	    {0, 2, TLS1_2_VERSION, false},
	    {0, 1, TLS1_3_VERSION, true},
	    {2, 0, TLS1_3_VERSION, false},
	};
	struct pair p;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		size_t at[] = {rows[i].first, rows[i].second};
		SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
		SSL_SESSION *session = NULL;

		SSL_CTX_set_max_proto_version(ctx, rows[i].version);
		for (int n = 0; n < 2; n++) {
			SSL *c = SSL_new(ctx);
			SSL *s = tls_server_ssl(p.server, at[n]);

			SSL_set_session(c, session);
			SSL_SESSION_free(session);
			ck_assert(shake(c, s));
			session = SSL_get1_session(c);
			if (n == 1)
				ck_assert_msg(SSL_session_reused(c) ==
					rows[i].resumed,
				    "row %zu", i);
			SSL_shutdown(c);
			SSL_free(c);
			SSL_free(s);
		}
		SSL_SESSION_free(session);
		SSL_CTX_free(ctx);
	}
	pair_close(&p);
}
END_TEST

/* Farms behind one name with different ticket keys. */
START_TEST(a_session_that_a_handshake_failed_with_is_thrown_away)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct err err;
	struct pair p;
	bool resumed;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		SSL *c;

		for (int n = 0; n < 5; n++) {
			ck_assert(connected_by(&p, p.server, versions[i],
			    &resumed));
			ck_assert(resumed == (n > 0));
		}
		c = tls_client_ssl(p.client, true);
		ck_assert(tls_client_failed(p.client, c, 0, &err));
		ck_assert_str_eq(err.text,
		    "TLS handshake failed: connection closed");
		SSL_free(c);
		/* Without one there is nothing to try again without. */
		c = tls_client_ssl(p.client, true);
		ck_assert(!tls_client_failed(p.client, c, 0, &err));
		SSL_free(c);
	}
	pair_close(&p);
}
END_TEST

START_TEST(a_connection_without_resume_offers_no_session)
{
	struct pair p;
	SSL *c, *s;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	ck_assert(connected(&p, p.server, NULL));
	c = tls_client_ssl(p.client, false);
	s = tls_server_ssl(p.server, 0);
	ck_assert(shake(c, s));
	ck_assert(!SSL_session_reused(c));
	SSL_free(c);
	SSL_free(s);
	pair_close(&p);
}
END_TEST

/* A session that the backend answers with silence is not offered again. */
START_TEST(a_session_is_offered_by_one_connection_at_a_time)
{
	struct pair p;
	bool resumed;
	SSL *c;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	ck_assert(connected_by(&p, p.server, TLS1_2_VERSION, NULL));
	c = tls_client_ssl(p.client, true);
	ck_assert(connected_by(&p, p.server, TLS1_2_VERSION, &resumed));
	ck_assert(!resumed);
	SSL_free(c);
	pair_close(&p);
}
END_TEST

START_TEST(sessions_end_with_the_certificate)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	char dest[128];
	struct pair p;
	bool resumed;

	snprintf(dest, sizeof(dest), "tls_ca_file: %s/soon.pem", dir);
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		pair_open(&p, "soon", dest);
		for (int n = 0; n < 5; n++) {
			ck_assert(connected_by(&p, p.server, versions[i],
			    &resumed));
			ck_assert(resumed == (n > 0));
			/* Each resumption has brought a session that knows. */
			tls_client_age(p.client, 150);
		}
		tls_client_age(p.client, 300);
		ck_assert(connected_by(&p, p.server, versions[i], &resumed));
		ck_assert(!resumed);
		pair_close(&p);
	}
}
END_TEST

static int
refuse_alpn_cb(SSL *ssl UNUSED, const unsigned char **out UNUSED,
    unsigned char *len UNUSED, const unsigned char *in UNUSED,
    unsigned int in_len UNUSED, void *arg UNUSED)
{
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* nginx stream, Traefik, Go programs with an ALPN list of their own. */
/* A bundle takes 440 KiB and 40 ms; also a reload finds it. */
START_TEST(a_ca_file_is_read_once_for_all)
{
	struct tls_trust *one, *again, *other, *changed, *gone;
	char dest[128];
	struct config *cfg, *cfg2;
	FILE *f;

	snprintf(dest, sizeof(dest), "tls_ca_file: %s/one.pem", dir);
	cfg = make_config("one", dest);
	snprintf(dest, sizeof(dest), "tls_ca_file: %s/two.pem", dir);
	cfg2 = make_config("one", dest);
	one = tls_trust_load(cfg, 0, &problems);
	again = tls_trust_load(cfg, 0, &problems);
	other = tls_trust_load(cfg2, 0, &problems);
	ck_assert(tls_trust_same(one, again));
	ck_assert(!tls_trust_same(one, other));
	f = open_file("one.pem", "a");
	fputs("\n", f);
	fclose(f);
	changed = tls_trust_load(cfg, 0, &problems);
	ck_assert(!tls_trust_same(one, changed));
	/* The first user goes, the second one stays. */
	tls_trust_free(&one);
	gone = tls_trust_load(cfg, 0, &problems);
	ck_assert(tls_trust_same(gone, changed));
	tls_trust_free(&gone);
	tls_trust_free(&again);
	tls_trust_free(&changed);
	tls_trust_free(&other);
	config_free(&cfg);
	config_free(&cfg2);
}
END_TEST

START_TEST(alpn_that_is_refused_is_not_offered_again)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	struct tls_client *other;
	char path[128];
	struct err err;
	struct pair p;
	unsigned long code;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	other = tls_client_new(&p.cfg->destination[0], p.trust, &err);
	snprintf(path, sizeof(path), "%s/one.pem", dir);
	SSL_CTX_use_certificate_file(ctx, path, SSL_FILETYPE_PEM);
	snprintf(path, sizeof(path), "%s/one.key", dir);
	SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM);
	SSL_CTX_set_alpn_select_cb(ctx, refuse_alpn_cb, NULL);
	for (int i = 0; i < 3; i++) {
		/* What one worker has learnt the other one knows. */
		struct tls_client *tc = i == 2 ? other : p.client;
		SSL *c = tls_client_ssl(tc, i != 1), *s = SSL_new(ctx);

		code = shake_code(c, s);
		ck_assert((code != 0) == (i == 0));
		if (i == 0)
			ck_assert(tls_client_failed(tc, c, code, &err));
		else
			ck_assert(tls_client_verified(tc, c, &err));
		SSL_free(c);
		SSL_free(s);
	}
	SSL_CTX_free(ctx);
	tls_client_free(&other);
	pair_close(&p);
}
END_TEST

/* A backend hears it as DESTNAME. */
START_TEST(the_server_name_survives_a_resumption)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	char sni[] = "other.example.net";
	struct pair p;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
		SSL_SESSION *session = NULL;

		SSL_CTX_set_max_proto_version(ctx, versions[i]);
		for (int n = 0; n < 3; n++) {
			SSL *c = SSL_new(ctx), *s = tls_server_ssl(p.server, 0);

			SSL_set_tlsext_host_name(c, sni);
			SSL_set_session(c, session);
			SSL_SESSION_free(session);
			ck_assert(shake(c, s));
			ck_assert(SSL_session_reused(s) == (n > 0));
			ck_assert_str_eq(tls_server_sni(s), sni);
			session = SSL_get1_session(c);
			SSL_shutdown(c);
			SSL_free(c);
			SSL_free(s);
		}
		SSL_SESSION_free(session);
		SSL_CTX_free(ctx);
	}
	pair_close(&p);
}
END_TEST

/* Listeners by index, by name: a, b, old, strict, strictest. */
enum { LISTENER_A, LISTENER_B, LISTENER_OLD, LISTENER_STRICT, LISTENER_13 };

/* What a client with those suites, up to that version, gets from a listener:
 * the suite, or why not. */
static const char *
offer(struct pair *p, size_t listener, const char *suites, int version,
    const char *name, char *cn_out)
{
	static char text[600];
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *c, *s = tls_server_ssl(p->server, listener);
	struct err err = {""};
	char sni[64];
	unsigned long code = 0;
	BIO *a, *b;

	SSL_CTX_set_max_proto_version(ctx, version);
	SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
	ck_assert_int_eq(SSL_CTX_set_cipher_list(ctx, suites), 1);
	c = SSL_new(ctx);
	snprintf(sni, sizeof(sni), "%s", name);
	SSL_set_tlsext_host_name(c, sni);
	ck_assert_int_eq(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(c, a, a);
	SSL_set_bio(s, b, b);
	SSL_set_connect_state(c);
	SSL_set_accept_state(s);
	for (int i = 0; i < 5 && code == 0; i++) {
		int rc;

		SSL_do_handshake(c);
		ERR_clear_error();
		rc = SSL_do_handshake(s);
		if (rc <= 0 && SSL_get_error(s, rc) != SSL_ERROR_WANT_READ)
			code = ERR_peek_error();
	}
	tls_server_failed(s, code, &err);
	snprintf(text, sizeof(text), "%s",
	    code != 0 ? err.text
		      : SSL_CIPHER_standard_name(SSL_get_current_cipher(c)));
	if (cn_out != NULL && code == 0)
		X509_NAME_get_text_by_NID(
		    X509_get_subject_name(SSL_get0_peer_certificate(c)),
		    NID_commonName, cn_out, 64);
	ERR_clear_error();
	SSL_free(c);
	SSL_free(s);
	SSL_CTX_free(ctx);
	return text;
}

/* Outlook on Windows 7 to 8.1 has no ECDHE+AEAD with an RSA certificate. */
START_TEST(profiles_say_which_suites_a_listener_takes)
{
	static const struct {
		size_t listener;
		const char *suites;
		int version;
		const char *gets;
	} rows[] = {
	    {LISTENER_A, "ECDHE-RSA-AES128-SHA", TLS1_2_VERSION,
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"},
	    {LISTENER_A, "DHE-RSA-AES256-GCM-SHA384", TLS1_2_VERSION,
		"TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"},
	    {LISTENER_A, "DHE-RSA-AES256-SHA", TLS1_2_VERSION,
		"TLS_DHE_RSA_WITH_AES_256_CBC_SHA"},
	    {LISTENER_A, "ECDHE-RSA-AES128-GCM-SHA256", TLS1_2_VERSION,
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
	    {LISTENER_A, "AES128-SHA:AES256-GCM-SHA384", TLS1_2_VERSION,
		"no shared cipher; the client offers TLS 1.2 with "
		"TLS_RSA_WITH_AES_128_CBC_SHA, "
		"TLS_RSA_WITH_AES_256_GCM_SHA384"},
	    {LISTENER_A, "AES128-SHA:@SECLEVEL=0", TLS1_1_VERSION,
		"unsupported protocol; the client offers TLS 1.1 at most"},
	    {LISTENER_OLD, "AES128-SHA:@SECLEVEL=0", TLS1_VERSION,
		"TLS_RSA_WITH_AES_128_CBC_SHA"},
	    {LISTENER_OLD, "ECDHE-RSA-AES128-SHA:@SECLEVEL=0", TLS1_VERSION,
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"},
	    {LISTENER_STRICT, "ECDHE-RSA-AES128-GCM-SHA256", TLS1_2_VERSION,
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
	    {LISTENER_STRICT, "ECDHE-RSA-AES128-SHA", TLS1_2_VERSION,
		"no shared cipher; the client offers TLS 1.2 with "
		"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"},
	    {LISTENER_STRICT, "ALL", TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384"},
	    {LISTENER_13, "ALL", TLS1_2_VERSION,
		"unsupported protocol; the client offers TLS 1.2 at most"},
	};
	struct pair p;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		ck_assert_str_eq(offer(&p, rows[i].listener, rows[i].suites,
				     rows[i].version, "rsa.example.net", NULL),
		    rows[i].gets);
	pair_close(&p);
}
END_TEST

START_TEST(a_long_offer_is_cut)
{
	struct pair p;
	const char *text;

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	text = offer(&p, LISTENER_STRICT, "ALL:!ECDHE", TLS1_2_VERSION,
	    "rsa.example.net", NULL);
	ck_assert_ptr_nonnull(strstr(text, " and "));
	ck_assert_ptr_nonnull(strstr(text, " more"));
	pair_close(&p);
}
END_TEST

START_TEST(one_name_may_have_a_certificate_per_type_of_key)
{
	struct pair p;
	char cn[64] = "";

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	offer(&p, LISTENER_A, "ECDHE-RSA-AES128-GCM-SHA256", TLS1_2_VERSION,
	    "both.example.net", cn);
	ck_assert_str_eq(cn, "rsa");
	offer(&p, LISTENER_A, "ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION,
	    "both.example.net", cn);
	ck_assert_str_eq(cn, "one");
	/* The default's type of key is not added to what the name has. */
	ck_assert_ptr_nonnull(strstr(offer(&p, LISTENER_A,
					 "ECDHE-ECDSA-AES128-GCM-SHA256",
					 TLS1_2_VERSION, "rsa.example.net", cn),
	    "no shared cipher"));
	pair_close(&p);
}
END_TEST

START_TEST(two_certificates_of_one_type_are_a_problem)
{
	struct config *cfg =
	    make_config("one", "tls_allow_invalid_certs: true");
	struct config_certificate *c = &cfg->tls.certificate[0];

	ck_assert_uint_eq(c->n_pair, 2);
	c->cert[1] = cfg->tls.certificate[2].cert[0];
	c->key[1] = cfg->tls.certificate[2].key[0];
	ck_assert_ptr_null(tls_identities_load(cfg, &problems));
	ck_assert_uint_eq(problems.n_error, 1);
	ck_assert_ptr_nonnull(strstr(problems.error[0],
	    "tls.certificate.both.cert[1]: another certificate has the same type of key"));
	config_free(&cfg);
}
END_TEST

START_TEST(a_ticket_outlives_one_rotation_and_not_two)
{
	struct pair p;
	bool resumed;
	uint64_t now = clock_ms();

	pair_open(&p, "one", "tls_allow_invalid_certs: true");
	ck_assert(connected(&p, p.server, &resumed));
	tls_tickets_tick(now + DAY_MS);
	ck_assert(connected(&p, p.server, &resumed));
	ck_assert(resumed);
	tls_tickets_tick(now + 2 * DAY_MS);
	tls_tickets_tick(now + 3 * DAY_MS);
	ck_assert(connected(&p, p.server, &resumed));
	ck_assert(!resumed);
	pair_close(&p);
}
END_TEST

START_TEST(what_cannot_be_loaded_is_a_problem_at_its_key)
{
	struct config *cfg = make_config("one", "tls_ca_file: /nonexistent");
	struct tls_identity_set *ids;

	cfg->tls.certificate[1].key = cfg->tls.certificate[3].key;
	ids = tls_identities_load(cfg, &problems);
	ck_assert_ptr_null(ids);
	ck_assert_ptr_null(tls_trust_load(cfg, 0, &problems));
	ck_assert_uint_eq(problems.n_error, 2);
	ck_assert_ptr_nonnull(strstr(problems.error[0],
	    "tls.certificate.one.key: does not belong"));
	ck_assert_ptr_nonnull(strstr(problems.error[1],
	    "destination.d.tls_ca_file: cannot"));
	config_free(&cfg);
}
END_TEST

/* one's certificate and key in the forms that people have them in. */
static void
make_forms(void)
{
	static const char *const chain[] = {"two.pem", "one.pem"};
	FILE *f = open_file("one.pem", "r");
	X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
	EVP_PKEY *key;
	PKCS12 *p12;
	unsigned char password[] = "x";
	char text[4096];

	fclose(f);
	f = open_file("one.key", "r");
	key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	fclose(f);
	f = open_file("cert.der", "w");
	ck_assert_int_eq(i2d_X509_fp(f, x), 1);
	fclose(f);
	f = open_file("key.der", "w");
	ck_assert_int_eq(i2d_PrivateKey_fp(f, key), 1);
	fclose(f);
	f = open_file("both.p12", "w");
	p12 = PKCS12_create("x", "one", key, x, NULL, 0, 0, 0, 0, 0);
	ck_assert_int_eq(i2d_PKCS12_fp(f, p12), 1);
	fclose(f);
	f = open_file("locked.key", "w");
	ck_assert_int_eq(PEM_write_PrivateKey(f, key, EVP_aes_128_cbc(),
			     password, 1, NULL, NULL),
	    1);
	fclose(f);
	f = open_file("empty.pem", "w");
	fclose(f);
	for (size_t i = 0; i < ARRAY_LEN(chain); i++) {
		FILE *from = open_file(chain[i], "r");
		size_t n = fread(text, 1, sizeof(text), from);

		fclose(from);
		f = open_file("chain.pem", i == 0 ? "w" : "a");
		ck_assert_uint_eq(fwrite(text, 1, n, f), n);
		fclose(f);
	}
	PKCS12_free(p12);
	X509_free(x);
	EVP_PKEY_free(key);
}

START_TEST(a_file_of_another_form_says_what_cures_it)
{
	static const struct {
		const char *cert, *key, *error, *warning;
	} rows[] = {
	    {"one.pem", "one.key", NULL, NULL},
	    {"cert.der", "one.key", "/cert.der is DER; expected PEM, as ",
		NULL},
	    {"one.pem", "key.der", "/key.der is DER; expected PEM, as ", NULL},
	    {"both.p12", "one.key", "/both.p12 is PKCS#12; expected PEM, as ",
		NULL},
	    {"one.pem", "both.p12", "/both.p12 is PKCS#12; expected PEM, as ",
		NULL},
	    {"one.pem", "locked.key", "/locked.key is encrypted; expected one ",
		NULL},
	    {"one.key", "one.key", "there is no certificate in ", NULL},
	    {"one.pem", "one.pem", "there is no private key in ", NULL},
	    {"empty.pem", "one.key", "cannot read a certificate from ", NULL},
	    {"nothing.pem", "one.key", "No such file or directory", NULL},
	    {"chain.pem", "one.key", "the key belongs to certificate 2 in ",
		NULL},
	    {"chain.pem", "two.key", NULL, "certificate 2 in the file is not "},
	};

	make_forms();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config_certificate *c;
		struct tls_identity_set *ids;
		char cert[128], key[128], *was[2];
		struct config *cfg;

		config_problems_clear(&problems);
		cfg = make_config("one", "tls_allow_invalid_certs: true");
		c = &cfg->tls.certificate[0];
		was[0] = c->cert[0];
		was[1] = c->key[0];
		snprintf(cert, sizeof(cert), "%s/%s", dir, rows[i].cert);
		snprintf(key, sizeof(key), "%s/%s", dir, rows[i].key);
		c->cert[0] = cert;
		c->key[0] = key;
		config_problems_clear(&problems);
		ids = tls_identities_load(cfg, &problems);
		c->cert[0] = was[0];
		c->key[0] = was[1];
		ck_assert_uint_eq(problems.n_error, rows[i].error != NULL);
		if (rows[i].error != NULL)
			ck_assert_msg(strstr(problems.error[0],
					  rows[i].error) != NULL,
			    "%s", problems.error[0]);
		ck_assert_uint_eq(problems.n_warning, rows[i].warning != NULL);
		if (rows[i].warning != NULL)
			ck_assert_msg(strstr(problems.warning[0],
					  rows[i].warning) != NULL,
			    "%s", problems.warning[0]);
		tls_identities_free(&ids);
		config_free(&cfg);
	}
}
END_TEST

int
main(void)
{
	Suite *suite = suite_create("tls");
	TCase *tc = tcase_create("tls");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, certificates_are_chosen_by_name);
	tcase_add_test(tc, ten_thousand_names_cost_no_more_than_one);
	tcase_add_test(tc, identity_is_judged_as_configured);
	tcase_add_test(tc,
	    sessions_resume_on_every_worker_and_tickets_serve_once);
	tcase_add_test(tc, a_connection_outlives_its_client_and_server);
	tcase_add_test(tc, a_handshake_outlives_its_server);
	tcase_add_test(tc, a_read_takes_one_record_without_data);
	tcase_add_test(tc, a_session_resumes_only_under_the_same_policy);
	tcase_add_test(tc,
	    a_session_that_a_handshake_failed_with_is_thrown_away);
	tcase_add_test(tc, a_connection_without_resume_offers_no_session);
	tcase_add_test(tc, a_session_is_offered_by_one_connection_at_a_time);
	tcase_add_test(tc, sessions_end_with_the_certificate);
	tcase_add_test(tc, a_ca_file_is_read_once_for_all);
	tcase_add_test(tc, alpn_that_is_refused_is_not_offered_again);
	tcase_add_test(tc, the_server_name_survives_a_resumption);
	tcase_add_test(tc, profiles_say_which_suites_a_listener_takes);
	tcase_add_test(tc, a_long_offer_is_cut);
	tcase_add_test(tc, one_name_may_have_a_certificate_per_type_of_key);
	tcase_add_test(tc, two_certificates_of_one_type_are_a_problem);
	tcase_add_test(tc, a_ticket_outlives_one_rotation_and_not_two);
	tcase_add_test(tc, what_cannot_be_loaded_is_a_problem_at_its_key);
	tcase_add_test(tc, a_file_of_another_form_says_what_cures_it);
	suite_add_tcase(suite, tc);
	return run(suite);
}
