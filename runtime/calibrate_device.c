/* Counts for calibrate, made on a device: each step runs row terms and counts of all heads again, each with its own value. */
#include <math.h>
#include <stdlib.h>
#include "calibrate_count.h"
#include "error.h"

static tda_status give_values(Calibrator *c, const double *value)
{
	int64_t heads = c->problem->shape.heads;
	double *all = calloc((size_t)heads, sizeof(*all));
	tda_status status;

	if (!all)
		return tda_fail_memory();
	for (int64_t h = 0; h < heads; h++)
		all[h] = isnan(value[h]) ? c->base : value[h];
	status = counter_set(c->counter, c->param, all);
	free(all);
	return status;
}

static void add_rows(const Calibrator *c, int view, int64_t plane, Counted *to)
{
	for (int64_t row = 0; row < c->problem->shape.q_len && to->survivors >= 0; row++) {
		int64_t survivors = counter_survivors(c->counter, view, plane, row);

		if (c->row_start[row] == c->row_start[row + 1])
			continue;
		to->survivors = survivors < 0 ? -1 : to->survivors + survivors;
	}
}

static void add_visited(const Calibrator *c, int64_t plane, Counted *to)
{
	for (int64_t block = 0; block < c->counter->blocks; block++)
		for (int64_t tile = 0; tile < c->counter->tiles; tile++)
			to->visited += counter_visited(c->counter, plane, block, tile);
}

static Counted sum_head(const Calibrator *c, int64_t head, bool visited)
{
	Counted sum = { 0, 0 };

	for (int64_t b = 0; b < c->problem->shape.batch; b++) {
		int64_t plane = b * c->problem->shape.heads + head;

		for (int v = 0; v < c->problem->manifest->views; v++)
			add_rows(c, v, plane, &sum);
		if (visited)
			add_visited(c, plane, &sum);
	}
	return sum;
}

tda_status calibrate_count_on_device(Calibrator *c, const double *value, bool visited, Counted *counted)
{
	tda_status status = give_values(c, value);

	if (status || (status = counter_run(c->counter)) || (status = counter_fetch(c->counter, COUNTER_SURVIVORS)) ||
	    (visited && (status = counter_fetch(c->counter, COUNTER_MASKS))))
		return status;
	if ((status = counter_check_scores(c->counter)))
		return tda_fail_within(status, "%s: ", c->options->in);
	for (int64_t h = 0; h < c->problem->shape.heads; h++)
		counted[h] = isnan(value[h]) ? (Counted){ 0, 0 } : sum_head(c, h, visited);
	return TDA_OK;
}
