/*
 * What the compiler proves of a weight: that it and all its derivatives are exactly 0 wherever s <= tau.
 *
 * Proofs hold in the arithmetic of the kernels (f32, products and sums possibly fused), for every variable within
 * expr_proof_env: |s|, |tau| and |parameters| up to 2^20, positions below 2^31. They go by structure:
 *   - s - tau <= 0 survives rounding, and so do sums, products with known signs, min, max and relu of such terms;
 *     two products are never compared (k*s <= k*tau fails when one of them is fused), nor approximated functions;
 *   - 0 * x is 0 only for a finite x, so every other factor must be finite, and its derivatives too.
 * Anything else is not proved; a missing rule makes a plan dense, never wrong.
 */
#include "expr_internal.h"

#include <float.h>
#include <math.h>

#define VALUE_LIMIT 0x1p20
#define POSITION_LIMIT 0x1p31

enum { FUEL = 20000, TAME_COST = 100, PARAM_LIMIT = 32 };

/* ZERO: value and all derivatives are 0. VANISHES: the value is 0, the derivatives are finite. */
typedef enum Status { UNKNOWN, VANISHES, ZERO } Status;

typedef struct Prover {
	ExprPool *pool;
	IntervalEnv env;
	int fuel;                          /* steps left: a hostile expression ends as not proved */
} Prover;

IntervalEnv expr_proof_env(void)
{
#define VALUE { -VALUE_LIMIT, VALUE_LIMIT, false }
#define VALUES_8 VALUE, VALUE, VALUE, VALUE, VALUE, VALUE, VALUE, VALUE
	static const Interval params[PARAM_LIMIT] = { VALUES_8, VALUES_8, VALUES_8, VALUES_8 };
	IntervalEnv env = { .params = params };
	for (int k = 0; k < VAR_COUNT; k++)
		env.var[k] = (Interval){ 0, POSITION_LIMIT, false };
	env.var[VAR_S] = env.var[VAR_TAU] = env.var[VAR_PARAM] = (Interval)VALUE;
	env.var[VAR_I].lo = -POSITION_LIMIT;
	env.var[VAR_VIEW].lo = env.var[VAR_Q_LEN].lo = env.var[VAR_K_LEN].lo = 1;
	return env;
}

static bool spend(Prover *p, int cost)
{
	p->fuel -= cost;
	return p->fuel >= 0;
}

static Interval interval_of(Prover *p, const Expr *e)
{
	return expr_interval(e, &p->env);
}

static bool is_finite(Prover *p, const Expr *e)
{
	Interval x = interval_of(p, e);
	return !x.nan && x.lo >= -FLT_MAX && x.hi <= FLT_MAX;
}

/* Are e and all its derivatives finite? */
static bool is_tame(Prover *p, const Expr *e)
{
	if (!spend(p, TAME_COST) || !is_finite(p, e))
		return false;
	for (ExprVar var = VAR_S; var <= VAR_TAU; var++)
		if (!is_finite(p, expr_derivative(p->pool, e, var, 0)))
			return false;
	for (int k = 0; k < PARAM_LIMIT; k++)
		if (e->params >> k & 1 && !is_finite(p, expr_derivative(p->pool, e, VAR_PARAM, k)))
			return false;
	return true;
}

static bool at_most_zero(Prover *p, const Expr *e);
static bool at_least_zero(Prover *p, const Expr *e);

/* a <= b wherever s <= tau, after rounding? */
static bool ordered(Prover *p, const Expr *a, const Expr *b)
{
	if (!spend(p, 1))
		return false;
	if (a == b || (a->op == EXPR_VAR && a->var == VAR_S && b->op == EXPR_VAR && b->var == VAR_TAU))
		return true;
	if (b->op == EXPR_ADD)
		for (int k = 0; k < 2; k++)
			if (at_least_zero(p, b->arg[1 - k]) && ordered(p, a, b->arg[k]))
				return true;
	if (a->op == EXPR_SUB && at_least_zero(p, a->arg[1]) && ordered(p, a->arg[0], b))
		return true;
	return interval_of(p, a).hi <= interval_of(p, b).lo;
}

static bool signed_product(Prover *p, const Expr *e, bool want_positive)
{
	for (int k = 0; k < 2; k++) {
		if (e->op == EXPR_DIV && k == 0)
			continue;                              /* the known factor is the divisor */
		Interval known = interval_of(p, e->arg[k]);
		const Expr *other = e->arg[1 - k];
		bool above = e->op == EXPR_DIV ? known.lo > 0 : known.lo >= 0;
		bool below = e->op == EXPR_DIV ? known.hi < 0 : known.hi <= 0;
		if (above && (want_positive ? at_least_zero(p, other) : at_most_zero(p, other)))
			return true;
		if (below && (want_positive ? at_most_zero(p, other) : at_least_zero(p, other)))
			return true;
	}
	return false;
}

