/* summary.h: what a configuration would run, for people. */

#ifndef SUMMARY_H
#define SUMMARY_H

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

#endif
