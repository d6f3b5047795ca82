#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "expr_eval.h"
#include "number.h"

enum { MAX_WORDS = 4096, MAX_DEPTH = 64, MAX_ARITY = 3 };

typedef enum PostfixOp {
	POSTFIX_CONST,
	POSTFIX_VAR,
#define EXPR_OP(id, ...) POSTFIX_##id,
#include "../compiler/expr_ops.def"
#undef EXPR_OP
	POSTFIX_OP_COUNT
} PostfixOp;

static const struct { const char *name; int arity; } op_facts[POSTFIX_OP_COUNT] = {
#define EXPR_OP(id, name, arity, ...) [POSTFIX_##id] = { name, arity },
#include "../compiler/expr_ops.def"
#undef EXPR_OP
};

static const char *const var_names[POSTFIX_VAR_COUNT] = {
#define EXPR_VAR_ENTRY(id, name, ...) [POSTFIX_VAR_##id] = name,
#include "../compiler/expr_vars.def"
#undef EXPR_VAR_ENTRY
};

typedef struct PostfixWord {
	PostfixOp op;
	int index;                     /* POSTFIX_VAR: the variable */
	int param;                     /* of POSTFIX_VAR_PARAM: which */
	double value;                  /* POSTFIX_CONST */
} PostfixWord;

struct Postfix {
	int count, depth;
	uint32_t vars, params;
	PostfixWord words[];
};

/* ---- parsing ---- */

static bool same(const char *name, const char *text, size_t length)
{
	return strlen(name) == length && memcmp(name, text, length) == 0;
}

static bool parse_word(const char *text, size_t length, const char *const *param_names, int param_count,
                       PostfixWord *word)
{
	if (text[0] == '$') {
		for (int p = 0; p < param_count; p++)
			if (same(param_names[p], text + 1, length - 1)) {
				*word = (PostfixWord){ .op = POSTFIX_VAR, .index = POSTFIX_VAR_PARAM, .param = p };
				return true;
			}
		return false;
	}
	for (int op = POSTFIX_VAR + 1; op < POSTFIX_OP_COUNT; op++)
		if (same(op_facts[op].name, text, length)) {
			*word = (PostfixWord){ .op = (PostfixOp)op };
			return true;
		}
	for (int v = 0; v < POSTFIX_VAR_COUNT; v++)
		if (v != POSTFIX_VAR_PARAM && same(var_names[v], text, length)) {
			*word = (PostfixWord){ .op = POSTFIX_VAR, .index = v };
			return true;
		}
	*word = (PostfixWord){ .op = POSTFIX_CONST };
	return number_parse(text, length, &word->value);
}

Postfix *postfix_parse(const char *text, size_t length, const char *const *param_names, int param_count,
                       uint32_t allowed)
{
	const char *end = text + length;
	size_t words = 1;
	int height = 0;
	Postfix *postfix;

	for (size_t c = 0; c < length; c++)
		words += text[c] == ' ';
	if (words > MAX_WORDS) {
		tda_fail(TDA_BAD_FILE, "an expression has more than %d words", MAX_WORDS);
		return NULL;
	}
	postfix = calloc(1, sizeof(*postfix) + sizeof(PostfixWord) * words);
	if (!postfix) {
		tda_fail_memory();
		return NULL;
	}
	while (text <= end) {
		const char *space = memchr(text, ' ', (size_t)(end - text));
		size_t size = (size_t)((space ? space : end) - text);
		PostfixWord *word = &postfix->words[postfix->count];

		if (!size || !parse_word(text, size, param_names, param_count, word) ||
		    (word->op == POSTFIX_VAR && !(allowed >> word->index & 1))) {
			tda_fail(TDA_BAD_FILE, "the word '%.*s' of an expression is unknown or not allowed there",
			         (int)(size > 40 ? 40 : size), text);
			goto fail;
		}
		if (word->op == POSTFIX_VAR) {
			postfix->vars |= 1u << word->index;
			if (word->index == POSTFIX_VAR_PARAM)
				postfix->params |= 1u << word->param;
		}
		height -= op_facts[word->op].arity;
		if (height < 0 || height >= MAX_DEPTH)
			goto unbalanced;
		height++;
		if (height > postfix->depth)
			postfix->depth = height;
		postfix->count++;
		text += size + 1;
	}
	if (height == 1)
		return postfix;
unbalanced:
	tda_fail(TDA_BAD_FILE, "an expression is not balanced, or needs more than %d values at a time", MAX_DEPTH);
fail:
	free(postfix);
	return NULL;
}

