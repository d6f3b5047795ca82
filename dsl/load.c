/* spec_load: runs a spec file and returns what it describes. No Lua value outlives this file's one function. */
#include "dsl.h"

#include <stdlib.h>
#include <string.h>
#include "sha256.h"

/* The spec's canonical text, hashed; false when there is no memory for it. */
static bool hash_spec(Spec *spec)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	if (!out)
		return false;
	spec_print(spec, out);
	bool ok = fclose(out) == 0;
	if (ok)
		sha256_hex(text, size, spec->hash);
	free(text);
	return ok;
}

/* Options that the spec never asked for. */
static void check_options(Loader *loader)
{
	for (int k = 0; k < loader->option_count; k++) {
		const SpecOption *option = &loader->options[k];
		if (option->used)
			continue;
		diag_error(loader->diag, (Loc){ 0 }, "--set %s=%s: the spec has no option '%s'%s", option->key, option->value,
		           option->key, dsl_did_you_mean(loader, option->key, loader->seen_options, loader->seen_option_count));
		const char *list = "";
		for (int n = 0; n < loader->seen_option_count; n++)
			list = arena_printf(loader->arena, "%s%s%s", list, n ? ", " : "", loader->seen_options[n]);
		diag_note(loader->diag, (Loc){ 0 }, list[0] ? "its options are %s" : "it has no options%s", list);
	}
}

static void list_constants(const Loader *loader)
{
	Spec *spec = loader->spec;
	spec->constant_count = loader->constant_count;
	spec->constant_names = ARENA_ARRAY(loader->arena, const char *, loader->constant_count);
	for (int k = 0; k < loader->constant_count; k++)
		spec->constant_names[k] = loader->constants[k].name;
}

/* The value that the file returned is on top of the stack. */
static void read_result(Loader *loader)
{
	lua_State *L = loader->L;
	const Value *result = dsl_value(L, -1, VALUE_ATTENTION);
	if (!result) {
		diag_error(loader->diag, (Loc){ 0 }, "the spec returns %s",
		           lua_isnil(L, -1) ? "nothing" : "something other than attention { ... }");
		diag_note(loader->diag, (Loc){ 0 },
		          "end it with: return attention { name = ..., threshold = ..., weight = ... }");
		return;
	}
	lua_getiuservalue(L, -1, 1);
	if (dsl_read_fields(loader, result->loc) && dsl_check_values(loader))
		check_options(loader);
	list_constants(loader);
}

/* Everything that touches Lua, so that no error of it is unprotected; the length of the source is the argument. */
static int run(lua_State *L)
{
	Loader *loader = loader_of(L);
	size_t length = (size_t)lua_tointeger(L, 1);
	if (!dsl_load_source(loader, length))
		return 0;
	dsl_push_environment(L);
	lua_setupvalue(L, -2, 1);                              /* the chunk's _ENV */
	if (dsl_call(loader, 0, 1))
		read_result(loader);
	return 0;
}

static void close_state(void *user)
{
	Loader *loader = user;
	if (loader->L)
		lua_close(loader->L);
	loader->L = NULL;
}

Spec *spec_load(Arena *arena, Diag *diag, const char *path, const char *source, size_t length, SpecOption *options,
                int option_count)
{
	int errors = diag_error_count(diag);
	Loader *loader = ARENA_NEW(arena, Loader);
	loader->arena = arena;
	loader->diag = diag;
	loader->source = arena_strndup(arena, source, length);
	loader->options = options;
	loader->option_count = option_count;
	loader->spec = ARENA_NEW(arena, Spec);
	loader->spec->path = arena_strdup(arena, path);
	loader->spec->source = loader->source;
	loader->spec->pool = expr_pool_new(arena);
	arena_on_free(arena, close_state, loader);
	loader->L = dsl_state_new(loader);
	if (!loader->L) {
		diag_internal(diag, (Loc){ 0 }, "out of memory");
		return NULL;
	}
	lua_pushcfunction(loader->L, run);
	lua_pushinteger(loader->L, (lua_Integer)length);
	dsl_call(loader, 1, 0);
	close_state(loader);
	if (diag_error_count(diag) == errors && !hash_spec(loader->spec))
		diag_internal(diag, (Loc){ 0 }, "out of memory");
	return diag_error_count(diag) == errors ? loader->spec : NULL;
}
