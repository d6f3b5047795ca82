/* Times a kernel's forward and backward on a device that has a clock. */
#ifndef TDA_TIMING_H
#define TDA_TIMING_H

#include <stdio.h>
#include "problem.h"

typedef struct TimeOptions {
	int repeats;                   /* timed launches of each phase; the median is printed */
	bool by_kernel;                /* also each kernel alone */
	uint64_t seed;
	const char *in;                /* arrays (inputs.h), or NULL: random inputs of `shape`, independent rows with some
	                                  planted survivors */
	tda_shape shape;
} TimeOptions;

/* Prints milliseconds to out. Inputs rotate between copies, so that the L2 cache does not hold them from one launch to the
 * next. */
tda_status time_run(tda_kernel *kernel, Device *device, const TimeOptions *options, FILE *out);

/* Median ms of both phases of a problem that no device holds. */
tda_status time_problem(const Problem *problem, Device *device, int repeats, double ms[TRAINING_PHASES]);

#endif
