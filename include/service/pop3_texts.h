/* pop3_texts.h: the replies to CAPA and to AUTH without arguments, for the
 * client leg. They are made once per configuration, as a part of the
 * runtime. */

#ifndef SERVICE_POP3_TEXTS_H
#define SERVICE_POP3_TEXTS_H

#include <stdbool.h>

#include "config/config.h"

struct pop3_texts;

/* NULL: no memory. */
struct pop3_texts *pop3_texts_new(const struct config *cfg);
void pop3_texts_free(struct pop3_texts **texts);

/* Return whole replies, valid as long as t. stls: the client may use STLS now.
 * login: the client may log in now. */
const char *pop3_texts_capa(const struct pop3_texts *t, bool stls, bool login);
const char *pop3_texts_auth(const struct pop3_texts *t, bool login);

#endif
