/* mkdir is POSIX. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "error.h"
#include "half.h"
#include "inputs.h"
#include "npy.h"

typedef struct Inputs {
	NpyArray tensor[TENSOR_COUNT], param[TDA_MAX_PARAMS];  /* values NULL: not in the file */
} Inputs;

static void inputs_free(Inputs *in)
{
	for (int t = 0; t < TENSOR_COUNT; t++)
		free(in->tensor[t].values);
	for (int p = 0; p < TDA_MAX_PARAMS; p++)
		free(in->param[p].values);
}

/* ---- reading ---- */

static bool is_input(int tensor)
{
	return tensor >= 0 && tensor <= TENSOR_DO && tensor != TENSOR_O;
}

static NpyArray *find_place(Inputs *in, const Manifest *m, const char *name)
{
	int tensor = tensor_find(name, strlen(name));
	int param = manifest_find_param(m, name, strlen(name));
	bool view_exists = tensor < TENSOR_K ? tensor - TENSOR_Q < m->views
	                                     : tensor >= TENSOR_V || tensor - TENSOR_K < m->views;

	if (param < 0 && strcmp(name, "lam") == 0)
		param = manifest_find_param(m, "lambda", strlen("lambda"));
	if (param >= 0)
		return &in->param[param];
	return is_input(tensor) && view_exists ? &in->tensor[tensor] : NULL;
}

static tda_status unknown_name(const Manifest *m, const char *name)
{
	char known[512];
	size_t used = (size_t)snprintf(known, sizeof(known), "q1, k1");

	for (int v = 1; v < m->views; v++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, ", q%d, k%d", v + 1, v + 1);
	used += (size_t)snprintf(known + used, sizeof(known) - used, ", v, do");
	for (int p = 0; p < m->param_count && used < sizeof(known); p++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, ", %s", m->params[p].name);
	return tda_fail(TDA_BAD_ARGUMENT, "'%s' is no input of the spec %s; its inputs are: %s", name, m->spec_name, known);
}

/* Arrays that `other` has (NULL: there is none) may be unknown to m. */
static tda_status read_all(const NpySet *set, const Manifest *m, const Manifest *other, Inputs *in)
{
	tda_status status = TDA_OK;

	for (int n = 0; n < npy_set_count(set) && !status; n++) {
		NpyArray *place = find_place(in, m, npy_set_name(set, n));

		if (!place && other && find_place(in, other, npy_set_name(set, n)))
			continue;
		if (!place)
			return unknown_name(m, npy_set_name(set, n));
		if (place->values)
			return tda_fail(TDA_BAD_ARGUMENT, "'%s' gives an input that is there already under another name",
			                npy_set_name(set, n));
		status = npy_set_read(set, n, place);
	}
	return status;
}

/* ---- shapes ---- */

/* Makes every tensor rank 4. */
static tda_status check_rank(NpyArray *a, const char *name)
{
	if (!a->values)
		return tda_fail(TDA_BAD_ARGUMENT, "the input '%s' is missing", name);
	if (a->rank != 3 && a->rank != 4)
		return tda_fail(TDA_BAD_ARGUMENT, "'%s' has rank %d: it must be [heads, length, dim] or [batch, heads, length, dim]",
		                name, a->rank);
	if (a->rank == 3) {
		memmove(a->shape + 1, a->shape, 3 * sizeof(a->shape[0]));
		a->shape[0] = 1;
		a->rank = 4;
	}
	return TDA_OK;
}

static tda_status check_tensor_shape(const NpyArray *a, const Operand *want, const char *name)
{
	const int64_t shape[] = { want->count[0], want->count[1], want->count[2], want->dim };

	if (memcmp(a->shape, shape, sizeof(shape)) == 0)
		return TDA_OK;
	return tda_fail(TDA_BAD_ARGUMENT, "'%s' has the shape [%lld, %lld, %lld, %lld]: beside q1 and k1 it must have "
	                "[%lld, %lld, %lld, %lld]", name, (long long)a->shape[0], (long long)a->shape[1],
	                (long long)a->shape[2], (long long)a->shape[3], (long long)shape[0], (long long)shape[1],
	                (long long)shape[2], (long long)shape[3]);
}

