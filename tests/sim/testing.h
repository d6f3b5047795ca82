/* Shared by the simulator's tests: counting, and running a piece of PTX over an array of cases. */
#ifndef SIM_TESTING_H
#define SIM_TESTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "sim.h"

void check(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tests_done(void);           /* prints the sums; the exit status */

/* Is part of report in error? It may be several parts separated by '|', of which one is enough. */
bool says(const char *error, const char *report);

uint32_t random_bits(void);     /* a fixed sequence */

/* A small whole number as an element of a matrix instruction's type: h f16, b bf16, t tf32, s s8, u u8. Sums of such
 * numbers are exact, whatever their order. */
uint32_t matrix_bits(int value, char type);

/* Wraps body in a kernel 'k' with the given registers and parameters in, out (.u64) that are loaded into %in, %out
 * (global addresses); %t holds the thread's number in the grid. The text is malloc'ed. */
char *kernel_text(const char *registers, const char *body);

/* Loads and launches 'k' with two pointers; true when nothing was reported, else sim_error tells. */
bool run_text(Sim *sim, const char *text, uint32_t ctas, uint32_t threads, uint32_t dynamic_shared, void *in,
	void *out);

/* One instruction over many lanes. Each case reads n_in 64-bit words and writes one; in_bytes and out_bytes are the
 * widths of the instruction's registers (all sources alike unless widths names each, as in "448"). Returns false
 * after a report, which it prints. */
bool run_op(const char *opcode, const char *widths, int out_bytes, const uint64_t *in, uint64_t *out, size_t cases);

char *read_text(const char *path, size_t *length);      /* NULL when it can't be read */
/* Replaces an occurrence of old, after skipping some, by what is no longer. False when there is none. */
bool patch_text(char *text, const char *old, const char *with, int skip);

#endif
