/*
 * The f64 reference against central differences of its own forward, for every input and parameter of a spread of
 * specs; its forward against a direct transcription of the formula for the spec tda; and how far it says that results
 * move with the rounding of scores.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/reference.h"
#include "fixture.h"

typedef struct Case {
	const char *name;
	const char *lines;             /* of the manifest; the fixed ones come from write_manifest */
	int64_t batch, heads, kv_heads, q_len, k_len, layer, layers;
	double q_scale;
} Case;

static const Case cases[] = {
	{ "tda", "//! views 2\n//! normalize l2\n//! mask causal\n//! param beta per_head 0.3 -inf inf\n"
	  "//! param lambda scalar 0.5 0 1\n//! threshold $beta 2 i 1 + log * 8 / sqrt *\n//! score s\n"
	  "//! weight s tau - relu 2 ^\n//! combine 1 1\n//! combine 2 $lambda 0 1 clamp neg\n",
	  2, 4, 2, 9, 9, 0, 1, 1 },
	{ "norm, window, layers", "//! views 1\n//! normalize l2\n//! mask causal\n//! mask window 5\n"
	  "//! param beta per_layer_head 0.1 -inf inf\n//! param gain per_channel 1 -inf inf\n"
	  "//! param bias per_layer 0.1 -inf inf\n"
	  "//! rms_norm 1e-6 gain\n//! threshold $beta i 1 + log * $bias -\n//! score s\n//! weight s tau - relu 3 ^\n"
	  "//! combine 1 1 $bias +\n", 1, 2, 1, 7, 11, 1, 3, 1 },
	{ "sigmoid, soft cap, no norm", "//! views 1\n//! normalize none\n//! param cap scalar 2 -inf inf\n"
	  "//! param bias per_head 0.5 -inf inf\n//! threshold 0\n//! score $cap s $cap / tanh *\n"
	  "//! weight s $bias - sigmoid\n//! combine 1 1\n", 1, 2, 2, 5, 8, 0, 1, 0.4 },
	{ "learned power, rows before the keys", "//! views 3\n//! normalize l2\n//! mask causal\n"
	  "//! param p scalar 1.7 -inf inf\n//! param lambda per_layer 0.5 -inf inf\n"
	  "//! threshold -0.2 view 0.1 * +\n//! score s\n"
	  "//! weight s tau - relu $p ^\n//! combine 1 1\n//! combine 2 $lambda neg\n//! combine 3 i 1 + log $lambda *\n",
	  1, 2, 1, 12, 8, 2, 4, 1 },
	{ "every operation", "//! views 1\n//! normalize l2\n//! mask window 6\n//! param a scalar 0.7 -inf inf\n"
	  "//! param b per_head 0.2 -inf inf\n//! threshold $a $b min 0.5 * $a $b max floor + head 0.01 * + layer 0.1 * +\n"
	  "//! score s $a * j 0.01 * - $b abs exp2 + s 0.4 gt s 2 * s where -0.9 0.95 clamp +\n"
	  "//! weight s tau - exp 0.1 * $b 2 + sqrt / s tau lt s 1.5 ^ 1 s abs 1 + log where $a s * where"
	  " 0.3 * relu s 0 max + +\n"
	  "//! combine 1 q_len k_len / $a *\n", 1, 2, 1, 6, 7, 1, 2, 1 },
	{ "linear weight, norm without gain",
	  "//! views 2\n//! normalize none\n//! param t scalar 0.3 -inf inf\n//! rms_norm 0.01 -\n"
	  "//! threshold $t\n//! score s 8 /\n//! weight s tau - relu\n//! combine 1 1\n//! combine 2 -0.5\n",
	  2, 2, 2, 6, 5, 0, 1, 1 },
};

enum { HEAD_DIM = 8, VALUE_DIM = 16 };

