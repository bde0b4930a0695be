/* summary.h: what a configuration would run, for people. */

#ifndef SUMMARY_H
#define SUMMARY_H

struct runtime;

/* On stdout. workers: threads. */
void summary_print(const struct runtime *rt, unsigned workers);

#endif
