/* The metrics: each from the counts of a head, or of all heads together. */
#include <math.h>
#include <string.h>
#include "explore_report.h"

static double ratio(double part, double whole)
{
	return whole > 0 ? part / whole : NAN;
}

static int64_t all_survivors(const ExploreCounts *c)
{
	int64_t all = 0;

	for (int v = 0; v < c->views; v++)
		all += c->survivors[v];
	return all;
}

/* Rows that see a key, and those of them without a survivor. */
static int64_t seeing_rows(const ExploreCounts *c, int64_t *dead)
{
	int64_t rows = 0;

	*dead = 0;
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		rows += c->octave[n].rows;
		*dead += c->octave[n].dead;
	}
	return rows;
}

static double zeros(const ExploreCounts *c)
{
	return 1 - ratio((double)all_survivors(c), (double)c->visible * c->views);
}

static double survivors(const ExploreCounts *c)
{
	int64_t dead;

	return ratio((double)all_survivors(c), (double)seeing_rows(c, &dead) * c->views);
}

static double dead_rows(const ExploreCounts *c)
{
	int64_t dead, rows = seeing_rows(c, &dead);

	return ratio((double)dead, (double)rows);
}

static double dead_heads(const ExploreCounts *c)
{
	return (double)c->dead_heads;
}

static double consensus(const ExploreCounts *c)
{
	return (double)c->consensus;
}

static double by_chance(const ExploreCounts *c)
{
	return c->by_chance;
}

static double sink(const ExploreCounts *c)
{
	return ratio(c->sink, (double)c->sink_rows);
}

static double sink_uniform(const ExploreCounts *c)
{
	return ratio(c->sink_uniform, (double)c->sink_rows);
}

static double tiles_64(const ExploreCounts *c)
{
	return ratio((double)c->units_hit[0], (double)c->units[0]);
}

static double tiles_16(const ExploreCounts *c)
{
	return ratio((double)c->units_hit[1], (double)c->units[1]);
}

static double keys_gathered(const ExploreCounts *c)
{
	return ratio((double)c->units_hit[2], (double)c->units[2]);
}

static double visited(const ExploreCounts *c)
{
	return ratio((double)c->visited, (double)c->visible);
}

/* Scores and sums of values of the visited pairs, against those of all visible ones. The int8 screen comes on top. */
static double exact_work(const ExploreCounts *c)
{
	return c->zeros_proved ? visited(c) : 1;
}

static double o_norm(const ExploreCounts *c)
{
	return sqrt(ratio(c->o_square, (double)c->rows));
}

static double dq_norm(const ExploreCounts *c)
{
	return sqrt(c->dq_square);
}

static double dk_norm(const ExploreCounts *c)
{
	return sqrt(c->dk_square);
}

static double dv_norm(const ExploreCounts *c)
{
	return sqrt(c->dv_square);
}

static double softmax_error(const ExploreCounts *c)
{
	return sqrt(ratio(c->softmax_error, c->softmax_square));
}

static double softmax_cosine(const ExploreCounts *c)
{
	return ratio(c->softmax_cosine, (double)c->softmax_rows);
}

static double softmax_sink(const ExploreCounts *c)
{
	return ratio(c->softmax_sink, (double)c->softmax_rows);
}

/* ---- times ---- */

static const PlanTimes *taken(const ExploreRun *run)
{
	return &run->predicted.plan[run->predicted.taken];
}

static double predicted_forward(const ExploreRun *run)
{
	return taken(run)->ms[PHASE_FORWARD];
}

static double predicted_backward(const ExploreRun *run)
{
	return taken(run)->ms[PHASE_BACKWARD];
}

static double extrapolated(const ExploreRun *run)
{
	return *taken(run)->beyond != 0;
}

static double forward_ms(const ExploreRun *run)
{
	return run->ms[PHASE_FORWARD];
}

static double backward_ms(const ExploreRun *run)
{
	return run->ms[PHASE_BACKWARD];
}

