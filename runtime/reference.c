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
#include "reference.h"

/* Norms outside of this range make a row NaN (a kernel's f32 reciprocal would lose them); 0 stays 0. */
static const double least_norm = 0x1p-60, greatest_norm = 0x1p60;

/* What one view gave one row: its live pairs in the order of keys. */
typedef struct LiveRow {
	int64_t count;
	int32_t *key;                  /* [k_len] */
	double *score;                 /* the normalised score, before the modifier */
	double *weight;
	double *by_score;              /* d weight / d normalised score */
	double *by_tau;
	double *by_param[TDA_MAX_PARAMS];
	double tau, coefficient;
	double tau_by_param[TDA_MAX_PARAMS], coefficient_by_param[TDA_MAX_PARAMS];
	double *value;                 /* sum over keys of weight * v, [value_dim] */
} LiveRow;

typedef struct Worker {
	const Reference *ref;
	uint32_t by_params;            /* parameters that score or weight read */
	PostfixSlot *stack;
	double *inverse_k[TDA_MAX_VIEWS];      /* [k_len]; 1 where rows are not normalised */
	double *transposed[TDA_MAX_VIEWS];     /* [head_dim, k_len], as given */
	double *key_moment[TDA_MAX_VIEWS];     /* [k_len]: sum over rows of dS * s, for the norm's gradient */
	double *unit_q[TDA_MAX_VIEWS];         /* [head_dim] */
	double *sum_q;                         /* [head_dim] */
	double *row_o, *grad_row, *normed;     /* [value_dim] */
	double params[TDA_MAX_PARAMS];         /* this head's and layer's entries */
	double *grad_params;                   /* this head's gradients: [TDA_MAX_PARAMS] and the gain's [value_dim] */
	double *grad_before, *grad_squares;    /* the same before this row, and the sum of squares of the rows' parts */
	int64_t survivors, near, visible;
	LiveRow live[TDA_MAX_VIEWS];
} Worker;

typedef struct Job {
	Reference *ref;
	double *grad_params;           /* [batch, heads, 2, grad_stride]: sums, then sums of squares */
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
		for (int p = 0; p < TDA_MAX_PARAMS; p++)
			free(live->by_param[p]);
		free(live->key);
		free(live->score);
		free(live->weight);
		free(live->by_score);
		free(live->by_tau);
		free(live->value);
		free(w->inverse_k[v]);
		free(w->transposed[v]);
		free(w->key_moment[v]);
		free(w->unit_q[v]);
	}
	free(w->stack);
	free(w->sum_q);
	free(w->row_o);
	free(w->grad_row);
	free(w->normed);
	free(w->grad_before);
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
	     reserve(&w->grad_before, TDA_MAX_PARAMS + m->value_dim);
	for (int v = 0; v < m->views && ok; v++) {
		LiveRow *live = &w->live[v];
		live->key = calloc((size_t)(ref->k_len > 0 ? ref->k_len : 1), sizeof(*live->key));
		ok = live->key && reserve(&live->score, ref->k_len) && reserve(&live->weight, ref->k_len) &&
		     reserve(&live->by_score, ref->k_len) && reserve(&live->by_tau, ref->k_len) &&
		     reserve(&live->value, m->value_dim) && reserve(&w->inverse_k[v], ref->k_len) &&
		     reserve(&w->transposed[v], ref->k_len * m->head_dim) && reserve(&w->key_moment[v], ref->k_len) &&
		     reserve(&w->unit_q[v], m->head_dim);
		for (int p = 0; p < m->param_count && ok; p++)
			if (w->by_params >> p & 1)
				ok = reserve(&live->by_param[p], ref->k_len);
	}
	return ok;
}

/* ---- forward of one row ---- */

static double inverse_norm(const Manifest *m, const double *row)
{
	double sum = 0, norm;

	if (!m->l2_normalized)
		return 1;
	for (int d = 0; d < m->head_dim; d++)
		sum += row[d] * row[d];
	norm = sqrt(sum);
	if (norm == 0)
		return 0;
	return norm >= least_norm && norm <= greatest_norm ? 1 / norm : NAN;
}

