/* Expressions as text: infix for people, postfix for the manifest. */
#include "expr_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Text {
	Arena *arena;
	char *data;
	size_t length, capacity;
	const char *const *params;
} Text;

static void put(Text *text, const char *word)
{
	size_t size = strlen(word);
	if (text->length + size + 1 > text->capacity) {
		size_t capacity = (text->length + size + 1) * 2;
		char *data = arena_alloc(text->arena, capacity);
		if (text->length)
			memcpy(data, text->data, text->length);
		text->data = data;
		text->capacity = capacity;
	}
	memcpy(text->data + text->length, word, size + 1);
	text->length += size;
}

char *expr_number_text(double value, char text[EXPR_NUMBER_SIZE])
{
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(text, EXPR_NUMBER_SIZE, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	return isnan(value) ? strcpy(text, "nan") : text;
}

/* As in Lua: ^ binds tightest and to the right, then unary minus, then * and /, then + and -. */
enum { LEVEL_SUM = 1, LEVEL_PRODUCT, LEVEL_NEG, LEVEL_POWER, LEVEL_ATOM };

static int level_of(const Expr *e)
{
	switch (e->op) {
	case EXPR_ADD: case EXPR_SUB: return LEVEL_SUM;
	case EXPR_MUL: case EXPR_DIV: return LEVEL_PRODUCT;
	case EXPR_NEG: return LEVEL_NEG;
	case EXPR_POW: return LEVEL_POWER;
	case EXPR_CONST: return signbit(e->value) ? LEVEL_NEG : LEVEL_ATOM;
	default: return LEVEL_ATOM;
	}
}

static void put_infix(Text *text, const Expr *e, int least_level);

static void put_call(Text *text, const Expr *e)
{
	put(text, expr_op_name(e->op));
	put(text, "(");
	for (int k = 0; k < e->arity; k++) {
		if (k > 0)
			put(text, ", ");
		put_infix(text, e->arg[k], LEVEL_SUM);
	}
	put(text, ")");
}

static void put_operator(Text *text, const Expr *e, int level)
{
	if (level == LEVEL_NEG) {
		put(text, "-");
		put_infix(text, e->arg[0], LEVEL_POWER);
		return;
	}
	bool power = level == LEVEL_POWER;
	put_infix(text, e->arg[0], power ? LEVEL_ATOM : level);
	put(text, power ? "^" : " ");
	if (!power) {
		put(text, expr_op_name(e->op));
		put(text, " ");
	}
	put_infix(text, e->arg[1], power ? LEVEL_NEG : level + 1);
}

/* In parentheses if e binds less tightly than least_level. */
static void put_infix(Text *text, const Expr *e, int least_level)
{
	int level = level_of(e);
	if (level < least_level)
		put(text, "(");
	char number[EXPR_NUMBER_SIZE];
	if (e->op == EXPR_CONST)
		put(text, expr_number_text(e->value, number));
	else if (e->op == EXPR_VAR)
		put(text, e->var == VAR_PARAM ? text->params[e->param] : expr_var_name(e->var));
	else if (level == LEVEL_ATOM)
		put_call(text, e);
	else
		put_operator(text, e, level);
	if (level < least_level)
		put(text, ")");
}

char *expr_print(Arena *arena, const Expr *e, const char *const *param_names)
{
	Text text = { .arena = arena, .params = param_names };
	put_infix(&text, e, LEVEL_SUM);
	return text.data;
}

static void put_postfix(Text *text, const Expr *e)
{
	for (int k = 0; k < e->arity; k++)
		put_postfix(text, e->arg[k]);
	if (text->length > 0)
		put(text, " ");
	if (e->op == EXPR_CONST) {
		char word[EXPR_NUMBER_SIZE];
		snprintf(word, sizeof word, "%.17g", e->value);
		put(text, word);
	} else if (e->op != EXPR_VAR) {
		put(text, expr_op_name(e->op));
	} else if (e->var == VAR_PARAM) {
		put(text, "$");
		put(text, text->params[e->param]);
	} else {
		put(text, expr_var_name(e->var));
	}
}

char *expr_postfix(Arena *arena, const Expr *e, const char *const *param_names)
{
	Text text = { .arena = arena, .params = param_names };
	put_postfix(&text, e);
	return text.data;
}
