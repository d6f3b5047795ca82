#include "parse_expr.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "random_expr.h"

bool expr_leaf_from_name(ExprPool *pool, const char *name, const Expr **e)
{
	Loc loc = { 0 };
	for (ExprVar var = VAR_S; var < VAR_PARAM; var++)
		if (strcmp(name, expr_var_name(var)) == 0) {
			*e = expr_var(pool, var, loc);
			return true;
		}
	for (int k = 0; k < TREE_PARAMS; k++)
		if (strcmp(name, tree_param_names[k]) == 0) {
			*e = expr_param(pool, k, loc);
			return true;
		}
	return false;
}

static int arity_of(ExprOp op)
{
	return tree_arity(&(Tree){ .op = op });
}

ExprOp expr_op_from_name(const char *name)
{
	for (ExprOp op = EXPR_ADD; op < EXPR_OP_COUNT; op++)
		if (strcmp(name, expr_op_name(op)) == 0)
			return op;
	return EXPR_OP_COUNT;
}

typedef struct Parser {
	ExprPool *pool;
	const char *at;
	bool failed;
} Parser;

static const Expr *parse(Parser *p, int least);

static bool accept(Parser *p, char c)
{
	p->at += strspn(p->at, " ");
	if (*p->at != c)
		return false;
	p->at++;
	return true;
}

static const Expr *parse_call(Parser *p, ExprOp op)
{
	const Expr *args[EXPR_MAX_ARITY];
	for (int k = 0; k < arity_of(op); k++) {
		args[k] = parse(p, 0);
		p->failed = p->failed || !accept(p, k + 1 < arity_of(op) ? ',' : ')');
	}
	return expr_make(p->pool, op, args, (Loc){ 0 });
}

static const Expr *parse_atom(Parser *p)
{
	const Expr *e = expr_const(p->pool, 0, (Loc){ 0 });
	if (accept(p, '(')) {
		e = parse(p, 0);
		p->failed = p->failed || !accept(p, ')');
		return e;
	}
	if (isdigit((unsigned char)*p->at)) {
		char *end;
		e = expr_const(p->pool, strtod(p->at, &end), (Loc){ 0 });
		p->at = end;
		return e;
	}
	char name[32] = "";
	size_t length = 0;
	while ((isalnum((unsigned char)*p->at) || *p->at == '_') && length < sizeof name - 1)
		name[length++] = *p->at++;
	if (expr_leaf_from_name(p->pool, name, &e))
		return e;
	ExprOp op = expr_op_from_name(name);
	if (op != EXPR_OP_COUNT && accept(p, '('))
		return parse_call(p, op);
	p->failed = true;
	return e;
}

static const struct {
	char sign;
	int left, right;                   /* as in Lua: ^ is right associative and above unary minus (12) */
	ExprOp op;
} operators[] = {
	{ '+', 10, 10, EXPR_ADD }, { '-', 10, 10, EXPR_SUB }, { '*', 11, 11, EXPR_MUL }, { '/', 11, 11, EXPR_DIV },
	{ '^', 14, 13, EXPR_POW },
};

static const Expr *parse(Parser *p, int least)
{
	const Expr *e = accept(p, '-') ? expr_unary(p->pool, EXPR_NEG, parse(p, 12)) : parse_atom(p);
	for (size_t k = 0; k < 5 && !p->failed; k++) {
		if (operators[k].left > least && accept(p, operators[k].sign)) {
			e = expr_binary(p->pool, operators[k].op, e, parse(p, operators[k].right));
			k = (size_t)-1;                        /* look for another operator from the start */
		}
	}
	return e;
}

const Expr *expr_parse(ExprPool *pool, const char *text)
{
	Parser parser = { pool, text, false };
	const Expr *e = parse(&parser, 0);
	return parser.failed || *parser.at ? NULL : e;
}