static PostfixInput row_input(const Worker *w, int64_t i, int view, int64_t head)
{
	PostfixInput input = { .count = 1, .params = w->params };

	input.var[POSTFIX_VAR_I] = (double)i;
	input.var[POSTFIX_VAR_VIEW] = view + 1;
	input.var[POSTFIX_VAR_HEAD] = (double)head;
	input.var[POSTFIX_VAR_LAYER] = (double)w->ref->layer;
	input.var[POSTFIX_VAR_Q_LEN] = (double)w->ref->q_len;
	input.var[POSTFIX_VAR_K_LEN] = (double)w->ref->k_len;
	return input;
}

/* A per-row expression and its derivatives by every parameter. */
static double eval_row(Worker *w, const Postfix *postfix, const PostfixInput *input, double by_param[TDA_MAX_PARAMS])
{
	postfix_eval(postfix, input, ~0u, w->stack);
	for (int p = 0; p < w->ref->manifest->param_count; p++)
		by_param[p] = w->stack->live >> (DUAL_PARAM + p) & 1 ? w->stack->partial[DUAL_PARAM + p][0] : 0;
	return w->stack->value[0];
}

static double partial(const PostfixSlot *slot, int by, int k)
{
	return slot->live >> by & 1 ? slot->partial[by][k] : 0;
}

/* Appends the pairs of one chunk whose weight or a derivative is not zero. `modified` is the score's modifier,
 * evaluated (NULL: the score itself), `weighed` the weight. */
static void keep_live(Worker *w, LiveRow *live, int64_t first, int count, const double *score,
                      const PostfixSlot *modified, const PostfixSlot *weighed)
{
	for (int k = 0; k < count; k++) {
		double by_modified = partial(weighed, DUAL_S, k);
		double slope = modified ? partial(modified, DUAL_S, k) : 1;
		double by_tau = partial(weighed, DUAL_TAU, k);
		bool is_live = weighed->value[k] != 0 || by_modified != 0 || by_tau != 0;
		int64_t at = live->count;

		for (int p = 0; w->by_params >> p; p++) {
			double by_param;
			if (!(w->by_params >> p & 1))
				continue;
			by_param = partial(weighed, DUAL_PARAM + p, k);
			if (modified && by_modified != 0)
				by_param += by_modified * partial(modified, DUAL_PARAM + p, k);
			live->by_param[p][at] = by_param;
			is_live |= by_param != 0;
		}
		if (!is_live)
			continue;
		live->key[at] = (int32_t)(first + k);
		live->score[at] = score[k];
		live->weight[at] = weighed->value[k];
		live->by_score[at] = by_modified == 0 ? 0 : by_modified * slope;
		live->by_tau[at] = by_tau;
		live->count++;
	}
}

static void count_pairs(Worker *w, int64_t row, int64_t first_key, int count, const double *score,
                        const double *modified, double tau, const double *weight)
{
	const Reference *ref = w->ref;

	for (int k = 0; k < count; k++) {
		bool survives = weight[k] != 0;
		bool near = score[k] != 0 && fabs(modified[k] - tau) <= ref->manifest->slack;

		w->survivors += survives;
		w->near += near;
		if (ref->row_survivors)
			ref->row_survivors[row] += survives;
		if (ref->row_near)
			ref->row_near[row] += near;
		if (ref->key_survivors)
			ref->key_survivors[first_key + k] += survives;
		if (ref->key_near)
			ref->key_near[first_key + k] += near;
	}
}

static void dot_chunk(const Worker *w, int view, int64_t first, int count, double *score)
{
	int64_t k_len = w->ref->k_len;

	memset(score, 0, sizeof(double) * (size_t)count);
	for (int d = 0; d < w->ref->manifest->head_dim; d++) {
		const double *restrict column = w->transposed[view] + d * k_len + first;
		double q = w->unit_q[view][d];
		for (int k = 0; k < count; k++)
			score[k] += q * column[k];
	}
	for (int k = 0; k < count; k++)
		score[k] *= w->inverse_k[view][first + k];
}

typedef struct RowPlace {
	int64_t group;                 /* batch * kv_heads + key head */
	int64_t head, row;             /* row of all rows: (batch * heads + head) * q_len + r */
	int64_t i;                     /* position */
	int64_t first, end;            /* visible keys */
} RowPlace;