static Manifest *write_manifest(const char *lines)
{
	char text[4096];
	char *sealed;
	Manifest *m;

	snprintf(text, sizeof(text), "//! compiler 0\n//! target sm_80\n//! spec t 0\n//! plan dense\n//! dtype f32\n"
	         "//! head_dim %d\n//! value_dim %d\n//! zeros none\n//! tolerance 1e-5 2e-5\n//! slack 1e-9\n%s",
	         HEAD_DIM, VALUE_DIM, lines);
	sealed = fixture_seal(text, fixture_body);
	CHECK(manifest_parse(sealed, strlen(sealed), &m) == TDA_OK, "%s", tda_error_message());
	free(sealed);
	return m;
}

static double *random_array(int64_t count, double scale, uint64_t *seed)
{
	double *values = malloc(sizeof(double) * (size_t)(count + 1));

	for (int64_t n = 0; n < count; n++)
		values[n] = scale * fixture_normal(seed);
	return values;
}

typedef struct Tensors {
	double *input[16], *grad[16];  /* q, k of each view, v, parameters */
	int64_t length[16];
	char name[16][80];
	int count;
	double *grad_o;
	int64_t o_length;
} Tensors;

static void add_tensor(Tensors *t, const char *name, double *values, int64_t length, const double **input,
                       double **grad)
{
	t->input[t->count] = values;
	t->length[t->count] = length;
	snprintf(t->name[t->count], sizeof(t->name[0]), "%s", name);
	t->grad[t->count] = calloc((size_t)length + 1, sizeof(double));
	*input = values;
	*grad = t->grad[t->count++];
}

static void make_problem(const Case *c, const Manifest *m, Reference *ref, Tensors *t, uint64_t *seed)
{
	int64_t q_rows = c->batch * c->heads * c->q_len, k_rows = c->batch * c->kv_heads * c->k_len;

	*t = (Tensors){ .count = 0 };
	*ref = (Reference){
		.manifest = m, .batch = c->batch, .heads = c->heads, .kv_heads = c->kv_heads, .q_len = c->q_len,
		.k_len = c->k_len, .layer = c->layer, .layers = c->layers,
	};
	for (int v = 0; v < m->views; v++) {
		add_tensor(t, tensor_name(TENSOR_Q + v), random_array(q_rows * HEAD_DIM, c->q_scale, seed), q_rows * HEAD_DIM,
		           &ref->q[v], &ref->dq[v]);
		add_tensor(t, tensor_name(TENSOR_K + v), random_array(k_rows * HEAD_DIM, c->q_scale, seed), k_rows * HEAD_DIM,
		           &ref->k[v], &ref->dk[v]);
	}
	add_tensor(t, "v", random_array(k_rows * VALUE_DIM, 1, seed), k_rows * VALUE_DIM, &ref->v, &ref->dv);
	for (int p = 0; p < m->param_count; p++) {
		int64_t length = manifest_param_length(m, p, c->heads, c->layers);
		double *values = random_array(length, 0.1, seed);

		for (int64_t n = 0; n < length; n++)
			values[n] += m->params[p].init;
		add_tensor(t, m->params[p].name, values, length, &ref->param[p], &ref->dparam[p]);
	}
	t->o_length = q_rows * VALUE_DIM;
	ref->o = calloc((size_t)t->o_length + 1, sizeof(double));
	t->grad_o = random_array(t->o_length, 1, seed);
}

static void free_problem(Reference *ref, Tensors *t)
{
	for (int n = 0; n < t->count; n++) {
		free(t->input[n]);
		free(t->grad[n]);
	}
	free(ref->o);
	free(t->grad_o);
}

static double loss(Reference *ref, const Tensors *t)
{
	double sum = 0;

	ref->grad_o = NULL;
	if (reference_run(ref, 1) != TDA_OK)
		return NAN;
	for (int64_t n = 0; n < t->o_length; n++)
		sum += ref->o[n] * t->grad_o[n];
	return sum;
}

