/* pop3_texts.c: the ready-made replies. Every client asks for them, and there
 * are only six. */

#include "service/pop3_texts.h"

#include <stdlib.h>

#include "proto/pop3.h"

struct pop3_texts {
	char *capa[2][2]; /* [may use STLS][may log in] */
	char *auth[2]; /* [may log in] */
};

static bool pop3_texts_make(struct pop3_texts *t, struct pop3_capa_spec *spec,
    bool login);

struct pop3_texts *
pop3_texts_new(const struct config *cfg)
{
	struct pop3_texts *t = calloc(1, sizeof(*t));
	struct pop3_capa_spec spec = {
	    .sasl = cfg->pop3.mechanism,
	    .advertise = cfg->pop3.advertise,
	    .n_advertise = cfg->pop3.n_advertise,
	    .implementation = cfg->pop3.implementation,
	};
	bool ok = t != NULL && pop3_texts_make(t, &spec, false);

	spec.n_sasl = cfg->pop3.n_mechanism;
	if (!ok || !pop3_texts_make(t, &spec, true))
		pop3_texts_free(&t);
	return t;
}

static bool
pop3_texts_make(struct pop3_texts *t, struct pop3_capa_spec *spec, bool login)
{
	spec->user = login;
	for (int stls = 0; stls < 2; stls++) {
		spec->stls = stls;
		t->capa[stls][login] = pop3_capa_format(spec);
		if (t->capa[stls][login] == NULL)
			return false;
	}
	t->auth[login] = pop3_auth_list_format(spec->sasl, spec->n_sasl);
	return t->auth[login] != NULL;
}

void
pop3_texts_free(struct pop3_texts **tp)
{
	struct pop3_texts *t = *tp;

	*tp = NULL;
	if (t == NULL)
		return;
	for (int i = 0; i < 2; i++) {
		free(t->auth[i]);
		free(t->capa[0][i]);
		free(t->capa[1][i]);
	}
	free(t);
}

const char *
pop3_texts_capa(const struct pop3_texts *t, bool stls, bool login)
{
	return t->capa[stls][login];
}

const char *
pop3_texts_auth(const struct pop3_texts *t, bool login)
{
	return t->auth[login];
}
