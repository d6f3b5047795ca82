#include <stdlib.h>
#include <string.h>
#include "check_case.h"
#include "error.h"
#include "heavy.h"
#include "inputs.h"
#include "marks.h"
#include "stats.h"

/* Sums over rows of one view and head. */
typedef struct Counts {
	int64_t visible, survivors;    /* pairs */
	int64_t visited;               /* visible pairs of a row and a key that its row block gathers, in the forward */
	int64_t in_vain;               /* of those, pairs of a key that no row of the block needs */
	int64_t backward;              /* visible pairs that are visited in the backward */
	int64_t marks;                 /* key tiles with a mark, of every row block */
	int64_t whole;                 /* rows of blocks where a mark had no room, in the backward */
	int64_t dense;                 /* rows that the forward's dense kernels compute, whole */
} Counts;

/* What the row block at hand needs of each key; one for each view, batch entry and head. */
typedef struct BlockKeys {
	int64_t row_block;             /* -1: none yet */
	uint8_t *visitors;             /* [k_len]: rows that visit the key */
	uint8_t *needed;               /* [k_len]: does one of its pairs survive? */
} BlockKeys;

typedef struct Stats {
	const Problem *problem;
	ScreenMarks screened, kept;
	Counts *counts;                /* [views * batch * heads] */
	BlockKeys *keys;               /* the same */
	bool *heavy;                   /* [batch * heads, heavy_blocks] */
	int64_t heavy_blocks;
} Stats;

/* The row block is complete: which of the keys that it gathered did it need? */
static void close_block(const Stats *s, BlockKeys *keys, Counts *counts)
{
	int64_t k_len = s->problem->shape.k_len;

	for (int64_t j = 0; j < k_len && keys->row_block >= 0; j++)
		counts->in_vain += keys->needed[j] ? 0 : keys->visitors[j];
	memset(keys->visitors, 0, (size_t)k_len);
	memset(keys->needed, 0, (size_t)k_len);
}

static void count_pairs(void *user, const PairRun *pairs)
{
	const Stats *s = user;
	const tda_shape *shape = &s->problem->shape;
	int64_t index = pairs->view * shape->batch * shape->heads + pairs->batch_head, block = pairs->row / MARK_SIDE;
	Counts *counts = &s->counts[index];
	BlockKeys *keys = &s->keys[index];
	Mark mark = { 0, 0 }, kept = mark;

	if (keys->row_block != block)
		close_block(s, keys, counts);
	keys->row_block = block;
	counts->visible += pairs->count;
	for (int n = 0; n < pairs->count; n++) {
		int64_t key = pairs->first + n;
		bool survives = pairs->weight[n] != 0;

		if (n == 0 || key % MARK_SIDE == 0) {
			mark = marks_get(&s->screened, index, block, key / MARK_SIDE);
			kept = marks_get(&s->kept, index, block, key / MARK_SIDE);
		}
		counts->survivors += survives;
		keys->needed[key] |= survives;
		if (mark.keys >> key % MARK_SIDE & 1) {
			counts->visited++;
			keys->visitors[key]++;
		}
		counts->backward += kept.keys >> key % MARK_SIDE & 1;
	}
}

static void count_marks(const Stats *s, int64_t index)
{
	Counts *counts = &s->counts[index];
	int64_t q_len = s->problem->shape.q_len;

	for (int64_t block = 0; block < s->kept.row_blocks; block++) {
		int64_t rows = q_len - block * MARK_SIDE;

		counts->marks += marks_count(&s->kept, index, block);
		if (marks_overflow(&s->kept, index, block))
			counts->whole += rows < MARK_SIDE ? rows : MARK_SIDE;
	}
	close_block(s, &s->keys[index], counts);
}

static void count_dense(const Stats *s, int64_t index)
{
	const tda_shape *shape = &s->problem->shape;
	int64_t side = s->problem->manifest->heavy.rows, first = index % (shape->batch * shape->heads) * s->heavy_blocks;

	for (int64_t block = 0; block < s->heavy_blocks; block++) {
		int64_t rows = shape->q_len - block * side;

		if (s->heavy[first + block])
			s->counts[index].dense += rows < side ? rows : side;
	}
}

static void add_counts(Counts *to, const Counts *c)
{
	to->visible += c->visible;
	to->survivors += c->survivors;
	to->visited += c->visited;
	to->in_vain += c->in_vain;
	to->backward += c->backward;
	to->marks += c->marks;
	to->whole += c->whole;
	to->dense += c->dense;
}

