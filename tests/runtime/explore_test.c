/*
 * What explore counts, against loops over all pairs of all heads that a reader can follow: odd lengths, heads that share
 * keys, rows before the first key, windows, one to three views, dead heads.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/check_case.h"
#include "../../runtime/explore_report.h"
#include "../../runtime/timing.h"
#include "fixture.h"

enum { HEAD_DIM = 8, LONGEST = 300 };

typedef struct Case {
	const char *name, *lines;      /* of the manifest, below the mask */
	int views, power;
	double (*tau)(int64_t i);
	double coefficient[3];
	bool causal;
	int64_t window;                /* 0: none */
	bool dead;                     /* q of the first head is 0, so that nothing of it survives */
	int64_t batch, heads, kv_heads, q_len, k_len;
} Case;

static double rising(int64_t i)
{
	return 0.9 * sqrt(2 * log((double)i + 1) / HEAD_DIM);
}

static double flat(int64_t i)
{
	(void)i;
	return 0.3;
}

static const Case cases[] = {
	{ "causal, two views", "//! threshold 0.9 2 i 1 + log * 8 / sqrt *\n//! weight s tau - relu 2 ^\n//! combine 1 1\n"
	  "//! combine 2 -0.5\n", 2, 2, rising, { 1, -0.5 }, true, 0, false, 2, 4, 2, 197, 197 },
	{ "rows before the keys, three views", "//! threshold 0.3\n//! weight s tau - relu 1 ^\n//! combine 1 1\n"
	  "//! combine 2 0.25\n//! combine 3 -1\n", 3, 1, flat, { 1, 0.25, -1 }, true, 0, false, 1, 2, 1, 150, 131 },
	{ "window, one view", "//! threshold 0.3\n//! weight s tau - relu 2 ^\n//! combine 1 2\n", 1, 2, flat, { 2 }, true, 70,
	  false, 1, 2, 2, 129, 290 },
	{ "full, window, dead head", "//! threshold 0.3\n//! weight s tau - relu 2 ^\n//! combine 1 1\n//! combine 2 1\n", 2, 2, flat,
	  { 1, 1 }, false, 40, true, 1, 3, 3, 100, 65 },
	{ "full", "//! threshold 0.3\n//! weight s tau - relu 2 ^\n//! combine 1 1\n//! combine 2 1\n", 2, 2, flat, { 1, 1 }, false,
	  0, false, 1, 2, 1, 64, 128 },
};

static tda_kernel *open_kernel(const Case *c)
{
	char lines[2048];
	tda_kernel *kernel = NULL;
	char *text;

	snprintf(lines, sizeof(lines), "//! compiler 0\n//! target sm_80\n//! spec t 0\n//! plan dense\n//! dtype f32\n//! head_dim 8\n"
	         "//! value_dim 8\n//! zeros proved\n//! tolerance 1e-5 2e-5\n//! slack 1e-9\n//! views %d\n//! normalize l2\n%s",
	         c->views, c->causal ? "//! mask causal\n" : "");
	if (c->window)
		snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "//! mask window %d\n", (int)c->window);
	snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "//! score s\n%s", c->lines);
	text = fixture_seal(lines, fixture_body);
	CHECK(tda_open_memory(text, strlen(text), &kernel) == TDA_OK, "%s: %s", c->name, tda_error_message());
	free(text);
	return kernel;
}

/* ---- the loops ---- */

static double scores[3][LONGEST][LONGEST], weights[3][LONGEST][LONGEST];
static bool visible[LONGEST][LONGEST], any[LONGEST][LONGEST];

static double cosine(const Problem *p, int view, int64_t b, int64_t h, int64_t row, int64_t key)
{
	const Operand *q = &p->tensor[TENSOR_Q + view], *k = &p->tensor[TENSOR_K + view];
	const float *x = (const float *)(q->host + operand_row(q, b, h, row));
	const float *y = (const float *)(k->host + operand_row(k, b, h / (p->shape.heads / p->shape.kv_heads), key));
	double product = 0, xx = 0, yy = 0;

	for (int d = 0; d < HEAD_DIM; d++) {
		product += (double)x[d] * y[d];
		xx += (double)x[d] * x[d];
		yy += (double)y[d] * y[d];
	}
	return xx * yy > 0 ? product / sqrt(xx) / sqrt(yy) : 0;
}

