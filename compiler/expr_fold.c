/*
 * Folding and simplification, one node at a time, when it is made.
 *
 * Holds on entry: the arguments are themselves simplified. Holds on exit: the result has the same value as the node
 * asked for, for every value of its variables, NaN, infinities and signed zeros included, up to rounding.
 * So x * 0 stays (x may be infinite), x + 0 stays unless x can't be -0, and x - x stays.
 */
#include "expr_internal.h"

#include <float.h>
#include <math.h>

/* depth bounds the walk: a shared part may be reached along exponentially many paths. */
static bool never_negative(const Expr *e, int depth)
{
	if (depth == 0)
		return false;
	depth--;
	switch (e->op) {
	case EXPR_CONST: return !signbit(e->value);
	case EXPR_RELU: case EXPR_ABS: case EXPR_EXP: case EXPR_EXP2: case EXPR_SIGMOID: return true;
	case EXPR_ADD: case EXPR_MUL: case EXPR_DIV: case EXPR_MIN:
		return never_negative(e->arg[0], depth) && never_negative(e->arg[1], depth);
	case EXPR_SQRT: case EXPR_FLOOR: case EXPR_POW: return never_negative(e->arg[0], depth);
	case EXPR_WHERE: return never_negative(e->arg[1], depth) && never_negative(e->arg[2], depth);
	default: return false;
	}
}

bool expr_never_negative(const Expr *e)
{
	return never_negative(e, 6);
}

static bool is_positive_zero(const Expr *e)
{
	return expr_is_const(e, 0) && !signbit(e->value);
}

static bool is_negative_zero(const Expr *e)
{
	return expr_is_const(e, 0) && signbit(e->value);
}

static const Expr *fold_constants(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc)
{
	double v[EXPR_MAX_ARITY] = { 0 };
	for (int k = 0; k < expr_arity(op); k++) {
		if (args[k]->op != EXPR_CONST)
			return NULL;
		v[k] = args[k]->value;
	}
	double value = expr_apply(op, v[0], v[1], v[2]);
	if (op == EXPR_WHERE)
		return v[0] != 0 ? args[1] : args[2];
	return expr_yields_bool(op) ? expr_const_bool(pool, value != 0, loc) : expr_const(pool, value, loc);
}

static const Expr *binary(ExprPool *pool, ExprOp op, const Expr *a, const Expr *b, Loc loc)
{
	return expr_make(pool, op, (const Expr *[]){ a, b }, loc);
}

static const Expr *negate(ExprPool *pool, const Expr *a, Loc loc)
{
	return expr_make(pool, EXPR_NEG, &a, loc);
}

static const Expr *fold_add(ExprPool *pool, const Expr *a, const Expr *b, Loc loc)
{
	if (is_negative_zero(b) || (is_positive_zero(b) && expr_never_negative(a)))
		return a;
	if (is_negative_zero(a) || (is_positive_zero(a) && expr_never_negative(b)))
		return b;
	if (b->op == EXPR_NEG)
		return binary(pool, EXPR_SUB, a, b->arg[0], loc);
	if (a->op == EXPR_NEG)
		return binary(pool, EXPR_SUB, b, a->arg[0], loc);
	return NULL;
}

static const Expr *fold_sub(ExprPool *pool, const Expr *a, const Expr *b, Loc loc)
{
	if (is_positive_zero(b))
		return a;
	if (is_negative_zero(a))
		return negate(pool, b, loc);
	if (b->op == EXPR_NEG)
		return binary(pool, EXPR_ADD, a, b->arg[0], loc);
	return NULL;
}

/* May c1 * (c2 * x) be (c1 * c2) * x? Yes where both push towards overflow or both towards underflow. */
static bool may_join(double c1, double c2)
{
	double joined = fabs(c1 * c2);
	if (!(joined >= DBL_MIN && joined <= DBL_MAX))
		return false;
	return (fabs(c1) >= 1 && fabs(c2) >= 1) || (fabs(c1) <= 1 && fabs(c2) <= 1);
}

