/*
 * The bounds. Let e be the error of a tensor, r the reference, n the reference's noise (reference.h): about as large
 * as r where terms have random signs, larger where they cancel, which is no fault of the kernel.
 *   - |e| <= tolerance * max(|r|, |n|) + |c|, 2-norms over the whole tensor.
 *   - For each row with a survivor, |e_row| <= 4 * tolerance * max(|r_row|, |n_row|, rms / 4) + |c_row|, where rms is
 *     the root mean square of |r_row| over those rows: rows far below it are what the rounding of a score has left of a
 *     weight near the threshold.
 *   - c is how far the reference itself moves with the rounding of scores and thresholds (Reference.change): the
 *     weight and derivatives of a pair are evaluated again at s + d and s - d, and what that changes of a product,
 *     behind an output norm also through the norm (there with the rounding of weights to factors, too), is summed as the
 *     noise is. d is slack / 4 (reference_delta), 5e-7 where sums are float32's. It counts where a derivative is steep or
 *     jumps at the threshold, such as 1.5 sqrt(s - tau); it is no margin for a threshold that is wrong by many times d.
 *   - A row without a survivor is exactly 0.
 *   - Rows with a pair within `slack` of the threshold are left out of the two rules for rows, but counted: more such
 *     pairs than 1e-4 + 100 * slack of the survivors, and 2, fail the case. (Up to about 50 scores in a unit of score
 *     lie next to the threshold for each one above it, in the data of these cases.)
 *   - Non-finite values must be where the reference has them. The reference may be finite where a gradient, or o with
 *     a NaN in v, is not, within the batch entry and key head that holds the NaN: rows of one tile share products.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "check_case.h"
#include "error.h"

/* One tensor to compare: rows of dim values. */
typedef struct Comparison {
	const char *name;
	const double *got, *want;
	int64_t rows, dim;
	const int32_t *survivors, *near;       /* per row; NULL for parameters */
	const double *noise, *change;          /* per row; of parameters: per entry */
	double tolerance;
	int64_t spread_rows;                   /* the first so many rows may be non-finite where the reference is finite */
} Comparison;

typedef struct Outcome {
	double error;                  /* |e| / (max(|r|, |n|) + |c| / bound): above the bound where |e| is */
	double worst;                  /* of the rows: the same with max(|r_row|, |n_row|, rms / 4) and c_row */
	int64_t worst_row;             /* -1: none was compared */
	int64_t compared;
	const char *fault;             /* NULL: none */
} Outcome;

static double row_norm(const double *row, int64_t dim)
{
	double sum = 0;

	for (int64_t d = 0; d < dim; d++)
		sum += isfinite(row[d]) ? row[d] * row[d] : 0;
	return sqrt(sum);
}

static double row_error(const Comparison *c, int64_t row)
{
	double sum = 0;

	for (int64_t n = row * c->dim; n < (row + 1) * c->dim; n++)
		if (isfinite(c->got[n]) && isfinite(c->want[n]))
			sum += (c->got[n] - c->want[n]) * (c->got[n] - c->want[n]);
	return sqrt(sum);
}

static const char *find_fault(const Comparison *c, int64_t row)
{
	for (int64_t n = row * c->dim; n < (row + 1) * c->dim; n++) {
		if (!isfinite(c->want[n]) && isfinite(c->got[n]))
			return "finite, must be NaN";
		if (isfinite(c->want[n]) && !isfinite(c->got[n]) && row >= c->spread_rows)
			return "NaN, must be finite";
		if (c->survivors && c->survivors[row] == 0 && c->near[row] == 0 && isfinite(c->got[n]) && c->got[n] != 0 &&
		    c->want[n] == 0)
			return "not 0, but nothing survives";
	}
	return NULL;
}

static bool row_counts(const Comparison *c, int64_t row)
{
	return c->survivors && c->survivors[row] > 0 && c->near[row] == 0;
}

/* What a row's error is measured against. */
static double row_scale(const Comparison *c, int64_t row)
{
	return fmax(row_norm(c->want + row * c->dim, c->dim), row_norm(c->noise + row, 1));
}