/* L: the first extent of per-layer parameters, which must agree. */
static tda_status find_layers(const Inputs *in, const Manifest *m, int layer, int32_t *layers)
{
	*layers = 0;
	for (int p = 0; p < m->param_count; p++) {
		const NpyArray *a = &in->param[p];
		bool per_layer = m->params[p].shape == TDA_PER_LAYER || m->params[p].shape == TDA_PER_LAYER_HEAD;

		if (!a->values || !per_layer || a->rank == 0)
			continue;
		if (a->shape[0] <= layer || a->shape[0] > INT32_MAX || (*layers && a->shape[0] != *layers))
			return tda_fail(TDA_BAD_ARGUMENT, "'%s' has %lld layers: it must have as many as other parameters, and more "
			                "than --layer, which is %d", m->params[p].name, (long long)a->shape[0], layer);
		*layers = (int32_t)a->shape[0];
	}
	return TDA_OK;
}

static tda_status give_param(Problem *p, int index, const NpyArray *a)
{
	const ManifestParam *param = &p->manifest->params[index];
	Operand *o = &p->param[index];

	if (a->count != o->dim && a->count != 1)
		return tda_fail(TDA_BAD_ARGUMENT, "'%s' has %lld values: a %s parameter has %lld here, or 1 for all of them",
		                param->name, (long long)a->count, param_shape_text(param->shape), (long long)o->dim);
	o->absent = false;
	for (int64_t n = 0; n < o->dim; n++)
		dtype_store(TDA_F32, o->host, (size_t)n, a->values[a->count == 1 ? 0 : n]);
	return TDA_OK;
}

static tda_status give_tensor(Problem *p, int tensor, NpyArray *a)
{
	tda_status status = check_rank(a, tensor_name(tensor));

	if (!status && !(status = check_tensor_shape(a, &p->tensor[tensor], tensor_name(tensor))))
		operand_pack(&p->tensor[tensor], a->values);
	return status;
}

static tda_status fill_problem(Inputs *in, tda_kernel *kernel, int layer, GradInput grad, Problem *p)
{
	const Manifest *m = kernel->manifest;
	tda_shape shape = TDA_SHAPE_INIT;
	const NpyArray *q = &in->tensor[TENSOR_Q], *k = &in->tensor[TENSOR_K];
	tda_status status;

	if ((status = check_rank(&in->tensor[TENSOR_Q], "q1")) || (status = check_rank(&in->tensor[TENSOR_K], "k1")) ||
	    (status = find_layers(in, m, layer, &shape.layers)))
		return status;
	shape.batch = q->shape[0];
	shape.heads = q->shape[1];
	shape.q_len = q->shape[2];
	shape.kv_heads = k->shape[1];
	shape.k_len = k->shape[2];
	shape.layer = layer;
	if ((status = problem_new(p, kernel, shape, LAYOUT_PACKED)))
		return status;
	for (int t = 0; t < TENSOR_COUNT && !status; t++) {
		if (!is_input(t) || !problem_has_tensor(p, t))
			continue;
		if (t == TENSOR_DO && (grad == GRAD_UNUSED || (grad == GRAD_OPTIONAL && !in->tensor[t].values)))
			p->tensor[t].absent = true;
		else
			status = give_tensor(p, t, &in->tensor[t]);
	}
	for (int n = 0; n < m->param_count && !status; n++)
		if (in->param[n].values)
			status = give_param(p, n, &in->param[n]);
	if (status)
		problem_free(p);
	return status;
}

tda_status inputs_load(const char *path, tda_kernel *kernel, int layer, GradInput grad, Problem *problem)
{
	return inputs_load_shared(path, kernel, NULL, layer, grad, problem);
}

