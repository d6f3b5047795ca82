/*
 * count_test TDAGEN SPECS HERE: explore's counts by kernels on the simulator against those by the reference, head by head: all that are
 * whole numbers exactly, but where pairs lie within rounding of their threshold, and sums of float32 to a few digits. What the reference
 * counts is tested against plain loops in tests/runtime/explore_test.c.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/check_case.h"
#include "../../runtime/explore.h"
#include "../runtime/fixture.h"
#include "../screen/compiled.h"

typedef struct Spec {
	const char *name, *options;
	bool here;                     /* beside this test */
	int first_case;                /* wide rows are slow to simulate */
} Spec;

static const Spec specs[] = {
	{ "tra", "--set dtype=f16 --set head_dim=40", false, 0 },
	{ "tda", "", false, 0 },
	{ "tda", "--set dtype=f32 --set precision=tf32 --set head_dim=32", false, 0 },
	{ "tda_f32", "--set head_dim=24", false, 0 },
	{ "tda3", "--set head_dim=256", false, 2 },       /* 32 rows a block, tiles of fewer than 64 keys */
	{ "tda_layers", "", false, 0 },
	{ "tda_rmsnorm", "", false, 0 },
	{ "tda_softcap", "", false, 0 },
	{ "rela", "", false, 0 },
	{ "relu2_window", "--set window=40", false, 0 },
	{ "sigmoid", "", false, 0 },
	{ "counted", "", true, 0 },
	{ "counted", "--set causal=false --set head_dim=256", true, 2 },  /* 16 rows a block */
};

/* Beyond a word of the spec: heads that share keys, rows before the first key, lowered thresholds. */
static const CheckCase cases[] = {
	{ "heads 4:2", LIST_QUICK, 1, 4, 2, 130, 130, 0, 2, LAYOUT_PACKED, 0, PARAMS_RANDOM, SPECIAL_NONE },
	{ "q 40, k 100", LIST_QUICK, 2, 1, 1, 40, 100, 0, 1, LAYOUT_PADDED, 0.7, PARAMS_ABSENT, SPECIAL_NONE },
	{ "q 100, k 40, lowered", LIST_QUICK, 1, 2, 1, 100, 40, 2, 3, LAYOUT_PACKED, 0.3, PARAMS_LOWERED, SPECIAL_NONE },
	{ "zero rows", LIST_QUICK, 1, 1, 1, 70, 70, 0, 1, LAYOUT_BROADCAST, 0.5, PARAMS_RANDOM, SPECIAL_ZERO },
	{ "q 1, k 150", LIST_QUICK, 2, 2, 1, 1, 150, 0, 1, LAYOUT_PACKED, 0.5, PARAMS_RANDOM, SPECIAL_NONE },
};

static int exact;                              /* cases in which no pair was near its threshold */

static bool within(double got, double want, double bound)
{
	return fabs(got - want) <= bound * (1 + fabs(want));
}

static void compare_integers(const char *name, const ExploreCounts *got, const ExploreCounts *want, int64_t near)
{
	int64_t rows = 64 * near;

#define SAME(field, slack) CHECK(llabs((long long)(got->field - want->field)) <= (long long)(slack), "%s: " #field " is %lld, not %lld", \
	name, (long long)got->field, (long long)want->field)
	SAME(visible, 0);
	SAME(dead_heads, near);
	SAME(consensus, near);
	SAME(visited, rows);
	for (int v = 0; v < want->views; v++) {
		SAME(survivors[v], near);
		SAME(gathered[v], near);
		/* scores that lie at a tail's bound may be counted or not */
		for (int t = 0; t < EXPLORE_TAILS; t++)
			SAME(above[v][t], 1);
	}
	for (int u = 0; u < EXPLORE_UNITS; u++) {
		SAME(units[u], 0);
		SAME(units_hit[u], near);
	}
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		SAME(octave[n].rows, 0);
		SAME(octave[n].dead, near);
		SAME(octave[n].survivors, near);
		SAME(octave[n].consensus, near);
	}
	SAME(sink_rows, near);
#undef SAME
}

static void compare_sums(const char *name, const ExploreCounts *got, const ExploreCounts *want, double bound)
{
#define CLOSE(field) CHECK(within(got->field, want->field, bound), "%s: " #field " is %.9g, not %.9g", name, got->field, want->field)
	CLOSE(sink);
	CLOSE(sink_uniform);
	CLOSE(by_chance);
	for (int v = 0; v < want->views; v++) {
		for (int k = 0; k < 4; k++)
			CLOSE(power[v][k]);
		for (int w = 0; w < v; w++)
			CLOSE(product[v][w]);
	}
	for (int n = 0; n < EXPLORE_OCTAVES; n++)
		CLOSE(octave[n].bound);
	CLOSE(o_square);
#undef CLOSE
}

