/* What a sparse plan visits, against what survives. */
#ifndef TDA_STATS_H
#define TDA_STATS_H

#include <stdio.h>
#include "device.h"

typedef struct StatsOptions {
	uint64_t seed;
	const char *in;                /* arrays (inputs.h), or NULL: random inputs of `shape`, as of time_run */
	tda_shape shape;
} StatsOptions;

/* Runs a forward, reads its marks, finds the survivors by the f64 reference, and prints a table by view and head. Refuses
 * dense plans. */
tda_status stats_run(tda_kernel *kernel, Device *device, const StatsOptions *options, FILE *out);

#endif
