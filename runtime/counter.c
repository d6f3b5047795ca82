#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "counter.h"
#include "error.h"
#include "half.h"

static int64_t ceil_div(int64_t x, int64_t y)
{
	return (x + y - 1) / y;
}

static KeySpan keys_of(const Counter *c, int64_t row)
{
	const Problem *p = c->problem;

	return reference_visible_keys(p->manifest, row + p->shape.k_len - p->shape.q_len, p->shape.k_len);
}

/* ---- parameters ---- */

static tda_status copy_param(Counter *c, int param, const float *value)
{
	Device *device = c->problem->device;
	size_t bytes = sizeof(*value) * (size_t)c->problem->shape.heads;
	tda_status status = c->param[param] ? TDA_OK : device->ops->alloc(device, bytes, &c->param[param]);

	return status ? status : device->ops->copy_in(device, c->param[param], value, bytes);
}

/* The entries that the problem gives to each head. */
static tda_status give_param(Counter *c, int param)
{
	const Problem *p = c->problem;
	float *value = calloc((size_t)p->shape.heads, sizeof(*value));
	tda_status status;

	if (!value)
		return tda_fail_memory();
	for (int64_t h = 0; h < p->shape.heads; h++) {
		int64_t entry = manifest_param_entry(p->manifest, param, p->shape.heads, p->shape.layer, h);

		value[h] = (float)dtype_load(TDA_F32, p->param[param].host, (size_t)entry);
	}
	status = copy_param(c, param, value);
	free(value);
	return status;
}

tda_status counter_set(Counter *c, int param, const double *value)
{
	float *rounded = calloc((size_t)c->problem->shape.heads, sizeof(*rounded));
	tda_status status;

	if (!rounded)
		return tda_fail_memory();
	for (int64_t h = 0; h < c->problem->shape.heads; h++)
		rounded[h] = (float)value[h];
	status = copy_param(c, param, rounded);
	free(rounded);
	return status;
}

/* ---- counting ---- */

tda_status counter_open(Counter *c, const Problem *p, tda_kernel *kernel)
{
	Device *device = p->device;
	tda_status status;

	*c = (Counter){ .problem = p, .kernel = kernel, .sizes = TDA_COUNT_SIZES_INIT };
	if ((status = tda_get_count_sizes(kernel, &p->shape, &c->sizes)))
		return status;
	c->planes = p->shape.batch * p->shape.heads;
	c->rows = ceil_div(p->shape.q_len, c->sizes.block_rows) * c->sizes.block_rows;
	c->blocks = ceil_div(p->shape.q_len, COUNTER_ROWS);
	c->tiles = ceil_div(p->shape.k_len, COUNTER_KEYS);
	if ((status = device->ops->alloc(device, c->sizes.bytes, &c->memory)))
		return tda_fail_within(status, "counts of this shape take %.1f MB on the device, beside its tensors; give fewer heads, "
		                       "shorter tensors or --device reference: ", 1e-6 * (double)c->sizes.bytes);
	for (int n = 0; n < p->manifest->param_count && !status; n++)
		if (!p->param[n].absent && p->manifest->params[n].shape != TDA_PER_CHANNEL)
			status = give_param(c, n);
	return status;
}

void counter_close(Counter *c)
{
	Device *device = c->problem ? c->problem->device : NULL;

	for (int n = 0; n < TDA_MAX_PARAMS; n++)
		if (c->param[n])
			device->ops->release(device, c->param[n]);
	if (c->memory)
		device->ops->release(device, c->memory);
	for (int n = 0; n < COUNTER_ARRAYS; n++)
		free(c->array[n]);
	*c = (Counter){0};
}

static tda_tensor tensor_of(const Operand *o)
{
	return (tda_tensor){ o->device, o->stride[0], o->stride[1], o->stride[2] };
}

tda_status counter_run(Counter *c)
{
	const Problem *p = c->problem;
	tda_count_args args = TDA_COUNT_ARGS_INIT;

	args.shape = p->shape;
	for (int v = 0; v < p->manifest->views; v++) {
		args.q[v] = tensor_of(&p->tensor[TENSOR_Q + v]);
		args.k[v] = tensor_of(&p->tensor[TENSOR_K + v]);
	}
	for (int n = 0; n < p->manifest->param_count; n++)
		args.params[n] = c->param[n];
	args.counts = c->memory;
	args.counts_bytes = c->sizes.bytes;
	return device_count(p->device, c->kernel, &args);
}

tda_status counter_time(Counter *c, double *milliseconds)
{
	Device *device = c->problem->device;
	tda_status status;

	*milliseconds = NAN;
	if (!device->ops->mark)
		return TDA_OK;
	if ((status = device->ops->mark(device, 0)) || (status = counter_run(c)) || (status = device->ops->mark(device, 1)) ||
	    (status = device->ops->synchronize(device)))
		return status;
	return device->ops->elapsed(device, 0, 1, milliseconds);
}

typedef struct Place {
	size_t offset, bytes;
} Place;