uint32_t postfix_vars(const Postfix *postfix)
{
	return postfix->vars;
}

uint32_t postfix_params(const Postfix *postfix)
{
	return postfix->params;
}

int postfix_depth(const Postfix *postfix)
{
	return postfix->depth;
}

bool postfix_is_var(const Postfix *postfix, PostfixVar var)
{
	return postfix->count == 1 && postfix->words[0].op == POSTFIX_VAR && postfix->words[0].index == (int)var;
}

/* ---- evaluation ---- */

static void push(const PostfixWord *word, const PostfixInput *input, uint32_t wrt, PostfixSlot *slot)
{
	double uniform = word->value;
	uint32_t self = 0;

	if (word->op == POSTFIX_VAR) {
		uniform = word->index == POSTFIX_VAR_PARAM ? input->params[word->param] : input->var[word->index];
		if (word->index == POSTFIX_VAR_S)
			self = 1u << DUAL_S;
		else if (word->index == POSTFIX_VAR_TAU)
			self = 1u << DUAL_TAU;
		else if (word->index == POSTFIX_VAR_PARAM)
			self = 1u << (DUAL_PARAM + word->param);
	}
	if (word->op == POSTFIX_VAR && input->row[word->index])
		memcpy(slot->value, input->row[word->index], sizeof(double) * (size_t)input->count);
	else
		for (int k = 0; k < input->count; k++)
			slot->value[k] = uniform;
	slot->live = self & wrt;
	for (int d = 0; slot->live >> d; d++)
		for (int k = 0; slot->live >> d & 1 && k < input->count; k++)
			slot->partial[d][k] = 1;
}

/* The values of one operation: the table's C expression over a, b and c. */
static void values(PostfixOp op, const double *va, const double *vb, const double *vc, int count,
                   double *restrict result)
{
	switch (op) {
#define EXPR_OP(id, name, arity, is_bool, formula)                              \
	case POSTFIX_##id:                                                      \
		for (int k = 0; k < count; k++) {                               \
			const double a = va[k], b = vb[k], c = vc[k];           \
			(void)a, (void)b, (void)c;                              \
			result[k] = formula;                                    \
		}                                                               \
		break;
#include "../compiler/expr_ops.def"
#undef EXPR_OP
	default:
		break;
	}
}