static Outcome compare(const Comparison *c)
{
	Outcome out = { .worst_row = -1 };
	double error = 0, norm = 0, squares = 0, rms;
	int64_t entries;

	for (int64_t r = 0; r < c->rows; r++) {
		double e = row_error(c, r), w = row_norm(c->want + r * c->dim, c->dim);
		const char *fault = find_fault(c, r);

		error += e * e;
		norm += w * w;
		squares += row_counts(c, r) ? w * w : 0;
		out.compared += row_counts(c, r);
		if (fault && !out.fault) {
			out.fault = fault;
			out.worst_row = r;
		}
	}
	rms = out.compared ? sqrt(squares / (double)out.compared) : 0;
	entries = c->survivors ? c->rows : c->dim;
	norm = fmax(sqrt(norm), row_norm(c->noise, entries)) + row_norm(c->change, entries) / c->tolerance;
	out.error = error == 0 ? 0 : sqrt(error) / norm;
	for (int64_t r = 0; r < c->rows && !out.fault; r++) {
		double e = row_error(c, r), relative;

		if (!row_counts(c, r))
			continue;
		relative = e == 0 ? 0 : e / (fmax(row_scale(c, r), rms / 4) + row_norm(c->change + r, 1) / (4 * c->tolerance));
		if (out.worst_row < 0 || relative > out.worst) {
			out.worst = relative;
			out.worst_row = r;
		}
	}
	if (!out.fault && !(out.error <= c->tolerance))
		out.fault = "above the bound";
	if (!out.fault && !(out.worst <= 4 * c->tolerance))
		out.fault = "a row is above 4 x the bound";
	return out;
}

static void print_outcome(const CheckCase *kase, const Comparison *c, const Outcome *o, FILE *out)
{
	char row[32] = "-", worst[24] = "-";

	if (o->worst_row >= 0) {
		snprintf(row, sizeof(row), "%lld", (long long)o->worst_row);
		snprintf(worst, sizeof(worst), "%.1e", o->worst);
	}
	fprintf(out, "%-18s %-12s %10.1e %10.0e %10s %8s   %s\n", kase->name, c->name, o->error, c->tolerance, worst, row,
	        o->fault ? "FAIL" : "ok");
	if (o->fault)
		fprintf(out, "%-18s %-12s ^ %s\n", "", "", o->fault);
}

/* ---- one case ---- */

typedef struct Run {
	const CheckCase *kase;
	Problem *problem;
	const Reference *reference;
	FILE *out;
	int *failures;
} Run;

static tda_status compare_operand(const Run *run, const char *name, const Operand *operand, Comparison c)
{
	double *got = calloc((size_t)(operand_rows(operand) * operand->dim) + 1, sizeof(double));
	Outcome outcome;

	if (!got)
		return tda_fail_memory();
	operand_unpack(operand, got);
	c.name = name;
	c.got = got;
	c.rows = operand_rows(operand);
	c.dim = operand->dim;
	outcome = compare(&c);
	print_outcome(run->kase, &c, &outcome, run->out);
	*run->failures += outcome.fault != NULL;
	free(got);
	return TDA_OK;
}

static bool has_nan(Special special)
{
	return special == SPECIAL_NAN_Q || special == SPECIAL_NAN_K || special == SPECIAL_NAN_V || special == SPECIAL_INF_K;
}

static tda_status compare_tensor(const Run *run, int tensor, const double *want, const double *noise,
                                 const double *change, bool by_key)
{
	const Reference *ref = run->reference;
	const Operand *operand = &run->problem->tensor[tensor];
	bool spreads = has_nan(run->kase->special) && (tensor != TENSOR_O || run->kase->special == SPECIAL_NAN_V);
	Comparison c = {
		.want = want, .noise = noise, .change = change,
		.survivors = by_key ? ref->key_survivors : ref->row_survivors,
		.near = by_key ? ref->key_near : ref->row_near,
		.tolerance = ref->manifest->tolerance[tensor == TENSOR_O ? PHASE_FORWARD : PHASE_BACKWARD],
		.spread_rows = spreads ? (by_key ? ref->k_len : ref->heads / ref->kv_heads * ref->q_len) : 0,
	};

	return compare_operand(run, tensor_name(tensor), operand, c);
}

