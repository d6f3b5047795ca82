/*
 * Pairs of a query and a key: where a spec's formulas and masks enter the kernels, and nowhere else.
 *
 * A tile of pairs has queries along its rows and keys along its columns, or the other way round (backward_kv); the axes say
 * which.
 */
#ifndef TDAGEN_PAIRS_H
#define TDAGEN_PAIRS_H

#include "../compiler/scalar.h"
#include "tile.h"

/* One view's formulas, and their derivatives; `view` itself is replaced by its number. */
typedef struct ViewMath {
	const Expr *threshold, *score, *weight, *combine;
	double scale;                      /* dw/ds = scale * weight_s: sums over pairs take in the constant at their end */
	const Expr *weight_s, *weight_tau, *score_s;
	bool mirrored;                     /* dw/dtau = -dw/ds, as of a weight of s - tau */
	const Expr *threshold_p[SPEC_MAX_PARAMS], *score_p[SPEC_MAX_PARAMS];
	const Expr *weight_p[SPEC_MAX_PARAMS], *combine_p[SPEC_MAX_PARAMS];
} ViewMath;
ViewMath view_math(const Spec *spec, int view);

/* Is the expression the constant 0: a derivative that need not be computed? */
bool expr_is_zero(const Expr *e);

/* Values that hold for a whole head: parameters, head, layer and lengths, as far as the spec reads them. heads is the
 * formula of the number of query heads. */
Scope head_scope(Kernel *k, Val head);

/* i = row + k_len - q_len, as i32. */
Val query_position(Kernel *k, Val row);

/* e for each query of an axis of row indices: depends on i and what `head` knows. */
Axis query_map(Kernel *k, const Scope *head, Axis query, const Expr *e);

/* Tiles of `tile` keys that some row of [row0, row0 + rows) sees, and tiles of `tile` rows that see some key: [first, end). */
typedef struct Span { Val first, end; } Span;
Span key_tiles(Kernel *k, Val row0, int rows, int tile);
Span query_tiles(Kernel *k, Val key0, int keys, int tile);

/* Indices of rows or keys: [first, past). */
typedef struct Range { Val first, past; } Range;
Range block_range(Kernel *k, Val first, int count);
/* Is any pair of the tile hidden? Rows past q_len count as hidden when `bound_rows`. */
Val tile_has_hidden(Kernel *k, Range rows, Range keys, bool bound_rows);
Val pair_visible(Kernel *k, Val row, Val key, bool bound_rows);
/* Bit e of the result (i32; a tile has at most 32 elements a lane) says whether element e is visible. */
Val visible_bits(Kernel *k, Tile shape, Axis row, Axis key, Val has_hidden, bool bound_rows);

/*
 * Work on a tile's pairs, of which those that are hidden don't count:
 *
 *     Visible visible = visible_of(k, tile, row, key, has_hidden);
 *     for (visible_begin(&visible, changed, n); visible_next(&visible);)
 *         ... visible_at(&visible, e) ...
 *
 * Rows past q_len are hidden too. ENGINE_MMA_SYNC runs the body once, with a bit for each element. ENGINE_WGMMA emits it
 * twice, for tiles without hidden pairs, where nothing is looked up, and for the few others; the body changes what is
 * listed.
 */
typedef struct Visible {
	Kernel *k;
	Axis row, key;
	Val has_hidden;                    /* of the tile */
	Val bits;                          /* ENGINE_MMA_SYNC: bit e says whether element e is visible; tiles have 32 at most */
	Either branch;
	bool entered;
} Visible;
Visible visible_of(Kernel *k, Tile shape, Axis row, Axis key, Val has_hidden);
void visible_begin(Visible *v, Val **changed, int count);
bool visible_next(Visible *v);
Val visible_at(const Visible *v, int element);     /* i1; null: certainly */
/* The axis, which one of two bodies gets as other values that happen to be the same. What both compute from the same
 * values the assembler would compute before them, all at once, and spill. */
Axis visible_axis(const Visible *v, Axis axis);

/* How far the kernels' scores may lie from those of exact arithmetic, relative to |q| |k| (docs/screen.md). */
double score_error(const Spec *spec);
/* Scores of unit rows: raw * (1/|q| * 1/|k|), in place. Axes of normalize = "none" are not read. */
void scores_normalise(Kernel *k, Tile raw, Axis inv_q, Axis inv_k);

/* One pair under one view. */
typedef struct Pair {
	Scope before;                      /* s is the normalised score: for `score` and its derivatives */
	Scope after;                       /* s is the modified score, and tau: for `weight` and its derivatives */
	Val s, weight;
} Pair;
/* head outlives the result's use; row and key are i32 indices. */
void pair_evaluate(Kernel *k, const Scope *head, const ViewMath *math, Val score, Val tau, Val row, Val key, Pair *pair);
/* Did the pair survive? Always true when exact zeros are not proved. Null stands for "always". */
Val pair_survives(Kernel *k, const Pair *pair, Val tau);
/* plan_refines_marks: might it in another kernel, whose sums round otherwise? Also where it did. */
Val pair_may_survive(Kernel *k, const Pair *pair, Val tau);
/* Is its score above the threshold, whatever that is worth? Not for NaN. */
Val pair_is_above(Kernel *k, const Pair *pair, Val tau);

/* x * e, where e is emitted in the scope; nothing is emitted for e = 1. */
Val times(Kernel *k, Val x, const Expr *e, const Scope *scope);
Val scaled(Kernel *k, Val x, double by);
void tile_scaled(Kernel *k, Tile t, double by);    /* in place */
/* Both conditions, either of which may be null: certain. */
Val both(Kernel *k, Val x, Val y);
/* x where the condition holds, else 0. */
Val where(Kernel *k, Val condition, Val x);

#endif
