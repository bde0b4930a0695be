/* tls_identity.c: the certificates for clients.
 *
 * An identity may have several pairs of certificate and key, one per type of
 * key: a client that knows ECDSA gets that, an older one gets RSA. All names of
 * all identities are in one hash, because any stranger can trigger a lookup. */

#include "net/tls_identity.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "platform/hash.h"
#include "proto/xclient.h"
#include "tls_common.h"

#define HASH_FUNCTION(key, len, hashv) \
	((hashv) = (unsigned)hash_keyed((key), (len)))
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define TLS_SELF_SIGNED_DAYS 365

struct tls_pair {
	X509 *cert;
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
};

struct tls_identity {
	struct tls_pair *pair;
	size_t n_pairs;
	char **name; /* lower case, "*.example.com" included */
	size_t n_names;
	bool is_default;
	bool self_made; /* not from a file */
};

struct tls_name {
	UT_hash_handle hh;
	const struct tls_identity *id;
};

struct tls_identity_set {
	struct tls_identity *id;
	size_t n;
	size_t def;
	struct tls_name *names;
};

static bool tls_identities_needed(const struct config *cfg);
static bool tls_identities_index(struct tls_identity_set *ids);
static const struct tls_identity *
tls_identities_look(const struct tls_identity_set *ids, const char *name,
    size_t len, unsigned *looks);
static bool tls_identity_load(const struct config *cfg, size_t i,
    struct tls_identity *id, struct config_problems *problems);
static void tls_identity_clear(struct tls_identity *id);
static bool tls_identity_other_type(const struct tls_identity *id, size_t n);
static bool tls_identity_names(struct tls_identity *id,
    const struct config_certificate *c);
static bool tls_identity_add_name(struct tls_identity *id, const char *name,
    size_t len);
static bool tls_identity_self_signed(const struct config *cfg,
    struct tls_identity *id);
static bool tls_pair_load(const struct config *cfg,
    const struct config_certificate *c, size_t i, struct tls_pair *pair,
    struct config_problems *problems);
static void tls_pair_dates(const struct config *cfg, const char *key,
    const X509 *cert, struct config_problems *problems);
static int tls_pair_find(const struct tls_pair *pair);
static void tls_pair_order(const struct config *cfg, const char *key,
    const struct tls_pair *pair, struct config_problems *problems);
static void tls_pair_key(const struct config_certificate *c, const char *which,
    size_t i, char *out, size_t size);
static bool tls_pair_self_signed(struct tls_pair *pair, const char *host);

struct tls_identity_set *
tls_identities_load(const struct config *cfg, struct config_problems *problems)
{
	size_t n = cfg->tls.n_certificate;
	struct tls_identity_set *ids = calloc(1, sizeof(*ids));
	bool ok = true;

	if (ids != NULL)
		ids->id = calloc(n + 1, sizeof(*ids->id));
	if (ids == NULL || ids->id == NULL) {
		config_problem(cfg, problems, "tls", "out of memory");
		free(ids);
		return NULL;
	}
	for (; ids->n < n; ids->n++) {
		ok &=
		    tls_identity_load(cfg, ids->n, &ids->id[ids->n], problems);
		if (ids->id[ids->n].is_default)
			ids->def = ids->n;
	}
	if (n == 0 && tls_identities_needed(cfg)) {
		config_warning(cfg, problems, "tls.certificate",
		    "no certificate: clients get a self-signed one, made at "
		    "every start");
		ids->n = 1;
		if (!tls_identity_self_signed(cfg, &ids->id[0])) {
			config_problem(cfg, problems, "tls.certificate",
			    "cannot make a self-signed certificate");
			ok = false;
		}
	}
	if (ok && !tls_identities_index(ids)) {
		config_problem(cfg, problems, "tls", "out of memory");
		ok = false;
	}
	if (!ok)
		tls_identities_free(&ids);
	return ids;
}

static bool
tls_identities_needed(const struct config *cfg)
{
	for (size_t i = 0; i < cfg->n_listener; i++)
		if (cfg->listener[i].tls != TLS_PLAIN)
			return true;
	return false;
}