/* e <= 0 wherever s <= tau? (e may not be NaN: the caller checks that of the whole.) */
static bool at_most_zero(Prover *p, const Expr *e)
{
	if (!spend(p, 1))
		return false;
	const Expr *a = e->arg[0], *b = e->arg[1];
	switch (e->op) {
	case EXPR_SUB: return ordered(p, a, b) || (at_most_zero(p, a) && at_least_zero(p, b));
	case EXPR_ADD: return at_most_zero(p, a) && at_most_zero(p, b);
	case EXPR_NEG: return at_least_zero(p, a);
	case EXPR_MUL: case EXPR_DIV: return signed_product(p, e, false);
	case EXPR_MIN: return at_most_zero(p, a) || at_most_zero(p, b);
	case EXPR_MAX: return at_most_zero(p, a) && at_most_zero(p, b);
	case EXPR_RELU: case EXPR_FLOOR: return at_most_zero(p, a);
	default: return interval_of(p, e).hi <= 0;
	}
}

static bool at_least_zero(Prover *p, const Expr *e)
{
	if (!spend(p, 1))
		return false;
	const Expr *a = e->arg[0], *b = e->arg[1];
	switch (e->op) {
	case EXPR_SUB: return ordered(p, b, a) || (at_least_zero(p, a) && at_most_zero(p, b));
	case EXPR_ADD: return at_least_zero(p, a) && at_least_zero(p, b);
	case EXPR_NEG: return at_most_zero(p, a);
	case EXPR_MUL: case EXPR_DIV: return a == b || signed_product(p, e, true);
	case EXPR_MAX: return at_least_zero(p, a) || at_least_zero(p, b);
	case EXPR_MIN: return at_least_zero(p, a) && at_least_zero(p, b);
	default: return interval_of(p, e).lo >= 0;
	}
}

static bool never_nan(Prover *p, const Expr *e)
{
	return !interval_of(p, e).nan;
}

static Status weaker(Status a, Status b)
{
	return a < b ? a : b;
}

static Status status_of(Prover *p, const Expr *e);

static Status of_product(Prover *p, const Expr *a, const Expr *b)
{
	Status first = status_of(p, a), second = status_of(p, b);
	if (first != UNKNOWN && second != UNKNOWN)
		return ZERO;                                   /* 0 * db + da * 0, both finite */
	if (first != UNKNOWN)
		return is_tame(p, b) ? first : UNKNOWN;
	return second != UNKNOWN && is_tame(p, a) ? second : UNKNOWN;
}

static bool excludes_zero(Prover *p, const Expr *e)
{
	Interval x = interval_of(p, e);
	/* The square of the divisor enters the derivative: far enough from 0 that no quotient overflows. */
	return x.lo >= 0x1p-40 || x.hi <= -0x1p-40;
}

static Status of_power(Prover *p, const Expr *base, const Expr *exponent)
{
	Interval by = interval_of(p, exponent);
	if (by.nan || !(by.lo > 0) || !(by.hi <= FLT_MAX))
		return UNKNOWN;
	Status status = status_of(p, base);
	if (status == UNKNOWN || base->op == EXPR_RELU)
		return status;
	/* p * 0^(p - 1) * dx is 0 for p > 1; for p < 1 it is 0 by convention; 1 was folded away. */
	return exponent->op == EXPR_CONST ? ZERO : UNKNOWN;
}

/* min(a, b) and max(a, b) where one is 0 and the other never passes it. Ties go to the first: if that is the 0, its
 * status is the result's; if not, the derivatives at a tie are the other's. */
static Status of_min_max(Prover *p, const Expr *e)
{
	bool (*never_passes)(Prover *, const Expr *) = e->op == EXPR_MAX ? at_most_zero : at_least_zero;
	const Expr *a = e->arg[0], *b = e->arg[1];
	Status first = status_of(p, a), second = status_of(p, b);
	if (first != UNKNOWN && never_passes(p, b) && never_nan(p, b))
		return first;
	if (second != UNKNOWN && never_passes(p, a))
		return weaker(first, second) == UNKNOWN ? VANISHES : weaker(first, second);
	return weaker(first, second);
}

static Status of_clamp(Prover *p, const Expr *e)
{
	const Expr *x = e->arg[0], *lo = e->arg[1], *hi = e->arg[2];
	if (lo->op != EXPR_CONST || hi->op != EXPR_CONST || !(lo->value <= 0 && hi->value >= 0))
		return UNKNOWN;
	if (lo->value == 0 && at_most_zero(p, x))
		return VANISHES;
	return status_of(p, x);
}

