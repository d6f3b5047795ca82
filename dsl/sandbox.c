/*
 * The Lua state in which a spec runs. A spec can compute, and nothing else: no files, processes, clocks, modules,
 * bytecode or metatables. Memory, instructions and CPU time are bounded; what Lua can spend in one instruction is
 * bounded by leaving out the library functions that loop in C (patterns, sorting, moving).
 */
#include "dsl.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>

static const char prelude[] = {
#include "prelude.inc"
};

#define MEMORY_LIMIT ((size_t)64 << 20)
#define MEMORY_TOTAL_LIMIT ((size_t)4 << 30)       /* given out over a whole run, freed or not */

enum { INSTRUCTION_LIMIT = 10000000, HOOK_STEP = 1000, CPU_SECONDS = 5 };

Loader *loader_of(lua_State *L)
{
	return *(Loader **)lua_getextraspace(L);
}

static void *allocate(void *user, void *old, size_t old_size, size_t size)
{
	Loader *loader = user;
	if (!old)
		old_size = 0;                              /* it was a type's code */
	if (size == 0) {
		free(old);
		loader->memory_used -= old_size;
		return NULL;
	}
	if (size > old_size) {
		loader->memory_total += size - old_size;
		if (size - old_size > MEMORY_LIMIT - loader->memory_used || loader->memory_total > MEMORY_TOTAL_LIMIT) {
			loader->memory_refused = true;
			return NULL;
		}
	}
	void *block = realloc(old, size);
	if (block)
		loader->memory_used += size - old_size;
	return block;
}

static bool out_of_time(const Loader *loader)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec - loader->started.tv_sec > CPU_SECONDS;
}

static void count_instructions(lua_State *L, lua_Debug *info)
{
	(void)info;
	Loader *loader = loader_of(L);
	loader->instructions += HOOK_STEP;
	if (loader->instructions > INSTRUCTION_LIMIT || out_of_time(loader)) {
		loader->exhausted = true;
		dsl_fail(L, dsl_here(L, NULL), "look for a loop that doesn't end; the functions of a spec are called once, "
		         "with symbolic values, not once an element",
		         "the spec ran for more than %d million instructions or %d seconds", INSTRUCTION_LIMIT / 1000000,
		         CPU_SECONDS);
	}
}

lua_State *dsl_state_new(Loader *loader)
{
	lua_State *L = lua_newstate(allocate, loader);
	if (!L)
		return NULL;
	*(Loader **)lua_getextraspace(L) = loader;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &loader->started);
	lua_sethook(L, count_instructions, LUA_MASKCOUNT, HOOK_STEP);
	return L;
}

/* Names that other Lua programs use and a spec can't, and why. */
static const struct {
	const char *name, *why;
} forbidden[] = {
	{ "os", "it can't reach the system" },
	{ "io", "it can't read or write files" },
	{ "package", "it is one file" },
	{ "require", "it is one file" },
	{ "dofile", "it is one file" },
	{ "loadfile", "it is one file" },
	{ "load", "it can't run text as code" },
	{ "loadstring", "it can't run text as code" },
	{ "debug", "it can't look into the Lua state" },
	{ "collectgarbage", "its memory is managed for it" },
	{ "coroutine", "its functions are called once, from beginning to end" },
	{ "pcall", "an error in it is for its author" },
	{ "xpcall", "an error in it is for its author" },
	{ "print", "what it prints would mix with the output of the compiler" },
	{ "pairs", "the order of pairs changes from run to run, so use ipairs" },
	{ "next", "the order of next changes from run to run, so use ipairs" },
	{ "setmetatable", "metatables are not for it" },
	{ "getmetatable", "metatables are not for it" },
	{ "rawset", "metatables are not for it" },
	{ "rawget", "metatables are not for it" },
	{ "rawequal", "metatables are not for it" },
	{ "rawlen", "metatables are not for it" },
	{ "_G", "its global names are fixed" },
};

enum { MAX_NAMES = 128 };

