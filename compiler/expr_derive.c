/*
 * Symbolic derivatives.
 *
 * Conventions at kinks: relu'(0) = sqrt'(0) = abs'(0) = 0; ties of min and max go to the first argument; clamp' is 1 on
 * the closed range; floor' and the derivatives of comparisons are 0; the derivative of relu(x)^p is 0 at and below 0.
 * A branch that an op takes is taken by its derivative too, and where NaN took no branch, the derivative is NaN:
 * hence forms such as where(gt(x, 0), dx, relu(x)), whose last arm is 0 below the kink and NaN at NaN.
 * A part that does not read the variable has derivative constant 0 and drops out, whatever it is multiplied by.
 *
 * A rule uses the derivative of each argument once, so that a derivative written out has no more than the square of the
 * operations of what was derived, however deep it is nested.
 *
 * C leaves the order of arguments open: no call has two arguments that make expressions, so that their ids, and what is
 * printed in their order, do not depend on the compiler.
 */
#include "expr_internal.h"

#include <math.h>

typedef struct Derivation {
	ExprPool *pool;
	ExprVar var;
	int param;
	const Expr **done;                 /* by id of the expression derived */
} Derivation;

/* Builds at the place of the expression that is being derived. */
typedef struct At {
	ExprPool *pool;
	Loc loc;
} At;

static const Expr *make1(At at, ExprOp op, const Expr *a)
{
	return expr_make(at.pool, op, (const Expr *[]){ a }, at.loc);
}

static const Expr *make2(At at, ExprOp op, const Expr *a, const Expr *b)
{
	return expr_make(at.pool, op, (const Expr *[]){ a, b }, at.loc);
}

static const Expr *where(At at, const Expr *condition, const Expr *a, const Expr *b)
{
	return expr_make(at.pool, EXPR_WHERE, (const Expr *[]){ condition, a, b }, at.loc);
}

static const Expr *number(At at, double value)
{
	return expr_const(at.pool, value, at.loc);
}

static const Expr *add(At at, const Expr *a, const Expr *b)
{
	if (expr_is_const(a, 0))
		return b;
	return expr_is_const(b, 0) ? a : make2(at, EXPR_ADD, a, b);
}

static const Expr *sub(At at, const Expr *a, const Expr *b)
{
	if (expr_is_const(a, 0))
		return expr_is_const(b, 0) ? a : make1(at, EXPR_NEG, b);
	return expr_is_const(b, 0) ? a : make2(at, EXPR_SUB, a, b);
}

static const Expr *mul(At at, const Expr *a, const Expr *b)
{
	if (expr_is_const(a, 0) || expr_is_const(b, 0))
		return number(at, 0);
	return make2(at, EXPR_MUL, a, b);
}

static const Expr *over(At at, const Expr *a, const Expr *b)
{
	return expr_is_const(a, 0) ? a : make2(at, EXPR_DIV, a, b);
}

static const Expr *is(At at, ExprOp comparison, const Expr *a, double value)
{
	return make2(at, comparison, a, number(at, value));
}

static const Expr *derive(const Derivation *d, const Expr *e);

/* a^p for a constant p. For relu(x)^p with p > 1 the factor relu(x)^(p - 1) is 0 at the kink and NaN at NaN; it makes
 * the branch at x = 0 superfluous, so x is derived instead of relu(x), if dx is a number and can't spoil the 0. */
static const Expr *derive_power(const Derivation *d, At at, const Expr *e)
{
	const Expr *a = e->arg[0], *p = e->arg[1];
	bool of_relu = a->op == EXPR_RELU;
	const Expr *da = derive(d, of_relu ? a->arg[0] : a);
	const Expr *power = make2(at, EXPR_POW, a, number(at, p->value - 1));
	const Expr *slope = mul(at, mul(at, p, power), da);
	if (!of_relu && p->value > 0 && p->value < 1)          /* as sqrt'(0) = 0 */
		return where(at, is(at, EXPR_EQ, a, 0), number(at, 0), slope);
	if (!of_relu)
		return slope;
	if (p->value > 1 && da->op == EXPR_CONST && isfinite(da->value))
		return slope;
	return where(at, is(at, EXPR_GT, a, 0), slope, a);
}

/* a^b where b reads the variable: b a^(b-1) da + a^b log|a| db. At a = 0 the log is not finite, nor is the power for
 * b < 1: there they count as 0. |a|, since a negative a has whole powers while b doesn't move (and NaN elsewhere). */