static tda_status compare_param(const Run *run, int param)
{
	const Reference *ref = run->reference;
	const Operand *operand = &run->problem->dparam[param];
	char name[MANIFEST_NAME_BYTES + 1] = "d";
	Comparison c = {
		.want = ref->dparam[param], .noise = ref->noise->dparam[param], .change = ref->change->dparam[param],
		.tolerance = ref->manifest->tolerance[PHASE_BACKWARD],
		.spread_rows = has_nan(run->kase->special) ? 1 : 0,
	};

	strncat(name, ref->manifest->params[param].name, sizeof(name) - 2);
	return compare_operand(run, name, operand, c);
}

static tda_status compare_all(const Run *run)
{
	const Reference *ref = run->reference;
	double limit = (1e-4 + 100 * ref->manifest->slack) * (double)ref->survivors + 2;
	tda_status status = compare_tensor(run, TENSOR_O, ref->o, ref->noise->o, ref->change->o, false);

	for (int v = 0; v < ref->manifest->views && !status; v++) {
		status = compare_tensor(run, TENSOR_DQ + v, ref->dq[v], ref->noise->dq[v], ref->change->dq[v], false);
		if (!status)
			status = compare_tensor(run, TENSOR_DK + v, ref->dk[v], ref->noise->dk[v], ref->change->dk[v], true);
	}
	if (!status)
		status = compare_tensor(run, TENSOR_DV, ref->dv, ref->noise->dv, ref->change->dv, true);
	for (int p = 0; p < ref->manifest->param_count && !status; p++)
		status = compare_param(run, p);
	if (!status && (double)ref->near > limit) {
		fprintf(run->out, "%-18s %lld pairs are within %g of the threshold: more than %.0f  FAIL\n", run->kase->name,
		        (long long)ref->near, ref->manifest->slack, limit);
		++*run->failures;
	}
	return status;
}

/* Runs a second time over other undefined contents: the outputs must have the same bits. */
static tda_status run_twice(Problem *p, const char **different)
{
	enum { FIRST_POISON = 0xff, SECOND_POISON = 0x3c };    /* NaN in every dtype; small numbers in every dtype */
	unsigned char *first[TENSOR_COUNT + TDA_MAX_PARAMS] = { NULL };
	Operand *outputs[TENSOR_COUNT + TDA_MAX_PARAMS];
	tda_status status;
	int count = 0;

	for (int t = 0; t < TENSOR_COUNT; t++)
		if (problem_has_tensor(p, t) && p->tensor[t].output)
			outputs[count++] = &p->tensor[t];
	for (int n = 0; n < p->manifest->param_count; n++)
		outputs[count++] = &p->dparam[n];
	*different = NULL;
	if ((status = problem_poison(p, FIRST_POISON)) || (status = problem_launch(p, true, true)) ||
	    (status = problem_fetch(p, FIRST_POISON, true)))
		return status;
	for (int n = 0; n < count && !status; n++) {
		first[n] = malloc(outputs[n]->bytes + 1);
		if (first[n])
			memcpy(first[n], outputs[n]->host, outputs[n]->bytes);
		else
			status = tda_fail_memory();
	}
	if (!status && !(status = problem_poison(p, SECOND_POISON)) && !(status = problem_launch(p, true, true)))
		status = problem_fetch(p, SECOND_POISON, true);
	for (int n = 0; n < count && !status; n++) {
		/* padding keeps the poison of its run, so rows are compared as values are: through unpacking */
		size_t values = (size_t)(operand_rows(outputs[n]) * outputs[n]->dim);
		double *a = calloc(2 * values + 1, sizeof(double)), *b = a + values;
		Operand before = *outputs[n];

		if (!a) {
			status = tda_fail_memory();
			break;
		}
		before.host = first[n];
		operand_unpack(&before, a);
		operand_unpack(outputs[n], b);
		if (memcmp(a, b, values * sizeof(double)) != 0)
			*different = outputs[n] < p->tensor + TENSOR_COUNT && outputs[n] >= p->tensor
			                     ? tensor_name((int)(outputs[n] - p->tensor)) : "a parameter's gradient";
		free(a);
	}
	for (int n = 0; n < count; n++)
		free(first[n]);
	return status;
}

