#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "half.h"
#include "problem.h"

enum { PADDING = 16 };                 /* elements after each row of LAYOUT_PADDED: 16 bytes or more in every dtype */

/* ---- operands ---- */

bool problem_has_tensor(const Problem *p, int tensor)
{
	static const int first_of_views[] = { TENSOR_Q, TENSOR_K, TENSOR_DQ, TENSOR_DK };

	for (int g = 0; g < 4; g++)
		if (tensor >= first_of_views[g] && tensor < first_of_views[g] + TDA_MAX_VIEWS)
			return tensor - first_of_views[g] < p->manifest->views;
	return true;
}

static bool is_key_side(int tensor)
{
	return (tensor >= TENSOR_K && tensor <= TENSOR_V) || tensor >= TENSOR_DK;
}

static bool is_value(int tensor)
{
	return tensor == TENSOR_V || tensor == TENSOR_O || tensor == TENSOR_DO || tensor == TENSOR_DV;
}

size_t operand_row(const Operand *o, int64_t batch, int64_t head, int64_t row)
{
	int64_t at = batch * o->stride[0] + head * o->stride[1] + row * o->stride[2];

	return (size_t)at * (o->dtype == TDA_F32 ? 4 : 2);
}

int64_t operand_rows(const Operand *o)
{
	return o->count[0] * o->count[1] * o->count[2];
}

static tda_status operand_allocate(Operand *o)
{
	int64_t last = o->dim;

	for (int d = 0; d < 3; d++)
		last += o->count[d] > 0 ? (o->count[d] - 1) * o->stride[d] : 0;
	if (operand_rows(o) == 0)
		last = 0;
	o->bytes = (size_t)last * (o->dtype == TDA_F32 ? 4 : 2);
	o->host = calloc(o->bytes ? o->bytes : 1, 1);
	return o->host ? TDA_OK : tda_fail_memory();
}

static void lay_out_tensor(Problem *p, int tensor, Layout layout)
{
	Operand *o = &p->tensor[tensor];
	bool keys = is_key_side(tensor);

	o->dtype = p->manifest->dtype;
	o->output = tensor == TENSOR_O || tensor >= TENSOR_DQ;
	o->dim = is_value(tensor) ? p->manifest->value_dim : p->manifest->head_dim;
	o->count[0] = p->shape.batch;
	o->count[1] = keys ? p->shape.kv_heads : p->shape.heads;
	o->count[2] = keys ? p->shape.k_len : p->shape.q_len;
	o->stride[2] = o->dim;
	o->stride[1] = o->dim * o->count[2];
	o->stride[0] = o->dim * o->count[2] * o->count[1];
	if (layout == LAYOUT_PADDED) {
		o->stride[1] = o->dim + PADDING;
		o->stride[2] = (o->dim + PADDING) * o->count[1];
		o->stride[0] = o->stride[2] * o->count[2] + PADDING;
	}
	if (layout == LAYOUT_BROADCAST && keys && !o->output) {
		o->stride[0] = 0;
		o->stride[1] = tensor == TENSOR_V ? 0 : o->stride[1];
	}
}

/* Calls `f` for the offset of every row. */
static tda_status each_row(const Operand *o, tda_status (*f)(void *user, size_t offset, int64_t row), void *user)
{
	int64_t row = 0;
	tda_status status = TDA_OK;

	for (int64_t b = 0; b < o->count[0]; b++)
		for (int64_t h = 0; h < o->count[1]; h++)
			for (int64_t r = 0; r < o->count[2] && !status; r++)
				status = f(user, operand_row(o, b, h, r), row++);
	return status;
}

typedef struct PackRows {
	Operand *operand;
	double *to;
	const double *from;
} PackRows;

static tda_status unpack_row(void *user, size_t offset, int64_t row)
{
	const PackRows *p = user;

	for (int64_t d = 0; d < p->operand->dim; d++)
		p->to[row * p->operand->dim + d] = dtype_load(p->operand->dtype, p->operand->host + offset, (size_t)d);
	return TDA_OK;
}

