/*
 * The f64 reference: forward and backward of a spec, computed from the maths and the expressions of its manifest alone.
 * Nothing is shared with the templates or with the compiler's derivatives.
 */
#ifndef TDA_REFERENCE_H
#define TDA_REFERENCE_H

#include "manifest.h"

/*
 * How large results are before cancellation: the root of the sum of squares of the products that a row sums, 2-norms
 * over its elements. Where a result is much smaller, its terms have cancelled, and the rounding of each of them is
 * still there: an error should be measured against this then. One value a row, but dparam: one an entry.
 */
typedef struct ReferenceNoise {
	double *o, *dq[TDA_MAX_VIEWS];         /* [batch, heads, q_len] */
	double *dk[TDA_MAX_VIEWS], *dv;        /* [batch, kv_heads, k_len] */
	double *dparam[TDA_MAX_PARAMS];        /* shaped as the parameter */
} ReferenceNoise;

/*
 * How far rounding may move s - tau: slack / 4. The slack of a score of float32 is that of the longest row, 256
 * elements, with every addition wrong by a whole 2^-23 of the largest sum there can be, |q||k|. Rounding to nearest
 * halves the one, sums that grow from 0 to a score the other. Scores that are exactly 0 don't move.
 */
double reference_delta(const Manifest *m);

/* A row's pairs with neighbouring keys under one view, evaluated. */
typedef struct PairRun {
	int view;
	int64_t batch_head, row;       /* batch * heads + head; the row in it */
	int64_t first;                 /* key */
	int count;
	const double *score, *weight;  /* [count]; the score as modified */
	double tau;
	double coefficient;            /* of this view's weights in the sum over the views */
} PairRun;
/* Called for every visible pair: in order within a (batch, head), from one thread; for different ones from several. */
typedef void PairObserver(void *user, const PairRun *pairs);

/*
 * All tensors are contiguous f64 in host memory and belong to the caller:
 *     q[view], dq[view]       [batch, heads, q_len, head_dim]
 *     k[view], dk[view]       [batch, kv_heads, k_len, head_dim]
 *     v, dv                   [batch, kv_heads, k_len, value_dim]
 *     o, grad_o               [batch, heads, q_len, value_dim]
 *     param[p], dparam[p]     manifest_param_length(p) values; param[p] NULL: the initial value everywhere
 * Inputs should hold values as rounded to the spec's dtype.
 */
typedef struct Reference {
	const Manifest *manifest;
	int64_t batch, heads, kv_heads, q_len, k_len;
	int64_t layer, layers;
	int64_t first_kv_head, end_kv_head;    /* only these heads of k, and those of q that read them; end 0: all */
	const double *q[TDA_MAX_VIEWS], *k[TDA_MAX_VIEWS], *v;
	const double *param[TDA_MAX_PARAMS];
	const double *grad_o;          /* NULL: forward only */

	double *o;                     /* out; all outputs of the backward are wanted when grad_o is given */
	double *dq[TDA_MAX_VIEWS], *dk[TDA_MAX_VIEWS], *dv;
	double *dparam[TDA_MAX_PARAMS];
	ReferenceNoise *noise;         /* out; NULL: not wanted. Needs grad_o */
	ReferenceNoise *change;        /* out, with noise: the same of how far each product moves where a score does by
	                                * reference_delta(), weight and derivatives each up or down, whichever is more */
	/* out, each may be NULL: for each row of q, over all views, */
	int32_t *row_survivors;        /* pairs whose weight is not 0 */
	int32_t *row_near;             /* pairs with |s - tau| <= slack: rounding decides whether they survive.
	                                * Scores that are exactly 0, as those of zero rows are, are not among them */
	/* the same for each row of k and v [batch, kv_heads, k_len], over all query heads of the group */
	int32_t *key_survivors, *key_near;
	PairObserver *observe;         /* in; may be NULL */
	void *observer;

	int64_t survivors, near;       /* out: sums of the above */
	int64_t visible;               /* out: (row, key) pairs that the mask allows, times views */
} Reference;

/* The keys that the masks let position i see: [first, end), empty where first == end. */
typedef struct KeySpan {
	int64_t first, end;
} KeySpan;
KeySpan reference_visible_keys(const Manifest *manifest, int64_t i, int64_t k_len);

/* Uses up to `threads` threads (1 or more); the result does not depend on how many. */
tda_status reference_run(Reference *reference, int threads);

#endif