static void test_gradients(const Case *c)
{
	const double step = 1e-6;
	uint64_t seed = 42;
	Manifest *m = write_manifest(c->lines);
	Reference ref;
	Tensors t;

	if (!m)
		return;
	make_problem(c, m, &ref, &t, &seed);
	ref.grad_o = t.grad_o;
	CHECK(reference_run(&ref, 3) == TDA_OK, "backward: %s", tda_error_message());
	CHECK(ref.survivors > 0, "%s: no pair survives", c->name);
	for (int n = 0; n < t.count; n++) {
		double error = 0, norm = 0;

		for (int64_t e = 0; e < t.length[n]; e++) {
			double at = t.input[n][e], up, down, difference;

			t.input[n][e] = at + step;
			up = loss(&ref, &t);
			t.input[n][e] = at - step;
			down = loss(&ref, &t);
			t.input[n][e] = at;
			difference = (up - down) / (2 * step);
			error += pow(difference - t.grad[n][e], 2);
			norm += pow(difference, 2);
		}
		CHECK(norm > 0, "%s: d%s is all zero", c->name, t.name[n]);
		CHECK(sqrt(error / norm) < 1e-5, "%s: d%s differs from central differences by %g", c->name, t.name[n],
		      sqrt(error / norm));
	}
	free_problem(&ref, &t);
	manifest_free(m);
}

/* o of the spec tda, written as its formula reads. */
static void plain_tda(const Reference *ref, double *o)
{
	int64_t share = ref->heads / ref->kv_heads;

	for (int64_t bh = 0; bh < ref->batch * ref->heads; bh++) {
		int64_t h = bh % ref->heads, kv = bh / ref->heads * ref->kv_heads + h / share;
		double lambda = fmin(fmax(ref->param[1][0], 0), 1);

		for (int64_t r = 0; r < ref->q_len; r++)
			for (int64_t j = 0; j < ref->k_len; j++)
				for (int v = 0; v < 2; v++) {
					const double *q = ref->q[v] + (bh * ref->q_len + r) * HEAD_DIM;
					const double *k = ref->k[v] + (kv * ref->k_len + j) * HEAD_DIM;
					int64_t i = r + ref->k_len - ref->q_len;
					double qk = 0, qq = 0, kk = 0, excess;

					for (int d = 0; d < HEAD_DIM; d++)
						qk += q[d] * k[d], qq += q[d] * q[d], kk += k[d] * k[d];
					excess = qk / sqrt(qq * kk) - ref->param[0][h] * sqrt(2 * log((double)i + 1) / 8);
					if (j > i || excess <= 0)
						continue;
					for (int d = 0; d < VALUE_DIM; d++)
						o[(bh * ref->q_len + r) * VALUE_DIM + d] += (v ? -lambda : 1) * excess * excess *
							ref->v[(kv * ref->k_len + j) * VALUE_DIM + d];
				}
	}
}

static void test_formula(void)
{
	uint64_t seed = 7;
	Manifest *m = write_manifest(cases[0].lines);
	Reference ref;
	Tensors t;
	double *plain, worst = 0;

	make_problem(&cases[0], m, &ref, &t, &seed);
	plain = calloc((size_t)t.o_length, sizeof(double));
	plain_tda(&ref, plain);
	loss(&ref, &t);
	for (int64_t n = 0; n < t.o_length; n++)
		worst = fmax(worst, fabs(plain[n] - ref.o[n]));
	CHECK(worst < 1e-13, "o differs from the formula by %g", worst);
	free(plain);
	free_problem(&ref, &t);
	manifest_free(m);
}