static tda_status pack_row(void *user, size_t offset, int64_t row)
{
	const PackRows *p = user;

	for (int64_t d = 0; d < p->operand->dim; d++)
		dtype_store(p->operand->dtype, p->operand->host + offset, (size_t)d, p->from[row * p->operand->dim + d]);
	return TDA_OK;
}

void operand_unpack(const Operand *o, double *to)
{
	PackRows rows = { .operand = (Operand *)o, .to = to };

	each_row(o, unpack_row, &rows);
}

void operand_pack(Operand *o, const double *from)
{
	PackRows rows = { .operand = o, .from = from };

	each_row(o, pack_row, &rows);
}

/* ---- problems ---- */

static tda_status new_param(Problem *p, int index)
{
	int64_t length = manifest_param_length(p->manifest, index, p->shape.heads, p->shape.layers);
	Operand flat = { .dtype = TDA_F32, .count = { 1, 1, 1 }, .dim = length };
	tda_status status;

	p->param[index] = p->dparam[index] = flat;
	p->param[index].absent = true;
	p->dparam[index].output = true;
	status = operand_allocate(&p->param[index]);
	return status ? status : operand_allocate(&p->dparam[index]);
}

tda_status problem_new(Problem *p, tda_kernel *kernel, tda_shape shape, Layout layout)
{
	tda_status status;

	*p = (Problem){ .kernel = kernel, .manifest = kernel->manifest, .shape = shape, .sizes = TDA_SIZES_INIT };
	if (p->shape.layers == 0)
		p->shape.layers = p->shape.layer + 1;
	if ((status = tda_get_sizes(kernel, &p->shape, &p->sizes)))
		return status;
	for (int t = 0; t < TENSOR_COUNT && !status; t++)
		if (problem_has_tensor(p, t)) {
			lay_out_tensor(p, t, layout);
			status = operand_allocate(&p->tensor[t]);
		}
	for (int n = 0; n < p->manifest->param_count && !status; n++)
		status = new_param(p, n);
	if (status)
		problem_free(p);
	return status;
}

/* Every operand of a problem, by one number. NULL where there is none. */
enum { OPERAND_COUNT = TENSOR_COUNT + 2 * TDA_MAX_PARAMS };
static Operand *operand_at(Problem *p, int n)
{
	if (n < TENSOR_COUNT)
		return problem_has_tensor(p, n) ? &p->tensor[n] : NULL;
	n -= TENSOR_COUNT;
	if (n % TDA_MAX_PARAMS >= p->manifest->param_count)
		return NULL;
	return n < TDA_MAX_PARAMS ? &p->param[n] : &p->dparam[n - TDA_MAX_PARAMS];
}

void problem_free(Problem *p)
{
	if (p->device)
		problem_displace(p);
	for (int n = 0; n < OPERAND_COUNT; n++)
		if (operand_at(p, n))
			free(operand_at(p, n)->host);
	memset(p, 0, sizeof(*p));
}

void problem_displace(Problem *p)
{
	for (int n = 0; n < OPERAND_COUNT; n++) {
		Operand *o = operand_at(p, n);

		if (o && o->device)
			p->device->ops->release(p->device, o->device);
		if (o)
			o->device = NULL;
	}
	for (int w = 0; w < BUFFER_KIND_COUNT; w++) {
		if (p->workspace[w])
			p->device->ops->release(p->device, p->workspace[w]);
		p->workspace[w] = NULL;
	}
	p->device = NULL;
}

static size_t workspace_bytes(const Problem *p, int kind)
{
	switch ((BufferKind)kind) {
	case BUFFER_SAVED: return p->sizes.saved;
	case BUFFER_FORWARD: return p->sizes.forward_scratch;
	case BUFFER_BACKWARD: return p->sizes.backward_scratch;
	case BUFFER_COUNTS: case BUFFER_KIND_COUNT: break;
	}
	return 0;                      /* counter.c has that */
}

