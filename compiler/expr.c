/* The pool of expressions: interning, constructors, substitution, evaluation. */
#include "expr_internal.h"

#include <math.h>
#include <string.h>

static const struct {
	const char *name;
	int arity;
	bool is_bool;
} ops[EXPR_OP_COUNT] = {
	[EXPR_CONST] = { "const", 0, false },
	[EXPR_VAR] = { "var", 0, false },
#define EXPR_OP(id, name, arity, is_bool, value) [EXPR_##id] = { name, arity, is_bool },
#include "expr_ops.def"
#undef EXPR_OP
};

static const char *const var_names[VAR_COUNT] = {
#define EXPR_VAR_ENTRY(id, name, is_integer) [VAR_##id] = name,
#include "expr_vars.def"
#undef EXPR_VAR_ENTRY
};

const char *expr_op_name(ExprOp op)
{
	return ops[op].name;
}

const char *expr_var_name(ExprVar var)
{
	return var_names[var];
}

int expr_arity(ExprOp op)
{
	return ops[op].arity;
}

bool expr_yields_bool(ExprOp op)
{
	return ops[op].is_bool;
}

bool expr_is_const(const Expr *e, double value)
{
	return e->op == EXPR_CONST && e->value == value;
}

double expr_apply(ExprOp op, double a, double b, double c)
{
	switch (op) {
#define EXPR_OP(id, name, arity, is_bool, value) case EXPR_##id: return value;
#include "expr_ops.def"
#undef EXPR_OP
	default: return NAN;
	}
}

ExprPool *expr_pool_new(Arena *arena)
{
	ExprPool *pool = ARENA_NEW(arena, ExprPool);
	pool->arena = arena;
	pool->capacity = 256;
	pool->table = ARENA_ARRAY(arena, const Expr *, pool->capacity);
	return pool;
}

static uint32_t mix(uint32_t hash, uint64_t word)
{
	for (int k = 0; k < 2; k++, word >>= 32)
		hash = (hash ^ (uint32_t)word) * 0x9E3779B1u, hash ^= hash >> 15;
	return hash;
}

static uint64_t value_bits(double value)
{
	uint64_t bits;
	memcpy(&bits, &value, sizeof bits);
	return bits;
}

static uint32_t hash_of(const Expr *e)
{
	uint32_t hash = mix(0, (uint64_t)e->op << 32 | (uint64_t)e->is_bool);
	if (e->op == EXPR_CONST)
		return mix(hash, value_bits(e->value));
	if (e->op == EXPR_VAR)
		return mix(hash, (uint64_t)e->var << 32 | (uint32_t)e->param);
	for (int k = 0; k < e->arity; k++)
		hash = mix(hash, (uint64_t)e->arg[k]->id);
	return hash;
}

static bool same(const Expr *a, const Expr *b)
{
	return a->op == b->op && a->is_bool == b->is_bool && a->var == b->var && a->param == b->param &&
	       a->arg[0] == b->arg[0] && a->arg[1] == b->arg[1] && a->arg[2] == b->arg[2] &&
	       value_bits(a->value) == value_bits(b->value);
}

/* Where e is, or where it belongs. */
static const Expr **slot_of(const Expr **table, int capacity, const Expr *e)
{
	uint32_t at = hash_of(e) & (uint32_t)(capacity - 1);
	while (table[at] && !same(table[at], e))
		at = (at + 1) & (uint32_t)(capacity - 1);
	return &table[at];
}

static void grow(ExprPool *pool)
{
	int capacity = pool->capacity * 2;
	const Expr **table = ARENA_ARRAY(pool->arena, const Expr *, capacity);
	for (int k = 0; k < pool->capacity; k++)
		if (pool->table[k])
			*slot_of(table, capacity, pool->table[k]) = pool->table[k];
	pool->table = table;
	pool->capacity = capacity;
}

static const Expr *intern(ExprPool *pool, const Expr *wanted)
{
	if (pool->count * 2 >= pool->capacity)
		grow(pool);
	const Expr **slot = slot_of(pool->table, pool->capacity, wanted);
	if (*slot)
		return *slot;
	Expr *e = ARENA_NEW(pool->arena, Expr);
	*e = *wanted;
	e->id = pool->count++;
	return *slot = e;
}

