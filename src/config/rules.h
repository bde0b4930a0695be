/* rules.h: the rules over more than one key.
 *
 * read.c calls them when cfg is complete, except for the server names that
 * destinations take from their hosts. Every problem becomes a note. */

#ifndef CONFIG_RULES_H
#define CONFIG_RULES_H

#include "config/config.h"

struct notes;

void rules_check(const struct config *cfg, struct notes *notes);

#endif
