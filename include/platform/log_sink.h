/* log_sink.h: where lines go: stderr, a file or syslog.
 *
 * Once log_sink_start() has been called, each sink has a thread that writes
 * and a bounded queue in front of it. Nobody else ever waits for a log: a line
 * that finds the queue full is lost. Lost lines are counted, and the log says
 * how many there were as soon as it takes lines again. */

#ifndef PLATFORM_LOG_SINK_H
#define PLATFORM_LOG_SINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "platform/err.h"
#include "platform/util.h"

struct log_line;
struct log_sink;

/* Opens "stderr", "syslog" or an absolute path (appended to, created 0640)
 * aside. A target that is in use already is not opened again, unless its path
 * names another file by now. NULL: err says why. */
struct log_sink *log_sink_open(const char *target, struct err *err) MUST_CHECK;

/* From now on lines go there. The former sink writes its queue and is closed.
 * Takes ownership of *sink and clears it. */
void log_sink_use(struct log_sink **sink);

/* Frees a sink that is not to be used after all, and removes the file if
 * log_sink_open() has made it. Does nothing for NULL. */
void log_sink_free(struct log_sink **sink);

/* Returns 0 if log_sink_open() would work, as far as this can be told without
 * making the file. */
int log_sink_check(const char *target, struct err *err) MUST_CHECK;

/* Starts the thread that writes. Before this, each line is written by its
 * caller. Call once, after privileges have been dropped: capabilities belong
 * to a thread. */
int log_sink_start(struct err *err) MUST_CHECK;

/* Opens the same path again (after logrotate). A failure is logged to the file
 * that is open, which stays in use. */
void log_sink_reopen(void);

/* Changes the owner of the file if log_open() has created it just now: that
 * user will have to open it again. For the start, as root. */
void log_sink_give(uid_t uid, gid_t gid);

/* Waits until all lines so far are written, for at most a second. For the end
 * of the process. */
void log_sink_flush(void);

/* Returns how many lines were lost since the start. */
uint64_t log_sink_lost(void);

/* Returns true if the sink stamps its lines itself, as syslog does. */
bool log_sink_stamps(void);

/* For log.c: a line that log_finish() has ended. */
void log_sink_put(const struct log_line *l);

#endif
