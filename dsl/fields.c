/* Reads the table given to attention: every field checked, defaults filled in, then its functions traced. */
#include "dsl.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const field_names[] = {
	"name", "dtype", "head_dim", "value_dim", "views", "normalize", "mask", "params", "threshold", "score", "weight",
	"combine", "output", "precision",
};

enum { FIELD_COUNT = sizeof field_names / sizeof field_names[0], MAX_NAME = 64,
       MAX_NAMES = SPEC_MAX_PARAMS + MAX_CONSTANTS + 1 };

/* Reading one table: errors are collected, so that a user sees all of them at once. */
typedef struct Fields {
	Loader *loader;
	int table;                         /* stack index */
	Loc loc;                           /* the attention{} call */
} Fields;

static Loc place(const Fields *f, const char *field)
{
	return dsl_field_loc(f->loader, f->loc, field);
}

#define ERROR(f, field, ...) diag_error((f)->loader->diag, place(f, field), __VA_ARGS__)
/* What the value at a stack index is, for "not ...". */
#define SHOWN(f, index) dsl_shown((f)->loader->L, index)
#define NOTE(f, ...) diag_note((f)->loader->diag, (Loc){ 0 }, __VA_ARGS__)

/* Pushes the field; its type. */
static int get(const Fields *f, const char *field)
{
	return lua_getfield(f->loader->L, f->table, field);
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Unknown fields, in alphabetic order: a Lua table has none of its own. */
static void check_names(const Fields *f)
{
	lua_State *L = f->loader->L;
	const char *unknown[32];
	int count = 0;
	for (lua_pushnil(L); lua_next(L, f->table); lua_pop(L, 1)) {
		if (lua_type(L, -2) != LUA_TSTRING) {
			if (count < 32)
				unknown[count++] = arena_printf(f->loader->arena, "[%s]", SHOWN(f, -2));
			continue;
		}
		size_t length;
		const char *key = lua_tolstring(L, -2, &length);
		bool known = false;
		for (int k = 0; k < FIELD_COUNT; k++)                  /* a key may hold a zero byte */
			known = known || (strcmp(key, field_names[k]) == 0 && strlen(key) == length);
		if (!known && count < 32)
			unknown[count++] = key;
	}
	qsort(unknown, (size_t)count, sizeof unknown[0], compare_strings);
	for (int k = 0; k < count; k++)
		if (unknown[k][0] == '[') {
			ERROR(f, "", "attention has a value without a name (at %s)", unknown[k]);
			NOTE(f, "write each as name = value");
		} else {
			ERROR(f, unknown[k], "unknown field '%s'%s", unknown[k],
			      dsl_did_you_mean(f->loader, unknown[k], field_names, FIELD_COUNT));
		}
	if (count > 0 && unknown[count - 1][0] != '[')
		NOTE(f, "the fields are name, dtype, head_dim, value_dim, views, normalize, mask, params, threshold, score, "
		     "weight, combine, output, precision");
}

/* One of a list of words; `value` is left alone when the field is absent. */
static bool read_choice(const Fields *f, const char *field, const char *const *words, int count, int *value)
{
	lua_State *L = f->loader->L;
	if (get(f, field) == LUA_TNIL) {
		lua_pop(L, 1);
		return false;
	}
	const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	int found = -1;
	for (int k = 0; k < count && text; k++)
		if (strcmp(text, words[k]) == 0)
			found = k;
	if (found >= 0) {
		*value = found;
	} else {
		const char *list = "";
		for (int k = 0; k < count; k++)
			list = arena_printf(f->loader->arena, "%s%s\"%s\"", list, k == 0 ? "" : k == count - 1 ? " or " : ", ",
			                    words[k]);
		ERROR(f, field, "%s must be %s, not %s%s", field, list, SHOWN(f, -1),
		      text ? dsl_did_you_mean(f->loader, text, words, count) : "");
	}
	lua_pop(L, 1);
	return found >= 0;
}

/* A whole number in [lo, hi] that is a multiple of step. */
static int read_integer(const Fields *f, const char *field, int lo, int hi, int step, int absent, const char *note)
{
	lua_State *L = f->loader->L;
	int is_integer, result = absent;
	if (get(f, field) != LUA_TNIL) {
		lua_Integer value = lua_tointegerx(L, -1, &is_integer);
		if (lua_type(L, -1) == LUA_TNUMBER && is_integer && value >= lo && value <= hi && value % step == 0) {
			result = (int)value;
		} else {
			if (step > 1)
				ERROR(f, field, "%s must be a multiple of %d from %d to %d, not %s", field, step, lo, hi,
				      SHOWN(f, -1));
			else
				ERROR(f, field, "%s must be a whole number from %d to %d, not %s", field, lo, hi, SHOWN(f, -1));
			NOTE(f, "%s", note);
		}
	}
	lua_pop(L, 1);
	return result;
}

static void read_name(const Fields *f)
{
	lua_State *L = f->loader->L;
	const char *name = get(f, "name") == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	size_t length = name ? strlen(name) : 0;
	bool good = length > 0 && length <= MAX_NAME;
	for (size_t k = 0; k < length; k++)
		good = good && (isalnum((unsigned char)name[k]) || strchr("_-.", name[k]));
	if (lua_isnil(L, -1)) {
		ERROR(f, "", "attention has no name");
		NOTE(f, "give it one: name = \"my_attention\"");
	} else if (!good) {
		ERROR(f, "name", "name must be 1 to %d letters, digits, '_', '-' or '.', not %s", MAX_NAME,
		      SHOWN(f, -1));
		NOTE(f, "it names the kernels and the generated header");
	}
	f->loader->spec->name = arena_strdup(f->loader->arena, good ? name : "unnamed");
	lua_pop(L, 1);
}

static void read_types(const Fields *f)
{
	static const char *const dtypes[] = { "f32", "f16", "bf16" }, *const precisions[] = { "ieee", "tf32" };
	static const char *const normalizations[] = { "none", "l2" };
	Spec *spec = f->loader->spec;
	int dtype = DTYPE_BF16, precision = PRECISION_IEEE, normalize = NORMALIZE_L2;
	read_choice(f, "dtype", dtypes, 3, &dtype);
	bool given = read_choice(f, "precision", precisions, 2, &precision);
	if (given && dtype != DTYPE_F32) {
		ERROR(f, "precision", "precision is a field of f32 specs, and dtype is %s", dtypes[dtype]);
		NOTE(f, "leave it out, or set dtype = \"f32\"");
	}
	read_choice(f, "normalize", normalizations, 2, &normalize);
	spec->dtype = (DType)dtype;
	spec->precision = (Precision)precision;
	spec->normalize = (Normalize)normalize;
}

static void add_mask(const Fields *f, int index)
{
	Spec *spec = f->loader->spec;
	const Value *mask = dsl_value(f->loader->L, index, VALUE_MASK);
	if (!mask) {
		ERROR(f, "mask", "mask must be causal(), window(n), full() or a list of these, not %s", SHOWN(f, index));
		NOTE(f, lua_isfunction(f->loader->L, index) ? "call it: causal()" :
		     "a key is visible when all masks of a list allow it");
		return;
	}
	spec->causal = spec->causal || mask->causal;
	if (mask->window && (!spec->window || mask->window < spec->window))
		spec->window = mask->window;
}

static void read_masks(const Fields *f)
{
	lua_State *L = f->loader->L;
	int type = get(f, "mask");
	if (type == LUA_TTABLE) {
		lua_Unsigned count = lua_rawlen(L, -1);
		if (count == 0) {
			ERROR(f, "mask", "mask is an empty list");
			NOTE(f, "leave it out, or write mask = full(), to show every key to every query");
		}
		for (lua_Unsigned k = 1; k <= count && k <= 16; k++) {
			lua_rawgeti(L, -1, (lua_Integer)k);
			add_mask(f, lua_gettop(L));
			lua_pop(L, 1);
		}
	} else if (type != LUA_TNIL) {
		add_mask(f, lua_gettop(L));
	}
	lua_pop(L, 1);
}

/* Names that would mean two things: the context's, the weight's, or a tensor's (q1, dq1 ...). */
static bool is_reserved(const char *name)
{
	static const char *const words[] = { "s", "tau", "v", "o", "q", "k" };
	for (int k = 0; k < dsl_context_name_count; k++)
		if (strcmp(name, dsl_context_names[k]) == 0)
			return true;
	for (size_t k = 0; k < sizeof words / sizeof words[0]; k++)
		if (strcmp(name, words[k]) == 0)
			return true;
	return (name[0] == 'q' || name[0] == 'k') && strspn(name + 1, "0123456789") == strlen(name + 1);
}

static bool is_identifier(const char *name)
{
	size_t length = strlen(name);
	if (length == 0 || length > MAX_NAME || isdigit((unsigned char)name[0]))
		return false;
	for (size_t k = 0; k < length; k++)
		if (!isalnum((unsigned char)name[k]) && name[k] != '_')
			return false;
	return true;
}

static bool check_param_name(const Fields *f, const char *name)
{
	if (!is_identifier(name)) {
		ERROR(f, "params", "a parameter's name must be a letter and up to %d letters, digits or '_', not \"%.40s\"",
		      MAX_NAME - 1, name);
		return false;
	}
	if (is_reserved(name)) {
		ERROR(f, name, "a parameter can't be called '%s'", name);
		NOTE(f, "that is the name of something else: i, j, view, head, layer, head_dim, q_len, k_len, s, tau, v, o, "
		     "q1, k1 ...");
		return false;
	}
	return true;
}

static void add_param(const Fields *f, const char *name, const Value *learned)
{
	Spec *spec = f->loader->spec;
	for (int k = 0; k < spec->param_count; k++)
		if (strcmp(spec->params[k].name, name) == 0) {
			diag_error(f->loader->diag, learned->loc, "there are two parameters called '%s'", name);
			NOTE(f, "the gain of rms_norm is the parameter 'gain': rename the one in params");
			return;
		}
	if (spec->param_count == SPEC_MAX_PARAMS) {
		diag_error(f->loader->diag, learned->loc, "there are more than %d learned parameters", SPEC_MAX_PARAMS);
		NOTE(f, "the gain of rms_norm counts as one");
		return;
	}
	spec->param_names[spec->param_count] = name;
	spec->params[spec->param_count++] = (Param){ name, learned->shape, learned->init, learned->min, learned->max,
	                                             learned->loc, learned->serial };
}

typedef struct NamedParam {
	const char *name;
	const Value *value;
} NamedParam;

static int compare_params(const void *a, const void *b)
{
	const NamedParam *first = a, *second = b;
	int order = first->value->serial - second->value->serial;
	return order ? order : strcmp(first->name, second->name);
}

/* One entry of params at the top of the stack; a learned one goes to `found`. */
static void read_param(const Fields *f, const char *name, NamedParam *found, int *count)
{
	Loader *loader = f->loader;
	const Value *constant = dsl_value(loader->L, -1, VALUE_CONSTANT);
	const Value *learned = dsl_value(loader->L, -1, VALUE_LEARNED);
	if (!check_param_name(f, name))
		return;
	if (constant && loader->constant_count < MAX_CONSTANTS) {
		loader->constants[loader->constant_count++] = (Constant){ name, constant->init };
	} else if (constant) {
		ERROR(f, name, "there are more than %d constants", MAX_CONSTANTS);
		NOTE(f, "use local variables of the spec");
	} else if (!learned) {
		ERROR(f, name, "parameter '%s' must be learned(...) or constant(...), not %s", name, SHOWN(f, -1));
		NOTE(f, "for a plain number write %s = constant(1.0), for a trained one %s = learned(per_head, 1.0)", name,
		     name);
	} else if (learned->shape == PARAM_PER_CHANNEL) {
		ERROR(f, name, "per_channel is for the gain of rms_norm alone");
		NOTE(f, "write output = rms_norm { gain = learned(per_channel, 1) }");
	} else if (*count > SPEC_MAX_PARAMS) {
		return;                                        /* add_param reports the first one too many */
	} else {
		found[(*count)++] = (NamedParam){ name, learned };
	}
}

/* The names in the table on top of the stack, in alphabetic order: a Lua table has none of its own. */
static int sorted_names(const Fields *f, const char **names)
{
	lua_State *L = f->loader->L;
	int count = 0, table = lua_gettop(L);
	for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1))
		if (lua_type(L, -2) == LUA_TSTRING && count < MAX_NAMES)
			names[count++] = arena_strdup(f->loader->arena, lua_tostring(L, -2));
		else if (lua_type(L, -2) != LUA_TSTRING)
			check_param_name(f, "");
	qsort(names, (size_t)count, sizeof names[0], compare_strings);
	return count;
}

