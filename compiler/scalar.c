#include "scalar.h"

#include <math.h>
#include <string.h>

enum { MEMO_SIZE = 256 };

/* Each node of an expression is emitted once. */
typedef struct Emit {
	Builder *b;
	const Scope *scope;
	struct { const Expr *e; Val v; } memo[MEMO_SIZE];
	int memo_count;
} Emit;

Scope scope_inside(const Scope *outer)
{
	Scope scope;
	memset(&scope, 0, sizeof scope);
	scope.outer = outer;
	return scope;
}

Val scalar_lookup(Builder *b, const Expr *e, const Scope *scope)
{
	for (const Scope *s = scope; s; s = s->outer) {
		Val v = e->var == VAR_PARAM ? s->params[e->param] : s->var[e->var];
		if (!val_is_null(v))
			return v;
	}
	if (!b->failed)
		diag_internal(b->diag, e->loc, "'%s' has no value where the kernel evaluates this expression",
		              expr_var_name(e->var));
	b->failed = true;
	return (Val){ NULL };
}

static Val approx(Builder *b, const char *name, Val x)
{
	return val_intrinsic(b, name, IR_F32, 1, &x);
}

static Val exp2_of(Builder *b, Val x)
{
	return approx(b, "llvm.nvvm.ex2.approx", x);
}

static Val log2_of(Builder *b, Val x)
{
	return approx(b, "llvm.nvvm.lg2.approx.f", x);
}

static Val sqrt_of(Builder *b, Val x)
{
	return approx(b, "llvm.nvvm.sqrt.approx.f", x);
}

static Val divide(Builder *b, Val x, Val y)
{
	return val_intrinsic(b, "llvm.nvvm.div.full", IR_F32, 2, (Val[]){ x, y });
}

/* c[0] + x (c[1] + x (c[2] + ...)) */
static Val polynomial(Builder *b, Val x, const double *c, int count)
{
	Val sum = val_f32(b, c[count - 1]);
	for (int i = count - 2; i >= 0; i--)
		sum = val_fma(b, sum, x, val_f32(b, c[i]));
	return sum;
}

/* 2^(x log2 e), with the product's rounding error, which 2^x would magnify, put back to first order. */
static Val exp_of(Builder *b, Val x)
{
	const double log2e = 1.4426950408889634;
	const float high = (float)log2e;
	Val h = val_f32(b, high);
	Val product = ir_op(b, "arith.mulf", NULL, IR_F32, 2, (Val[]){ x, h });
	Val minus = val_fneg(b, product);
	Val error = val_fma(b, x, h, minus);
	error = val_fma(b, x, val_f32(b, log2e - high), error);
	Val power = exp2_of(b, product);
	Val correction = val_fmul(b, error, val_f32(b, 0.6931471805599453));
	Val corrected = val_fma(b, power, correction, power);
	/* An infinite x or power leaves the error without meaning. */
	Val finite = val_fcompare(b, IR_LT, power, val_f32(b, INFINITY));
	Val nonzero = val_fcompare(b, IR_GT, power, val_f32(b, 0));
	return val_select(b, val_and(b, finite, nonzero), corrected, power);
}

/*
 * x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(t), t = (m - 1) / (m + 1), |t| < 0.1716, by its series. lg2.approx
 * alone is inexact near 1, where a threshold's square root would magnify the error.
 */