static void fill_plane(const Case *c, const Problem *p, int64_t b, int64_t h)
{
	for (int64_t row = 0; row < c->q_len; row++)
		for (int64_t key = 0; key < c->k_len; key++) {
			int64_t i = row + c->k_len - c->q_len;

			visible[row][key] = !(c->causal && key > i) && !(c->window && llabs(i - key) >= c->window);
			any[row][key] = false;
			for (int v = 0; v < c->views; v++) {
				double over = scores[v][row][key] = cosine(p, v, b, h, row, key);

				over -= visible[row][key] ? c->tau(i) : INFINITY;
				weights[v][row][key] = over > 0 ? pow(over, c->power) : 0;
				any[row][key] |= weights[v][row][key] != 0;
			}
		}
}

static void count_row(const Case *c, int64_t row, ExploreCounts *want)
{
	int64_t keys = 0, survivors[3] = {0}, all = 0, twice = 0;
	double sum = 0, sink = 0, none = 1, chance = 0;
	ExploreOctave *octave;

	for (int64_t key = 0; key < c->k_len; key++) {
		int views = 0;
		double combined = 0;

		if (!visible[row][key])
			continue;
		keys++;
		for (int v = 0; v < c->views; v++) {
			double s = scores[v][row][key];

			survivors[v] += weights[v][row][key] != 0;
			views += weights[v][row][key] != 0;
			combined += c->coefficient[v] * weights[v][row][key];
			for (int k = 0; k < 4; k++)
				want->power[v][k] += pow(s, k + 1);
			for (int t = 0; t < EXPLORE_TAILS; t++)
				want->above[v][t] += exp(-HEAD_DIM * s * s / 2) < pow(10, -(t + 1)) && s > 0;
			for (int w = 0; w < v; w++)
				want->product[v][w] += s * scores[w][row][key];
		}
		twice += views > 1;
		sum += fabs(combined);
		sink += key == 0 ? fabs(combined) : 0;
	}
	if (keys == 0)
		return;
	octave = &want->octave[(int)floor(log2((double)keys))];
	/* of two views and more: what is left of none and exactly one */
	for (int v = 0; v < c->views; v++) {
		double p = (double)survivors[v] / (double)keys, others = p;

		for (int w = 0; w < c->views; w++)
			others *= w == v ? 1 : 1 - (double)survivors[w] / (double)keys;
		none *= 1 - p;
		chance += others;
		want->survivors[v] += survivors[v];
		all += survivors[v];
	}
	chance = (double)keys * (1 - none - chance);
	want->visible += keys;
	want->consensus += twice;
	want->by_chance += chance;
	octave->rows++;
	octave->dead += all == 0;
	octave->survivors += all;
	octave->consensus += twice;
	octave->by_chance += chance;
	octave->bound += c->views * (double)keys *
	                 fmin(1, exp(-HEAD_DIM * pow(fmax(0, c->tau(row + c->k_len - c->q_len)), 2) / 2));
	want->sink_rows += sum > 0;
	want->sink += sum > 0 ? sink / sum : 0;
	want->sink_uniform += sum > 0 && visible[row][0] ? 1 / (double)keys : 0;
}

static void count_block(const Case *c, int64_t first, ExploreCounts *want)
{
	int64_t end = first + 64 < c->q_len ? first + 64 : c->q_len;

	for (int u = 0; u < EXPLORE_UNITS; u++)
		for (int64_t at = 0; at < c->k_len; at += explore_unit_keys[u]) {
			bool seen = false, hit = false;

			for (int64_t row = first; row < end; row++)
				for (int64_t key = at; key < at + explore_unit_keys[u] && key < c->k_len; key++) {
					seen |= visible[row][key];
					hit |= any[row][key];
				}
			want->units[u] += seen;
			want->units_hit[u] += hit;
			for (int v = 0; v < c->views && explore_unit_keys[u] == 1; v++) {
				bool gathered = false;

				for (int64_t row = first; row < end; row++)
					gathered |= weights[v][row][at] != 0;
				want->gathered[v] += gathered;
			}
			for (int64_t row = first; row < end && hit && explore_unit_keys[u] == 1; row++)
				want->visited += visible[row][at];
		}
}

/* ---- comparing ---- */

static void compare_numbers(const Case *c, int64_t head, const char *what, double got, double want)
{
	CHECK(fabs(got - want) <= 1e-9 * (1 + fabs(want)), "%s, head %d: %s is %.12g, not %.12g", c->name, (int)head, what, got, want);
}

