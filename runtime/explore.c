/* What is known of rows, heads and the whole, wherever it was counted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "explore_count.h"

const int explore_unit_keys[EXPLORE_UNITS] = { 64, 16, 1 };

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

/* ---- rows ---- */

KeySpan explore_keys_of_row(const Problem *p, int64_t row)
{
	return reference_visible_keys(p->manifest, row + p->shape.k_len - p->shape.q_len, p->shape.k_len);
}

KeySpan explore_keys_of_rows(const Problem *p, int64_t first, int64_t end)
{
	KeySpan all = { p->shape.k_len, 0 };

	for (int64_t row = first; row < end; row++) {
		KeySpan keys = explore_keys_of_row(p, row);

		if (keys.first == keys.end)
			continue;
		all.first = keys.first < all.first ? keys.first : all.first;
		all.end = keys.end > all.end ? keys.end : all.end;
	}
	return all.first < all.end ? all : (KeySpan){ 0, 0 };
}

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

int64_t explore_add_row(ExploreCounts *c, int views, const ExploreRow *row)
{
	ExploreOctave *octave = &c->octave[octave_of(row->keys)];
	double by_chance = consensus_by_chance(row->survivors, views, row->keys);
	int64_t all = 0;

	for (int v = 0; v < views; v++) {
		c->survivors[v] += row->survivors[v];
		all += row->survivors[v];
	}
	c->visible += row->keys;
	c->consensus += row->consensus;
	c->by_chance += by_chance;
	octave->rows++;
	octave->dead += all == 0;
	octave->survivors += all;
	octave->consensus += row->consensus;
	octave->by_chance += by_chance;
	return all;
}

void explore_add_sink(ExploreCounts *c, KeySpan keys, double first, double sum)
{
	if (!(sum > 0))
		return;
	if (keys.first == 0) {
		c->sink += first / sum;
		c->sink_uniform += 1 / (double)(keys.end - keys.first);
	}
	c->sink_rows++;
}

void explore_add_bound(ExploreCounts *c, const Manifest *m, int64_t keys, double tau)
{
	c->octave[octave_of(keys)].bound += (double)keys * explore_bound(m, tau);
}

tda_status explore_bad_row(const Problem *p, int64_t at, const char *what, const char *why)
{
	const tda_shape *shape = &p->shape;

	return tda_fail(TDA_BAD_ARGUMENT, "%s of batch entry %lld, head %lld, row %lld is NaN or infinite: %s", what,
	                (long long)(at / shape->q_len / shape->heads), (long long)(at / shape->q_len % shape->heads),
	                (long long)(at % shape->q_len), why);
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
static void fill_map(const Problem *p, const int64_t *maps, Exploration *r)
{
	int64_t cells = r->map_rows * r->map_cols;

	for (int64_t row = 0; row < r->map_rows; row++) {
		int64_t first = row * r->map_side, end = first + r->map_side;
		KeySpan keys = explore_keys_of_rows(p, first, end < p->shape.q_len ? end : p->shape.q_len);

		for (int64_t n = 0; n < r->heads * r->map_cols; n++) {
			int64_t head = n / r->map_cols, col = n % r->map_cols, at = row * r->map_cols + col, sum = 0;

			for (int64_t b = 0; b < p->shape.batch; b++)
				sum += maps[(b * r->heads + head) * cells + at];
			r->map[head * cells + at] = keys.first < keys.end && col >= keys.first / r->map_side &&
			                            col <= (keys.end - 1) / r->map_side ? sum : -1;
		}
	}
}

static tda_status check_finite(const Problem *p, const Reference *r)
{
	int64_t wide = p->manifest->value_dim, all = operand_rows(&p->tensor[TENSOR_O]) * wide;

	for (int64_t n = 0; n < all; n++)
		if (!isfinite(r->o[n]))
			return explore_bad_row(p, n / wide, "o", "v holds such a value, or weights overflow");
	for (int64_t n = 0; n < all && r->grad_o; n++)
		if (!isfinite(r->grad_o[n]))
			return explore_bad_row(p, n / wide, "do", "gradients need finite values");
	return TDA_OK;
}

static tda_status run(const ExploreWork *work, Problem *p, Reference *outputs)
{
	tda_status status = work->options->device ? explore_on_device(work, p, outputs) : explore_by_reference(work, p, outputs);

	if (status || (status = check_finite(p, outputs)))
		return status;
	for (int64_t bh = 0; bh < p->shape.batch * p->shape.heads; bh++)
		add_norms(p, outputs, bh / p->shape.heads, bh % p->shape.heads, &work->counts[bh]);
	return work->options->softmax ? explore_softmax(p, outputs->o, work->counts) : TDA_OK;
}

static void sum_up(const Problem *p, const ExploreWork *work, Reference *outputs, Exploration *r)
{
	const tda_shape *shape = &p->shape;

	for (int64_t bh = 0; bh < shape->batch * shape->heads; bh++) {
		work->counts[bh].views = p->manifest->views;
		work->counts[bh].zeros_proved = p->manifest->zeros_proved;
		explore_add(&r->head[bh % shape->heads], &work->counts[bh]);
	}
	for (int64_t h = 0; h < shape->heads; h++) {
		bool dead = true;

		for (int v = 0; v < TDA_MAX_VIEWS; v++)
			dead &= r->head[h].survivors[v] == 0;
		r->head[h].heads = 1;
		r->head[h].dead_heads = dead;
		explore_add(&r->all, &r->head[h]);
	}
	fill_map(p, work->maps, r);
	for (int n = 0; n < p->manifest->param_count; n++) {
		r->dparam[n] = outputs->dparam[n];   /* ours now */
		outputs->dparam[n] = NULL;
	}
}

tda_status explore_measure(Problem *p, const ExploreOptions *options, Exploration *result)
{
	const tda_shape *shape = &p->shape;
	int64_t planes = shape->batch * shape->heads, cells;
	ExploreWork work = { .options = options, .result = result };
	Reference outputs = {0};
	tda_status status;

	*result = (Exploration){ .heads = shape->heads, .count_ms = NAN };
	if (planes == 0 || shape->q_len == 0 || shape->k_len == 0)
		return tda_fail(TDA_BAD_ARGUMENT, "no row sees a key: there is nothing to count");
	lay_out_map(shape, result);
	cells = result->map_rows * result->map_cols;
	work.counts = calloc((size_t)planes, sizeof(*work.counts));
	work.maps = calloc((size_t)(planes * cells), sizeof(*work.maps));
	result->head = calloc((size_t)shape->heads, sizeof(*result->head));
	result->map = calloc((size_t)(shape->heads * cells), sizeof(*result->map));
	status = work.counts && work.maps && result->head && result->map ? run(&work, p, &outputs) : tda_fail_memory();
	if (!status)
		sum_up(p, &work, &outputs, result);
	problem_reference_free(&outputs);
	free(work.counts);
	free(work.maps);
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