tda_status problem_place(Problem *p, Device *device)
{
	tda_status status = TDA_OK;

	p->device = device;
	for (int n = 0; n < OPERAND_COUNT && !status; n++) {
		Operand *o = operand_at(p, n);

		if (!o || o->absent || !o->bytes)
			continue;
		status = device->ops->alloc(device, o->bytes, &o->device);
		if (!status && !o->output)
			status = device->ops->copy_in(device, o->device, o->host, o->bytes);
	}
	for (int w = 0; w < BUFFER_KIND_COUNT && !status; w++)
		if (workspace_bytes(p, w))
			status = device->ops->alloc(device, workspace_bytes(p, w), &p->workspace[w]);
	return status;
}

typedef struct PoisonRows {
	Problem *problem;
	Operand *operand;
	int poison;
} PoisonRows;

static tda_status poison_row(void *user, size_t offset, int64_t row)
{
	const PoisonRows *p = user;
	Device *device = p->problem->device;

	(void)row;
	return device->ops->poison(device, (char *)p->operand->device + offset, p->poison,
	                           (size_t)p->operand->dim * (p->operand->dtype == TDA_F32 ? 4 : 2));
}

/* The padding between rows is filled, so that a write there shows; the rows become undefined. */
tda_status problem_poison(Problem *p, int poison)
{
	tda_status status = TDA_OK;

	for (int n = 0; n < OPERAND_COUNT && !status; n++) {
		PoisonRows rows = { p, operand_at(p, n), poison };

		if (!rows.operand || !rows.operand->output || !rows.operand->bytes)
			continue;
		status = p->device->ops->fill(p->device, rows.operand->device, poison, rows.operand->bytes);
		/* a GPU's rows hold the poison already */
		if (!status && p->device->ops->poison != p->device->ops->fill)
			status = each_row(rows.operand, poison_row, &rows);
	}
	for (int w = 0; w < BUFFER_KIND_COUNT && !status; w++)
		if (workspace_bytes(p, w))
			status = p->device->ops->poison(p->device, p->workspace[w], poison, workspace_bytes(p, w));
	return status;
}

static tda_tensor tensor_of(const Problem *p, int tensor)
{
	const Operand *o = &p->tensor[tensor];

	return (tda_tensor){ o->device, o->stride[0], o->stride[1], o->stride[2] };
}

static tda_status launch_forward(Problem *p)
{
	tda_forward_args args = TDA_FORWARD_ARGS_INIT;

	args.shape = p->shape;
	for (int v = 0; v < p->manifest->views; v++) {
		args.q[v] = tensor_of(p, TENSOR_Q + v);
		args.k[v] = tensor_of(p, TENSOR_K + v);
	}
	args.v = tensor_of(p, TENSOR_V);
	args.o = tensor_of(p, TENSOR_O);
	for (int n = 0; n < p->manifest->param_count; n++)
		args.params[n] = p->param[n].device;
	args.saved = p->workspace[BUFFER_SAVED];
	args.saved_bytes = p->sizes.saved;
	args.scratch = p->workspace[BUFFER_FORWARD];
	args.scratch_bytes = p->sizes.forward_scratch;
	return device_forward(p->device, p->kernel, &args);
}

static tda_status launch_backward(Problem *p)
{
	tda_backward_args args = TDA_BACKWARD_ARGS_INIT;

	args.shape = p->shape;
	for (int v = 0; v < p->manifest->views; v++) {
		args.q[v] = tensor_of(p, TENSOR_Q + v);
		args.k[v] = tensor_of(p, TENSOR_K + v);
		args.dq[v] = tensor_of(p, TENSOR_DQ + v);
		args.dk[v] = tensor_of(p, TENSOR_DK + v);
	}
	args.v = tensor_of(p, TENSOR_V);
	args.grad_o = tensor_of(p, TENSOR_DO);
	args.dv = tensor_of(p, TENSOR_DV);
	for (int n = 0; n < p->manifest->param_count; n++) {
		args.params[n] = p->param[n].device;
		args.dparams[n] = p->dparam[n].device;
	}
	args.saved = p->workspace[BUFFER_SAVED];
	args.saved_bytes = p->sizes.saved;
	args.scratch = p->workspace[BUFFER_BACKWARD];
	args.scratch_bytes = p->sizes.backward_scratch;
	return device_backward(p->device, p->kernel, &args);
}

