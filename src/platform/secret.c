/* secret.c: memory that is wiped before it is freed. */

#include "platform/secret.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "platform/spare.h"

bool
secret_reserve(struct secret *s, size_t len)
{
	secret_clear(s);
	/* One octet more, so that an empty secret is not NULL. */
	s->data = malloc(len + 1);
	if (s->data == NULL)
		return false;
	s->len = len;
	return true;
}

bool
secret_set(struct secret *s, const void *data, size_t len)
{
	if (!secret_reserve(s, len))
		return false;
	if (len > 0)
		memcpy(s->data, data, len);
	return true;
}

void
secret_move(struct secret *to, struct secret *from)
{
	secret_clear(to);
	*to = *from;
	from->data = NULL;
	from->len = 0;
}

void
secret_clear(struct secret *s)
{
	if (s->data != NULL) {
		secret_wipe(s->data, s->len);
		free(s->data);
	}
	s->data = NULL;
	s->len = 0;
}

void
secret_wipe(void *data, size_t len)
{
	if (len > 0)
		OPENSSL_cleanse(data, len);
}

void *
secret_malloc(size_t size)
{
	void *p = malloc(size);

	if (p == NULL)
		p = spare_take(size);
	return p;
}

/* Not realloc(3): it may move the block and leave the old bytes behind. */
void *
secret_realloc(void *p, size_t size)
{
	size_t old;
	void *fresh;

	if (p == NULL)
		return secret_malloc(size);
	if (size == 0) {
		secret_free(p);
		return NULL;
	}
	old = malloc_usable_size(p);
	if (size <= old && size >= old / 2)
		return p;
	fresh = secret_malloc(size);
	if (fresh == NULL)
		return NULL;
	memcpy(fresh, p, old < size ? old : size);
	secret_free(p);
	return fresh;
}

void
secret_free(void *p)
{
	if (p != NULL)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}
