/* What a spec builds its table from. Each value remembers the line that made it. */
#include "dsl.h"

#include <math.h>
#include <string.h>

/* Lua shows this name in its own messages. */
static const char value_type[] = "description";

static Value *new_value(lua_State *L, ValueKind kind, const char *word)
{
	Value *value = lua_newuserdatauv(L, sizeof *value, 1);
	*value = (Value){ .kind = kind, .loc = dsl_here(L, word) };
	luaL_setmetatable(L, value_type);
	return value;
}

Value *dsl_value(lua_State *L, int index, ValueKind kind)
{
	Value *value = luaL_testudata(L, index, value_type);
	return value && value->kind == kind ? value : NULL;
}

static bool is_finite_number(lua_State *L, int index)
{
	return lua_type(L, index) == LUA_TNUMBER && dsl_is_finite(lua_tonumber(L, index));
}

static double finite_argument(lua_State *L, int index, const char *function, const char *what)
{
	if (!is_finite_number(L, index))
		dsl_fail(L, dsl_here(L, function), NULL, "%s: %s must be a finite number, not %s", function, what,
		         dsl_shown(L, index));
	return lua_tonumber(L, index);
}

const char *dsl_shown(lua_State *L, int index)
{
	static const char *const kinds[] = {
		[VALUE_SHAPE] = "a shape", [VALUE_LEARNED] = "learned(...)", [VALUE_CONSTANT] = "constant(...)",
		[VALUE_MASK] = "a mask", [VALUE_NORM] = "rms_norm", [VALUE_ATTENTION] = "attention",
	};
	Arena *arena = loader_of(L)->arena;
	const Value *value = luaL_testudata(L, index, value_type);
	if (value)
		return kinds[value->kind];
	if (dsl_symbol_kind(L, index))
		return dsl_symbol_kind(L, index);
	switch (lua_type(L, index)) {
	case LUA_TSTRING: return arena_printf(arena, "\"%.40s\"", lua_tostring(L, index));
	case LUA_TNIL: return "nil";
	case LUA_TTABLE: return "a table";
	case LUA_TFUNCTION: return "a function";
	default: {
		const char *text = arena_strdup(arena, luaL_tolstring(L, index, NULL));
		lua_pop(L, 1);
		return text;
	}
	}
}

/* Refuses keys of the table at index other than the names given; of several the first in the alphabet. */
static void only_keys(lua_State *L, int index, const char *function, const char *const names[2])
{
	const int count = 2;
	const char *unknown = NULL;
	for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
		bool known = false;
		const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "1";
		for (int k = 0; k < count; k++)
			known = known || strcmp(key, names[k]) == 0;
		if (!known && (!unknown || strcmp(key, unknown) < 0))
			unknown = key;
	}
	if (unknown)
		dsl_fail(L, dsl_here(L, unknown),
		         arena_printf(loader_of(L)->arena, "its fields are %s and %s", names[0], names[1]),
		         "%s has no field '%s'%s", function, unknown, dsl_did_you_mean(loader_of(L), unknown, names, count));
}

static double bound_of(lua_State *L, const char *field, double absent)
{
	double bound = absent;
	if (lua_getfield(L, 3, field) != LUA_TNIL)
		bound = finite_argument(L, -1, "learned", field);
	lua_pop(L, 1);
	return bound;
}

/* learned(shape, init [, { min =, max = }]) */
static int learned(lua_State *L)
{
	static const char *const names[] = { "min", "max" };
	lua_settop(L, 3);
	const Value *shape = dsl_value(L, 1, VALUE_SHAPE);
	if (!shape)
		dsl_fail(L, dsl_here(L, "learned"), "write learned(per_head, 1.0): shape, then initial value",
		         "learned: the shape must be scalar, per_head, per_layer, per_layer_head or per_channel");
	double init = finite_argument(L, 2, "learned", "the initial value"), min = -INFINITY, max = INFINITY;
	if (!lua_isnil(L, 3)) {
		if (!lua_istable(L, 3))
			dsl_fail(L, dsl_here(L, "learned"), NULL,
			         "learned: the bounds must be a table such as { min = 0, max = 1 }");
		only_keys(L, 3, "learned's table of bounds", names);
		min = bound_of(L, "min", min);
		max = bound_of(L, "max", max);
	}
	if (min > max)
		dsl_fail(L, dsl_here(L, "min"), NULL, "learned: min %g is above max %g", min, max);
	if (init < min || init > max)
		dsl_fail(L, dsl_here(L, "learned"), "values are clamped to the bounds, so training would start elsewhere",
		         "learned: the initial value %g is outside of its bounds %g to %g", init, min, max);
	Value *value = new_value(L, VALUE_LEARNED, "learned");
	value->shape = shape->shape;
	value->init = init;
	value->min = min;
	value->max = max;
	value->bounded = isfinite(min) || isfinite(max);
	value->serial = loader_of(L)->learned_count++;
	return 1;
}

static int constant(lua_State *L)
{
	double number = finite_argument(L, 1, "constant", "its value");
	new_value(L, VALUE_CONSTANT, "constant")->init = number;
	return 1;
}

static int causal(lua_State *L)
{
	new_value(L, VALUE_MASK, "causal")->causal = true;
	return 1;
}

