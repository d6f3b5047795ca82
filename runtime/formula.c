#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "formula.h"

enum { MAX_WORDS = 256, MAX_DEPTH = 32 };

typedef enum FormulaOp {
	OP_CONST, OP_VAR, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD, OP_MIN, OP_MAX, OP_CEIL_DIV, OP_ROUND_UP
} FormulaOp;

typedef struct FormulaWord {
	FormulaOp op;
	int64_t value;                 /* OP_CONST: the constant; OP_VAR: the variable */
} FormulaWord;

struct Formula {
	int count;
	FormulaWord words[];
};

static const char *const shape_names[SHAPE_COUNT] = {
	"batch", "heads", "kv_heads", "q_len", "k_len", "layer", "layers", "multiprocessors",
};
static const char *const stride_names[STRIDE_COUNT] = { "batch_stride", "head_stride", "row_stride" };
static const char *const tensor_names[TENSOR_COUNT] = {
	"q1", "q2", "q3", "q4", "k1", "k2", "k3", "k4", "v", "o", "do",
	"dq1", "dq2", "dq3", "dq4", "dk1", "dk2", "dk3", "dk4", "dv",
};
static const struct { const char *name; FormulaOp op; } calls[] = {
	{ "min", OP_MIN }, { "max", OP_MAX }, { "ceil_div", OP_CEIL_DIV }, { "round_up", OP_ROUND_UP },
};

static bool same(const char *name, const char *text, size_t length)
{
	return strlen(name) == length && memcmp(name, text, length) == 0;
}

const char *tensor_name(int tensor)
{
	return tensor_names[tensor];
}

int tensor_find(const char *name, size_t length)
{
	for (int t = 0; t < TENSOR_COUNT; t++)
		if (same(tensor_names[t], name, length))
			return t;
	return -1;
}

const char *formula_var_name(int var)
{
	static _Thread_local char name[32];

	if (var < SHAPE_COUNT)
		return shape_names[var];
	snprintf(name, sizeof(name), "%s.%s", tensor_names[(var - SHAPE_COUNT) / STRIDE_COUNT],
	         stride_names[(var - SHAPE_COUNT) % STRIDE_COUNT]);
	return name;
}

/* A recursive descent: sum := product (+|- product)*, product := factor (*|/|% factor)*, factor := number | name |
 * name(sum,sum) | (sum). `nesting` bounds the recursion, `height` the run-time stack. */
typedef struct Parser {
	const char *at, *end;
	int nesting, height, count;
	bool failed;
	FormulaWord words[MAX_WORDS];
} Parser;

static void parse_sum(Parser *p);

static void parse_error(Parser *p, const char *what)
{
	if (!p->failed)
		tda_fail(TDA_BAD_FILE, "a formula %s at '%.*s'", what, (int)(p->end - p->at > 40 ? 40 : p->end - p->at), p->at);
	p->failed = true;
}

static bool accept(Parser *p, char c)
{
	if (p->failed || p->at == p->end || *p->at != c)
		return false;
	p->at++;
	return true;
}

static void emit(Parser *p, FormulaOp op, int64_t value)
{
	if (p->failed)
		return;
	p->height += op <= OP_VAR ? 1 : -1;
	if (p->count == MAX_WORDS || p->height > MAX_DEPTH) {
		parse_error(p, "is too long");
		return;
	}
	p->words[p->count++] = (FormulaWord){ op, value };
}

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

static void parse_number(Parser *p)
{
	int64_t value = 0;

	for (; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *p->at - '0', &value)) {
			parse_error(p, "has a number over 64 bits");
			return;
		}
	emit(p, OP_CONST, value);
}

static void parse_variable(Parser *p, const char *name, size_t length)
{
	const char *dot = memchr(name, '.', length);
	int tensor;

	for (int v = 0; v < SHAPE_COUNT && !dot; v++)
		if (same(shape_names[v], name, length)) {
			emit(p, OP_VAR, v);
			return;
		}
	tensor = dot ? tensor_find(name, (size_t)(dot - name)) : -1;
	for (int s = 0; s < STRIDE_COUNT && tensor >= 0; s++)
		if (same(stride_names[s], dot + 1, (size_t)(name + length - dot - 1))) {
			emit(p, OP_VAR, formula_stride_var(tensor, s));
			return;
		}
	p->at = name;
	parse_error(p, "has an unknown variable");
}

