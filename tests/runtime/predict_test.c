/*
 * Predicted times against those that were measured, from counts of the same tensors; and what holds of any prediction.
 * Measured: one NVIDIA H100 80GB HBM3, 2026-11-24 (dense sm_80 and f32: 2026-11-22), causal, batch * heads * length = 262144.
 * "mild" and "skewed" are heads of trained models at length 4096, "mixed" both by turns along 16384. With TDA_PREDICT_TABLE set
 * all of them are printed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/predict.h"
#include "fixture.h"

static Manifest manifest(int capability, tda_dtype dtype, int head_dim, int views, const char *plan)
{
	Manifest m = {
		.capability = capability, .capability_exact = capability == 90, .dtype = dtype, .head_dim = head_dim,
		.value_dim = head_dim, .views = views, .l2_normalized = true, .causal = true, .zeros_proved = true,
		.param_count = views,          /* tra learns beta, tda also lambda */
	};

	strcpy(m.plan, plan);
	snprintf(m.target, sizeof(m.target), "sm_%d", capability);
	return m;
}

static tda_shape shape_of(int64_t batch_heads, int64_t length)
{
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = 1;
	shape.heads = shape.kv_heads = batch_heads;
	shape.q_len = shape.k_len = length;
	return shape;
}

static void check_near(const char *name, const char *what, double got, double measured)
{
	CHECK(fabs(got - measured) <= 0.25 * measured, "%s: %s is predicted as %.4f ms, and was %.4f", name, what, got, measured);
	if (getenv("TDA_PREDICT_TABLE"))
		printf("%-28s %-12s measured %8.4f predicted %8.4f %+5.1f %%\n", name, what, measured, got, 100 * (got / measured - 1));
}

/* ---- what was measured ---- */

typedef struct Measured {
	const char *name;
	tda_dtype dtype;
	int head_dim;
	int64_t batch_heads, length, gathered[2];
	double ms[PREDICT_KERNELS], phase[TRAINING_PHASES];        /* 0: not measured */
} Measured;

static const Measured sparse[] = {
	{ "skewed, bf16", TDA_BF16, 64, 64, 4096, { 928, 280688 },
	  { 0, .0515, .0462, .180, .0868, 0, .1257, .1681, .012 }, { .361, .301 } },
	{ "mild, bf16", TDA_BF16, 64, 64, 4096, { 42368, 50816 },
	  { 0, .0522, .0465, .1593, .0621, 0, .0916, .1269, .012 }, { .318, .2265 } },
	{ "mixed, bf16", TDA_BF16, 64, 16, 16384, { 32320, 154596 },
	  { 0, .0519, .0462, .4929, .0846, 0, .1224, .1603, .011 }, { .679, .290 } },
	{ "mixed, f32 ieee", TDA_F32, 64, 16, 16384, { 32320, 154592 },
	  { 0, .0758, .0843, .4962, .1974, 0, .3168, .3258, .011 }, { .853, .648 } },
	{ "random, bf16, 128", TDA_BF16, 128, 16, 16384, { 0, 0 }, { 0, .0922, .0974, .749 }, { 0, 0 } },
	{ "random, bf16, 128", TDA_BF16, 128, 64, 4096, { 0, 0 }, { 0, .0926, .0977, .2577 }, { 0, 0 } },
};

static void test_sparse(const Measured *c)
{
	Manifest m = manifest(90, c->dtype, c->head_dim, 2, "sparse");
	tda_shape shape = shape_of(c->batch_heads, c->length);
	Prediction p;
	const PlanTimes *times = &p.plan[PREDICT_SPARSE];

	predict(&m, &shape, &(PredictCounts){ .gathered = { c->gathered[0], c->gathered[1] } }, &p);
	CHECK(times->known && p.taken == PREDICT_SPARSE, "%s: it is not the sparse plan", c->name);
	CHECK(c->head_dim == 128 || !*times->beyond, "%s was timed, and yet is beyond: %s", c->name, times->beyond);
	for (int k = 0; k < PREDICT_KERNELS; k++)
		if (c->ms[k] > 0)
			check_near(c->name, predict_kernel_names[k], times->kernel_ms[k], c->ms[k]);
	for (int phase = 0; phase < TRAINING_PHASES; phase++)
		if (c->phase[phase] > 0)
			check_near(c->name, phase == PHASE_FORWARD ? "the forward" : "the backward", times->ms[phase], c->phase[phase]);
}

