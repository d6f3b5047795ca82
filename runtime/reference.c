/*
 * One unit of work is a (batch, key head): its keys are normalised and transposed once, then every query row of the
 * group is computed from first principles. For each row and view only the pairs whose weight or any of whose
 * derivatives is not zero ("live" pairs) are kept, so that sparse inputs are quick; nothing else depends on sparsity.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "reference_row.h"

/* What is summed for every parameter's gradient: terms, their squares, squares of their changes. */
enum { PART_SUM, PART_SQUARES, PART_CHANGES, PARTS };

typedef struct Job {
	Reference *ref;
	double *grad_params;           /* [batch, heads, PARTS, grad_stride] */
	int64_t grad_stride;
	atomic_llong next;             /* group to take */
	atomic_llong survivors, near, visible;
	atomic_int failed;
} Job;

/* ---- a worker's memory ---- */

static void worker_free(Worker *w)
{
	for (int v = 0; v < TDA_MAX_VIEWS; v++) {
		LiveRow *live = &w->live[v];
		for (int p = 0; p < TDA_MAX_PARAMS; p++) {
			free(live->by_param[p]);
			free(live->param_change[p]);
		}
		free(live->key);
		free(live->score);
		free(live->weight);
		free(live->by_score);
		free(live->by_tau);
		free(live->weight_change);
		free(live->score_change);
		free(live->tau_change);
		free(live->value);
		free(w->inverse_k[v]);
		free(w->transposed[v]);
		free(w->key_moment[v]);
		free(w->unit_q[v]);
		free(w->scores[v]);
	}
	free(w->stack);
	free(w->sum_q);
	free(w->row_o);
	free(w->grad_row);
	free(w->normed);
	free(w->grad_noise);
	free(w->normed_change);
}

static bool reserve(double **to, int64_t count)
{
	*to = calloc((size_t)(count > 0 ? count : 1), sizeof(double));
	return *to != NULL;
}

static int stack_depth(const Manifest *m)
{
	int depth = postfix_depth(m->threshold);

	if (postfix_depth(m->score) > depth)
		depth = postfix_depth(m->score);
	if (postfix_depth(m->weight) > depth)
		depth = postfix_depth(m->weight);
	for (int v = 0; v < m->views; v++)
		if (postfix_depth(m->combine[v]) > depth)
			depth = postfix_depth(m->combine[v]);
	return depth;
}

static bool worker_init(Worker *w, const Reference *ref)
{
	const Manifest *m = ref->manifest;
	bool ok = true;

	*w = (Worker){ .ref = ref };
	w->by_params = postfix_params(m->score) | postfix_params(m->weight);
	w->stack = calloc((size_t)stack_depth(m), sizeof(*w->stack));
	ok = w->stack && reserve(&w->sum_q, m->head_dim) && reserve(&w->row_o, m->value_dim) &&
	     reserve(&w->grad_row, m->value_dim) && reserve(&w->normed, m->value_dim) &&
	     reserve(&w->grad_noise, m->value_dim) && reserve(&w->normed_change, m->value_dim);
	for (int v = 0; v < m->views && ok; v++) {
		LiveRow *live = &w->live[v];
		live->key = calloc((size_t)(ref->k_len > 0 ? ref->k_len : 1), sizeof(*live->key));
		ok = live->key && reserve(&live->score, ref->k_len) && reserve(&live->weight, ref->k_len) &&
		     reserve(&live->by_score, ref->k_len) && reserve(&live->by_tau, ref->k_len) &&
		     reserve(&live->weight_change, ref->k_len) && reserve(&live->score_change, ref->k_len) &&
		     reserve(&live->tau_change, ref->k_len) && reserve(&live->value, m->value_dim) &&
		     reserve(&w->inverse_k[v], ref->k_len) && reserve(&w->transposed[v], ref->k_len * m->head_dim) &&
		     reserve(&w->key_moment[v], ref->k_len) && reserve(&w->unit_q[v], ROW_BLOCK * m->head_dim) &&
		     reserve(&w->scores[v], ROW_BLOCK * ref->k_len);
		for (int p = 0; p < m->param_count && ok; p++)
			if (w->by_params >> p & 1)
				ok = reserve(&live->by_param[p], ref->k_len) && reserve(&live->param_change[p], ref->k_len);
	}
	return ok;
}

/* dk so far holds the sum of dS * unit_q: the key's own norm is applied when every row has been seen. */
static void keys_backward(const Worker *w, int64_t group)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;

	for (int v = 0; v < m->views; v++)
		for (int64_t j = 0; j < ref->k_len && m->l2_normalized; j++) {
			const double *k = ref->k[v] + (group * ref->k_len + j) * m->head_dim;
			double *dk = ref->dk[v] + (group * ref->k_len + j) * m->head_dim;
			double inverse = w->inverse_k[v][j];

			if (ref->noise) {
				ref->noise->dk[v][group * ref->k_len + j] *= inverse * inverse;
				ref->change->dk[v][group * ref->k_len + j] *= inverse * inverse;
			}
			for (int d = 0; d < m->head_dim; d++)
				dk[d] = inverse == 0 ? 0 : inverse * (dk[d] - k[d] * inverse * w->key_moment[v][j]);
		}
}

