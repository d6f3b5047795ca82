/* Reads numbers the same way in every locale. */
#ifndef TDA_NUMBER_H
#define TDA_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole of text is a decimal number, inf, -inf or nan, as "%.17g" prints them. */
bool number_parse(const char *text, size_t length, double *value);
/* The whole of text is decimal digits and the value is in lo..hi. */
bool integer_parse(const char *text, size_t length, int64_t lo, int64_t hi, int64_t *value);

#endif
