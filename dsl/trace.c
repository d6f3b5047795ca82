/*
 * Tracing: a function of a spec is called once, with symbolic values, and what it does to them is recorded as an Expr.
 *
 * A symbolic value is a userdata around an Expr; operators and functions take symbolic values and plain numbers, and
 * of plain numbers alone they make plain numbers. Lua gives comparison operators and `if` no way to be recorded: where
 * Lua lets us notice (< <= > >=, and == of two symbolic values) they are errors; `if s then` and s == 1 can't be
 * noticed.
 */
#include "dsl.h"

#include <math.h>
#include <string.h>

static const char symbol_type[] = "symbolic", context_type[] = "context";

/* More expressions than any formula needs; stops loops that build without end. */
enum { MAX_EXPRESSIONS = 20000 };
/* Operations in one function when it is written out: derivatives may have the square of it. */
enum { MAX_OPERATIONS = 1000 };

static ExprPool *pool_of(lua_State *L)
{
	return loader_of(L)->spec->pool;
}

static void push_symbol(lua_State *L, const Expr *e)
{
	if (e->id > MAX_EXPRESSIONS) {
		loader_of(L)->exhausted = true;
		dsl_fail(L, dsl_here(L, NULL), "a function of a spec is a formula of a score; look for a loop in it",
		         "the spec's functions have more than %d operations", MAX_EXPRESSIONS);
	}
	const Expr **box = lua_newuserdatauv(L, sizeof *box, 0);
	*box = e;
	luaL_setmetatable(L, symbol_type);
}

static const Expr *symbol_at(lua_State *L, int index)
{
	const Expr **box = luaL_testudata(L, index, symbol_type);
	return box ? *box : NULL;
}

const char *dsl_symbol_kind(lua_State *L, int index)
{
	const Expr *e = symbol_at(L, index);
	if (!e)
		return NULL;
	return e->is_bool ? "a comparison" : "a symbolic value";
}

/* The operand at index as an expression; `word` is how the operation is written. */
static const Expr *operand(lua_State *L, int index, const char *word, Loc loc)
{
	const Expr *e = symbol_at(L, index);
	if (e && e->is_bool)
		dsl_fail(L, loc, "write where(gt(a, b), x, y) to choose between x and y",
		         "'%s' can't take a comparison: only the first argument of where can be one", word);
	if (e)
		return e;
	if (lua_type(L, index) != LUA_TNUMBER)
		dsl_fail(L, loc, NULL, "'%s' takes numbers and symbolic values, not %s", word, dsl_shown(L, index));
	double value = lua_tonumber(L, index);
	if (!dsl_is_finite(value))
		dsl_fail(L, loc, "a plain number in a formula must be finite in float32; look for a division by 0 or log(0)",
		         "'%s' gets the number %g", word, value);
	return expr_const(pool_of(L), value, loc);
}

/* An operation on the arguments from index 1; upvalue 1 is its ExprOp. */
static int apply(lua_State *L)
{
	ExprOp op = (ExprOp)lua_tointeger(L, lua_upvalueindex(1));
	int arity = (int)lua_tointeger(L, lua_upvalueindex(2));
	const char *name = expr_op_name(op), *word = strcmp(name, "neg") == 0 ? "-" : name;
	Loc loc = dsl_here(L, word);
	const Expr *args[EXPR_MAX_ARITY];
	for (int k = 0; k < arity; k++)
		args[k] = operand(L, k + 1, word, loc);
	push_symbol(L, expr_make(pool_of(L), op, args, loc));
	return 1;
}

static bool all_plain(lua_State *L, int count)
{
	for (int k = 1; k <= count; k++)
		if (lua_type(L, k) != LUA_TNUMBER)
			return false;
	return true;
}

/* A function of specs, which takes plain numbers as well; upvalues as in apply, then whether it is a comparison. */
static int call(lua_State *L)
{
	ExprOp op = (ExprOp)lua_tointeger(L, lua_upvalueindex(1));
	int arity = (int)lua_tointeger(L, lua_upvalueindex(2)), given = lua_gettop(L);
	if (given != arity)
		dsl_fail(L, dsl_here(L, expr_op_name(op)), NULL, "%s takes %d argument%s, not %d", expr_op_name(op), arity,
		         arity == 1 ? "" : "s", given);
	if (!all_plain(L, given))
		return apply(L);
	Loc loc = { 0 };
	const Expr *args[EXPR_MAX_ARITY];
	for (int k = 0; k < arity; k++)
		args[k] = expr_const(pool_of(L), lua_tonumber(L, k + 1), loc);
	const Expr *result = expr_make(pool_of(L), op, args, loc);      /* all constant: folded */
	if (result->is_bool)
		lua_pushboolean(L, result->value != 0);
	else
		lua_pushnumber(L, result->value);
	return 1;
}

