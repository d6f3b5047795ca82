/* One row of the f64 reference, forward and backward. For reference.c alone. */
#ifndef TDA_REFERENCE_ROW_H
#define TDA_REFERENCE_ROW_H

#include "reference.h"

/* Query rows whose scores are computed together: each key is then read once for all of them. */
enum { ROW_BLOCK = 8 };

/* What one view gave one row: its live pairs in the order of keys. */
typedef struct LiveRow {
	int64_t count;
	int32_t *key;                  /* [k_len] */
	double *score;                 /* the normalised score, before the modifier */
	double *weight;
	double *by_score;              /* d weight / d normalised score */
	double *by_tau;
	double *by_param[TDA_MAX_PARAMS];
	/* with noise: how far each of the above moves with the score (ReferenceNoise *change) */
	double *weight_change, *score_change, *tau_change, *param_change[TDA_MAX_PARAMS];
	double tau, coefficient;
	double tau_by_param[TDA_MAX_PARAMS], coefficient_by_param[TDA_MAX_PARAMS];
	double *value;                 /* sum over keys of weight * v, [value_dim] */
} LiveRow;

typedef struct Worker {
	const Reference *ref;
	uint32_t by_params;            /* parameters that score or weight read */
	PostfixSlot *stack;
	double *inverse_k[TDA_MAX_VIEWS];      /* [k_len]; 1 where rows are not normalised */
	double *transposed[TDA_MAX_VIEWS];     /* [head_dim, k_len], as given */
	double *key_moment[TDA_MAX_VIEWS];     /* [k_len]: sum over rows of dS * s, for the norm's gradient */
	double *unit_q[TDA_MAX_VIEWS];         /* [ROW_BLOCK, head_dim]: the rows of q that are being computed */
	double *scores[TDA_MAX_VIEWS];         /* [ROW_BLOCK, k_len]: their normalised scores */
	double *sum_q;                         /* [head_dim] */
	double *row_o, *grad_row, *normed;     /* [value_dim] */
	double *grad_noise;                    /* [value_dim]: |grad_row| before the norm's two terms cancel */
	double scale, mean;                    /* the norm's: 1 / rms; of gradient times normed */
	/* squares of how far the norm moves with the weights: 1 / rms, relatively; `mean`; and, not squared, normed */
	double scale_change, mean_change;
	double *normed_change;                 /* [value_dim] */
	double params[TDA_MAX_PARAMS];         /* this head's and layer's entries */
	double *grad_params;                   /* this head's gradients: [TDA_MAX_PARAMS] and the gain's [value_dim] */
	double *grad_squares;                  /* and the sums of squares of their terms, */
	double *grad_changes;                  /* and of those terms' changes */
	int64_t survivors, near, visible;
	LiveRow live[TDA_MAX_VIEWS];
} Worker;

typedef struct RowPlace {
	int64_t group;                 /* batch * kv_heads + key head */
	int64_t head, row;             /* row of all rows: (batch * heads + head) * q_len + r */
	int64_t i;                     /* position */
	int slot;                      /* in the block of rows */
	KeySpan keys;                  /* visible */
} RowPlace;

/* 1 / norm of a row of q or k; 1 where rows are not normalised, 0 for a zero row, NaN outside of the supported
 * range. */
double reference_inverse_norm(const Manifest *m, const double *row);
/* Entry `at` of a parameter: as given, or the initial value. */
double reference_parameter(const Reference *ref, int p, int64_t at);
/* Normalises a block of rows and computes their scores with every key that one of them sees. */
void reference_prepare_rows(Worker *w, const RowPlace *places, int rows);
/* o of a row that sees a key. The row's pairs stay in w->live for its backward. */
void reference_row_forward(Worker *w, const RowPlace *at);
/* dq of the row; adds the row's parts of dv, of the parameters' gradients, and, before the key's own norm is
 * applied, of dk. */
void reference_row_backward(Worker *w, const RowPlace *at);

#endif
