/* What the tests of runtime/ share: a counter of checks, sealed PTX texts, seeded random numbers. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Counts one check; a failed one prints file, line and the formatted words, which are evaluated after it. Gives ok. */
bool fixture_pass(void);
bool fixture_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define CHECK(ok, ...) ((ok) ? fixture_pass() : fixture_fail(__FILE__, __LINE__, __VA_ARGS__))
/* The last failure of libtda is exactly this message. */
#define CHECK_MESSAGE(expected) \
	CHECK(strcmp(tda_error_message(), (expected)) == 0, "message is: %s", tda_error_message())
/* Prints "N passed, N failed"; the exit code of the test. */
int fixture_result(void);

/* A PTX file: the version line, `lines` (each with its "//! " and newline), the end line for `body`, `body`. Freed
 * by the caller with free(). */
char *fixture_seal(const char *lines, const char *body);

/* The lines of a valid manifest of the spec tda, with kernels; and without them (what the reference needs). */
extern const char fixture_tda_lines[];
extern const char fixture_tda_kernels[];
extern const char fixture_body[];

/* splitmix64: the same numbers everywhere. */
uint64_t fixture_random(uint64_t *state);
double fixture_uniform(uint64_t *state);       /* in [0, 1) */
double fixture_normal(uint64_t *state);

#endif