/* If two identities have the same name, the first one gets it. */
static bool
tls_identities_index(struct tls_identity_set *ids)
{
	for (size_t i = 0; i < ids->n; i++) {
		const struct tls_identity *id = &ids->id[i];

		for (size_t j = 0; j < id->n_names; j++) {
			size_t len = strlen(id->name[j]);
			struct tls_name *n;

			HASH_FIND(hh, ids->names, id->name[j], len, n);
			if (n != NULL)
				continue;
			n = calloc(1, sizeof(*n));
			if (n == NULL)
				return false;
			n->id = id;
			HASH_ADD_KEYPTR(hh, ids->names, id->name[j], len, n);
			if (n->hh.tbl == NULL) {
				free(n);
				return false;
			}
		}
	}
	return true;
}

void
tls_identities_free(struct tls_identity_set **idsp)
{
	struct tls_identity_set *ids = *idsp;
	struct tls_name *n, *tmp;

	*idsp = NULL;
	if (ids == NULL)
		return;
	HASH_ITER (hh, ids->names, n, tmp) {
		/* The analyzer does not follow uthash.
		 * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		HASH_DEL(ids->names, n);
		free(n);
	}
	for (size_t i = 0; i < ids->n; i++)
		tls_identity_clear(&ids->id[i]);
	free(ids->id);
	free(ids);
}

const struct tls_identity *
tls_identities_find(const struct tls_identity_set *ids, const char *name,
    unsigned *looks_out)
{
	char wildcard[XCLIENT_NAME_MAX + 2];
	const char *parent = strchr(name, '.');
	const struct tls_identity *id;
	unsigned looks = 0;
	int len;

	id = tls_identities_look(ids, name, strlen(name), &looks);
	if (id == NULL && parent != NULL) {
		len = snprintf(wildcard, sizeof(wildcard), "*%s", parent);
		if (len > 0 && (size_t)len < sizeof(wildcard))
			id = tls_identities_look(ids, wildcard, (size_t)len,
			    &looks);
	}
	for (; id == NULL && parent != NULL; parent = strchr(parent + 1, '.'))
		id = tls_identities_look(ids, parent + 1, strlen(parent + 1),
		    &looks);
	if (looks_out != NULL)
		*looks_out = looks;
	return id != NULL ? id : tls_identities_default(ids);
}

static const struct tls_identity *
tls_identities_look(const struct tls_identity_set *ids, const char *name,
    size_t len, unsigned *looks)
{
	struct tls_name *n;

	++*looks;
	HASH_FIND(hh, ids->names, name, len, n);
	return n != NULL ? n->id : NULL;
}

const struct tls_identity *
tls_identities_default(const struct tls_identity_set *ids)
{
	return &ids->id[ids->def];
}

bool
tls_identities_info(const struct tls_identity_set *ids, size_t i,
    struct tls_identity_info *out)
{
	const struct tls_identity *id;
	const X509 *cert;
	int seconds = 0;
	struct tm tm;

	if (i >= ids->n)
		return false;
	id = &ids->id[i];
	cert = id->pair[0].cert;
	for (size_t j = 1; j < id->n_pairs; j++)
		if (ASN1_TIME_compare(X509_get0_notAfter(id->pair[j].cert),
			X509_get0_notAfter(cert)) < 0)
			cert = id->pair[j].cert;
	memset(out, 0, sizeof(*out));
	out->name = id->name;
	out->n_names = id->n_names;
	out->is_default = i == ids->def;
	out->self_made = id->self_made;
	X509_NAME_oneline(X509_get_issuer_name(cert), out->issuer,
	    sizeof(out->issuer));
	if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1)
		strftime(out->ends, sizeof(out->ends), "%Y-%m-%d", &tm);
	ASN1_TIME_diff(&out->days, &seconds, NULL, X509_get0_notAfter(cert));
	if (seconds < 0 && out->days == 0)
		out->days = -1;
	return true;
}

/* One identity */

static bool
tls_identity_load(const struct config *cfg, size_t i, struct tls_identity *id,
    struct config_problems *problems)
{
	const struct config_certificate *c = &cfg->tls.certificate[i];
	char key[256];
	bool ok = true;

	id->is_default = c->is_default;
	if (c->n_pair == 0) /* reported when the file was read */
		return false;
	id->pair = calloc(c->n_pair, sizeof(*id->pair));
	for (size_t j = 0; id->pair != NULL && j < c->n_pair; j++) {
		ok &= tls_pair_load(cfg, c, j, &id->pair[j], problems);
		id->n_pairs++;
		if (!ok || tls_identity_other_type(id, j))
			continue;
		tls_pair_key(c, "cert", j, key, sizeof(key));
		config_problem(cfg, problems, key,
		    "another certificate has the same type of key; expected "
		    "one "
		    "certificate for RSA and one for ECDSA");
		ok = false;
	}
	if (ok && (id->n_pairs == 0 || !tls_identity_names(id, c))) {
		config_problem(cfg, problems, "tls.certificate",
		    "out of memory");
		ok = false;
	}
	return ok;
}

static void
tls_identity_clear(struct tls_identity *id)
{
	for (size_t i = 0; i < id->n_pairs; i++) {
		X509_free(id->pair[i].cert);
		sk_X509_pop_free(id->pair[i].chain, X509_free);
		EVP_PKEY_free(id->pair[i].key);
	}
	free(id->pair);
	for (size_t i = 0; i < id->n_names; i++)
		free(id->name[i]);
	free(id->name);
}

/* Returns true if no pair before the n-th has its type of key; OpenSSL keeps
 * one per type. */
static bool
tls_identity_other_type(const struct tls_identity *id, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (EVP_PKEY_get_base_id(id->pair[i].key) ==
		    EVP_PKEY_get_base_id(id->pair[n].key))
			return false;
	return true;
}

bool
tls_identity_use(const struct tls_identity *id, SSL_CTX *ctx)
{
	for (size_t i = 0; i < id->n_pairs; i++)
		if (SSL_CTX_use_cert_and_key(ctx, id->pair[i].cert,
			id->pair[i].key, id->pair[i].chain, 1) != 1)
			return false;
	return true;
}

bool
tls_identity_use_once(const struct tls_identity *id, SSL *ssl)
{
	/* OpenSSL would choose the context's own pair for its type of key. */
	SSL_certs_clear(ssl);
	for (size_t i = 0; i < id->n_pairs; i++)
		if (SSL_use_cert_and_key(ssl, id->pair[i].cert, id->pair[i].key,
			id->pair[i].chain, 1) != 1)
			return false;
	return true;
}

/* Uses the configuration's subjects, or the first certificate's SANs, or its
 * CN. */
static bool
tls_identity_names(struct tls_identity *id, const struct config_certificate *c)
{
	GENERAL_NAMES *sans;
	bool ok = true;
	char cn[XCLIENT_NAME_MAX + 1];
	int len;

	for (size_t i = 0; i < c->n_subjects && ok; i++)
		ok = tls_identity_add_name(id, c->subjects[i],
		    strlen(c->subjects[i]));
	if (c->n_subjects > 0)
		return ok;
	sans = X509_get_ext_d2i(id->pair[0].cert, NID_subject_alt_name, NULL,
	    NULL);
	for (int i = 0; i < sk_GENERAL_NAME_num(sans) && ok; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(sans, i);

		if (g->type == GEN_DNS)
			ok = tls_identity_add_name(id,
			    (const char *)ASN1_STRING_get0_data(g->d.dNSName),
			    (size_t)ASN1_STRING_length(g->d.dNSName));
	}
	GENERAL_NAMES_free(sans);
	if (id->n_names > 0 || !ok)
		return ok;
	len = X509_NAME_get_text_by_NID(X509_get_subject_name(id->pair[0].cert),
	    NID_commonName, cn, sizeof(cn));
	return len <= 0 || tls_identity_add_name(id, cn, (size_t)len);
}

static bool
tls_identity_add_name(struct tls_identity *id, const char *name, size_t len)
{
	char **grown = realloc(id->name, (id->n_names + 1) * sizeof(*id->name));
	char *copy = strndup(name, len);

	if (grown != NULL)
		id->name = grown;
	if (grown == NULL || copy == NULL) {
		free(copy);
		return false;
	}
	for (char *p = copy; *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	id->name[id->n_names++] = copy;
	return true;
}

static bool
tls_identity_self_signed(const struct config *cfg, struct tls_identity *id)
{
	const char *host = cfg->server.hostname;

	id->self_made = true;
	id->pair = calloc(1, sizeof(*id->pair));
	if (id->pair == NULL)
		return false;
	id->n_pairs = 1;
	return tls_pair_self_signed(&id->pair[0], host) &&
	    tls_identity_add_name(id, host, strlen(host));
}

/* Its pairs */

static bool
tls_pair_load(const struct config *cfg, const struct config_certificate *c,
    size_t i, struct tls_pair *pair, struct config_problems *problems)
{
	char cert_key[256], key_key[256];
	struct err err;
	bool ok = true;
	int at;

	tls_pair_key(c, "cert", i, cert_key, sizeof(cert_key));
	tls_pair_key(c, "key", i, key_key, sizeof(key_key));
	if (tls_common_load_cert(c->cert[i], &pair->cert, &pair->chain, &err) ==
	    -1) {
		config_problem(cfg, problems, cert_key, "%s", err.text);
		ok = false;
	}
	if (tls_common_load_key(c->key[i], &pair->key, &err) == -1) {
		config_problem(cfg, problems, key_key, "%s", err.text);
		ok = false;
	}
	if (!ok)
		return false;
	if (X509_check_private_key(pair->cert, pair->key) != 1) {
		at = tls_pair_find(pair);
		ERR_clear_error();
		if (at > 0)
			config_problem(cfg, problems, cert_key,
			    "the key belongs to certificate %d in the file; "
			    "expected that one first, then its issuer",
			    at);
		else
			config_problem(cfg, problems, key_key,
			    "does not belong to the certificate in %s",
			    c->cert[i]);
		return false;
	}
	tls_pair_dates(cfg, cert_key, pair->cert, problems);
	tls_pair_order(cfg, cert_key, pair, problems);
	return true;
}

/* Which certificate of the file, from 1, has the key; 0: none behind the
 * first. */
static int
tls_pair_find(const struct tls_pair *pair)
{
	for (int i = 0; i < sk_X509_num(pair->chain); i++)
		if (X509_check_private_key(sk_X509_value(pair->chain, i),
			pair->key) == 1)
			return i + 2;
	return 0;
}

/* Many clients sort a chain themselves, but not all. */
static void
tls_pair_order(const struct config *cfg, const char *key,
    const struct tls_pair *pair, struct config_problems *problems)
{
	X509 *below = pair->cert;

	for (int i = 0; i < sk_X509_num(pair->chain); i++) {
		X509 *x = sk_X509_value(pair->chain, i);

		if (X509_check_issued(x, below) != X509_V_OK) {
			config_warning(cfg, problems, key,
			    "certificate %d in the file is not the issuer of "
			    "the one before it; expected the chain in order",
			    i + 2);
			break;
		}
		below = x;
	}
	ERR_clear_error();
}

static void
tls_pair_dates(const struct config *cfg, const char *key, const X509 *cert,
    struct config_problems *problems)
{
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
		config_warning(cfg, problems, key,
		    "the certificate has expired");
	if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0)
		config_warning(cfg, problems, key,
		    "the certificate is not valid yet");
}

/* Writes its path in the file: "tls.certificate.NAME.cert" or "...cert[1]". */
static void
tls_pair_key(const struct config_certificate *c, const char *which, size_t i,
    char *out, size_t size)
{
	if (c->n_pair > 1)
		snprintf(out, size, "tls.certificate.%s.%s[%zu]", c->name,
		    which, i);
	else
		snprintf(out, size, "tls.certificate.%s.%s", c->name, which);
}

static bool
tls_pair_self_signed(struct tls_pair *pair, const char *host)
{
	X509_NAME *name;
	unsigned char serial[8];
	uint64_t number;

	pair->key = EVP_EC_gen("P-256");
	pair->cert = X509_new();
	if (pair->key == NULL || pair->cert == NULL ||
	    RAND_bytes(serial, sizeof(serial)) != 1)
		return false;
	memcpy(&number, serial, sizeof(number));
	name = X509_get_subject_name(pair->cert);
	return X509_set_version(pair->cert, X509_VERSION_3) == 1 &&
	    ASN1_INTEGER_set_uint64(X509_get_serialNumber(pair->cert),
		number >> 1) == 1 &&
	    X509_gmtime_adj(X509_getm_notBefore(pair->cert), -3600) != NULL &&
	    X509_gmtime_adj(X509_getm_notAfter(pair->cert),
		TLS_SELF_SIGNED_DAYS * 86400L) != NULL &&
	    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
		(const unsigned char *)host, (int)strnlen(host, 64), -1,
		0) == 1 &&
	    X509_set_issuer_name(pair->cert, name) == 1 &&
	    X509_set_pubkey(pair->cert, pair->key) == 1 &&
	    X509_sign(pair->cert, pair->key, EVP_sha256()) != 0;
}