static Val log_of(Builder *b, Val x)
{
	static const double series[] = { 2.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11 };
	Val smallest = val_f32(b, 0x1p-126);
	Val subnormal = val_fcompare(b, IR_LT, x, smallest);
	Val scaled = val_fmul(b, x, val_f32(b, 0x1p24));
	Val normal = val_select(b, subnormal, scaled, x);
	Val bits = val_bitcast(b, normal, IR_I32);
	/* 0x3f3504f3 is sqrt(1/2): subtracting it makes the exponent field count from there. */
	Val from = val_add_i32(b, bits, -0x3f3504f3);
	Val exponent = ir_op(b, "arith.shrsi", NULL, IR_I32, 2, (Val[]){ from, val_i32(b, 23) });
	Val field = val_shl(b, exponent, val_i32(b, 23));
	Val m = val_bitcast(b, val_sub(b, bits, field), IR_F32);
	Val one = val_f32(b, 1);
	Val below = ir_op(b, "arith.subf", NULL, IR_F32, 2, (Val[]){ m, one });
	Val above = val_fadd(b, m, one);
	Val t = divide(b, below, above);
	Val square = val_fmul(b, t, t);
	Val atanh = val_fmul(b, t, polynomial(b, square, series, sizeof series / sizeof *series));
	Val shift = val_f32(b, -24);
	Val offset = val_select(b, subnormal, shift, val_f32(b, 0));
	Val e = val_i32_to_f32(b, exponent);
	e = val_fadd(b, e, offset);
	Val finite = val_fma(b, e, val_f32(b, 0.6931471805599453), atanh);
	/* 0, negative, infinite and NaN arguments: the instruction's own answers are the right ones. */
	Val special = log2_of(b, x);
	Val positive = val_fcompare(b, IR_GT, x, val_f32(b, 0));
	Val bounded = val_fcompare(b, IR_LT, x, val_f32(b, INFINITY));
	return val_select(b, val_and(b, positive, bounded), finite, special);
}

/* Near 0 by the series of tanh, elsewhere 1 - 2 / (e^2x + 1), which loses the leading digits there. */
static Val tanh_of(Builder *b, Val x)
{
	static const double series[] = { 1, -1.0 / 3, 2.0 / 15, -17.0 / 315, 62.0 / 2835, -1382.0 / 155925 };
	Val square = val_fmul(b, x, x);
	Val near = val_fmul(b, x, polynomial(b, square, series, sizeof series / sizeof *series));
	Val twice = val_fadd(b, x, x);
	Val power = exp_of(b, twice);
	Val below = val_fadd(b, power, val_f32(b, 1));
	Val quotient = divide(b, val_f32(b, 2), below);
	Val far = val_fsub(b, val_f32(b, 1), quotient);
	Val size = val_fabs(b, x);
	Val is_near = val_fcompare(b, IR_LT, size, val_f32(b, 0.35));
	return val_select(b, is_near, near, far);
}

static Val sigmoid_of(Builder *b, Val x)
{
	Val minus = val_fneg(b, x);
	Val power = exp_of(b, minus);
	Val below = val_fadd(b, power, val_f32(b, 1));
	return divide(b, val_f32(b, 1), below);
}

static Val floor_of(Builder *b, Val x)
{
	return ir_op(b, "llvm.intr.floor", NULL, IR_F32, 1, &x);
}

static Val power_integer(Builder *b, Val x, int n)
{
	Val result = { NULL };
	for (Val square = x; n > 0; n /= 2) {
		if (n % 2)
			result = val_is_null(result) ? square : val_fmul(b, result, square);
		if (n > 1)
			square = val_fmul(b, square, square);
	}
	return result;
}

/* x^y through logarithms, right for the signs, zeros and NaNs that pow() has; |y log2 x| large loses digits. */
static Val power_general(Builder *b, Val x, Val y)
{
	Val size = val_fabs(b, x);
	Val exponent = val_fmul(b, y, log2_of(b, size));
	Val power = exp2_of(b, exponent);
	Val one = val_f32(b, 1), zero = val_f32(b, 0);
	Val half = val_fmul(b, y, val_f32(b, 0.5));
	Val odd = val_funless(b, IR_EQ, floor_of(b, half), half);
	Val whole = val_fcompare(b, IR_EQ, floor_of(b, y), y);
	Val minus = val_fneg(b, power);
	Val negative = val_select(b, odd, minus, power);
	negative = val_select(b, whole, negative, val_f32(b, NAN));
	Val below = val_fcompare(b, IR_LT, x, zero);
	power = val_select(b, below, negative, power);
	Val trivial = val_fcompare(b, IR_EQ, y, zero);
	return val_select(b, trivial, one, power);
}

/* Multiples of 1/2 up to 16 by products and a square root; those are the powers that variants use. */
static Val power_constant(Builder *b, Val x, double y)
{
	double size = fabs(y);
	if (size > 16 || size * 2 != floor(size * 2) || y == 0)
		return power_general(b, x, val_f32(b, y));
	int whole = (int)size;
	Val result = { NULL };
	if (whole > 0)
		result = power_integer(b, x, whole);
	if (size != whole) {
		Val root = sqrt_of(b, x);
		result = whole > 0 ? val_fmul(b, result, root) : root;
	}
	return y > 0 ? result : divide(b, val_f32(b, 1), result);
}

