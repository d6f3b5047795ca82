/* Proofs: what must be proved, what must not, and that whatever is proved holds at sampled points. */
#include "parse_expr.h"
#include "random_expr.h"
#include "testing.h"

#include <math.h>
#include <string.h>

static void check_cases(void)
{
	static const struct {
		const char *weight;
		bool proved;
		const char *part;                  /* the factor, or the obstacle */
	} cases[] = {
		{ "relu(s - tau)", true, "relu(s - tau)" },
		{ "relu(s - tau)^2", true, "relu(s - tau)^2" },
		{ "relu(s - tau)^1.5", true, "relu(s - tau)^1.5" },
		{ "relu(s - tau)^clamp(beta, 1, 3)", true, "relu(s - tau)^clamp(beta, 1, 3)" },
		{ "relu(3 * (s - tau))^2", true, "relu(3 * (s - tau))^2" },
		{ "relu((s - tau) / 0.5)", true, "relu((s - tau) / 0.5)" },
		{ "relu(-2 * (tau - s))", true, "relu(-2 * (tau - s))" },
		{ "relu(s - tau - 0.1)", true, "relu(s - tau - 0.1)" },
		{ "relu(s - (tau + abs(beta)))", true, "relu(s - (tau + abs(beta)))" },
		{ "relu(min(s - tau, 1))^2", true, "relu(min(s - tau, 1))^2" },
		{ "max(0, s - tau)", true, "max(0, s - tau)" },
		{ "max(s - tau, 0)^2", true, "max(s - tau, 0)^2" },
		{ "max(s - tau, 0)^0.5", true, "max(s - tau, 0)^0.5" },
		{ "clamp(s - tau, 0, 1)^2", true, "clamp(s - tau, 0, 1)^2" },
		{ "relu(s - tau) * s", true, "relu(s - tau)" },
		{ "2 * relu(s - tau)^2 / 64", true, "relu(s - tau)^2" },
		{ "relu(s - tau)^2 * sigmoid(s)", true, "relu(s - tau)^2" },
		{ "relu(s - tau) / (1 + s * s)", true, "relu(s - tau)" },
		{ "relu(s - tau) * exp(min(s, 10))", true, "relu(s - tau)" },
		{ "relu(s - tau) + relu(s - tau)^3", true, "relu(s - tau) + relu(s - tau)^3" },
		{ "tanh(relu(s - tau))", true, "tanh(relu(s - tau))" },
		{ "sqrt(relu(s - tau))", true, "sqrt(relu(s - tau))" },
		{ "where(gt(s, tau), (s - tau)^1.5, 0)", true, NULL },
		{ "where(le(s, tau), 0, exp(s))", true, NULL },
		{ "where(gt(s - tau, 0), s, 0)", true, NULL },
		{ "max(s - tau, 0) * max(s - tau, 0)", true, NULL },
		{ "min(relu(s - tau), 1)", true, NULL },
		{ "relu(tanh(s - tau))", false, "relu(tanh(s - tau))" },
		{ "sigmoid(s - tau)", false, "sigmoid(s - tau)" },
		{ "relu(s)", false, "relu(s)" },
		{ "relu(tau - s)", false, "relu(tau - s)" },
		{ "relu(s + tau)", false, "relu(s + tau)" },
		{ "relu(-3 * (s - tau))", false, "relu(-3 * (s - tau))" },
		{ "relu(beta * (s - tau))", false, "relu(beta * (s - tau))" },
		{ "relu(s - tau + 0.1)", false, "relu(s - tau + 0.1)" },
		{ "max(s - tau, 0)", false, "max(s - tau, 0)" },
		{ "max(s - tau, 0)^clamp(beta, 1, 3)", false, NULL },
		{ "relu(s - tau)^beta", false, "relu(s - tau)^beta" },
		{ "relu(s - tau) / s", false, "s" },
		{ "relu(s - tau) * log(abs(s))", false, "log(abs(s))" },
		{ "relu(s - tau) * exp(s)", false, "exp(s)" },
		{ "relu(s - tau) * sqrt(s)", false, "sqrt(s)" },
		{ "relu(s - tau) + 1", false, "1" },
		{ "relu(s - tau) + sigmoid(s)", false, "sigmoid(s)" },
		{ "exp(relu(s - tau))", false, "exp(relu(s - tau))" },
		{ "where(lt(s, tau), 0, s - tau)", false, NULL },
		{ "where(ge(s, tau), s, 0)", false, NULL },
		{ "relu(2 * s - 2 * tau)", false, NULL },   /* fused, one product is rounded and the other is not */
		{ "relu(s * (1 / 0) - tau)", false, NULL },
		{ "where(gt(s * 1e300 * 1e300, tau), s, 0)", false, NULL },
	};
	for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *weight = expr_parse(pool, cases[k].weight), *factor, *obstacle;
		bool proved = expr_prove_zero_below(pool, weight, &factor, &obstacle);
		const char *part = expr_print(arena, proved ? factor : obstacle, tree_param_names);
		CHECK(proved == cases[k].proved, "%s: by %s", cases[k].weight, part);
		CHECK(!cases[k].part || strcmp(part, cases[k].part) == 0, "%s: names %s", cases[k].weight, part);
		CHECK(proved == !obstacle && proved == (factor != NULL), "%s: one of factor and obstacle", cases[k].weight);
		arena_free(arena);
	}
}