static void print_counts(const char *view, const char *head, const Counts *c, FILE *out)
{
	fprintf(out, "%5s %5s %14lld %12lld %14lld %8.3f%% %12lld %12lld %8lld %10lld %10lld\n", view, head, (long long)c->visible,
	        (long long)c->survivors, (long long)c->visited, c->visible ? 100.0 * (double)c->visited / (double)c->visible : 0,
	        (long long)c->in_vain, (long long)c->backward, (long long)c->marks, (long long)c->whole, (long long)c->dense);
}

static void print_table(const Stats *s, FILE *out)
{
	const tda_shape *shape = &s->problem->shape;
	Counts total = {0};

	fprintf(out, "%5s %5s %14s %12s %14s %9s %12s %12s %8s %10s %10s\n", "view", "head", "visible", "survivors", "visited", "share",
	        "in vain", "backward", "tiles", "whole rows", "dense rows");
	for (int v = 0; v < s->problem->manifest->views; v++)
		for (int64_t h = 0; h < shape->heads; h++) {
			Counts head = {0};
			char view_text[16], head_text[24];

			for (int64_t b = 0; b < shape->batch; b++)
				add_counts(&head, &s->counts[(v * shape->batch + b) * shape->heads + h]);
			snprintf(view_text, sizeof(view_text), "%d", v + 1);
			snprintf(head_text, sizeof(head_text), "%lld", (long long)h);
			print_counts(view_text, head_text, &head, out);
			add_counts(&total, &head);
		}
	print_counts("all", "all", &total, out);
}

static tda_status stats_allocate(Stats *s, int64_t indices)
{
	bool ok = (s->counts = calloc((size_t)indices + 1, sizeof(*s->counts))) &&
	          (s->keys = calloc((size_t)indices + 1, sizeof(*s->keys)));

	for (int64_t n = 0; n < indices && ok; n++) {
		s->keys[n].row_block = -1;
		ok = (s->keys[n].visitors = calloc((size_t)s->problem->shape.k_len + 1, 1)) &&
		     (s->keys[n].needed = calloc((size_t)s->problem->shape.k_len + 1, 1));
	}
	return ok ? TDA_OK : tda_fail_memory();
}

static void stats_free(Stats *s, int64_t indices)
{
	for (int64_t n = 0; n < indices && s->keys; n++) {
		free(s->keys[n].visitors);
		free(s->keys[n].needed);
	}
	free(s->keys);
	free(s->counts);
	free(s->heavy);
	marks_free(&s->screened);
	marks_free(&s->kept);
}

/* A forward has run. */
static tda_status report(const Problem *p, FILE *out)
{
	Stats s = { .problem = p };
	int64_t indices = p->manifest->views * p->shape.batch * p->shape.heads;
	tda_status status = marks_fetch(p, MARKS_SCREENED, &s.screened);

	if (!status)
		status = marks_fetch(p, MARKS_KEPT, &s.kept);
	if (!status)
		status = heavy_fetch(p, &s.heavy, &s.heavy_blocks);
	if (!status)
		status = stats_allocate(&s, indices);
	if (!status)
		status = problem_observe(p, count_pairs, &s);
	for (int64_t n = 0; n < indices && !status; n++) {
		count_marks(&s, n);
		count_dense(&s, n);
	}
	if (!status)
		print_table(&s, out);
	stats_free(&s, indices);
	return status;
}

tda_status stats_run(tda_kernel *kernel, Device *device, const StatsOptions *options, FILE *out)
{
	enum { POISON = 0xff };
	const tda_shape *shape;
	Problem p;
	tda_status status;

	if (kernel->manifest->marks.side == 0)
		return tda_fail(TDA_UNSUPPORTED, "--stats needs a sparse plan: a dense one visits every visible pair; compile "
		                "the spec with --plan sparse");
	status = options->in ? inputs_load(options->in, kernel, options->shape.layer, GRAD_UNUSED, &p)
	                     : check_random_problem(&options->shape, kernel, options->seed, &p);
	if (status)
		return status;
	shape = &p.shape;
	fprintf(out, "%s on %s, batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n", kernel->manifest->spec_name,
	        device->description, (long long)shape->batch, (long long)shape->heads, (long long)shape->kv_heads,
	        (long long)shape->q_len, (long long)shape->k_len);
	if (!(status = problem_place(&p, device)) && !(status = problem_poison(&p, POISON)) &&
	    !(status = problem_launch(&p, true, false)))
		status = report(&p, out);
	problem_free(&p);
	return status;
}
