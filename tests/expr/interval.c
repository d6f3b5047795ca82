/* Intervals contain every value: at their ends, inside, and NaN where they deny it never. */
#include "random_expr.h"
#include "testing.h"

#include <math.h>

static const double constants[] = { 0, 1, -1, 2, 0.5, -2, 3, 1.5, -0.75, 10 };
static const double ends[] = { -INFINITY, -1e30, -2, -1, -0.5, 0, 0.25, 1, 2, 3, 1e30, INFINITY };

enum { CONSTANTS = sizeof constants / sizeof constants[0] };

static Interval random_interval(Random *random)
{
	double a = random_below(random, 2) ? random_between(random, -3, 3) : ends[random_below(random, 12)];
	double b = random_below(random, 2) ? random_between(random, -3, 3) : ends[random_below(random, 12)];
	return (Interval){ fmin(a, b), fmax(a, b), random_below(random, 8) == 0 };
}

/* A member: an end, something between, or NaN. */
static double random_member(Random *random, Interval x)
{
	if (x.nan && random_below(random, 3) == 0)
		return NAN;
	switch (random_below(random, 4)) {
	case 0: return x.lo;
	case 1: return x.hi;
	case 2: if (x.lo <= 0 && x.hi >= 0) return random_below(random, 2) && x.lo < 0 ? -0.0 : 0.0;
	}
	double lo = fmax(x.lo, -1e3), hi = fmin(x.hi, 1e3);
	return lo <= hi ? random_between(random, lo, hi) : x.lo;
}

int main(void)
{
	Random random = { 23 };
	long useful = 0, total = 0;
	for (int n = 0; n < 20000; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *e = tree_build(pool, tree_random(arena, &random, 3, constants, CONSTANTS));
		Interval params[TREE_PARAMS];
		IntervalEnv where = { .params = params };
		for (int k = 0; k < VAR_COUNT; k++)
			where.var[k] = random_interval(&random);
		for (int k = 0; k < TREE_PARAMS; k++)
			params[k] = random_interval(&random);
		Interval x = expr_interval(e, &where);
		total++;
		useful += !(x.lo == -INFINITY && x.hi == INFINITY && x.nan);
		for (int point = 0; point < 20; point++) {
			double values[TREE_PARAMS];
			ExprEnv env = { .params = values };
			for (int k = 0; k < VAR_COUNT; k++)
				env.var[k] = random_member(&random, where.var[k]);
			for (int k = 0; k < TREE_PARAMS; k++)
				values[k] = random_member(&random, params[k]);
			double value = expr_eval(e, &env);
			bool contained = isnan(value) ? x.nan : x.lo <= value && value <= x.hi;
			CHECK(contained, "expression %d: %s is %g, not in [%g, %g]%s", n, expr_print(arena, e, tree_param_names),
			      value, x.lo, x.hi, x.nan ? " or nan" : "");
		}
		arena_free(arena);
	}
	CHECK(useful * 2 > total, "only %ld of %ld intervals say anything", useful, total);
	return test_end();
}