static const struct { int capability; tda_dtype dtype; bool tf32; int head_dim, views; int64_t length; double forward, backward; } dense[] = {
	/* forward; backward, or both where forward is 0 */
	{ 90, TDA_BF16, false, 64,  2, 4096,  0,    2.98 },
	{ 90, TDA_BF16, false, 64,  2, 16384, 0,    10.0 },
	{ 90, TDA_BF16, false, 128, 2, 16384, 0,    16.2 },
	{ 90, TDA_BF16, false, 64,  1, 16384, 1.04, 3.52 },
	{ 90, TDA_BF16, false, 128, 1, 16384, 1.35, 5.72 },
	{ 90, TDA_F32,  false, 64,  2, 16384, 0,    62.5 },
	{ 90, TDA_BF16, false, 64,  1, 4096,  0.37, 1.06 },
	{ 90, TDA_BF16, false, 128, 1, 4096,  0.50, 1.71 },
	{ 90, TDA_BF16, false, 128, 2, 4096,  0.96, 3.89 },
	{ 80, TDA_BF16, false, 64,  1, 4096,  0.50, 1.88 },
	{ 80, TDA_BF16, false, 64,  2, 16384, 3.15, 14.13 },
	{ 80, TDA_BF16, false, 128, 1, 16384, 3.44, 12.56 },
	{ 80, TDA_BF16, false, 128, 2, 4096,  1.57, 8.01 },
	{ 80, TDA_F32,  true,  64,  1, 4096,  1.02, 3.58 },
	{ 80, TDA_F32,  true,  64,  2, 16384, 6.66, 38.66 },
	{ 80, TDA_F32,  true,  128, 1, 16384, 7.02, 38.87 },
	{ 80, TDA_F32,  true,  128, 2, 4096,  3.95, 20.47 },
	{ 80, TDA_F32,  false, 64,  1, 4096,  1.49, 6.25 },
	{ 80, TDA_F32,  false, 128, 1, 16384, 11.64, 63.88 },
	{ 80, TDA_F32,  false, 128, 2, 4096,  7.48, 32.15 },
};

static void test_dense(size_t n)
{
	Manifest m = manifest(dense[n].capability, dense[n].dtype, dense[n].head_dim, dense[n].views, "dense");
	tda_shape shape = shape_of(262144 / dense[n].length, dense[n].length);
	Prediction p;
	const PlanTimes *times = &p.plan[PREDICT_DENSE];
	char name[64];

	m.tf32 = dense[n].tf32;
	snprintf(name, sizeof(name), "dense %d %s%s %d, %d, %d", dense[n].capability, dtype_text(m.dtype), m.tf32 ? " tf32" : "",
	         m.head_dim, m.views, (int)dense[n].length);
	predict(&m, &shape, NULL, &p);
	CHECK(!*times->beyond, "%s was timed, and yet is beyond: %s", name, times->beyond);
	if (dense[n].forward > 0) {
		check_near(name, "forward", times->ms[PHASE_FORWARD], dense[n].forward);
		check_near(name, "backward", times->ms[PHASE_BACKWARD], dense[n].backward);
	} else {
		check_near(name, "both", times->ms[PHASE_FORWARD] + times->ms[PHASE_BACKWARD], dense[n].backward);
	}
}

/* ---- what holds of all predictions ---- */

static void check_no_less(const char *what, const PlanTimes *less, const PlanTimes *more)
{
	for (int k = 0; k < PREDICT_KERNELS; k++)
		CHECK(more->kernel_ms[k] >= less->kernel_ms[k], "%s: %s takes %g ms, and %g with more to do", what,
		      predict_kernel_names[k], less->kernel_ms[k], more->kernel_ms[k]);
}

static void test_monotone(void)
{
	static const tda_dtype dtypes[] = { TDA_BF16, TDA_F32 };

	for (int d = 0; d < 2; d++) {
		Manifest m = manifest(90, dtypes[d], 64, 2, "sparse");
		Prediction before, after;
		tda_shape shape = shape_of(1, 1);

		predict(&m, &shape, &(PredictCounts){ .gathered = { 0, 0 } }, &before);
		for (int64_t length = 1; length < 70000; length = length * 3 / 2 + 1) {
			shape = shape_of(4, length);
			predict(&m, &shape, &(PredictCounts){ .gathered = { 0, 0 } }, &after);
			check_no_less("longer", &before.plan[PREDICT_SPARSE], &after.plan[PREDICT_SPARSE]);
			before = after;
		}
		for (int64_t keys = 1; keys < 1000000; keys *= 10)
			for (int view = 0; view < 2; view++) {
				PredictCounts more = { .gathered = { 1000, 1000 } };

				more.gathered[view] += keys;
				predict(&m, &shape, &(PredictCounts){ .gathered = { 1000, 1000 } }, &before);
				predict(&m, &shape, &more, &after);
				check_no_less("more keys", &before.plan[PREDICT_SPARSE], &after.plan[PREDICT_SPARSE]);
				CHECK(after.plan[PREDICT_SPARSE].ms[PHASE_BACKWARD] > before.plan[PREDICT_SPARSE].ms[PHASE_BACKWARD],
				      "gathering costs nothing");
			}
	}
}

