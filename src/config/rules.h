/* rules.h: what must hold in a configuration beyond the value of one key.
 *
 * Called by read.c once cfg is complete but for the server names that
 * destinations take from their hosts; every problem becomes a note. */

#ifndef CONFIG_RULES_H
#define CONFIG_RULES_H

#include "config/config.h"

struct notes;

void rules_check(const struct config *cfg, struct notes *notes);

#endif