/* Which arm does where take wherever s <= tau? 1: the first, 0: the second, -1: not known. */
static int arm_taken(Prover *p, const Expr *condition)
{
	const Expr *a = condition->arg[0], *b = condition->arg[1];
	Interval truth = interval_of(p, condition);
	if (truth.lo == 1 || truth.hi == 0)
		return truth.lo == 1;
	switch (condition->op) {
	case EXPR_LE: return ordered(p, a, b) || (expr_is_const(b, 0) && at_most_zero(p, a)) ? 1 : -1;
	case EXPR_GE: return ordered(p, b, a) || (expr_is_const(b, 0) && at_least_zero(p, a)) ? 1 : -1;
	case EXPR_GT: return ordered(p, a, b) || (expr_is_const(b, 0) && at_most_zero(p, a)) ? 0 : -1;
	case EXPR_LT: return ordered(p, b, a) || (expr_is_const(b, 0) && at_least_zero(p, a)) ? 0 : -1;
	default: return -1;
	}
}

static Status of_where(Prover *p, const Expr *e)
{
	const Expr *condition = e->arg[0];
	bool sure = condition->op == EXPR_CONST || (never_nan(p, condition->arg[0]) && never_nan(p, condition->arg[1]));
	int arm = sure ? arm_taken(p, condition) : -1;
	if (arm >= 0)
		return status_of(p, e->arg[arm ? 1 : 2]);
	return weaker(status_of(p, e->arg[1]), status_of(p, e->arg[2]));
}

static Status status_by_structure(Prover *p, const Expr *e)
{
	const Expr *a = e->arg[0], *b = e->arg[1];
	switch (e->op) {
	case EXPR_CONST: return e->value == 0 ? ZERO : UNKNOWN;
	case EXPR_RELU: return at_most_zero(p, a) && never_nan(p, a) ? ZERO : status_of(p, a) != UNKNOWN ? ZERO : UNKNOWN;
	case EXPR_ADD: case EXPR_SUB: return weaker(status_of(p, a), status_of(p, b));
	case EXPR_NEG: case EXPR_TANH: return status_of(p, a);
	case EXPR_ABS: case EXPR_SQRT: case EXPR_FLOOR: return status_of(p, a) != UNKNOWN ? ZERO : UNKNOWN;
	case EXPR_MUL: return of_product(p, a, b);
	case EXPR_DIV: return is_tame(p, b) && excludes_zero(p, b) ? status_of(p, a) : UNKNOWN;
	case EXPR_POW: return of_power(p, a, b);
	case EXPR_MIN: case EXPR_MAX: return of_min_max(p, e);
	case EXPR_CLAMP: return of_clamp(p, e);
	case EXPR_WHERE: return of_where(p, e);
	default: return UNKNOWN;
	}
}

static Status status_of(Prover *p, const Expr *e)
{
	Status status = spend(p, 1) ? status_by_structure(p, e) : UNKNOWN;
	return status == VANISHES && !is_tame(p, e) ? UNKNOWN : status;
}

/* The part of a proved expression that makes it 0. */
static const Expr *factor_of(Prover *p, const Expr *e)
{
	switch (e->op) {
	case EXPR_NEG: case EXPR_DIV: return factor_of(p, e->arg[0]);
	case EXPR_MUL:
		for (int k = 0; k < 2; k++)
			if (status_of(p, e->arg[k]) == ZERO)
				return factor_of(p, e->arg[k]);
		return e;
	default: return e;
	}
}

/* The first part that keeps e from being proved. */
static const Expr *obstacle_of(Prover *p, const Expr *e)
{
	switch (e->op) {
	case EXPR_NEG: case EXPR_TANH: case EXPR_ABS: case EXPR_SQRT: case EXPR_FLOOR:
		return obstacle_of(p, e->arg[0]);
	case EXPR_ADD: case EXPR_SUB:
		return obstacle_of(p, e->arg[status_of(p, e->arg[0]) == ZERO ? 1 : 0]);
	case EXPR_DIV:
		return status_of(p, e->arg[0]) == ZERO ? e->arg[1] : obstacle_of(p, e->arg[0]);
	case EXPR_POW:
		return status_of(p, e->arg[0]) == UNKNOWN ? obstacle_of(p, e->arg[0]) : e;
	case EXPR_MUL:
		for (int k = 0; k < 2; k++)
			if (status_of(p, e->arg[k]) == ZERO)
				return e->arg[1 - k];          /* not finite everywhere */
		return obstacle_of(p, e->arg[e->arg[0]->op == EXPR_CONST ? 1 : 0]);
	default: return e;
	}
}

