/* Reads what expr_print writes, with Lua's precedences. */
#ifndef TDAGEN_TESTS_PARSE_EXPR_H
#define TDAGEN_TESTS_PARSE_EXPR_H

#include "expr.h"

const Expr *expr_parse(ExprPool *pool, const char *text);      /* NULL when it can't be read */
/* A variable, or a parameter of tree_param_names; false when there is none of that name. */
bool expr_leaf_from_name(ExprPool *pool, const char *name, const Expr **e);
ExprOp expr_op_from_name(const char *name);                    /* EXPR_OP_COUNT when there is none */

#endif
