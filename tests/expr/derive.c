/* Derivatives against central differences over random expressions, and the conventions at kinks, case by case. */
#include "random_expr.h"
#include "testing.h"

#include <math.h>

static const double constants[] = { 1, -1, 2, 0.5, -2, 3, 1.5, -0.75, 0.1 };

enum { CONSTANTS = sizeof constants / sizeof constants[0], EXPRESSIONS = 6000, POINTS = 4 };

/* How far e is from having another derivative: the quantities whose sign decides are added to `distances`. */
enum { MAX_KINKS = 256 };

typedef struct Kinks {
	double distance[MAX_KINKS];
	int count;
	double largest;                    /* magnitude of any value on the way: what rounding is relative to */
} Kinks;

static void add_kink(Kinks *kinks, double distance)
{
	if (kinks->count < MAX_KINKS)
		kinks->distance[kinks->count++] = distance;
}

static void find_kinks(const Expr *e, const ExprEnv *env, Kinks *kinks)
{
	double v[EXPR_MAX_ARITY] = { 0 };
	for (int k = 0; k < e->arity; k++) {
		find_kinks(e->arg[k], env, kinks);
		v[k] = expr_eval(e->arg[k], env);
		kinks->largest = fmax(kinks->largest, fabs(v[k]));
	}
	switch (e->op) {
	case EXPR_RELU: case EXPR_ABS: case EXPR_SQRT: case EXPR_LOG: case EXPR_POW: add_kink(kinks, v[0]); break;
	case EXPR_DIV: add_kink(kinks, v[1]); break;
	case EXPR_FLOOR: add_kink(kinks, v[0] - rint(v[0])); break;
	case EXPR_CLAMP: add_kink(kinks, v[0] - v[1]); add_kink(kinks, v[0] - v[2]); break;
	case EXPR_MIN: case EXPR_MAX: case EXPR_LT: case EXPR_LE: case EXPR_GT: case EXPR_GE: case EXPR_EQ: case EXPR_NE:
		add_kink(kinks, v[0] - v[1]);
		break;
	default: break;
	}
}

typedef struct Variable {
	ExprVar var;
	int param;
} Variable;

static double *place_of(ExprEnv *env, double *params, Variable v)
{
	return v.var == VAR_PARAM ? &params[v.param] : &env->var[v.var];
}

typedef enum Verdict { SKIPPED, AGREES, DIFFERS } Verdict;

/* Compares at one point; skips points nearer to a kink than the steps of the difference, and unstable differences. */
static Verdict compare(const Expr *e, const Expr *derivative, ExprEnv *env, double *params, Variable v, double *numeric)
{
	double *x = place_of(env, params, v), at = *x, h = 1e-4, f[4];
	static const double steps[] = { -1, 1, -0.5, 0.5 };
	Kinks here = { .largest = 1 }, beside[4];
	find_kinks(e, env, &here);
	double symbolic = expr_eval(derivative, env), value = expr_eval(e, env);
	for (int k = 0; k < 4; k++) {
		*x = at + steps[k] * h;
		beside[k] = (Kinks){ .largest = 1 };
		find_kinks(e, env, &beside[k]);
		f[k] = expr_eval(e, env);
		here.largest = fmax(here.largest, beside[k].largest);
	}
	*x = at;
	for (int k = 0; k < here.count; k++) {
		double moved = fabs(beside[0].distance[k] - beside[1].distance[k]);
		if (moved != 0 && !(fabs(here.distance[k]) > 4 * moved))
			return SKIPPED;
	}
	double coarse = (f[1] - f[0]) / (2 * h), fine = (f[3] - f[2]) / h;
	*numeric = (4 * fine - coarse) / 3;
	double doubt = 4 * fabs(fine - coarse) + 1e-14 * here.largest / h + 1e-7 * fabs(*numeric);
	if (!isfinite(value) || !isfinite(*numeric) || doubt > 1e-2 * (1 + fabs(*numeric)))
		return SKIPPED;
	return fabs(symbolic - *numeric) <= doubt ? AGREES : DIFFERS;
}

