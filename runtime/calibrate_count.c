/*
 * The scores of the heads at hand are computed once, by the f64 reference, and kept; a step of the bisection evaluates the
 * threshold of every row and counts the scores above it. Blocks of 64 rows are counted on all cores.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "calibrate_count.h"
#include "error.h"
#include "half.h"

/* ---- scores ---- */

static int64_t position(const Problem *p, int64_t row)
{
	return row + p->shape.k_len - p->shape.q_len;
}

static double *scores_of(const Calibrator *c, int64_t batch, int64_t head, int view)
{
	int64_t index = batch * (c->kept.end - c->kept.first) + head - c->kept.first;

	return c->scores + (index * c->problem->manifest->views + view) * c->row_start[c->problem->shape.q_len];
}

static void keep_scores(void *user, const PairRun *pairs)
{
	Calibrator *c = user;
	const tda_shape *shape = &c->problem->shape;
	KeySpan keys = reference_visible_keys(c->problem->manifest, position(c->problem, pairs->row), shape->k_len);
	double *to = scores_of(c, pairs->batch_head / shape->heads, pairs->batch_head % shape->heads, pairs->view) +
	             c->row_start[pairs->row] + pairs->first - keys.first;

	memcpy(to, pairs->score, sizeof(*to) * (size_t)pairs->count);
	for (int n = 0; n < pairs->count; n++)
		if (!isfinite(pairs->score[n]))
			atomic_store(&c->not_finite, 1 + pairs->batch_head * shape->q_len + pairs->row);
}

tda_status calibrate_keep_scores(Calibrator *c, int64_t first, int64_t end)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t share = shape->heads / shape->kv_heads, at;
	tda_status status;

	c->kept = (Heads){ first * share, end * share };
	status = problem_observe_heads(c->problem, first, end, keep_scores, c);
	at = atomic_load(&c->not_finite) - 1;
	if (!status && at >= 0)
		status = tda_fail(TDA_BAD_ARGUMENT, "%s: a score of batch entry %lld, head %lld, row %lld is NaN or infinite: "
		                  COUNTER_SCORE_RULE, c->options->in,
		                  (long long)(at / shape->q_len / shape->heads), (long long)(at / shape->q_len % shape->heads),
		                  (long long)(at % shape->q_len));
	return status;
}

tda_status calibrate_find_rows(Calibrator *c)
{
	const Problem *p = c->problem;

	if (!(c->row_start = calloc((size_t)p->shape.q_len + 1, sizeof(*c->row_start))))
		return tda_fail_memory();
	for (int64_t row = 0; row < p->shape.q_len; row++) {
		KeySpan keys = reference_visible_keys(p->manifest, position(p, row), p->shape.k_len);

		c->row_start[row + 1] = c->row_start[row] + keys.end - keys.first;
		c->rows += keys.end > keys.first;
	}
	if (c->rows == 0 || p->shape.batch * p->shape.heads == 0)
		return tda_fail(TDA_BAD_ARGUMENT, "%s: no row sees a key: there is nothing to count", c->options->in);
	return TDA_OK;
}

/* ---- counting ---- */

typedef struct HeadCount {
	atomic_llong survivors, visited;
	atomic_bool nan;
} HeadCount;

typedef struct Count {
	const Calibrator *c;
	const double *value;           /* [kept heads] */
	HeadCount *heads;              /* [kept heads] */
	bool wants_visited;
	atomic_llong next;             /* row block to take */
	atomic_bool failed;
} Count;

static double parameter(const Calibrator *c, int p, int64_t head, double value)
{
	const Problem *problem = c->problem;
	const Operand *given = &problem->param[p];
	int64_t entry = manifest_param_entry(problem->manifest, p, problem->shape.heads, problem->shape.layer, head);

	if (p == c->param)
		return value;
	return given->absent ? (double)(float)problem->manifest->params[p].init
	                     : dtype_load(TDA_F32, given->host, (size_t)entry);
}

/* What a thread needs. */
typedef struct CountMemory {
	PostfixSlot *stack;
	uint8_t *needed;               /* [k_len]: of a block, does the key survive for a row? */
	int32_t *seen;                 /* [k_len + 1]: of a block, how many rows more see a key than the one before it */
} CountMemory;

static int64_t count_above(const double *scores, int64_t count, double tau)
{
	int64_t above = 0;

	for (int64_t n = 0; n < count; n++)
		above += scores[n] > tau;
	return above;
}

static void mark_above(const double *restrict scores, int64_t count, double tau, uint8_t *restrict needed)
{
	for (int64_t n = 0; n < count; n++)
		needed[n] |= scores[n] > tau;
}

