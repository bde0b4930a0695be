/* err.c: fault texts. */

#include "platform/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>

static void err_format(struct err *err, const char *fmt, va_list ap)
    PRINTF_LIKE(2, 0);

static void
err_format(struct err *err, const char *fmt, va_list ap)
{
	if (err != NULL)
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
}

int
err_set(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_format(err, fmt, ap);
	va_end(ap);
	return -1;
}

int
err_set_ssl(struct err *err, const char *fmt, ...)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);
	va_list ap;
	size_t len;

	ERR_clear_error();
	va_start(ap, fmt);
	err_format(err, fmt, ap);
	va_end(ap);
	if (err == NULL)
		return -1;
	/* System errors have no reason string (OpenSSL 3: NULL). */
	if (reason == NULL && code != 0 && ERR_SYSTEM_ERROR(code))
		reason = strerror(ERR_GET_REASON(code));
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s",
	    reason != NULL ? reason : "unknown TLS error");
	return -1;
}
