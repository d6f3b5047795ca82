/*
 * Interval arithmetic: the result holds every value that the expression can take, rounded outwards; `nan` says that it
 * may be NaN as well. A set that holds nothing but NaN is written as everything. Arguments are taken as independent, so
 * results may be wider than need be, never narrower.
 */
#include "expr_internal.h"

#include <math.h>

static const Interval EVERYTHING = { -INFINITY, INFINITY, true };

Interval expr_interval_point(double value)
{
	return isnan(value) ? EVERYTHING : (Interval){ value, value, false };
}

static double down(double x, int ulps)
{
	for (; ulps > 0; ulps--)
		x = nextafter(x, -INFINITY);
	return x;
}

static double up(double x, int ulps)
{
	for (; ulps > 0; ulps--)
		x = nextafter(x, INFINITY);
	return x;
}

static Interval widen(Interval x, int ulps)
{
	return (Interval){ down(x.lo, ulps), up(x.hi, ulps), x.nan };
}

static bool holds(Interval x, double value)
{
	return x.lo <= value && value <= x.hi;
}

static bool holds_infinity(Interval x)
{
	return x.lo == -INFINITY || x.hi == INFINITY;
}


/* The hull of the values that are not NaN; everything when all are. */
static Interval hull(const double *values, int count, bool nan)
{
	Interval r = { INFINITY, -INFINITY, nan };
	for (int k = 0; k < count; k++)
		if (!isnan(values[k])) {
			r.lo = fmin(r.lo, values[k]);
			r.hi = fmax(r.hi, values[k]);
		}
	return r.lo <= r.hi ? r : EVERYTHING;
}

static Interval join(Interval a, Interval b)
{
	return (Interval){ fmin(a.lo, b.lo), fmax(a.hi, b.hi), a.nan || b.nan };
}

static Interval negate(Interval x)
{
	return (Interval){ -x.hi, -x.lo, x.nan };
}

static Interval magnitude(Interval x)
{
	double hi = fmax(fabs(x.lo), fabs(x.hi));
	return (Interval){ holds(x, 0) ? 0 : fmin(fabs(x.lo), fabs(x.hi)), hi, x.nan };
}

/* Ends are rounded outwards only where the operation was not exact: 1 - 1 is 0, not a little below it. */
static Interval ends(double lo, bool lo_exact, double hi, bool hi_exact, bool nan)
{
	return (Interval){ lo_exact ? lo : down(lo, 1), hi_exact ? hi : up(hi, 1), nan };
}

static bool sum_is_exact(double a, double b)
{
	double s = a + b, from_b = s - a;
	return isinf(a) || isinf(b) || ((s - from_b == a) && from_b == b);
}

static bool product_is_exact(double a, double b, double p)
{
	return p == 0 ? a == 0 || b == 0 : isinf(a) || isinf(b) || (fabs(p) > 0x1p-900 && fma(a, b, -p) == 0);
}

static Interval sum(Interval a, Interval b)
{
	bool nan = a.nan || b.nan || (a.hi == INFINITY && b.lo == -INFINITY) || (a.lo == -INFINITY && b.hi == INFINITY);
	double lo = a.lo + b.lo, hi = a.hi + b.hi;
	if (isnan(lo) || isnan(hi))                            /* an end is an infinity of the other sign */
		return EVERYTHING;
	Interval r = ends(lo, sum_is_exact(a.lo, b.lo), hi, sum_is_exact(a.hi, b.hi), nan);
	if (a.lo >= 0 && b.lo >= 0)
		r.lo = fmax(r.lo, 0);                          /* rounding outwards must not lose the sign */
	return r;
}

/* One product of ends; towards 0 * inf the products are 0, or NaN (flagged by the caller). */
static Interval corner(double a, double b)
{
	double p = a == 0 || b == 0 ? 0 : a * b;
	bool exact = product_is_exact(a, b, p);
	return ends(p, exact, p, exact, false);
}

static Interval product(Interval a, Interval b)
{
	Interval r = join(join(corner(a.lo, b.lo), corner(a.lo, b.hi)), join(corner(a.hi, b.lo), corner(a.hi, b.hi)));
	r.nan = a.nan || b.nan || (holds(a, 0) && holds_infinity(b)) || (holds(b, 0) && holds_infinity(a));
	if (a.lo >= 0 && b.lo >= 0)
		r.lo = fmax(r.lo, 0);
	return r;
}

static Interval square(Interval a)
{
	Interval m = magnitude(a), r = product(m, m);
	r.nan = a.nan;
	return r;
}

static Interval quotient(Interval a, Interval b)
{
	bool nan = a.nan || b.nan || (holds_infinity(a) && holds_infinity(b));
	if (holds(b, 0))                                       /* of either sign, -0 included */
		return (Interval){ -INFINITY, INFINITY, nan || holds(a, 0) };
	double corners[] = { a.lo / b.lo, a.lo / b.hi, a.hi / b.lo, a.hi / b.hi };
	Interval r = widen(hull(corners, 4, nan), 1);
	if (a.lo >= 0 && b.lo > 0)
		r.lo = fmax(r.lo, 0);
	return r;
}

