/*
 * A file with both plans has the launches and the sizes of workspaces of a file with one: below the crossover of the dense plan,
 * from it on of the sparse plan, and nothing of the other.
 *
 * auto_test TDAGEN FOLDER SPEC...: names of specs in the folder.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/module.h"
#include "../runtime/fixture.h"
#include "compiled.h"

enum { MAX_LAUNCHES = 64, Q_CROSSOVER = 64, K_CROSSOVER = 512 };

typedef struct Launches {
	int count;
	struct { const ManifestKernel *kernel; uint32_t grid; } launch[MAX_LAUNCHES];
} Launches;

static tda_status record(void *user, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	Launches *launches = user;

	(void)args;
	launches->launch[launches->count].kernel = &m->kernels[kernel];
	launches->launch[launches->count++].grid = grid;
	return TDA_OK;
}

/* Both phases, with every gradient wanted. */
static void launch_all(tda_kernel *kernel, const tda_shape *shape, Launches *launches)
{
	Binding b = {0};

	launches->count = 0;
	b.vars[SHAPE_MULTIPROCESSORS] = 4;
	for (int p = 0; p < kernel->manifest->param_count; p++)
		b.dparam[p] = 0x1000;
	CHECK(validate_shape(shape, b.vars) == TDA_OK &&
	      launch_phase(kernel->manifest, PHASE_FORWARD, &b, record, launches) == TDA_OK &&
	      launch_phase(kernel->manifest, PHASE_BACKWARD, &b, record, launches) == TDA_OK, "%s", tda_error_message());
}

/* The entry of a sparse plan has a name of its own where a dense plan is beside it. */
static bool same_entry(const char *both, const char *alone, bool sparse)
{
	const char *prefix = sparse ? "tda_sparse_" : "tda_";

	return strncmp(both, prefix, strlen(prefix)) == 0 && strcmp(both + strlen(prefix), alone + strlen("tda_")) == 0;
}

static void compare(tda_kernel *both, tda_kernel *alone, const tda_shape *shape, bool sparse)
{
	tda_sizes sizes = TDA_SIZES_INIT, expected = TDA_SIZES_INIT;
	Launches a, b;

	CHECK(tda_get_sizes(both, shape, &sizes) == TDA_OK && tda_get_sizes(alone, shape, &expected) == TDA_OK, "%s",
	      tda_error_message());
	CHECK(sizes.saved == expected.saved && sizes.forward_scratch == expected.forward_scratch &&
	      sizes.backward_scratch == expected.backward_scratch, "q_len %lld, k_len %lld: %zu, %zu and %zu bytes",
	      (long long)shape->q_len, (long long)shape->k_len, sizes.saved, sizes.forward_scratch, sizes.backward_scratch);
	launch_all(both, shape, &a);
	launch_all(alone, shape, &b);
	if (!CHECK(a.count == b.count, "q_len %lld, k_len %lld: %d launches, not %d", (long long)shape->q_len,
	           (long long)shape->k_len, a.count, b.count))
		return;
	for (int n = 0; n < a.count; n++) {
		const ManifestKernel *x = a.launch[n].kernel, *y = b.launch[n].kernel;

		CHECK(same_entry(x->entry, y->entry, sparse) && x->phase == y->phase && a.launch[n].grid == b.launch[n].grid,
		      "%s of %u CTAs, where the only plan has %s of %u", x->entry, a.launch[n].grid, y->entry, b.launch[n].grid);
	}
}

static void test_target(const char *tdagen, const char *spec, const char *target)
{
	static const struct { int64_t q_len, k_len; } lengths[] = {
		{ 1, 1 }, { 1, 100000 }, { Q_CROSSOVER - 1, K_CROSSOVER }, { Q_CROSSOVER, K_CROSSOVER - 1 },
		{ Q_CROSSOVER, K_CROSSOVER }, { 1000, K_CROSSOVER }, { 1000, K_CROSSOVER - 1 }, { 16384, 16384 },
		{ 0, 1000 }, { 1000, 0 },
	};
	char options[3][64];
	tda_kernel *both, *dense, *sparse;

	snprintf(options[0], sizeof(options[0]), "--target %s", target);
	snprintf(options[1], sizeof(options[1]), "--target %s --plan dense", target);
	snprintf(options[2], sizeof(options[2]), "--target %s --plan sparse", target);
	both = compiled_kernel(tdagen, spec, options[0]);
	dense = compiled_kernel(tdagen, spec, options[1]);
	sparse = compiled_kernel(tdagen, spec, options[2]);
	for (size_t n = 0; n < sizeof(lengths) / sizeof(lengths[0]) && both && dense && sparse; n++) {
		bool takes_sparse = lengths[n].q_len >= Q_CROSSOVER && lengths[n].k_len >= K_CROSSOVER;
		tda_shape shape = TDA_SHAPE_INIT;

		shape.batch = 2;
		shape.heads = 4;
		shape.kv_heads = 2;
		shape.q_len = lengths[n].q_len;
		shape.k_len = lengths[n].k_len;
		compare(both, takes_sparse ? sparse : dense, &shape, takes_sparse);
	}
	if (both)
		CHECK(strcmp(both->manifest->plan, "auto") == 0, "the plan is %s", both->manifest->plan);
	tda_close(both);
	tda_close(dense);
	tda_close(sparse);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	for (int a = 3; a < argc; a++) {
		char path[512];

		snprintf(path, sizeof(path), "%s/%s.lua", argv[2], argv[a]);
		test_target(argv[1], path, "sm_80");
		test_target(argv[1], path, "sm_90a");
	}
	return fixture_result();
}
