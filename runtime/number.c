/* newlocale and strtod_l are not in C11. */
#define _GNU_SOURCE
#include <locale.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "number.h"

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void)
{
	c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

bool number_parse(const char *text, size_t length, double *value)
{
	char copy[64], *end;

	if (length == 0 || length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = 0;
	/* strtod alone would accept hexadecimal, leading blanks and "infinity" too */
	if (strspn(copy, "0123456789+-.eE") != length && strcmp(copy, "inf") != 0 && strcmp(copy, "-inf") != 0 &&
	    strcmp(copy, "nan") != 0 && strcmp(copy, "-nan") != 0)
		return false;
	pthread_once(&c_locale_once, make_c_locale);
	if (!c_locale)
		return false;
	*value = strtod_l(copy, &end, c_locale);
	return end == copy + length;
}

bool integer_parse(const char *text, size_t length, int64_t lo, int64_t hi, int64_t *value)
{
	int64_t sum = 0;

	if (length == 0)
		return false;
	for (size_t c = 0; c < length; c++)
		if (text[c] < '0' || text[c] > '9' || __builtin_mul_overflow(sum, 10, &sum) ||
		    __builtin_add_overflow(sum, text[c] - '0', &sum))
			return false;
	*value = sum;
	return sum >= lo && sum <= hi;
}