/* Learned parameters are kept in the order of their calls of learned(). */
static void read_params(const Fields *f)
{
	lua_State *L = f->loader->L;
	NamedParam found[SPEC_MAX_PARAMS + 1];
	int count = 0, type = get(f, "params");
	if (type != LUA_TTABLE && type != LUA_TNIL) {
		ERROR(f, "params", "params must be a table, not %s", SHOWN(f, -1));
		NOTE(f, "write params = { beta = learned(per_head, 1.0) }");
	} else if (type == LUA_TTABLE) {
		const char *names[MAX_NAMES];
		int name_count = sorted_names(f, names);
		for (int k = 0; k < name_count; k++) {
			lua_getfield(L, -1, names[k]);
			read_param(f, names[k], found, &count);
			lua_pop(L, 1);
		}
	}
	qsort(found, (size_t)count, sizeof found[0], compare_params);
	for (int k = 0; k < count; k++) {
		if (k > 0 && found[k].value == found[k - 1].value) {
			ERROR(f, found[k].name, "two names share one learned(...)");
			NOTE(f, "call learned once for each parameter");
		}
		add_param(f, found[k].name, found[k].value);
	}
	lua_pop(L, 1);
}

/* The gain at the top of the stack. */
static void read_gain(const Fields *f)
{
	lua_State *L = f->loader->L;
	Spec *spec = f->loader->spec;
	const Value *gain = dsl_value(L, -1, VALUE_LEARNED), *constant = dsl_value(L, -1, VALUE_CONSTANT);
	bool is_one = constant ? constant->init == 1 : lua_type(L, -1) == LUA_TNUMBER && lua_tonumber(L, -1) == 1;
	if (lua_isnil(L, -1) || is_one)
		return;
	if (!gain) {
		ERROR(f, "gain", "rms_norm: gain must be learned(per_channel, 1), 1 or absent, not %s", SHOWN(f, -1));
		NOTE(f, "a fixed gain belongs into the layer after the attention; learned(per_channel, 2) starts at 2");
	} else if (gain->shape != PARAM_PER_CHANNEL) {
		diag_error(f->loader->diag, gain->loc, "rms_norm: gain must be per_channel, not %s",
		           param_shape_name(gain->shape));
		NOTE(f, "write gain = learned(per_channel, 1)");
	} else if (gain->bounded) {
		diag_error(f->loader->diag, gain->loc, "rms_norm: gain can't have min or max");
		NOTE(f, "write gain = learned(per_channel, 1)");
	} else {
		spec->gain = spec->param_count;
		add_param(f, "gain", gain);
	}
}

