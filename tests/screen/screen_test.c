/*
 * No pair that survives by the f64 reference, and none whose score is NaN, may be missing from the marks of the screen, on
 * data made to defeat its bound: errors of int8 that all point one way, thresholds right beside scores, outliers, magnitudes
 * over the whole range, rows that are not finite. And on ordinary data the marks must leave most of the work out. Where the forward
 * refines marks, they hold nothing else.
 *
 * screen_test TDAGEN SPEC TARGET: compiles the spec for each case and runs the forward on the simulator.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/half.h"
#include "../../runtime/heavy.h"
#include "../../runtime/marks.h"
#include "../runtime/fixture.h"
#include "compiled.h"
#include "counts.h"

typedef enum Data {
	GAUSS,                         /* independent rows, every fourth row of q near a key */
	TIGHT,                         /* int8 errors of q along k, and of k along q: Cauchy-Schwarz is an equality */
	OUTLIERS,                      /* one element 100 times the others: in rows of q, in keys of a tile, in one key */
	ONE_HOT,                       /* one element of a key, and of some rows, is all there is */
	MAGNITUDES,                    /* norms over as many orders of magnitude as the dtype has room for */
	SPECIALS                       /* rows of zeros; with NaN; with infinities; with norms that float32 cannot square */
} Data;

typedef struct Case {
	const char *options;
	Data data;
	int batch, heads, kv_heads, q_len, k_len;
} Case;

