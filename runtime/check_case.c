#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "check_case.h"
#include "error.h"
#include "half.h"

/* Lengths around the tile sizes of the kernels (16 to 128 rows); heads that share keys; rows before the first key. */
const CheckCase check_cases[] = {
	/* name             list        B  H  Hk  q     k     l  L  layout           common params          special */
	{ "one row",        LIST_QUICK, 1, 1, 1,  1,    1,    0, 1, LAYOUT_PACKED,    0,    PARAMS_ABSENT,  SPECIAL_NONE },
	{ "63, padded",     LIST_QUICK, 1, 2, 1,  63,   63,   0, 1, LAYOUT_PADDED,    0.5,  PARAMS_RANDOM,  SPECIAL_NONE },
	{ "65, common",     LIST_QUICK, 1, 2, 2,  65,   65,   1, 3, LAYOUT_PACKED,    1,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "130, heads 4:2", LIST_QUICK, 1, 4, 2,  130,  130,  0, 2, LAYOUT_PACKED,    0,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "q 40, k 100",    LIST_QUICK, 2, 1, 1,  40,   100,  0, 1, LAYOUT_PADDED,    0.7,  PARAMS_ABSENT,  SPECIAL_NONE },
	{ "q 100, k 40",    LIST_QUICK, 1, 2, 1,  100,  40,   2, 3, LAYOUT_PACKED,    0.3,  PARAMS_LOWERED, SPECIAL_NONE },
	{ "zero rows",     LIST_QUICK, 1, 1, 1,  70,   70,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_RANDOM,  SPECIAL_ZERO },
	{ "NaN in k",       LIST_QUICK, 1, 2, 2,  65,   65,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_ABSENT,  SPECIAL_NAN_K },
	{ "broadcast",      LIST_QUICK, 2, 2, 1,  33,   33,   0, 1, LAYOUT_BROADCAST, 1,    PARAMS_ABSENT,  SPECIAL_NONE },
	{ "q 70, k 520",    LIST_QUICK, 1, 1, 1,  70,   520,  0, 1, LAYOUT_PACKED,    0.3,  PARAMS_RANDOM,  SPECIAL_NONE },
	{ "no key",         LIST_QUICK, 1, 2, 1,  20,   0,    0, 1, LAYOUT_PACKED,    0,    PARAMS_ABSENT,  SPECIAL_NONE },
	{ "no row",         LIST_QUICK, 1, 2, 1,  0,    20,   0, 1, LAYOUT_PACKED,    0,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "64",             LIST_FULL,  1, 2, 2,  64,   64,   0, 1, LAYOUT_PACKED,    0,    PARAMS_ABSENT,  SPECIAL_NONE },
	{ "128, dense",     LIST_FULL,  1, 2, 1,  128,  128,  0, 1, LAYOUT_PACKED,    2,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "129, lowered",   LIST_FULL,  1, 3, 1,  129,  129,  1, 2, LAYOUT_PADDED,    0,    PARAMS_LOWERED, SPECIAL_NONE },
	{ "q 1, k 150",     LIST_FULL,  3, 4, 1,  1,    150,  0, 1, LAYOUT_PACKED,    0.5,  PARAMS_RANDOM,  SPECIAL_NONE },
	{ "200, heads 8:1", LIST_FULL,  1, 8, 1,  200,  200,  0, 1, LAYOUT_PADDED,    0.2,  PARAMS_RANDOM,  SPECIAL_NONE },
	{ "q 190, k 170",   LIST_FULL,  2, 2, 2,  190,  170,  0, 1, LAYOUT_PACKED,    1,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "huge",           LIST_FULL,  1, 2, 1,  66,   66,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_RANDOM,  SPECIAL_HUGE },
	{ "tiny",           LIST_FULL,  1, 2, 1,  66,   66,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_RANDOM,  SPECIAL_TINY },
	{ "NaN in q",       LIST_FULL,  2, 2, 2,  65,   65,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_ABSENT,  SPECIAL_NAN_Q },
	{ "NaN in v",       LIST_FULL,  1, 2, 2,  65,   65,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_ABSENT,  SPECIAL_NAN_V },
	{ "Inf in k",       LIST_FULL,  1, 2, 2,  65,   65,   0, 1, LAYOUT_PACKED,    0.5,  PARAMS_ABSENT,  SPECIAL_INF_K },
	{ "1000",           LIST_LARGE, 2, 4, 2,  1000, 1000, 0, 1, LAYOUT_PACKED,    0,    PARAMS_RANDOM,  SPECIAL_NONE },
	{ "1025, padded",   LIST_LARGE, 1, 4, 4,  1025, 1025, 1, 2, LAYOUT_PADDED,    0.6,  PARAMS_RANDOM,  SPECIAL_NONE },
	{ "q 500, k 2000",  LIST_LARGE, 1, 2, 1,  500,  2000, 0, 1, LAYOUT_PACKED,    0.3,  PARAMS_ABSENT,  SPECIAL_NONE },
	{ "4096",           LIST_LARGE, 1, 2, 1,  4096, 4096, 0, 1, LAYOUT_PACKED,    0,    PARAMS_ABSENT,  SPECIAL_NONE },
};
const int check_case_count = sizeof(check_cases) / sizeof(check_cases[0]);