static void row_view(Worker *w, const RowPlace *at, int view)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	LiveRow *live = &w->live[view];
	PostfixInput input = row_input(w, at->i, view, at->head);
	bool backward = ref->grad_o != NULL;
	uint32_t wrt = backward ? ~0u : 0;
	PostfixSlot *modified = NULL;
	double score[POSTFIX_CHUNK], position[POSTFIX_CHUNK], bent[POSTFIX_CHUNK];

	live->tau = eval_row(w, m->threshold, &input, live->tau_by_param);
	live->coefficient = eval_row(w, m->combine[view], &input, live->coefficient_by_param);
	live->count = 0;
	input.var[POSTFIX_VAR_TAU] = live->tau;
	input.row[POSTFIX_VAR_J] = position;
	for (int64_t first = at->first; first < at->end; first += POSTFIX_CHUNK) {
		PostfixSlot copy;

		input.count = at->end - first < POSTFIX_CHUNK ? (int)(at->end - first) : POSTFIX_CHUNK;
		for (int k = 0; k < input.count; k++)
			position[k] = (double)(first + k);
		dot_chunk(w, view, first, input.count, score);
		input.row[POSTFIX_VAR_S] = score;
		if (!postfix_is_var(m->score, POSTFIX_VAR_S)) {
			postfix_eval(m->score, &input, wrt, w->stack);
			copy = *w->stack;
			modified = &copy;
			memcpy(bent, copy.value, sizeof(bent));
			input.row[POSTFIX_VAR_S] = bent;
		}
		postfix_eval(m->weight, &input, wrt, w->stack);
		count_pairs(w, at->row, at->group * ref->k_len + first, input.count, score, input.row[POSTFIX_VAR_S],
		            live->tau, w->stack->value);
		keep_live(w, live, first, input.count, score, modified, w->stack);
	}
	memset(live->value, 0, sizeof(double) * (size_t)m->value_dim);
	for (int64_t n = 0; n < live->count; n++) {
		const double *restrict v = ref->v + (at->group * ref->k_len + live->key[n]) * m->value_dim;
		for (int d = 0; d < m->value_dim && live->weight[n] != 0; d++)
			live->value[d] += live->weight[n] * v[d];
	}
}

/* 1 / rms of a row; a row of zeros stays zeros even with eps = 0. */
static double inverse_rms(const Manifest *m, const double *row)
{
	double sum = 0;

	for (int d = 0; d < m->value_dim; d++)
		sum += row[d] * row[d];
	sum = sum / m->value_dim + m->rms_eps;
	return sum == 0 ? 0 : 1 / sqrt(sum);
}

static double parameter(const Reference *ref, int p, int64_t at)
{
	return ref->param[p] ? ref->param[p][at] : (double)(float)ref->manifest->params[p].init;
}

static double gain_at(const Reference *ref, int d)
{
	return ref->manifest->gain < 0 ? 1 : parameter(ref, ref->manifest->gain, d);
}

static void row_forward(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	double *o = ref->o + at->row * m->value_dim;
	double scale = 1;

	memset(w->row_o, 0, sizeof(double) * (size_t)m->value_dim);
	for (int v = 0; v < m->views; v++) {
		const double *q = ref->q[v] + at->row * m->head_dim;
		double inverse = inverse_norm(m, q);

		for (int d = 0; d < m->head_dim; d++)
			w->unit_q[v][d] = inverse == 0 ? 0 : q[d] * inverse;
		row_view(w, at, v);
		for (int d = 0; d < m->value_dim; d++)
			w->row_o[d] += w->live[v].coefficient * w->live[v].value[d];
	}
	if (m->rms_norm)
		scale = inverse_rms(m, w->row_o);
	for (int d = 0; d < m->value_dim; d++)
		o[d] = m->rms_norm ? w->row_o[d] * scale * gain_at(ref, d) : w->row_o[d];
}

/* ---- backward of one row ---- */

/* The gradient by the row of o before the norm, into w->grad_row; the gain's gradient is added to grad_params. */
static void output_backward(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const double *grad = ref->grad_o + at->row * m->value_dim;
	double scale, mean = 0;

	memcpy(w->grad_row, grad, sizeof(double) * (size_t)m->value_dim);
	if (!m->rms_norm)
		return;
	scale = inverse_rms(m, w->row_o);
	for (int d = 0; d < m->value_dim; d++) {
		w->normed[d] = w->row_o[d] * scale;
		if (m->gain >= 0)
			w->grad_params[TDA_MAX_PARAMS + d] += grad[d] * w->normed[d];
		w->grad_row[d] = grad[d] * gain_at(ref, d);
		mean += w->grad_row[d] * w->normed[d] / m->value_dim;
	}
	for (int d = 0; d < m->value_dim; d++)
		w->grad_row[d] = scale * (w->grad_row[d] - mean * w->normed[d]);
}

