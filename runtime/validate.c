/*
 * Every rule that arguments must keep, checked before anything is launched. A refusal names the argument and the rule.
 * All memory of a call is described as regions, so that one test covers every way in which two of them may overlap.
 */
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "module.h"

static const int64_t greatest_count = INT32_MAX;       /* of batch and heads: kernels get them as 32 bits */
static const int64_t greatest_length = (int64_t)1 << 30;       /* positions and tile ends stay within 32 bits */
enum { TENSOR_ALIGNMENT = 16, WORKSPACE_ALIGNMENT = 256, PARAM_ALIGNMENT = 4 };

static tda_status check_struct(const char *name, uint32_t size, uint32_t version, size_t expected)
{
	if (version != TDA_ABI_VERSION)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: version is %u, this libtda has %d: initialise it with the _INIT macro of "
		                "tda.h", name, (unsigned)version, TDA_ABI_VERSION);
	if (size != expected)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: size is %u bytes, version %d has %zu: initialise it with the _INIT macro of "
		                "tda.h", name, (unsigned)size, TDA_ABI_VERSION, expected);
	return TDA_OK;
}

/* ---- shapes ---- */

static tda_status check_range(const char *name, int64_t value, int64_t lo, int64_t hi)
{
	if (value >= lo && value <= hi)
		return TDA_OK;
	return tda_fail(TDA_BAD_ARGUMENT, "shape.%s is %lld: it must be in %lld..%lld", name, (long long)value, (long long)lo,
	                (long long)hi);
}

tda_status validate_pointers(const tda_kernel *kernel, const void *argument, const char *name)
{
	if (!kernel)
		return tda_fail(TDA_BAD_ARGUMENT, "kernel: the pointer is null");
	if (!argument)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: the pointer is null", name);
	return TDA_OK;
}

tda_status validate_shape(const tda_shape *shape, int64_t *vars)
{
	int64_t layers = shape->layers ? shape->layers : (int64_t)shape->layer + 1;
	tda_status status;

	if ((status = check_struct("shape", shape->size, shape->version, sizeof(*shape))) ||
	    (status = check_range("batch", shape->batch, 0, greatest_count)) ||
	    (status = check_range("heads", shape->heads, 1, greatest_count)) ||
	    (status = check_range("kv_heads", shape->kv_heads, 1, greatest_count)) ||
	    (status = check_range("q_len", shape->q_len, 0, greatest_length)) ||
	    (status = check_range("k_len", shape->k_len, 0, greatest_length)) ||
	    (status = check_range("layers", shape->layers, 0, greatest_count)) ||
	    (status = check_range("layer", shape->layer, 0, (layers < greatest_count ? layers : greatest_count) - 1)))
		return status;
	if (shape->heads % shape->kv_heads)
		return tda_fail(TDA_BAD_ARGUMENT, "shape.kv_heads is %lld: it must divide shape.heads, which is %lld",
		                (long long)shape->kv_heads, (long long)shape->heads);
	if (shape->q_lens || shape->k_lens)
		return tda_fail(TDA_UNSUPPORTED, "shape.q_lens and k_lens: lengths per batch entry are not supported yet: pass NULL");
	if (shape->q_offsets || shape->k_offsets)
		return tda_fail(TDA_UNSUPPORTED, "shape.q_offsets and k_offsets: packed sequences are not supported yet: pass NULL");
	vars[SHAPE_BATCH] = shape->batch;
	vars[SHAPE_HEADS] = shape->heads;
	vars[SHAPE_KV_HEADS] = shape->kv_heads;
	vars[SHAPE_Q_LEN] = shape->q_len;
	vars[SHAPE_K_LEN] = shape->k_len;
	vars[SHAPE_LAYER] = shape->layer;
	vars[SHAPE_LAYERS] = layers;
	return TDA_OK;
}

/* ---- regions ---- */

enum { REGION_DIMS = 3, MAX_REGIONS = TENSOR_COUNT + 2 * TDA_MAX_PARAMS + BUFFER_KIND_COUNT };

/* The bytes base + sum of n[d] * stride[d] + 0..width-1, for all n[d] < count[d]; dims in the order of their
 * strides. */