bool check_case_applies(const CheckCase *c, const Manifest *m)
{
	return m->l2_normalized || (c->special != SPECIAL_HUGE && c->special != SPECIAL_TINY && c->special != SPECIAL_INF_K);
}

/* ---- random numbers: splitmix64, so that every platform checks the same data ---- */

static uint64_t random_bits(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static double random_uniform(uint64_t *state)          /* in [0, 1) */
{
	return (double)(random_bits(state) >> 11) * 0x1p-53;
}

static double random_normal(uint64_t *state)
{
	double radius = sqrt(-2 * log(1 - random_uniform(state)));

	return radius * cos(6.283185307179586 * random_uniform(state));
}

/* ---- data ---- */

static void set_row(Operand *o, int64_t batch, int64_t head, int64_t row, const double *values)
{
	unsigned char *at = o->host + operand_row(o, batch, head, row);

	for (int64_t d = 0; d < o->dim; d++)
		dtype_store(o->dtype, at, (size_t)d, values[d]);
}

static void get_row(const Operand *o, int64_t batch, int64_t head, int64_t row, double *values)
{
	const unsigned char *at = o->host + operand_row(o, batch, head, row);

	for (int64_t d = 0; d < o->dim; d++)
		values[d] = dtype_load(o->dtype, at, (size_t)d);
}

/* Rows of noise + common * direction, times scale; the direction is the group's. */
static void fill_rows(Operand *o, double common, double scale, uint64_t direction_seed, int64_t share, uint64_t *seed)
{
	double row[256];

	for (int64_t b = 0; b < o->count[0]; b++)
		for (int64_t h = 0; h < o->count[1]; h++)
			for (int64_t r = 0; r < o->count[2]; r++) {
				uint64_t direction = direction_seed + (uint64_t)(h / share);

				for (int64_t d = 0; d < o->dim; d++)
					row[d] = scale * (random_normal(seed) + common * random_normal(&direction));
				set_row(o, b, h, r, row);
			}
}

/* Every eighth row of q becomes a noisy copy of some key that it can see. */
static void plant_survivors(Problem *p, int view, uint64_t *seed)
{
	Operand *q = &p->tensor[TENSOR_Q + view], *k = &p->tensor[TENSOR_K + view];
	int64_t share = p->shape.heads / p->shape.kv_heads;
	double row[256];

	for (int64_t b = 0; b < q->count[0]; b++)
		for (int64_t h = 0; h < q->count[1]; h++)
			for (int64_t r = 0; r < q->count[2]; r += 8) {
				int64_t i = r + p->shape.k_len - p->shape.q_len;
				int64_t from = i > 40 ? i - 40 : 0;

				if (i < 0 || p->shape.k_len == 0)
					continue;
				get_row(k, b, h / share, from + (int64_t)(random_bits(seed) % (uint64_t)(i - from + 1)), row);
				for (int64_t d = 0; d < q->dim; d++)
					row[d] *= 1 + random_normal(seed);
				set_row(q, b, h, r, row);
			}
}

/* Does a negated parameter lower the threshold, without making it NaN, at the first and the last position? */
static bool negation_lowers(const Manifest *m, int param, int64_t last)
{
	PostfixSlot *stack = calloc((size_t)postfix_depth(m->threshold), sizeof(*stack));
	double params[TDA_MAX_PARAMS];
	bool lowers = stack && postfix_params(m->threshold) >> param & 1;

	for (int64_t i = 0; i <= last && lowers; i += last > 0 ? last : 1) {
		PostfixInput input = { .count = 1, .params = params };
		double before;

		input.var[POSTFIX_VAR_I] = (double)i;
		input.var[POSTFIX_VAR_VIEW] = 1;
		input.var[POSTFIX_VAR_Q_LEN] = input.var[POSTFIX_VAR_K_LEN] = (double)last + 1;
		for (int p = 0; p < m->param_count; p++)
			params[p] = m->params[p].init;
		postfix_eval(m->threshold, &input, 0, stack);
		before = stack->value[0];
		params[param] = -params[param];
		postfix_eval(m->threshold, &input, 0, stack);
		lowers = stack->value[0] <= before;    /* false for NaN */
	}
	free(stack);
	return lowers;
}

static void fill_param(Problem *p, int index, ParamMode mode, uint64_t *seed)
{
	const ManifestParam *param = &p->manifest->params[index];
	Operand *o = &p->param[index];
	bool negate = mode == PARAMS_LOWERED && p->shape.k_len > 0 && negation_lowers(p->manifest, index, p->shape.k_len - 1);

	o->absent = mode == PARAMS_ABSENT;
	for (int64_t n = 0; n < o->dim; n++) {
		double u = random_uniform(seed);
		/* not above the initial value: a threshold may be NaN there */
		double value = param->init != 0 ? param->init * (0.7 + 0.3 * u) : 0.2 * (u - 0.5);

		dtype_store(TDA_F32, o->host, (size_t)n, negate ? -value : value);
	}
}

static void poke(Operand *o, int64_t row, double value)
{
	if (operand_rows(o) > 0)
		dtype_store(o->dtype, o->host + operand_row(o, 0, 0, row), 3, value);
}

static void make_special(Problem *p, Special special)
{
	static const double zeros[256];
	int64_t middle_q = p->shape.q_len / 2, middle_k = p->shape.k_len / 2;

	for (int v = 0; v < p->manifest->views; v++)
		for (int64_t r = 0; special == SPECIAL_ZERO && r < p->shape.q_len && r < p->shape.k_len; r += 5) {
			set_row(&p->tensor[TENSOR_Q + v], 0, 0, r, zeros);
			set_row(&p->tensor[TENSOR_K + v], 0, 0, r / 2, zeros);
		}
	if (special == SPECIAL_NAN_Q)
		poke(&p->tensor[TENSOR_Q], middle_q, NAN);
	if (special == SPECIAL_NAN_K)
		poke(&p->tensor[TENSOR_K], middle_k, NAN);
	if (special == SPECIAL_INF_K)
		poke(&p->tensor[TENSOR_K], middle_k, INFINITY);
	if (special == SPECIAL_NAN_V)
		poke(&p->tensor[TENSOR_V], middle_k, NAN);
}

/* scale of q and k: unit rows may have any; else it makes scores of about 1 */
static tda_status random_problem(const tda_shape *shape, tda_kernel *kernel, const CheckCase *c, double scale,
                                 uint64_t seed, Problem *p)
{
	const Manifest *m = kernel->manifest;
	uint64_t direction = seed ^ 0x5bd1e995;
	tda_status status = problem_new(p, kernel, *shape, c->layout);

	if (status)
		return status;
	if (!m->l2_normalized)
		scale = pow(m->head_dim, -0.25);
	for (int v = 0; v < m->views; v++, direction += 1000) {
		fill_rows(&p->tensor[TENSOR_K + v], c->common, scale, direction, 1, &seed);
		fill_rows(&p->tensor[TENSOR_Q + v], c->common, scale, direction, shape->heads / shape->kv_heads, &seed);
		if (c->common < 0.5)
			plant_survivors(p, v, &seed);
	}
	fill_rows(&p->tensor[TENSOR_V], 0, 1, 0, 1, &seed);
	fill_rows(&p->tensor[TENSOR_DO], 0, 1, 0, 1, &seed);
	for (int n = 0; n < m->param_count; n++)
		fill_param(p, n, c->params, &seed);
	make_special(p, c->special);
	return TDA_OK;
}

tda_status check_random_problem(const tda_shape *shape, tda_kernel *kernel, uint64_t seed, Problem *p)
{
	const CheckCase plain = { .layout = LAYOUT_PACKED, .params = PARAMS_ABSENT };

	return random_problem(shape, kernel, &plain, 1, seed, p);
}

void check_random_grad(Problem *p, uint64_t seed)
{
	fill_rows(&p->tensor[TENSOR_DO], 0, 1, 0, 1, &seed);
	p->tensor[TENSOR_DO].absent = false;
}

tda_status check_case_problem(const CheckCase *c, tda_kernel *kernel, uint64_t seed, Problem *p)
{
	tda_shape shape = TDA_SHAPE_INIT;
	int exponent = kernel->manifest->dtype == TDA_F16 ? 8 : 45;    /* as far as the dtype's or the norm's range allows */

	shape.batch = c->batch;
	shape.heads = c->heads;
	shape.kv_heads = c->kv_heads;
	shape.q_len = c->q_len;
	shape.k_len = c->k_len;
	shape.layer = c->layer;
	shape.layers = c->layers;
	return random_problem(&shape, kernel, c, c->special == SPECIAL_HUGE   ? ldexp(1, exponent)
	                                         : c->special == SPECIAL_TINY ? ldexp(1, -exponent)
	                                                                      : 1, seed, p);
}
