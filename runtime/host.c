/* tda_reference_forward and tda_reference_backward: tensors of the host, unpacked into f64. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "error.h"
#include "half.h"
#include "module.h"
#include "reference.h"

/* The rows of a tensor, one after the other in f64. Index 0 to 3: batch, heads, length, dim. */
typedef struct HostTensor {
	const tda_tensor *tensor;
	int64_t count[4];
} HostTensor;

static int64_t host_elements(const HostTensor *t)
{
	return t->count[0] * t->count[1] * t->count[2] * t->count[3];
}

/* The element where row number n, in order of batch, head and length, begins. */
static size_t row_start(const HostTensor *t, int64_t n)
{
	int64_t row = n % t->count[2], head = n / t->count[2] % t->count[1], batch = n / t->count[2] / t->count[1];

	return (size_t)(batch * t->tensor->batch_stride + head * t->tensor->head_stride + row * t->tensor->row_stride);
}

/* NULL when there is no memory. */
static double *host_room(int64_t count)
{
	return calloc((size_t)(count > 0 ? count : 1), sizeof(double));
}

static double *host_unpack(tda_dtype dtype, const HostTensor *t)
{
	double *values = host_room(host_elements(t));
	int64_t dim = t->count[3];

	for (int64_t n = 0; values && n < host_elements(t); n++)
		values[n] = dtype_load(dtype, t->tensor->data, row_start(t, n / dim) + (size_t)(n % dim));
	return values;
}

static void host_pack(tda_dtype dtype, const HostTensor *t, const double *values)
{
	int64_t dim = t->count[3];

	for (int64_t n = 0; n < host_elements(t); n++)
		dtype_store(dtype, t->tensor->data, row_start(t, n / dim) + (size_t)(n % dim), values[n]);
}

/* ---- one call ---- */

typedef struct HostCall {
	Reference ref;
	const tda_kernel *kernel;
	HostTensor rows, keys, values, outputs;        /* extents of q, k, v and o; the tensor is set at each use */
	double *q[TDA_MAX_VIEWS], *k[TDA_MAX_VIEWS], *v, *grad_o;
	double *param[TDA_MAX_PARAMS];
	bool failed;                                   /* for lack of memory */
} HostCall;

static double *taken(HostCall *call, double *memory)
{
	call->failed |= memory == NULL;
	return memory;
}

static double *input(HostCall *call, HostTensor extent, const tda_tensor *tensor)
{
	extent.tensor = tensor;
	return taken(call, host_unpack(call->kernel->manifest->dtype, &extent));
}

static void output(HostCall *call, HostTensor extent, const tda_tensor *tensor, const double *values)
{
	extent.tensor = tensor;
	host_pack(call->kernel->manifest->dtype, &extent, values);
}

static void begin(HostCall *call, const tda_kernel *kernel, const tda_shape *shape, const Binding *binding,
                  const tda_tensor *q, const tda_tensor *k, const tda_tensor *v, const void *const *params)
{
	const Manifest *m = kernel->manifest;

	*call = (HostCall){
		.kernel = kernel,
		.rows = { .count = { shape->batch, shape->heads, shape->q_len, m->head_dim } },
		.keys = { .count = { shape->batch, shape->kv_heads, shape->k_len, m->head_dim } },
		.values = { .count = { shape->batch, shape->kv_heads, shape->k_len, m->value_dim } },
		.outputs = { .count = { shape->batch, shape->heads, shape->q_len, m->value_dim } },
		.ref = { .manifest = m, .batch = shape->batch, .heads = shape->heads, .kv_heads = shape->kv_heads,
			.q_len = shape->q_len, .k_len = shape->k_len, .layer = shape->layer, .layers = binding->vars[SHAPE_LAYERS] },
	};
	for (int n = 0; n < m->views; n++) {
		call->ref.q[n] = call->q[n] = input(call, call->rows, &q[n]);
		call->ref.k[n] = call->k[n] = input(call, call->keys, &k[n]);
	}
	call->ref.v = call->v = input(call, call->values, v);
	for (int p = 0; p < m->param_count; p++) {
		int64_t length = manifest_param_length(m, p, shape->heads, call->ref.layers);

		if (!params[p])
			continue;
		call->ref.param[p] = call->param[p] = taken(call, host_room(length));
		for (int64_t n = 0; call->param[p] && n < length; n++)
			call->param[p][n] = ((const float *)params[p])[n];
	}
	call->ref.o = taken(call, host_room(host_elements(&call->outputs)));
}