tda_status inputs_load_shared(const char *path, tda_kernel *kernel, const tda_kernel *other, int layer, GradInput grad,
                              Problem *problem)
{
	Inputs *in = calloc(1, sizeof(*in));
	NpySet *set = NULL;
	tda_status status = in ? npy_set_open(path, &set) : tda_fail_memory();

	if (!status) {
		status = read_all(set, kernel->manifest, other ? other->manifest : NULL, in);
		if (!status)
			status = fill_problem(in, kernel, layer, grad, problem);
		if (status == TDA_BAD_ARGUMENT)
			tda_fail_within(status, "%s: ", path);
		inputs_free(in);
	}
	npy_set_close(set);
	free(in);
	return status;
}

/* ---- writing ---- */

static tda_status write_array(const char *folder, const char *prefix, const char *name, int rank, const int64_t *shape,
                              const double *values)
{
	size_t size = strlen(folder) + strlen(name) + 16;
	char *path = malloc(size);
	int64_t count = 1;
	float *singles;
	tda_status status = TDA_OK;

	for (int d = 0; d < rank; d++)
		count *= shape[d];
	singles = malloc(sizeof(float) * (size_t)(count > 0 ? count : 1));
	if (path && singles) {
		for (int64_t n = 0; n < count; n++)
			singles[n] = (float)values[n];
		snprintf(path, size, "%s/%s%s.npy", folder, prefix, name);
		status = npy_write(path, rank, shape, singles);
	} else {
		status = tda_fail_memory();
	}
	free(path);
	free(singles);
	return status;
}

static tda_status write_tensor(const char *folder, const Problem *p, int tensor, const double *values)
{
	const Operand *o = &p->tensor[tensor];
	const int64_t shape[] = { o->count[0], o->count[1], o->count[2], o->dim };

	return write_array(folder, "", tensor_name(tensor), 4, shape, values);
}

static tda_status write_dparam(const char *folder, const Problem *p, int index, const double *values)
{
	const ManifestParam *param = &p->manifest->params[index];
	int64_t shape[2] = { p->dparam[index].dim, 0 };
	int rank = param->shape == TDA_SCALAR ? 0 : 1;

	if (param->shape == TDA_PER_LAYER_HEAD) {
		shape[0] = p->shape.layers;
		shape[1] = p->shape.heads;
		rank = 2;
	}
	return write_array(folder, "d", param->name, rank, shape, values);
}

tda_status outputs_write_reference(const char *folder, const Problem *p, const Reference *r, bool backward)
{
	tda_status status;

	if (mkdir(folder, 0777) != 0 && errno != EEXIST)
		return tda_fail(TDA_BAD_FILE, "%s: the folder can't be made: %s", folder, strerror(errno));
	if ((status = write_tensor(folder, p, TENSOR_O, r->o)) || !backward)
		return status;
	for (int v = 0; v < p->manifest->views && !status; v++)
		if (!(status = write_tensor(folder, p, TENSOR_DQ + v, r->dq[v])))
			status = write_tensor(folder, p, TENSOR_DK + v, r->dk[v]);
	if (!status)
		status = write_tensor(folder, p, TENSOR_DV, r->dv);
	for (int n = 0; n < p->manifest->param_count && !status; n++)
		status = write_dparam(folder, p, n, r->dparam[n]);
	return status;
}

static double *unpack(const Operand *o)
{
	double *values = calloc((size_t)(operand_rows(o) * o->dim) + 1, sizeof(double));

	if (values)
		operand_unpack(o, values);
	return values;
}

tda_status outputs_write(const char *folder, const Problem *p, bool backward)
{
	Reference r = { .manifest = p->manifest };
	bool ok = (r.o = unpack(&p->tensor[TENSOR_O]));
	tda_status status;

	if (backward) {
		ok = ok && (r.dv = unpack(&p->tensor[TENSOR_DV]));
		for (int v = 0; v < p->manifest->views && ok; v++)
			ok = (r.dq[v] = unpack(&p->tensor[TENSOR_DQ + v])) && (r.dk[v] = unpack(&p->tensor[TENSOR_DK + v]));
		for (int n = 0; n < p->manifest->param_count && ok; n++)
			ok = (r.dparam[n] = unpack(&p->dparam[n]));
	}
	status = ok ? outputs_write_reference(folder, p, &r, backward) : tda_fail_memory();
	problem_reference_free(&r);
	return status;
}