/* ---- a group of rows that share keys ---- */

KeySpan reference_visible_keys(const Manifest *m, int64_t i, int64_t k_len)
{
	KeySpan keys = { 0, k_len };

	if (m->causal && i + 1 < keys.end)
		keys.end = i + 1;
	if (m->window && i - m->window + 1 > keys.first)
		keys.first = i - m->window + 1;
	if (m->window && m->window < k_len - i)
		keys.end = i + m->window < keys.end ? i + m->window : keys.end;
	if (keys.end < keys.first)
		keys.end = keys.first;
	return keys;
}

static void prepare_keys(Worker *w, int64_t group)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;

	for (int v = 0; v < m->views; v++) {
		memset(w->key_moment[v], 0, sizeof(double) * (size_t)ref->k_len);
		for (int64_t j = 0; j < ref->k_len; j++) {
			const double *k = ref->k[v] + (group * ref->k_len + j) * m->head_dim;

			w->inverse_k[v][j] = reference_inverse_norm(m, k);
			for (int d = 0; d < m->head_dim; d++)
				w->transposed[v][d * ref->k_len + j] = w->inverse_k[v][j] == 0 ? 0 : k[d];
		}
	}
}

static void run_row(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;

	if (at->keys.first == at->keys.end)
		return;                        /* outputs were cleared */
	w->visible += (at->keys.end - at->keys.first) * ref->manifest->views;
	reference_row_forward(w, at);
	if (!ref->grad_o)
		return;
	reference_row_backward(w, at);
}

/* `count` rows of a head from `first` on. */
static void run_rows(Worker *w, int64_t group, int64_t head, int64_t first, int count)
{
	const Reference *ref = w->ref;
	int64_t bh = group / ref->kv_heads * ref->heads + head;
	RowPlace places[ROW_BLOCK];

	for (int n = 0; n < count; n++) {
		places[n] = (RowPlace){
			.group = group, .head = head, .row = bh * ref->q_len + first + n,
			.i = first + n + ref->k_len - ref->q_len, .slot = n,
		};
		places[n].keys = reference_visible_keys(ref->manifest, places[n].i, ref->k_len);
	}
	reference_prepare_rows(w, places, count);
	for (int n = 0; n < count; n++)
		run_row(w, &places[n]);
}

static void run_group(Job *job, Worker *w, int64_t group)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	int64_t batch = group / ref->kv_heads, share = ref->heads / ref->kv_heads;
	int64_t first_head = group % ref->kv_heads * share;

	prepare_keys(w, group);
	for (int64_t head = first_head; head < first_head + share; head++) {
		int64_t bh = batch * ref->heads + head;

		for (int p = 0; p < m->param_count; p++)
			w->params[p] = reference_parameter(ref, p, manifest_param_entry(m, p, ref->heads, ref->layer, head));
		w->grad_params = job->grad_params + PARTS * bh * job->grad_stride;
		w->grad_squares = w->grad_params + PART_SQUARES * job->grad_stride;
		w->grad_changes = w->grad_params + PART_CHANGES * job->grad_stride;
		for (int64_t r = 0; r < ref->q_len; r += ROW_BLOCK)
			run_rows(w, group, head, r, ref->q_len - r < ROW_BLOCK ? (int)(ref->q_len - r) : ROW_BLOCK);
	}
	if (ref->grad_o)
		keys_backward(w, group);
}

static bool is_wanted(const Reference *ref, int64_t kv_head)
{
	return !ref->end_kv_head || (kv_head >= ref->first_kv_head && kv_head < ref->end_kv_head);
}

static void *work(void *user)
{
	Job *job = user;
	Worker w;

	if (!worker_init(&w, job->ref))
		atomic_store(&job->failed, 1);
	while (!atomic_load(&job->failed)) {
		int64_t group = atomic_fetch_add(&job->next, 1);
		if (group >= job->ref->batch * job->ref->kv_heads)
			break;
		if (is_wanted(job->ref, group % job->ref->kv_heads))
			run_group(job, &w, group);
	}
	atomic_fetch_add(&job->survivors, w.survivors);
	atomic_fetch_add(&job->near, w.near);
	atomic_fetch_add(&job->visible, w.visible);
	worker_free(&w);
	return NULL;
}

/* ---- the whole ---- */