/* min and max of two or more; upvalue 1 is the ExprOp. */
static int extremum(lua_State *L)
{
	ExprOp op = (ExprOp)lua_tointeger(L, lua_upvalueindex(1));
	int given = lua_gettop(L);
	if (given < 2)
		dsl_fail(L, dsl_here(L, expr_op_name(op)), NULL, "%s takes two or more arguments", expr_op_name(op));
	lua_pushvalue(L, lua_upvalueindex(2));                 /* the function of two */
	int two = lua_gettop(L);
	lua_pushvalue(L, 1);
	for (int k = 2; k <= given; k++) {
		lua_pushvalue(L, two);
		lua_insert(L, -2);
		lua_pushvalue(L, k);
		lua_call(L, 2, 1);
	}
	return 1;
}

/* where(condition, a, b) */
static int where(lua_State *L)
{
	Loc loc = dsl_here(L, "where");
	if (lua_gettop(L) != 3)
		dsl_fail(L, loc, NULL, "where takes 3 arguments: where(condition, a, b)");
	if (lua_isboolean(L, 1)) {
		lua_pushvalue(L, lua_toboolean(L, 1) ? 2 : 3);
		return 1;
	}
	const Expr *condition = symbol_at(L, 1);
	if (!condition || !condition->is_bool)
		dsl_fail(L, loc, "comparisons are lt, le, gt, ge, eq and ne: where(gt(a, b), x, y)",
		         "the first argument of where must be a comparison");
	const Expr *a = operand(L, 2, "where", loc), *b = operand(L, 3, "where", loc);
	push_symbol(L, expr_make(pool_of(L), EXPR_WHERE, (const Expr *[]){ condition, a, b }, loc));
	return 1;
}

/* What Lua can do to a value and a symbolic value can't take; upvalues: the operator ("": the key stands for it), what
 * it does, a note. */
static int refuse(lua_State *L)
{
	const char *word = lua_tostring(L, lua_upvalueindex(1)), *what = lua_tostring(L, lua_upvalueindex(2));
	if (!word[0] && lua_type(L, 2) == LUA_TSTRING)
		word = lua_tostring(L, 2);
	dsl_fail(L, dsl_here(L, word), lua_tostring(L, lua_upvalueindex(3)), "a symbolic value can't be %s", what);
}

static int compare(lua_State *L)
{
	const char *word = lua_tostring(L, lua_upvalueindex(1));
	Loc loc = dsl_here(L, word);
	if (loc.column == 0 && word[0] == '<') {               /* a > b reaches Lua as b < a */
		const char *turned = word[1] ? ">=" : ">";
		Loc other = dsl_here(L, turned);
		if (other.column > 0) {
			loc = other;
			word = turned;
		}
	}
	dsl_fail(L, loc, "the formula is recorded once, for all values: use where(gt(a, b), x, y), with lt, le, gt, ge, eq "
	         "or ne", "a symbolic value can't be compared with %s", word);
}

/* Operations in e when every shared part is written out; stops counting soon after the limit. */
static int count_operations(const Expr *e, int limit)
{
	int count = 1;
	for (int k = 0; k < e->arity && count <= limit; k++)
		count += count_operations(e->arg[k], limit - count);
	return count;
}

/* tostring(symbol) */
static int symbol_text(lua_State *L)
{
	const Loader *loader = loader_of(L);
	const Expr *e = symbol_at(L, 1);
	bool is_long = count_operations(e, MAX_OPERATIONS) > MAX_OPERATIONS;
	lua_pushstring(L, is_long ? "a long formula" : expr_print(loader->arena, e, spec_param_names(loader->spec)));
	return 1;
}

/* Variables of the context by name, and the functions that may read them. */
enum { ANY = 1 << SCOPE_THRESHOLD | 1 << SCOPE_SCORE | 1 << SCOPE_WEIGHT | 1 << SCOPE_COMBINE,
       PER_ELEMENT = 1 << SCOPE_SCORE | 1 << SCOPE_WEIGHT };
static const struct {
	ExprVar var;
	int scopes;
} context_vars[] = {
	{ VAR_I, ANY }, { VAR_J, PER_ELEMENT }, { VAR_VIEW, ANY }, { VAR_HEAD, ANY }, { VAR_LAYER, ANY },
	{ VAR_Q_LEN, ANY }, { VAR_K_LEN, ANY },
};

