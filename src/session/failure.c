/* failure.c: the one table of what each failure means. */

#include "session/failure.h"

#include <syslog.h>

#include "platform/util.h"

#define FAILURE_BRAKE_MS 100
#define FAILURE_BRAKE_MAX_MS 5000

enum failure_flags {
	FAILURE_COUNTS = 1 << 0,
	FAILURE_RETRIES = 1 << 1,
	FAILURE_TEMPORARY = 1 << 2
};

#define FAILURE_TRY_AGAIN                                                   \
	"The mail server is not available at the moment; please try again " \
	"later."

static const struct {
	const char *name;
	int level;
	unsigned flags;
	enum failure_blame blame;
	const char *text;
} failure_rows[] = {
    [FAIL_SYNTAX] = {"malformed", LOG_INFO, FAILURE_COUNTS, BLAME_NOBODY,
	"The authentication exchange is malformed."},
    [FAIL_IDENTIFIER] = {"identifier", LOG_INFO, FAILURE_COUNTS, BLAME_NOBODY,
	"This user name cannot be used."},
    [FAIL_UNREPLAYABLE] = {"unreplayable", LOG_INFO, FAILURE_COUNTS,
	BLAME_NOBODY, "These credentials cannot be used here."},
    [FAIL_REJECTED] = {"rejected", LOG_INFO, FAILURE_COUNTS, BLAME_NOBODY,
	"Authentication failed."},
    /* Must look like the former. */
    [FAIL_THROTTLED] = {"throttled", LOG_INFO, FAILURE_COUNTS, BLAME_NOBODY,
	"Authentication failed."},
    [FAIL_BUSY] = {"busy", LOG_INFO, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_STORE] = {"store", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_LOOP] = {"loop", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	"The mail server cannot be reached: routing loop."},
    [FAIL_DOWN] = {"down", LOG_WARNING, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_FULL] = {"full", LOG_WARNING, FAILURE_TEMPORARY, BLAME_NOBODY,
	"The mail server is busy; please try again in a moment."},
    [FAIL_HELD] = {"held", LOG_INFO, FAILURE_TEMPORARY, BLAME_NOBODY,
	"The mail server is busy; please try again in a moment."},
    [FAIL_SHUTDOWN] = {"shutdown", LOG_INFO, FAILURE_TEMPORARY, BLAME_NOBODY,
	"The server is being restarted; please try again."},
    [FAIL_LOCAL] = {"local", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_RESOLVE] = {"resolve", LOG_ERR, FAILURE_TEMPORARY | FAILURE_RETRIES,
	BLAME_HOST, FAILURE_TRY_AGAIN},
    [FAIL_CONNECT] = {"connect", LOG_ERR, FAILURE_TEMPORARY | FAILURE_RETRIES,
	BLAME_HOST, FAILURE_TRY_AGAIN},
    [FAIL_TLS] = {"tls", LOG_ERR, FAILURE_TEMPORARY, BLAME_CLIENT,
	FAILURE_TRY_AGAIN},
    [FAIL_CLOSED] = {"closed", LOG_ERR, FAILURE_TEMPORARY | FAILURE_RETRIES,
	BLAME_CLIENT, FAILURE_TRY_AGAIN},
    [FAIL_PROTOCOL] = {"protocol", LOG_ERR, FAILURE_TEMPORARY, BLAME_CLIENT,
	FAILURE_TRY_AGAIN},
    [FAIL_SETUP] = {"setup", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_FORWARDING] = {"forwarding", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
    [FAIL_TIMEOUT] = {"timeout", LOG_ERR, FAILURE_TEMPORARY, BLAME_CLIENT,
	FAILURE_TRY_AGAIN},
    [FAIL_NO_CONNECT] = {"timeout", LOG_ERR, FAILURE_TEMPORARY, BLAME_HOST,
	FAILURE_TRY_AGAIN},
    [FAIL_DROPPED] = {"dropped", LOG_ERR, FAILURE_TEMPORARY, BLAME_CLIENT,
	FAILURE_TRY_AGAIN},
    [FAIL_UNANSWERED] = {"unanswered", LOG_ERR, FAILURE_TEMPORARY, BLAME_NOBODY,
	FAILURE_TRY_AGAIN},
};
_Static_assert(ARRAY_LEN(failure_rows) == FAILURES, "unnamed failure");

const char *
failure_name(enum failure why)
{
	return failure_rows[why].name;
}

int
failure_level(enum failure why)
{
	return failure_rows[why].level;
}

bool
failure_counts(enum failure why)
{
	return failure_rows[why].flags & FAILURE_COUNTS;
}

uint64_t
failure_brake(unsigned n)
{
	uint64_t ms = FAILURE_BRAKE_MS;

	if (n < 2)
		return 0;
	while (--n > 1 && ms < FAILURE_BRAKE_MAX_MS)
		ms *= 2;
	return ms < FAILURE_BRAKE_MAX_MS ? ms : FAILURE_BRAKE_MAX_MS;
}

bool
failure_retries(enum failure why)
{
	return failure_rows[why].flags & FAILURE_RETRIES;
}

bool
failure_temporary(enum failure why)
{
	return failure_rows[why].flags & FAILURE_TEMPORARY;
}

enum failure_blame
failure_blame(enum failure why)
{
	return failure_rows[why].blame;
}

const char *
failure_text(enum failure why)
{
	return failure_rows[why].text;
}