static void read_output(const Fields *f)
{
	lua_State *L = f->loader->L;
	Spec *spec = f->loader->spec;
	int type = get(f, "output");
	const Value *norm = dsl_value(L, -1, VALUE_NORM);
	bool none = type == LUA_TNIL || (type == LUA_TSTRING && strcmp(lua_tostring(L, -1), "none") == 0);
	if (norm) {
		spec->rms_norm = true;
		spec->rms_eps = norm->eps;
		lua_getiuservalue(L, -1, 1);
		read_gain(f);
		lua_pop(L, 1);
	} else if (!none) {
		ERROR(f, "output", "output must be rms_norm { ... } or \"none\", not %s", SHOWN(f, -1));
		NOTE(f, "write output = rms_norm { eps = 1e-6, gain = learned(per_channel, 1) }");
	}
	lua_pop(L, 1);
}

/* Pushes a function field and finds its place; false (and nothing pushed) when it isn't there. */
static bool get_function(const Fields *f, const char *field, bool required, const char *example, Loc *loc)
{
	int type = get(f, field);
	*loc = place(f, field);
	if (type == LUA_TFUNCTION)
		return true;
	if (type != LUA_TNIL) {
		ERROR(f, field, "%s must be a function, not %s", field, SHOWN(f, -1));
		NOTE(f, "write %s", example);
	} else if (required) {
		ERROR(f, "", "attention has no %s", field);
		NOTE(f, "write %s", example);
	}
	lua_pop(f->loader->L, 1);
	return false;
}