static int full(lua_State *L)
{
	new_value(L, VALUE_MASK, "full");
	return 1;
}

static int window(lua_State *L)
{
	int is_integer;
	lua_Integer width = lua_tointegerx(L, 1, &is_integer);
	if (lua_type(L, 1) != LUA_TNUMBER || !is_integer || width < 1 || width > INT32_MAX)
		dsl_fail(L, dsl_here(L, "window"), "a key is visible when |i - j| < n, so window(1) is the diagonal alone",
		         "window: its width must be a whole number from 1 to 2147483647");
	new_value(L, VALUE_MASK, "window")->window = width;
	return 1;
}

/* rms_norm { eps = 1e-6, gain = learned(per_channel, 1) } */
static int rms_norm(lua_State *L)
{
	static const char *const names[] = { "eps", "gain" };
	lua_settop(L, 1);
	double eps = 1e-6;
	if (!lua_isnil(L, 1) && !lua_istable(L, 1))
		dsl_fail(L, dsl_here(L, "rms_norm"), NULL,
		         "rms_norm: write rms_norm { eps = 1e-6, gain = learned(per_channel, 1) }");
	if (lua_istable(L, 1)) {
		only_keys(L, 1, "rms_norm", names);
		if (lua_getfield(L, 1, "eps") != LUA_TNIL)
			eps = finite_argument(L, -1, "rms_norm", "eps");
		lua_getfield(L, 1, "gain");
	} else {
		lua_pushnil(L);
	}
	/* f32 kernels divide by sqrt(mean + eps): a zero row must not become 0/0. */
	if (eps < 1e-30 || eps > 1e30)
		dsl_fail(L, dsl_here(L, "eps"), NULL, "rms_norm: eps must be from 1e-30 to 1e30, not %g", eps);
	int gain = lua_gettop(L);
	Value *value = new_value(L, VALUE_NORM, "rms_norm");
	value->eps = eps;
	lua_pushvalue(L, gain);
	lua_setiuservalue(L, -2, 1);
	return 1;
}

/* attention { ... }: only keeps the table; fields.c reads it when the file has run. */
static int attention(lua_State *L)
{
	if (!lua_istable(L, 1))
		dsl_fail(L, dsl_here(L, "attention"), NULL, "attention takes a table: attention { name = ..., ... }");
	lua_settop(L, 1);
	new_value(L, VALUE_ATTENTION, "attention");
	lua_pushvalue(L, 1);
	lua_setiuservalue(L, -2, 1);
	return 1;
}

/* The value given by --set, typed like the default at index 2. */
static int push_option(lua_State *L, const SpecOption *option)
{
	static const char *const words[] = { "false", "true" };
	switch (lua_type(L, 2)) {
	case LUA_TNUMBER:
		if (lua_stringtonumber(L, option->value) && is_finite_number(L, -1))
			return 1;
		dsl_fail(L, dsl_here(L, "option"), NULL, "--set %s=%s: the option is a number (its default is %s)", option->key,
		         option->value, luaL_tolstring(L, 2, NULL));
	case LUA_TBOOLEAN:
		for (int k = 0; k < 2; k++)
			if (strcmp(option->value, words[k]) == 0) {
				lua_pushboolean(L, k);
				return 1;
			}
		dsl_fail(L, dsl_here(L, "option"), NULL, "--set %s=%s: the option is true or false", option->key,
		         option->value);
	default:
		lua_pushstring(L, option->value);
		return 1;
	}
}

/* option(name, default) */
static int option(lua_State *L)
{
	Loader *loader = loader_of(L);
	lua_settop(L, 2);
	if (lua_type(L, 1) != LUA_TSTRING)
		dsl_fail(L, dsl_here(L, "option"), "write option(\"p\", 2), which --set p=3 overrides",
		         "option: its name must be a string");
	int type = lua_type(L, 2);
	if (type != LUA_TNUMBER && type != LUA_TSTRING && type != LUA_TBOOLEAN)
		dsl_fail(L, dsl_here(L, "option"), "write option(\"p\", 2), which --set p=3 overrides",
		         "option: its default must be a number, a string or a boolean, not %s", dsl_shown(L, 2));
	const char *name = lua_tostring(L, 1);
	if (loader->seen_option_count < MAX_OPTIONS)
		loader->seen_options[loader->seen_option_count++] = arena_strdup(loader->arena, name);
	const SpecOption *given = NULL;
	for (int k = 0; k < loader->option_count; k++)
		if (strcmp(loader->options[k].key, name) == 0) {
			loader->options[k].used = true;
			given = &loader->options[k];           /* of several the last */
		}
	return given ? push_option(L, given) : 1;
}

void dsl_register_values(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{ "attention", attention }, { "option", option }, { "learned", learned }, { "constant", constant },
		{ "causal", causal }, { "window", window }, { "full", full }, { "rms_norm", rms_norm }, { NULL, NULL },
	};
	luaL_newmetatable(L, value_type);
	lua_pop(L, 1);
	luaL_setfuncs(L, functions, 0);
	for (ParamShape shape = PARAM_SCALAR; shape <= PARAM_PER_CHANNEL; shape++) {
		new_value(L, VALUE_SHAPE, NULL)->shape = shape;
		lua_setfield(L, -2, param_shape_name(shape));
	}
}
