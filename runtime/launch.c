#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "launch.h"

enum { BUFFER_ALIGNMENT = 256, MAP_LEAST_STRIDE = 16 };
static const int64_t MAP_STRIDE_END = (int64_t)1 << 40;

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

/* ---- what follows from the shape ---- */

/* Dimensions of stride 0 become one entry wide: kernels read entry 0 of them. Rows can't, as a box holds many. */
static tda_status eval_map(const ManifestMap *map, const int64_t *vars, TensorMap *result)
{
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
	result->extent[0] = (uint64_t)map->cols;
	result->box[0] = (uint32_t)map->box_cols;
	result->box[1] = (uint32_t)map->box_rows;
	return TDA_OK;
}

static tda_status eval_arg(const ManifestKernel *kernel, int arg, const int64_t *vars, ArgValue *value, TensorMap *map)
{
	const ManifestArg *a = &kernel->args[arg];
	int64_t wide = 0;
	tda_status status = a->type == ARG_MAP ? eval_map(a->map, vars, map) : formula_eval(a->formula, vars, &wide);

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

static tda_status eval_args(const ManifestKernel *kernel, const int64_t *vars, ArgValue *values, TensorMap *map)
{
	tda_status status = TDA_OK;

	for (int a = 0; a < kernel->arg_count && !status; a++) {
		if (kernel->args[a].type != ARG_PTR)
			status = eval_arg(kernel, a, vars, &values[a], map);
		map += kernel->args[a].type == ARG_MAP;
	}
	return status;
}

static tda_status eval_grid(const ManifestKernel *kernel, const int64_t *vars, uint32_t *grid)
{
	int64_t wide;
	tda_status status = formula_eval(kernel->grid, vars, &wide);

	if (status)
		return tda_fail_within(status, "the grid of kernel %s: ", kernel->entry);
	if (wide < 0)
		return tda_fail(TDA_BAD_FILE, "the grid of kernel %s is negative", kernel->entry);
	if (wide > INT32_MAX)
		return tda_fail(TDA_BAD_ARGUMENT, "the shape is too large: kernel %s would need %lld CTAs, and a grid has up to "
		                "2147483647: split the batch", kernel->entry, (long long)wide);
	*grid = (uint32_t)wide;
	return TDA_OK;
}

static size_t align_up(size_t bytes, size_t alignment)
{
	return (bytes + alignment - 1) / alignment * alignment;
}

Schedule *schedule_new(const Manifest *m, Phase phase)
{
	size_t values = 0, maps = 0, values_at = align_up(sizeof(Schedule), _Alignof(ArgValue)), maps_at;
	Schedule *s;

	for (int k = 0; k < m->kernel_count; k++)
		if (m->kernels[k].phase == phase) {
			values += (size_t)m->kernels[k].arg_count;
			maps += (size_t)m->kernels[k].map_count;
		}
	maps_at = align_up(values_at + values * sizeof(ArgValue), _Alignof(TensorMap));
	s = calloc(1, maps_at + maps * sizeof(TensorMap));
	if (!s) {
		tda_fail_memory();
		return NULL;
	}
	s->phase = phase;
	s->values = (ArgValue *)((char *)s + values_at);
	s->maps = (TensorMap *)((char *)s + maps_at);
	s->map_count = (int)maps;
	for (size_t n = 0; n < maps; n++)
		s->maps[n].number = (int)n;
	return s;
}

tda_status schedule_fill(const Manifest *m, const int64_t *vars, Schedule *s)
{
	ArgValue *values = s->values;
	TensorMap *maps = s->maps;
	tda_status status = lay_out(m, vars, &s->layout);

	memcpy(s->vars, vars, sizeof(s->vars));
	for (int k = 0; k < m->kernel_count && !status; k++) {
		const ManifestKernel *kernel = &m->kernels[k];

		if (kernel->phase != s->phase)
			continue;
		status = eval_grid(kernel, vars, &s->grid[k]);
		if (!status && s->grid[k] > 0)
			status = eval_args(kernel, vars, values, maps);
		values += kernel->arg_count;
		maps += kernel->map_count;
	}
	return status;
}

/* ---- a call ---- */

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

/* The schedule's values, which other threads may read too, with this call's addresses. */
static tda_status launch_kernel(const Manifest *m, const Schedule *s, int k, const Binding *b, ArgValue *values,
                                const TensorMap *map, LaunchFunction launch, void *user)
{
	const ManifestKernel *kernel = &m->kernels[k];
	uint64_t addresses[MANIFEST_MAX_ARGS];
	TensorMap maps[MANIFEST_MAX_MAPS];
	void *args[MANIFEST_MAX_ARGS];
	int map_count = 0;

	for (int a = 0; a < kernel->arg_count; a++) {
		const ManifestArg *arg = &kernel->args[a];

		args[a] = &values[a];
		if (arg->type == ARG_PTR) {
			addresses[a] = pointer_address(m, b, &s->layout, arg->pointer);
			args[a] = &addresses[a];
		} else if (arg->type == ARG_MAP) {
			maps[map_count] = map[map_count];
			maps[map_count].address = pointer_address(m, b, &s->layout, arg->pointer);
			args[a] = &maps[map_count++];
		}
	}
	return launch(user, m, k, s->grid[k], args);
}

tda_status schedule_launch(const Manifest *m, const Schedule *s, const Binding *b, LaunchFunction launch, void *user)
{
	ArgValue *values = s->values;
	const TensorMap *maps = s->maps;
	tda_status status = TDA_OK;

	for (int k = 0; k < m->kernel_count && !status; k++) {
		const ManifestKernel *kernel = &m->kernels[k];

		if (kernel->phase != s->phase)
			continue;
		if (s->grid[k] > 0 && !(kernel->conditional && pointer_address(m, b, &s->layout, kernel->when) == 0))
			status = launch_kernel(m, s, k, b, values, maps, launch, user);
		values += kernel->arg_count;
		maps += kernel->map_count;
	}
	return status;
}

tda_status launch_phase(const Manifest *m, Phase phase, const Binding *b, LaunchFunction launch, void *user)
{
	Schedule *s = schedule_new(m, phase);
	tda_status status = s ? schedule_fill(m, b->vars, s) : TDA_OUT_OF_MEMORY;

	if (!status)
		status = schedule_launch(m, s, b, launch, user);
	free(s);
	return status;
}
