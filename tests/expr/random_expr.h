/* Random expressions as plain trees, which can be evaluated as they stand and built into a pool. */
#ifndef TDAGEN_TESTS_RANDOM_EXPR_H
#define TDAGEN_TESTS_RANDOM_EXPR_H

#include "expr.h"

typedef struct Random {
	uint64_t state;
} Random;

uint32_t random_below(Random *random, uint32_t limit);
double random_between(Random *random, double lo, double hi);

typedef struct Tree Tree;
struct Tree {
	ExprOp op;
	ExprVar var;
	int param;
	double value;
	const Tree *arg[EXPR_MAX_ARITY];
};

enum { TREE_PARAMS = 2 };                  /* parameters 0 and 1 may occur, beside s, tau and i */
extern const char *const tree_param_names[TREE_PARAMS];

/* Constants are drawn from `constants`; depth bounds the height. */
const Tree *tree_random(Arena *arena, Random *random, int depth, const double *constants, int constant_count);
const Expr *tree_build(ExprPool *pool, const Tree *tree);
double tree_eval(const Tree *tree, const ExprEnv *env);
int tree_arity(const Tree *tree);

#endif
