/* What causal softmax makes of the same tensors: view 1, scores q.k / sqrt(head_dim) of the elements as given, the spec's mask. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "error.h"
#include "explore.h"

enum { KEYS = 256 };                   /* scored together, so that they stay in the cache */

typedef struct Softmax {
	const Problem *problem;
	const double *o;               /* [batch * heads, q_len, value_dim] */
	ExploreCounts *counts;         /* [batch * heads] */
	double *q, *k, *v;             /* unpacked */
	double scale;
	atomic_llong next;             /* (batch, head of k) to take */
	atomic_bool failed;
} Softmax;

typedef struct SoftmaxMemory {
	double *transposed;            /* [head_dim, k_len] */
	double *weight;                /* [k_len] */
	double *row;                   /* [value_dim] */
} SoftmaxMemory;

static void transpose(const double *k, int64_t keys, int dims, double *to)
{
	for (int64_t j = 0; j < keys; j++)
		for (int d = 0; d < dims; d++)
			to[d * keys + j] = k[j * dims + d];
}

static void score_row(const Softmax *s, const SoftmaxMemory *memory, const double *q, KeySpan keys)
{
	int64_t k_len = s->problem->shape.k_len;

	for (int64_t first = keys.first; first < keys.end; first += KEYS) {
		int count = keys.end - first < KEYS ? (int)(keys.end - first) : KEYS;
		double *restrict to = memory->weight + first;

		memset(to, 0, sizeof(*to) * (size_t)count);
		for (int d = 0; d < s->problem->manifest->head_dim; d++) {
			const double *restrict k = memory->transposed + d * k_len + first;
			double factor = q[d] * s->scale;

			for (int n = 0; n < count; n++)
				to[n] += factor * k[n];
		}
	}
}

/* The row of the softmax into memory->row; returns the weight of key 0. */
static double softmax_row(const Softmax *s, const SoftmaxMemory *memory, const double *v, KeySpan keys)
{
	int dims = s->problem->manifest->value_dim;
	double largest = -INFINITY, sum = 0, *restrict row = memory->row;

	for (int64_t j = keys.first; j < keys.end; j++)
		largest = fmax(largest, memory->weight[j]);
	memset(row, 0, sizeof(*row) * (size_t)dims);
	for (int64_t j = keys.first; j < keys.end; j++) {
		const double *restrict value = v + j * dims;
		double weight = exp(memory->weight[j] - largest);

		memory->weight[j] = weight;
		sum += weight;
		for (int d = 0; d < dims; d++)
			row[d] += weight * value[d];
	}
	for (int d = 0; d < dims; d++)
		row[d] /= sum;
	return keys.first == 0 ? memory->weight[0] / sum : 0;
}

static void compare_row(const double *o, const double *soft, int dims, double sink, ExploreCounts *c)
{
	double product = 0, o_square = 0, square = 0;

	for (int d = 0; d < dims; d++) {
		c->softmax_error += (o[d] - soft[d]) * (o[d] - soft[d]);
		product += o[d] * soft[d];
		o_square += o[d] * o[d];
		square += soft[d] * soft[d];
	}
	c->softmax_square += square;
	c->softmax_cosine += o_square > 0 && square > 0 ? product / sqrt(o_square * square) : 0;
	c->softmax_sink += sink;
	c->softmax_rows++;
}

static void run_group(const Softmax *s, const SoftmaxMemory *memory, int64_t group)
{
	const Problem *p = s->problem;
	const tda_shape *shape = &p->shape;
	int head_dim = p->manifest->head_dim, value_dim = p->manifest->value_dim;
	int64_t share = shape->heads / shape->kv_heads;
	int64_t first = group / shape->kv_heads * shape->heads + group % shape->kv_heads * share;

	transpose(s->k + group * shape->k_len * head_dim, shape->k_len, head_dim, memory->transposed);
	for (int64_t bh = first; bh < first + share; bh++)
		for (int64_t r = 0; r < shape->q_len; r++) {
			KeySpan keys = reference_visible_keys(p->manifest, r + shape->k_len - shape->q_len, shape->k_len);
			int64_t row = bh * shape->q_len + r;
			double sink;

			if (keys.first == keys.end)
				continue;
			score_row(s, memory, s->q + row * head_dim, keys);
			sink = softmax_row(s, memory, s->v + group * shape->k_len * value_dim, keys);
			compare_row(s->o + row * value_dim, memory->row, value_dim, sink, &s->counts[bh]);
		}
}

static void *work(void *user)
{
	Softmax *s = user;
	const Problem *p = s->problem;
	size_t keys = (size_t)p->shape.k_len;
	SoftmaxMemory memory = {
		.transposed = malloc(sizeof(double) * keys * (size_t)p->manifest->head_dim + 1),
		.weight = malloc(sizeof(double) * keys + 1),
		.row = malloc(sizeof(double) * (size_t)p->manifest->value_dim),
	};
	bool ok = memory.transposed && memory.weight && memory.row;
	int64_t group;

	if (!ok)
		atomic_store(&s->failed, true);
	while (ok && (group = atomic_fetch_add(&s->next, 1)) < p->shape.batch * p->shape.kv_heads)
		run_group(s, &memory, group);
	free(memory.transposed);
	free(memory.weight);
	free(memory.row);
	return NULL;
}

static double *unpacked(const Operand *o)
{
	double *values = malloc(sizeof(double) * (size_t)(operand_rows(o) * o->dim) + 1);

	if (values)
		operand_unpack(o, values);
	return values;
}

tda_status explore_softmax(const Problem *p, const double *o, ExploreCounts *counts)
{
	enum { MOST_THREADS = 64 };
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t thread[MOST_THREADS];
	Softmax s = {
		.problem = p, .o = o, .counts = counts, .scale = 1 / sqrt(p->manifest->head_dim),
		.q = unpacked(&p->tensor[TENSOR_Q]), .k = unpacked(&p->tensor[TENSOR_K]), .v = unpacked(&p->tensor[TENSOR_V]),
	};
	int started = 0;
	bool ok = s.q && s.k && s.v;

	while (ok && started + 1 < cores && started + 1 < p->shape.batch * p->shape.kv_heads && started < MOST_THREADS &&
	       pthread_create(&thread[started], NULL, work, &s) == 0)
		started++;
	if (ok)
		work(&s);
	for (int t = 0; t < started; t++)
		pthread_join(thread[t], NULL);
	free(s.q);
	free(s.k);
	free(s.v);
	return ok && !atomic_load(&s.failed) ? TDA_OK : tda_fail_memory();
}