static void check_random(void)
{
	static const Variable variables[] = { { VAR_S, 0 }, { VAR_TAU, 0 }, { VAR_PARAM, 0 }, { VAR_PARAM, 1 } };
	Random random = { 5 };
	long skipped = 0, total = 0;
	for (int n = 0; n < EXPRESSIONS; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *e = tree_build(pool, tree_random(arena, &random, 4, constants, CONSTANTS));
		for (int k = 0; k < 4; k++) {
			Variable v = variables[k];
			if (v.var == VAR_PARAM ? !(e->params >> v.param & 1) : !(e->vars >> v.var & 1))
				continue;
			const Expr *derivative = expr_derivative(pool, e, v.var, v.param);
			for (int point = 0; point < POINTS; point++) {
				double params[TREE_PARAMS], numeric = 0;
				ExprEnv env = { .params = params };
				for (int p = 0; p < TREE_PARAMS; p++)
					params[p] = random_between(&random, -2, 2);
				for (int var = 0; var < VAR_COUNT; var++)
					env.var[var] = random_between(&random, -2, 2);
				/* Most formulas take roots and logs of positive things: half of the points are so. */
				if (point % 2)
					for (int var = 0; var < VAR_COUNT; var++)
						env.var[var] = fabs(env.var[var]) + 0.1;
				total++;
				Verdict verdict = compare(e, derivative, &env, params, v, &numeric);
				if (verdict == SKIPPED) {
					skipped++;
					continue;
				}
				CHECK(verdict == AGREES, "d/d%s of %s: %g, by differences %.10g\n    = %s",
				      v.var == VAR_PARAM ? tree_param_names[v.param] : expr_var_name(v.var),
				      expr_print(arena, e, tree_param_names), expr_eval(derivative, &env), numeric,
				      expr_print(arena, derivative, tree_param_names));
			}
		}
		arena_free(arena);
	}
	printf("%ld of %ld points skipped\n", skipped, total);
	CHECK(skipped * 2 < total, "more than half of the points were skipped");
}

/* One op of (s, tau, beta) at given values: d/ds and d/dbeta. */
typedef struct Fixture {
	Arena *arena;
	ExprPool *pool;
	const Expr *s, *tau, *beta, *zero, *one;
} Fixture;

static const Expr *number(const Fixture *x, double value)
{
	return expr_const(x->pool, value, (Loc){ 0 });
}

static double slope(const Fixture *x, const Expr *e, ExprVar var, double s, double tau, double beta)
{
	double params[] = { beta };
	ExprEnv env = { .params = params };
	env.var[VAR_S] = s;
	env.var[VAR_TAU] = tau;
	return expr_eval(expr_derivative(x->pool, e, var, 0), &env);
}

static void check_kinks(const Fixture *x)
{
	ExprPool *pool = x->pool;
	const Expr *s = x->s, *tau = x->tau;
	const Expr *unary[] = { expr_unary(pool, EXPR_RELU, s), expr_unary(pool, EXPR_SQRT, s),
	                        expr_unary(pool, EXPR_ABS, s), expr_unary(pool, EXPR_FLOOR, s) };
	for (int k = 0; k < 4; k++)
		for (int sign = 0; sign < 2; sign++)
			CHECK(slope(x, unary[k], VAR_S, sign ? -0.0 : 0.0, 0, 0) == 0, "%s'(0)", expr_op_name(unary[k]->op));
	const Expr *min = expr_binary(pool, EXPR_MIN, s, tau), *max = expr_binary(pool, EXPR_MAX, s, tau);
	CHECK(slope(x, min, VAR_S, 1, 1, 0) == 1 && slope(x, min, VAR_TAU, 1, 1, 0) == 0, "ties of min");
	CHECK(slope(x, max, VAR_S, 1, 1, 0) == 1 && slope(x, max, VAR_TAU, 1, 1, 0) == 0, "ties of max");
	const Expr *clamp = expr_make(pool, EXPR_CLAMP, (const Expr *[]){ s, x->zero, x->one }, (Loc){ 0 });
	static const double at[] = { -0.5, 0, 0.5, 1, 1.5 }, want[] = { 0, 1, 1, 1, 0 };
	for (int k = 0; k < 5; k++)
		CHECK(slope(x, clamp, VAR_S, at[k], 0, 0) == want[k], "clamp'(%g)", at[k]);
}

/* relu(s - tau)^p: 0 at and below 0 for every p, by s, tau and p. */
static void check_powers(const Fixture *x)
{
	static const double powers[] = { 0.25, 0.5, 1, 1.25, 1.5, 2, 2.5, 3, 7 };
	const Expr *relu = expr_unary(x->pool, EXPR_RELU, expr_binary(x->pool, EXPR_SUB, x->s, x->tau));
	for (int k = 0; k < 9; k++) {
		double p = powers[k];
		const Expr *e = expr_binary(x->pool, EXPR_POW, relu, number(x, p));
		CHECK(slope(x, e, VAR_S, 0.5, 0.5, 0) == 0, "power %g at 0", p);
		CHECK(slope(x, e, VAR_S, 0.25, 0.5, 0) == 0, "power %g below 0", p);
		CHECK(slope(x, e, VAR_TAU, 0.5, 0.5, 0) == 0 && slope(x, e, VAR_TAU, 0.2, 0.5, 0) == 0, "power %g by tau", p);
		double want = p * pow(0.75, p - 1);
		CHECK(fabs(slope(x, e, VAR_S, 1, 0.25, 0) - want) < 1e-14, "power %g above 0", p);
		CHECK(isnan(slope(x, e, VAR_S, NAN, 0.5, 0)), "power %g at NaN", p);
		e = expr_binary(x->pool, EXPR_POW, relu, x->beta);
		CHECK(slope(x, e, VAR_S, 0.5, 0.5, p) == 0 && slope(x, e, VAR_S, 0.25, 0.5, p) == 0, "learned power %g", p);
		CHECK(slope(x, e, VAR_PARAM, 0.5, 0.5, p) == 0, "by the power %g at 0", p);
		CHECK(slope(x, e, VAR_PARAM, 0.25, 0.5, p) == 0, "by the power %g below 0", p);
		want = pow(0.75, p) * log(0.75);
		CHECK(fabs(slope(x, e, VAR_PARAM, 1, 0.25, p) - want) < 1e-14, "by the power %g above 0", p);
		CHECK(isnan(slope(x, e, VAR_S, NAN, 0.5, p)) && isnan(slope(x, e, VAR_PARAM, NAN, 0.5, p)), "NaN, power %g", p);
	}
	const char *names[] = { "beta" };
	const Expr *square = expr_binary(x->pool, EXPR_POW, relu, number(x, 2));
	const char *text = expr_print(x->arena, expr_derivative(x->pool, square, VAR_S, 0), names);
	CHECK(!__builtin_strcmp(text, "2 * relu(s - tau)"), "the derivative of a square is cheap: %s", text);
}