static Place place_of(const Counter *c, CounterArray array)
{
	const tda_count_sizes *s = &c->sizes;
	size_t views = (size_t)c->problem->manifest->views, planes = (size_t)c->planes, rows = planes * (size_t)c->rows;
	size_t tiles = rows / (size_t)s->block_rows * (size_t)c->tiles;

	switch (array) {
	case COUNTER_SURVIVORS: return (Place){ s->survivors, 4 * views * rows };
	case COUNTER_CONSENSUS: return (Place){ s->consensus, 4 * rows };
	case COUNTER_MASKS: return (Place){ s->masks, 8 * views * tiles };
	case COUNTER_TILES: return (Place){ s->tiles, 4 * tiles };
	case COUNTER_ROW_WEIGHT: return (Place){ s->row_weight, 4 * rows };
	case COUNTER_ROW_SINK: return (Place){ s->row_sink, 4 * rows };
	case COUNTER_MOMENTS: return (Place){ s->moments, rows / 16 * 4 * (size_t)s->moment_count };
	case COUNTER_TAILS: return (Place){ s->tails, rows / 16 * 4 * (size_t)s->tail_count };
	default: break;
	}
	return (Place){ s->tau[array - COUNTER_TAU], 4 * planes * (size_t)c->blocks * COUNTER_ROWS };
}

tda_status counter_fetch(Counter *c, CounterArray array)
{
	Device *device = c->problem->device;
	Place place = place_of(c, array);
	tda_status status = device->ops->synchronize(device);

	if (!c->array[array] && !(c->array[array] = malloc(place.bytes + 1)))
		return tda_fail_memory();
	return status ? status : device->ops->copy_out(device, c->array[array], (char *)c->memory + place.offset, place.bytes);
}

/* ---- what was counted ---- */

/* A row that sees a key, and whose count is `mark` under a view: 1 + plane * q_len + row; 0: none. */
static int64_t find_row(const Counter *c, int32_t mark)
{
	const Problem *p = c->problem;
	const int32_t *survivors = c->array[COUNTER_SURVIVORS];

	for (int64_t n = 0; n < p->manifest->views * c->planes; n++)
		for (int64_t row = 0; row < p->shape.q_len; row++) {
			KeySpan keys;

			if (survivors[n * c->rows + row] != mark)
				continue;
			keys = keys_of(c, row);
			if (keys.first < keys.end)
				return 1 + n % c->planes * p->shape.q_len + row;
		}
	return 0;
}

static tda_status check_rows(const Counter *c, int32_t mark, const char *what, const char *why)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t at = find_row(c, mark) - 1;

	if (at < 0)
		return TDA_OK;
	return tda_fail(TDA_BAD_ARGUMENT, "%s of batch entry %lld, head %lld, row %lld is NaN or infinite: %s", what,
	                (long long)(at / shape->q_len / shape->heads), (long long)(at / shape->q_len % shape->heads),
	                (long long)(at % shape->q_len), why);
}

tda_status counter_check_scores(const Counter *c)
{
	return check_rows(c, -2, "a score", COUNTER_SCORE_RULE);
}

tda_status counter_check_thresholds(const Counter *c)
{
	return check_rows(c, -1, "the threshold", COUNTER_THRESHOLD_RULE);
}

int64_t counter_survivors(const Counter *c, int view, int64_t plane, int64_t row)
{
	return ((const int32_t *)c->array[COUNTER_SURVIVORS])[(view * c->planes + plane) * c->rows + row];
}

uint64_t counter_mask(const Counter *c, int view, int64_t plane, int64_t block, int64_t tile)
{
	int64_t parts = COUNTER_ROWS / c->sizes.block_rows, blocks = c->rows / c->sizes.block_rows;
	const uint64_t *masks = (const uint64_t *)c->array[COUNTER_MASKS] + (view * c->planes + plane) * blocks * c->tiles;
	uint64_t mask = 0;

	for (int64_t b = block * parts; b < (block + 1) * parts && b < blocks; b++)
		mask |= masks[b * c->tiles + tile];
	return mask;
}

/* Of rows first to end - 1: those that see a key are neighbours, as the masks move by a key a row. */
static int64_t rows_that_see(const Problem *p, int64_t key, int64_t first, int64_t end)
{
	const Manifest *m = p->manifest;
	int64_t row = key + p->shape.q_len - p->shape.k_len;   /* whose position is the key's */
	int64_t low = m->causal ? row : first, high = end;

	if (m->window) {
		low = row - m->window + 1 > low ? row - m->window + 1 : low;
		high = row + m->window < high ? row + m->window : high;
	}
	low = low > first ? low : first;
	return high > low ? high - low : 0;
}

int64_t counter_visited(const Counter *c, int64_t plane, int64_t block, int64_t tile)
{
	const Problem *p = c->problem;
	int64_t first = block * COUNTER_ROWS, end = first + COUNTER_ROWS, key = tile * COUNTER_KEYS, all, visited = 0;
	uint64_t mask = 0;

	end = end < p->shape.q_len ? end : p->shape.q_len;
	for (int v = 0; v < p->manifest->views; v++)
		mask |= counter_mask(c, v, plane, block, tile);
	all = end - first;
	/* The corners of the tile tell where all rows see all keys. */
	if (rows_that_see(p, key, first, end) == all && rows_that_see(p, key + COUNTER_KEYS - 1, first, end) == all)
		return all * __builtin_popcountll(mask);
	for (; mask; mask &= mask - 1)
		visited += rows_that_see(p, key + __builtin_ctzll(mask), first, end);
	return visited;
}