static void check_increasing(void)
{
	static const struct {
		const char *score;
		bool increasing;
	} cases[] = {
		{ "s", true }, { "s / 8", true }, { "30 * tanh(s / 30)", true }, { "s + i", true }, { "exp(min(s, 3))", true },
		{ "clamp(s, -1, 1)", true }, { "-(1 - s)", true }, { "s * abs(beta)", true }, { "relu(s)^2", true },
		{ "s^3", true },
		{ "s + tanh(s) / 2", true }, { "s - tanh(s) / 2", true },
		{ "-s", false }, { "s * beta", false }, { "s^2", false }, { "abs(s)", false }, { "sqrt(s)", false },
		{ "s + j", false },
		{ "3", false }, { "beta", false }, { "s * s", false }, { "clamp(s, 1, -1)", false }, { "1 / s", false },
		{ "floor(abs(s))", false }, { "floor(s)", true }, { "where(gt(s, 0), 1, 2)", false }, { "-tanh(1 / s)", false },
		{ "0^sigmoid(s)", false }, { "clamp(s, abs(beta), abs(lambda))", false }, { "s - (s + beta)", false },
	};
	for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *score = expr_parse(pool, cases[k].score);
		CHECK(expr_is_increasing_in_s(pool, score) == cases[k].increasing, "%s", cases[k].score);
		arena_free(arena);
	}
}

/* Weights made of the blocks that proofs look for, right and wrong ones. */
static const char *const blocks[] = {
	"relu(s - tau)", "relu(s - tau)^2", "relu(2 * (s - tau))^1.5", "max(s - tau, 0)", "max(0, s - tau)", "s - tau",
	"tau - s", "min(tau - s, 0)", "relu(tau - s)", "clamp(s - tau, 0, 2)", "s", "beta", "0", "0.5", "-2", "sigmoid(s)",
	"1 + s * s", "abs(beta) + 1", "relu(s - tau - abs(lambda))", "where(gt(s, tau), s, 0)",
	"where(le(s, tau), 0, s^0.5)",
	"clamp(beta, 1, 3)", "clamp(lambda, 0, 1)",
};

static const Expr *random_weight(ExprPool *pool, Random *random, int depth)
{
	static const ExprOp unary[] = { EXPR_NEG, EXPR_TANH, EXPR_SQRT, EXPR_ABS, EXPR_RELU, EXPR_FLOOR, EXPR_EXP,
	                                EXPR_LOG };
	static const ExprOp binary[] = { EXPR_ADD, EXPR_SUB, EXPR_MUL, EXPR_MUL, EXPR_DIV, EXPR_POW, EXPR_MIN, EXPR_MAX };
	static const ExprOp comparisons[] = { EXPR_LT, EXPR_LE, EXPR_GT, EXPR_GE, EXPR_EQ, EXPR_NE };
	if (depth == 0 || random_below(random, 4) == 0)
		return expr_parse(pool, blocks[random_below(random, sizeof blocks / sizeof blocks[0])]);
	const Expr *a = random_weight(pool, random, depth - 1), *b = random_weight(pool, random, depth - 1);
	switch (random_below(random, 8)) {
	case 0: case 1: return expr_unary(pool, unary[random_below(random, 8)], a);
	case 2: {
		const Expr *left = random_weight(pool, random, 0), *right = random_weight(pool, random, 0);
		return expr_where(pool, expr_binary(pool, comparisons[random_below(random, 6)], left, right), a, b);
	}
	case 3: return expr_make(pool, EXPR_CLAMP, (const Expr *[]){ a, expr_const(pool, 0, a->loc), b }, a->loc);
	default: return expr_binary(pool, binary[random_below(random, 8)], a, b);
	}
}

