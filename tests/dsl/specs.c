/*
 * `dsl_specs_test SPECS GOLDEN [--update]`: every shipped spec loads with all of its options, and prints (fields,
 * expressions, derivatives, proof) as GOLDEN/NAME.expected says. Loading is repeatable, on several threads too.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "golden.h"
#include "testing.h"

static bool update;
static const char *golden_folder;

static Spec *load(Arena *arena, const char *path, SpecOption *options, int count, bool quiet)
{
	size_t length = 0;
	const char *source = golden_read(arena, path, &length);
	Diag *diag = diag_new(arena, path, source);
	Spec *spec = source ? spec_load(arena, diag, path, source, length, options, count) : NULL;
	if (!quiet)
		diag_print(diag, stdout);
	return spec;
}

static void write_spec(void *spec, FILE *out)
{
	spec_print(spec, out);
	fputc('\n', out);
	spec_print_expressions(spec, out);
}

/* Options that every shipped spec has, and the power, which some don't. */
static void check_options(const char *path, const char *name)
{
	static const char *const dtypes[] = { "f32", "f16", "bf16" }, *const dims[] = { "32", "72", "128", "256" };
	static const char *const powers[] = { "1", "1.5", "3", "2.25" };
	char first[65] = "";
	int distinct = 0;
	for (int d = 0; d < 3; d++)
		for (int h = 0; h < 4; h++) {
			Arena *arena = arena_new();
			SpecOption options[] = { { "dtype", dtypes[d], false }, { "head_dim", dims[h], false } };
			const Spec *spec = load(arena, path, options, 2, false);
			CHECK(spec && strcmp(dtype_name(spec->dtype), dtypes[d]) == 0 && spec->head_dim == atoi(dims[h]),
			      "%s with dtype=%s head_dim=%s", name, dtypes[d], dims[h]);
			if (spec && strcmp(spec->hash, first) != 0)
				distinct++;
			if (spec)
				memcpy(first, spec->hash, sizeof first);
			arena_free(arena);
		}
	CHECK(distinct == 12, "%s: specs that differ have different hashes", name);
	for (int p = 0; p < 4 && strcmp(name, "sigmoid") != 0; p++) {
		Arena *arena = arena_new();
		SpecOption options[] = { { "p", powers[p], false } };
		const Expr *factor, *obstacle;
		const Spec *spec = load(arena, path, options, 1, false);
		bool proved = spec && expr_prove_zero_below(spec->pool, spec->weight, &factor, &obstacle);
		CHECK(proved, "%s with p=%s has exact zeros", name, powers[p]);
		arena_free(arena);
	}
}

static void run_case(const char *path, const char *name)
{
	Arena *arena = arena_new();
	Spec *spec = load(arena, path, NULL, 0, false), *again = load(arena, path, NULL, 0, false);
	CHECK(spec != NULL && again != NULL, "%s loads", name);
	if (spec && again) {
		CHECK(strcmp(spec->name, name) == 0, "%s is called %s", name, spec->name);
		CHECK(strlen(spec->hash) == 64 && strcmp(spec->hash, again->hash) == 0, "%s has one hash", name);
		const char *got = golden_text(arena, write_spec, spec), *got_again = golden_text(arena, write_spec, again);
		CHECK(strcmp(got, got_again) == 0, "%s prints alike twice", name);
		const char *expected = arena_printf(arena, "%s/%s.expected", golden_folder, name);
		CHECK(golden_matches(arena, expected, got, update), "%s", name);
	}
	check_options(path, name);
	arena_free(arena);
}

typedef struct Job {
	const char *path;
	const char *hash;
	int failures;
} Job;

static void *load_often(void *user)
{
	Job *job = user;
	for (int k = 0; k < 10; k++) {
		Arena *arena = arena_new();
		const Spec *spec = load(arena, job->path, NULL, 0, true);
		job->failures += !spec || strcmp(spec->hash, job->hash) != 0;
		arena_free(arena);
	}
	return NULL;
}

static void check_threads(const char *folder)
{
	Arena *arena = arena_new();
	const char *path = arena_printf(arena, "%s/tda.lua", folder);
	const Spec *spec = load(arena, path, NULL, 0, false);
	pthread_t threads[4];
	Job jobs[4];
	for (int k = 0; k < 4 && spec; k++) {
		jobs[k] = (Job){ path, spec->hash, 0 };
		CHECK(pthread_create(&threads[k], NULL, load_often, &jobs[k]) == 0, "a thread starts");
	}
	for (int k = 0; k < 4 && spec; k++) {
		pthread_join(threads[k], NULL);
		CHECK(jobs[k].failures == 0, "%d of 10 loads failed on thread %d", jobs[k].failures, k);
	}
	arena_free(arena);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	golden_folder = argv[2];
	update = argc > 3 && strcmp(argv[3], "--update") == 0;
	int count = golden_each(argv[1], run_case);
	CHECK(count >= 11, "only %d specs in %s", count, argv[1]);
	check_threads(argv[1]);
	return test_end();
}
