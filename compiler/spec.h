/* What a spec file says, after dsl/ has run it: plain data; no Lua value is left. */
#ifndef TDAGEN_SPEC_H
#define TDAGEN_SPEC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"
#include "expr.h"

enum { SPEC_MAX_VIEWS = 4, SPEC_MAX_PARAMS = 16, SPEC_MAX_HEAD_DIM = 256 };

typedef enum DType { DTYPE_F32, DTYPE_F16, DTYPE_BF16 } DType;
typedef enum Precision { PRECISION_IEEE, PRECISION_TF32 } Precision;   /* of f32 specs only */
typedef enum Normalize { NORMALIZE_NONE, NORMALIZE_L2 } Normalize;

/* The shape of a learned parameter: scalar [], per_head [H_q], per_layer [L], per_layer_head [L, H_q],
 * per_channel [value_dim]. */
typedef enum ParamShape { PARAM_SCALAR, PARAM_PER_HEAD, PARAM_PER_LAYER, PARAM_PER_LAYER_HEAD, PARAM_PER_CHANNEL } ParamShape;

typedef struct Param {
	const char *name;
	ParamShape shape;
	double init;
	double min, max;                   /* -inf and +inf when not given; expressions hold the clamp already */
	Loc loc;
	int call;                          /* which call of learned() made it, from 0 */
} Param;

typedef struct Spec {
	const char *path;                  /* as the user gave it */
	const char *name;
	DType dtype;
	Precision precision;
	int head_dim, value_dim;           /* multiples of 8 up to 256 */
	int views;                         /* 1..4 */
	Normalize normalize;
	bool causal;                       /* j <= i */
	int64_t window;                    /* |i - j| < window; 0: no window */
	Param params[SPEC_MAX_PARAMS];     /* learned ones; constants are folded into the expressions */
	int param_count;
	const char *param_names[SPEC_MAX_PARAMS];
	const char **constant_names;       /* of params, too: what a context offers beside the learned ones */
	int constant_count;
	const Expr *threshold;             /* over i, view, head, layer, q_len, k_len, params */
	const Expr *score;                 /* the same and s, j */
	const Expr *weight;                /* the same and s, tau, j */
	const Expr *combine[SPEC_MAX_VIEWS];   /* as threshold */
	bool rms_norm;
	double rms_eps;
	int gain;                          /* index of the per_channel parameter, or -1: no gain */
	Loc loc;                           /* the attention{} call */
	Loc threshold_loc, score_loc, weight_loc, combine_loc;
	ExprPool *pool;
	const char *source;                /* the text of the spec */
	char hash[65];                     /* SHA-256 of the canonical dump (spec_print), hex */
} Spec;

typedef struct SpecOption {            /* --set key=value */
	const char *key;
	const char *value;
	bool used;                         /* set by spec_load when option() read it */
} SpecOption;

/* Runs the spec at `path`. Returns NULL after any error, each of them in *diag. An option that the spec never reads is an
 * error. Everything returned lives in the arena. source has `length` bytes and a final NUL. */
Spec *spec_load(Arena *arena, Diag *diag, const char *path, const char *source, size_t length, SpecOption *options,
                int option_count);

/* Canonical text of a spec: every field, defaults included, expressions in infix. --emit=spec prints it. */
void spec_print(const Spec *spec, FILE *out);
/* The expressions and their derivatives, the proof and the intervals. --emit=expr prints it. */
void spec_print_expressions(const Spec *spec, FILE *out);

const char *dtype_name(DType dtype);           /* f32, f16, bf16 */
int dtype_size(DType dtype);                   /* bytes */
const char *param_shape_name(ParamShape shape);
/* Makes every parameter that formulas read one of each head, whatever its shape: for counting, which tells heads apart. */
void spec_params_by_head(Spec *spec);
/* Names of all learned parameters, for expr_print. */
const char *const *spec_param_names(const Spec *spec);

#endif