/* As the kernels compute: each operation rounded to f32. */
static double eval_f32(const Expr *e, const ExprEnv *env)
{
	Tree leaves[EXPR_MAX_ARITY], tree = { .op = e->op };
	if (e->op == EXPR_CONST || e->op == EXPR_VAR)
		return (float)expr_eval(e, env);
	for (int k = 0; k < e->arity; k++) {
		leaves[k] = (Tree){ .op = EXPR_CONST, .value = eval_f32(e->arg[k], env) };
		tree.arg[k] = &leaves[k];
	}
	return (float)tree_eval(&tree, env);
}

static double random_value(Random *random)
{
	static const double magnitudes[] = { 1, 1, 1, 0x1p-20, 0x1p10, 0x1p20 };
	double x = random_between(random, -1, 1) * magnitudes[random_below(random, 6)];
	return (float)(random_below(random, 10) ? x : rint(x));
}

/* Value and derivatives are exactly 0 at a random point with s <= tau, in f64 and in f32. */
static void check_point(Arena *arena, Random *random, const Expr *weight, const Expr *const *derivatives)
{
	double params[TREE_PARAMS] = { random_value(random), random_value(random) };
	ExprEnv env = { .params = params };
	double a = random_value(random), b = random_below(random, 4) ? random_value(random) : a;
	env.var[VAR_S] = fmin(a, b);
	env.var[VAR_TAU] = fmax(a, b);
	for (int k = 0; k < 5; k++) {
		const Expr *e = k == 0 ? weight : derivatives[k - 1];
		double value = expr_eval(e, &env), rounded = eval_f32(e, &env);
		CHECK(value == 0 && rounded == 0, "%s: %s %d is %g (f32: %g) at s=%.9g tau=%.9g beta=%g lambda=%g",
		      expr_print(arena, weight, tree_param_names), k ? "derivative" : "value", k, value, rounded,
		      env.var[VAR_S], env.var[VAR_TAU], params[0], params[1]);
	}
}

static void check_sound(void)
{
	Random random = { 47 };
	int proved = 0;
	for (int n = 0; n < 40000; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *weight = random_weight(pool, &random, 3), *factor, *obstacle;
		if (weight->vars && expr_prove_zero_below(pool, weight, &factor, &obstacle)) {
			const Expr *derivatives[] = {
				expr_derivative(pool, weight, VAR_S, 0), expr_derivative(pool, weight, VAR_TAU, 0),
				expr_derivative(pool, weight, VAR_PARAM, 0), expr_derivative(pool, weight, VAR_PARAM, 1),
			};
			proved++;
			for (int point = 0; point < 24; point++)
				check_point(arena, &random, weight, derivatives);
		}
		arena_free(arena);
	}
	printf("%d of 40000 random weights proved\n", proved);
	CHECK(proved > 2000, "too few proofs to mean anything");
}

/* Whatever is said to increase does, between any two scores with all else equal. */
static void check_increasing_sound(void)
{
	static const double constants[] = { 1, 2, 0.5, 3, -1, -2, 0 };
	Random random = { 53 };
	int claimed = 0;
	for (int n = 0; n < 60000; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *e = tree_build(pool, tree_random(arena, &random, 3, constants, 7));
		bool increasing = expr_is_increasing_in_s(pool, e);
		claimed += increasing;
		for (int point = 0; increasing && point < 24; point++) {
			double params[TREE_PARAMS] = { random_value(&random), random_value(&random) };
			ExprEnv env = { .params = params };
			env.var[VAR_TAU] = random_value(&random);
			env.var[VAR_I] = rint(random_between(&random, -100, 1e6));
			double a = random_value(&random), b = random_value(&random);
			env.var[VAR_S] = fmin(a, b);
			double low = expr_eval(e, &env);
			env.var[VAR_S] = fmax(a, b);
			double high = expr_eval(e, &env);
			CHECK(low <= high || low - high <= 1e-12 * fabs(high), "%s is %.17g, then %.17g", expr_print(arena, e, tree_param_names),
			      low, high);
		}
		arena_free(arena);
	}
	printf("%d of 60000 random scores increase\n", claimed);
	CHECK(claimed > 1000, "too few of them to mean anything");
}

int main(void)
{
	check_cases();
	check_increasing();
	check_sound();
	check_increasing_sound();
	return test_end();
}