static void parse_name(Parser *p)
{
	const char *name = p->at;
	size_t length;

	while (p->at < p->end && is_name_char(*p->at))
		p->at++;
	length = (size_t)(p->at - name);
	if (!accept(p, '(')) {
		parse_variable(p, name, length);
		return;
	}
	for (size_t c = 0; c < sizeof(calls) / sizeof(calls[0]); c++) {
		if (!same(calls[c].name, name, length))
			continue;
		parse_sum(p);
		if (!accept(p, ','))
			parse_error(p, "lacks a ','");
		parse_sum(p);
		if (!accept(p, ')'))
			parse_error(p, "lacks a ')'");
		emit(p, calls[c].op, 0);
		return;
	}
	p->at = name;
	parse_error(p, "has an unknown function");
}

static void parse_factor(Parser *p)
{
	if (p->failed)
		return;
	if (++p->nesting > MAX_DEPTH) {
		parse_error(p, "is nested too deeply");
	} else if (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
		parse_number(p);
	} else if (p->at < p->end && *p->at >= 'a' && *p->at <= 'z') {
		parse_name(p);
	} else if (accept(p, '(')) {
		parse_sum(p);
		if (!accept(p, ')'))
			parse_error(p, "lacks a ')'");
	} else {
		parse_error(p, "lacks a number, a variable or a '('");
	}
	p->nesting--;
}

static void parse_product(Parser *p)
{
	parse_factor(p);
	while (!p->failed) {
		FormulaOp op = accept(p, '*') ? OP_MUL : accept(p, '/') ? OP_DIV : accept(p, '%') ? OP_MOD : OP_CONST;
		if (op == OP_CONST)
			return;
		parse_factor(p);
		emit(p, op, 0);
	}
}

static void parse_sum(Parser *p)
{
	parse_product(p);
	while (!p->failed) {
		FormulaOp op = accept(p, '+') ? OP_ADD : accept(p, '-') ? OP_SUB : OP_CONST;
		if (op == OP_CONST)
			return;
		parse_product(p);
		emit(p, op, 0);
	}
}

Formula *formula_parse(const char *text, size_t length)
{
	Parser p = { .at = text, .end = text + length };
	Formula *formula;

	parse_sum(&p);
	if (!p.failed && p.at != p.end)
		parse_error(&p, "has something left over");
	if (p.failed)
		return NULL;
	formula = malloc(sizeof(*formula) + sizeof(FormulaWord) * (size_t)p.count);
	if (!formula) {
		tda_fail_memory();
		return NULL;
	}
	formula->count = p.count;
	memcpy(formula->words, p.words, sizeof(FormulaWord) * (size_t)p.count);
	return formula;
}

int formula_first_not_allowed(const Formula *formula, const bool *allowed)
{
	for (int w = 0; w < formula->count; w++)
		if (formula->words[w].op == OP_VAR && !allowed[formula->words[w].value])
			return (int)formula->words[w].value;
	return -1;
}

/* Rounds towards -infinity. False on overflow; b is not 0. */
static bool floor_div(int64_t a, int64_t b, int64_t *quotient)
{
	if (a == INT64_MIN && b == -1)
		return false;
	*quotient = a / b - (a % b != 0 && (a < 0) != (b < 0));
	return true;
}

static bool apply(FormulaOp op, int64_t a, int64_t b, int64_t *result)
{
	int64_t quotient;

	switch (op) {
	case OP_ADD: return !__builtin_add_overflow(a, b, result);
	case OP_SUB: return !__builtin_sub_overflow(a, b, result);
	case OP_MUL: return !__builtin_mul_overflow(a, b, result);
	case OP_MIN: *result = a < b ? a : b; return true;
	case OP_MAX: *result = a > b ? a : b; return true;
	case OP_DIV: return floor_div(a, b, result);
	case OP_MOD:
		if (b == -1)
			return *result = 0, true;
		*result = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
		return true;
	case OP_CEIL_DIV:
	case OP_ROUND_UP:
		if (!floor_div(a, b, &quotient))
			return false;
		quotient += a % b != 0;
		if (op == OP_CEIL_DIV)
			return *result = quotient, true;
		return !__builtin_mul_overflow(quotient, b, result);
	case OP_CONST:
	case OP_VAR:
		break;
	}
	return false;
}

tda_status formula_eval(const Formula *formula, const int64_t *vars, int64_t *result)
{
	int64_t stack[MAX_DEPTH + 1];
	int top = 0;

	for (int w = 0; w < formula->count; w++) {
		const FormulaWord *word = &formula->words[w];
		if (word->op <= OP_VAR) {
			stack[top++] = word->op == OP_VAR ? vars[word->value] : word->value;
			continue;
		}
		top--;
		if (word->op >= OP_DIV && word->op != OP_MIN && word->op != OP_MAX && stack[top] == 0)
			return tda_fail(TDA_BAD_FILE, "a formula of the manifest divides by zero");
		if (!apply(word->op, stack[top - 1], stack[top], &stack[top - 1]))
			return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: a size overflows 64 bits");
	}
	*result = stack[0];
	return TDA_OK;
}