tda_status problem_launch(Problem *p, bool forward, bool backward)
{
	tda_status status = forward ? launch_forward(p) : TDA_OK;

	return status || !backward ? status : launch_backward(p);
}

static tda_status erase_row(void *user, size_t offset, int64_t row)
{
	const PoisonRows *p = user;

	(void)row;
	memset(p->operand->host + offset, p->poison, (size_t)p->operand->dim * (p->operand->dtype == TDA_F32 ? 4 : 2));
	return TDA_OK;
}

/* With its rows erased, the whole of what came back must be poison. */
static bool padding_is_intact(Operand *o, int poison)
{
	PoisonRows rows = { NULL, o, poison };
	unsigned char *copy = malloc(o->bytes);
	bool intact = copy != NULL;

	if (!copy)
		return false;
	memcpy(copy, o->host, o->bytes);
	each_row(o, erase_row, &rows);
	for (size_t n = 0; n < o->bytes && intact; n++)
		intact = o->host[n] == (unsigned char)poison;
	memcpy(o->host, copy, o->bytes);
	free(copy);
	return intact;
}

tda_status problem_fetch(Problem *p, int poison, bool backward)
{
	tda_status status = p->device->ops->synchronize(p->device);

	for (int n = 0; n < OPERAND_COUNT && !status; n++) {
		Operand *o = operand_at(p, n);

		if (!o || !o->output || !o->bytes || (!backward && n != TENSOR_O))
			continue;
		status = p->device->ops->copy_out(p->device, o->host, o->device, o->bytes);
		if (status)
			return tda_fail_within(status, "%s: ", n < TENSOR_COUNT ? tensor_name(n) : "a parameter's gradient");
		if (n < TENSOR_COUNT && !padding_is_intact(o, poison))
			status = tda_fail(TDA_INTERNAL, "%s: the kernels wrote between the rows of the tensor", tensor_name(n));
	}
	return status;
}

/* ---- the reference ---- */

static double *doubles(int64_t count)
{
	return calloc((size_t)(count > 0 ? count : 1), sizeof(double));
}

static double *unpacked(const Operand *o)
{
	double *values = doubles(operand_rows(o) * o->dim);

	if (values)
		operand_unpack(o, values);
	return values;
}

static double *room(const Operand *o)
{
	return doubles(operand_rows(o) * o->dim);
}

static bool fill_noise(const Problem *p, ReferenceNoise **to, int64_t q_rows, int64_t k_rows)
{
	ReferenceNoise *noise = *to = calloc(1, sizeof(*noise));
	bool ok = noise && (noise->o = doubles(q_rows)) && (noise->dv = doubles(k_rows));

	for (int v = 0; v < p->manifest->views && ok; v++)
		ok = (noise->dq[v] = doubles(q_rows)) && (noise->dk[v] = doubles(k_rows));
	for (int n = 0; n < p->manifest->param_count && ok; n++)
		ok = (noise->dparam[n] = room(&p->dparam[n]));
	return ok;
}