/* The slopes of one operation by its arguments, at arguments a, b, c with value r. */
static void slopes(PostfixOp op, const double *va, const double *vb, const double *vc, const double *vr, int count,
                   double slope[MAX_ARITY][POSTFIX_CHUNK])
{
#define SLOPES(id, by_a, by_b, by_c)                                            \
	case POSTFIX_##id:                                                      \
		for (int k = 0; k < count; k++) {                               \
			const double a = va[k], b = vb[k], c = vc[k], r = vr[k]; \
			(void)a, (void)b, (void)c, (void)r;                     \
			slope[0][k] = by_a;                                     \
			slope[1][k] = by_b;                                     \
			slope[2][k] = by_c;                                     \
		}                                                               \
		break;
	switch (op) {
	SLOPES(ADD, 1, 1, 0)
	SLOPES(SUB, 1, -1, 0)
	SLOPES(MUL, b, a, 0)
	SLOPES(DIV, 1 / b, -r / b, 0)
	SLOPES(NEG, -1, 0, 0)
	SLOPES(POW, b == 0 ? 0 : b == 2 ? 2 * a : b * pow(a, b - 1), a == 0 ? 0 : r * log(a), 0)
	SLOPES(SQRT, a == 0 ? 0 : 0.5 / r, 0, 0)
	SLOPES(LOG, 1 / a, 0, 0)
	SLOPES(EXP, r, 0, 0)
	SLOPES(EXP2, r * M_LN2, 0, 0)
	SLOPES(TANH, 1 - r * r, 0, 0)
	SLOPES(SIGMOID, r * (1 - r), 0, 0)
	SLOPES(ABS, a > 0 ? 1 : a < 0 ? -1 : a, 0, 0)
	SLOPES(RELU, a > 0 ? 1 : a <= 0 ? 0 : a, 0, 0)
	SLOPES(MIN, isnan(r) ? r : b < a ? 0 : 1, isnan(r) ? r : b < a ? 1 : 0, 0)
	SLOPES(MAX, isnan(r) ? r : b > a ? 0 : 1, isnan(r) ? r : b > a ? 1 : 0, 0)
	SLOPES(CLAMP, isnan(r) ? r : a < b || a > c ? 0 : 1, isnan(r) ? r : a < b ? 1 : 0,
	       isnan(r) ? r : !(a < b) && a > c ? 1 : 0)
	SLOPES(WHERE, 0, a != 0 ? 1 : 0, a != 0 ? 0 : 1)
	SLOPES(FLOOR, 0, 0, 0)
	SLOPES(LT, 0, 0, 0)
	SLOPES(LE, 0, 0, 0)
	SLOPES(GT, 0, 0, 0)
	SLOPES(GE, 0, 0, 0)
	SLOPES(EQ, 0, 0, 0)
	SLOPES(NE, 0, 0, 0)
	case POSTFIX_CONST:
	case POSTFIX_VAR:
	case POSTFIX_OP_COUNT:
		break;
	}
#undef SLOPES
}

/* One term of the chain rule. A zero on either side is a path that the result does not depend on. */
static inline double term(double partial, double slope)
{
	return partial == 0 || slope == 0 ? 0 : partial * slope;
}

static bool is_all(const double *values, double value, int count)
{
	for (int k = 0; k < count; k++)
		if (values[k] != value)
			return false;
	return true;
}

/* first[0] becomes op(first[0], first[1], ...). */
static void apply(PostfixOp op, int count, PostfixSlot *first)
{
	int arity = op_facts[op].arity;
	const double *a = first[0].value;
	const double *b = arity > 1 ? first[1].value : a;
	const double *c = arity > 2 ? first[2].value : a;
	double result[POSTFIX_CHUNK], slope[MAX_ARITY][POSTFIX_CHUNK];
	uint32_t live = 0;

	if (op == POSTFIX_POW && is_all(b, 2, count))
		values(POSTFIX_MUL, a, a, a, count, result);   /* the same value, and by far the most common power */
	else
		values(op, a, b, c, count, result);
	for (int n = 0; n < arity; n++)
		live |= first[n].live;
	if (live)
		slopes(op, a, b, c, result, count, slope);
	for (int d = 0; live >> d; d++) {
		double *sum = first[0].partial[d];
		bool has_sum = false;

		for (int n = 0; n < arity; n++) {
			const double *partial = first[n].partial[d];
			if (!(first[n].live >> d & 1))
				continue;
			if (has_sum)
				for (int k = 0; k < count; k++)
					sum[k] += term(partial[k], slope[n][k]);
			else
				for (int k = 0; k < count; k++)
					sum[k] = term(partial[k], slope[n][k]);
			has_sum = true;
		}
	}
	first[0].live = live;
	memcpy(first[0].value, result, sizeof(double) * (size_t)count);
}

void postfix_eval(const Postfix *postfix, const PostfixInput *input, uint32_t wrt, PostfixSlot *stack)
{
	int top = 0;

	for (int w = 0; w < postfix->count; w++) {
		const PostfixWord *word = &postfix->words[w];

		if (word->op <= POSTFIX_VAR) {
			push(word, input, wrt, &stack[top++]);
			continue;
		}
		top -= op_facts[word->op].arity;
		apply(word->op, input->count, &stack[top]);
		top++;
	}
}