static tda_status run(HostCall *call)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return call->failed ? tda_fail_memory() : reference_run(&call->ref, cores > 0 ? (int)cores : 1);
}

static void end(HostCall *call)
{
	for (int n = 0; n < TDA_MAX_VIEWS; n++) {
		free(call->q[n]);
		free(call->k[n]);
		free(call->ref.dq[n]);
		free(call->ref.dk[n]);
	}
	for (int p = 0; p < TDA_MAX_PARAMS; p++) {
		free(call->param[p]);
		free(call->ref.dparam[p]);
	}
	free(call->v);
	free(call->grad_o);
	free(call->ref.o);
	free(call->ref.dv);
}

static void make_gradients(HostCall *call, const tda_backward_args *args)
{
	const Manifest *m = call->kernel->manifest;

	call->ref.grad_o = call->grad_o = input(call, call->outputs, &args->grad_o);
	for (int n = 0; n < m->views; n++) {
		call->ref.dq[n] = taken(call, host_room(host_elements(&call->rows)));
		call->ref.dk[n] = taken(call, host_room(host_elements(&call->keys)));
	}
	call->ref.dv = taken(call, host_room(host_elements(&call->values)));
	for (int p = 0; p < m->param_count; p++)
		call->ref.dparam[p] = taken(call, host_room(manifest_param_length(m, p, call->ref.heads, call->ref.layers)));
}

static void store_gradients(HostCall *call, const tda_backward_args *args)
{
	const Manifest *m = call->kernel->manifest;

	for (int n = 0; n < m->views; n++) {
		output(call, call->rows, &args->dq[n], call->ref.dq[n]);
		output(call, call->keys, &args->dk[n], call->ref.dk[n]);
	}
	output(call, call->values, &args->dv, call->ref.dv);
	for (int p = 0; p < m->param_count; p++) {
		int64_t length = manifest_param_length(m, p, call->ref.heads, call->ref.layers);

		for (int64_t n = 0; args->dparams[p] && n < length; n++)
			((float *)args->dparams[p])[n] = (float)call->ref.dparam[p][n];
	}
}

static tda_status check_given(const tda_kernel *kernel, const void *args)
{
	if (kernel && args)
		return TDA_OK;
	return tda_fail(TDA_BAD_ARGUMENT, "%s: the pointer is null", kernel ? "args" : "kernel");
}

tda_status tda_reference_forward(const tda_kernel *kernel, const tda_forward_args *args)
{
	HostCall call;
	Binding binding;
	tda_status status = check_given(kernel, args);

	if (status || (status = validate_host_forward(kernel->manifest, args, &binding)))
		return status;
	begin(&call, kernel, &args->shape, &binding, args->q, args->k, &args->v, args->params);
	if (!(status = run(&call)))
		output(&call, call.outputs, &args->o, call.ref.o);
	end(&call);
	return status;
}

tda_status tda_reference_backward(const tda_kernel *kernel, const tda_backward_args *args)
{
	HostCall call;
	Binding binding;
	tda_status status = check_given(kernel, args);

	if (status || (status = validate_host_backward(kernel->manifest, args, &binding)))
		return status;
	begin(&call, kernel, &args->shape, &binding, args->q, args->k, &args->v, args->params);
	make_gradients(&call, args);
	if (!(status = run(&call)))
		store_gradients(&call, args);
	end(&call);
	return status;
}
