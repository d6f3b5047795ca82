/*
 * Golden diagnostics: `dsl_errors_test FOLDER [--update]` loads every FOLDER/NAME.lua, which must be refused, and
 * compares what is printed with FOLDER/NAME.expected. A first line "-- options: k=v k=v" is what --set would give.
 */
#include <string.h>
#include "golden.h"
#include "testing.h"

enum { MAX_SET = 8 };

static bool update;

static int read_options(Arena *arena, const char *source, SpecOption *options)
{
	static const char mark[] = "-- options: ";
	int count = 0;
	if (strncmp(source, mark, sizeof mark - 1) != 0)
		return 0;
	const char *text = source + sizeof mark - 1;
	char *line = arena_strndup(arena, text, strcspn(text, "\n")), *rest;
	for (char *word = strtok_r(line, " ", &rest); word && count < MAX_SET; word = strtok_r(NULL, " ", &rest)) {
		char *equals = strchr(word, '=');
		*equals = 0;
		options[count++] = (SpecOption){ word, equals + 1, false };
	}
	return count;
}

static void write_diagnostics(void *diag, FILE *out)
{
	diag_print(diag, out);
}

static void run_case(const char *path, const char *name)
{
	Arena *arena = arena_new();
	SpecOption options[MAX_SET];
	size_t length = 0;
	const char *source = golden_read(arena, path, &length), *file = strrchr(path, '/') + 1;
	Diag *diag = diag_new(arena, file, source);
	const Spec *spec = spec_load(arena, diag, file, source, length, options, read_options(arena, source, options));
	CHECK(!spec && diag_error_count(diag) > 0, "%s is not refused", name);
	CHECK(!diag_has_internal(diag), "%s is refused for a failure of tdagen", name);
	const char *got = golden_text(arena, write_diagnostics, diag);
	const char *expected = arena_printf(arena, "%.*s.expected", (int)strlen(path) - 4, path);
	CHECK(golden_matches(arena, expected, got, update), "%s", name);
	arena_free(arena);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	update = argc > 2 && strcmp(argv[2], "--update") == 0;
	int count = golden_each(argv[1], run_case);
	CHECK(count >= 35, "only %d cases in %s", count, argv[1]);
	return test_end();
}
