#include "suggest.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { MAX_LENGTH = 40 };              /* longer words are near nothing */

static int min3(int a, int b, int c)
{
	int least = a < b ? a : b;

	return least < c ? least : c;
}

static bool same(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Insertions, deletions, changes and swaps of neighbours that turn a into b; the case of letters counts for nothing. */
static int distance(const char *a, const char *b)
{
	int rows[3][MAX_LENGTH + 1];
	int length = (int)strlen(a), columns = (int)strlen(b);

	if (length > MAX_LENGTH || columns > MAX_LENGTH)
		return MAX_LENGTH;
	for (int j = 0; j <= columns; j++)
		rows[0][j] = j;
	for (int i = 1; i <= length; i++) {
		int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];

		row[0] = i;
		for (int j = 1; j <= columns; j++) {
			row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + !same(a[i - 1], b[j - 1]));
			if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]) && above2[j - 2] + 1 < row[j])
				row[j] = above2[j - 2] + 1;
		}
	}
	return rows[length % 3][columns];
}

const char *suggest_word(const char *word, const char *const *words, int count)
{
	int length = (int)strlen(word), best = length < 2 ? 1 : length < 3 ? 2 : length / 3 + 2;
	const char *nearest = NULL;

	for (int i = 0; i < count; i++) {
		int d = distance(word, words[i]);

		if (d < best || (d == best && nearest && strcmp(words[i], nearest) < 0)) {
			best = d;
			nearest = words[i];
		}
	}
	return nearest;
}
