/*
 * The outputs are those of the f64 reference, each from inputs as rounded to its spec's dtype. Of the survivors a bit a pair is
 * kept: whether it survives in any view.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "check_case.h"
#include "diff.h"
#include "error.h"
#include "explore_report.h"
#include "inputs.h"
#include "module.h"

typedef struct Side {
	Problem problem;
	Reference reference;
	ExploreRun run;
	uint8_t *survives;             /* [batch * heads, q_len, key_bytes]: a bit a key */
	size_t key_bytes;
} Side;

/* ---- running one ---- */

static void mark_survivors(void *user, const PairRun *pairs)
{
	Side *side = user;
	const tda_shape *shape = &side->problem.shape;
	uint8_t *row = side->survives + (size_t)(pairs->batch_head * shape->q_len + pairs->row) * side->key_bytes;

	for (int n = 0; n < pairs->count; n++)
		if (pairs->weight[n] != 0)
			row[(pairs->first + n) / 8] |= (uint8_t)(1u << (pairs->first + n) % 8);
}

static size_t bitmap_bytes(const Side *side)
{
	const tda_shape *shape = &side->problem.shape;

	return (size_t)(shape->batch * shape->heads * shape->q_len) * side->key_bytes;
}

static tda_status run_side(Side *side, const DiffOptions *options)
{
	const ExploreOptions explore = { .gradients = true };
	Problem *p = &side->problem;
	double memory = 0.25 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
	tda_status status;

	side->run = (ExploreRun){
		.in = options->in, .layer = options->layer, .shape = p->shape, .manifest = p->manifest,
		.has = NEEDS_GRADIENTS | (p->manifest->views > 1 ? NEEDS_VIEWS : 0),
	};
	side->key_bytes = (size_t)(p->shape.k_len + 7) / 8;
	if ((double)bitmap_bytes(side) > memory)
		return tda_fail(TDA_UNSUPPORTED, "a bit for each pair takes %.1f GB, more than a quarter of this machine's memory: give "
		                "shorter tensors", 1e-9 * (double)bitmap_bytes(side));
	if (!(side->survives = calloc(bitmap_bytes(side) + 1, 1)))
		return tda_fail_memory();
	if ((status = explore_measure(p, &explore, &side->run.result)))
		return status;
	explore_predict(p, &side->run.result.all, &side->run.predicted);
	return problem_measure(p, true, mark_survivors, side, &side->reference);
}

static tda_status load_side(Side *side, tda_kernel *kernel, const tda_kernel *other, const DiffOptions *options, bool *drawn)
{
	tda_status status = inputs_load_shared(options->in, kernel, other, options->layer, GRAD_OPTIONAL, &side->problem);

	if (status)
		return status;
	if ((*drawn = side->problem.tensor[TENSOR_DO].absent))
		check_random_grad(&side->problem, options->seed);
	if ((status = run_side(side, options)) == TDA_BAD_ARGUMENT)
		tda_fail_within(status, "%s: ", options->in);
	return status;
}

static void free_side(Side *side)
{
	problem_reference_free(&side->reference);
	explore_free(&side->run.result);
	free(side->survives);
	if (side->problem.kernel)
		problem_free(&side->problem);
}

/* ---- what differs ---- */

static void print_value(const ExploreMetric *metric, double value, FILE *out)
{
	if (isnan(value))
		fprintf(out, " %14s", "-");
	else
		fprintf(out, metric->unit == METRIC_SHARE ? " %13.5g%%" : " %14.6g", metric->unit == METRIC_SHARE ? 100 * value : value);
}

static void print_metrics(const Side side[2], FILE *out)
{
	for (int n = 0; n < explore_metric_count; n++) {
		const ExploreMetric *metric = &explore_metrics[n];
		double value[2];

		for (int s = 0; s < 2; s++)
			value[s] = explore_value(&side[s].run, metric, &side[s].run.result.all);
		if ((isnan(value[0]) && isnan(value[1])) || metric->of_run)
			continue;
		fprintf(out, "  %-12s", metric->title);
		print_value(metric, value[0], out);
		print_value(metric, value[1], out);
		fputc('\n', out);
	}
}

static void print_survivors(const Side side[2], FILE *out)
{
	long long both = 0, alone[2] = {0};

	for (size_t n = 0; n < bitmap_bytes(&side[0]); n++) {
		unsigned a = side[0].survives[n], b = side[1].survives[n];

		both += __builtin_popcount(a & b);
		alone[0] += __builtin_popcount(a & ~b);
		alone[1] += __builtin_popcount(b & ~a);
	}
	fprintf(out, "pairs that survive in any view: %lld in both, %lld in the first alone, %lld in the second alone\n", both, alone[0],
	        alone[1]);
}

/* The 2-norm of b - a, relative to that of a. */
static void print_difference(const char *prefix, const char *name, const double *a, const double *b, int64_t count, FILE *out)
{
	double error = 0, norm = 0;

	for (int64_t n = 0; n < count; n++) {
		error += (b[n] - a[n]) * (b[n] - a[n]);
		norm += a[n] * a[n];
	}
	fprintf(out, "  %s%-*s", prefix, 12 - (int)strlen(prefix), name);
	if (error == 0)
		fprintf(out, " %14s\n", "0");
	else if (norm == 0)
		fprintf(out, " %14s\n", "from 0");
	else
		fprintf(out, " %14.3e\n", sqrt(error / norm));
}

