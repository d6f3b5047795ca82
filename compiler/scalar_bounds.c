/*
 * Interval arithmetic in a kernel: where the float32 value of an expression lies, whatever its operations' errors and
 * however a multiplication is fused with what follows it. Every interval is widened by more than those errors.
 */
#include "scalar.h"

#include <math.h>

enum { MEMO_SIZE = 256 };

/* Errors relative to the result: of + - *, also fused; of functions and quotients; of powers through logarithms, for results
 * of float32's range. WIDEN_LEAST is far above what underflow loses. */
static const double WIDEN_EXACT = 0x1p-22, WIDEN_FUNCTION = 0x1p-18, WIDEN_POWER = 0x1p-14, WIDEN_LEAST = 0x1p-120;

typedef struct Ranges {
	Builder *b;
	const Scope *scope;
	struct { const Expr *e; Bounds v; } memo[MEMO_SIZE];
	int memo_count;
} Ranges;

static Bounds bounds_of(Ranges *r, const Expr *e);

static Bounds widened(Builder *b, Bounds x, double relative)
{
	Val up = val_f32(b, relative), least = val_f32(b, WIDEN_LEAST);
	Val low_size = val_fabs(b, x.lo), high_size = val_fabs(b, x.hi);
	Val low = val_fma(b, low_size, val_fneg(b, up), x.lo);
	Val high = val_fma(b, high_size, up, x.hi);
	return (Bounds){ val_fsub(b, low, least), val_fadd(b, high, least) };
}

static Bounds everything(Builder *b)
{
	Val low = val_f32(b, -INFINITY);
	return (Bounds){ low, val_f32(b, INFINITY) };
}

static Bounds select_bounds(Builder *b, Val condition, Bounds yes, Bounds no)
{
	Val low = val_select(b, condition, yes.lo, no.lo);
	return (Bounds){ low, val_select(b, condition, yes.hi, no.hi) };
}

static Bounds joined(Builder *b, Bounds x, Bounds y)
{
	Val low = val_fmin(b, x.lo, y.lo);
	return (Bounds){ low, val_fmax(b, x.hi, y.hi) };
}

/* Of an operation that rises or falls with each of its two operands: at all four corners. */
static Bounds corners(Builder *b, const Expr *e, Bounds x, Bounds y)
{
	Bounds all = { 0 };
	for (int i = 0; i < 4; i++) {
		Val corner = scalar_apply(b, e, (Val[]){ i % 2 ? x.hi : x.lo, i / 2 ? y.hi : y.lo });
		Bounds point = { corner, corner };
		all = i == 0 ? point : joined(b, all, point);
	}
	return all;
}

/* The operation rises with each operand. */
static Bounds rising(Builder *b, const Expr *e, const Bounds *a)
{
	Val low[EXPR_MAX_ARITY], high[EXPR_MAX_ARITY];
	for (int i = 0; i < e->arity; i++) {
		low[i] = a[i].lo;
		high[i] = a[i].hi;
	}
	Val lo = scalar_apply(b, e, low);
	return (Bounds){ lo, scalar_apply(b, e, high) };
}

static Val is_positive(Builder *b, Bounds x)
{
	return val_fcompare(b, IR_GT, x.lo, val_f32(b, 0));
}

static Val has_sign(Builder *b, Bounds x)
{
	Val negative = val_fcompare(b, IR_LT, x.hi, val_f32(b, 0));
	return val_or(b, is_positive(b, x), negative);
}

/* x to a power that is a plain number: over an interval without 0 between the powers of its ends. */
static Bounds constant_power(Builder *b, const Expr *e, Bounds x)
{
	double power = e->arg[1]->value;
	Val at_low = scalar_apply(b, e, &x.lo), at_high = scalar_apply(b, e, &x.hi);
	Bounds ends = { val_fmin(b, at_low, at_high), val_fmax(b, at_low, at_high) };
	if (power > 0 && fmod(power, 2) == 1)
		return ends;
	Bounds around = everything(b);
	if (power > 0) {
		around.lo = val_f32(b, 0);
		around.hi = ends.hi;
	}
	return select_bounds(b, has_sign(b, x), ends, around);
}