const char *const dsl_context_names[] = { "i", "j", "view", "head", "layer", "head_dim", "q_len", "k_len" };
const int dsl_context_name_count = sizeof dsl_context_names / sizeof dsl_context_names[0];

static const char *const scope_names[] = {
	[SCOPE_NONE] = "a spec", [SCOPE_THRESHOLD] = "threshold", [SCOPE_SCORE] = "score", [SCOPE_WEIGHT] = "weight",
	[SCOPE_COMBINE] = "combine",
};

static const Expr *param_value(lua_State *L, int index, Loc loc)
{
	ExprPool *pool = pool_of(L);
	const Param *param = &loader_of(L)->spec->params[index];
	const Expr *e = expr_param(pool, index, loc);
	bool low = param->min > -INFINITY, high = param->max < INFINITY;
	if (!low && !high)
		return e;
	const Expr *args[EXPR_MAX_ARITY] = { e };
	args[1] = expr_const(pool, low ? param->min : param->max, loc);
	args[2] = expr_const(pool, param->max, loc);
	/* One bound alone is max or min, whose ties go to the parameter: the same values and derivatives as clamp. */
	return expr_make(pool, low && high ? EXPR_CLAMP : low ? EXPR_MAX : EXPR_MIN, args, loc);
}

/* Pushes c.NAME; false when there is no such thing. */
static bool push_context(lua_State *L, const char *name, Loc loc)
{
	Loader *loader = loader_of(L);
	const Spec *spec = loader->spec;
	for (size_t k = 0; k < sizeof context_vars / sizeof context_vars[0]; k++) {
		ExprVar var = context_vars[k].var;
		if (strcmp(name, expr_var_name(var)) != 0)
			continue;
		if (!(context_vars[k].scopes >> loader->scope & 1))
			dsl_fail(L, loc, "it is computed once a row, before any key is known; j can be read in score and weight",
			         "%s can't read %s", scope_names[loader->scope], name);
		push_symbol(L, expr_var(spec->pool, var, loc));
		return true;
	}
	if (strcmp(name, "head_dim") == 0) {
		lua_pushinteger(L, spec->head_dim);
		return true;
	}
	for (int k = 0; k < loader->constant_count; k++)
		if (strcmp(name, loader->constants[k].name) == 0) {
			lua_pushnumber(L, loader->constants[k].value);
			return true;
		}
	for (int k = 0; k < spec->param_count; k++) {
		if (strcmp(name, spec->params[k].name) != 0)
			continue;
		if (spec->params[k].shape == PARAM_PER_CHANNEL)
			dsl_fail(L, loc, NULL, "the gain of rms_norm can't be read in %s: it has a value for each channel",
			         scope_names[loader->scope]);
		push_symbol(L, param_value(L, k, loc));
		return true;
	}
	return false;
}

static int context_index(lua_State *L)
{
	Loader *loader = loader_of(L);
	const Scope *scope = luaL_testudata(L, 1, context_type);
	const char *name = luaL_tolstring(L, 2, NULL);
	Loc loc = dsl_here(L, name);
	if (!scope || *scope != loader->scope)
		dsl_fail(L, loc, NULL, "the context of one function can't be used in another");
	if (push_context(L, name, loc))
		return 1;
	const char *names[SPEC_MAX_PARAMS + MAX_CONSTANTS + 16];
	int count = 0;
	for (int k = 0; k < dsl_context_name_count; k++)
		names[count++] = dsl_context_names[k];
	for (int k = 0; k < loader->spec->param_count; k++)
		names[count++] = loader->spec->params[k].name;
	for (int k = 0; k < loader->constant_count; k++)
		names[count++] = loader->constants[k].name;
	dsl_fail(L, loc, "the context offers i, j, view, head, layer, head_dim, q_len, k_len and the names in params",
	         "the context has no '%s'%s", name, dsl_did_you_mean(loader, name, names, count));
}

static int context_newindex(lua_State *L)
{
	dsl_fail(L, dsl_here(L, luaL_tolstring(L, 2, NULL)), "use a local variable", "the context can't be changed");
}

