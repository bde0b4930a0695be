/* near.h: how near a mistyped name is to one that exists. */

#ifndef CONFIG_NEAR_H
#define CONFIG_NEAR_H

#include <stddef.h>
#include <stdint.h>

/* Names longer than this are near to nothing. */
#define NEAR_MAX 64

/* Counts letters that are added, left out, replaced, or swapped with the next
 * one; case does not count. Returns SIZE_MAX if both have too little in common
 * to suggest one for the other. */
size_t near_distance(const char *a, const char *b);

#endif