static void test_small(void)
{
	Manifest m = manifest(90, TDA_BF16, 64, 2, "sparse");
	tda_shape shape = shape_of(1, 1);
	Prediction p;

	predict(&m, &shape, &(PredictCounts){ .gathered = { 1, 1 } }, &p);
	CHECK(p.plan[PREDICT_SPARSE].ms[PHASE_FORWARD] >= 4 * 0.002 && p.plan[PREDICT_SPARSE].ms[PHASE_FORWARD] < 0.1,
	      "one row takes %g ms", p.plan[PREDICT_SPARSE].ms[PHASE_FORWARD]);
	CHECK(strstr(p.plan[PREDICT_SPARSE].beyond, "length 1, 1 blocks of 64 rows"), "beyond: %s", p.plan[PREDICT_SPARSE].beyond);
	shape.q_len = shape.k_len = 0;
	predict(&m, &shape, &(PredictCounts){ .gathered = { 0, 0 } }, &p);
	CHECK(p.plan[PREDICT_SPARSE].ms[PHASE_FORWARD] == 0, "nothing to do takes time");
}

static void test_huge(void)
{
	static const char *const plans[] = { "dense", "sparse" };

	for (int plan = 0; plan < PREDICT_PLANS; plan++) {
		Manifest m = manifest(90, TDA_F32, 256, 4, plans[plan]);
		tda_shape shape = shape_of(INT32_MAX, (int64_t)1 << 30);
		Prediction p;

		shape.batch = INT32_MAX;
		predict(&m, &shape, &(PredictCounts){ .gathered = { INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX } }, &p);
		for (int phase = 0; phase < TRAINING_PHASES; phase++)
			CHECK(isfinite(p.plan[plan].ms[phase]) && p.plan[plan].ms[phase] > 1e20, "%s: %g ms", plans[plan],
			      p.plan[plan].ms[phase]);
	}
}

/* Whatever a spec may be, there is a rate for it; and what is far from all that was timed says so. */
static void test_any(void)
{
	tda_shape shape = shape_of(64, 4096);

	for (int head_dim = 8; head_dim <= 256; head_dim += 8)
		for (int n = 0; n < 2 * 4 * 4 * 2; n++) {
			Manifest m = manifest(n & 1 ? 80 : 90, (tda_dtype[]){ TDA_BF16, TDA_F16, TDA_F32, TDA_F32 }[n / 2 % 4], head_dim,
			                      1 + n / 8 % 4, n / 32 ? "sparse" : "dense");
			PredictPlan plan = n / 32 ? PREDICT_SPARSE : PREDICT_DENSE;
			bool known_dim = head_dim == 64 || head_dim == 128, extrapolated;
			Prediction p;

			m.tf32 = n / 2 % 4 == 3;
			predict(&m, &shape, &(PredictCounts){ .gathered = { 1000 } }, &p);
			extrapolated = !known_dim || m.views > 2 || m.dtype == TDA_F16 ||
			               (plan == PREDICT_SPARSE && (m.views != 2 || m.capability == 80 || head_dim != 64 || m.tf32));
			CHECK(isfinite(p.plan[plan].ms[PHASE_FORWARD]) && p.plan[plan].ms[PHASE_BACKWARD] > 0, "no time");
			CHECK(extrapolated == (*p.plan[plan].beyond != 0), "%s, head_dim %d, %s, %d views, beyond: '%s'", m.target, head_dim,
			      dtype_text(m.dtype), m.views, p.plan[plan].beyond);
		}
}

