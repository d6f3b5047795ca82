/*
 * Golden cases: `dsl_cases_test refused|accepted FOLDER [--update]` loads every FOLDER/NAME.lua, which must be refused
 * or accepted, and compares what is printed with FOLDER/NAME.expected: the diagnostics, and the fields and expressions of
 * an accepted spec. A first line "-- options: k=v k=v" is what --set would give.
 */
#include <string.h>
#include "golden.h"
#include "testing.h"

enum { MAX_SET = 8 };

static bool update, want_accepted;

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

typedef struct Outcome {
	Diag *diag;
	const Spec *spec;
} Outcome;

static void write_outcome(void *user, FILE *out)
{
	const Outcome *outcome = user;
	diag_print(outcome->diag, out);
	if (outcome->spec) {
		spec_print(outcome->spec, out);
		fputc('\n', out);
		spec_print_expressions(outcome->spec, out);
	}
}

static void run_case(const char *path, const char *name)
{
	Arena *arena = arena_new();
	SpecOption options[MAX_SET];
	size_t length = 0;
	const char *source = golden_read(arena, path, &length), *file = strrchr(path, '/') + 1;
	Diag *diag = diag_new(arena, file, source);
	const Spec *spec = spec_load(arena, diag, file, source, length, options, read_options(arena, source, options));
	CHECK((spec != NULL) == want_accepted, "%s is %s", name, spec ? "accepted" : "refused");
	CHECK((spec == NULL) == (diag_error_count(diag) > 0), "%s: a spec or an error", name);
	CHECK(!diag_has_internal(diag), "%s is refused for a failure of tdagen", name);
	const char *got = golden_text(arena, write_outcome, &(Outcome){ diag, spec });
	const char *expected = arena_printf(arena, "%.*s.expected", (int)strlen(path) - 4, path);
	CHECK(golden_matches(arena, expected, got, update), "%s", name);
	arena_free(arena);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	want_accepted = strcmp(argv[1], "accepted") == 0;
	update = argc > 3 && strcmp(argv[3], "--update") == 0;
	int count = golden_each(argv[2], run_case);
	CHECK(count >= (want_accepted ? 5 : 35), "only %d cases in %s", count, argv[2]);
	return test_end();
}
