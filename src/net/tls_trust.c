/* tls_trust.c: whom destinations trust, and our certificates for them.
 *
 * A bundle of CAs takes about 440 KiB and 40 ms to read, and most destinations
 * have the same one: it is read once, and shared by all destinations and
 * workers, and by the old and the new runtime of a reload, for as long as its
 * file stays the same. */

#include "tls_trust.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "net/tls_client.h"
#include "tls_common.h"

#include <utlist.h>

/* Which file, or directory, was read. All zero: there is none. */
struct tls_file_version {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct tls_store {
	struct tls_store *next;
	X509_STORE *store;
	unsigned refs;
	struct tls_file_version file, dir; /* dir: the system's only */
	char path[]; /* "": the system's */
};

/* Runtimes end on any thread. */
static pthread_mutex_t tls_stores_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tls_store *tls_stores;

static bool tls_trust_identity(struct tls_trust *t, const char *cert,
    const char *key, struct err *err);
static struct tls_store *tls_store_get(const char *path, struct err *err);
static struct tls_store *tls_store_find(const struct tls_store *like);
static bool tls_store_read(struct tls_store *s, struct err *err);
static void tls_store_settle(X509_STORE *store);
static void tls_store_unref(struct tls_store **sp);
static void tls_store_free(struct tls_store *s);
static void tls_store_versions(struct tls_store *s);
static const char *tls_store_default(const char *env, const char *path);
static void tls_version_of(const char *path, struct tls_file_version *out);
static bool tls_same_version(const struct tls_file_version *a,
    const struct tls_file_version *b);

struct tls_trust *
tls_trust_load(const struct config *cfg, size_t destination,
    struct config_problems *problems)
{
	const struct config_destination *d = &cfg->destination[destination];
	struct tls_trust *t = calloc(1, sizeof(*t));
	struct err err = {"out of memory"};
	const char *which = "tls_ca_file";
	char key[256];
	bool ok = t != NULL;

	if (ok && d->pop3.tls != TLS_PLAIN) {
		t->shared = tls_store_get(d->tls_ca_file, &err);
		ok = t->shared != NULL;
		t->store = ok ? t->shared->store : NULL;
	}
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
	tls_store_unref(&t->shared);
	X509_free(t->cert);
	sk_X509_pop_free(t->chain, X509_free);
	EVP_PKEY_free(t->key);
	free(t);
}

bool
tls_trust_same(const struct tls_trust *a, const struct tls_trust *b)
{
	return a->store == b->store;
}

/* Stores */

static struct tls_store *
tls_store_get(const char *path, struct err *err)
{
	struct tls_store *s = calloc(1, sizeof(*s) + strlen(path) + 1);
	struct tls_store *known;

	if (s == NULL)
		return NULL;
	strcpy(s->path, path);
	s->refs = 1;
	tls_store_versions(s);
	known = tls_store_find(s);
	if (known != NULL) {
		free(s);
		return known;
	}
	if (!tls_store_read(s, err)) {
		tls_store_free(s);
		return NULL;
	}
	pthread_mutex_lock(&tls_stores_lock);
	LL_PREPEND(tls_stores, s);
	pthread_mutex_unlock(&tls_stores_lock);
	return s;
}

/* The same version of the same file, as another reference. */
static struct tls_store *
tls_store_find(const struct tls_store *like)
{
	struct tls_store *s;

	pthread_mutex_lock(&tls_stores_lock);
	for (s = tls_stores; s != NULL; s = s->next)
		if (strcmp(s->path, like->path) == 0 &&
		    tls_same_version(&s->file, &like->file) &&
		    tls_same_version(&s->dir, &like->dir)) {
			s->refs++;
			break;
		}
	pthread_mutex_unlock(&tls_stores_lock);
	return s;
}

static void
tls_store_unref(struct tls_store **sp)
{
	struct tls_store *s = *sp;
	bool last;

	*sp = NULL;
	if (s == NULL)
		return;
	pthread_mutex_lock(&tls_stores_lock);
	last = --s->refs == 0;
	if (last)
		LL_DELETE(tls_stores, s);
	pthread_mutex_unlock(&tls_stores_lock);
	if (last)
		tls_store_free(s);
}

static void
tls_store_free(struct tls_store *s)
{
	X509_STORE_free(s->store);
	free(s);
}

static bool
tls_store_read(struct tls_store *s, struct err *err)
{
	s->store = X509_STORE_new();
	if (s->store == NULL)
		return false;
	ERR_clear_error();
	if (s->path[0] != '\0') {
		if (X509_STORE_load_file(s->store, s->path) != 1) {
			tls_common_not_pem(s->path, "CA certificate", err);
			return false;
		}
	} else if (X509_STORE_set_default_paths(s->store) != 1) {
		err_set_ssl(err, "cannot read the system's CA certificates");
		return false;
	}
	ERR_clear_error();
	tls_store_settle(s->store);
	return true;
}

/* The workers share it, and must find nothing left to be worked out. */
static void
tls_store_settle(X509_STORE *store)
{
	STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(store);

	for (int i = 0; i < sk_X509_OBJECT_num(all); i++) {
		X509 *cert =
		    X509_OBJECT_get0_X509(sk_X509_OBJECT_value(all, i));

		if (cert != NULL)
			tls_common_settle(cert);
	}
}

/* The system's store is a file, or a directory that OpenSSL reads when it needs
 * a certificate; a reload must not go on with one that was removed there. */
static void
tls_store_versions(struct tls_store *s)
{
	if (s->path[0] != '\0') {
		tls_version_of(s->path, &s->file);
		return;
	}
	tls_version_of(tls_store_default(X509_get_default_cert_file_env(),
			   X509_get_default_cert_file()),
	    &s->file);
	tls_version_of(tls_store_default(X509_get_default_cert_dir_env(),
			   X509_get_default_cert_dir()),
	    &s->dir);
}

static const char *
tls_store_default(const char *env, const char *path)
{
	const char *value = getenv(env);

	return value != NULL ? value : path;
}

static void
tls_version_of(const char *path, struct tls_file_version *out)
{
	struct stat st;

	if (stat(path, &st) == -1)
		return;
	out->dev = st.st_dev;
	out->ino = st.st_ino;
	out->size = st.st_size;
	out->mtime = st.st_mtim;
}

static bool
tls_same_version(const struct tls_file_version *a,
    const struct tls_file_version *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	    a->mtime.tv_sec == b->mtime.tv_sec &&
	    a->mtime.tv_nsec == b->mtime.tv_nsec;
}