/* Rows that see no key, zero rows and non-finite rows. */
static void test_special_rows(void)
{
	Case c = cases[0];
	uint64_t seed = 5;
	Manifest *m = write_manifest(c.lines);
	Reference ref;
	Tensors t;

	c.q_len = 12;
	make_problem(&c, m, &ref, &t, &seed);
	memset(t.input[0] + 4 * HEAD_DIM, 0, sizeof(double) * HEAD_DIM);        /* q1, head 0, row 4: i = 1 */
	t.input[1][2 * HEAD_DIM] = NAN;                                         /* k1, group 0, key 2: i >= 2 sees it */
	ref.grad_o = t.grad_o;
	CHECK(reference_run(&ref, 1) == TDA_OK, "%s", tda_error_message());
	for (int r = 0; r < 12; r++) {
		bool sees_nan = r - 3 >= 2;
		for (int d = 0; d < VALUE_DIM; d++) {
			double o = ref.o[r * VALUE_DIM + d];
			CHECK(isnan(o) == sees_nan, "row %d: o is %g", r, o);
			CHECK(r >= 3 || o == 0, "row %d sees no key, but o is %g", r, o);
		}
		for (int d = 0; d < HEAD_DIM; d++) {
			CHECK(isnan(ref.dq[0][r * HEAD_DIM + d]) == sees_nan, "row %d: dq1 is %g", r, ref.dq[0][r * HEAD_DIM + d]);
			CHECK((r >= 3 && r != 4) || ref.dq[0][r * HEAD_DIM + d] == 0, "row %d: dq1 is not 0", r);
		}
	}
	CHECK(isnan(ref.dk[0][2 * HEAD_DIM]) && !isnan(ref.dk[0][HEAD_DIM]), "dk1 of the NaN key and its neighbour");
	free_problem(&ref, &t);
	manifest_free(m);
}

/* ---- Reference.change ---- */

/* One view, of which a few keys a row survive: the threshold is the greatest score of a row, of 400. */
static const Case steep[] = {
	{ "root", "//! views 1\n//! normalize l2\n//! mask causal\n//! param t scalar 0 -inf inf\n"
	  "//! threshold $t\n//! score s\n//! weight s tau - relu 1.5 ^\n//! combine 1 1\n", 1, 4, 2, 400, 400, 0, 1, 1 },
	{ "square, norm", "//! views 1\n//! normalize l2\n//! mask causal\n//! param t scalar 0 -inf inf\n"
	  "//! rms_norm 1e-6 -\n//! threshold $t\n//! score s\n//! weight s tau - relu 2 ^\n//! combine 1 1\n",
	  1, 4, 2, 400, 400, 0, 1, 1 },
	{ "linear, norm", "//! views 1\n//! normalize l2\n//! mask causal\n//! param t scalar 0 -inf inf\n"
	  "//! rms_norm 1e-12 -\n//! threshold $t\n//! score s\n//! weight s tau - relu\n//! combine 1 1\n",
	  1, 4, 2, 400, 400, 0, 1, 1 },
};

static ReferenceNoise make_noise(int64_t q_rows, int64_t k_rows)
{
	ReferenceNoise noise = { .o = calloc((size_t)q_rows, sizeof(double)) };

	noise.dv = calloc((size_t)k_rows, sizeof(double));
	noise.dq[0] = calloc((size_t)q_rows, sizeof(double));
	noise.dk[0] = calloc((size_t)k_rows, sizeof(double));
	noise.dparam[0] = calloc(1, sizeof(double));
	return noise;
}

static void free_noise(ReferenceNoise *noise)
{
	free(noise->o);
	free(noise->dv);
	free(noise->dq[0]);
	free(noise->dk[0]);
	free(noise->dparam[0]);
}

/* The greatest score of the last row of the first head. */
static double last_row_score(const Reference *ref)
{
	const double *q = ref->q[0] + (ref->q_len - 1) * HEAD_DIM, *k = ref->k[0];
	double greatest = -1;

	for (int64_t j = 0; j < ref->k_len; j++, k += HEAD_DIM) {
		double qk = 0, qq = 0, kk = 0;

		for (int d = 0; d < HEAD_DIM; d++)
			qk += q[d] * k[d], qq += q[d] * q[d], kk += k[d] * k[d];
		greatest = fmax(greatest, qk / sqrt(qq * kk));
	}
	return greatest;
}