const ExploreMetric explore_metrics[] = {
	{ "zeros", "zeros", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, zeros, NULL,
	  "visible pairs whose weight is exactly 0, over all views" },
	{ "survivors", "survivors", METRIC_NUMBER, 0, SHOW_COUNTS | SHOW_SWEEP,
	  survivors, NULL, "pairs with a weight, by row that sees a key and view" },
	{ "dead_rows", "dead rows", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, dead_rows, NULL,
	  "rows that see a key and have no survivor in any view" },
	{ "dead_heads", "dead heads", METRIC_COUNT, NEEDS_HEADS, SHOW_SWEEP, dead_heads, NULL, "heads without a survivor" },
	{ "consensus", "consensus", METRIC_COUNT, NEEDS_VIEWS, SHOW_COUNTS | SHOW_SWEEP, consensus, NULL,
	  "pairs that survive in two views or more" },
	{ "by_chance", "by chance", METRIC_NUMBER, NEEDS_VIEWS, 0, by_chance, NULL,
	  "pairs that would, were a row's survivors independent between the views" },
	{ "sink", "sink", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, sink, NULL,
	  "absolute combined weight on key 0 over that on all keys, mean over the rows with a weight" },
	{ "sink_uniform", "uniform", METRIC_SHARE, 0, SHOW_COUNTS, sink_uniform, NULL, "the same, were all weights of a row alike" },
	{ "tiles_64x64", "64x64", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, tiles_64, NULL,
	  "tiles of 64 rows and 64 keys with a survivor in any view" },
	{ "tiles_64x16", "64x16", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, tiles_16, NULL,
	  "tiles of 64 rows and 16 keys with a survivor in any view" },
	{ "tiles_64x1", "64x1", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, keys_gathered, NULL,
	  "pairs of 64 rows and a key with a survivor in any view" },
	{ "visited", "visited", METRIC_SHARE, 0, SHOW_COUNTS | SHOW_SWEEP, visited, NULL,
	  "visible pairs of a row and a key that survives, in any view, for one of the row's block of 64" },
	{ "exact_work", "exact work", METRIC_SHARE, 0, 0, exact_work, NULL,
	  "predicted: what must be computed exactly, against the dense plan; a sparse plan's int8 screen comes on top" },
	{ "o_norm", "|o|", METRIC_NUMBER, 0, SHOW_NORMS | SHOW_SWEEP, o_norm, NULL,
	  "root of the mean over rows of the square of the 2-norm of o" },
	{ "dq_norm", "|dq|", METRIC_NUMBER, NEEDS_GRADIENTS, SHOW_NORMS, dq_norm, NULL, "2-norm of the gradients of q, over all views" },
	{ "dk_norm", "|dk|", METRIC_NUMBER, NEEDS_GRADIENTS, SHOW_NORMS, dk_norm, NULL, "2-norm of the gradients of k, over all views" },
	{ "dv_norm", "|dv|", METRIC_NUMBER, NEEDS_GRADIENTS, SHOW_NORMS, dv_norm, NULL, "2-norm of the gradient of v" },
	{ "softmax_error", "softmax", METRIC_NUMBER, NEEDS_SOFTMAX, SHOW_NORMS | SHOW_SWEEP, softmax_error, NULL,
	  "2-norm of the difference to dense softmax attention of view 1, relative to that attention's" },
	{ "softmax_cosine", "cosine", METRIC_NUMBER, NEEDS_SOFTMAX, SHOW_NORMS, softmax_cosine, NULL,
	  "cosine of o and dense softmax attention of view 1, mean over the rows (0 for rows of zeros)" },
	{ "softmax_sink", "its sink", METRIC_SHARE, NEEDS_SOFTMAX, SHOW_NORMS, softmax_sink, NULL,
	  "softmax's weight on key 0, mean over the rows" },
	{ "predicted_forward_ms", "fwd pred", METRIC_MS, NEEDS_HEADS, SHOW_SWEEP, NULL, predicted_forward,
	  "predicted time of the forward on an H100, ms, all heads, of the plan that a launch takes" },
	{ "predicted_backward_ms", "bwd pred", METRIC_MS, NEEDS_HEADS, SHOW_SWEEP, NULL, predicted_backward,
	  "the same of the backward" },
	{ "extrapolated", "extrapolated", METRIC_FLAG, NEEDS_HEADS, SHOW_SWEEP, NULL, extrapolated,
	  "whether the prediction is for something that was not timed" },
	{ "forward_ms", "fwd ms", METRIC_MS, NEEDS_TIME | NEEDS_HEADS, SHOW_SWEEP, NULL, forward_ms,
	  "measured time of the forward, ms, all heads" },
	{ "backward_ms", "bwd ms", METRIC_MS, NEEDS_TIME | NEEDS_HEADS, SHOW_SWEEP, NULL, backward_ms,
	  "measured time of the backward, ms, all heads" },
};
const int explore_metric_count = sizeof(explore_metrics) / sizeof(explore_metrics[0]);

double explore_value(const ExploreRun *run, const ExploreMetric *metric, const ExploreCounts *counts)
{
	bool all = counts == &run->result.all;

	if ((metric->needs & ~NEEDS_HEADS & ~run->has) || (metric->needs & NEEDS_HEADS && !all))
		return NAN;
	return metric->value ? metric->value(counts) : metric->of_run(run);
}

void explore_predict(const Problem *p, const ExploreCounts *counts, Prediction *prediction)
{
	PredictCounts known = { .tiles = tiles_64(counts) };

	memcpy(known.gathered, counts->gathered, sizeof(known.gathered));
	predict(p->manifest, &p->shape, &known, prediction);
}
