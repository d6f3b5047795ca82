/* Pieces that several kernels share: operands by view, row terms, blocks of rows that stay in shared memory. */
#ifndef TDAGEN_KERNELS_PARTS_H
#define TDAGEN_KERNELS_PARTS_H

#include "marks.h"
#include "pairs.h"
#include "tile.h"

/* Builds the kernel of one launch into the gpu.module; false after a diagnostic. */
typedef bool BuildKernel(Builder *b, MlirOperation module, const Spec *spec, const Plan *plan, Launch *launch);
BuildKernel build_terms, build_q_terms, build_k_terms, build_screen, build_pack_marks, build_forward, build_norm_backward, build_backward_q,
            build_backward_kv, build_reduce, build_count, build_statistics;

/* "q1" for view 0 of "q". */
const char *view_name(Kernel *k, const char *tensor, int view);
/* The k/v head that a query head reads. */
/* batch * heads + head, as i32; heads: "heads" or "kv_heads". */
Val batch_head(Kernel *k, const char *heads, Val batch, Val head);
Val key_head(Kernel *k, Val head);
/* First row of this warp in a row block. */
Val first_row(Kernel *k, Place place);

/* Copies a block of rows into shared memory, where it stays; complete once the ring's first tile is taken. */
Shared resident_rows(Kernel *k, const char *tensor, Val batch, Val head, const char *length, int cols, Val row0);
Shared resident_matrix(Kernel *k, Matrix m, Val row0);

/* The CTA's block of rows: where k->cta stands. */
typedef struct Rows {
	Place place;
	Val kv_head;                       /* i32: the head of k and v that its query head reads */
	Scope head;
	Axis row;
} Rows;
Rows cta_rows(Kernel *k);

/* Walks over what the screen marked in a view: the keys of a place's row block; the rows of query head `head` that a place's key
 * tile needs. Streams and residents are the caller's to fill in. */
GatherWalk marked_keys(Kernel *k, int view, Place place);
GatherWalk marked_rows(Kernel *k, int view, Place place, Val head);
/* From a place that was found again; what had to be read from memory is as before. */
GatherWalk marked_keys_again(Kernel *k, int view, Place place, const GatherWalk *before);

/* The work of a CTA whose block is of so many rows of `length`. Where a launch gathers and no pair of the block is marked, under any view, as
 * in most blocks of trained heads, `clear` writes zeros instead; NULL: there is more to write than zeros. */
typedef struct BlockWork {
	const char *heads, *length;
	void (*compute)(Kernel *k);
	void (*clear)(Kernel *k, Place place);
} BlockWork;
void block_work(Kernel *k, const BlockWork *work);

/* Row terms of the CTA's own rows: name is "inv_q" or "inv_k"; an empty axis when nothing is normalised. */
Axis norm_terms(Kernel *k, const char *name, int view, const char *length, Val batch_head, Axis row);
Axis tau_terms(Kernel *k, int view, Val batch_head, Axis row);
const char *tau_buffer(Kernel *k, int view);

/* Streams of a head's keys (with 1/|k|) and values. */
Stream key_stream(Kernel *k, int view, Val batch, Val kv_head);
Stream value_stream(Kernel *k, Val batch, Val kv_head);
/* Terms that came with a tile, along its columns; an empty axis when the stream has none. */
Axis column_terms(Kernel *k, RingTile tile, int index);

/* A buffer of [batch, heads, q_len, value_dim], densely packed: "o_raw" (o before the norm, float32), "do_raw" and "do_rest" (its
 * gradient, rounded to the spec's dtype, and what rounding left). */
Matrix packed_rows(Kernel *k, const char *buffer, Val batch_head, int element_bytes);
/* The gradient of o before the norm: `do`, or what norm_backward made of it; and its rest. */
Matrix output_gradient(Kernel *k, Val batch, Val head);
Matrix output_gradient_rest(Kernel *k, Val batch, Val head);
/* gain[column], or its initial value where the caller gave none. */
Val load_gain(Kernel *k, Val column);

/* g becomes dx = (g - (g . x^) x^) / |x| for the warp's rows of the resident matrix x, where x^ = x / |x| and g is the gradient by
 * x^; it stays when nothing is normalised. */
void gradient_through_norm(Kernel *k, Tile g, Shared x, Axis inv);
/* The same after a walk: where nothing was gathered, g is 0, and x was never copied. */
void gathered_through_norm(Kernel *k, Tile g, Shared x, Axis inv, const Gather *gather);

#endif
