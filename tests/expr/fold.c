/* Simplification keeps the value of every expression, at NaN, infinities and signed zeros too. */
#include "random_expr.h"
#include "testing.h"

#include <math.h>

static const double specials[] = { 0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 4, INFINITY, -INFINITY, NAN, 0x1p1000, -0x1p1000,
                                   0x1p-1000 };
static const double constants[] = { 0.0, -0.0, 1, -1, 2, 0.5, -2, 4, 3, 1.5 };

enum { SPECIALS = sizeof specials / sizeof specials[0], CONSTANTS = sizeof constants / sizeof constants[0] };

static bool agree(double a, double b)
{
	if (isnan(a) || isnan(b))
		return isnan(a) && isnan(b);
	if (a == b)
		return a != 0 || signbit(a) == signbit(b);
	return fabs(a - b) <= 1e-12 * fmax(fabs(a), fabs(b)) || fmax(fabs(a), fabs(b)) < 0x1p-1000;
}

static void check_random(void)
{
	Random random = { 11 };
	for (int n = 0; n < 20000; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Tree *tree = tree_random(arena, &random, 4, constants, CONSTANTS);
		const Expr *e = tree_build(pool, tree);
		for (int point = 0; point < 10; point++) {
			double params[TREE_PARAMS];
			ExprEnv env = { .params = params };
			for (int k = 0; k < VAR_COUNT; k++)
				env.var[k] = specials[random_below(&random, SPECIALS)];
			for (int k = 0; k < TREE_PARAMS; k++)
				params[k] = specials[random_below(&random, SPECIALS)];
			double want = tree_eval(tree, &env), got = expr_eval(e, &env);
			CHECK(agree(want, got), "expression %d: %s is %g, was %g (s=%g tau=%g i=%g beta=%g lambda=%g)", n,
			      expr_print(arena, e, tree_param_names), got, want, env.var[VAR_S], env.var[VAR_TAU],
			      env.var[VAR_I], params[0], params[1]);
		}
		arena_free(arena);
	}
}

/* What must simplify, and what must not. */
static void check_rules(void)
{
	Arena *arena = arena_new();
	ExprPool *pool = expr_pool_new(arena);
	Loc loc = { 0 };
	const Expr *s = expr_var(pool, VAR_S, loc), *tau = expr_var(pool, VAR_TAU, loc);
	const Expr *zero = expr_const(pool, 0, loc), *one = expr_const(pool, 1, loc), *two = expr_const(pool, 2, loc);
	const Expr *u = expr_binary(pool, EXPR_SUB, s, tau), *minus = expr_unary(pool, EXPR_NEG, s);
	CHECK(expr_binary(pool, EXPR_SUB, s, tau) == u, "equal expressions are one");
	CHECK(expr_binary(pool, EXPR_ADD, s, tau) == expr_binary(pool, EXPR_ADD, tau, s), "a + b and b + a are one");
	CHECK(expr_binary(pool, EXPR_MUL, s, one) == s && expr_binary(pool, EXPR_MUL, one, s) == s, "x * 1");
	CHECK(expr_binary(pool, EXPR_DIV, s, one) == s, "x / 1");
	CHECK(expr_binary(pool, EXPR_POW, s, one) == s, "x ^ 1");
	CHECK(expr_binary(pool, EXPR_POW, s, two)->op == EXPR_POW, "x ^ 2 stays");
	CHECK(expr_unary(pool, EXPR_NEG, minus) == s, "--x");
	CHECK(expr_binary(pool, EXPR_SUB, s, zero) == s, "x - 0");
	CHECK(expr_binary(pool, EXPR_ADD, s, zero) != s, "x + 0 would turn -0 into 0");
	CHECK(expr_binary(pool, EXPR_ADD, expr_unary(pool, EXPR_EXP, s), zero)->op == EXPR_EXP, "exp(x) + 0");
	CHECK(expr_binary(pool, EXPR_MUL, s, zero)->op == EXPR_MUL, "x * 0 may be NaN");
	CHECK(expr_binary(pool, EXPR_SUB, s, s)->op == EXPR_SUB, "x - x may be NaN");
	CHECK(expr_binary(pool, EXPR_MAX, s, s) == s, "max(x, x)");
	CHECK(expr_binary(pool, EXPR_ADD, tau, minus)->op == EXPR_SUB, "a + -b");
	CHECK(expr_where(pool, expr_binary(pool, EXPR_LT, one, two), s, tau) == s, "where of a constant");
	CHECK(expr_where(pool, expr_binary(pool, EXPR_LT, s, tau), tau, tau) == tau, "where of equal arms");
	const Expr *relu = expr_unary(pool, EXPR_RELU, u);
	CHECK(expr_unary(pool, EXPR_RELU, relu) == relu, "relu(relu(x))");
	const Expr *e = expr_binary(pool, EXPR_MUL, two, expr_binary(pool, EXPR_MUL, two, s));
	CHECK(e->op == EXPR_MUL && e->arg[0]->op == EXPR_CONST && e->arg[0]->value == 4, "2 * (2 * x)");
	CHECK(u->vars == (1u << VAR_S | 1u << VAR_TAU), "variables are collected");
	const Expr *p = expr_param(pool, 3, loc);
	CHECK(expr_binary(pool, EXPR_MUL, p, s)->params == 1u << 3, "parameters are collected");
	const Expr *q = expr_substitute(pool, expr_binary(pool, EXPR_MUL, p, s), VAR_PARAM, 3, two);
	CHECK(q == expr_binary(pool, EXPR_MUL, two, s), "substitution rebuilds");
	CHECK(expr_substitute(pool, q, VAR_TAU, 0, s) == q, "substitution of what isn't there");
	arena_free(arena);
}

int main(void)
{
	check_rules();
	check_random();
	return test_end();
}