/* Collects the string keys of the table at index. */
static int table_names(lua_State *L, int index, const char **names)
{
	int count = 0;
	index = lua_absindex(L, index);
	lua_pushnil(L);
	while (lua_next(L, index)) {
		lua_pop(L, 1);
		if (lua_type(L, -1) == LUA_TSTRING && count < MAX_NAMES)
			names[count++] = lua_tostring(L, -1);      /* the table keeps it alive */
	}
	return count;
}

/* Adds those of the function that asked: its arguments and locals so far, and what it uses of the functions around it. */
static int local_names(lua_State *L, const char **names, int count)
{
	lua_Debug caller;
	const char *name;
	if (!lua_getstack(L, 1, &caller) || !lua_getinfo(L, "f", &caller))
		return count;
	for (int n = 1; (name = lua_getlocal(L, &caller, n)) != NULL && count < MAX_NAMES; n++, lua_pop(L, 1))
		if (name[0] != '(')                    /* a value without a name */
			names[count++] = name;
	for (int n = 1; (name = lua_getupvalue(L, -1, n)) != NULL && count < MAX_NAMES; n++, lua_pop(L, 1))
		if (strcmp(name, "_ENV") != 0)
			names[count++] = name;
	return count;
}

/* unknown_name(environment, name): __index of the environment. */
static int unknown_name(lua_State *L)
{
	const char *name = luaL_tolstring(L, 2, NULL), *names[MAX_NAMES];
	for (size_t k = 0; k < sizeof forbidden / sizeof forbidden[0]; k++)
		if (strcmp(name, forbidden[k].name) == 0)
			dsl_fail(L, dsl_here(L, name), arena_printf(loader_of(L)->arena, "a spec only describes: %s",
			         forbidden[k].why), "specs can't use '%s'", name);
	int count = local_names(L, names, table_names(L, 1, names));
	const char *hint = dsl_did_you_mean(loader_of(L), name, names, count);
	dsl_fail(L, dsl_here(L, name), "docs/spec.md lists what a spec may use", "unknown name '%s'%s", name, hint);
}

/* __index of string, math and table; upvalue 1 is the library's name. */
static int unknown_function(lua_State *L)
{
	const char *name = luaL_tolstring(L, 2, NULL), *names[MAX_NAMES], *library = lua_tostring(L, lua_upvalueindex(1));
	const char *hint = "";
	if (lua_istable(L, 1))                                 /* not for a method of a string */
		hint = dsl_did_you_mean(loader_of(L), name, names, table_names(L, 1, names));
	dsl_fail(L, dsl_here(L, name), "docs/spec.md lists what a spec may use", "a spec has no %s.%s%s", library, name,
	         hint);
}

/* guard(table, library): makes reading an absent field an error. */
static int guard(lua_State *L)
{
	lua_settop(L, 2);
	lua_newtable(L);
	if (lua_isnil(L, 2)) {
		lua_pushcfunction(L, unknown_name);
	} else {
		lua_pushvalue(L, 2);
		lua_pushcclosure(L, unknown_function, 1);
	}
	lua_setfield(L, -2, "__index");
	lua_setmetatable(L, 1);
	return 0;
}

/* error(message) of specs. */
static int raise(lua_State *L)
{
	const char *message = luaL_tolstring(L, 1, NULL);
	dsl_fail(L, dsl_here(L, NULL), NULL, "%s", message);
}

void dsl_push_environment(lua_State *L)
{
	static const luaL_Reg libraries[] = {
		{ "_G", luaopen_base }, { "string", luaopen_string }, { "math", luaopen_math }, { "table", luaopen_table },
	};
	for (size_t k = 0; k < sizeof libraries / sizeof libraries[0]; k++) {
		luaL_requiref(L, libraries[k].name, libraries[k].func, 1);
		lua_pop(L, 1);
	}
	if (luaL_loadbufferx(L, prelude, sizeof prelude, "=prelude", "t") != LUA_OK)
		lua_error(L);
	lua_newtable(L);
	dsl_register_values(L);
	dsl_register_trace(L);
	lua_pushcfunction(L, raise);
	lua_setfield(L, -2, "error");
	lua_pushcfunction(L, guard);
	lua_call(L, 2, 1);                                     /* prelude(environment, guard) */

	lua_pushliteral(L, "");                                /* methods of strings: the safe ones */
	lua_getmetatable(L, -1);
	lua_getfield(L, -3, "string");
	lua_setfield(L, -2, "__index");
	lua_pop(L, 2);
}

