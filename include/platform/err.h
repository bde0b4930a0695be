/* err.h: the text of a fault. It is made where the fault is known, and shown
 * once, where the fault is handled. */

#ifndef PLATFORM_ERR_H
#define PLATFORM_ERR_H

#include "platform/util.h"

struct err {
	char text[512];
};

/* Writes the formatted text to err, cut if it is too long; err may be NULL.
 * Always returns -1, for "return err_set(...)". */
int err_set(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Does the same and adds ": " and OpenSSL's oldest queued reason ("unknown TLS
 * error" if there is none). Empties OpenSSL's queue. */
int err_set_ssl(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
