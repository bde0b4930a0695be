/* err.h: the text of a fault, made where the fault is known and shown once,
 * where it is dealt with. */

#ifndef PLATFORM_ERR_H
#define PLATFORM_ERR_H

#include "platform/util.h"

struct err {
	char text[512];
};

/* Puts the formatted text into err (NULL: thrown away; longer: cut).
 * Always returns -1, so that "return err_set(...)" reads well. */
int err_set(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The same, followed by ": " and OpenSSL's oldest queued reason (or "unknown
 * TLS error" when there is none); OpenSSL's queue is empty afterwards. */
int err_set_ssl(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
