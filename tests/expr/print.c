/* What expr_print and expr_postfix write reads back as the same expression. */
#include "parse_expr.h"
#include "random_expr.h"
#include "testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double constants[] = { 0, 1, -1, 2, 0.5, -2, 3, 1.5, 0.1, 1e-6, 1e30, -1.0 / 3 };

enum { CONSTANTS = sizeof constants / sizeof constants[0], STACK = 256 };

/* Evaluates postfix text with a stack; NaN and a count of -1 when it is malformed. */
static double eval_postfix(char *text, const ExprEnv *env, int *depth)
{
	double stack[STACK];
	*depth = 0;
	Arena *arena = arena_new();
	ExprPool *pool = expr_pool_new(arena);
	for (char *word = strtok(text, " "); word && *depth >= 0 && *depth < STACK; word = strtok(NULL, " ")) {
		const Expr *e;
		ExprOp op = expr_op_from_name(word);
		if (op != EXPR_OP_COUNT) {
			Tree leaves[EXPR_MAX_ARITY], tree = { .op = op };
			*depth -= tree_arity(&(Tree){ .op = op });
			for (int k = 0; k < tree_arity(&(Tree){ .op = op }) && *depth >= 0; k++) {
				leaves[k] = (Tree){ .op = EXPR_CONST, .value = stack[*depth + k] };
				tree.arg[k] = &leaves[k];
			}
			if (*depth >= 0)
				stack[(*depth)++] = tree_eval(&tree, env);
		} else if (expr_leaf_from_name(pool, word[0] == '$' ? word + 1 : word, &e)) {
			stack[(*depth)++] = expr_eval(e, env);
		} else {
			char *end;
			stack[(*depth)++] = strtod(word, &end);
			if (*end)
				*depth = -1;
		}
	}
	arena_free(arena);
	return *depth == 1 ? stack[0] : NAN;
}

static void check_infix(Arena *arena, ExprPool *pool, const char *infix, const ExprEnv *env, double want)
{
	const Expr *again = expr_parse(pool, infix);
	CHECK(again != NULL, "%s can't be read back", infix);
	double value = again ? expr_eval(again, env) : 0;
	CHECK(value == want || (isnan(value) && isnan(want)), "%s reads back as %g, not %g: %s", infix, value, want,
	      again ? expr_print(arena, again, tree_param_names) : "");
}

static void check_random(void)
{
	Random random = { 31 };
	for (int n = 0; n < 5000; n++) {
		Arena *arena = arena_new();
		ExprPool *pool = expr_pool_new(arena);
		const Expr *e = tree_build(pool, tree_random(arena, &random, 4, constants, CONSTANTS));
		char *infix = expr_print(arena, e, tree_param_names);
		double params[TREE_PARAMS] = { random_between(&random, -2, 2), random_between(&random, -2, 2) };
		ExprEnv env = { .params = params };
		for (int k = 0; k < VAR_COUNT; k++)
			env.var[k] = random_between(&random, -2, 2);
		double want = expr_eval(e, &env);
		int depth;
		double got = eval_postfix(expr_postfix(arena, e, tree_param_names), &env, &depth);
		bool equal = got == want || (isnan(got) && isnan(want));
		CHECK(depth == 1 && equal, "postfix of %s is %g, not %g", infix, got, want);
		if (!strstr(infix, "inf") && !strstr(infix, "nan"))     /* no literals of Lua: specs with them are refused */
			check_infix(arena, pool, infix, &env, want);
		arena_free(arena);
	}
}

static void check_text(void)
{
	static const struct {
		const char *text, *want;           /* want: NULL when it prints as it was written */
	} cases[] = {
		{ "s - tau - 1", NULL }, { "s - (tau - 1)", NULL }, { "s * (tau + 1)", NULL }, { "s / (tau * 2)", NULL },
		{ "(s + tau)^2", NULL }, { "s^tau^2", NULL }, { "(s^tau)^2", NULL }, { "-s^2", NULL }, { "(-s)^2", NULL },
		{ "2^-s", NULL }, { "-(s + tau)", NULL }, { "s * -3", NULL }, { "relu(s - tau)^1.5", NULL }, { "((s))", "s" },
		{ "beta * sqrt(2 * log(i + 1) / 64)", NULL }, { "where(gt(s, tau), s, -tau)", NULL }, { "s^(tau + 1)", NULL },
		{ "0.1 + s", NULL }, { "1e-06 + s", NULL }, { "clamp(lambda, 0, 1)", NULL },
	};
	Arena *arena = arena_new();
	for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
		const Expr *e = expr_parse(expr_pool_new(arena), cases[k].text);
		const char *text = e ? expr_print(arena, e, tree_param_names) : "";
		CHECK(strcmp(text, cases[k].want ? cases[k].want : cases[k].text) == 0, "'%s' prints as '%s'",
		      cases[k].text, text);
	}
	arena_free(arena);
}

int main(void)
{
	check_text();
	check_random();
	return test_end();
}