static void compare_counts(const Case *c, int64_t head, const ExploreCounts *got, const ExploreCounts *want)
{
	const struct { const char *name; double got, want; } single[] = {
#define SINGLE(field) { #field, (double)got->field, (double)want->field }
		SINGLE(visible), SINGLE(consensus), SINGLE(by_chance), SINGLE(visited), SINGLE(sink), SINGLE(sink_uniform),
		SINGLE(sink_rows), SINGLE(dead_heads), SINGLE(heads), SINGLE(rows), SINGLE(o_square), SINGLE(dv_square),
		SINGLE(dq_square), SINGLE(dk_square), SINGLE(softmax_error), SINGLE(softmax_square), SINGLE(softmax_cosine),
		SINGLE(softmax_sink), SINGLE(softmax_rows),
	};

	for (size_t n = 0; n < sizeof(single) / sizeof(single[0]); n++)
		compare_numbers(c, head, single[n].name, single[n].got, single[n].want);
	for (int u = 0; u < EXPLORE_UNITS; u++) {
		compare_numbers(c, head, "units", (double)got->units[u], (double)want->units[u]);
		compare_numbers(c, head, "units with a survivor", (double)got->units_hit[u], (double)want->units_hit[u]);
	}
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		compare_numbers(c, head, "rows", (double)got->octave[n].rows, (double)want->octave[n].rows);
		compare_numbers(c, head, "dead rows", (double)got->octave[n].dead, (double)want->octave[n].dead);
		compare_numbers(c, head, "survivors", (double)got->octave[n].survivors, (double)want->octave[n].survivors);
		compare_numbers(c, head, "bound", got->octave[n].bound, want->octave[n].bound);
		compare_numbers(c, head, "consensus", (double)got->octave[n].consensus, (double)want->octave[n].consensus);
		compare_numbers(c, head, "by chance", got->octave[n].by_chance, want->octave[n].by_chance);
	}
	for (int v = 0; v < c->views; v++) {
		compare_numbers(c, head, "survivors of a view", (double)got->survivors[v], (double)want->survivors[v]);
		compare_numbers(c, head, "keys gathered for a view", (double)got->gathered[v], (double)want->gathered[v]);
		for (int k = 0; k < 4; k++)
			compare_numbers(c, head, "power", got->power[v][k], want->power[v][k]);
		for (int t = 0; t < EXPLORE_TAILS; t++)
			compare_numbers(c, head, "tail", (double)got->above[v][t], (double)want->above[v][t]);
		for (int w = 0; w < v; w++)
			compare_numbers(c, head, "product", got->product[v][w], want->product[v][w]);
	}
}

static double square(const double *values, int64_t count)
{
	double sum = 0;

	for (int64_t n = 0; n < count; n++)
		sum += values[n] * values[n];
	return sum;
}

/* Dense softmax of a row, against what the reference has for o. */
static void count_softmax(const Case *c, const Problem *p, int64_t b, int64_t h, int64_t row, const double *o, ExploreCounts *want)
{
	const Operand *q = &p->tensor[TENSOR_Q], *k = &p->tensor[TENSOR_K], *v = &p->tensor[TENSOR_V];
	const float *x = (const float *)(q->host + operand_row(q, b, h, row));
	int64_t shared = h / (c->heads / c->kv_heads);
	double soft[HEAD_DIM] = {0}, sum = 0, sink = 0, product = 0, soft_square = 0, o_square = square(o, HEAD_DIM);

	for (int64_t key = 0; key < c->k_len; key++) {
		const float *y = (const float *)(k->host + operand_row(k, b, shared, key));
		const float *value = (const float *)(v->host + operand_row(v, b, shared, key));
		double logit = 0, weight;

		for (int d = 0; d < HEAD_DIM; d++)
			logit += (double)x[d] * y[d] / sqrt(HEAD_DIM);
		weight = visible[row][key] ? exp(logit) : 0;
		sum += weight;
		sink += key == 0 ? weight : 0;
		for (int d = 0; d < HEAD_DIM; d++)
			soft[d] += weight * value[d];
	}
	if (sum == 0)
		return;
	for (int d = 0; d < HEAD_DIM; d++) {
		soft[d] /= sum;
		want->softmax_error += pow(o[d] - soft[d], 2);
		product += o[d] * soft[d];
	}
	soft_square = square(soft, HEAD_DIM);
	want->softmax_square += soft_square;
	want->softmax_cosine += o_square > 0 ? product / sqrt(o_square * soft_square) : 0;
	want->softmax_sink += sink / sum;
	want->softmax_rows++;
}

