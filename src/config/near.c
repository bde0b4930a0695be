/* near.c: the distance of two names, for "did you mean". */

#include "near.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

static size_t near_least(size_t a, size_t b, size_t c);
static bool near_same(char a, char b);

/* Three rows of the table are enough: a swap looks two rows back. */
size_t
near_distance(const char *a, const char *b)
{
	size_t row[3][NEAR_MAX + 1];
	size_t n = strlen(a), m = strlen(b), i, j;
	size_t most = (n < m ? n : m) / 3;

	if (n > NEAR_MAX || m > NEAR_MAX)
		return SIZE_MAX;
	for (j = 0; j <= m; j++)
		row[0][j] = j;
	for (i = 1; i <= n; i++) {
		size_t *now = row[i % 3], *before = row[(i + 2) % 3];

		now[0] = i;
		for (j = 1; j <= m; j++) {
			bool same = near_same(a[i - 1], b[j - 1]);

			now[j] = near_least(before[j] + 1, now[j - 1] + 1,
			    before[j - 1] + !same);
			if (i > 1 && j > 1 && near_same(a[i - 1], b[j - 2]) &&
			    near_same(a[i - 2], b[j - 1]) &&
			    row[(i + 1) % 3][j - 2] + 1 < now[j])
				now[j] = row[(i + 1) % 3][j - 2] + 1;
		}
	}
	if (most < 1)
		most = 1;
	return row[n % 3][m] > most || row[n % 3][m] >= n ? SIZE_MAX
							  : row[n % 3][m];
}

static size_t
near_least(size_t a, size_t b, size_t c)
{
	size_t least = a < b ? a : b;

	return least < c ? least : c;
}

static bool
near_same(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}