static void register_operators(lua_State *L)
{
	static const struct {
		const char *event;
		ExprOp op;
		int arity;
	} operators[] = {
		{ "__add", EXPR_ADD, 2 }, { "__sub", EXPR_SUB, 2 }, { "__mul", EXPR_MUL, 2 }, { "__div", EXPR_DIV, 2 },
		{ "__pow", EXPR_POW, 2 }, { "__unm", EXPR_NEG, 1 },
	};
	for (size_t k = 0; k < sizeof operators / sizeof operators[0]; k++) {
		lua_pushinteger(L, operators[k].op);
		lua_pushinteger(L, operators[k].arity);
		lua_pushcclosure(L, apply, 2);
		lua_setfield(L, -2, operators[k].event);
	}
}

static void register_refusals(lua_State *L)
{
	static const struct {
		const char *event, *word, *what, *note;
	} refusals[] = {
		{ "__mod", "%", "taken modulo with %", "use a - b * floor(a / b)" },
		{ "__idiv", "//", "divided with //", "use floor(a / b)" },
		{ "__concat", "..", "joined with ..", "it is a number that isn't known yet" },
		{ "__len", "#", "measured with #", "it is a number that isn't known yet" },
		{ "__index", "", "indexed", "it is a single number: the context c has fields, s and tau have none" },
		{ "__newindex", "", "indexed", "it is a single number: the context c has fields, s and tau have none" },
		{ "__call", "", "called", "write * between factors: 2 * (s - tau)" },
	};
	for (size_t k = 0; k < sizeof refusals / sizeof refusals[0]; k++) {
		lua_pushstring(L, refusals[k].word);
		lua_pushstring(L, refusals[k].what);
		lua_pushstring(L, refusals[k].note);
		lua_pushcclosure(L, refuse, 3);
		lua_setfield(L, -2, refusals[k].event);
	}
	static const char *const comparisons[][2] = { { "__lt", "<" }, { "__le", "<=" }, { "__eq", "==" } };
	for (size_t k = 0; k < sizeof comparisons / sizeof comparisons[0]; k++) {
		lua_pushstring(L, comparisons[k][1]);
		lua_pushcclosure(L, compare, 1);
		lua_setfield(L, -2, comparisons[k][0]);
	}
}

static void register_functions(lua_State *L)
{
	static const struct {
		ExprOp op;
		int arity;
	} functions[] = {
#define EXPR_OP(id, name, arity, is_bool, value) { EXPR_##id, arity },
#include "expr_ops.def"
#undef EXPR_OP
	};
	for (size_t k = 0; k < sizeof functions / sizeof functions[0]; k++) {
		ExprOp op = functions[k].op;
		if (op <= EXPR_POW || op == EXPR_WHERE)        /* operators, and the one with its own function */
			continue;
		lua_pushinteger(L, op);
		lua_pushinteger(L, functions[k].arity);
		lua_pushcclosure(L, call, 2);
		if (op == EXPR_MIN || op == EXPR_MAX) {
			lua_pushinteger(L, op);
			lua_insert(L, -2);
			lua_pushcclosure(L, extremum, 2);
		}
		lua_setfield(L, -2, expr_op_name(op));
	}
	lua_pushcfunction(L, where);
	lua_setfield(L, -2, "where");
}

void dsl_register_trace(lua_State *L)
{
	luaL_newmetatable(L, symbol_type);
	register_operators(L);
	register_refusals(L);
	lua_pushcfunction(L, symbol_text);
	lua_setfield(L, -2, "__tostring");
	lua_pop(L, 1);
	luaL_newmetatable(L, context_type);
	lua_pushcfunction(L, context_index);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, context_newindex);
	lua_setfield(L, -2, "__newindex");
	lua_pop(L, 1);
	register_functions(L);
}

/* The first constant that is not finite in float32, or NULL. */
static const Expr *non_finite_constant(const Expr *e)
{
	if (e->op == EXPR_CONST)
		return dsl_is_finite(e->value) ? NULL : e;
	for (int k = 0; k < e->arity; k++) {
		const Expr *found = non_finite_constant(e->arg[k]);
		if (found)
			return found;
	}
	return NULL;
}

/* Which variables a function may have in its result; others came in through an upvalue. */
static uint32_t allowed_vars(Scope scope)
{
	uint32_t vars = 1u << VAR_PARAM;
	for (size_t k = 0; k < sizeof context_vars / sizeof context_vars[0]; k++)
		if (context_vars[k].scopes >> scope & 1)
			vars |= 1u << context_vars[k].var;
	if (scope == SCOPE_SCORE || scope == SCOPE_WEIGHT)
		vars |= 1u << VAR_S;
	return scope == SCOPE_WEIGHT ? (vars | 1u << VAR_TAU) : vars;
}

