#include <string.h>
#include "error.h"
#include "launch.h"

enum { BUFFER_ALIGNMENT = 256, MAP_LEAST_STRIDE = 16 };
static const int64_t MAP_STRIDE_END = (int64_t)1 << 40;

/* Where each buffer begins in its workspace, and how much each workspace holds, in bytes. */
typedef struct BufferLayout {
	int64_t offset[MANIFEST_MAX_BUFFERS];
	int64_t size[BUFFER_KIND_COUNT];
} BufferLayout;

static tda_status lay_out(const Manifest *m, const int64_t *vars, BufferLayout *layout)
{
	memset(layout, 0, sizeof(*layout));
	for (int b = 0; b < m->buffer_count; b++) {
		int64_t *size = &layout->size[m->buffers[b].kind], bytes, padded;
		tda_status status = formula_eval(m->buffers[b].bytes, vars, &bytes);

		if (status)
			return tda_fail_within(status, "the size of buffer %s: ", m->buffers[b].name);
		if (bytes < 0)
			return tda_fail(TDA_BAD_FILE, "the size of buffer %s is negative", m->buffers[b].name);
		layout->offset[b] = *size;
		if (__builtin_add_overflow(bytes, BUFFER_ALIGNMENT - 1, &padded) ||
		    __builtin_add_overflow(*size, padded / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT, size))
			return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: a workspace overflows 64 bits");
	}
	return TDA_OK;
}

tda_status launch_sizes(const Manifest *m, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT])
{
	BufferLayout layout;
	tda_status status = lay_out(m, vars, &layout);

	memcpy(sizes, layout.size, sizeof(layout.size));
	return status;
}

tda_status launch_buffer(const Manifest *m, const int64_t *vars, int buffer, int64_t *offset, int64_t *bytes)
{
	BufferLayout layout;
	tda_status status = lay_out(m, vars, &layout);

	*offset = layout.offset[buffer];
	return status ? status : formula_eval(m->buffers[buffer].bytes, vars, bytes);
}

static uint64_t pointer_address(const Manifest *m, const Binding *b, const BufferLayout *layout, Pointer pointer)
{
	switch (pointer.kind) {
	case POINTER_TENSOR: return b->tensor[pointer.index];
	case POINTER_PARAM: return b->param[pointer.index];
	case POINTER_DPARAM: return b->dparam[pointer.index];
	case POINTER_BUFFER: break;
	}
	return b->workspace[m->buffers[pointer.index].kind] + (uint64_t)layout->offset[pointer.index];
}

/* One argument's value; an i32 takes the first 4 bytes. */
typedef union ArgValue {
	uint64_t address;
	int64_t wide;
	int32_t narrow;
	TensorMap map;
} ArgValue;

/* Dimensions of stride 0 become one entry wide: kernels read entry 0 of them. Rows can't, as a box holds many. */
static tda_status eval_map(const ManifestMap *map, const int64_t *vars, uint64_t address, TensorMap *result)
{
	*result = (TensorMap){ .address = address, .extent = { (uint64_t)map->cols },
		.box = { (uint32_t)map->box_cols, (uint32_t)map->box_rows } };
	for (int d = 0; d < MAP_OUTER; d++) {
		int64_t extent, stride;
		tda_status status = formula_eval(map->extent[d], vars, &extent);

		if (status || (status = formula_eval(map->stride[d], vars, &stride)))
			return status;
		if (extent < 0 || extent > UINT32_MAX || stride < 0 || (extent > 1 && stride >= MAP_STRIDE_END))
			return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: %lld entries, %lld bytes apart, are beyond what a "
			                "tensor map can say (2^32 and 2^40)", (long long)extent, (long long)stride);
		if (d != MAP_ROWS && stride == 0 && extent > 1)
			extent = 1;
		result->extent[1 + d] = (uint64_t)extent;
		result->stride[d] = extent > 1 ? (uint64_t)stride : MAP_LEAST_STRIDE;
	}
	return TDA_OK;
}

static tda_status eval_arg(const Manifest *m, const ManifestKernel *kernel, int arg, const Binding *b,
                           const BufferLayout *layout, ArgValue *value)
{
	const ManifestArg *a = &kernel->args[arg];
	int64_t wide;
	tda_status status;

	if (a->type == ARG_PTR) {
		value->address = pointer_address(m, b, layout, a->pointer);
		return TDA_OK;
	}
	if (a->type == ARG_MAP)
		status = eval_map(a->map, b->vars, pointer_address(m, b, layout, a->pointer), &value->map);
	else
		status = formula_eval(a->formula, b->vars, &wide);
	if (status)
		return tda_fail_within(status, "argument %d of kernel %s: ", arg, kernel->entry);
	if (a->type == ARG_I64)
		value->wide = wide;
	if (a->type != ARG_I32)
		return TDA_OK;
	value->narrow = (int32_t)wide;
	if (value->narrow != wide)
		return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: argument %d of kernel %s is %lld, over 32 bits", arg,
		                kernel->entry, (long long)wide);
	return TDA_OK;
}

/* Grid and arguments of one kernel. A grid of 0 means that the kernel is skipped. */
static tda_status eval_kernel(const Manifest *m, const ManifestKernel *kernel, const Binding *b,
                              const BufferLayout *layout, uint32_t *grid, ArgValue *values)
{
	int64_t wide;
	tda_status status;

	*grid = 0;
	if (kernel->conditional && pointer_address(m, b, layout, kernel->when) == 0)
		return TDA_OK;
	status = formula_eval(kernel->grid, b->vars, &wide);
	if (status)
		return tda_fail_within(status, "the grid of kernel %s: ", kernel->entry);
	if (wide < 0)
		return tda_fail(TDA_BAD_FILE, "the grid of kernel %s is negative", kernel->entry);
	if (wide > INT32_MAX)
		return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: kernel %s would need %lld CTAs, and a grid has up to "
		                "2147483647: split the batch", kernel->entry, (long long)wide);
	for (int a = 0; a < kernel->arg_count && wide > 0; a++)
		if ((status = eval_arg(m, kernel, a, b, layout, &values[a])))
			return status;
	*grid = (uint32_t)wide;
	return TDA_OK;
}

tda_status launch_phase(const Manifest *m, Phase phase, const Binding *b, LaunchFunction launch, void *user)
{
	BufferLayout layout;
	tda_status status = lay_out(m, b->vars, &layout);

	for (int pass = 0; pass < 2; pass++)   /* 0: everything is computed and checked; 1: and launched */
		for (int k = 0; k < m->kernel_count && !status; k++) {
			ArgValue values[MANIFEST_MAX_ARGS];
			void *args[MANIFEST_MAX_ARGS];
			uint32_t grid;

			if (m->kernels[k].phase != phase)
				continue;
			status = eval_kernel(m, &m->kernels[k], b, &layout, &grid, values);
			if (status || pass == 0 || grid == 0)
				continue;
			for (int a = 0; a < m->kernels[k].arg_count; a++)
				args[a] = &values[a];
			status = launch(user, m, k, grid, args);
		}
	return status;
}