/* How many pairs rounding may move across their threshold. */
static int64_t pairs_near(const Problem *p)
{
	Reference r;
	int64_t near = -1;

	if (CHECK(problem_reference(p, false, &r) == TDA_OK, "%s", tda_error_message())) {
		near = r.near;
		problem_reference_free(&r);
	}
	return near;
}

static void compare(const char *name, Problem *p, Device *device, tda_kernel *counter)
{
	ExploreOptions by_reference = { .gradients = false }, on_device = { .device = device, .counter = counter };
	/* Of o, the dtype; of sums, float32; of tf32 the rounding of factors. */
	double bound = p->manifest->tf32 ? 4e-3 : p->manifest->dtype == TDA_F32 ? 2e-5 : 1e-2;
	Exploration want = {0}, got = {0};
	int64_t near = pairs_near(p);

	if (CHECK(explore_measure(p, &by_reference, &want) == TDA_OK, "%s: reference: %s", name, tda_error_message()) &&
	    CHECK(explore_measure(p, &on_device, &got) == TDA_OK, "%s: sim: %s", name, tda_error_message())) {
		for (int64_t h = 0; h < want.heads; h++) {
			compare_integers(name, &got.head[h], &want.head[h], near);
			compare_sums(name, &got.head[h], &want.head[h], bound);
		}
		for (int64_t n = 0; n < want.heads * want.map_rows * want.map_cols; n++)
			CHECK(llabs((long long)(got.map[n] - want.map[n])) <= near, "%s: cell %lld of the map is %lld, not %lld", name,
			      (long long)n, (long long)got.map[n], (long long)want.map[n]);
		exact += near == 0;
	}
	explore_free(&want);
	explore_free(&got);
}

/* What is no number is refused in the same words; which of its rows is named may differ where there are several. */
static void compare_refusal(const char *name, Problem *p, Device *device, tda_kernel *counter, const char *begin)
{
	ExploreOptions by_reference = { .gradients = false }, on_device = { .device = device, .counter = counter };
	Exploration result;
	char want[1024];

	CHECK(explore_measure(p, &by_reference, &result) == TDA_BAD_ARGUMENT, "%s: not refused by the reference", name);
	snprintf(want, sizeof(want), "%s", tda_error_message());
	explore_free(&result);
	CHECK(explore_measure(p, &on_device, &result) == TDA_BAD_ARGUMENT, "%s: not refused on the simulator", name);
	explore_free(&result);
	CHECK(strncmp(want, begin, strlen(begin)) == 0 && strncmp(tda_error_message(), begin, strlen(begin)) == 0 &&
	      strcmp(strchr(want, ':'), strchr(tda_error_message(), ':')) == 0, "%s:\n%s\n%s", name, want, tda_error_message());
}

static void test_refusals(Device *device, tda_kernel *kernel, tda_kernel *counter)
{
	static const struct { CheckCase c; const char *begin; } bad[] = {
		{ { "NaN in q", LIST_QUICK, 2, 2, 2, 65, 65, 0, 1, LAYOUT_PACKED, 0.5, PARAMS_ABSENT, SPECIAL_NAN_Q },
		  "a score of batch entry 0, head 0, row 32 is NaN or infinite" },
		{ { "NaN in k", LIST_QUICK, 1, 2, 1, 65, 65, 0, 1, LAYOUT_PACKED, 0.5, PARAMS_ABSENT, SPECIAL_NAN_K },
		  "a score of batch entry 0, head " },
		{ { "Inf in k", LIST_QUICK, 1, 1, 1, 65, 65, 0, 1, LAYOUT_PACKED, 0.5, PARAMS_ABSENT, SPECIAL_INF_K },
		  "a score of batch entry 0, head 0, row " },
		{ { "NaN in v", LIST_QUICK, 1, 2, 2, 65, 65, 0, 1, LAYOUT_PACKED, 0.5, PARAMS_LOWERED, SPECIAL_NAN_V }, "o of batch entry 0, head 0, row " },
	};
	Problem p;

	for (size_t n = 0; n < sizeof(bad) / sizeof(bad[0]); n++)
		if (CHECK(check_case_problem(&bad[n].c, kernel, 3, &p) == TDA_OK, "%s", tda_error_message())) {
			compare_refusal(bad[n].c.name, &p, device, counter, bad[n].begin);
			problem_free(&p);
		}
	/* a threshold that is NaN: beta, of head 1 */
	if (CHECK(check_case_problem(&cases[0], kernel, 3, &p) == TDA_OK, "%s", tda_error_message())) {
		((float *)p.param[0].host)[1] = NAN;
		compare_refusal("NaN threshold", &p, device, counter, "the threshold of batch entry 0, head 1, row ");
		problem_free(&p);
	}
}