/* Runs the problem, which has the case's data, and prints its part of the table. */
static tda_status run_problem(const CheckCase *kase, Problem *problem, Device *device, FILE *out, int *failures)
{
	Reference reference;
	Run run = { kase, problem, &reference, out, failures };
	const char *different = NULL;
	tda_status status = problem_place(problem, device);

	if (!status)
		status = run_twice(problem, &different);
	if (status == TDA_INTERNAL || status == TDA_CUDA_ERROR) {
		/* what the kernels did wrong, not what this machine lacks; on a GPU nothing more can be run after it */
		fprintf(out, "%-18s %s  FAIL\n", kase->name, tda_error_message());
		++*failures;
		return status == TDA_INTERNAL ? TDA_OK : status;
	}
	if (!status)
		status = problem_reference(problem, true, &reference);
	if (!status) {
		if (different) {
			fprintf(out, "%-18s two runs give different bits in %s  FAIL\n", kase->name, different);
			++*failures;
		}
		status = compare_all(&run);
		fprintf(out, "%-18s %lld of %lld pairs survive, %lld at the threshold\n", "", (long long)reference.survivors,
		        (long long)reference.visible, (long long)reference.near);
		problem_reference_free(&reference);
	}
	return status;
}

static tda_status run_case(const CheckCase *kase, tda_kernel *kernel, Device *device, uint64_t seed, FILE *out,
                           int *failures)
{
	Problem problem;
	tda_status status = check_case_problem(kase, kernel, seed, &problem);

	if (status)
		return status;
	status = run_problem(kase, &problem, device, out, failures);
	problem_free(&problem);
	return status;
}

static void print_header(FILE *out)
{
	fprintf(out, "%-18s %-12s %10s %10s %10s %8s\n", "case", "tensor", "error", "bound", "worst row", "row");
}

static void print_result(const Manifest *m, int count, const Device *device, int failures, FILE *out)
{
	fprintf(out, "%s: %d %s on %s, %d failures: %s\n", m->spec_name, count, count == 1 ? "case" : "cases",
	        device->description, failures, failures ? "FAIL" : "ok");
}

tda_status check_run(tda_kernel *kernel, Device *device, const CheckOptions *options, FILE *out, int *failures)
{
	CaseList longest = options->quick ? LIST_QUICK : options->large ? LIST_LARGE : LIST_FULL;
	tda_status status = TDA_OK;
	int count = 0;

	*failures = 0;
	print_header(out);
	for (int c = 0; c < check_case_count && !status; c++) {
		if (check_cases[c].list > longest || !check_case_applies(&check_cases[c], kernel->manifest))
			continue;
		count++;
		status = run_case(&check_cases[c], kernel, device, options->seed + (uint64_t)c * 7919, out, failures);
	}
	if (!status)
		print_result(kernel->manifest, count, device, *failures, out);
	return status;
}

/* Where the reference is not finite, a case says which other values may not be; data of others' does not. */
static tda_status require_finite(const Problem *p)
{
	for (int t = 0; t < TENSOR_COUNT; t++) {
		const Operand *o = &p->tensor[t];
		size_t values = problem_has_tensor(p, t) && !o->output ? (size_t)(operand_rows(o) * o->dim) : 0;
		double *unpacked = calloc(values + 1, sizeof(double));
		bool finite = true;

		if (!unpacked)
			return tda_fail_memory();
		if (values)
			operand_unpack(o, unpacked);
		for (size_t n = 0; n < values && finite; n++)
			finite = isfinite(unpacked[n]);
		free(unpacked);
		if (!finite)
			return tda_fail(TDA_BAD_ARGUMENT, "'%s' holds a value that is not finite as %s: a check needs finite inputs",
			                tensor_name(t), dtype_text(o->dtype));
	}
	return TDA_OK;
}

tda_status check_problem(Problem *problem, const char *name, Device *device, FILE *out, int *failures)
{
	const CheckCase given = { .name = name };
	tda_status status = require_finite(problem);

	*failures = 0;
	if (status)
		return status;
	print_header(out);
	if (!(status = run_problem(&given, problem, device, out, failures)))
		print_result(problem->manifest, 1, device, *failures, out);
	return status;
}