static const Expr *fold_mul(ExprPool *pool, const Expr *a, const Expr *b, Loc loc)
{
	if (expr_is_const(a, 1))
		return b;
	if (expr_is_const(b, 1))
		return a;
	if (expr_is_const(a, -1))
		return negate(pool, b, loc);
	if (expr_is_const(b, -1))
		return negate(pool, a, loc);
	if (a->op == EXPR_NEG && b->op == EXPR_NEG)
		return binary(pool, EXPR_MUL, a->arg[0], b->arg[0], loc);
	const Expr *c = a->op == EXPR_CONST ? a : b, *x = a->op == EXPR_CONST ? b : a;
	if (c->op != EXPR_CONST)
		return NULL;
	if (x->op == EXPR_NEG)
		return binary(pool, EXPR_MUL, expr_const(pool, -c->value, c->loc), x->arg[0], loc);
	if (x->op == EXPR_MUL)
		for (int k = 0; k < 2; k++)
			if (x->arg[k]->op == EXPR_CONST && may_join(c->value, x->arg[k]->value))
				return binary(pool, EXPR_MUL, expr_const(pool, c->value * x->arg[k]->value, c->loc),
				              x->arg[1 - k], loc);
	return NULL;
}

static const Expr *fold_div(ExprPool *pool, const Expr *a, const Expr *b, Loc loc)
{
	if (expr_is_const(b, 1))
		return a;
	if (expr_is_const(b, -1))
		return negate(pool, a, loc);
	if (a->op == EXPR_NEG && b->op == EXPR_NEG)
		return binary(pool, EXPR_DIV, a->arg[0], b->arg[0], loc);
	return NULL;
}

static const Expr *fold_pow(ExprPool *pool, const Expr *a, const Expr *b, Loc loc)
{
	if (expr_is_const(b, 1))
		return a;
	if (expr_is_const(b, 0) || expr_is_const(a, 1))        /* also of NaN: C's pow says so */
		return expr_const(pool, 1, loc);
	if (expr_is_const(b, 0.5) && expr_never_negative(a))   /* elsewhere they differ at -inf and -0 */
		return expr_make(pool, EXPR_SQRT, &a, loc);
	return NULL;
}

/* abs, relu and floor do nothing to some arguments; abs forgets a sign. */
static const Expr *fold_unary(ExprPool *pool, ExprOp op, const Expr *a, Loc loc)
{
	switch (op) {
	case EXPR_NEG: return a->op == EXPR_NEG ? a->arg[0] : NULL;
	case EXPR_RELU: return expr_never_negative(a) ? a : NULL;
	case EXPR_FLOOR: return a->op == EXPR_FLOOR ? a : NULL;
	case EXPR_ABS:
		if (expr_never_negative(a))
			return a;
		return a->op == EXPR_NEG ? expr_make(pool, EXPR_ABS, a->arg, loc) : NULL;
	default: return NULL;
	}
}

static const Expr *fold_min_max(ExprOp op, const Expr *a, const Expr *b)
{
	if (a == b)
		return a;
	if (a->op == op && (a->arg[0] == b || a->arg[1] == b))
		return a;
	if (b->op == op && b->arg[0] == a)                     /* not arg[1]: a tie would go to another argument */
		return b;
	return NULL;
}

const Expr *expr_fold(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc)
{
	const Expr *folded = fold_constants(pool, op, args, loc);
	if (folded)
		return folded;
	switch (op) {
	case EXPR_ADD: return fold_add(pool, args[0], args[1], loc);
	case EXPR_SUB: return fold_sub(pool, args[0], args[1], loc);
	case EXPR_MUL: return fold_mul(pool, args[0], args[1], loc);
	case EXPR_DIV: return fold_div(pool, args[0], args[1], loc);
	case EXPR_POW: return fold_pow(pool, args[0], args[1], loc);
	case EXPR_MIN: case EXPR_MAX: return fold_min_max(op, args[0], args[1]);
	case EXPR_LT: case EXPR_GT: return args[0] == args[1] ? expr_const_bool(pool, false, loc) : NULL;
	case EXPR_WHERE:
		if (args[0]->op == EXPR_CONST)
			return args[0]->value != 0 ? args[1] : args[2];
		return args[1] == args[2] ? args[1] : NULL;
	default: return expr_arity(op) == 1 ? fold_unary(pool, op, args[0], loc) : NULL;
	}
}