static double dot(const double *a, const double *b, int count)
{
	double sum = 0;

	for (int d = 0; d < count; d++)
		sum += a[d] * b[d];
	return sum;
}

static void add_scaled(double *restrict to, double scale, const double *restrict from, int count)
{
	for (int d = 0; d < count; d++)
		to[d] += scale * from[d];
}

static void view_backward(Worker *w, const RowPlace *at, int view)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const LiveRow *live = &w->live[view];
	double inverse = inverse_norm(m, ref->q[view] + at->row * m->head_dim);
	double grad_tau = 0, moment = 0;
	double *dq = ref->dq[view] + at->row * m->head_dim;

	memset(w->sum_q, 0, sizeof(double) * (size_t)m->head_dim);
	for (int64_t n = 0; n < live->count; n++) {
		int64_t key = at->group * ref->k_len + live->key[n];
		double grad_weight = live->coefficient * dot(w->grad_row, ref->v + key * m->value_dim, m->value_dim);
		double grad_score = live->by_score[n] == 0 ? 0 : grad_weight * live->by_score[n];
		double inverse_k = w->inverse_k[view][live->key[n]];

		if (live->weight[n] != 0)
			add_scaled(ref->dv + key * m->value_dim, live->coefficient * live->weight[n], w->grad_row, m->value_dim);
		if (live->by_tau[n] != 0)
			grad_tau += grad_weight * live->by_tau[n];
		for (int p = 0; w->by_params >> p; p++)
			if (w->by_params >> p & 1 && live->by_param[p][n] != 0)
				w->grad_params[p] += grad_weight * live->by_param[p][n];
		if (grad_score == 0)
			continue;
		moment += grad_score * live->score[n];
		w->key_moment[view][live->key[n]] += grad_score * live->score[n];
		add_scaled(w->sum_q, grad_score * inverse_k, ref->k[view] + key * m->head_dim, m->head_dim);
		add_scaled(ref->dk[view] + key * m->head_dim, grad_score, w->unit_q[view], m->head_dim);
	}
	for (int d = 0; d < m->head_dim; d++)
		dq[d] = inverse == 0 ? 0 : m->l2_normalized ? inverse * (w->sum_q[d] - w->unit_q[view][d] * moment)
		                                            : w->sum_q[d];
	if (live->count == 0)
		return;
	for (int p = 0; p < m->param_count; p++) {
		if (live->tau_by_param[p] != 0)
			w->grad_params[p] += grad_tau * live->tau_by_param[p];
		if (live->coefficient_by_param[p] != 0)
			w->grad_params[p] += live->coefficient_by_param[p] * dot(w->grad_row, live->value, m->value_dim);
	}
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

			for (int d = 0; d < m->head_dim; d++)
				dk[d] = inverse == 0 ? 0 : inverse * (dk[d] - k[d] * inverse * w->key_moment[v][j]);
		}
}

/* ---- a group of rows that share keys ---- */

static void visible_keys(const Reference *ref, RowPlace *at)
{
	const Manifest *m = ref->manifest;

	at->first = 0;
	at->end = ref->k_len;
	if (m->causal && at->i + 1 < at->end)
		at->end = at->i + 1;
	if (m->window && at->i - m->window + 1 > at->first)
		at->first = at->i - m->window + 1;
	if (m->window && m->window < ref->k_len - at->i)
		at->end = at->i + m->window < at->end ? at->i + m->window : at->end;
	if (at->end < at->first)
		at->end = at->first;
}

static void prepare_keys(Worker *w, int64_t group)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;

	for (int v = 0; v < m->views; v++) {
		memset(w->key_moment[v], 0, sizeof(double) * (size_t)ref->k_len);
		for (int64_t j = 0; j < ref->k_len; j++) {
			const double *k = ref->k[v] + (group * ref->k_len + j) * m->head_dim;

			w->inverse_k[v][j] = inverse_norm(m, k);
			for (int d = 0; d < m->head_dim; d++)
				w->transposed[v][d * ref->k_len + j] = w->inverse_k[v][j] == 0 ? 0 : k[d];
		}
	}
}