/* How many rows of dq1, none of them with a pair at the threshold, moved by more than 4 * 2e-5 of their size and noise,
 * which is what float32 may, and `share` of their change. */
static int rows_moved(const Reference *ref, const double *dq, double share)
{
	int count = 0;

	for (int64_t r = 0; r < ref->batch * ref->heads * ref->q_len; r++) {
		double error = 0, norm = 0;

		for (int64_t n = r * HEAD_DIM; n < (r + 1) * HEAD_DIM; n++) {
			error += pow(ref->dq[0][n] - dq[n], 2);
			norm += pow(dq[n], 2);
		}
		count += ref->row_near[r] == 0 &&
		         sqrt(error) > 8e-5 * fmax(sqrt(norm), ref->noise->dq[0][r]) + share * ref->change->dq[0][r];
	}
	return count;
}

/* Scores that are wrong by 1e-7, as float32's are, move rows of gradients by more than float32's own rounding does, but
 * not by more than their change; a threshold that is wrong by 2e-5 does. */
static void test_change(const Case *c)
{
	uint64_t seed = 11;
	Manifest *m = write_manifest(c->lines);
	int64_t q_rows = c->batch * c->heads * c->q_len, k_rows = c->batch * c->kv_heads * c->k_len;
	ReferenceNoise noise = make_noise(q_rows, k_rows), change = make_noise(q_rows, k_rows);
	double *dq = calloc((size_t)(q_rows * HEAD_DIM), sizeof(double)), *exact;
	int32_t *near = calloc((size_t)q_rows, sizeof(*near));
	Reference ref;
	Tensors t;

	m->slack = 2e-6;
	make_problem(c, m, &ref, &t, &seed);
	t.input[3][0] = last_row_score(&ref) - 4e-6;            /* one survives there, just outside of the slack */
	ref.grad_o = t.grad_o;
	ref.noise = &noise;
	ref.change = &change;
	ref.row_near = near;
	CHECK(reference_run(&ref, 2) == TDA_OK, "%s", tda_error_message());

	exact = ref.dq[0];
	ref.dq[0] = dq;
	ref.noise = ref.change = NULL;
	ref.row_near = NULL;
	for (int pass = 0; pass < 2; pass++) {
		Reference moved = ref;
		int beyond_float, beyond_change;

		if (pass == 0)
			for (int64_t n = 0; n < t.length[1]; n++)
				t.input[1][n] *= 1 + 3e-7 * fixture_normal(&seed);      /* k1: moves scores by 3e-7 / sqrt(8) */
		else
			t.input[3][0] += 2e-5;
		CHECK(reference_run(&moved, 2) == TDA_OK, "%s", tda_error_message());
		moved.noise = &noise;
		moved.change = &change;
		moved.row_near = near;
		beyond_float = rows_moved(&moved, exact, 0);
		beyond_change = rows_moved(&moved, exact, 1);
		CHECK(beyond_float > 0, "%s, pass %d: no row is steep", c->name, pass);
		CHECK(pass == 0 ? beyond_change == 0 : beyond_change > beyond_float / 2,
		      "%s, pass %d: %d of %d rows move by more than their change", c->name, pass, beyond_change, beyond_float);
	}
	ref.dq[0] = exact;
	free(dq);
	free(near);
	free_noise(&noise);
	free_noise(&change);
	free_problem(&ref, &t);
	manifest_free(m);
}

int main(void)
{
	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++)
		test_gradients(&cases[c]);
	test_formula();
	test_special_rows();
	for (size_t c = 0; c < sizeof(steep) / sizeof(steep[0]); c++)
		test_change(&steep[c]);
	return fixture_result();
}
