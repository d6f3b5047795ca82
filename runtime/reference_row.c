#include <math.h>
#include <string.h>
#include "reference_row.h"

/* Norms outside of this range make a row NaN (a kernel's f32 reciprocal would lose them); 0 stays 0. */
static const double least_norm = 0x1p-60, greatest_norm = 0x1p60;

/* ---- forward of one row ---- */

double reference_inverse_norm(const Manifest *m, const double *row)
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

/* A pair's weight and its derivatives, by_param only of parameters that are read. */
typedef struct PairTerms {
	double weight, by_score, by_tau;
	double by_param[TDA_MAX_PARAMS];
} PairTerms;

/* Of entry k of the weight and entry j of the score's modifier (NULL: the score itself). */
static PairTerms pair_terms(const Worker *w, const PostfixSlot *weighed, int k, const PostfixSlot *modified, int j)
{
	double by_modified = partial(weighed, DUAL_S, k);
	PairTerms t = { .weight = weighed->value[k], .by_tau = partial(weighed, DUAL_TAU, k) };

	t.by_score = by_modified == 0 ? 0 : modified ? by_modified * partial(modified, DUAL_S, j) : by_modified;
	for (int p = 0; w->by_params >> p; p++) {
		if (!(w->by_params >> p & 1))
			continue;
		t.by_param[p] = partial(weighed, DUAL_PARAM + p, k);
		if (modified && by_modified != 0)
			t.by_param[p] += by_modified * partial(modified, DUAL_PARAM + p, j);
	}
	return t;
}

/* Is s within `slack` of the threshold, so that rounding decides on which side it is? */
static bool is_near(const Worker *w, double score, double modified, double tau)
{
	return score != 0 && fabs(modified - tau) <= w->ref->manifest->slack;
}

/* Appends the pairs of one chunk whose weight or a derivative is not zero, or may not be. `modified` is the score's
 * modifier, evaluated (NULL: the score itself), `weighed` the weight. */
static void keep_live(Worker *w, LiveRow *live, const PostfixInput *input, int64_t first, const double *score,
                      const PostfixSlot *modified, const PostfixSlot *weighed)
{
	for (int k = 0; k < input->count; k++) {
		PairTerms t = pair_terms(w, weighed, k, modified, k);
		bool is_live = t.weight != 0 || partial(weighed, DUAL_S, k) != 0 || t.by_tau != 0;
		int64_t at = live->count;

		for (int p = 0; w->by_params >> p; p++) {
			if (!(w->by_params >> p & 1))
				continue;
			live->by_param[p][at] = t.by_param[p];
			is_live |= t.by_param[p] != 0;
		}
		if (!is_live && !is_near(w, score[k], input->row[POSTFIX_VAR_S][k], live->tau))
			continue;
		live->key[at] = (int32_t)(first + k);
		live->score[at] = score[k];
		live->weight[at] = t.weight;
		live->by_score[at] = t.by_score;
		live->by_tau[at] = t.by_tau;
		live->count++;
	}
}

/* Raises *change to the distance of two values; what is not finite has none. */
static void raise_change(double *change, double a, double b)
{
	if (isfinite(a - b) && fabs(a - b) > *change)
		*change = fabs(a - b);
}

double reference_delta(const Manifest *m)
{
	return m->slack / 4;
}