static void clear_outputs(Reference *ref)
{
	const Manifest *m = ref->manifest;
	int64_t q_rows = ref->batch * ref->heads * ref->q_len, k_rows = ref->batch * ref->kv_heads * ref->k_len;
	int32_t *const counts[] = { ref->row_survivors, ref->row_near, ref->key_survivors, ref->key_near };

	memset(ref->o, 0, sizeof(double) * (size_t)(q_rows * m->value_dim));
	for (int c = 0; c < 4; c++)
		if (counts[c])
			memset(counts[c], 0, sizeof(int32_t) * (size_t)(c < 2 ? q_rows : k_rows));
	if (!ref->grad_o)
		return;
	for (int v = 0; v < m->views; v++) {
		memset(ref->dq[v], 0, sizeof(double) * (size_t)(q_rows * m->head_dim));
		memset(ref->dk[v], 0, sizeof(double) * (size_t)(k_rows * m->head_dim));
	}
	memset(ref->dv, 0, sizeof(double) * (size_t)(k_rows * m->value_dim));
}

/* Adds one part of what every (batch, head) has in job->grad_params, in a fixed order. */
static void sum_param(const Job *job, int p, int part, double *sum)
{
	const Reference *ref = job->ref;
	int64_t length = manifest_param_length(ref->manifest, p, ref->heads, ref->layers);

	memset(sum, 0, sizeof(double) * (size_t)length);
	for (int64_t bh = 0; bh < ref->batch * ref->heads; bh++) {
		const double *grads = job->grad_params + (PARTS * bh + part) * job->grad_stride;

		if (ref->manifest->params[p].shape != TDA_PER_CHANNEL)
			sum[manifest_param_entry(ref->manifest, p, ref->heads, ref->layer, bh % ref->heads)] += grads[p];
		for (int64_t d = 0; d < length && p == ref->manifest->gain; d++)
			sum[d] += grads[TDA_MAX_PARAMS + d];
	}
}

static void sum_params(const Job *job)
{
	const Reference *ref = job->ref;

	for (int p = 0; p < ref->manifest->param_count; p++) {
		sum_param(job, p, PART_SUM, ref->dparam[p]);
		if (ref->noise) {
			sum_param(job, p, PART_SQUARES, ref->noise->dparam[p]);
			sum_param(job, p, PART_CHANGES, ref->change->dparam[p]);
		}
	}
}

/* Sums of squares so far; their roots in the end. With `begin`, zeros instead. */
static void finish_noise(const Reference *ref, const ReferenceNoise *noise, bool begin)
{
	const Manifest *m = ref->manifest;
	int64_t q_rows = ref->batch * ref->heads * ref->q_len, k_rows = ref->batch * ref->kv_heads * ref->k_len;
	struct { double *values; int64_t count; } arrays[2 + 2 * TDA_MAX_VIEWS + TDA_MAX_PARAMS];
	int count = 0;

	arrays[count].values = noise->o;
	arrays[count++].count = q_rows;
	arrays[count].values = noise->dv;
	arrays[count++].count = k_rows;
	for (int v = 0; v < m->views; v++) {
		arrays[count].values = noise->dq[v];
		arrays[count++].count = q_rows;
		arrays[count].values = noise->dk[v];
		arrays[count++].count = k_rows;
	}
	for (int p = 0; p < m->param_count; p++) {
		arrays[count].values = noise->dparam[p];
		arrays[count++].count = manifest_param_length(m, p, ref->heads, ref->layers);
	}
	for (int a = 0; a < count; a++)
		for (int64_t n = 0; n < arrays[a].count; n++)
			arrays[a].values[n] = begin ? 0 : sqrt(arrays[a].values[n]);
}

tda_status reference_run(Reference *ref, int threads)
{
	enum { MOST_THREADS = 64 };
	Job job = { .ref = ref, .grad_stride = TDA_MAX_PARAMS + ref->manifest->value_dim };
	pthread_t thread[MOST_THREADS];
	int started = 0;
	int64_t groups = ref->batch * ref->kv_heads, pairs = ref->batch * ref->heads;

	job.grad_params = calloc((size_t)(pairs > 0 ? pairs : 1) * PARTS * (size_t)job.grad_stride, sizeof(double));
	if (!job.grad_params)
		return tda_fail_memory();
	clear_outputs(ref);
	if (ref->noise) {
		finish_noise(ref, ref->noise, true);
		finish_noise(ref, ref->change, true);
	}
	/* this thread works too, so a thread that can't be started costs time only */
	while (started + 1 < threads && started + 1 < groups && started < MOST_THREADS &&
	       pthread_create(&thread[started], NULL, work, &job) == 0)
		started++;
	work(&job);
	for (int t = 0; t < started; t++)
		pthread_join(thread[t], NULL);
	if (ref->grad_o)
		sum_params(&job);
	if (ref->noise) {
		finish_noise(ref, ref->noise, false);
		finish_noise(ref, ref->change, false);
	}
	ref->survivors = job.survivors;
	ref->near = job.near;
	ref->visible = job.visible;
	free(job.grad_params);
	return job.failed ? tda_fail_memory() : TDA_OK;
}
