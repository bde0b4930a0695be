/* pop3_texts.h: the answers to CAPA and to AUTH alone, made once per
 * configuration: part of the runtime, for the client's dialogue. */

#ifndef SERVICE_POP3_TEXTS_H
#define SERVICE_POP3_TEXTS_H

#include <stdbool.h>

#include "config/config.h"

struct pop3_texts;

/* NULL: no memory. */
struct pop3_texts *pop3_texts_new(const struct config *cfg);
void pop3_texts_free(struct pop3_texts **texts);

/* Whole replies. stls: STLS can be had now; login: so can a login. Valid as
 * long as t. */
const char *pop3_texts_capa(const struct pop3_texts *t, bool stls, bool login);
const char *pop3_texts_auth(const struct pop3_texts *t, bool login);

#endif
