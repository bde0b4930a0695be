/* admission.c: counted until the socket is closed. */

#include "session/admission.h"

#include <stdlib.h>

#include "platform/addr.h"
#include "service/limits.h"

struct admission {
	unsigned owners;
	void (*gone)(void *arg);
	void *arg;
	struct addr counted; /* len 0: under no address */
};

struct admission *
admission_new(void (*gone)(void *arg), void *arg)
{
	struct admission *a = calloc(1, sizeof(*a));

	if (a == NULL)
		return NULL;
	a->owners = 1;
	a->gone = gone;
	a->arg = arg;
	return a;
}

void
admission_count(struct admission *a, const struct addr *addr)
{
	admission_uncount(a);
	a->counted = *addr;
}

void
admission_uncount(struct admission *a)
{
	if (a->counted.len != 0)
		limits_leave(&a->counted);
	a->counted.len = 0;
}

struct admission *
admission_hold(struct admission *a)
{
	a->owners++;
	return a;
}

void
admission_release(struct admission **ap)
{
	struct admission *a = *ap;

	*ap = NULL;
	if (a == NULL || --a->owners > 0)
		return;
	admission_uncount(a);
	a->gone(a->arg);
	free(a);
}
