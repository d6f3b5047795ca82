/*
 * The expressions of a manifest: postfix programs over scores, evaluated in f64 for a row of keys at a time,
 * together with derivatives by forward-mode differentiation (dual numbers). Nothing here comes from the compiler but
 * the table of operations' values, so that the reference checks the compiler's derivatives instead of repeating them.
 */
#ifndef TDA_EXPR_EVAL_H
#define TDA_EXPR_EVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tda.h"

typedef enum PostfixVar {
#define EXPR_VAR_ENTRY(id, ...) POSTFIX_VAR_##id,
#include "../compiler/expr_vars.def"
#undef EXPR_VAR_ENTRY
	POSTFIX_VAR_COUNT
} PostfixVar;

/* What can be differentiated by: the score, the threshold, and each learned parameter. Sets of them are bit masks. */
enum { DUAL_S, DUAL_TAU, DUAL_PARAM, DUAL_COUNT = DUAL_PARAM + TDA_MAX_PARAMS };

enum { POSTFIX_CHUNK = 128 };          /* keys evaluated at a time */

typedef struct Postfix Postfix;

/* Only the variables in `allowed`, a mask of 1 << PostfixVar, may occur; parameters are allowed with POSTFIX_VAR_PARAM.
 * NULL after tda_fail. Freed with free(). */
Postfix *postfix_parse(const char *text, size_t length, const char *const *param_names, int param_count,
                       uint32_t allowed);
uint32_t postfix_vars(const Postfix *postfix);         /* mask of 1 << PostfixVar that occur */
uint32_t postfix_params(const Postfix *postfix);       /* mask of 1 << parameter that occur */
int postfix_depth(const Postfix *postfix);             /* slots that an evaluation needs */
bool postfix_is_var(const Postfix *postfix, PostfixVar var);   /* is it just this variable? */

typedef struct PostfixInput {
	int count;                             /* keys, up to POSTFIX_CHUNK */
	double var[POSTFIX_VAR_COUNT];         /* the same for every key ... */
	const double *row[POSTFIX_VAR_COUNT];  /* ... unless this is not NULL: one value a key */
	const double *params;                  /* one value a parameter */
} PostfixInput;

/* A value and its partial derivatives, for each key. Partials that are not in `live` are 0 and not stored. */
typedef struct PostfixSlot {
	uint32_t live;
	double value[POSTFIX_CHUNK];
	double partial[DUAL_COUNT][POSTFIX_CHUNK];
} PostfixSlot;

/* Evaluates with derivatives by the members of `wrt`; the result is stack[0]. stack has postfix_depth slots. At kinks
 * these conventions hold: relu, sqrt and abs have slope 0 at 0, ties of min and max go to the first argument, clamp has
 * slope 1 on its closed range, and a zero factor of the chain rule makes its term 0. */
void postfix_eval(const Postfix *postfix, const PostfixInput *input, uint32_t wrt, PostfixSlot *stack);

#endif
