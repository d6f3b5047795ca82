/* Running out of memory at any point of loading a spec ends it through the arena's handler, and leaks nothing. */
#include <setjmp.h>
#include "golden.h"
#include "testing.h"

static jmp_buf out_of_memory;

static void give_up(void *user)
{
	(void)user;
	longjmp(out_of_memory, 1);
}

/* Loads and prints a spec within `limit` bytes; false when they did not suffice. */
static bool load_within(const char *path, size_t limit)
{
	Arena *files = arena_new(), *arena = arena_new();
	size_t length = 0;
	const char *source = golden_read(files, path, &length);
	volatile bool finished = false;
	arena_on_exhausted(arena, give_up, NULL);
	arena_limit(arena, limit);
	if (setjmp(out_of_memory) == 0) {
		Diag *diag = diag_new(arena, path, source);
		const Spec *spec = spec_load(arena, diag, path, source, length, NULL, 0);
		CHECK(spec && diag_error_count(diag) == 0, "with %zu bytes: enough or exhausted, nothing between", limit);
		finished = true;
	}
	arena_free(arena);
	arena_free(files);
	return finished;
}

int main(int argc, char **argv)
{
	int short_of = 0;
	if (argc < 2)
		return 2;
	/* The arena grows by 64 KB at a time. */
	size_t limit = 1;
	while (!load_within(argv[1], limit) && limit < (size_t)64 << 20) {
		short_of++;
		limit += (size_t)32 << 10;
	}
	CHECK(short_of >= 2 && limit < (size_t)64 << 20, "%d limits were too small, %zu bytes suffice", short_of, limit);
	return test_end();
}
