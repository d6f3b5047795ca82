/* Two specs on the same tensors. */
#ifndef TDA_DIFF_H
#define TDA_DIFF_H

#include <stdint.h>
#include <stdio.h>
#include "tda.h"

typedef struct DiffOptions {
	const char *in;                /* arrays (inputs.h); those that only one spec has are left out for the other */
	int layer;
	uint64_t seed;                 /* of a do that is not given */
} DiffOptions;

/* Runs both through the f64 reference, and prints what explore counts for each, how many pairs survive in both and in one
 * alone, by how much o and the gradients differ, and how long both are predicted to take. */
tda_status diff_run(tda_kernel *const kernels[2], const DiffOptions *options, FILE *out);
/* Without tensors: the predicted time of a shape like those that were timed. */
void diff_predict(tda_kernel *const kernels[2], FILE *out);

#endif
