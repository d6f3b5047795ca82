/* From arguments to launches: the manifest's program over buffers, interpreted. */
#ifndef TDA_LAUNCH_H
#define TDA_LAUNCH_H

#include "manifest.h"

/* Everything that the formulas and pointers of a manifest can refer to in one call. Addresses are of the device, whose
 * SHAPE_MULTIPROCESSORS is set by who launches. */
typedef struct Binding {
	int64_t vars[FORMULA_VARS];
	uint64_t tensor[TENSOR_COUNT];
	uint64_t param[TDA_MAX_PARAMS], dparam[TDA_MAX_PARAMS];        /* 0: not given, not wanted */
	uint64_t workspace[BUFFER_KIND_COUNT];
} Binding;

/* What a tensor map is made from: dimensions from the innermost (columns) to the outermost (batches). */
enum { MAP_DIMS = 1 + MAP_OUTER };
typedef struct TensorMap {
	uint64_t address;
	uint64_t extent[MAP_DIMS];     /* elements; 0 somewhere: the kernel reads nothing of it */
	uint64_t stride[MAP_DIMS - 1]; /* bytes, of the dimensions beyond the innermost */
	uint32_t box[2];               /* columns, rows */
} TensorMap;

/* Enqueues kernel number `kernel` of the manifest: args[n] points to the value of its argument n, which of an ARG_MAP is a
 * TensorMap, for the device to make its own kind of. */
typedef tda_status (*LaunchFunction)(void *user, const Manifest *manifest, int kernel, uint32_t grid, void **args);

/* Bytes of the workspaces for the shape in vars (SHAPE_* entries). */
tda_status launch_sizes(const Manifest *manifest, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT]);

/* Where a buffer lies in its workspace, in bytes, and its size. */
tda_status launch_buffer(const Manifest *manifest, const int64_t *vars, int buffer, int64_t *offset, int64_t *bytes);

/* Launches every kernel of the phase. Grids and arguments are computed for all of them before the first is launched. */
tda_status launch_phase(const Manifest *manifest, Phase phase, const Binding *binding, LaunchFunction launch,
                        void *user);

/* ---- validate.c ---- */

/* Checks a shape and fills the SHAPE_* entries of vars. */
tda_status validate_shape(const tda_shape *shape, int64_t *vars);
/* Check every argument and fill the binding; nothing is launched when they fail. */
tda_status validate_forward(const Manifest *manifest, const tda_forward_args *args, Binding *binding);
tda_status validate_backward(const Manifest *manifest, const tda_backward_args *args, Binding *binding);
/* Does the file count? */
tda_status validate_counts(const Manifest *manifest);
tda_status validate_count(const Manifest *manifest, const tda_count_args *args, Binding *binding);
/* The same without workspaces, which the reference has no use for. */
tda_status validate_host_forward(const Manifest *manifest, const tda_forward_args *args, Binding *binding);
tda_status validate_host_backward(const Manifest *manifest, const tda_backward_args *args, Binding *binding);

#endif