/* How far the terms of the pairs from `from` on, which keep_live appended, move where their scores do. */
static void change_live(Worker *w, LiveRow *live, const PostfixInput *input, int64_t first, int64_t from,
                        const PostfixSlot *modified)
{
	PostfixInput moved = *input;
	double score[POSTFIX_CHUNK], position[POSTFIX_CHUNK];

	moved.count = (int)(live->count - from);
	moved.row[POSTFIX_VAR_S] = score;
	moved.row[POSTFIX_VAR_J] = position;
	for (int64_t n = from; n < live->count; n++) {
		live->weight_change[n] = live->score_change[n] = live->tau_change[n] = 0;
		for (int p = 0; w->by_params >> p; p++)
			if (w->by_params >> p & 1)
				live->param_change[p][n] = 0;
	}
	for (int sign = -1; sign <= 1 && moved.count > 0; sign += 2) {
		for (int k = 0; k < moved.count; k++) {
			int64_t n = from + k, j = live->key[n] - first;
			double delta = live->score[n] == 0 ? 0 : sign * reference_delta(w->ref->manifest);

			score[k] = input->row[POSTFIX_VAR_S][j] + delta;
			position[k] = input->row[POSTFIX_VAR_J][j];
		}
		postfix_eval(w->ref->manifest->weight, &moved, ~0u, w->stack);
		for (int k = 0; k < moved.count; k++) {
			int64_t n = from + k;
			PairTerms t = pair_terms(w, w->stack, k, modified, (int)(live->key[n] - first));

			raise_change(&live->weight_change[n], t.weight, live->weight[n]);
			raise_change(&live->score_change[n], t.by_score, live->by_score[n]);
			raise_change(&live->tau_change[n], t.by_tau, live->by_tau[n]);
			for (int p = 0; w->by_params >> p; p++)
				if (w->by_params >> p & 1)
					raise_change(&live->param_change[p][n], t.by_param[p], live->by_param[p][n]);
		}
	}
}

