/* Int8 images of rows, and what the screen needs to know of them: docs/screen.md derives the bound. */
#ifndef TDAGEN_QUANTISE_H
#define TDAGEN_QUANTISE_H

#include "kernels_parts.h"

/* The rows of q_terms' block, of every view: 1/|q|, int8 rows, thresholds and the bounds of rows. */
void quantise_queries(Kernel *k, const Scope *head, Place place);
/* The keys of k_terms' block of every view: 1/|k|, int8 rows with one scale, and the tile's bound. */
void quantise_keys(Kernel *k, Place place);

/* 1/|x| from the sum of squares and the largest |x|; 0 for a row of zeros; NaN where |x| is outside [2^-60, 2^60], so that squares
 * neither vanish nor overflow unseen. */
Val inverse_norm(Kernel *k, Val squares, Val largest);
/* The threshold of one row (i32) under a view, and a place for it among the row terms. */
Val row_threshold(Kernel *k, const Scope *head, int view, Val row);
void store_term(Kernel *k, Val terms, Val row, Val x);

/* Int8 images of one (view, batch, head), by their number in this order (i32). */
Matrix int8_queries(Kernel *k, Val index);
Matrix int8_keys(Kernel *k, Val index);
/* Bounds, 16 bytes each: of a row, of PLAN_BOUND_KEYS keys. docs/screen.md. */
Val row_bounds(Kernel *k, Val index);
Val tile_bounds(Kernel *k, Val index);
enum { TILE_BOUND_FLOATS = 4 };

#endif