static void read_functions(const Fields *f)
{
	Loader *loader = f->loader;
	Spec *spec = loader->spec;
	spec->score = expr_var(spec->pool, VAR_S, (Loc){ 0 });
	spec->combine[0] = expr_const(spec->pool, 1, (Loc){ 0 });
	if (get_function(f, "threshold", true, "threshold = function(c) return 0 end", &spec->threshold_loc))
		dsl_trace_function(loader, SCOPE_THRESHOLD, spec->threshold_loc, &spec->threshold);
	if (!loader->exhausted && get_function(f, "score", false, "score = function(s, c) return s end", &spec->score_loc))
		dsl_trace_function(loader, SCOPE_SCORE, spec->score_loc, &spec->score);
	if (!loader->exhausted && get_function(f, "weight", true, "weight = function(s, tau) return relu(s - tau) ^ 2 end",
	                                       &spec->weight_loc))
		dsl_trace_function(loader, SCOPE_WEIGHT, spec->weight_loc, &spec->weight);
	if (loader->exhausted)
		return;
	if (get_function(f, "combine", false, "combine = function(c) return { 1, -c.lambda } end", &spec->combine_loc)) {
		dsl_trace_combine(loader, spec->combine_loc);
	} else if (spec->views > 1 && get(f, "combine") == LUA_TNIL) {
		ERROR(f, "views", "a spec of %d views needs combine", spec->views);
		NOTE(f, "it gives the coefficient of each view: combine = function(c) return { 1, -c.lambda } end");
	}
}