/* For a base that is not negative: monotone in the base for each exponent and the other way about, so corners do. */
static Interval power_of_positive(Interval a, Interval b)
{
	double lo = fabs(a.lo), hi = fabs(a.hi);               /* -0 as 0 */
	double corners[] = { pow(lo, b.lo), pow(lo, b.hi), pow(hi, b.lo), pow(hi, b.hi) };
	Interval r = widen(hull(corners, 4, a.nan || b.nan), 2);
	r.lo = a.lo == 0 && b.lo < 0 ? -INFINITY : fmax(r.lo, 0);   /* -0 to a negative odd power */
	return r;
}

static Interval power(Interval a, Interval b)
{
	if (a.lo >= 0)
		return power_of_positive(a, b);
	if (b.lo != b.hi || b.nan)
		return EVERYTHING;
	double p = b.lo;
	if (p != floor(p) || fabs(p) > 0x1p53)
		return EVERYTHING;
	if (fmod(p, 2) == 0) {
		Interval r = power_of_positive(magnitude(a), b);
		r.lo = fmax(r.lo, 0);
		return r;
	}
	if (p < 0 && holds(a, 0))
		return (Interval){ -INFINITY, INFINITY, a.nan };
	double ends[] = { pow(a.lo, p), pow(a.hi, p) };
	return widen(hull(ends, 2, a.nan), 2);
}

/* An increasing function of libm, with its range. */
static Interval increasing(double (*f)(double), Interval a, double range_lo, double range_hi)
{
	Interval r = widen((Interval){ f(a.lo), f(a.hi), a.nan }, 2);
	return (Interval){ fmax(r.lo, range_lo), fmin(r.hi, range_hi), r.nan };
}

/* The same for one that is NaN below 0. */
static Interval increasing_from_zero(double (*f)(double), Interval a, double range_lo)
{
	if (a.hi < 0)
		return EVERYTHING;
	return increasing(f, (Interval){ fmax(a.lo, 0), a.hi, a.nan || a.lo < 0 }, range_lo, INFINITY);
}

static double sigmoid(double x)
{
	return expr_apply(EXPR_SIGMOID, x, 0, 0);
}

static Interval decided(bool always, bool never)
{
	return (Interval){ always, !never, false };
}

static Interval compare(ExprOp op, Interval a, Interval b)
{
	bool nan = a.nan || b.nan;
	switch (op) {
	case EXPR_LT: return decided(!nan && a.hi < b.lo, a.lo >= b.hi);
	case EXPR_LE: return decided(!nan && a.hi <= b.lo, a.lo > b.hi);
	case EXPR_GT: return decided(!nan && a.lo > b.hi, a.hi <= b.lo);
	case EXPR_GE: return decided(!nan && a.lo >= b.hi, a.hi < b.lo);
	default: break;
	}
	bool apart = a.hi < b.lo || a.lo > b.hi, equal = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo && !nan;
	return op == EXPR_EQ ? decided(equal, apart) : decided(apart, equal);
}

static Interval apply(const Expr *e, Interval a, Interval b, Interval c)
{
	switch (e->op) {
	case EXPR_ADD: return sum(a, b);
	case EXPR_SUB: return sum(a, negate(b));
	case EXPR_MUL: return e->arg[0] == e->arg[1] ? square(a) : product(a, b);
	case EXPR_DIV: return quotient(a, b);
	case EXPR_NEG: return negate(a);
	case EXPR_POW: return power(a, b);
	case EXPR_SQRT: return increasing_from_zero(sqrt, a, -0.0);
	case EXPR_LOG: return increasing_from_zero(log, a, -INFINITY);
	case EXPR_EXP: return increasing(exp, a, 0, INFINITY);
	case EXPR_EXP2: return increasing(exp2, a, 0, INFINITY);
	case EXPR_TANH: return increasing(tanh, a, -1, 1);
	case EXPR_SIGMOID: return increasing(sigmoid, a, 0, 1);
	case EXPR_ABS: return magnitude(a);
	case EXPR_FLOOR: return (Interval){ floor(a.lo), floor(a.hi), a.nan };
	case EXPR_RELU: return (Interval){ fmax(a.lo, 0), fmax(a.hi, 0), a.nan };
	case EXPR_MIN: return (Interval){ fmin(a.lo, b.lo), fmin(a.hi, b.hi), a.nan || b.nan };
	case EXPR_MAX: return (Interval){ fmax(a.lo, b.lo), fmax(a.hi, b.hi), a.nan || b.nan };
	case EXPR_CLAMP: {
		if (b.hi > c.lo)                               /* the bounds may be crossed */
			return join(a, join(b, c));
		return (Interval){ fmin(fmax(a.lo, b.lo), c.lo), fmin(fmax(a.hi, b.hi), c.hi), a.nan || b.nan || c.nan };
	}
	case EXPR_WHERE:
		if (a.lo == 1)
			return b;
		return a.hi == 0 ? c : join(b, c);
	default: return compare(e->op, a, b);
	}
}

Interval expr_interval(const Expr *e, const IntervalEnv *env)
{
	if (e->op == EXPR_CONST)
		return expr_interval_point(e->value);
	if (e->op == EXPR_VAR)
		return e->var == VAR_PARAM ? env->params[e->param] : env->var[e->var];
	Interval v[EXPR_MAX_ARITY] = { { 0 } };
	for (int k = 0; k < e->arity; k++)
		v[k] = expr_interval(e->arg[k], env);
	return apply(e, v[0], v[1], v[2]);
}
