/*
 * Formulas of a manifest: sizes, grids and integer arguments over the run-time shape (docs/manifest.md).
 * Parsed once into a postfix program; evaluated in 64-bit integers with every overflow found.
 */
#ifndef TDA_FORMULA_H
#define TDA_FORMULA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tda.h"

/* Every tensor that a manifest can name, and how many there are: q1..q4, k1..k4, v, o, do, dq1..dq4, dk1..dk4, dv. */
enum {
	TENSOR_Q = 0,
	TENSOR_K = TENSOR_Q + TDA_MAX_VIEWS,
	TENSOR_V = TENSOR_K + TDA_MAX_VIEWS,
	TENSOR_O,
	TENSOR_DO,
	TENSOR_DQ,
	TENSOR_DK = TENSOR_DQ + TDA_MAX_VIEWS,
	TENSOR_DV = TENSOR_DK + TDA_MAX_VIEWS,
	TENSOR_COUNT
};
const char *tensor_name(int tensor);
int tensor_find(const char *name, size_t length);      /* -1: no such tensor */

/* The variables of formulas: these, then three strides for each tensor. The last of them is the device's: its number of
 * multiprocessors, which grids alone may depend on. */
enum { SHAPE_BATCH, SHAPE_HEADS, SHAPE_KV_HEADS, SHAPE_Q_LEN, SHAPE_K_LEN, SHAPE_LAYER, SHAPE_LAYERS, SHAPE_MULTIPROCESSORS,
       SHAPE_COUNT };
enum { STRIDE_BATCH, STRIDE_HEAD, STRIDE_ROW, STRIDE_COUNT };
enum { FORMULA_VARS = SHAPE_COUNT + TENSOR_COUNT * STRIDE_COUNT };

static inline int formula_stride_var(int tensor, int stride)
{
	return SHAPE_COUNT + tensor * STRIDE_COUNT + stride;
}

typedef struct Formula Formula;

/* NULL after tda_fail. Freed with free(). */
Formula *formula_parse(const char *text, size_t length);
/* vars has FORMULA_VARS entries. */
tda_status formula_eval(const Formula *formula, const int64_t *vars, int64_t *result);
/* Is a variable read that `allowed` (FORMULA_VARS entries) does not allow? Returns it, or -1. */
int formula_first_not_allowed(const Formula *formula, const bool *allowed);
/* The variable's name, in a buffer of this thread. */
const char *formula_var_name(int var);

#endif