static Bounds size_bounds(Builder *b, Bounds x)
{
	Val low = val_fabs(b, x.lo), high = val_fabs(b, x.hi);
	Val nearer = val_fmin(b, low, high), farther = val_fmax(b, low, high);
	return (Bounds){ val_select(b, has_sign(b, x), nearer, val_f32(b, 0)), farther };
}

/* The condition is known where its operands are. */
static Bounds where_bounds(Ranges *r, const Expr *e)
{
	Builder *b = r->b;
	const Expr *condition = e->arg[0];
	Bounds yes = bounds_of(r, e->arg[1]), no = bounds_of(r, e->arg[2]);
	Bounds either = joined(b, yes, no);
	if (!condition->is_bool || condition->arity != 2)
		return either;
	Bounds x = bounds_of(r, condition->arg[0]), y = bounds_of(r, condition->arg[1]);
	Val known = val_fcompare(b, IR_EQ, x.lo, x.hi);
	known = val_and(b, known, val_fcompare(b, IR_EQ, y.lo, y.hi));
	Val holds = scalar_apply(b, condition, (Val[]){ x.lo, y.lo });
	return select_bounds(b, known, select_bounds(b, holds, yes, no), either);
}

static Bounds operation(Ranges *r, const Expr *e)
{
	Builder *b = r->b;
	Bounds a[EXPR_MAX_ARITY];
	if (e->op == EXPR_WHERE)
		return where_bounds(r, e);
	for (int i = 0; i < e->arity - scalar_constant_power(e); i++)
		a[i] = bounds_of(r, e->arg[i]);
	Val zero = val_f32(b, 0);
	Bounds inside, whole;
	switch (e->op) {
	case EXPR_SUB: case EXPR_MUL:
		return widened(b, corners(b, e, a[0], a[1]), WIDEN_EXACT);
	case EXPR_ADD:
		return widened(b, rising(b, e, a), WIDEN_EXACT);
	case EXPR_DIV:
		whole = everything(b);
		inside = corners(b, e, a[0], a[1]);
		return widened(b, select_bounds(b, has_sign(b, a[1]), inside, whole), WIDEN_FUNCTION);
	case EXPR_NEG:
		return (Bounds){ val_fneg(b, a[0].hi), val_fneg(b, a[0].lo) };
	case EXPR_POW:
		if (scalar_constant_power(e))
			return widened(b, constant_power(b, e, a[0]), WIDEN_POWER);
		whole = everything(b);
		inside = corners(b, e, a[0], a[1]);
		return widened(b, select_bounds(b, is_positive(b, a[0]), inside, whole), WIDEN_POWER);
	case EXPR_ABS:
		return size_bounds(b, a[0]);
	case EXPR_SQRT: case EXPR_LOG:
		a[0].lo = val_fmax(b, a[0].lo, zero);
		return widened(b, rising(b, e, a), WIDEN_FUNCTION);
	case EXPR_EXP: case EXPR_EXP2: case EXPR_TANH: case EXPR_SIGMOID:
		return widened(b, rising(b, e, a), WIDEN_FUNCTION);
	default:                                   /* floor, relu, min, max, clamp: exact */
		return rising(b, e, a);
	}
}

static Bounds bounds_of(Ranges *r, const Expr *e)
{
	for (int i = 0; i < r->memo_count; i++)
		if (r->memo[i].e == e)
			return r->memo[i].v;
	ir_at(r->b, e->loc);
	Bounds v;
	if (e->op == EXPR_VAR)
		v.lo = v.hi = scalar_lookup(r->b, e, r->scope);
	else if (e->op == EXPR_CONST)
		v.lo = v.hi = val_f32(r->b, e->value);
	else
		v = operation(r, e);
	if (r->memo_count < MEMO_SIZE) {
		r->memo[r->memo_count].e = e;
		r->memo[r->memo_count++].v = v;
	}
	return v;
}

Bounds scalar_bounds(Builder *b, const Expr *e, const Scope *scope)
{
	Ranges ranges = { .b = b, .scope = scope };
	MlirLocation before = b->location;
	Bounds v = bounds_of(&ranges, e);
	b->location = before;
	return v;
}