static const Expr *derive_general_power(const Derivation *d, At at, const Expr *e)
{
	const Expr *a = e->arg[0], *b = e->arg[1], *zero = number(at, 0);
	bool of_relu = a->op == EXPR_RELU;
	const Expr *da = derive(d, of_relu ? a->arg[0] : a), *db = derive(d, b);
	const Expr *power = make2(at, EXPR_POW, a, make2(at, EXPR_SUB, b, number(at, 1)));
	const Expr *factor = mul(at, e, make1(at, EXPR_LOG, make1(at, EXPR_ABS, a)));
	if (of_relu) {
		const Expr *by_base = mul(at, mul(at, b, power), da), *slope = add(at, by_base, mul(at, factor, db));
		return where(at, is(at, EXPR_GT, a, 0), slope, a);
	}
	const Expr *at_zero = is(at, EXPR_EQ, a, 0);
	const Expr *below_one = where(at, is(at, EXPR_LT, b, 1), zero, power);
	const Expr *by_base = mul(at, mul(at, b, where(at, at_zero, below_one, power)), da);
	return add(at, by_base, mul(at, where(at, at_zero, zero, factor), db));
}

static const Expr *derive_clamp(const Derivation *d, At at, const Expr *e)
{
	const Expr *x = e->arg[0], *lo = e->arg[1], *hi = e->arg[2];
	const Expr *dx = derive(d, x), *dlo = derive(d, lo), *dhi = derive(d, hi);
	const Expr *inside = where(at, make2(at, EXPR_GT, x, hi), dhi, dx);
	const Expr *slope = where(at, make2(at, EXPR_LT, x, lo), dlo, inside);
	return where(at, make2(at, EXPR_NE, e, e), e, slope);
}

static const Expr *derive_unary(const Derivation *d, At at, const Expr *e)
{
	const Expr *a = e->arg[0], *da = derive(d, a);
	switch (e->op) {
	case EXPR_NEG: return sub(at, number(at, 0), da);
	case EXPR_SQRT: {
		const Expr *slope = over(at, mul(at, number(at, 0.5), da), e);
		return where(at, is(at, EXPR_GT, a, 0), slope, e);
	}
	case EXPR_LOG: {
		const Expr *slope = over(at, da, a);
		return expr_never_negative(a) ? slope : where(at, is(at, EXPR_GE, a, 0), slope, e);
	}
	case EXPR_EXP: return mul(at, e, da);
	case EXPR_EXP2: return mul(at, mul(at, number(at, 0.693147180559945309417), e), da);
	case EXPR_TANH: {
		const Expr *square = make2(at, EXPR_MUL, e, e);
		return mul(at, make2(at, EXPR_SUB, number(at, 1), square), da);
	}
	case EXPR_SIGMOID: return mul(at, make2(at, EXPR_MUL, e, make2(at, EXPR_SUB, number(at, 1), e)), da);
	case EXPR_ABS: {                                       /* times the sign of a, which at 0 and NaN is |a| */
		const Expr *minus = number(at, -1), *plus = number(at, 1);
		const Expr *below = where(at, is(at, EXPR_LT, a, 0), minus, e);
		return mul(at, where(at, is(at, EXPR_GT, a, 0), plus, below), da);
	}
	case EXPR_RELU: return where(at, is(at, EXPR_GT, a, 0), da, e);
	default: return number(at, 0);                         /* floor */
	}
}

static const Expr *derive_op(const Derivation *d, const Expr *e)
{
	At at = { d->pool, e->loc };
	const Expr *a = e->arg[0], *b = e->arg[1];
	if (e->op == EXPR_POW)
		return b->op == EXPR_CONST ? derive_power(d, at, e) : derive_general_power(d, at, e);
	if (e->op == EXPR_CLAMP)
		return derive_clamp(d, at, e);
	if (e->arity == 1)
		return derive_unary(d, at, e);
	const Expr *da = derive(d, a), *db = derive(d, b);
	switch (e->op) {
	case EXPR_ADD: return add(at, da, db);
	case EXPR_SUB: return sub(at, da, db);
	case EXPR_MUL: {
		const Expr *first = mul(at, da, b);
		return add(at, first, mul(at, a, db));
	}
	case EXPR_DIV: return over(at, sub(at, da, mul(at, e, db)), b);
	case EXPR_MIN: case EXPR_MAX: {
		ExprOp first = e->op == EXPR_MIN ? EXPR_LE : EXPR_GE, second = e->op == EXPR_MIN ? EXPR_GT : EXPR_LT;
		const Expr *other = where(at, make2(at, second, a, b), db, e);
		return where(at, make2(at, first, a, b), da, other);
	}
	case EXPR_WHERE: return where(at, a, db, derive(d, e->arg[2]));
	default: return number(at, 0);                         /* comparisons */
	}
}

static const Expr *derive(const Derivation *d, const Expr *e)
{
	bool reads = d->var == VAR_PARAM ? e->params >> d->param & 1 : e->vars >> d->var & 1;
	if (!reads)
		return expr_const(d->pool, 0, e->loc);
	if (e->op == EXPR_VAR)
		return expr_const(d->pool, 1, e->loc);
	if (!d->done[e->id])
		d->done[e->id] = derive_op(d, e);
	return d->done[e->id];
}

const Expr *expr_derivative(ExprPool *pool, const Expr *e, ExprVar var, int param)
{
	Derivation d = { pool, var, param, ARENA_ARRAY(pool->arena, const Expr *, pool->count) };
	return derive(&d, e);
}