static const Case cases[] = {
	{ "", GAUSS, 1, 4, 4, 130, 130 },
	{ "", TIGHT, 1, 8, 8, 130, 130 },
	{ "", OUTLIERS, 1, 4, 4, 200, 200 },
	{ "", ONE_HOT, 1, 4, 4, 130, 130 },
	{ "", MAGNITUDES, 1, 4, 4, 130, 130 },
	{ "", SPECIALS, 1, 4, 4, 130, 130 },
	{ "--set mask=full", GAUSS, 2, 8, 2, 65, 63 },
	{ "--set mask=full", GAUSS, 1, 4, 1, 63, 1 },
	{ "--set mask=window", TIGHT, 1, 4, 2, 200, 200 },
	{ "--set mask=band", GAUSS, 1, 4, 4, 300, 130 },
	{ "--set mask=band", TIGHT, 1, 4, 4, 65, 300 },
	{ "--set views=2", TIGHT, 2, 4, 2, 130, 200 },
	{ "--set views=2", SPECIALS, 1, 4, 2, 200, 65 },
	{ "--set dtype=f16", TIGHT, 1, 8, 4, 130, 130 },
	{ "--set dtype=f16", MAGNITUDES, 1, 4, 4, 130, 130 },
	{ "--set dtype=f16", SPECIALS, 1, 4, 4, 130, 130 },
	{ "--set dtype=f32", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set dtype=f32", OUTLIERS, 1, 4, 4, 200, 200 },
	{ "--set dtype=f32", MAGNITUDES, 1, 4, 4, 130, 130 },
	{ "--set dtype=f32", SPECIALS, 1, 4, 4, 130, 130 },
	{ "--set dtype=f32 --set precision=tf32", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set dtype=f32 --set precision=tf32", MAGNITUDES, 1, 4, 4, 130, 130 },
	{ "--set head_dim=8", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set head_dim=40", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set head_dim=128", TIGHT, 1, 4, 4, 130, 130 },
	{ "--set head_dim=256", TIGHT, 1, 4, 4, 130, 130 },
	{ "--set head_dim=8 --set dtype=f32", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set head_dim=256 --set dtype=f32", OUTLIERS, 1, 4, 4, 130, 130 },
	{ "--set normalize=none", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set normalize=none", MAGNITUDES, 1, 8, 4, 130, 130 },
	{ "--set normalize=none", SPECIALS, 1, 4, 4, 130, 130 },
	{ "--set normalize=none --set dtype=f32", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set normalize=none --set dtype=f32", MAGNITUDES, 1, 8, 8, 130, 130 },
	{ "--set normalize=none --set dtype=f32", SPECIALS, 1, 4, 4, 130, 130 },
	{ "--set normalize=none --set dtype=f16 --set head_dim=40", MAGNITUDES, 1, 8, 8, 130, 130 },
	/* a soft cap far below, near and far above the scores, which saturate, bend and hardly bend */
	{ "--set cap=0.05", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set cap=0.5 --set dtype=f32", TIGHT, 1, 8, 8, 130, 130 },
	{ "--set cap=20 --set dtype=f16", GAUSS, 1, 8, 8, 130, 130 },
	{ "--set cap=2 --set normalize=none --set dtype=f32", MAGNITUDES, 1, 8, 8, 130, 130 },
	{ "--set steep=3 --set dtype=f32", TIGHT, 1, 8, 8, 130, 130 },
	/* scores stay below the threshold up to products of 2^100, and pass it beyond */
	{ "--set cap=1e30 --set normalize=none --set dtype=f32", MAGNITUDES, 1, 8, 8, 130, 130 },
	/* more row blocks than one CTA packs; rows that see none of the first word's key tiles */
	{ "--set mask=band", GAUSS, 1, 2, 2, 1100, 1100 },
	{ "--set mask=window", GAUSS, 1, 2, 2, 130, 2300 },
};

/* Marks without room: beyond that of a row block; beyond what is kept for the backward. Of so many tiles, for a row block, on
 * average: 1 1 of 5; 2 1 of 5; 8 4 of 5; 128 62 of 32; 40 20 of 66. */
enum { ROOM = 0, SCREEN_FULL = 1, PACKED_FULL = 2 };
static const struct {
	Case c;
	int full;
} full_cases[] = {
	{ { "--mark-capacity 1", TIGHT, 1, 8, 8, 300, 300 }, SCREEN_FULL },
	{ { "--mark-capacity 2 --set mask=full", SPECIALS, 1, 4, 2, 130, 300 }, SCREEN_FULL | PACKED_FULL },
	{ { "--mark-capacity 8 --set mask=full --set views=2", TIGHT, 2, 4, 2, 130, 300 }, PACKED_FULL },
	{ { "--set mask=full", GAUSS, 1, 8, 1, 130, 2000 }, ROOM },
	{ { "--mark-capacity 40 --set mask=full", GAUSS, 1, 8, 1, 130, 4200 }, SCREEN_FULL | PACKED_FULL },
};

/* ---- data ---- */

typedef struct Fill {
	const Case *c;
	const Problem *p;
	int dim;
	double spread;                 /* of magnitudes: powers of two either way */
	uint64_t seed;
} Fill;

static void store_row(Operand *o, int64_t batch, int64_t head, int64_t row, const double *x)
{
	for (int64_t d = 0; d < o->dim; d++)
		dtype_store(o->dtype, o->host + operand_row(o, batch, head, row), (size_t)d, x[d]);
}

static void load_row(const Operand *o, int64_t batch, int64_t head, int64_t row, double *x)
{
	for (int64_t d = 0; d < o->dim; d++)
		x[d] = dtype_load(o->dtype, o->host + operand_row(o, batch, head, row), (size_t)d);
}

static double sign_of(uint64_t *seed)
{
	return fixture_random(seed) & 1 ? 1 : -1;
}

/* Even heads: keys of +-1, which int8 has exactly. Odd ones: keys whose rounding all goes the way of the row's signs. */
static void tight_key(Fill *f, int64_t head, double *x)
{
	uint64_t signs = 99;           /* of the rows of odd heads */
	double along = 1;

	for (int d = 0; d < f->dim; d++) {
		along = sign_of(&signs);
		x[d] = head % 2 == 0 ? sign_of(&f->seed) : along * (floor(20 * fixture_uniform(&f->seed) - 4) + 0.49);
	}
	if (head % 2)
		x[f->dim - 1] = 127 * along;
}

static void tight_query(Fill *f, int64_t head, const double *key, double *x)
{
	uint64_t signs = 99;

	for (int d = 0; d < f->dim; d++) {
		double along = sign_of(&signs);

		x[d] = head % 2 ? along : (key[d] > 0 ? 1 : -1) * (floor(20 * fixture_uniform(&f->seed) - 4) + 0.49);
	}
	if (head % 2 == 0)
		x[f->dim - 1] = key[f->dim - 1] > 0 ? 127 : -127;
}

static void scale_row(Fill *f, double *x, double by)
{
	for (int d = 0; d < f->dim; d++)
		x[d] *= by;
}

static void special_row(Fill *f, int64_t row, double *x)
{
	static const double extreme[] = { 0, NAN, INFINITY, 0x1p65, 0x1p-65, -INFINITY };
	int which = (int)(row / 7 % 6);

	if (row % 7 != 3 || row >= 64)
		return;
	if (which == 0 || which == 3 || which == 4)
		scale_row(f, x, extreme[which]);
	else
		x[row % f->dim] = extreme[which];
}

/* What the data's kind makes of a gaussian row. */
static void shape_row(Fill *f, bool is_key, int64_t row, double *x)
{
	switch (f->c->data) {
	case GAUSS: case TIGHT: break;
	case OUTLIERS:
		if (is_key ? (row / 64 % 2 == 0 || row % 64 == 5) : row % 3 == 0)
			x[row % 2 ? 1 : f->dim / 2] *= 100;
		break;
	case ONE_HOT:
		for (int d = 0; d < f->dim && (is_key || row % 3 == 0); d++)
			x[d] = d == row % f->dim ? 1 : 0;
		break;
	case MAGNITUDES:
		scale_row(f, x, exp2(f->spread * (2 * fixture_uniform(&f->seed) - 1)));
		break;
	case SPECIALS:
		special_row(f, is_key ? row : row + 14, x);
		break;
	}
}

static void fill_keys(Fill *f, int view)
{
	Operand *k = (Operand *)&f->p->tensor[TENSOR_K + view];
	double x[256];

	for (int64_t b = 0; b < k->count[0]; b++)
		for (int64_t h = 0; h < k->count[1]; h++)
			for (int64_t j = 0; j < k->count[2]; j++) {
				for (int d = 0; d < f->dim; d++)
					x[d] = fixture_normal(&f->seed);
				if (f->c->data == TIGHT)
					tight_key(f, h, x);
				shape_row(f, true, j, x);
				store_row(k, b, h, j, x);
			}
}

/* The key that a row is made for. */
static int64_t partner(const Fill *f, int64_t row)
{
	int64_t i = row + f->c->k_len - f->c->q_len, at = i < f->c->k_len ? i : f->c->k_len - 1;

	return at < 0 ? 0 : at - row % (at < 30 ? at + 1 : 30);
}

static void fill_queries(Fill *f, int view)
{
	Operand *q = (Operand *)&f->p->tensor[TENSOR_Q + view], *k = (Operand *)&f->p->tensor[TENSOR_K + view];
	int64_t share = q->count[1] / k->count[1];
	double x[256], key[256];

	for (int64_t b = 0; b < q->count[0]; b++)
		for (int64_t h = 0; h < q->count[1]; h++)
			for (int64_t r = 0; r < q->count[2]; r++) {
				double likeness = fixture_uniform(&f->seed);

				load_row(k, b, h / share, partner(f, r), key);
				for (int d = 0; d < f->dim; d++)
					x[d] = fixture_normal(&f->seed) + (r % 4 == 0 && isfinite(key[d]) ? likeness * key[d] : 0);
				if (f->c->data == TIGHT)
					tight_query(f, h / share, key, x);
				shape_row(f, false, r, x);
				store_row(q, b, h, r, x);
			}
}

/* ---- thresholds ---- */

/* The score of a row with its partner: in most heads the largest, so that no other pair's mark hides one that is missing. */
typedef struct Pick {
	const Fill *fill;
	double score[8];               /* [heads] */
} Pick;

static void pick_score(void *user, const PairRun *pairs)
{
	Pick *pick = user;
	int64_t head = pairs->batch_head % pick->fill->c->heads, at = partner(pick->fill, pairs->row) - pairs->first;
	double score;

	if (pairs->view > 0 || pairs->batch_head >= pick->fill->c->heads || at < 0 || at >= pairs->count)
		return;
	score = pairs->score[at];
	if (isfinite(score) && (head % 8 == 6 ? pairs->row == 40 : score > pick->score[head]))
		pick->score[head] = score;
}

/* Right below the score of one pair of the head, then farther below, right above, and negative. */
static void choose_bars(Problem *p, Fill *f)
{
	static const double below[] = { 1e-7, 1e-6, 1e-4, 1e-2, -1e-6, 0 };
	Pick pick = { .fill = f, .score = { -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30, -1e30 } };

	CHECK(problem_observe(p, pick_score, &pick) == TDA_OK, "%s", tda_error_message());
	p->param[0].absent = false;
	for (int h = 0; h < f->c->heads; h++) {
		double s = pick.score[h], bar = h % 8 == 7 ? -0.05 : s - fabs(s) * below[h % 6];

		dtype_store(TDA_F32, p->param[0].host, (size_t)h, bar);
	}
}

/* ---- marks against scores ---- */

static int64_t checked_keys;           /* of refined marks */

typedef struct Verdict {
	const Case *c;
	const ScreenMarks *marks;
	int64_t missed[16];            /* [view * batch * heads], from several threads */
	int64_t must[16], visible[16], visited[16];
	int full;                      /* SCREEN_FULL, PACKED_FULL: marks had no room there */
	uint8_t *near;                 /* [view * batch * heads, row_blocks, k_len]: has the key a pair above the threshold, or nearly? */
} Verdict;

/* More than scores of two kernels differ by, and less than the screen's bound is off by. */
static const double refined_to = 5e-3;

static uint8_t *near_at(const Verdict *v, int64_t index, int64_t row_block, int64_t key)
{
	return &v->near[(index * v->marks->row_blocks + row_block) * v->c->k_len + key];
}

static void judge(void *user, const PairRun *pairs)
{
	Verdict *v = user;
	int64_t index = (int64_t)pairs->view * v->c->batch * v->c->heads + pairs->batch_head, row = pairs->row;

	for (int n = 0; n < pairs->count; n++) {
		int64_t key = pairs->first + n;
		Mark mark = marks_get(v->marks, index, row / MARK_SIDE, key / MARK_SIDE);
		bool by_key = mark.keys >> key % MARK_SIDE & 1, by_row = mark.rows >> row % MARK_SIDE & 1;
		bool must = !(pairs->score[n] <= pairs->tau);

		*near_at(v, index, row / MARK_SIDE, key) |= !(pairs->score[n] <= pairs->tau - refined_to);
		v->visible[index]++;
		v->visited[index] += by_key;
		v->must[index] += must;
		if (must && !(by_key && by_row) && v->missed[index]++ == 0)
			printf("view %d, head %lld, row %lld, key %lld: score %.9g, threshold %.9g, not marked\n", pairs->view + 1,
			       (long long)pairs->batch_head, (long long)row, (long long)key, pairs->score[n], pairs->tau);
	}
}

static int64_t sum(const int64_t *x)
{
	int64_t total = 0;

	for (int n = 0; n < 16; n++)
		total += x[n];
	return total;
}

/* Marks that the forward refined, and that are whole, hold no key that is not near the threshold for some row. Heavy blocks it does
 * not refine. */
static void check_refined(const Problem *p, const Verdict *v)
{
	int64_t heads = (int64_t)v->c->batch * v->c->heads, blocks, vain = 0, side = p->manifest->heavy.rows / MARK_SIDE;
	bool *heavy;

	if (manifest_find_buffer(p->manifest, "refined_marks") < 0 || v->full != ROOM ||
	    !CHECK(heavy_fetch(p, &heavy, &blocks) == TDA_OK, "%s", tda_error_message()))
		return;
	for (int64_t n = 0; n < p->manifest->views * heads; n++) {
		int64_t marks = 0;

		for (int64_t r = 0; r < v->marks->row_blocks; r++)
			marks += marks_count(v->marks, n, r);
		for (int64_t r = 0; r < v->marks->row_blocks && marks <= v->marks->whole[n]; r++)
			for (int64_t key = 0; key < v->c->k_len && !(heavy && heavy[n % heads * blocks + r / side]); key++) {
				Mark mark = marks_get(v->marks, n, r, key / MARK_SIDE);

				vain += mark.keys >> key % MARK_SIDE & 1 && !*near_at(v, n, r, key);
				checked_keys++;
			}
	}
	CHECK(vain == 0, "'%s', data %d: %lld keys are still marked, though no row's score is near its threshold", v->c->options,
	      v->c->data, (long long)vain);
	free(heavy);
}

/* Words whose marks the screen had no room for have numbers from 2^30 on, beyond any room. */
static int full_of(const ScreenMarks *m, int64_t indices)
{
	const uint32_t no_room = 1u << 30;
	int full = ROOM;

	for (int64_t w = 0; w < indices * m->row_blocks * m->words; w++) {
		MarkWord word = m->word[w];
		int64_t end = (int64_t)word.first + __builtin_popcount(word.tiles);

		if (word.first >= no_room) {
			full |= SCREEN_FULL;
			continue;
		}
		if (end > m->room)
			full |= PACKED_FULL;
	}
	return full;
}

/* Runs the forward of a problem and compares; the verdict's sums are then complete. */
static bool run_forward(Problem *p, Device *device, Verdict *v)
{
	ScreenMarks marks;
	bool ok = CHECK(problem_place(p, device) == TDA_OK && problem_poison(p, 0xff) == TDA_OK &&
	                problem_launch(p, true, false) == TDA_OK, "%s", tda_error_message()) &&
	          CHECK(marks_fetch(p, MARKS_KEPT, &marks) == TDA_OK, "%s", tda_error_message());

	if (!ok)
		return false;
	v->marks = &marks;
	v->near = calloc((size_t)(p->manifest->views * v->c->batch * v->c->heads * marks.row_blocks * v->c->k_len) + 1, 1);
	test_counts(v->c->options, p, &marks);
	v->full = full_of(&marks, (int64_t)p->manifest->views * v->c->batch * v->c->heads);
	ok = CHECK(v->near && problem_observe(p, judge, v) == TDA_OK, "%s", tda_error_message());
	if (ok)
		check_refined(p, v);
	free(v->near);
	marks_free(&marks);
	return ok;
}

/* ---- cases ---- */

static tda_shape shape_of(const Case *c)
{
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = c->batch;
	shape.heads = c->heads;
	shape.kv_heads = c->kv_heads;
	shape.q_len = c->q_len;
	shape.k_len = c->k_len;
	return shape;
}

/* Powers of two that the norms of q and k may have either way: without normalisation, so that products stay finite, and some
 * scores are beyond 2^100 and below 2^-100. */
static double spread_of(const Manifest *m)
{
	if (m->dtype == TDA_F16)
		return 10;
	return m->l2_normalized ? 50 : 58;
}

static void test_case(const Case *c, int full, tda_kernel *kernel, Device *device)
{
	Problem p;
	Fill fill = { .c = c, .p = &p, .dim = kernel->manifest->head_dim, .spread = spread_of(kernel->manifest), .seed = 7 };
	Verdict v = { .c = c };

	if (!CHECK(problem_new(&p, kernel, shape_of(c), LAYOUT_PACKED) == TDA_OK, "%s", tda_error_message()))
		return;
	for (int view = 0; view < kernel->manifest->views; view++) {
		fill_keys(&fill, view);
		fill_queries(&fill, view);
	}
	choose_bars(&p, &fill);
	if (run_forward(&p, device, &v)) {
		CHECK(sum(v.missed) == 0, "'%s', data %d: %lld of %lld pairs above the threshold are not marked", c->options,
		      c->data, (long long)sum(v.missed), (long long)sum(v.must));
		CHECK(v.full == full, "'%s', data %d: marks had no room in %d, not in %d", c->options, c->data, v.full, full);
		CHECK(sum(v.must) > 0, "'%s', data %d: no pair is above the threshold", c->options, c->data);
	}
	problem_free(&p);
}

/* A thousand gaussian rows, at the threshold that beta = 1 gives the last of them. 1 pair in 200 is visited. */
static void test_ordinary(tda_kernel *kernel, Device *device)
{
	static const Case c = { "", GAUSS, 1, 1, 1, 1000, 1000 };
	const double most = 0.02;
	Problem p;
	Fill fill = { .c = &c, .p = &p, .dim = 64, .seed = 5 };
	Verdict v = { .c = &c };
	double x[64], bar = sqrt(2 * log(1000) / 64);

	if (!CHECK(problem_new(&p, kernel, shape_of(&c), LAYOUT_PACKED) == TDA_OK, "%s", tda_error_message()))
		return;
	fill_keys(&fill, 0);
	for (int64_t r = 0; r < 1000; r++) {
		for (int d = 0; d < 64; d++)
			x[d] = fixture_normal(&fill.seed);
		store_row(&p.tensor[TENSOR_Q], 0, 0, r, x);
	}
	p.param[0].absent = false;
	dtype_store(TDA_F32, p.param[0].host, 0, bar);
	if (run_forward(&p, device, &v))
		CHECK(v.missed[0] == 0 && v.must[0] > 20 && (double)v.visited[0] < most * (double)v.visible[0],
		      "missed %lld of %lld; visited %lld of %lld pairs, more than %g of them", (long long)v.missed[0],
		      (long long)v.must[0], (long long)v.visited[0], (long long)v.visible[0], most);
	problem_free(&p);
}

static void compile_and_test(char **argv, const Case *c, int full, bool ordinary, Device *device)
{
	char options[256];
	tda_kernel *kernel;

	snprintf(options, sizeof(options), "--plan sparse --target %s %s", argv[3], c->options);
	kernel = compiled_once(argv[1], argv[2], options);
	if (!kernel)
		return;
	test_case(c, full, kernel, device);
	if (ordinary)
		test_ordinary(kernel, device);
}

int main(int argc, char **argv)
{
	Device *device;

	if (argc != 4 || device_open(DEVICE_SIM, &device))
		return 2;
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++)
		compile_and_test(argv, &cases[n], ROOM, n == 0, device);
	for (size_t n = 0; n < sizeof(full_cases) / sizeof(full_cases[0]); n++)
		compile_and_test(argv, &full_cases[n].c, full_cases[n].full, false, device);
	device->ops->close(device);
	compiled_close();
	CHECK(checked_keys > 0, "no refined mark was looked at");
	CHECK(test_grouped_marks() > 0, "no mark has more keys than are kept one by one");
	return fixture_result();
}