static Val clamp_of(Builder *b, const Val *a)
{
	return val_fmin(b, val_fmax(b, a[0], a[1]), a[2]);
}

bool scalar_constant_power(const Expr *e)
{
	return e->op == EXPR_POW && e->arg[1]->op == EXPR_CONST;
}

Val scalar_apply(Builder *b, const Expr *e, const Val *a)
{
	switch (e->op) {
	case EXPR_ADD: return val_fadd(b, a[0], a[1]);
	case EXPR_SUB: return val_fsub(b, a[0], a[1]);
	case EXPR_MUL: return val_fmul(b, a[0], a[1]);
	case EXPR_DIV: return divide(b, a[0], a[1]);
	case EXPR_NEG: return val_fneg(b, a[0]);
	case EXPR_POW:
		return scalar_constant_power(e) ? power_constant(b, a[0], e->arg[1]->value) : power_general(b, a[0], a[1]);
	case EXPR_SQRT: return sqrt_of(b, a[0]);
	case EXPR_LOG: return log_of(b, a[0]);
	case EXPR_EXP: return exp_of(b, a[0]);
	case EXPR_EXP2: return exp2_of(b, a[0]);
	case EXPR_TANH: return tanh_of(b, a[0]);
	case EXPR_SIGMOID: return sigmoid_of(b, a[0]);
	case EXPR_ABS: return val_fabs(b, a[0]);
	case EXPR_FLOOR: return floor_of(b, a[0]);
	case EXPR_RELU: return val_fmax(b, a[0], val_f32(b, 0));
	case EXPR_MIN: return val_fmin(b, a[0], a[1]);
	case EXPR_MAX: return val_fmax(b, a[0], a[1]);
	case EXPR_CLAMP: return clamp_of(b, a);
	case EXPR_LT: return val_fcompare(b, IR_LT, a[0], a[1]);
	case EXPR_LE: return val_fcompare(b, IR_LE, a[0], a[1]);
	case EXPR_GT: return val_fcompare(b, IR_GT, a[0], a[1]);
	case EXPR_GE: return val_fcompare(b, IR_GE, a[0], a[1]);
	case EXPR_EQ: return val_fcompare(b, IR_EQ, a[0], a[1]);
	case EXPR_NE: return val_fcompare(b, IR_NE, a[0], a[1]);
	case EXPR_WHERE: return val_select(b, a[0], a[1], a[2]);
	case EXPR_CONST: case EXPR_VAR: case EXPR_OP_COUNT: break;
	}
	diag_internal(b->diag, e->loc, "no code for '%s'", expr_op_name(e->op));
	b->failed = true;
	return (Val){ NULL };
}

static Val emit(Emit *m, const Expr *e);

static Val emit_op(Emit *m, const Expr *e)
{
	Val a[EXPR_MAX_ARITY];
	for (int i = 0; i < e->arity - scalar_constant_power(e); i++)
		a[i] = emit(m, e->arg[i]);
	ir_at(m->b, e->loc);
	return scalar_apply(m->b, e, a);
}

static Val emit(Emit *m, const Expr *e)
{
	if (e->op == EXPR_VAR)
		return scalar_lookup(m->b, e, m->scope);
	for (int i = 0; i < m->memo_count; i++)
		if (m->memo[i].e == e)
			return m->memo[i].v;
	if (e->op == EXPR_CONST)
		ir_at(m->b, e->loc);
	Val v = e->op == EXPR_CONST ? val_f32(m->b, e->value) : emit_op(m, e);
	if (m->memo_count < MEMO_SIZE) {
		m->memo[m->memo_count].e = e;
		m->memo[m->memo_count++].v = v;
	}
	return v;
}

Val scalar_emit(Builder *b, const Expr *e, const Scope *scope)
{
	Emit m = { .b = b, .scope = scope };
	MlirLocation before = b->location;
	Val v = emit(&m, e);
	b->location = before;
	return v;
}
