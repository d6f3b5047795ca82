/* The arena's and the diagnostics' corners. */
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "diag.h"
#include "testing.h"

static jmp_buf exhausted;

static void give_up(void *user)
{
	*(int *)user += 1;
	longjmp(exhausted, 1);
}

static char order[8];

static void note_order(void *user)
{
	strcat(order, user);
}

static void check_arena(void)
{
	int calls = 0;
	Arena *arena = arena_new();
	for (size_t size = 0; size < 300000; size = size * 2 + 1) {
		unsigned char *memory = arena_alloc(arena, size);
		bool zero = true;
		for (size_t k = 0; k < size; k++)
			zero = zero && memory[k] == 0;
		CHECK(zero && (uintptr_t)memory % _Alignof(max_align_t) == 0, "%zu bytes are zero and aligned", size);
		memset(memory, 0xFF, size);
	}
	CHECK(strcmp(arena_strndup(arena, "abcdef", 3), "abc") == 0, "arena_strndup");
	CHECK(strcmp(arena_printf(arena, "%d-%s", 7, "x"), "7-x") == 0, "arena_printf");
	arena_on_free(arena, note_order, "1");
	arena_on_free(arena, note_order, "2");
	arena_on_exhausted(arena, give_up, &calls);
	if (setjmp(exhausted) == 0)
		arena_alloc(arena, SIZE_MAX);
	CHECK(calls == 1, "the handler runs when memory is out");
	arena_free(arena);
	CHECK(strcmp(order, "21") == 0, "cleanups run last first: %s", order);
	arena_free(NULL);
}

static void check_print(const char *source, Loc loc, const char *want)
{
	Arena *arena = arena_new();
	Diag *diag = diag_new(arena, "a.lua", source);
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	diag_error(diag, loc, "no %s", "good");
	diag_print(diag, out);
	diag_print(diag, out);                         /* forgets what it printed */
	fclose(out);
	CHECK(strcmp(text, want) == 0, "printed\n%sand not\n%s", text, want);
	free(text);
	arena_free(arena);
}

static void check_diag(void)
{
	check_print("one\ntwo\n", (Loc){ 2, 2 }, "a.lua:2:2: error: no good\n    2 | two\n      |  ^\n");
	check_print("one\r\ntwo", (Loc){ 1, 3 }, "a.lua:1:3: error: no good\n    1 | one\n      |   ^\n");
	check_print("\tx = 1", (Loc){ 1, 2 }, "a.lua:1:2: error: no good\n    1 | \tx = 1\n      | \t^\n");
	check_print("\xC3\xA4 = 1", (Loc){ 1, 4 }, "a.lua:1:4: error: no good\n    1 | \xC3\xA4 = 1\n      |   ^\n");
	check_print("a\x1b[2J", (Loc){ 1, 0 }, "a.lua:1: error: no good\n    1 | a?[2J\n");
	check_print("one", (Loc){ 0, 0 }, "a.lua: error: no good\n");
	check_print("one", (Loc){ 9, 9 }, "a.lua:9:9: error: no good\n");
	check_print(NULL, (Loc){ 1, 1 }, "a.lua:1:1: error: no good\n");
	Arena *arena = arena_new();
	Diag *diag = diag_new(arena, "a.lua", NULL);
	diag_warning(diag, (Loc){ 0 }, "careful");
	diag_note(diag, (Loc){ 0 }, "because");
	CHECK(diag_error_count(diag) == 0 && !diag_has_internal(diag), "warnings and notes are no errors");
	diag_internal(diag, (Loc){ 0 }, "broken");
	CHECK(diag_error_count(diag) == 1 && diag_has_internal(diag), "an internal failure is an error");
	char *line = arena_alloc(arena, 5001);
	memset(line, 'x', 5000);
	diag = diag_new(arena, "a.lua", line);
	diag_error(diag, (Loc){ 1, 4000 }, "far");
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	diag_print(diag, out);
	fclose(out);
	CHECK(size < 500 && strchr(text, '^'), "a long line is cut around the caret: %zu bytes", size);
	free(text);
	arena_free(arena);
}

int main(void)
{
	check_arena();
	check_diag();
	return test_end();
}
