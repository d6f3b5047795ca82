/*
 * The reference hands over every visible pair, a row at a time, the views of a row one after the other. What is known of a
 * row is summed when its last view is there, what is known of a block of rows when its last row is.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "explore.h"

const int explore_unit_keys[EXPLORE_UNITS] = { 64, 16, 1 };

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
	const Problem *problem;
	const ExploreOptions *options;
	Exploration *result;
	ExploreCounts *counts;         /* [batch * heads] */
	Plane *planes;                 /* the same */
	int64_t *maps;                 /* [batch * heads, map_rows, map_cols] */
	double tail[EXPLORE_TAILS];
	pthread_mutex_t lock;          /* of progress */
	atomic_llong done;             /* row blocks */
	/* 1 + batch_head * q_len + row of a score that is NaN or infinite, and of a threshold that is NaN; 0: none */
	atomic_llong not_finite, no_threshold;
	atomic_bool failed;            /* no memory */
} Explorer;

bool explore_bounded(const Manifest *m)
{
	return m->l2_normalized && postfix_is_var(m->score, POSTFIX_VAR_S);
}

double explore_bound(const Manifest *m, double t)
{
	return t <= 0 ? 1 : exp(-0.5 * m->head_dim * t * t);
}

double explore_tail(const Manifest *m, int n)
{
	return sqrt(2 * (n + 1) * log(10) / m->head_dim);
}

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

static KeySpan keys_of_row(const Problem *p, int64_t row)
{
	return reference_visible_keys(p->manifest, row + p->shape.k_len - p->shape.q_len, p->shape.k_len);
}

/* Of rows first to end - 1, all keys that one of them sees: neighbours, as the masks move by a key a row. */
static KeySpan keys_of_rows(const Problem *p, int64_t first, int64_t end)
{
	KeySpan all = { p->shape.k_len, 0 };

	for (int64_t row = first; row < end; row++) {
		KeySpan keys = keys_of_row(p, row);

		if (keys.first == keys.end)
			continue;
		all.first = keys.first < all.first ? keys.first : all.first;
		all.end = keys.end > all.end ? keys.end : all.end;
	}
	return all.first < all.end ? all : (KeySpan){ 0, 0 };
}

/* ---- rows ---- */

/* How many keys of n would survive in two views or more, were the row's survivors spread independently. */
static double consensus_by_chance(const int64_t *survivors, int views, int64_t n)
{
	double none = 1, one = 0, more = 0;    /* probabilities so far: of no view, of one, of two and more */

	for (int v = 0; v < views; v++) {
		double p = (double)survivors[v] / (double)n;

		more += one * p;
		one = one * (1 - p) + none * p;
		none *= 1 - p;
	}
	return (double)n * more;
}

static int octave_of(int64_t keys)
{
	return 63 - __builtin_clzll((unsigned long long)keys);         /* k_len is below 2^31 */
}

static void add_sink(Plane *plane, KeySpan keys)
{
	ExploreCounts *c = plane->counts;
	double sum = 0;

	for (int64_t j = keys.first; j < keys.end; j++)
		sum += fabs(plane->combined[j]);
	if (!(sum > 0))
		return;
	if (keys.first == 0) {
		c->sink += fabs(plane->combined[0]) / sum;
		c->sink_uniform += 1 / (double)(keys.end - keys.first);
	}
	c->sink_rows++;
}

