/* The cases of a check: shapes, layouts and data. */
#ifndef TDA_CHECK_CASE_H
#define TDA_CHECK_CASE_H

#include "problem.h"

typedef enum ParamMode {
	PARAMS_ABSENT,                 /* none given: initial values */
	PARAMS_RANDOM,                 /* near the initial values */
	PARAMS_LOWERED                 /* those that the threshold reads are negated where that lowers it */
} ParamMode;

typedef enum Special {
	SPECIAL_NONE,
	SPECIAL_ZERO,                  /* some rows of q and k are 0 */
	SPECIAL_HUGE, SPECIAL_TINY,    /* magnitudes of q and k; only where rows are normalised */
	SPECIAL_NAN_Q, SPECIAL_NAN_K, SPECIAL_NAN_V,   /* one element of batch 0, first (key) head */
	SPECIAL_INF_K                  /* only where rows are normalised */
} Special;

typedef enum CaseList { LIST_QUICK, LIST_FULL, LIST_LARGE } CaseList;

typedef struct CheckCase {
	const char *name;
	CaseList list;                 /* the shortest list that has it */
	int batch, heads, kv_heads, q_len, k_len, layer, layers;
	Layout layout;
	/* How much of one common direction all q and k of a head hold: 0: independent rows, survivors are rare but for some
	 * planted ones; 2: most scores are near 1 and survive. */
	double common;
	ParamMode params;
	Special special;
} CheckCase;

extern const CheckCase check_cases[];
extern const int check_case_count;

/* Is the case meaningful for this kernel? */
bool check_case_applies(const CheckCase *c, const Manifest *manifest);
/* A problem with the case's shape and data: the same for the same seed. */
tda_status check_case_problem(const CheckCase *c, tda_kernel *kernel, uint64_t seed, Problem *problem);
/* Any shape: packed, independent rows with planted survivors, initial parameters. */
tda_status check_random_problem(const tda_shape *shape, tda_kernel *kernel, uint64_t seed, Problem *problem);
/* Draws the do of a problem that has none. */
void check_random_grad(Problem *p, uint64_t seed);

#endif