static int64_t entry_of_launch(const Reference *ref, int p, int64_t head)
{
	switch (ref->manifest->params[p].shape) {
	case TDA_PER_HEAD: return head;
	case TDA_PER_LAYER: return ref->layer;
	case TDA_PER_LAYER_HEAD: return ref->layer * ref->heads + head;
	case TDA_SCALAR:
	case TDA_PER_CHANNEL: break;
	}
	return 0;
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
			w->params[p] = parameter(ref, p, entry_of_launch(ref, p, head));
		w->grad_params = job->grad_params + 2 * bh * job->grad_stride;
		w->grad_squares = w->grad_params + job->grad_stride;
		for (int64_t r = 0; r < ref->q_len; r++) {
			RowPlace at = { .group = group, .head = head, .row = bh * ref->q_len + r, .i = r + ref->k_len - ref->q_len };

			visible_keys(ref, &at);
			if (at.first == at.end)
				continue;      /* outputs were cleared */
			w->visible += (at.end - at.first) * m->views;
			row_forward(w, &at);
			if (!ref->grad_o)
				continue;
			memcpy(w->grad_before, w->grad_params, sizeof(double) * (size_t)job->grad_stride);
			output_backward(w, &at);
			for (int v = 0; v < m->views; v++)
				view_backward(w, &at, v);
			for (int64_t n = 0; n < job->grad_stride; n++)
				w->grad_squares[n] += pow(w->grad_params[n] - w->grad_before[n], 2);
		}
	}
	if (ref->grad_o)
		keys_backward(w, group);
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

/* Adds what every (batch, head) has in job->grad_params + `offset`, in a fixed order. */
static void sum_param(const Job *job, int p, int64_t offset, double *sum)
{
	const Reference *ref = job->ref;
	int64_t length = manifest_param_length(ref->manifest, p, ref->heads, ref->layers);

	memset(sum, 0, sizeof(double) * (size_t)length);
	for (int64_t bh = 0; bh < ref->batch * ref->heads; bh++) {
		const double *grads = job->grad_params + 2 * bh * job->grad_stride + offset;

		if (ref->manifest->params[p].shape != TDA_PER_CHANNEL)
			sum[entry_of_launch(ref, p, bh % ref->heads)] += grads[p];
		for (int64_t d = 0; d < length && p == ref->manifest->gain; d++)
			sum[d] += grads[TDA_MAX_PARAMS + d];
	}
}

static void sum_params(const Job *job)
{
	const Reference *ref = job->ref;

	for (int p = 0; p < ref->manifest->param_count; p++) {
		double *noise = ref->dparam_noise[p];

		sum_param(job, p, 0, ref->dparam[p]);
		if (!noise)
			continue;
		sum_param(job, p, job->grad_stride, noise);
		for (int64_t n = 0; n < manifest_param_length(ref->manifest, p, ref->heads, ref->layers); n++)
			noise[n] = sqrt(noise[n]);
	}
}

tda_status reference_run(Reference *ref, int threads)
{
	enum { MOST_THREADS = 64 };
	Job job = { .ref = ref, .grad_stride = TDA_MAX_PARAMS + ref->manifest->value_dim };
	pthread_t thread[MOST_THREADS];
	int started = 0;
	int64_t groups = ref->batch * ref->kv_heads, pairs = ref->batch * ref->heads;

	job.grad_params = calloc((size_t)(pairs > 0 ? pairs : 1) * 2 * (size_t)job.grad_stride, sizeof(double));
	if (!job.grad_params)
		return tda_fail_memory();
	clear_outputs(ref);
	/* this thread works too, so a thread that can't be started costs time only */
	while (started + 1 < threads && started + 1 < groups && started < MOST_THREADS &&
	       pthread_create(&thread[started], NULL, work, &job) == 0)
		started++;
	work(&job);
	for (int t = 0; t < started; t++)
		pthread_join(thread[t], NULL);
	if (ref->grad_o)
		sum_params(&job);
	ref->survivors = job.survivors;
	ref->near = job.near;
	ref->visible = job.visible;
	free(job.grad_params);
	return job.failed ? tda_fail_memory() : TDA_OK;
}