static bool fill_reference(const Problem *p, bool backward, bool noise, Reference *r)
{
	const Manifest *m = p->manifest;
	bool ok = (r->v = unpacked(&p->tensor[TENSOR_V])) && (r->o = room(&p->tensor[TENSOR_O]));
	int64_t q_rows = operand_rows(&p->tensor[TENSOR_O]), k_rows = operand_rows(&p->tensor[TENSOR_V]);

	for (int v = 0; v < m->views && ok; v++)
		ok = (r->q[v] = unpacked(&p->tensor[TENSOR_Q + v])) && (r->k[v] = unpacked(&p->tensor[TENSOR_K + v]));
	for (int n = 0; n < m->param_count && ok; n++)
		ok = p->param[n].absent || (r->param[n] = unpacked(&p->param[n]));
	ok = ok && (r->row_survivors = calloc((size_t)q_rows + 1, sizeof(int32_t))) &&
	     (r->row_near = calloc((size_t)q_rows + 1, sizeof(int32_t))) &&
	     (r->key_survivors = calloc((size_t)k_rows + 1, sizeof(int32_t))) &&
	     (r->key_near = calloc((size_t)k_rows + 1, sizeof(int32_t)));
	if (!ok || !backward)
		return ok;
	ok = (r->grad_o = unpacked(&p->tensor[TENSOR_DO])) && (r->dv = room(&p->tensor[TENSOR_DV]));
	for (int v = 0; v < m->views && ok; v++)
		ok = (r->dq[v] = room(&p->tensor[TENSOR_DQ + v])) && (r->dk[v] = room(&p->tensor[TENSOR_DK + v]));
	for (int n = 0; n < m->param_count && ok; n++)
		ok = (r->dparam[n] = room(&p->dparam[n]));
	return ok && (!noise || (fill_noise(p, &r->noise, q_rows, k_rows) && fill_noise(p, &r->change, q_rows, k_rows)));
}

/* *r holds what is not the problem's: observer, heads. */
static tda_status run_reference(const Problem *p, bool backward, bool noise, Reference *r)
{
	enum { THREADS = 8 };
	tda_status status;

	r->manifest = p->manifest;
	r->batch = p->shape.batch;
	r->heads = p->shape.heads;
	r->kv_heads = p->shape.kv_heads;
	r->q_len = p->shape.q_len;
	r->k_len = p->shape.k_len;
	r->layer = p->shape.layer;
	r->layers = p->shape.layers;
	status = fill_reference(p, backward, noise, r) ? reference_run(r, THREADS) : tda_fail_memory();
	if (status)
		problem_reference_free(r);
	return status;
}

tda_status problem_reference(const Problem *p, bool backward, Reference *r)
{
	*r = (Reference){0};
	return run_reference(p, backward, backward, r);
}

tda_status problem_measure(const Problem *p, bool backward, PairObserver *observe, void *user, Reference *r)
{
	*r = (Reference){ .observe = observe, .observer = user };
	return run_reference(p, backward, false, r);
}

tda_status problem_observe(const Problem *p, PairObserver *observe, void *user)
{
	return problem_observe_heads(p, 0, p->shape.kv_heads, observe, user);
}

tda_status problem_observe_heads(const Problem *p, int64_t first, int64_t end, PairObserver *observe, void *user)
{
	Reference r = { .observe = observe, .observer = user, .first_kv_head = first, .end_kv_head = end };
	tda_status status = run_reference(p, false, false, &r);

	if (!status)
		problem_reference_free(&r);
	return status;
}

static void noise_free(ReferenceNoise *noise)
{
	if (!noise)
		return;
	for (int v = 0; v < TDA_MAX_VIEWS; v++) {
		free(noise->dq[v]);
		free(noise->dk[v]);
	}
	for (int n = 0; n < TDA_MAX_PARAMS; n++)
		free(noise->dparam[n]);
	free(noise->o);
	free(noise->dv);
	free(noise);
}

void problem_reference_free(Reference *r)
{
	noise_free(r->noise);
	noise_free(r->change);
	for (int v = 0; v < TDA_MAX_VIEWS; v++) {
		free((void *)r->q[v]);
		free((void *)r->k[v]);
		free(r->dq[v]);
		free(r->dk[v]);
	}
	for (int n = 0; n < TDA_MAX_PARAMS; n++) {
		free((void *)r->param[n]);
		free(r->dparam[n]);
	}
	free((void *)r->v);
	free((void *)r->grad_o);
	free(r->o);
	free(r->dv);
	free(r->row_survivors);
	free(r->row_near);
	free(r->key_survivors);
	free(r->key_near);
	memset(r, 0, sizeof(*r));
}