static void test_beyond(void)
{
	Manifest m = manifest(90, TDA_BF16, 64, 2, "sparse");
	tda_shape shape = shape_of(64, 4096);
	Prediction p;
	const char *beyond = p.plan[PREDICT_SPARSE].beyond;

	predict(&m, &shape, &(PredictCounts){ .gathered = { 8000000, 0 } }, &p);
	CHECK(!strcmp(beyond, "47% of keys surviving"), "beyond: %s", beyond);
	predict(&m, &shape, &(PredictCounts){ { 80000, 80000 }, 0.61 }, &p);
	CHECK(!strcmp(beyond, "survivors in 61% of tiles"), "beyond: %s", beyond);
	predict(&m, &shape, &(PredictCounts){ { 80000, 80000 }, 0.6 }, &p);
	CHECK(!*beyond, "beyond: %s", beyond);
	strcpy(m.plan, "dense");
	predict(&m, &shape, &(PredictCounts){ .gathered = { 8000000, 0 } }, &p);
	CHECK(!strcmp(p.plan[PREDICT_DENSE].beyond, "47% of keys surviving"), "a dense plan skips products, too: %s", p.plan[PREDICT_DENSE].beyond);
	strcpy(m.plan, "sparse");
	m.window = 100;
	m.value_dim = 32;
	m.rms_norm = true;
	shape.kv_heads = 8;
	shape.q_len = 65536;
	predict(&m, &shape, &(PredictCounts){ .gathered = { 0, 0 } }, &p);
	CHECK(!strcmp(beyond, "value_dim 32, this mask, an output norm, shared heads of k and v, q_len other than k_len, length 65536"),
	      "beyond: %s", beyond);
	m.causal = m.zeros_proved = false;
	m.window = 0;
	shape = shape_of(64, 4096);
	strcpy(m.plan, "dense");
	predict(&m, &shape, NULL, &p);
	beyond = p.plan[PREDICT_DENSE].beyond;
	CHECK(!strcmp(beyond, "value_dim 32, weights other than exact zeros, this mask, an output norm"), "beyond: %s", beyond);
}

/* ---- which plan ---- */

static void test_choice(void)
{
	static const char lines[] = "//! compiler 0\n//! target sm_90a\n//! spec t 0\n//! plan auto\n//! dtype bf16\n//! head_dim 64\n"
		"//! value_dim 64\n//! zeros proved\n//! tolerance 1e-5 2e-5\n//! slack 1e-9\n//! views 1\n//! normalize l2\n"
		"//! mask causal\n//! threshold 0.5\n//! score s\n//! weight s tau - relu\n//! combine 1 1\n"
		"//! kernel forward tda_forward 128 0 (1-min(1,min(q_len/64,k_len/512)))*(batch*heads)\n//! arg i64 q_len\n"
		"//! kernel forward tda_sparse_forward 128 0 min(1,min(q_len/64,k_len/512))*(batch*heads)\n//! arg i64 q_len\n";
	static const struct { int64_t q_len, k_len; PredictPlan plan; } cases[] = {
		{ 511, 511, PREDICT_DENSE }, { 512, 512, PREDICT_SPARSE }, { 63, 16384, PREDICT_DENSE }, { 64, 16384, PREDICT_SPARSE },
	};
	char *text = fixture_seal(lines, fixture_body);
	Manifest *m = NULL;
	Prediction p;

	CHECK(manifest_parse(text, strlen(text), &m) == TDA_OK, "%s", tda_error_message());
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]) && m; n++) {
		tda_shape shape = shape_of(4, cases[n].k_len);

		shape.q_len = cases[n].q_len;
		predict(m, &shape, &(PredictCounts){ .gathered = { 10 } }, &p);
		CHECK(p.taken == cases[n].plan, "%d rows, %d keys: %s", (int)shape.q_len, (int)shape.k_len, predict_plan_names[p.taken]);
		CHECK(p.plan[PREDICT_DENSE].known && p.plan[PREDICT_SPARSE].known, "the file has both plans");
		predict(m, &shape, NULL, &p);
		CHECK(p.plan[PREDICT_DENSE].known && !p.plan[PREDICT_SPARSE].known, "without counts nothing is known of gathering");
	}
	strcpy(m->plan, "sparse");
	predict(m, &(tda_shape){ .batch = 1, .heads = 1, .kv_heads = 1, .q_len = 9, .k_len = 9 }, NULL, &p);
	CHECK(!p.plan[PREDICT_DENSE].known && !p.plan[PREDICT_SPARSE].known, "a sparse plan alone, without counts");
	manifest_free(m);
	free(text);
}

int main(void)
{
	for (size_t n = 0; n < sizeof(sparse) / sizeof(sparse[0]); n++)
		test_sparse(&sparse[n]);
	for (size_t n = 0; n < sizeof(dense) / sizeof(dense[0]); n++)
		test_dense(n);
	test_monotone();
	test_small();
	test_huge();
	test_any();
	test_beyond();
	test_choice();
	return fixture_result();
}
