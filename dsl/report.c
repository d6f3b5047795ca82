/* Places, suggestions, and errors raised out of Lua. */
#include "dsl.h"
#include "suggest.h"

#include <ctype.h>
#include <string.h>

static const char reported;                        /* its address is the error value */

void dsl_push_reported(lua_State *L)
{
	lua_pushlightuserdata(L, (void *)&reported);
}

bool dsl_is_reported(lua_State *L, int index)
{
	return lua_touserdata(L, index) == (const void *)&reported;
}

void dsl_fail(lua_State *L, Loc loc, const char *note, const char *format, ...)
{
	Loader *loader = loader_of(L);
	va_list args;
	va_start(args, format);
	const char *text = arena_vprintf(loader->arena, format, args);
	va_end(args);
	diag_error(loader->diag, loc, "%s", text);
	if (note)
		diag_note(loader->diag, (Loc){ 0 }, "%s", note);
	dsl_push_reported(L);
	lua_error(L);
	__builtin_unreachable();
}

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

/* The start of a line, counted from 1, or NULL. */
static const char *line_start(const char *source, int line)
{
	for (; source && line > 1; line--) {
		source = strchr(source, '\n');
		source = source ? source + 1 : NULL;
	}
	return source;
}

/* Finds word in the code of one line; comments don't count. */
static const char *find_word(const char *line, const char *word)
{
	size_t size = strlen(word);
	const char *end = line + strcspn(line, "\r\n");
	for (const char *p = line; p + size <= end && strncmp(p, "--", 2) != 0; p++) {
		if (strncmp(p, word, size) != 0)
			continue;
		if (is_word(word[0]) && ((p > line && is_word(p[-1])) || is_word(p[size])))
			continue;
		return p;
	}
	return NULL;
}

int dsl_column(const Loader *loader, int line, const char *word)
{
	const char *start = line > 0 ? line_start(loader->source, line) : NULL;
	const char *found = start && word[0] ? find_word(start, word) : NULL;
	return found ? (int)(found - start) + 1 : 0;
}

Loc dsl_here(lua_State *L, const char *word)
{
	lua_Debug info;
	for (int level = 0; lua_getstack(L, level, &info); level++) {
		lua_getinfo(L, "Sl", &info);
		if (strcmp(info.source, "=spec") == 0 && info.currentline > 0)
			return (Loc){ info.currentline, word ? dsl_column(loader_of(L), info.currentline, word) : 0 };
	}
	return (Loc){ 0 };
}

Loc dsl_field_loc(const Loader *loader, Loc from, const char *field)
{
	int line = from.line;
	for (const char *start = line > 0 ? line_start(loader->source, line) : NULL; start; line++) {
		const char *found = find_word(start, field);
		if (found) {
			const char *after = found + strlen(field);
			after += strspn(after, " \t");
			if (after[0] == '=' && after[1] != '=')
				return (Loc){ line, (int)(found - start) + 1 };
		}
		start = line_start(start, 2);
	}
	return from;
}


const char *dsl_did_you_mean(Loader *loader, const char *word, const char *const *names, int count)
{
	const char *name = suggest_word(word, names, count);
	return name ? arena_printf(loader->arena, "; did you mean '%s'?", name) : "";
}
