/* Shared by the files expr*.c alone. */
#ifndef TDAGEN_EXPR_INTERNAL_H
#define TDAGEN_EXPR_INTERNAL_H

#include "expr.h"

struct ExprPool {
	Arena *arena;
	const Expr **table;                /* open addressing, NULL is free */
	int capacity;                      /* a power of two */
	int count;                         /* expressions made; ids run from 0 to count - 1 */
};

int expr_arity(ExprOp op);
bool expr_yields_bool(ExprOp op);
/* One operation in f64. */
double expr_apply(ExprOp op, double a, double b, double c);
bool expr_is_const(const Expr *e, double value);

/* The node itself, unsimplified; an equal one if the pool has it. */
const Expr *expr_intern(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc);
const Expr *expr_const_bool(ExprPool *pool, bool value, Loc loc);

/* What op of args simplifies to, or NULL when there is nothing to simplify. */
const Expr *expr_fold(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc);
/* Is e, whatever its variables are, +0, positive or NaN? */
bool expr_never_negative(const Expr *e);

enum { EXPR_NUMBER_SIZE = 40 };
/* The fewest digits that read back as the same number. */
char *expr_number_text(double value, char text[EXPR_NUMBER_SIZE]);

/* Every variable within the range that proofs assume (see expr_prove.c). */
IntervalEnv expr_proof_env(void);
Interval expr_interval_point(double value);

#endif
