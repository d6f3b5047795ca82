/* How much of a gradient an output norm cancels. */
#ifndef TDA_CHECK_NORM_H
#define TDA_CHECK_NORM_H

#include "problem.h"

/*
 * The gradient behind an output norm is what is left when its part along o is taken away. A row with one survivor
 * has o along that one v, and next to nothing is left: of 24 bits of float32, or of the 16 of a rounded and a rest,
 * none may remain. These are the 2-norms of the gradients without that projection, the scale on which rounding
 * errors arise.
 */
typedef struct Uncancelled {
	double dq[TDA_MAX_VIEWS], dk[TDA_MAX_VIEWS], dparam[TDA_MAX_PARAMS];
} Uncancelled;

/* All 0 without an output norm. */
tda_status check_uncancelled(const Problem *problem, const Reference *reference, Uncancelled *norms);

#endif
