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
	int number;                    /* among those of the schedule, from 0 */
} TensorMap;

/* Where each buffer begins in its workspace, and how much each workspace holds, in bytes. */
typedef struct BufferLayout {
	int64_t offset[MANIFEST_MAX_BUFFERS];
	int64_t size[BUFFER_KIND_COUNT];
} BufferLayout;

/* One argument's value; an i32 takes the first 4 bytes. */
typedef union ArgValue {
	int64_t wide;
	int32_t narrow;
} ArgValue;

/*
 * The launches of a phase, as far as they follow from vars: all but addresses. Calls with the same vars share it, in threads
 * beside each other.
 */
typedef struct Schedule {
	Phase phase;
	int64_t vars[FORMULA_VARS];
	BufferLayout layout;
	uint32_t grid[MANIFEST_MAX_KERNELS];   /* of the phase's kernels; 0: skipped, and without values */
	ArgValue *values;              /* of every argument of every kernel of the phase, in order; pointers have none */
	TensorMap *maps;               /* likewise of every ARG_MAP; addresses are 0 */
	int map_count;
} Schedule;

/* Enqueues kernel number `kernel` of the manifest: args[n] points to the value of its argument n, which of an ARG_MAP is a
 * TensorMap, for the device to make its own kind of. */
typedef tda_status (*LaunchFunction)(void *user, const Manifest *manifest, int kernel, uint32_t grid, void **args);

/* Bytes of the workspaces for the shape in vars (SHAPE_* entries). */
tda_status launch_sizes(const Manifest *manifest, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT]);

/* Where a buffer lies in its workspace, in bytes, and its size. */
tda_status launch_buffer(const Manifest *manifest, const int64_t *vars, int buffer, int64_t *offset, int64_t *bytes);

/* Without contents; NULL after tda_fail. Freed with free(). */
Schedule *schedule_new(const Manifest *manifest, Phase phase);
/* Computes and checks everything. What is left of an earlier fill is overwritten. */
tda_status schedule_fill(const Manifest *manifest, const int64_t *vars, Schedule *schedule);
/* Launches every kernel that has CTAs and is wanted. binding->vars are the schedule's. */
tda_status schedule_launch(const Manifest *manifest, const Schedule *schedule, const Binding *binding, LaunchFunction launch,
                           void *user);

/* The three in one. Grids and arguments are computed for all kernels before the first is launched. */
tda_status launch_phase(const Manifest *manifest, Phase phase, const Binding *binding, LaunchFunction launch,
                        void *user);

/* ---- validate.c; more of it is in module.h ---- */

/* Checks a shape and fills the SHAPE_* entries of vars. */
tda_status validate_shape(const tda_shape *shape, int64_t *vars);
/* Does the file count? */
tda_status validate_counts(const Manifest *manifest);
/* Check every argument but the workspaces, which the reference has no use for, and fill the binding. */
tda_status validate_host_forward(const Manifest *manifest, const tda_forward_args *args, Binding *binding);
tda_status validate_host_backward(const Manifest *manifest, const tda_backward_args *args, Binding *binding);

#endif