static PostfixInput input_of(const Count *count, int64_t head, double params[TDA_MAX_PARAMS])
{
	const Problem *p = count->c->problem;
	PostfixInput input = { .count = 1, .params = params };

	for (int n = 0; n < p->manifest->param_count; n++)
		params[n] = parameter(count->c, n, head, count->value[head - count->c->kept.first]);
	input.var[POSTFIX_VAR_HEAD] = (double)head;
	input.var[POSTFIX_VAR_LAYER] = (double)p->shape.layer;
	input.var[POSTFIX_VAR_Q_LEN] = (double)p->shape.q_len;
	input.var[POSTFIX_VAR_K_LEN] = (double)p->shape.k_len;
	return input;
}

static int64_t visited_pairs(const CountMemory *memory, int64_t k_len)
{
	int64_t rows = 0, visited = 0;

	for (int64_t j = 0; j < k_len; j++) {
		rows += memory->seen[j];
		visited += memory->needed[j] ? rows : 0;
	}
	return visited;
}

/* Rows first to end - 1 of one batch entry and head. */
static void count_rows(Count *count, CountMemory *memory, int64_t batch, int64_t head, int64_t first, int64_t end)
{
	const Calibrator *c = count->c;
	const Problem *p = c->problem;
	HeadCount *sums = &count->heads[head - c->kept.first];
	double params[TDA_MAX_PARAMS];
	PostfixInput input = input_of(count, head, params);
	int64_t survivors = 0, k_len = p->shape.k_len;

	if (count->wants_visited) {
		memset(memory->needed, 0, (size_t)k_len);
		memset(memory->seen, 0, sizeof(*memory->seen) * ((size_t)k_len + 1));
	}
	for (int64_t row = first; row < end; row++) {
		KeySpan keys = reference_visible_keys(p->manifest, position(p, row), k_len);

		if (keys.first == keys.end)
			continue;
		memory->seen[keys.first]++;
		memory->seen[keys.end]--;
		input.var[POSTFIX_VAR_I] = (double)position(p, row);
		for (int view = 0; view < p->manifest->views; view++) {
			const double *scores = scores_of(c, batch, head, view) + c->row_start[row];
			double tau;

			input.var[POSTFIX_VAR_VIEW] = view + 1;
			postfix_eval(p->manifest->threshold, &input, 0, memory->stack);
			tau = memory->stack->value[0];
			if (isnan(tau))
				atomic_store(&sums->nan, true);
			survivors += count_above(scores, keys.end - keys.first, tau);
			if (count->wants_visited)
				mark_above(scores, keys.end - keys.first, tau, memory->needed + keys.first);
		}
	}
	atomic_fetch_add(&sums->survivors, survivors);
	if (count->wants_visited)
		atomic_fetch_add(&sums->visited, visited_pairs(memory, k_len));
}

static int64_t block_count(const Problem *p)
{
	return (p->shape.q_len + CALIBRATE_ROWS - 1) / CALIBRATE_ROWS;
}

static void *count_work(void *user)
{
	Count *count = user;
	const Problem *p = count->c->problem;
	int64_t blocks = block_count(p), heads = count->c->kept.end - count->c->kept.first, at;
	CountMemory memory = {
		.stack = calloc((size_t)postfix_depth(p->manifest->threshold), sizeof(PostfixSlot)),
		.needed = calloc((size_t)p->shape.k_len + 1, 1), .seen = calloc((size_t)p->shape.k_len + 1, sizeof(int32_t)),
	};
	bool ok = memory.stack && memory.needed && memory.seen;

	if (!ok)
		atomic_store(&count->failed, true);
	while (ok && (at = atomic_fetch_add(&count->next, 1)) < p->shape.batch * heads * blocks) {
		int64_t first = at % blocks * CALIBRATE_ROWS, end = first + CALIBRATE_ROWS, head = at / blocks % heads;

		if (!isnan(count->value[head]))
			count_rows(count, &memory, at / blocks / heads, count->c->kept.first + head, first,
			           end < p->shape.q_len ? end : p->shape.q_len);
	}
	free(memory.stack);
	free(memory.needed);
	free(memory.seen);
	return NULL;
}

tda_status calibrate_count(Calibrator *c, const double *value, bool visited, Counted *counted)
{
	enum { MOST_THREADS = 64 };
	int64_t heads = c->kept.end - c->kept.first, pieces = c->problem->shape.batch * heads * block_count(c->problem);
	Count count = { .c = c, .value = value, .wants_visited = visited };
	pthread_t thread[MOST_THREADS];
	int started = 0;

	if (!(count.heads = calloc((size_t)heads, sizeof(*count.heads))))
		return tda_fail_memory();
	while (started + 1 < c->threads && started + 1 < pieces && started < MOST_THREADS &&
	       pthread_create(&thread[started], NULL, count_work, &count) == 0)
		started++;
	count_work(&count);
	for (int t = 0; t < started; t++)
		pthread_join(thread[t], NULL);
	for (int64_t h = 0; h < heads; h++)
		counted[h] = (Counted){ atomic_load(&count.heads[h].nan) ? -1 : atomic_load(&count.heads[h].survivors),
		                        atomic_load(&count.heads[h].visited) };
	free(count.heads);
	return atomic_load(&count.failed) ? tda_fail_memory() : TDA_OK;
}
