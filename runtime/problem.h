/* One forward and backward with all of its tensors on the host: what check, run and time put on a device. */
#ifndef TDA_PROBLEM_H
#define TDA_PROBLEM_H

#include "device.h"
#include "reference.h"

/* A tensor [batch, heads, length, dim] on the host, laid out in memory exactly as it will be on the device. */
typedef struct Operand {
	tda_dtype dtype;
	int64_t count[3];              /* batch, heads, length */
	int64_t stride[3];             /* elements */
	int64_t dim;
	size_t bytes;
	bool output;
	bool absent;                   /* a parameter, or do, that is not given */
	unsigned char *host;
	void *device;                  /* NULL until problem_run */
} Operand;

typedef enum Layout {
	LAYOUT_PACKED,                 /* [batch, heads, length, dim] */
	LAYOUT_PADDED,                 /* [batch, length, heads, dim] with room after every row */
	LAYOUT_BROADCAST               /* as packed, but one batch entry of k and v, and one head of v, serves all */
} Layout;

typedef struct Problem {
	tda_kernel *kernel;
	const Manifest *manifest;
	tda_shape shape;
	Operand tensor[TENSOR_COUNT];
	Operand param[TDA_MAX_PARAMS], dparam[TDA_MAX_PARAMS];
	void *workspace[BUFFER_KIND_COUNT];
	tda_sizes sizes;
	Device *device;                /* that holds the memory; NULL before problem_place */
} Problem;

/* Zeroed host memory for every tensor. shape.layers is set. Parameters are absent until problem_give_param. */
tda_status problem_new(Problem *problem, tda_kernel *kernel, tda_shape shape, Layout layout);
void problem_free(Problem *problem);
bool problem_has_tensor(const Problem *problem, int tensor);   /* false for views that the spec does not have */

/* Byte offset of a row. */
size_t operand_row(const Operand *operand, int64_t batch, int64_t head, int64_t row);
int64_t operand_rows(const Operand *operand);          /* batch * heads * length */
/* The rows in order as f64, contiguous: [operand_rows, dim]. */
void operand_unpack(const Operand *operand, double *to);
/* Rounds to the dtype. */
void operand_pack(Operand *operand, const double *from);

/* Allocates on the device and copies the inputs. */
tda_status problem_place(Problem *problem, Device *device);
void problem_displace(Problem *problem);               /* frees the device's memory */
/* Fills outputs and workspaces with `poison`, runs the forward and, if asked, the backward; does not wait. */
tda_status problem_poison(Problem *problem, int poison);
tda_status problem_launch(Problem *problem, bool forward, bool backward);
/* Copies the outputs back; refuses where padding between rows no longer is `poison`. */
tda_status problem_fetch(Problem *problem, int poison, bool backward);

/* The reference's view of a problem; every array is owned by the reference and freed by problem_reference_free. */
tda_status problem_reference(const Problem *problem, bool backward, Reference *reference);
/* The same with an observer, and without noise and change. */
tda_status problem_measure(const Problem *problem, bool backward, PairObserver *observe, void *user, Reference *reference);
/* The forward alone, of all heads or of those that read heads first to end - 1 of k, for what an observer makes of it. */
tda_status problem_observe(const Problem *problem, PairObserver *observe, void *user);
tda_status problem_observe_heads(const Problem *problem, int64_t first, int64_t end, PairObserver *observe, void *user);
void problem_reference_free(Reference *reference);

#endif
