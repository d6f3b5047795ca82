/*
 * Scalar expressions of a spec: an immutable DAG, hash-consed, so that equal expressions are equal pointers.
 *
 * A spec's threshold, score, weight and combine functions are traced into these; the compiler differentiates them,
 * proves facts about them and emits them; the manifest carries them in postfix for the run-time reference.
 */
#ifndef TDAGEN_EXPR_H
#define TDAGEN_EXPR_H

#include <stdbool.h>
#include <stdint.h>
#include "arena.h"
#include "diag.h"

typedef enum ExprOp {
	EXPR_CONST,                        /* value */
	EXPR_VAR,                          /* var, and param when var == VAR_PARAM */
#define EXPR_OP(id, ...) EXPR_##id,
#include "expr_ops.def"
#undef EXPR_OP
	EXPR_OP_COUNT
} ExprOp;

/* What a function of a spec may read. expr_vars.def gives each its name, its scope and where it may occur. */
typedef enum ExprVar {
	VAR_S,          /* the normalised score (in score: before the modifier; in weight: after it) */
	VAR_TAU,        /* the row's threshold, in weight only */
	VAR_I,          /* row + k_len - q_len */
	VAR_J,          /* key index */
	VAR_VIEW,       /* 1..views; replaced by a constant when a view is emitted */
	VAR_HEAD,       /* query head, from 0 */
	VAR_LAYER,      /* run-time layer, from 0 */
	VAR_Q_LEN,
	VAR_K_LEN,
	VAR_PARAM,      /* learned parameter number `param` of the spec, before clamping */
	VAR_COUNT
} ExprVar;

enum { EXPR_MAX_ARITY = 3 };

typedef struct Expr Expr;
struct Expr {
	ExprOp op;
	ExprVar var;                       /* EXPR_VAR */
	int param;                         /* VAR_PARAM: index into Spec.params */
	int arity;
	const Expr *arg[EXPR_MAX_ARITY];
	double value;                      /* EXPR_CONST */
	bool is_bool;                      /* comparisons: only WHERE's first argument takes one */
	uint32_t vars;                     /* bit (1 << ExprVar) for each kind of variable that occurs below */
	uint32_t params;                   /* bit (1 << index) for each learned parameter that occurs below */
	Loc loc;                           /* the spec's line that made it first */
	int id;                            /* order of creation in the pool: a stable order for output */
};

typedef struct ExprPool ExprPool;
ExprPool *expr_pool_new(Arena *arena);

/* Constructors fold and simplify: the result may be of another op than asked for. Simplification keeps values for
 * every input, NaN and infinities included (so x*0 is not 0), up to rounding. */
const Expr *expr_const(ExprPool *pool, double value, Loc loc);
const Expr *expr_var(ExprPool *pool, ExprVar var, Loc loc);
const Expr *expr_param(ExprPool *pool, int param, Loc loc);
const Expr *expr_make(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc);
const Expr *expr_unary(ExprPool *pool, ExprOp op, const Expr *a);
const Expr *expr_binary(ExprPool *pool, ExprOp op, const Expr *a, const Expr *b);
const Expr *expr_where(ExprPool *pool, const Expr *condition, const Expr *a, const Expr *b);

/* Replaces every occurrence of a variable (param is ignored unless var == VAR_PARAM). */
const Expr *expr_substitute(ExprPool *pool, const Expr *e, ExprVar var, int param, const Expr *with);

/* The symbolic derivative, with the conventions at kinks that expr_ops.def states. Never NULL; may be constant 0. */
const Expr *expr_derivative(ExprPool *pool, const Expr *e, ExprVar var, int param);

/* The values of variables for expr_eval; params has one entry per learned parameter of the spec. */
typedef struct ExprEnv {
	double var[VAR_COUNT];
	const double *params;
} ExprEnv;
double expr_eval(const Expr *e, const ExprEnv *env);   /* booleans are 1 and 0 */

/* Closed intervals; `nan` says that a NaN may occur too. */
typedef struct Interval {
	double lo, hi;
	bool nan;
} Interval;
typedef struct IntervalEnv {
	Interval var[VAR_COUNT];
	const Interval *params;
} IntervalEnv;
Interval expr_interval(const Expr *e, const IntervalEnv *env);

/* Is `weight` identically 0, with zero derivatives by s, tau and every parameter, wherever s <= tau? On success
 * *factor is the sub-expression that carries the proof (for instance relu(s - tau)^2); otherwise *obstacle is the first
 * sub-expression that stands in the way. */
bool expr_prove_zero_below(ExprPool *pool, const Expr *weight, const Expr **factor, const Expr **obstacle);

/* Is e provably increasing in s (not reading j)? Needed to turn a threshold on the modified score into one on the score. */
bool expr_is_increasing_in_s(ExprPool *pool, const Expr *e);

/* Infix as a person writes it, with as few parentheses as needed; param_names[k] names parameter k. */
char *expr_print(Arena *arena, const Expr *e, const char *const *param_names);
/* Postfix, space-separated, for the manifest: constants in "%.17g", variables and ops by their names in the tables,
 * parameters as $name. */
char *expr_postfix(Arena *arena, const Expr *e, const char *const *param_names);

const char *expr_op_name(ExprOp op);
const char *expr_var_name(ExprVar var);

#endif
