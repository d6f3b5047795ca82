/*
 * Counts by the f64 reference. It hands over every visible pair, a row at a time, the views of a row one after the other. What is known
 * of a row is summed when its last view is there, what is known of a block of rows when its last row is.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "counter.h"
#include "error.h"
#include "explore_count.h"

/* The rows at hand of one (batch, head). */
typedef struct Plane {
	ExploreCounts *counts;
	int64_t block;                 /* of rows */
	uint8_t *views;                /* [k_len]: of the row, which views a key survives in, as bits */
	double *combined;              /* [k_len]: of the row, sums over views of coefficient * weight */
	double *scores[TDA_MAX_VIEWS]; /* [k_len]: of the row */
	uint8_t *needed;               /* [k_len]: of the block, which views a key survives in, as bits */
	int32_t *seen;                 /* [k_len + 1]: of the block, how many rows more see a key than the one before it */
	int64_t *map;
} Plane;

typedef struct Explorer {
	const ExploreWork *work;
	const Problem *problem;
	Plane *planes;                 /* [batch * heads] */
	double tail[EXPLORE_TAILS];
	pthread_mutex_t lock;          /* of progress */
	atomic_llong done;             /* row blocks */
	/* 1 + batch_head * q_len + row of a score that is NaN or infinite, and of a threshold that is NaN; 0: none */
	atomic_llong not_finite, no_threshold;
	atomic_bool failed;            /* no memory */
} Explorer;

/* ---- planes ---- */

static bool plane_open(Plane *plane, const Problem *p)
{
	size_t keys = (size_t)p->shape.k_len;
	bool ok = (plane->views = calloc(keys, 1)) && (plane->combined = calloc(keys, sizeof(double))) &&
	          (plane->needed = calloc(keys, 1)) && (plane->seen = calloc(keys + 1, sizeof(int32_t)));

	for (int v = 0; v < p->manifest->views && ok; v++)
		ok = (plane->scores[v] = calloc(keys, sizeof(double)));
	return ok;
}

static void plane_close(Plane *plane)
{
	free(plane->views);
	free(plane->combined);
	free(plane->needed);
	free(plane->seen);
	for (int v = 0; v < TDA_MAX_VIEWS; v++) {
		free(plane->scores[v]);
		plane->scores[v] = NULL;
	}
	plane->views = plane->needed = NULL;
	plane->combined = NULL;
	plane->seen = NULL;
}

/* ---- rows ---- */

static void add_sink(Plane *plane, KeySpan keys)
{
	double sum = 0;

	for (int64_t j = keys.first; j < keys.end; j++)
		sum += fabs(plane->combined[j]);
	explore_add_sink(plane->counts, keys, fabs(plane->combined[0]), sum);
}

static void close_row(const Explorer *e, Plane *plane, int64_t row, KeySpan keys)
{
	int views = e->problem->manifest->views;
	int64_t side = e->work->result->map_side, *map = plane->map + row / side * e->work->result->map_cols;
	ExploreRow sums = { .keys = keys.end - keys.first };

	for (int64_t j = keys.first; j < keys.end; j++) {
		unsigned bits = plane->views[j];

		if (!bits)
			continue;
		for (int v = 0; v < views; v++)
			sums.survivors[v] += bits >> v & 1;
		sums.consensus += (bits & (bits - 1)) != 0;
		plane->needed[j] |= (uint8_t)bits;
		map[j / side] += __builtin_popcount(bits);
	}
	if (explore_add_row(plane->counts, views, &sums) > 0)
		add_sink(plane, keys);
	plane->seen[keys.first]++;
	plane->seen[keys.end]--;
	memset(plane->views + keys.first, 0, (size_t)(keys.end - keys.first));
	memset(plane->combined + keys.first, 0, sizeof(double) * (size_t)(keys.end - keys.first));
}

/* ---- blocks of rows ---- */

static void close_block(const Explorer *e, Plane *plane)
{
	const Problem *p = e->problem;
	ExploreCounts *c = plane->counts;
	int64_t first = plane->block * EXPLORE_ROWS, end = first + EXPLORE_ROWS;
	KeySpan keys = explore_keys_of_rows(p, first, end < p->shape.q_len ? end : p->shape.q_len);
	int64_t seen = 0;

	for (int64_t j = keys.first; j < keys.end; j++) {
		seen += plane->seen[j];
		c->visited += plane->needed[j] ? seen : 0;
		for (int v = 0; v < p->manifest->views; v++)
			c->gathered[v] += plane->needed[j] >> v & 1;
	}
	for (int u = 0; u < EXPLORE_UNITS && keys.first < keys.end; u++) {
		int64_t side = explore_unit_keys[u], last_hit = -1;

		c->units[u] += (keys.end - 1) / side - keys.first / side + 1;
		for (int64_t j = keys.first; j < keys.end; j++) {
			if (!plane->needed[j] || j / side == last_hit)
				continue;
			last_hit = j / side;
			c->units_hit[u]++;
		}
	}
	memset(plane->needed, 0, (size_t)p->shape.k_len);
	memset(plane->seen, 0, sizeof(*plane->seen) * ((size_t)p->shape.k_len + 1));
}