/* Splits "spec:LINE: text"; the line is 0 when the message has none, or one of the prelude. */
static const char *split_position(const char *message, int *line)
{
	*line = 0;
	if (strncmp(message, "spec:", 5) != 0 && strncmp(message, "prelude:", 8) != 0)
		return message;
	const char *digits = strchr(message, ':') + 1;
	char *end;
	long number = strtol(digits, &end, 10);
	if (end == digits || *end != ':')
		return message;
	*line = message[0] == 's' ? (int)number : 0;
	return end + 1 + strspn(end + 1, " ");
}

/* The column of what a message of Lua quotes last: (global 'x'), near 'x'. */
static int quoted_column(const Loader *loader, const char *message, int line)
{
	char word[64];
	const char *end = strrchr(message, '\''), *start = end;
	while (start && start > message && start[-1] != '\'')
		start--;
	if (!end || start == message || (size_t)(end - start) >= sizeof word)
		return 0;
	memcpy(word, start, (size_t)(end - start));
	word[end - start] = 0;
	return dsl_column(loader, line, word);
}

static void report_lua_error(Loader *loader, int status)
{
	lua_State *L = loader->L;
	if (dsl_is_reported(L, -1))
		return;
	if (status == LUA_ERRMEM) {
		diag_error(loader->diag, (Loc){ 0 }, loader->memory_refused ? "the spec needs more than %zu MB of memory" :
		           "out of memory (the limit is %zu MB)", MEMORY_LIMIT >> 20);
		diag_note(loader->diag, (Loc){ 0 }, "look for a string or table that grows in a loop");
		return;
	}
	int line;
	const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error that is not text";
	message = split_position(message, &line);
	if (strstr(message, "stack overflow")) {
		diag_error(loader->diag, (Loc){ line, 0 }, "functions call each other too deeply");
		diag_note(loader->diag, (Loc){ 0 }, "a symbolic value can't end a recursion: conditions on it are where(...)");
		return;
	}
	diag_error(loader->diag, (Loc){ line, quoted_column(loader, message, line) }, "%s", message);
	if (strstr(message, "got symbolic"))
		diag_note(loader->diag, (Loc){ 0 }, "math's functions take plain numbers; sqrt(x), floor(x) and so on, without "
		          "math., take symbolic values");
	if (status == LUA_ERRSYNTAX)
		diag_note(loader->diag, (Loc){ 0 }, "a spec is Lua 5.4");
}

bool dsl_call(Loader *loader, int arguments, int results)
{
	int status = lua_pcall(loader->L, arguments, results, 0);
	if (status == LUA_OK)
		return true;
	report_lua_error(loader, status);
	lua_pop(loader->L, 1);
	return false;
}

bool dsl_load_source(Loader *loader, size_t length)
{
	const char *source = loader->source;
	if (length > 0 && source[0] == LUA_SIGNATURE[0]) {
		diag_error(loader->diag, (Loc){ 0 }, "the file is compiled Lua");
		diag_note(loader->diag, (Loc){ 0 }, "give the text of the spec: bytecode can't be checked, so it is refused");
		return false;
	}
	const char *nul = memchr(source, 0, length);
	if (nul) {
		diag_error(loader->diag, (Loc){ 0 }, "the file has a zero byte at offset %zu", (size_t)(nul - source));
		diag_note(loader->diag, (Loc){ 0 }, "a spec is a text file");
		return false;
	}
	size_t mark = strncmp(source, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;     /* some editors begin UTF-8 so */
	int status = luaL_loadbufferx(loader->L, source + mark, length - mark, "=spec", "t");
	if (status == LUA_OK)
		return true;
	report_lua_error(loader, status);
	lua_pop(loader->L, 1);
	return false;
}
