/* summary.h: what a configuration would run, for people. */

#ifndef SUMMARY_H
#define SUMMARY_H

#include "platform/util.h"

struct config_destination;
struct runtime;

/* By enum forwarding. */
extern const char *const summary_forwarding[];

/* On stdout. workers: threads. */
void summary_print(const struct runtime *rt, unsigned workers);

/* Likewise "HOST:PORT", IPv6 in brackets. */
void summary_endpoint(const struct config_destination *d);

/* Likewise, whatever it holds, escaped. */
void summary_text(const char *text);

/* The end of what a command prints. Returns the exit status: a full disk or a
 * closed pipe is no success, and stderr says so. */
int summary_flush(void) MUST_CHECK;

#endif