static void show_progress(Explorer *e)
{
	const tda_shape *shape = &e->problem->shape;
	int64_t blocks = shape->batch * shape->heads * ((shape->q_len + EXPLORE_ROWS - 1) / EXPLORE_ROWS);
	int64_t done = atomic_fetch_add(&e->done, 1) + 1;

	if (!e->work->options->progress || pthread_mutex_trylock(&e->lock) != 0)
		return;
	e->work->options->progress(e->work->options->user, (double)done / (double)blocks);
	pthread_mutex_unlock(&e->lock);
}

/* ---- pairs ---- */

static void add_moments(Explorer *e, Plane *plane, const PairRun *pairs)
{
	ExploreCounts *c = plane->counts;
	double power[4] = {0};

	for (int n = 0; n < pairs->count; n++) {
		double s = pairs->score[n], square = s * s;

		power[0] += s;
		power[1] += square;
		power[2] += square * s;
		power[3] += square * square;
	}
	if (!isfinite(power[3]))
		atomic_store(&e->not_finite, 1 + pairs->batch_head * e->problem->shape.q_len + pairs->row);
	for (int k = 0; k < 4; k++)
		c->power[pairs->view][k] += power[k];
	for (int t = 0; t < EXPLORE_TAILS; t++) {
		int above = 0;

		for (int n = 0; n < pairs->count; n++)
			above += pairs->score[n] > e->tail[t];
		c->above[pairs->view][t] += above;
	}
	for (int w = 0; w < pairs->view; w++) {
		const double *other = plane->scores[w] + pairs->first;
		double sum = 0;

		for (int n = 0; n < pairs->count; n++)
			sum += other[n] * pairs->score[n];
		c->product[pairs->view][w] += sum;
	}
	memcpy(plane->scores[pairs->view] + pairs->first, pairs->score, sizeof(double) * (size_t)pairs->count);
}

static void add_weights(Plane *plane, const PairRun *pairs)
{
	for (int n = 0; n < pairs->count; n++) {
		if (pairs->weight[n] == 0)
			continue;
		plane->views[pairs->first + n] |= (uint8_t)(1u << pairs->view);
		plane->combined[pairs->first + n] += pairs->coefficient * pairs->weight[n];
	}
}

static void add_bound(Explorer *e, Plane *plane, const PairRun *pairs, KeySpan keys)
{
	if (isnan(pairs->tau))
		atomic_store(&e->no_threshold, 1 + pairs->batch_head * e->problem->shape.q_len + pairs->row);
	explore_add_bound(plane->counts, e->problem->manifest, keys.end - keys.first, pairs->tau);
}

static void count_pairs(void *user, const PairRun *pairs)
{
	Explorer *e = user;
	const Problem *p = e->problem;
	Plane *plane = &e->planes[pairs->batch_head];
	KeySpan keys = explore_keys_of_row(p, pairs->row);
	int64_t block = pairs->row / EXPLORE_ROWS;
	bool last = pairs->first + pairs->count == keys.end;

	if (atomic_load(&e->failed))
		return;
	if (!plane->counts) {
		plane->counts = &e->work->counts[pairs->batch_head];
		plane->map = e->work->maps + pairs->batch_head * e->work->result->map_rows * e->work->result->map_cols;
		plane->block = block;
		if (!plane_open(plane, p)) {
			atomic_store(&e->failed, true);
			return;
		}
	}
	if (plane->block != block) {
		close_block(e, plane);
		show_progress(e);
		plane->block = block;
	}
	add_moments(e, plane, pairs);
	add_weights(plane, pairs);
	if (last)
		add_bound(e, plane, pairs, keys);
	if (!last || pairs->view + 1 < p->manifest->views)
		return;
	close_row(e, plane, pairs->row, keys);
	if (pairs->row + 1 == p->shape.q_len) {        /* the last row sees the last key, whatever the mask */
		close_block(e, plane);
		plane_close(plane);
	}
}

/* ---- the whole ---- */

static tda_status check_rows(const Explorer *e)
{
	if (atomic_load(&e->failed))
		return tda_fail_memory();
	if (atomic_load(&e->not_finite))
		return explore_bad_row(e->problem, atomic_load(&e->not_finite) - 1, "a score", COUNTER_SCORE_RULE);
	if (atomic_load(&e->no_threshold))
		return explore_bad_row(e->problem, atomic_load(&e->no_threshold) - 1, "the threshold", COUNTER_THRESHOLD_RULE);
	return TDA_OK;
}

tda_status explore_by_reference(const ExploreWork *work, const Problem *p, Reference *outputs)
{
	int64_t planes = p->shape.batch * p->shape.heads;
	Explorer e = { .work = work, .problem = p, .lock = PTHREAD_MUTEX_INITIALIZER };
	tda_status status;

	for (int t = 0; t < EXPLORE_TAILS; t++)
		e.tail[t] = explore_tail(p->manifest, t);
	if (!(e.planes = calloc((size_t)planes, sizeof(*e.planes))))
		return tda_fail_memory();
	status = problem_measure(p, work->options->gradients, count_pairs, &e, outputs);
	if (!status)
		status = check_rows(&e);
	for (int64_t n = 0; n < planes; n++)
		plane_close(&e.planes[n]);
	free(e.planes);
	return status;
}