/* A NaN in the last key is that of the last row, which alone sees it; the rows of its tile that don't are not named. */
static void test_last_key(Device *device, tda_kernel *kernel, tda_kernel *counter)
{
	tda_shape shape = TDA_SHAPE_INIT;
	Problem p;

	shape.batch = shape.heads = shape.kv_heads = 1;
	shape.q_len = 66;
	shape.k_len = 66;
	if (!CHECK(check_random_problem(&shape, kernel, 5, &p) == TDA_OK, "%s", tda_error_message()))
		return;
	memset(p.tensor[TENSOR_K].host + operand_row(&p.tensor[TENSOR_K], 0, 0, 65), 0x7f, 2 * 64);
	compare_refusal("NaN in the last key", &p, device, counter, "a score of batch entry 0, head 0, row 65 is NaN or infinite");
	problem_free(&p);
}

static tda_status no_mark(Device *device, int mark)
{
	(void)device;
	return mark == 0 || mark == 1 ? TDA_OK : TDA_INTERNAL;
}

static tda_status say_elapsed(Device *device, int from, int to, double *ms)
{
	(void)device;
	*ms = from == 0 && to == 1 ? 1.5 : 0;
	return TDA_OK;
}

/* What counting takes is known of a device that has a clock. */
static void test_clock(Device *device, tda_kernel *kernel, tda_kernel *counter)
{
	ExploreOptions options = { .device = device, .counter = counter };
	const DeviceOps *own = device->ops;
	DeviceOps ops = *own;
	Exploration result;
	Problem p;

	if (!CHECK(check_case_problem(&cases[1], kernel, 1, &p) == TDA_OK, "%s", tda_error_message()))
		return;
	CHECK(explore_measure(&p, &options, &result) == TDA_OK && isnan(result.count_ms), "without a clock: %g", result.count_ms);
	explore_free(&result);
	ops.mark = no_mark;
	ops.elapsed = say_elapsed;
	device->ops = &ops;
	CHECK(explore_measure(&p, &options, &result) == TDA_OK && result.count_ms == 1.5, "with a clock: %g", result.count_ms);
	explore_free(&result);
	device->ops = own;
	problem_free(&p);
}

static void test_spec(const Spec *spec, const char *tdagen, const char *specs_folder, const char *here, Device *device)
{
	char path[1024], options[256], name[512];
	tda_kernel *kernel, *counter;
	Problem p;

	snprintf(path, sizeof(path), "%s/%s.lua", spec->here ? here : specs_folder, spec->name);
	snprintf(options, sizeof(options), "--plan dense %s", spec->options);
	kernel = compiled_kernel(tdagen, path, options);
	snprintf(options, sizeof(options), "--plan count %s", spec->options);
	counter = compiled_kernel(tdagen, path, options);
	for (size_t c = (size_t)spec->first_case; c < sizeof(cases) / sizeof(cases[0]) && kernel && counter; c++)
		if (CHECK(check_case_problem(&cases[c], kernel, 1, &p) == TDA_OK, "%s", tda_error_message())) {
			snprintf(name, sizeof(name), "%s %s, %s", spec->name, spec->options, cases[c].name);
			compare(name, &p, device, counter);
			problem_free(&p);
		}
	if (kernel && counter && strcmp(spec->name, "tda") == 0 && !*spec->options) {
		test_refusals(device, kernel, counter);
		test_last_key(device, kernel, counter);
		test_clock(device, kernel, counter);
	}
	tda_close(kernel);
	tda_close(counter);
}

int main(int argc, char **argv)
{
	int count = sizeof(specs) / sizeof(specs[0]);
	Device *device = NULL;

	if (argc != 4)
		return 2;
	if (!CHECK(device_open(DEVICE_SIM, &device) == TDA_OK, "%s", tda_error_message()))
		return fixture_result();
	for (int n = 0; n < count; n++)
		test_spec(&specs[n], argv[1], argv[2], argv[3], device);
	CHECK(exact > 3 * count, "only %d cases were compared exactly", exact);
	device_close(device);
	return fixture_result();
}