static void close_row(const Explorer *e, Plane *plane, int64_t row, KeySpan keys)
{
	const Problem *p = e->problem;
	ExploreCounts *c = plane->counts;
	ExploreOctave *octave = &c->octave[octave_of(keys.end - keys.first)];
	int64_t survivors[TDA_MAX_VIEWS] = {0}, all = 0, consensus = 0;
	int64_t *map = plane->map + row / e->result->map_side * e->result->map_cols;
	double by_chance;

	for (int64_t j = keys.first; j < keys.end; j++) {
		unsigned views = plane->views[j];

		if (!views)
			continue;
		for (int v = 0; v < p->manifest->views; v++)
			survivors[v] += views >> v & 1;
		consensus += (views & (views - 1)) != 0;
		plane->needed[j] |= (uint8_t)views;
		map[j / e->result->map_side] += __builtin_popcount(views);
	}
	for (int v = 0; v < p->manifest->views; v++) {
		c->survivors[v] += survivors[v];
		all += survivors[v];
	}
	if (all > 0)
		add_sink(plane, keys);
	by_chance = consensus_by_chance(survivors, p->manifest->views, keys.end - keys.first);
	c->visible += keys.end - keys.first;
	c->consensus += consensus;
	c->by_chance += by_chance;
	octave->rows++;
	octave->dead += all == 0;
	octave->survivors += all;
	octave->consensus += consensus;
	octave->by_chance += by_chance;
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
	KeySpan keys = keys_of_rows(p, first, end < p->shape.q_len ? end : p->shape.q_len);
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

	if (!e->options->progress || pthread_mutex_trylock(&e->lock) != 0)
		return;
	e->options->progress(e->options->user, (double)done / (double)blocks);
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
	int64_t count = keys.end - keys.first;

	if (isnan(pairs->tau))
		atomic_store(&e->no_threshold, 1 + pairs->batch_head * e->problem->shape.q_len + pairs->row);
	plane->counts->octave[octave_of(count)].bound += (double)count * explore_bound(e->problem->manifest, pairs->tau);
}

