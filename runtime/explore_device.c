/*
 * Counts by kernels. What is counted is exact, up to pairs within rounding of their threshold; sums over scores and weights are float32
 * for each row or 16 rows, and float64 from there on. o and gradients are those of the spec's own kernels, in its dtype.
 */
#include <stdlib.h>
#include "counter.h"
#include "error.h"
#include "explore_count.h"

enum { WARP_ROWS = 16 };               /* rows of a record of moments and tails */

/* ---- rows ---- */

static void add_row(const Counter *c, int64_t plane, int64_t row, KeySpan keys, ExploreCounts *to)
{
	const Manifest *m = c->problem->manifest;
	int64_t at = plane * c->rows + row, tau_at = plane * c->blocks * COUNTER_ROWS + row;
	ExploreRow sums = { .keys = keys.end - keys.first, .consensus = ((const int32_t *)c->array[COUNTER_CONSENSUS])[at] };

	for (int v = 0; v < m->views; v++) {
		sums.survivors[v] = counter_survivors(c, v, plane, row);
		explore_add_bound(to, m, sums.keys, ((const float *)c->array[COUNTER_TAU + v])[tau_at]);
	}
	if (explore_add_row(to, m->views, &sums) > 0)
		explore_add_sink(to, keys, ((const float *)c->array[COUNTER_ROW_SINK])[at],
		                 ((const float *)c->array[COUNTER_ROW_WEIGHT])[at]);
}

static void add_rows(const Counter *c, int64_t plane, ExploreCounts *to)
{
	for (int64_t row = 0; row < c->problem->shape.q_len; row++) {
		KeySpan keys = explore_keys_of_row(c->problem, row);

		if (keys.first < keys.end)
			add_row(c, plane, row, keys, to);
	}
}

static void add_moments(const Counter *c, int64_t plane, ExploreCounts *to)
{
	int64_t records = c->rows / WARP_ROWS;

	for (int64_t n = plane * records; n < (plane + 1) * records; n++) {
		const float *moment = (const float *)c->array[COUNTER_MOMENTS] + n * c->sizes.moment_count;
		const int32_t *tail = (const int32_t *)c->array[COUNTER_TAILS] + n * c->sizes.tail_count;

		for (int v = 0; v < c->problem->manifest->views; v++) {
			for (int power = 0; power < 4; power++)
				to->power[v][power] += *moment++;
			for (int t = 0; t < EXPLORE_TAILS; t++)
				to->above[v][t] += *tail++;
		}
		for (int v = 1; v < c->problem->manifest->views; v++)
			for (int w = 0; w < v; w++)
				to->product[v][w] += *moment++;
	}
}

/* ---- blocks of rows ---- */

/* Units of 64, 16 and 1 keys of a tile that hold one of its keys. */
static void add_units(uint64_t mask, ExploreCounts *to)
{
	for (int u = 0; u < EXPLORE_UNITS; u++) {
		int side = explore_unit_keys[u];
		uint64_t unit = side == COUNTER_KEYS ? ~(uint64_t)0 : ((uint64_t)1 << side) - 1;

		for (int first = 0; first < COUNTER_KEYS && mask >> first; first += side)
			to->units_hit[u] += (mask >> first & unit) != 0;
	}
}

static void add_block(const ExploreWork *work, const Counter *c, int64_t plane, int64_t block, ExploreCounts *to)
{
	const Problem *p = c->problem;
	int64_t first = block * EXPLORE_ROWS, end = first + EXPLORE_ROWS, parts = COUNTER_ROWS / c->sizes.block_rows;
	int64_t side = work->result->map_side, blocks = c->rows / c->sizes.block_rows;
	KeySpan keys = explore_keys_of_rows(p, first, end < p->shape.q_len ? end : p->shape.q_len);
	int64_t *map = work->maps + (plane * work->result->map_rows + first / side) * work->result->map_cols;

	if (keys.first == keys.end)
		return;
	for (int u = 0; u < EXPLORE_UNITS; u++)
		to->units[u] += (keys.end - 1) / explore_unit_keys[u] - keys.first / explore_unit_keys[u] + 1;
	for (int64_t tile = keys.first / COUNTER_KEYS; tile <= (keys.end - 1) / COUNTER_KEYS; tile++) {
		uint64_t any = 0;

		for (int v = 0; v < p->manifest->views; v++) {
			uint64_t mask = counter_mask(c, v, plane, block, tile);

			to->gathered[v] += __builtin_popcountll(mask);
			any |= mask;
		}
		add_units(any, to);
		to->visited += counter_visited(c, plane, block, tile);
		for (int64_t b = block * parts; b < (block + 1) * parts && b < blocks; b++)
			map[tile * COUNTER_KEYS / side] += ((const int32_t *)c->array[COUNTER_TILES])[(plane * blocks + b) * c->tiles + tile];
	}
}

/* ---- the whole ---- */

static tda_status count(const ExploreWork *work, Problem *p, Counter *c)
{
	tda_status status = counter_open(c, p, work->options->counter);

	if (!status)
		status = counter_run(c);
	if (!status)
		status = counter_time(c, &work->result->count_ms);
	for (int a = 0; a < COUNTER_ARRAYS && !status; a++)
		if (a < COUNTER_TAU || a >= COUNTER_TAU + TDA_MAX_VIEWS || a - COUNTER_TAU < p->manifest->views)
			status = counter_fetch(c, (CounterArray)a);
	if (status || (status = counter_check_scores(c)) || (status = counter_check_thresholds(c)))
		return status;
	for (int64_t plane = 0; plane < c->planes; plane++) {
		add_rows(c, plane, &work->counts[plane]);
		add_moments(c, plane, &work->counts[plane]);
		for (int64_t block = 0; block < c->blocks; block++)
			add_block(work, c, plane, block, &work->counts[plane]);
	}
	return TDA_OK;
}

static double *unpacked(const Operand *o)
{
	double *values = malloc(sizeof(double) * (size_t)(operand_rows(o) * o->dim + 1));

	if (values)
		operand_unpack(o, values);
	return values;
}

static bool fill_outputs(const Problem *p, bool gradients, Reference *r)
{
	const Manifest *m = p->manifest;
	bool ok = (r->o = unpacked(&p->tensor[TENSOR_O])) != NULL;

	if (!ok || !gradients)
		return ok;
	ok = (r->grad_o = unpacked(&p->tensor[TENSOR_DO])) && (r->dv = unpacked(&p->tensor[TENSOR_DV]));
	for (int v = 0; v < m->views && ok; v++)
		ok = (r->dq[v] = unpacked(&p->tensor[TENSOR_DQ + v])) && (r->dk[v] = unpacked(&p->tensor[TENSOR_DK + v]));
	for (int n = 0; n < m->param_count && ok; n++)
		ok = (r->dparam[n] = unpacked(&p->dparam[n])) != NULL;
	return ok;
}

static tda_status run_kernels(Problem *p, bool gradients, Reference *outputs)
{
	enum { POISON = 0xff };
	tda_status status;

	if ((status = problem_poison(p, POISON)) || (status = problem_launch(p, true, gradients)) ||
	    (status = problem_fetch(p, POISON, gradients)))
		return status;
	return fill_outputs(p, gradients, outputs) ? TDA_OK : tda_fail_memory();
}

tda_status explore_on_device(const ExploreWork *work, Problem *p, Reference *outputs)
{
	Counter c = {0};
	tda_status status = problem_place(p, work->options->device);

	if (!status)
		status = count(work, p, &c);
	counter_close(&c);
	if (!status)
		status = run_kernels(p, work->options->gradients, outputs);
	problem_displace(p);
	return status;
}
