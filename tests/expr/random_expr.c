#include "random_expr.h"

#include <math.h>

const char *const tree_param_names[TREE_PARAMS] = { "beta", "lambda" };

static const int arities[EXPR_OP_COUNT] = {
#define EXPR_OP(id, name, arity, is_bool, value) [EXPR_##id] = arity,
#include "expr_ops.def"
#undef EXPR_OP
};

/* splitmix64 */
static uint64_t next(Random *random)
{
	uint64_t z = random->state += 0x9E3779B97F4A7C15u;
	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return z ^ z >> 31;
}

uint32_t random_below(Random *random, uint32_t limit)
{
	return (uint32_t)(next(random) % limit);
}

double random_between(Random *random, double lo, double hi)
{
	return lo + (hi - lo) * ((double)(next(random) >> 11) * 0x1p-53);
}

int tree_arity(const Tree *tree)
{
	return arities[tree->op];
}

static const Tree *leaf(Arena *arena, Random *random, const double *constants, int constant_count)
{
	static const ExprVar vars[] = { VAR_S, VAR_TAU, VAR_I, VAR_PARAM, VAR_PARAM, VAR_S };
	Tree *tree = ARENA_NEW(arena, Tree);
	tree->op = random_below(random, 3) ? EXPR_VAR : EXPR_CONST;
	if (tree->op == EXPR_CONST) {
		tree->value = constants[random_below(random, (uint32_t)constant_count)];
		return tree;
	}
	tree->var = vars[random_below(random, sizeof vars / sizeof vars[0])];
	tree->param = tree->var == VAR_PARAM ? (int)random_below(random, TREE_PARAMS) : 0;
	return tree;
}

static const Tree *comparison(Arena *arena, Random *random, int depth, const double *constants, int constant_count)
{
	Tree *tree = ARENA_NEW(arena, Tree);
	tree->op = (ExprOp)(EXPR_LT + random_below(random, EXPR_NE - EXPR_LT + 1));
	for (int k = 0; k < 2; k++)
		tree->arg[k] = tree_random(arena, random, depth - 1, constants, constant_count);
	return tree;
}

const Tree *tree_random(Arena *arena, Random *random, int depth, const double *constants, int constant_count)
{
	if (depth <= 0 || random_below(random, 6) == 0)
		return leaf(arena, random, constants, constant_count);
	Tree *tree = ARENA_NEW(arena, Tree);
	do
		tree->op = (ExprOp)(EXPR_ADD + random_below(random, EXPR_WHERE - EXPR_ADD + 1));
	while (tree->op >= EXPR_LT && tree->op <= EXPR_NE);
	for (int k = 0; k < arities[tree->op]; k++)
		tree->arg[k] = tree->op == EXPR_WHERE && k == 0 ? comparison(arena, random, depth, constants, constant_count) :
		               tree_random(arena, random, depth - 1, constants, constant_count);
	return tree;
}

const Expr *tree_build(ExprPool *pool, const Tree *tree)
{
	Loc loc = { 1, 0 };
	if (tree->op == EXPR_CONST)
		return expr_const(pool, tree->value, loc);
	if (tree->op == EXPR_VAR)
		return tree->var == VAR_PARAM ? expr_param(pool, tree->param, loc) : expr_var(pool, tree->var, loc);
	const Expr *args[EXPR_MAX_ARITY];
	for (int k = 0; k < arities[tree->op]; k++)
		args[k] = tree_build(pool, tree->arg[k]);
	return expr_make(pool, tree->op, args, loc);
}

/* The C column of expr_ops.def, applied without any folding. */
static double apply(ExprOp op, double a, double b, double c)
{
	switch (op) {
#define EXPR_OP(id, name, arity, is_bool, value) case EXPR_##id: return value;
#include "expr_ops.def"
#undef EXPR_OP
	default: return NAN;
	}
}

double tree_eval(const Tree *tree, const ExprEnv *env)
{
	if (tree->op == EXPR_CONST)
		return tree->value;
	if (tree->op == EXPR_VAR)
		return tree->var == VAR_PARAM ? env->params[tree->param] : env->var[tree->var];
	double v[EXPR_MAX_ARITY] = { 0 };
	for (int k = 0; k < arities[tree->op]; k++)
		v[k] = tree_eval(tree->arg[k], env);
	return apply(tree->op, v[0], v[1], v[2]);
}