static void count_pairs(void *user, const PairRun *pairs)
{
	Explorer *e = user;
	const Problem *p = e->problem;
	Plane *plane = &e->planes[pairs->batch_head];
	KeySpan keys = keys_of_row(p, pairs->row);
	int64_t block = pairs->row / EXPLORE_ROWS;
	bool last = pairs->first + pairs->count == keys.end;

	if (atomic_load(&e->failed))
		return;
	if (!plane->counts) {
		plane->counts = &e->counts[pairs->batch_head];
		plane->map = e->maps + pairs->batch_head * e->result->map_rows * e->result->map_cols;
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

/* ---- norms ---- */

static double square_norm(const double *values, int64_t count)
{
	double sum = 0;

	for (int64_t n = 0; n < count; n++)
		sum += values[n] * values[n];
	return sum;
}

/* Heads of q that share a head of k share its gradients' norm, too: a part each, so that sums over heads are right. */
static void add_norms(const Problem *p, const Reference *r, int64_t batch, int64_t head, ExploreCounts *c)
{
	const tda_shape *s = &p->shape;
	const Manifest *m = p->manifest;
	int64_t share = s->heads / s->kv_heads, q_rows = s->q_len, k_rows = s->k_len;
	int64_t q_at = (batch * s->heads + head) * q_rows, k_at = (batch * s->kv_heads + head / share) * k_rows;

	c->rows = q_rows;
	c->o_square = square_norm(r->o + q_at * m->value_dim, q_rows * m->value_dim);
	if (!r->grad_o)
		return;
	for (int v = 0; v < m->views; v++) {
		c->dq_square += square_norm(r->dq[v] + q_at * m->head_dim, q_rows * m->head_dim);
		c->dk_square += square_norm(r->dk[v] + k_at * m->head_dim, k_rows * m->head_dim) / (double)share;
	}
	c->dv_square = square_norm(r->dv + k_at * m->value_dim, k_rows * m->value_dim) / (double)share;
}

/* ---- the whole ---- */

/* Fields that are sums are summed; `to` may be all 0. */
void explore_add(ExploreCounts *to, const ExploreCounts *from)
{
	to->views = from->views;
	to->zeros_proved = from->zeros_proved;
	to->heads += from->heads;
	to->dead_heads += from->dead_heads;
	to->visible += from->visible;
	to->consensus += from->consensus;
	to->by_chance += from->by_chance;
	to->visited += from->visited;
	to->sink += from->sink;
	to->sink_uniform += from->sink_uniform;
	to->sink_rows += from->sink_rows;
	to->rows += from->rows;
	to->o_square += from->o_square;
	to->dq_square += from->dq_square;
	to->dk_square += from->dk_square;
	to->dv_square += from->dv_square;
	to->softmax_error += from->softmax_error;
	to->softmax_square += from->softmax_square;
	to->softmax_cosine += from->softmax_cosine;
	to->softmax_sink += from->softmax_sink;
	to->softmax_rows += from->softmax_rows;
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		to->octave[n].rows += from->octave[n].rows;
		to->octave[n].dead += from->octave[n].dead;
		to->octave[n].survivors += from->octave[n].survivors;
		to->octave[n].bound += from->octave[n].bound;
		to->octave[n].consensus += from->octave[n].consensus;
		to->octave[n].by_chance += from->octave[n].by_chance;
	}
	for (int u = 0; u < EXPLORE_UNITS; u++) {
		to->units[u] += from->units[u];
		to->units_hit[u] += from->units_hit[u];
	}
	for (int v = 0; v < TDA_MAX_VIEWS; v++) {
		to->survivors[v] += from->survivors[v];
		to->gathered[v] += from->gathered[v];
		for (int k = 0; k < 4; k++)
			to->power[v][k] += from->power[v][k];
		for (int w = 0; w < TDA_MAX_VIEWS; w++)
			to->product[v][w] += from->product[v][w];
		for (int t = 0; t < EXPLORE_TAILS; t++)
			to->above[v][t] += from->above[v][t];
	}
}

static void lay_out_map(const tda_shape *shape, Exploration *result)
{
	int64_t longest = shape->q_len > shape->k_len ? shape->q_len : shape->k_len;
	int64_t blocks = (longest + EXPLORE_ROWS - 1) / EXPLORE_ROWS;

	result->map_side = EXPLORE_ROWS * ((blocks + EXPLORE_MAP - 1) / EXPLORE_MAP);
	result->map_rows = (shape->q_len + result->map_side - 1) / result->map_side;
	result->map_cols = (shape->k_len + result->map_side - 1) / result->map_side;
}

/* Sums the batch; says which cells no row sees into. */
static void fill_map(const Explorer *e)
{
	const Problem *p = e->problem;
	Exploration *r = e->result;
	int64_t cells = r->map_rows * r->map_cols;

	for (int64_t row = 0; row < r->map_rows; row++) {
		int64_t first = row * r->map_side, end = first + r->map_side;
		KeySpan keys = keys_of_rows(p, first, end < p->shape.q_len ? end : p->shape.q_len);

		for (int64_t n = 0; n < r->heads * r->map_cols; n++) {
			int64_t head = n / r->map_cols, col = n % r->map_cols, at = row * r->map_cols + col, sum = 0;

			for (int64_t b = 0; b < p->shape.batch; b++)
				sum += e->maps[(b * r->heads + head) * cells + at];
			r->map[head * cells + at] = keys.first < keys.end && col >= keys.first / r->map_side &&
			                            col <= (keys.end - 1) / r->map_side ? sum : -1;
		}
	}
}

static tda_status bad_row(const Explorer *e, long long at, const char *what, const char *why)
{
	const tda_shape *shape = &e->problem->shape;

	return tda_fail(TDA_BAD_ARGUMENT, "%s of batch entry %lld, head %lld, row %lld is NaN or infinite: %s", what,
	                at / shape->q_len / shape->heads, at / shape->q_len % shape->heads, at % shape->q_len, why);
}

static tda_status check_finite(const Explorer *e, const Reference *r)
{
	const Problem *p = e->problem;
	int64_t wide = p->manifest->value_dim, all = operand_rows(&p->tensor[TENSOR_O]) * wide;

	if (atomic_load(&e->not_finite))
		return bad_row(e, atomic_load(&e->not_finite) - 1, "a score", "q or k holds such a value or, with l2, a norm is not "
		               "in 2^-60 to 2^60");
	if (atomic_load(&e->no_threshold))
		return bad_row(e, atomic_load(&e->no_threshold) - 1, "the threshold", "the parameters that it reads do not allow it");
	for (int64_t n = 0; n < all; n++)
		if (!isfinite(r->o[n]))
			return bad_row(e, n / wide, "o", "v holds such a value, or weights overflow");
	for (int64_t n = 0; n < all && r->grad_o; n++)
		if (!isfinite(r->grad_o[n]))
			return bad_row(e, n / wide, "do", "gradients need finite values");
	return TDA_OK;
}

static tda_status run(Explorer *e, Reference *reference)
{
	const Problem *p = e->problem;
	tda_status status = problem_measure(p, e->options->gradients, count_pairs, e, reference);

	if (status)
		return status;
	if (atomic_load(&e->failed))
		return tda_fail_memory();
	if ((status = check_finite(e, reference)))
		return status;
	for (int64_t bh = 0; bh < p->shape.batch * p->shape.heads; bh++)
		add_norms(p, reference, bh / p->shape.heads, bh % p->shape.heads, &e->counts[bh]);
	return e->options->softmax ? explore_softmax(p, reference->o, e->counts) : TDA_OK;
}

static void sum_up(Explorer *e, Reference *reference)
{
	const tda_shape *shape = &e->problem->shape;
	Exploration *r = e->result;

	for (int64_t bh = 0; bh < shape->batch * shape->heads; bh++) {
		e->counts[bh].views = e->problem->manifest->views;
		e->counts[bh].zeros_proved = e->problem->manifest->zeros_proved;
		explore_add(&r->head[bh % shape->heads], &e->counts[bh]);
	}
	for (int64_t h = 0; h < shape->heads; h++) {
		bool dead = true;

		for (int v = 0; v < TDA_MAX_VIEWS; v++)
			dead &= r->head[h].survivors[v] == 0;
		r->head[h].heads = 1;
		r->head[h].dead_heads = dead;
		explore_add(&r->all, &r->head[h]);
	}
	fill_map(e);
	for (int n = 0; n < e->problem->manifest->param_count; n++) {
		r->dparam[n] = reference->dparam[n];   /* ours now */
		reference->dparam[n] = NULL;
	}
}

tda_status explore_measure(const Problem *p, const ExploreOptions *options, Exploration *result)
{
	const tda_shape *shape = &p->shape;
	int64_t planes = shape->batch * shape->heads, cells;
	Explorer e = { .problem = p, .options = options, .result = result, .lock = PTHREAD_MUTEX_INITIALIZER };
	Reference reference = {0};
	tda_status status;

	*result = (Exploration){ .heads = shape->heads };
	if (planes == 0 || shape->q_len == 0 || shape->k_len == 0)
		return tda_fail(TDA_BAD_ARGUMENT, "no row sees a key: there is nothing to count");
	lay_out_map(shape, result);
	cells = result->map_rows * result->map_cols;
	for (int t = 0; t < EXPLORE_TAILS; t++)
		e.tail[t] = explore_tail(p->manifest, t);
	e.counts = calloc((size_t)planes, sizeof(*e.counts));
	e.planes = calloc((size_t)planes, sizeof(*e.planes));
	e.maps = calloc((size_t)(planes * cells), sizeof(*e.maps));
	result->head = calloc((size_t)shape->heads, sizeof(*result->head));
	result->map = calloc((size_t)(shape->heads * cells), sizeof(*result->map));
	status = e.counts && e.planes && e.maps && result->head && result->map ? run(&e, &reference) : tda_fail_memory();
	if (!status)
		sum_up(&e, &reference);
	problem_reference_free(&reference);
	for (int64_t n = 0; n < planes && e.planes; n++)
		plane_close(&e.planes[n]);
	free(e.counts);
	free(e.planes);
	free(e.maps);
	return status;
}

void explore_free(Exploration *result)
{
	free(result->head);
	free(result->map);
	for (int n = 0; n < TDA_MAX_PARAMS; n++)
		free(result->dparam[n]);
	*result = (Exploration){0};
}