/* Norms of what problem_reference computes, which tests of its own cover. */
static void add_norms(const Case *c, const Reference *r, int64_t b, int64_t h, ExploreCounts *want)
{
	int64_t share = c->heads / c->kv_heads, q_at = (b * c->heads + h) * c->q_len * HEAD_DIM;
	int64_t k_at = (b * c->kv_heads + h / share) * c->k_len * HEAD_DIM;

	want->rows += c->q_len;
	want->o_square += square(r->o + q_at, c->q_len * HEAD_DIM);
	want->dv_square += square(r->dv + k_at, c->k_len * HEAD_DIM) / (double)share;
	for (int v = 0; v < c->views; v++) {
		want->dq_square += square(r->dq[v] + q_at, c->q_len * HEAD_DIM);
		want->dk_square += square(r->dk[v] + k_at, c->k_len * HEAD_DIM) / (double)share;
	}
}

static void compare_map(const Case *c, int64_t head, const Exploration *got, const int64_t *want)
{
	for (int64_t row = 0; row < got->map_rows; row++)
		for (int64_t col = 0; col < got->map_cols; col++)
			compare_numbers(c, head, "a cell of the map", (double)got->map[(head * got->map_rows + row) * got->map_cols + col],
			                (double)want[row * got->map_cols + col]);
}

static void test_head(const Case *c, const Problem *p, const Reference *r, int64_t h, const Exploration *got)
{
	static int64_t map[LONGEST];
	ExploreCounts want = { .heads = 1 };

	for (int n = 0; n < LONGEST; n++)
		map[n] = -1;
	for (int64_t b = 0; b < c->batch; b++) {
		fill_plane(c, p, b, h);
		for (int64_t row = 0; row < c->q_len; row++) {
			count_row(c, row, &want);
			count_softmax(c, p, b, h, row, r->o + ((b * c->heads + h) * c->q_len + row) * HEAD_DIM, &want);
			for (int64_t key = 0; key < c->k_len; key++) {
				int64_t *cell = &map[row / 64 * got->map_cols + key / 64];

				*cell = visible[row][key] && *cell < 0 ? 0 : *cell;
				for (int v = 0; v < c->views; v++)
					*cell += weights[v][row][key] != 0;
			}
		}
		for (int64_t first = 0; first < c->q_len; first += 64)
			count_block(c, first, &want);
		add_norms(c, r, b, h, &want);
	}
	want.dead_heads = c->dead && h == 0;
	CHECK(want.dead_heads || (want.visited > 0 && want.survivors[0] > 0), "%s: nothing survives in head %d", c->name, (int)h);
	compare_counts(c, h, &got->head[h], &want);
	compare_map(c, h, got, map);
}

static void test_case(const Case *c)
{
	const ExploreOptions options = { .gradients = true, .softmax = true };
	tda_shape shape = TDA_SHAPE_INIT;
	tda_kernel *kernel = open_kernel(c);
	Problem p;
	Reference r;
	Exploration got;

	shape.batch = c->batch;
	shape.heads = c->heads;
	shape.kv_heads = c->kv_heads;
	shape.q_len = c->q_len;
	shape.k_len = c->k_len;
	if (!kernel || !CHECK(check_random_problem(&shape, kernel, 7, &p) == TDA_OK, "%s", tda_error_message()))
		return;
	if (c->dead)
		for (int v = 0; v < c->views; v++)
			memset(p.tensor[TENSOR_Q + v].host, 0, sizeof(float) * (size_t)c->q_len * HEAD_DIM);
	if (CHECK(explore_measure(&p, &options, &got) == TDA_OK, "%s: %s", c->name, tda_error_message()) &&
	    CHECK(problem_reference(&p, true, &r) == TDA_OK, "%s", tda_error_message())) {
		int64_t survivors = 0;

		for (int64_t h = 0; h < c->heads; h++)
			test_head(c, &p, &r, h, &got);
		for (int v = 0; v < c->views; v++)
			survivors += got.all.survivors[v];
		CHECK(survivors == r.survivors && got.all.heads == c->heads, "%s: all heads together", c->name);
		problem_reference_free(&r);
	}
	explore_free(&got);
	problem_free(&p);
	tda_close(kernel);
}

/* ---- verdicts ---- */