static void print_tensor(const Side side[2], int tensor, const double *a, const double *b, FILE *out)
{
	const Operand *operand[2] = { &side[0].problem.tensor[tensor], &side[1].problem.tensor[tensor] };

	if (operand[0]->dim != operand[1]->dim)
		fprintf(out, "  %-12s %14s\n", tensor_name(tensor), "other shape");
	else
		print_difference("", tensor_name(tensor), a, b, operand_rows(operand[0]) * operand[0]->dim, out);
}

static void print_params(const Side side[2], FILE *out)
{
	const Manifest *a = side[0].problem.manifest, *b = side[1].problem.manifest;

	for (int p = 0; p < a->param_count; p++) {
		int q = manifest_find_param(b, a->params[p].name, strlen(a->params[p].name));
		int64_t length = side[0].problem.param[p].dim;

		if (q >= 0 && side[1].problem.param[q].dim == length)
			print_difference("d", a->params[p].name, side[0].reference.dparam[p], side[1].reference.dparam[q], length, out);
	}
}

static void print_differences(const Side side[2], FILE *out)
{
	const Reference *a = &side[0].reference, *b = &side[1].reference;
	int views = side[0].problem.manifest->views < side[1].problem.manifest->views ? side[0].problem.manifest->views
	                                                                              : side[1].problem.manifest->views;

	fputs("2-norm of the difference, relative to the first:\n", out);
	print_tensor(side, TENSOR_O, a->o, b->o, out);
	for (int v = 0; v < views; v++) {
		print_tensor(side, TENSOR_DQ + v, a->dq[v], b->dq[v], out);
		print_tensor(side, TENSOR_DK + v, a->dk[v], b->dk[v], out);
	}
	print_tensor(side, TENSOR_DV, a->dv, b->dv, out);
	print_params(side, out);
}

/* ---- time ---- */

/* The plan that is taken, or, where what survives is not known, a dense one; NULL: there is none. */
static const PlanTimes *predicted_plan(const Prediction *p)
{
	if (p->plan[p->taken].known)
		return &p->plan[p->taken];
	return p->plan[PREDICT_DENSE].known ? &p->plan[PREDICT_DENSE] : NULL;
}

static void print_predicted(const tda_shape *s, const Manifest *m, const Prediction p[2], FILE *out)
{
	const PlanTimes *times[2] = { predicted_plan(&p[0]), predicted_plan(&p[1]) };

	fprintf(out, "predicted time on one " PREDICT_DEVICE ", kernels for %s: batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n",
	        m->target, (long long)s->batch, (long long)s->heads, (long long)s->kv_heads, (long long)s->q_len, (long long)s->k_len);
	if (!times[0] || !times[1]) {
		fputs("  none: how long a sparse plan takes depends on what survives, which --in lets tdagen count\n", out);
		return;
	}
	fprintf(out, "  %-12s %14s %14s %10s\n  %-12s %14s %14s\n", "", "first", "second", "ratio", "plan",
	        predict_plan_names[times[0] - p[0].plan], predict_plan_names[times[1] - p[1].plan]);
	for (int phase = 0; phase < TRAINING_PHASES; phase++)
		fprintf(out, "  %-12s %11.4f ms %11.4f ms %10.3f\n", phase == PHASE_FORWARD ? "forward" : "backward",
		        times[0]->ms[phase], times[1]->ms[phase], times[1]->ms[phase] / times[0]->ms[phase]);
	for (int n = 0; n < 2; n++) {
		if (*times[n]->beyond)
			fprintf(out, "  the %s is extrapolated, as nothing was timed with: %s\n", n ? "second" : "first", times[n]->beyond);
		if (times[n] != &p[n].plan[p[n].taken])
			fprintf(out, "  the %s takes its sparse plan at this shape: for that, --in lets tdagen count what survives\n",
			        n ? "second" : "first");
	}
}

/* A shape at which plans were timed. */
void diff_predict(tda_kernel *const kernels[2], FILE *out)
{
	tda_shape shape = TDA_SHAPE_INIT;
	Prediction p[2];

	shape.batch = 1;
	shape.heads = shape.kv_heads = 16;
	shape.q_len = shape.k_len = 16384;
	for (int n = 0; n < 2; n++)
		predict(kernels[n]->manifest, &shape, NULL, &p[n]);
	print_predicted(&shape, kernels[0]->manifest, p, out);
}

/* ---- the whole ---- */

tda_status diff_run(tda_kernel *const kernels[2], const DiffOptions *options, FILE *out)
{
	Side side[2] = {0};
	bool drawn = false;
	tda_status status = TDA_OK;

	for (int s = 0; s < 2 && !status; s++)
		if ((status = load_side(&side[s], kernels[s], kernels[1 - s], options, &drawn)))
			tda_fail_within(status, "the %s spec: ", s ? "second" : "first");
	if (!status) {
		const tda_shape *shape = &side[0].problem.shape;

		fprintf(out, "numbers on %s, layer %d: batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n", options->in, options->layer,
		        (long long)shape->batch, (long long)shape->heads, (long long)shape->kv_heads, (long long)shape->q_len,
		        (long long)shape->k_len);
		if (drawn)
			fprintf(out, "do: drawn at random, seed %llu\n", (unsigned long long)options->seed);
		fprintf(out, "  %-12s %14s %14s\n", "", "first", "second");
		print_metrics(side, out);
		print_survivors(side, out);
		print_differences(side, out);
		fputc('\n', out);
		print_predicted(shape, side[0].problem.manifest, (Prediction[]){ side[0].run.predicted, side[1].run.predicted }, out);
	}
	for (int s = 0; s < 2; s++)
		free_side(&side[s]);
	return status;
}