const Expr *expr_const(ExprPool *pool, double value, Loc loc)
{
	return intern(pool, &(Expr){ .op = EXPR_CONST, .value = isnan(value) ? NAN : value, .loc = loc });
}

const Expr *expr_const_bool(ExprPool *pool, bool value, Loc loc)
{
	return intern(pool, &(Expr){ .op = EXPR_CONST, .value = value, .is_bool = true, .loc = loc });
}

const Expr *expr_var(ExprPool *pool, ExprVar var, Loc loc)
{
	return intern(pool, &(Expr){ .op = EXPR_VAR, .var = var, .vars = 1u << var, .loc = loc });
}

const Expr *expr_param(ExprPool *pool, int param, Loc loc)
{
	return intern(pool, &(Expr){ .op = EXPR_VAR, .var = VAR_PARAM, .param = param, .vars = 1u << VAR_PARAM,
	                             .params = 1u << param, .loc = loc });
}

const Expr *expr_intern(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc)
{
	Expr e = { .op = op, .arity = ops[op].arity, .is_bool = ops[op].is_bool, .loc = loc };
	for (int k = 0; k < e.arity; k++) {
		e.arg[k] = args[k];
		e.vars |= args[k]->vars;
		e.params |= args[k]->params;
	}
	/* a + b and b + a are one value, so that whichever was written first serves both; its order is kept. */
	if (op == EXPR_ADD || op == EXPR_MUL) {
		Expr swapped = e;
		swapped.arg[0] = args[1];
		swapped.arg[1] = args[0];
		const Expr *found = *slot_of(pool->table, pool->capacity, &swapped);
		if (found)
			return found;
	}
	return intern(pool, &e);
}

const Expr *expr_make(ExprPool *pool, ExprOp op, const Expr *const *args, Loc loc)
{
	const Expr *folded = expr_fold(pool, op, args, loc);
	return folded ? folded : expr_intern(pool, op, args, loc);
}

const Expr *expr_unary(ExprPool *pool, ExprOp op, const Expr *a)
{
	return expr_make(pool, op, (const Expr *[]){ a }, a->loc);
}

const Expr *expr_binary(ExprPool *pool, ExprOp op, const Expr *a, const Expr *b)
{
	return expr_make(pool, op, (const Expr *[]){ a, b }, a->loc);
}

const Expr *expr_where(ExprPool *pool, const Expr *condition, const Expr *a, const Expr *b)
{
	return expr_make(pool, EXPR_WHERE, (const Expr *[]){ condition, a, b }, condition->loc);
}

typedef struct Substitution {
	ExprPool *pool;
	ExprVar var;
	int param;
	const Expr *with;
	const Expr **done;                 /* by id, so that a shared part is rebuilt once */
} Substitution;

static const Expr *substitute(const Substitution *s, const Expr *e)
{
	if (!(e->vars & 1u << s->var))
		return e;
	if (e->op == EXPR_VAR)
		return s->var != VAR_PARAM || e->param == s->param ? s->with : e;
	if (s->done[e->id])
		return s->done[e->id];
	const Expr *args[EXPR_MAX_ARITY];
	for (int k = 0; k < e->arity; k++)
		args[k] = substitute(s, e->arg[k]);
	return s->done[e->id] = expr_make(s->pool, e->op, args, e->loc);
}

const Expr *expr_substitute(ExprPool *pool, const Expr *e, ExprVar var, int param, const Expr *with)
{
	Substitution s = { pool, var, param, with, ARENA_ARRAY(pool->arena, const Expr *, pool->count) };
	return substitute(&s, e);
}

double expr_eval(const Expr *e, const ExprEnv *env)
{
	if (e->op == EXPR_CONST)
		return e->value;
	if (e->op == EXPR_VAR)
		return e->var == VAR_PARAM ? env->params[e->param] : env->var[e->var];
	double v[EXPR_MAX_ARITY] = { 0 };
	for (int k = 0; k < e->arity; k++)
		v[k] = expr_eval(e->arg[k], env);
	return expr_apply(e->op, v[0], v[1], v[2]);
}