/* Two heads of one view each have scores of +-spread, in shares that make kurtosis and tails known. */
static void test_verdicts(void)
{
	ExploreCounts head[2] = {0};
	Manifest m = { .views = 2, .head_dim = 8, .l2_normalized = true };
	ExploreRun run = { .manifest = &m, .result = { .heads = 2, .head = head } };
	ExploreVerdict verdicts[EXPLORE_VERDICTS];

	m.score = postfix_parse("s", 1, NULL, 0, 1u << POSTFIX_VAR_S);
	for (int h = 0; h < 2; h++) {
		head[h].views = 2;
		head[h].visible = 1000;
		for (int v = 0; v < 2; v++) {
			head[h].power[v][1] = 1000 * 0.25;     /* half of the scores are 0.5, half -0.5: kurtosis 1, in excess -2 */
			head[h].power[v][3] = 1000 * 0.0625;
			head[h].above[v][0] = 100;
		}
		head[h].product[1][0] = 1000 * 0.25 * 0.05;
		head[h].consensus = 3;
		head[h].by_chance = 4;
		head[h].octave[3] = (ExploreOctave){ .rows = 10, .survivors = 4, .bound = 5 };
		explore_add(&run.result.all, &head[h]);
	}
	explore_judge(&run, verdicts);
	for (int n = 0; n < EXPLORE_VERDICTS; n++)
		CHECK(verdicts[n].holds == HOLDS_YES, "%s: %s", verdicts[n].key, verdicts[n].text);
	/* one head: one score in a hundred is 5 and -5, others 0; correlated; many in common; more than the bound */
	head[1].power[0][1] = 1000 * 0.01 * 25;
	head[1].power[0][3] = 1000 * 0.01 * 625;
	head[1].above[0][1] = 21;              /* bound 10, deviation 3.2 */
	head[1].product[1][0] = 1000 * 0.25 * 0.2;
	head[1].consensus = 30;
	head[1].octave[3].survivors = 7;
	run.result.all = (ExploreCounts){0};
	explore_add(&run.result.all, &head[0]);
	explore_add(&run.result.all, &head[1]);
	explore_judge(&run, verdicts);
	for (int n = 0; n < EXPLORE_VERDICTS; n++)
		CHECK(verdicts[n].holds == HOLDS_NO, "%s: %s", verdicts[n].key, verdicts[n].text);
	CHECK(fabs(explore_kurtosis(&head[1], 0) - 97) < 1e-9 && fabs(explore_kurtosis(&head[0], 0) + 2) < 1e-9, "kurtosis");
	CHECK(strstr(verdicts[1].text, "in 1 of 4 heads and views") && strstr(verdicts[1].text, "in head 1 and view 1, 2.1% pass 1.073"),
	      "%s", verdicts[1].text);
	free(m.score);
}

/* ---- times ---- */

static int launches, readings;

static tda_status count_mark(Device *device, int mark)
{
	(void)device;
	launches += mark;
	return TDA_OK;
}

/* Later ones are shorter; each phase has readings of its own. */
static tda_status say_elapsed(Device *device, int from, int to, double *ms)
{
	(void)device;
	*ms = 100 - readings++ + 0.1 * (to - from);
	return TDA_OK;
}

/* The simulator with a clock that is wound by hand: medians of the launches after those that warm up. */
static void test_times(const char *folder)
{
	enum { REPEATS = 5, WARM_UP = 3 };
	tda_shape shape = TDA_SHAPE_INIT;
	tda_kernel *kernel = NULL;
	Device *device = NULL;
	char path[1024];
	double ms[TRAINING_PHASES] = {0};
	Problem p;

	shape.batch = 1;
	shape.heads = shape.kv_heads = 2;
	shape.q_len = shape.k_len = 20;
	snprintf(path, sizeof(path), "%s/linear.ptx", folder);
	if (!CHECK(tda_open_file(path, &kernel) == TDA_OK && device_open(DEVICE_SIM, &device) == TDA_OK &&
	           check_random_problem(&shape, kernel, 1, &p) == TDA_OK, "%s", tda_error_message()))
		return;
	DeviceOps ops = *device->ops;

	ops.mark = count_mark;
	ops.elapsed = say_elapsed;
	device->ops = &ops;
	CHECK(time_problem(&p, device, REPEATS, ms) == TDA_OK, "%s", tda_error_message());
	CHECK(launches == 2 * (WARM_UP + REPEATS), "%d launches are timed", launches);
	/* readings 3 to 7 of the forward count, 11 to 15 of the backward */
	CHECK(fabs(ms[PHASE_FORWARD] - 95.1) < 1e-9 && fabs(ms[PHASE_BACKWARD] - 87.1) < 1e-9, "medians %g and %g", ms[PHASE_FORWARD],
	      ms[PHASE_BACKWARD]);
	problem_free(&p);
	tda_close(kernel);
	device->ops->close(device);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++)
		test_case(&cases[n]);
	test_verdicts();
	test_times(argv[1]);
	return fixture_result();
}