/* Where an op takes a branch, NaN takes none: the derivative is NaN as the value is. */
static void check_nan(const Fixture *x)
{
	ExprPool *pool = x->pool;
	const Expr *s = x->s, *one = x->one;
	const Expr *cases[] = {
		expr_unary(pool, EXPR_RELU, s), expr_unary(pool, EXPR_ABS, s), expr_unary(pool, EXPR_SQRT, s),
		expr_unary(pool, EXPR_LOG, s), expr_unary(pool, EXPR_TANH, s), expr_unary(pool, EXPR_SIGMOID, s),
		expr_unary(pool, EXPR_EXP, s), expr_unary(pool, EXPR_EXP2, s), expr_binary(pool, EXPR_MIN, s, one),
		expr_binary(pool, EXPR_MAX, s, one), expr_binary(pool, EXPR_MIN, one, s), expr_binary(pool, EXPR_MAX, one, s),
		expr_binary(pool, EXPR_POW, s, number(x, 3)), expr_binary(pool, EXPR_POW, s, number(x, -0.5)),
		expr_make(pool, EXPR_CLAMP, (const Expr *[]){ s, x->zero, one }, (Loc){ 0 }),
	};
	for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++)
		CHECK(isnan(slope(x, cases[k], VAR_S, NAN, 0, 0)), "%s at NaN", expr_op_name(cases[k]->op));
	CHECK(isnan(slope(x, cases[2], VAR_S, -1, 0, 0)), "sqrt is NaN below 0, and so is its derivative");
	CHECK(isnan(slope(x, cases[3], VAR_S, -1, 0, 0)), "log is NaN below 0, and so is its derivative");
	const Expr *chosen = expr_where(pool, expr_binary(pool, EXPR_GT, s, x->zero), s, one);
	CHECK(slope(x, chosen, VAR_S, 2, 0, 0) == 1 && slope(x, chosen, VAR_S, -2, 0, 0) == 0, "where derives its arms");
}

static long operations(const Expr *e)
{
	long count = 1;
	for (int k = 0; k < e->arity; k++)
		count += operations(e->arg[k]);
	return count;
}

/* However deep an op is nested, its derivative written out stays within the square of the operations. */
static void check_growth(const Fixture *x)
{
	for (ExprOp op = EXPR_ADD; op < EXPR_OP_COUNT; op++) {
		if (op >= EXPR_LT && op <= EXPR_NE)
			continue;
		const Expr *e = x->s;
		for (int level = 0; level < 24; level++) {
			const Expr *tenth = expr_binary(x->pool, EXPR_ADD, e, number(x, 0.1));
			const Expr *args[] = { tenth, number(x, 0.5), number(x, 3) };
			if (op == EXPR_WHERE)
				args[0] = expr_binary(x->pool, EXPR_GT, x->tau, x->zero), args[2] = tenth;
			if (op == EXPR_POW && level % 2)
				args[0] = number(x, 0.5), args[1] = tenth;
			e = expr_make(x->pool, op, args, (Loc){ 0 });
		}
		long size = operations(e), derived = operations(expr_derivative(x->pool, e, VAR_S, 0));
		CHECK(derived <= 2 * size * size, "%s: %ld operations, %ld derived", expr_op_name(op), size, derived);
	}
}

int main(void)
{
	Arena *arena = arena_new();
	ExprPool *pool = expr_pool_new(arena);
	Loc loc = { 0 };
	Fixture x = { arena, pool, expr_var(pool, VAR_S, loc), expr_var(pool, VAR_TAU, loc), expr_param(pool, 0, loc),
	              expr_const(pool, 0, loc), expr_const(pool, 1, loc) };
	check_kinks(&x);
	check_powers(&x);
	check_nan(&x);
	check_growth(&x);
	arena_free(arena);
	check_random();
	return test_end();
}