static void count_pairs(Worker *w, int64_t row, int64_t first_key, int count, const double *score,
                        const double *modified, double tau, const double *weight)
{
	const Reference *ref = w->ref;

	for (int k = 0; k < count; k++) {
		bool survives = weight[k] != 0;
		bool near = is_near(w, score[k], modified[k], tau);

		if (!survives && !near)
			continue;
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

static void add_scaled(double *restrict to, double scale, const double *restrict from, int count)
{
	for (int d = 0; d < count; d++)
		to[d] += scale * from[d];
}

/* The normalised scores of a block of rows with the keys from `first` to `end`. */
static void block_scores(Worker *w, int view, int rows, int64_t first, int64_t end)
{
	const Manifest *m = w->ref->manifest;
	int64_t k_len = w->ref->k_len;

	for (int64_t at = first; at < end; at += POSTFIX_CHUNK) {
		int count = end - at < POSTFIX_CHUNK ? (int)(end - at) : POSTFIX_CHUNK;
		const double *restrict inverse = w->inverse_k[view] + at;

		for (int r = 0; r < rows; r++)
			memset(w->scores[view] + r * k_len + at, 0, sizeof(double) * (size_t)count);
		for (int d = 0; d < m->head_dim; d++)
			for (int r = 0; r < rows; r++)
				add_scaled(w->scores[view] + r * k_len + at, w->unit_q[view][r * m->head_dim + d],
				           w->transposed[view] + d * k_len + at, count);
		for (int r = 0; r < rows; r++)
			for (int k = 0; k < count; k++)
				w->scores[view][r * k_len + at + k] *= inverse[k];
	}
}

void reference_prepare_rows(Worker *w, const RowPlace *places, int rows)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	int64_t first = ref->k_len, end = 0;

	for (int r = 0; r < rows; r++) {
		if (places[r].keys.first == places[r].keys.end)
			continue;
		first = places[r].keys.first < first ? places[r].keys.first : first;
		end = places[r].keys.end > end ? places[r].keys.end : end;
	}
	for (int v = 0; v < m->views; v++) {
		for (int r = 0; r < rows; r++) {
			const double *q = ref->q[v] + places[r].row * m->head_dim;
			double inverse = reference_inverse_norm(m, q);

			for (int d = 0; d < m->head_dim; d++)
				w->unit_q[v][r * m->head_dim + d] = inverse == 0 ? 0 : q[d] * inverse;
		}
		block_scores(w, v, rows, first, end);
	}
}

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
	for (int64_t first = at->keys.first; first < at->keys.end; first += POSTFIX_CHUNK) {
		PostfixSlot copy;
		int64_t from;

		input.count = at->keys.end - first < POSTFIX_CHUNK ? (int)(at->keys.end - first) : POSTFIX_CHUNK;
		for (int k = 0; k < input.count; k++)
			position[k] = (double)(first + k);
		memcpy(score, w->scores[view] + at->slot * ref->k_len + first, sizeof(double) * (size_t)input.count);
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
		if (ref->observe)
			ref->observe(ref->observer, &(PairRun){
				.view = view, .batch_head = at->row / ref->q_len, .row = at->row % ref->q_len, .first = first,
				.count = input.count, .score = input.row[POSTFIX_VAR_S], .weight = w->stack->value, .tau = live->tau,
				.coefficient = live->coefficient,
			});
		from = live->count;
		keep_live(w, live, &input, first, score, modified, w->stack);
		if (ref->noise)
			change_live(w, live, &input, first, from, modified);
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

double reference_parameter(const Reference *ref, int p, int64_t at)
{
	return ref->param[p] ? ref->param[p][at] : (double)(float)ref->manifest->params[p].init;
}

static double gain_at(const Reference *ref, int d)
{
	return ref->manifest->gain < 0 ? 1 : reference_parameter(ref, ref->manifest->gain, d);
}

void reference_row_forward(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	double *o = ref->o + at->row * m->value_dim;
	double scale = 1;

	memset(w->row_o, 0, sizeof(double) * (size_t)m->value_dim);
	for (int v = 0; v < m->views; v++) {
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

static double dot(const double *a, const double *b, int count)
{
	double sum = 0;

	for (int d = 0; d < count; d++)
		sum += a[d] * b[d];
	return sum;
}

/* The sum of squares of the products of a and b. */
static double square_sum(const double *a, const double *b, int count)
{
	double sum = 0;

	for (int d = 0; d < count; d++)
		sum += a[d] * b[d] * a[d] * b[d];
	return sum;
}

/* What a weight is off by, relatively, as a factor of the product with v: half of the most that rounding to the factors' dtype may
 * leave, as its errors are spread. */
static double weight_rounding(const Manifest *m)
{
	if (m->dtype == TDA_F32)
		return m->tf32 ? 0x1p-12 : 0;
	return m->dtype == TDA_F16 ? 0x1p-12 : 0x1p-9;
}

/*
 * How far the norm moves with the weights, to first order and in root sums of squares: a row o that moves by x has its
 * 1 / rms change by the share scale * (normed.x) / value_dim, its normed row by scale * x less that share of itself. A weight moves
 * with its score, and where it becomes a factor. What that does to o itself is part of the tolerance; but behind the norm, where the
 * gradient is orthogonal to o, it may be most of what cancelling leaves of a product.
 */
static void norm_change(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const double *grad = ref->grad_o + at->row * m->value_dim;

	memset(w->normed_change, 0, sizeof(double) * (size_t)m->value_dim);
	for (int v = 0; v < m->views; v++)
		for (int64_t n = 0; n < w->live[v].count; n++) {
			const double *value = ref->v + (at->group * ref->k_len + w->live[v].key[n]) * m->value_dim;
			double change = hypot(w->live[v].weight_change[n], weight_rounding(m) * w->live[v].weight[n]);
			double moved = w->scale * w->live[v].coefficient * change, by_normed = 0;

			for (int d = 0; d < m->value_dim; d++) {
				by_normed += w->normed[d] * value[d];
				w->normed_change[d] += moved * moved * value[d] * value[d];
			}
			w->scale_change += pow(moved * by_normed / m->value_dim, 2);
		}
	for (int d = 0; d < m->value_dim; d++) {
		double square = w->normed_change[d] + w->scale_change * w->normed[d] * w->normed[d];

		w->normed_change[d] = sqrt(square);
		w->mean_change += pow(grad[d] * gain_at(ref, d) / m->value_dim, 2) * square;
		if (m->gain >= 0)
			w->grad_changes[TDA_MAX_PARAMS + d] += grad[d] * grad[d] * square;
	}
}

/* The gradient by the row of o before the norm, into w->grad_row; the gain's gradient is added to grad_params. */
static void output_backward(Worker *w, const RowPlace *at)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const double *grad = ref->grad_o + at->row * m->value_dim;
	double scale, mean = 0;

	w->scale_change = w->mean_change = 0;
	memcpy(w->grad_row, grad, sizeof(double) * (size_t)m->value_dim);
	memcpy(w->grad_noise, grad, sizeof(double) * (size_t)m->value_dim);
	if (!m->rms_norm)
		return;
	scale = inverse_rms(m, w->row_o);
	for (int d = 0; d < m->value_dim; d++) {
		w->normed[d] = w->row_o[d] * scale;
		if (m->gain >= 0)
			w->grad_params[TDA_MAX_PARAMS + d] += grad[d] * w->normed[d];
		if (m->gain >= 0)
			w->grad_squares[TDA_MAX_PARAMS + d] += pow(grad[d] * w->normed[d], 2);
		w->grad_row[d] = grad[d] * gain_at(ref, d);
		mean += w->grad_row[d] * w->normed[d] / m->value_dim;
	}
	for (int d = 0; d < m->value_dim; d++) {
		w->grad_noise[d] = scale * hypot(w->grad_row[d], mean * w->normed[d]);
		w->grad_row[d] = scale * (w->grad_row[d] - mean * w->normed[d]);
	}
	w->scale = scale;
	w->mean = mean;
	if (ref->noise)
		norm_change(w, at);
}

/* Squares: of do.v before it cancels, and of how far it moves with the norm. */
typedef struct Product {
	double noise, change;
} Product;

/*
 * The noise is the square of do.v, and of what rounding may leave of it. Behind an output norm do is nearly orthogonal
 * to o, so that where one key survives in a row, all of do.v cancels. Kernels of 16-bit dtypes keep this gradient in two
 * parts, so only a small share of its terms counts as noise; a float32 gradient has no second part.
 */
static Product product_of(const Worker *w, const double *restrict v)
{
	const Manifest *m = w->ref->manifest;
	const double share = m->dtype == TDA_F32 ? 1 : 1.0 / 128;
	double by_grad = 0, by_normed = 0, noise = 0, moved = 0;
	Product product;

	/* one loop: sums of doubles wait for their additions, so that four cost what one does */
	for (int d = 0; d < m->value_dim; d++) {
		double square = v[d] * v[d];

		by_grad += w->grad_row[d] * v[d];
		by_normed += w->normed[d] * v[d];
		noise += w->grad_noise[d] * w->grad_noise[d] * square;
		moved += w->normed_change[d] * w->normed_change[d] * square;
	}
	product.noise = by_grad * by_grad + share * share * noise;
	product.change = !m->rms_norm ? 0 : w->scale_change * by_grad * by_grad + w->scale * w->scale *
	                 (w->mean_change * by_normed * by_normed + w->mean * w->mean * moved);
	return product;
}

/* The square of how far do moves with the norm. */
static double grad_change(const Worker *w)
{
	const Manifest *m = w->ref->manifest;

	if (!m->rms_norm)
		return 0;
	return w->scale_change * dot(w->grad_row, w->grad_row, m->value_dim) +
	       w->scale * w->scale * (w->mean_change * dot(w->normed, w->normed, m->value_dim) +
	                              w->mean * w->mean * dot(w->normed_change, w->normed_change, m->value_dim));
}

/* What the products of a row's live pairs add to the noise of o, and to its change. */
static void forward_noise(const Worker *w, const RowPlace *at, double scale)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	double gains[256];

	for (int d = 0; d < m->value_dim; d++)
		gains[d] = m->rms_norm ? scale * gain_at(ref, d) : 1;
	for (int v = 0; v < m->views; v++)
		for (int64_t n = 0; n < w->live[v].count; n++) {
			const double *value = ref->v + (at->group * ref->k_len + w->live[v].key[n]) * m->value_dim;
			double square = pow(w->live[v].coefficient, 2) * square_sum(gains, value, m->value_dim);

			ref->noise->o[at->row] += pow(w->live[v].weight[n], 2) * square;
			ref->change->o[at->row] += pow(w->live[v].weight_change[n], 2) * square;
		}
}

/* The square of how far a * b moves, of the squares of a and of its change, of b and of b's change. */
static double moved_square(double a_square, double a_moved, double b, double b_moved)
{
	return a_square * b_moved * b_moved + a_moved * (b * b + b_moved * b_moved);
}

/* The same of one view's gradients; inverse is 1 / |q|. */
static void backward_noise(const Worker *w, const RowPlace *at, int view, double inverse)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const LiveRow *live = &w->live[view];
	const double *unit_q = w->unit_q[view] + at->slot * m->head_dim;
	double q_square = dot(unit_q, unit_q, m->head_dim), grad_square = dot(w->grad_noise, w->grad_noise, m->value_dim);
	double share = pow(live->coefficient, 2), grad_moved = grad_change(w);
	double tau_square = 0, tau_moved = 0, value_moved = 0;
	Product value = product_of(w, live->value);

	for (int64_t n = 0; n < live->count; n++) {
		int64_t key = at->group * ref->k_len + live->key[n];
		const double *k = ref->k[view] + key * m->head_dim, *v = ref->v + key * m->value_dim;
		double k_square = pow(inverse * w->inverse_k[view][live->key[n]], 2) * dot(k, k, m->head_dim);
		Product product = product_of(w, v);
		double by_score = share * product.noise * pow(live->by_score[n], 2);
		double score_moved = share * moved_square(product.noise, product.change, live->by_score[n],
		                                          live->score_change[n]);

		ref->noise->dq[view][at->row] += by_score * k_square;
		ref->change->dq[view][at->row] += score_moved * k_square;
		ref->noise->dk[view][key] += by_score * q_square;
		ref->change->dk[view][key] += score_moved * q_square;
		ref->noise->dv[key] += share * pow(live->weight[n], 2) * grad_square;
		ref->change->dv[key] += share * moved_square(grad_square, grad_moved, live->weight[n], live->weight_change[n]);
		tau_square += share * product.noise * pow(live->by_tau[n], 2);
		tau_moved += share * moved_square(product.noise, product.change, live->by_tau[n], live->tau_change[n]);
		value_moved += product.noise * pow(live->weight_change[n], 2);
		for (int p = 0; w->by_params >> p; p++) {
			if (!(w->by_params >> p & 1))
				continue;
			w->grad_squares[p] += share * product.noise * pow(live->by_param[p][n], 2);
			w->grad_changes[p] += share * moved_square(product.noise, product.change, live->by_param[p][n],
			                                           live->param_change[p][n]);
		}
	}
	for (int p = 0; p < m->param_count && live->count > 0; p++) {
		double by_tau = pow(live->tau_by_param[p], 2), by_coefficient = pow(live->coefficient_by_param[p], 2);

		if (by_tau != 0) {
			w->grad_squares[p] += tau_square * by_tau;
			w->grad_changes[p] += tau_moved * by_tau;
		}
		if (by_coefficient != 0) {
			w->grad_squares[p] += by_coefficient * value.noise;
			w->grad_changes[p] += by_coefficient * (value_moved + value.change);
		}
	}
}

static void view_backward(Worker *w, const RowPlace *at, int view)
{
	const Reference *ref = w->ref;
	const Manifest *m = ref->manifest;
	const LiveRow *live = &w->live[view];
	double inverse = reference_inverse_norm(m, ref->q[view] + at->row * m->head_dim);
	double grad_tau = 0, moment = 0;
	double *dq = ref->dq[view] + at->row * m->head_dim;
	const double *unit_q = w->unit_q[view] + at->slot * m->head_dim;

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
		add_scaled(ref->dk[view] + key * m->head_dim, grad_score, unit_q, m->head_dim);
	}
	for (int d = 0; d < m->head_dim; d++)
		dq[d] = inverse == 0 ? 0 : m->l2_normalized ? inverse * (w->sum_q[d] - unit_q[d] * moment) : w->sum_q[d];
	if (ref->noise)
		backward_noise(w, at, view, inverse);
	if (live->count == 0)
		return;
	for (int p = 0; p < m->param_count; p++) {
		if (live->tau_by_param[p] != 0)
			w->grad_params[p] += grad_tau * live->tau_by_param[p];
		if (live->coefficient_by_param[p] != 0)
			w->grad_params[p] += live->coefficient_by_param[p] * dot(w->grad_row, live->value, m->value_dim);
	}
}

void reference_row_backward(Worker *w, const RowPlace *at)
{
	if (w->ref->noise)
		forward_noise(w, at, w->ref->manifest->rms_norm ? inverse_rms(w->ref->manifest, w->row_o) : 1);
	output_backward(w, at);
	for (int v = 0; v < w->ref->manifest->views; v++)
		view_backward(w, at, v);
}