/* Facts about the traced functions that no single one of them shows. */
static void check_functions(const Fields *f)
{
	const Spec *spec = f->loader->spec;
	if (spec->weight && !(spec->weight->vars & 1u << VAR_S)) {
		ERROR(f, "weight", "the weight doesn't depend on s");
		NOTE(f, "every key would get the same weight; use the first argument: "
		     "function(s, tau) return relu(s - tau) end");
	}
	if (spec->score && !(spec->score->vars & 1u << VAR_S)) {
		ERROR(f, "score", "the score doesn't depend on s");
		NOTE(f, "use the first argument: function(s, c) return 30 * tanh(s / 30) end");
	}
}

bool dsl_read_fields(Loader *loader, Loc loc)
{
	Fields f = { loader, lua_gettop(loader->L), loc };
	Spec *spec = loader->spec;
	int errors = diag_error_count(loader->diag);
	spec->loc = loc;
	spec->gain = -1;
	check_names(&f);
	read_name(&f);
	read_types(&f);
	spec->head_dim = read_integer(&f, "head_dim", 8, SPEC_MAX_HEAD_DIM, 8, 64,
	                              "pad q and k with zeros to the next multiple of 8");
	spec->value_dim = read_integer(&f, "value_dim", 8, SPEC_MAX_HEAD_DIM, 8, spec->head_dim,
	                               "pad v with zeros to the next multiple of 8");
	spec->views = read_integer(&f, "views", 1, SPEC_MAX_VIEWS, 1, 1,
	                           "a view is one pair of q and k; their weights are combined");
	read_masks(&f);
	read_params(&f);
	read_output(&f);
	/* Functions see the fields above: with errors there they would only repeat them. */
	if (diag_error_count(loader->diag) == errors) {
		read_functions(&f);
		if (diag_error_count(loader->diag) == errors)
			check_functions(&f);
	}
	lua_settop(loader->L, f.table - 1);
	return diag_error_count(loader->diag) == errors;
}
