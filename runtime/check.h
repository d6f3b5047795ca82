/* Compares a kernel's forward and every gradient with the f64 reference, over a list of cases. */
#ifndef TDA_CHECK_H
#define TDA_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "problem.h"

typedef struct CheckOptions {
	bool quick;                    /* the short list: what a simulator does in seconds */
	bool large;                    /* lengths of a thousand and more too: a GPU does those in seconds */
	uint64_t seed;
} CheckOptions;

/* Prints a table to out. *failures: how many tensors broke a bound, or cases could not be run. Returns an error only
 * where the check itself could not go on. */
tda_status check_run(tda_kernel *kernel, Device *device, const CheckOptions *options, FILE *out, int *failures);

/* The same for one problem of the caller's, called `name` in the table. Its inputs must be finite. */
tda_status check_problem(Problem *problem, const char *name, Device *device, FILE *out, int *failures);

#endif