typedef struct Region {
	char name[MANIFEST_NAME_BYTES + 8];
	uint64_t base;
	int64_t width, span;           /* span: from base to the end of the last byte */
	int dims;
	int64_t stride[REGION_DIMS], count[REGION_DIMS];       /* counts of 2 or more */
	bool written;
} Region;

typedef struct Regions {
	Region region[MAX_REGIONS];
	int count;
} Regions;

static int64_t greatest_divisor(int64_t a, int64_t b)
{
	while (b) {
		int64_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

/* The region's innermost `inner` dims taken as one solid run: its bytes; *divisor takes in the strides that are
 * left. */
static int64_t solid_width(const Region *r, int inner, int64_t *divisor)
{
	int64_t width = r->width;

	for (int d = 0; d < r->dims; d++) {
		if (d < inner)
			width += (r->count[d] - 1) * r->stride[d];
		else
			*divisor = greatest_divisor(*divisor, r->stride[d]);
	}
	return width;
}

/* True only where it is certain. Regions whose ranges interleave, as q, k and v of one packed tensor do, are apart when
 * all their runs repeat with a common period and keep to different parts of it. */
static bool regions_apart(const Region *a, const Region *b)
{
	if (a->base + (uint64_t)a->span <= b->base || b->base + (uint64_t)b->span <= a->base)
		return true;
	for (int inner_a = 0; inner_a <= a->dims; inner_a++)
		for (int inner_b = 0; inner_b <= b->dims; inner_b++) {
			int64_t period = 0, shift;
			int64_t width_a = solid_width(a, inner_a, &period), width_b = solid_width(b, inner_b, &period);

			if (period == 0)
				continue;
			shift = (int64_t)(b->base - a->base) % period;
			shift += shift < 0 ? period : 0;
			if (shift >= width_a && period - shift >= width_b)
				return true;
		}
	return false;
}

static tda_status check_apart(const Regions *regions)
{
	for (int b = 1; b < regions->count; b++)
		for (int a = 0; a < b; a++) {
			const Region *first = &regions->region[a], *second = &regions->region[b];
			const Region *output = second->written ? second : first, *other = second->written ? first : second;

			if ((first->written || second->written) && !regions_apart(first, second))
				return tda_fail(TDA_BAD_ARGUMENT, "%s overlaps %s: what a call writes must not share memory with anything "
				                "else of the call", output->name, other->name);
		}
	return TDA_OK;
}

static tda_status check_alignment(const char *name, uint64_t address, int alignment)
{
	if (address % (unsigned)alignment == 0)
		return TDA_OK;
	return tda_fail(TDA_BAD_ARGUMENT, "%s: the address 0x%llx is not a multiple of %d bytes", name,
	                (unsigned long long)address, alignment);
}

static tda_status add_flat(Regions *regions, const char *name, const void *data, int64_t bytes, int alignment,
                           bool written)
{
	Region *r = &regions->region[regions->count];
	size_t length = strlen(name) < sizeof(r->name) - 1 ? strlen(name) : sizeof(r->name) - 1;

	*r = (Region){ .base = (uint64_t)(uintptr_t)data, .width = bytes, .span = bytes, .written = written };
	memcpy(r->name, name, length);
	if (bytes == 0)
		return TDA_OK;
	if (!data)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: the pointer is null", name);
	if ((uint64_t)bytes > UINT64_MAX - r->base)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: its end is beyond the address space", name);
	regions->count++;
	return check_alignment(name, r->base, alignment);
}

/* ---- tensors ---- */

typedef struct Extent {
	int64_t batch, heads, length, dim;
} Extent;

static tda_status check_strides(const char *name, const int64_t strides[REGION_DIMS], int element)
{
	static const char *const stride_names[REGION_DIMS] = { "batch_stride", "head_stride", "row_stride" };

	for (int d = 0; d < REGION_DIMS; d++) {
		if (strides[d] < 0)
			return tda_fail(TDA_BAD_ARGUMENT, "%s.%s is %lld: strides must not be negative", name, stride_names[d],
			                (long long)strides[d]);
		if (strides[d] % (TENSOR_ALIGNMENT / element))
			return tda_fail(TDA_BAD_ARGUMENT, "%s.%s is %lld elements of %d bytes: strides must be multiples of %d bytes", name,
			                stride_names[d], (long long)strides[d], element, TENSOR_ALIGNMENT);
	}
	return TDA_OK;
}

/* Dims with two or more entries, smallest stride first. False where the span overflows. */
static bool fill_dims(Region *r, const int64_t strides[REGION_DIMS], const int64_t counts[REGION_DIMS], int element)
{
	r->span = r->width;
	for (int d = 0; d < REGION_DIMS; d++) {
		int64_t bytes, reach;
		int at = r->dims;

		if (counts[d] < 2)
			continue;
		if (__builtin_mul_overflow(strides[d], element, &bytes) ||
		    __builtin_mul_overflow(bytes, counts[d] - 1, &reach) || __builtin_add_overflow(r->span, reach, &r->span))
			return false;
		for (; at > 0 && r->stride[at - 1] > bytes; at--) {
			r->stride[at] = r->stride[at - 1];
			r->count[at] = r->count[at - 1];
		}
		r->stride[at] = bytes;
		r->count[at] = counts[d];
		r->dims++;
	}
	return (uint64_t)r->span <= UINT64_MAX - r->base;
}

static tda_status check_rows_apart(const Region *r)
{
	int64_t solid = r->width;

	for (int d = 0; d < r->dims; d++) {
		if (r->stride[d] < solid)
			return tda_fail(TDA_BAD_ARGUMENT, "%s: a stride of %lld bytes makes rows of %lld bytes overlap: strides of outputs "
			                "must keep the rows apart", r->name, (long long)r->stride[d], (long long)r->width);
		solid += (r->count[d] - 1) * r->stride[d];
	}
	return TDA_OK;
}

static tda_status add_tensor(Regions *regions, const Manifest *m, int tensor, const tda_tensor *t, Extent extent,
                             bool written, Binding *b)
{
	const char *name = tensor == TENSOR_DO ? "grad_o" : tensor_name(tensor);
	const int64_t strides[REGION_DIMS] = { t->batch_stride, t->head_stride, t->row_stride };
	const int64_t counts[REGION_DIMS] = { extent.batch, extent.heads, extent.length };
	int element = manifest_dtype_size(m);
	Region *r = &regions->region[regions->count];
	tda_status status = check_strides(name, strides, element);

	if (status)
		return status;
	b->tensor[tensor] = (uint64_t)(uintptr_t)t->data;
	for (int s = 0; s < STRIDE_COUNT; s++)
		b->vars[formula_stride_var(tensor, s)] = strides[s];
	if (extent.batch == 0 || extent.length == 0)
		return check_alignment(name, b->tensor[tensor], TENSOR_ALIGNMENT);
	if ((status = add_flat(regions, name, t->data, extent.dim * element, TENSOR_ALIGNMENT, written)))
		return status;
	if (!fill_dims(r, strides, counts, element))
		return tda_fail(TDA_BAD_ARGUMENT, "%s: its end is beyond the address space: the strides are too large", name);
	return written ? check_rows_apart(r) : TDA_OK;
}

static tda_status add_tensors(Regions *regions, const Manifest *m, int first, const tda_tensor *tensors, int count,
                              Extent extent, bool written, Binding *b)
{
	tda_status status = TDA_OK;

	for (int v = 0; v < count && !status; v++)
		status = add_tensor(regions, m, first + v, &tensors[v], extent, written, b);
	return status;
}

static tda_status add_params(Regions *regions, const Manifest *m, const char *prefix, const void *const *tensors,
                             const int64_t *vars, bool written, uint64_t *addresses)
{
	tda_status status = TDA_OK;

	for (int p = 0; p < m->param_count && !status; p++) {
		int64_t length = manifest_param_length(m, p, vars[SHAPE_HEADS], vars[SHAPE_LAYERS]);
		char name[MANIFEST_NAME_BYTES + 8];

		addresses[p] = (uint64_t)(uintptr_t)tensors[p];
		if (!tensors[p])
			continue;
		strcpy(name, prefix);
		strcat(name, m->params[p].name);
		status = add_flat(regions, name, tensors[p], length * (int64_t)sizeof(float), PARAM_ALIGNMENT, written);
	}
	for (int p = m->param_count; p < TDA_MAX_PARAMS && !status; p++)
		if (tensors[p])
			status = tda_fail(TDA_BAD_ARGUMENT, "%sparams[%d] is given, but the kernel has %d parameters", prefix, p,
			                  m->param_count);
	return status;
}

static tda_status add_workspace(Regions *regions, const char *name, const void *memory, size_t bytes, int64_t needed,
                                bool written, uint64_t *address)
{
	*address = (uint64_t)(uintptr_t)memory;
	if (needed > 0 && bytes < (uint64_t)needed)
		return tda_fail(TDA_BAD_ARGUMENT, "%s_bytes is %zu: this shape needs %lld (see tda_get_sizes)", name, bytes,
		                (long long)needed);
	return add_flat(regions, name, memory, needed, WORKSPACE_ALIGNMENT, written);
}

/* ---- calls ---- */

/* The beginning of every check. */
static tda_status check_call(Regions *regions, const tda_shape *shape, uint32_t size, uint32_t version, size_t expected,
                             Binding *b)
{
	tda_status status = check_struct("args", size, version, expected);

	regions->count = 0;
	memset(b, 0, sizeof(*b));
	return status ? status : validate_shape(shape, b->vars);
}

/* Everything but the workspaces. */
static tda_status add_forward(Regions *regions, const Manifest *m, const tda_forward_args *args, Binding *b)
{
	const tda_shape *shape = &args->shape;
	Extent rows = { shape->batch, shape->heads, shape->q_len, m->head_dim };
	Extent keys = { shape->batch, shape->kv_heads, shape->k_len, m->head_dim };
	Extent values = keys, outputs = rows;
	tda_status status;

	values.dim = outputs.dim = m->value_dim;
	if ((status = add_tensors(regions, m, TENSOR_Q, args->q, m->views, rows, false, b)) ||
	    (status = add_tensors(regions, m, TENSOR_K, args->k, m->views, keys, false, b)) ||
	    (status = add_tensors(regions, m, TENSOR_V, &args->v, 1, values, false, b)) ||
	    (status = add_params(regions, m, "", args->params, b->vars, false, b->param)))
		return status;
	return add_tensors(regions, m, TENSOR_O, &args->o, 1, outputs, true, b);
}

static tda_status add_backward(Regions *regions, const Manifest *m, const tda_backward_args *args, Binding *b)
{
	const tda_shape *shape = &args->shape;
	Extent rows = { shape->batch, shape->heads, shape->q_len, m->head_dim };
	Extent keys = { shape->batch, shape->kv_heads, shape->k_len, m->head_dim };
	Extent values = keys, outputs = rows;
	const void *dparams[TDA_MAX_PARAMS];
	tda_status status;

	values.dim = outputs.dim = m->value_dim;
	for (int p = 0; p < TDA_MAX_PARAMS; p++)
		dparams[p] = args->dparams[p];
	if ((status = add_tensors(regions, m, TENSOR_Q, args->q, m->views, rows, false, b)) ||
	    (status = add_tensors(regions, m, TENSOR_K, args->k, m->views, keys, false, b)) ||
	    (status = add_tensors(regions, m, TENSOR_V, &args->v, 1, values, false, b)) ||
	    (status = add_tensors(regions, m, TENSOR_DO, &args->grad_o, 1, outputs, false, b)) ||
	    (status = add_params(regions, m, "", args->params, b->vars, false, b->param)) ||
	    (status = add_tensors(regions, m, TENSOR_DQ, args->dq, m->views, rows, true, b)) ||
	    (status = add_tensors(regions, m, TENSOR_DK, args->dk, m->views, keys, true, b)) ||
	    (status = add_tensors(regions, m, TENSOR_DV, &args->dv, 1, values, true, b)))
		return status;
	return add_params(regions, m, "d", dparams, b->vars, true, b->dparam);
}

/* Files that count have nothing else, and others don't count. */
static tda_status check_purpose(const Manifest *m, bool count)
{
	if (count == (m->count.rows > 0))
		return TDA_OK;
	return tda_fail(TDA_UNSUPPORTED, count ? "%s was compiled to compute attention: tda_count needs a file of tdagen --plan count"
	                                       : "%s was compiled with --plan count, which counts pairs and computes no attention: compile "
	                                         "the spec with another plan", m->spec_name);
}

tda_status validate_forward(tda_kernel *kernel, const tda_forward_args *args, Binding *b)
{
	Regions regions;
	int64_t sizes[BUFFER_KIND_COUNT];
	tda_status status;

	if ((status = check_purpose(kernel->manifest, false)) ||
	    (status = check_call(&regions, &args->shape, args->size, args->version, sizeof(*args), b)) ||
	    (status = module_sizes(kernel, b->vars, sizes)) ||
	    (status = add_forward(&regions, kernel->manifest, args, b)) ||
	    (status = add_workspace(&regions, "saved", args->saved, args->saved_bytes, sizes[BUFFER_SAVED], true,
	                            &b->workspace[BUFFER_SAVED])) ||
	    (status = add_workspace(&regions, "scratch", args->scratch, args->scratch_bytes, sizes[BUFFER_FORWARD], true,
	                            &b->workspace[BUFFER_FORWARD])))
		return status;
	return check_apart(&regions);
}

tda_status validate_backward(tda_kernel *kernel, const tda_backward_args *args, Binding *b)
{
	Regions regions;
	int64_t sizes[BUFFER_KIND_COUNT];
	tda_status status;

	if ((status = check_purpose(kernel->manifest, false)) ||
	    (status = check_call(&regions, &args->shape, args->size, args->version, sizeof(*args), b)) ||
	    (status = module_sizes(kernel, b->vars, sizes)) ||
	    (status = add_backward(&regions, kernel->manifest, args, b)) ||
	    (status = add_workspace(&regions, "saved", args->saved, args->saved_bytes, sizes[BUFFER_SAVED], false,
	                            &b->workspace[BUFFER_SAVED])) ||
	    (status = add_workspace(&regions, "scratch", args->scratch, args->scratch_bytes, sizes[BUFFER_BACKWARD], true,
	                            &b->workspace[BUFFER_BACKWARD])))
		return status;
	return check_apart(&regions);
}

tda_status validate_counts(const Manifest *m)
{
	return check_purpose(m, true);
}

tda_status validate_count(tda_kernel *kernel, const tda_count_args *args, Binding *b)
{
	const Manifest *m = kernel->manifest;
	const tda_shape *shape = &args->shape;
	Extent rows = { shape->batch, shape->heads, shape->q_len, m->head_dim };
	Extent keys = { shape->batch, shape->kv_heads, shape->k_len, m->head_dim };
	Regions regions;
	int64_t sizes[BUFFER_KIND_COUNT];
	tda_status status;

	if ((status = check_purpose(m, true)) ||
	    (status = check_call(&regions, shape, args->size, args->version, sizeof(*args), b)) ||
	    (status = module_sizes(kernel, b->vars, sizes)) ||
	    (status = add_tensors(&regions, m, TENSOR_Q, args->q, m->views, rows, false, b)) ||
	    (status = add_tensors(&regions, m, TENSOR_K, args->k, m->views, keys, false, b)) ||
	    (status = add_params(&regions, m, "", args->params, b->vars, false, b->param)) ||
	    (status = add_workspace(&regions, "counts", args->counts, args->counts_bytes, sizes[BUFFER_COUNTS], true,
	                            &b->workspace[BUFFER_COUNTS])))
		return status;
	return check_apart(&regions);
}

tda_status validate_host_forward(const Manifest *m, const tda_forward_args *args, Binding *b)
{
	Regions regions;
	tda_status status;

	if ((status = check_call(&regions, &args->shape, args->size, args->version, sizeof(*args), b)) ||
	    (status = add_forward(&regions, m, args, b)))
		return status;
	return check_apart(&regions);
}

tda_status validate_host_backward(const Manifest *m, const tda_backward_args *args, Binding *b)
{
	Regions regions;
	tda_status status;

	if ((status = check_call(&regions, &args->shape, args->size, args->version, sizeof(*args), b)) ||
	    (status = add_backward(&regions, m, args, b)))
		return status;
	return check_apart(&regions);
}
