/* A problem from arrays in files, and its results back into files. */
#ifndef TDA_INPUTS_H
#define TDA_INPUTS_H

#include "problem.h"

typedef enum GradInput {
	GRAD_UNUSED,                   /* a do is ignored */
	GRAD_NEEDED,
	GRAD_OPTIONAL                  /* without one, tensor[TENSOR_DO].absent is set */
} GradInput;

/* Reads a folder, .npz or .safetensors: q1, k1, q2, ..., v, do, and parameters by name ("lam" is taken for "lambda"; one value may
 * stand for all), of rank 4 [batch, heads, length, dim] or 3 (batch 1). Every array must be known to the spec and
 * every tensor must be there; do as `grad` says. Values are rounded to the spec's dtype. */
tda_status inputs_load(const char *path, tda_kernel *kernel, int layer, GradInput grad, Problem *problem);

/* The same, but arrays that only the spec of `other` has are left out. */
tda_status inputs_load_shared(const char *path, tda_kernel *kernel, const tda_kernel *other, int layer, GradInput grad,
                              Problem *problem);

/* Write o, and if asked dq1, dk1, ..., dv, d<parameter> to DIR/NAME.npy, from what a device left in the problem or
 * from the reference. The folder is made where it is missing. */
tda_status outputs_write(const char *folder, const Problem *problem, bool backward);
tda_status outputs_write_reference(const char *folder, const Problem *problem, const Reference *reference,
                                   bool backward);

#endif
