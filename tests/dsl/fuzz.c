/*
 * The spec loader takes any bytes: it returns a spec or an error, and neither crashes, hangs nor leaks.
 *
 * As it stands: `dsl_fuzz_test SPECS COUNT` loads COUNT seeded mutants of the shipped specs. Built with
 * -DTDAGEN_LIBFUZZER=1 and -fsanitize=fuzzer it is a libFuzzer target (see CMakeLists.txt).
 */
#include <stdint.h>
#include <string.h>
#include "golden.h"
#include "testing.h"

/* Everything a tool does with a spec before planning. False when the outcome makes no sense. */
static bool load_bytes(const uint8_t *data, size_t size)
{
	Arena *arena = arena_new();
	if (!arena)
		return true;
	const char *source = arena_strndup(arena, (const char *)data, size);
	Diag *diag = diag_new(arena, "fuzz.lua", source);
	const Spec *spec = spec_load(arena, diag, "fuzz.lua", source, size, NULL, 0);
	bool sane = (spec == NULL) == (diag_error_count(diag) > 0) && !diag_has_internal(diag);
	FILE *out = fopen("/dev/null", "w");
	if (out) {
		diag_print(diag, out);
		if (spec) {
			spec_print(spec, out);
			spec_print_expressions(spec, out);
		}
		fclose(out);
	}
	arena_free(arena);
	return sane;
}

#ifdef TDAGEN_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!load_bytes(data, size))
		__builtin_trap();
	return 0;
}
#else

#include <stdlib.h>
#include "random_expr.h"

enum { MAX_SPECS = 16, ROOM = 64 };

static const char *paths[MAX_SPECS];
static int path_count;
static Arena *path_arena;

static void remember(const char *path, const char *name)
{
	(void)name;
	if (path_count < MAX_SPECS)
		paths[path_count++] = arena_strdup(path_arena, path);
}

/* One edit: a byte changed, a piece removed, doubled, or replaced by a word that specs use. */
static size_t mutate(Random *random, char *text, size_t size)
{
	static const char *const words[] = {
		" relu(", "s", "tau", " ^ ", "-1", "c.i", "0", "nil", "1e308", "/ 0", "where(gt(s, tau), ", "function(c) ",
		" end", "{", "}", "learned(scalar, 1)", "..", "math.huge", "log(",
	};
	if (size < 2)
		return size;
	size_t at = random_below(random, (uint32_t)size), length = 1 + random_below(random, 12);
	if (length > size - at)
		length = size - at;
	switch (random_below(random, 4)) {
	case 0:
		text[at] = (char)random_below(random, 256);
		return size;
	case 1:
		memmove(text + at, text + at + length, size - at - length);
		return size - length;
	case 2:
		memmove(text + at + length, text + at, size - at);
		return size + length;
	}
	const char *word = words[random_below(random, sizeof words / sizeof words[0])];
	size_t inserted = strlen(word);
	memmove(text + at + inserted, text + at, size - at);
	memcpy(text + at, word, inserted);
	return size + inserted;
}

int main(int argc, char **argv)
{
	Random random = { 61 };
	if (argc < 3)
		return 2;
	path_arena = arena_new();
	golden_each(argv[1], remember);
	CHECK(path_count > 0, "no specs in %s", argv[1]);
	for (int n = 0; n < atoi(argv[2]) && path_count > 0; n++) {
		Arena *arena = arena_new();
		size_t size = 0;
		const char *source = golden_read(arena, paths[random_below(&random, (uint32_t)path_count)], &size);
		int edits = 1 + (int)random_below(&random, 4);
		char *text = arena_alloc(arena, size + (size_t)edits * ROOM);
		memcpy(text, source, size);
		while (edits-- > 0)
			size = mutate(&random, text, size);
		CHECK(load_bytes((const uint8_t *)text, size), "mutant %d:\n%.*s", n, (int)size, text);
		arena_free(arena);
	}
	arena_free(path_arena);
	return test_end();
}
#endif