/* The expression at the top of the stack (left there), after all that can be said against it; NULL after an error. */
static const Expr *take_result(Loader *loader, Loc loc, const char *what)
{
	lua_State *L = loader->L;
	Diag *diag = loader->diag;
	const Expr *e = symbol_at(L, -1);
	if (!e && lua_type(L, -1) == LUA_TNUMBER)
		e = expr_const(loader->spec->pool, lua_tonumber(L, -1), loc);
	if (!e || e->is_bool) {
		diag_error(diag, loc, "%s must be a number or a symbolic value, not %s", what, dsl_shown(L, -1));
		diag_note(diag, (Loc){ 0 }, lua_isnil(L, -1) ? "does the function have a 'return'?" :
		          "use where(gt(a, b), x, y) to choose between two values");
		return NULL;
	}
	const Expr *constant = count_operations(e, MAX_OPERATIONS) <= MAX_OPERATIONS ? non_finite_constant(e) : NULL;
	uint32_t foreign = e->vars & ~allowed_vars(loader->scope);
	if (count_operations(e, MAX_OPERATIONS) > MAX_OPERATIONS) {
		diag_error(diag, loc, "%s has more than %d operations when it is written out", what, MAX_OPERATIONS);
		diag_note(diag, (Loc){ 0 }, "it is computed for every score; simplify it");
		return NULL;
	}
	if (constant) {
		diag_error(diag, constant->loc.line ? constant->loc : loc, "%s contains the constant %g", what,
		           constant->value);
		diag_note(diag, (Loc){ 0 }, "look for a division by 0, a log of 0 or an overflow");
		return NULL;
	}
	for (ExprVar var = 0; var < VAR_COUNT; var++)
		if (foreign >> var & 1) {
			diag_error(diag, loc, "%s depends on %s of another function", what, expr_var_name(var));
			diag_note(diag, (Loc){ 0 }, "symbolic values can't be carried from one function to another");
			return NULL;
		}
	return e;
}

/* Calls the function on top of the stack with what its scope gives it. */
static bool call_function(Loader *loader, Scope scope)
{
	lua_State *L = loader->L;
	int arguments = 0;
	loader->scope = scope;
	if (scope == SCOPE_SCORE || scope == SCOPE_WEIGHT) {
		push_symbol(L, expr_var(loader->spec->pool, VAR_S, (Loc){ 0 }));
		arguments++;
	}
	if (scope == SCOPE_WEIGHT) {
		push_symbol(L, expr_var(loader->spec->pool, VAR_TAU, (Loc){ 0 }));
		arguments++;
	}
	Scope *context = lua_newuserdatauv(L, sizeof *context, 0);
	*context = scope;
	luaL_setmetatable(L, context_type);
	return dsl_call(loader, arguments + 1, 1);
}

bool dsl_trace_function(Loader *loader, Scope scope, Loc loc, const Expr **result)
{
	if (!call_function(loader, scope))
		return false;
	*result = take_result(loader, loc, scope_names[scope]);
	lua_pop(loader->L, 1);
	return *result != NULL;
}

static bool take_coefficients(Loader *loader, Loc loc)
{
	lua_State *L = loader->L;
	Spec *spec = loader->spec;
	if (!lua_istable(L, -1)) {
		diag_error(loader->diag, loc, "combine must return a table of coefficients, not %s", dsl_shown(L, -1));
		diag_note(loader->diag, (Loc){ 0 }, "one for each view: return { 1, -c.lambda }");
		return false;
	}
	lua_Unsigned count = lua_rawlen(L, -1);
	if (count != (lua_Unsigned)spec->views) {
		diag_error(loader->diag, loc, "combine returns %llu coefficient%s for %d view%s", (unsigned long long)count,
		           count == 1 ? "" : "s", spec->views, spec->views == 1 ? "" : "s");
		diag_note(loader->diag, (Loc){ 0 }, "return a table with one coefficient for each view");
		return false;
	}
	for (int k = 0; k < spec->views; k++) {
		lua_rawgeti(L, -1, k + 1);
		const Expr *e = take_result(loader, loc, arena_printf(loader->arena, "coefficient %d of combine", k + 1));
		lua_pop(L, 1);
		if (!e)
			return false;
		const Expr *view = expr_const(spec->pool, k + 1, loc);
		spec->combine[k] = expr_substitute(spec->pool, e, VAR_VIEW, 0, view);
	}
	return true;
}

bool dsl_trace_combine(Loader *loader, Loc loc)
{
	if (!call_function(loader, SCOPE_COMBINE))
		return false;
	bool ok = take_coefficients(loader, loc);
	lua_pop(loader->L, 1);
	return ok;
}