bool expr_prove_zero_below(ExprPool *pool, const Expr *weight, const Expr **factor, const Expr **obstacle)
{
	Prover p = { pool, expr_proof_env(), FUEL };
	bool proved = status_of(&p, weight) == ZERO;
	p.fuel = FUEL;
	*factor = proved ? factor_of(&p, weight) : NULL;
	*obstacle = proved ? NULL : obstacle_of(&p, weight);
	return proved;
}

static bool reads_s(const Expr *e)
{
	return e->vars >> VAR_S & 1;
}

/* How e moves with s. */
typedef enum Trend { MIXED, RISING, FALLING, STEADY } Trend;

static Trend flipped(Trend t)
{
	return t == RISING ? FALLING : t == FALLING ? RISING : t;
}

static Trend together(Trend a, Trend b)
{
	if (a == STEADY || a == b)
		return b;
	return b == STEADY ? a : MIXED;
}

static Trend trend_of(Prover *p, const Expr *e);

/* x times (or over) a factor that does not read s and has a known sign. */
static Trend scaled(Prover *p, const Expr *x, const Expr *factor)
{
	Interval by = interval_of(p, factor);
	if (by.lo >= 0)
		return trend_of(p, x);
	return by.hi <= 0 ? flipped(trend_of(p, x)) : MIXED;
}

static Trend trend_by_structure(Prover *p, const Expr *e)
{
	const Expr *a = e->arg[0], *b = e->arg[1];
	switch (e->op) {
	case EXPR_VAR: return RISING;
	case EXPR_ADD: case EXPR_MIN: case EXPR_MAX: return together(trend_of(p, a), trend_of(p, b));
	case EXPR_SUB: return together(trend_of(p, a), flipped(trend_of(p, b)));
	case EXPR_NEG: return flipped(trend_of(p, a));
	case EXPR_MUL:
		if (trend_of(p, b) == STEADY)
			return scaled(p, a, b);
		return trend_of(p, a) == STEADY ? scaled(p, b, a) : MIXED;
	case EXPR_DIV: return trend_of(p, b) == STEADY ? scaled(p, a, b) : MIXED;
	case EXPR_SQRT: case EXPR_LOG: case EXPR_EXP: case EXPR_EXP2: case EXPR_TANH: case EXPR_SIGMOID: case EXPR_FLOOR:
	case EXPR_RELU:
		return trend_of(p, a);
	case EXPR_POW:
		if (b->op != EXPR_CONST || !(b->value > 0))
			return MIXED;
		return interval_of(p, a).lo >= 0 || fmod(b->value, 2) == 1 ? trend_of(p, a) : MIXED;
	case EXPR_CLAMP:
		if (b->op != EXPR_CONST || e->arg[2]->op != EXPR_CONST || b->value > e->arg[2]->value)
			return MIXED;
		return trend_of(p, a);
	default: return MIXED;
	}
}

static Trend trend_of(Prover *p, const Expr *e)
{
	if (!reads_s(e))
		return STEADY;
	return spend(p, 1) ? trend_by_structure(p, e) : MIXED;
}

/* May the operation itself jump as s moves? (Through infinity it may as well: the caller sees to that.) */
static bool may_jump(Prover *p, const Expr *e)
{
	switch (e->op) {
	case EXPR_FLOOR: return true;
	case EXPR_WHERE: return reads_s(e->arg[0]);
	case EXPR_POW: return reads_s(e->arg[1]) && !(interval_of(p, e->arg[0]).lo > 0);      /* 0^0 is 1, 0^x is 0 */
	case EXPR_CLAMP: return !(interval_of(p, e->arg[1]).hi <= interval_of(p, e->arg[2]).lo);
	default: return false;
	}
}

static bool is_continuous_in_s(Prover *p, const Expr *e)
{
	if (!reads_s(e))
		return true;
	if (!spend(p, 1) || may_jump(p, e) || !is_finite(p, e))
		return false;
	for (int k = 0; k < e->arity; k++)
		if (!is_continuous_in_s(p, e->arg[k]))
			return false;
	return true;
}

bool expr_is_increasing_in_s(ExprPool *pool, const Expr *e)
{
	Prover p = { pool, expr_proof_env(), FUEL };
	if (!reads_s(e) || e->vars & 1u << VAR_J || !never_nan(&p, e))
		return false;
	if (trend_of(&p, e) == RISING)
		return true;
	if (!is_continuous_in_s(&p, e))                        /* a slope says nothing about jumps */
		return false;
	Interval slope = interval_of(&p, expr_derivative(pool, e, VAR_S, 0));
	return !slope.nan && slope.lo > 0;
}
