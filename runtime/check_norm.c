#include "check_norm.h"

#include <math.h>
#include <string.h>

static double norm(const double *x, int64_t count)
{
	double sum = 0;

	for (int64_t n = 0; n < count; n++)
		sum += isfinite(x[n]) ? x[n] * x[n] : 0;
	return sqrt(sum);
}

/* do becomes gain * do / rms(o), row by row; o is the output before the norm. */
static void scale_gradient(const Manifest *m, const Reference *from, Reference *r)
{
	double *grad = (double *)r->grad_o;
	const double *gain = m->gain >= 0 ? from->param[m->gain] : NULL;
	double constant = m->gain >= 0 ? m->params[m->gain].init : 1;
	int64_t rows = r->batch * r->heads * r->q_len, dim = m->value_dim;

	for (int64_t row = 0; row < rows; row++) {
		double squares = norm(r->o + row * dim, dim);
		double scale = 1 / sqrt(squares * squares / (double)dim + m->rms_eps);

		for (int64_t d = 0; d < dim; d++)
			grad[row * dim + d] *= scale * (gain ? gain[d] : constant);
	}
}

tda_status check_uncancelled(const Problem *problem, const Reference *reference, Uncancelled *norms)
{
	Manifest plain = *problem->manifest;
	Problem without = *problem;
	Reference r;
	tda_status status;

	memset(norms, 0, sizeof(*norms));
	if (!plain.rms_norm)
		return TDA_OK;
	plain.rms_norm = false;
	plain.gain = -1;
	without.manifest = &plain;
	if ((status = problem_reference(&without, true, &r)))
		return status;
	int64_t q_count = r.batch * r.heads * r.q_len * plain.head_dim;
	int64_t k_count = r.batch * r.kv_heads * r.k_len * plain.head_dim;

	scale_gradient(problem->manifest, reference, &r);
	status = reference_run(&r, 1);
	for (int v = 0; v < plain.views && !status; v++) {
		norms->dq[v] = norm(r.dq[v], q_count);
		norms->dk[v] = norm(r.dk[v], k_count);
	}
	for (int n = 0; n < plain.param_count && !status; n++)
		norms->dparam[n] = norm(r.dparam_noise[n], manifest_param_length(&plain, n, r.heads, r.layers));
	problem_reference_free(&r);
	return status;
}
