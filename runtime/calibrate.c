/*
 * The scores of the heads at hand are computed once, by the f64 reference, and kept; a step of the bisection evaluates the
 * threshold of every row and counts the scores above it. Heads are taken a few at a time, as memory allows.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "calibrate.h"
#include "error.h"
#include "half.h"
#include "inputs.h"
#include "number.h"

static const double tolerance = 0.02;          /* of survivors, relative */
static const double farthest = 0x1p20;         /* from the initial value, times it where it is above 1; where a parameter has no bound */

typedef struct Heads {
	int64_t first, end;
} Heads;

typedef struct Calibrator {
	const Problem *problem;
	const CalibrateOptions *options;
	int param;
	double base;                   /* where the search begins */
	int64_t *row_start;            /* [q_len + 1]: a row's first score among those of one view, batch entry and head */
	int64_t rows;                  /* of a head that see a key */
	Heads kept;                    /* heads whose scores are kept: */
	double *scores;                /* [batch, kept heads, views, row_start[q_len]] */
	atomic_llong not_finite;       /* 1 + batch_head * q_len + row of a score that is NaN or infinite; 0: none */
	int threads;
	bool short_of_memory;          /* a count could not be made */
} Calibrator;

/* What the search knows of one value: how many pairs survive. */
typedef struct Probe {
	double value;
	int64_t survivors;
} Probe;

typedef struct Search {
	Calibrator *c;
	Heads heads;
	double wanted;                 /* survivors, pairs */
	bool has_above, has_below;
	Probe above, below;            /* the last values tried with no fewer, and with fewer, survivors than wanted */
	Probe best, most, fewest;
	double lowest, highest;        /* of the values tried */
	int probes;
	double refused;                /* the value where the threshold of a row is NaN */
} Search;

typedef enum Outcome { REACHED, NO_VALUE, JUMPS, OUTCOME_NAN } Outcome;

typedef struct Found {
	Outcome outcome;
	Search search;
	int64_t survivors;             /* of the head alone */
} Found;

/* ---- options ---- */

tda_status calibrate_parse_target(const char *text, CalibrateTarget *target, double *wanted)
{
	size_t key = strcspn(text, "=");
	const char *value = text[key] ? text + key + 1 : "";
	bool survivors = key == 9 && strncmp(text, "survivors", key) == 0;

	if (!survivors && !(key == 5 && strncmp(text, "zeros", key) == 0))
		return tda_fail(TDA_BAD_ARGUMENT, "unknown target '%s': it can be survivors=N (a row) or zeros=SHARE", text);
	*target = survivors ? CALIBRATE_SURVIVORS : CALIBRATE_ZEROS;
	if (!number_parse(value, strlen(value), wanted) || !isfinite(*wanted) || *wanted <= 0 || (!survivors && *wanted >= 1))
		return tda_fail(TDA_BAD_ARGUMENT, "the target %s needs a number %s, not '%s'", survivors ? "survivors" : "zeros",
		                survivors ? "above 0" : "between 0 and 1", value);
	return TDA_OK;
}

static tda_status choose_param(const Manifest *m, const char *name, int *param)
{
	uint32_t read = postfix_params(m->threshold);
	char list[TDA_MAX_PARAMS * (MANIFEST_NAME_BYTES + 2)] = "";
	int count = 0;

	*param = name ? manifest_find_param(m, name, strlen(name)) : -1;
	for (int p = 0; p < m->param_count; p++) {
		if (!(read >> p & 1))
			continue;
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", count++ ? ", " : "", m->params[p].name);
		if (!name)
			*param = p;
	}
	if (count == 0)
		return tda_fail(TDA_UNSUPPORTED, "the threshold of %s reads no learned parameter: there is nothing to calibrate",
		                m->spec_name);
	if (!name && count > 1)
		return tda_fail(TDA_BAD_ARGUMENT, "the threshold of %s reads several parameters: say which with --param: %s",
		                m->spec_name, list);
	if (*param < 0 || !(read >> *param & 1))
		return tda_fail(TDA_BAD_ARGUMENT, "the threshold of %s reads no parameter '%s': it reads %s", m->spec_name,
		                name, list);
	if (postfix_params(m->score) >> *param & 1)
		return tda_fail(TDA_UNSUPPORTED, "'%s' is read by the score too, and scores must not move with it",
		                m->params[*param].name);
	return TDA_OK;
}

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

/* Of the heads that read heads first to end - 1 of k. */
static tda_status compute_scores(Calibrator *c, int64_t first, int64_t end)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t share = shape->heads / shape->kv_heads, at;
	tda_status status;

	c->kept = (Heads){ first * share, end * share };
	status = problem_observe_heads(c->problem, first, end, keep_scores, c);
	at = atomic_load(&c->not_finite) - 1;
	if (!status && at >= 0)
		status = tda_fail(TDA_BAD_ARGUMENT, "%s: a score of batch entry %lld, head %lld, row %lld is NaN or infinite: "
		                  "q or k holds such a value or, with l2, a norm is not in 2^-60 to 2^60", c->options->in,
		                  (long long)(at / shape->q_len / shape->heads), (long long)(at / shape->q_len % shape->heads),
		                  (long long)(at % shape->q_len));
	return status;
}

/* ---- counting ---- */

typedef struct Count {
	const Calibrator *c;
	Heads heads;
	double value;
	atomic_llong next, survivors;
	atomic_bool nan, failed;
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

static int64_t count_above(const double *scores, int64_t count, double tau)
{
	int64_t above = 0;

	for (int64_t n = 0; n < count; n++)
		above += scores[n] > tau;
	return above;
}

/* One view of one batch entry and head. */
static void count_view(Count *count, PostfixSlot *stack, int64_t batch, int64_t head, int view)
{
	const Calibrator *c = count->c;
	const Problem *p = c->problem;
	const double *scores = scores_of(c, batch, head, view);
	double params[TDA_MAX_PARAMS];
	PostfixInput input = { .count = 1, .params = params };
	int64_t survivors = 0;

	for (int n = 0; n < p->manifest->param_count; n++)
		params[n] = parameter(c, n, head, count->value);
	input.var[POSTFIX_VAR_HEAD] = (double)head;
	input.var[POSTFIX_VAR_VIEW] = view + 1;
	input.var[POSTFIX_VAR_LAYER] = (double)p->shape.layer;
	input.var[POSTFIX_VAR_Q_LEN] = (double)p->shape.q_len;
	input.var[POSTFIX_VAR_K_LEN] = (double)p->shape.k_len;
	for (int64_t row = 0; row < p->shape.q_len; row++) {
		int64_t keys = c->row_start[row + 1] - c->row_start[row];

		if (keys == 0)
			continue;
		input.var[POSTFIX_VAR_I] = (double)position(p, row);
		postfix_eval(p->manifest->threshold, &input, 0, stack);
		if (isnan(stack->value[0]))
			atomic_store(&count->nan, true);
		survivors += count_above(scores + c->row_start[row], keys, stack->value[0]);
	}
	atomic_fetch_add(&count->survivors, survivors);
}

static void *count_work(void *user)
{
	Count *count = user;
	const Problem *p = count->c->problem;
	int64_t views = p->manifest->views, heads = count->heads.end - count->heads.first, at;
	PostfixSlot *stack = calloc((size_t)postfix_depth(p->manifest->threshold), sizeof(*stack));

	if (!stack)
		atomic_store(&count->failed, true);
	while (stack && (at = atomic_fetch_add(&count->next, 1)) < p->shape.batch * heads * views)
		count_view(count, stack, at / views / heads, count->heads.first + at / views % heads, (int)(at % views));
	free(stack);
	return NULL;
}

/* -1: the threshold of a row is NaN, or there was no memory. */
static int64_t count_survivors(Calibrator *c, Heads heads, double value)
{
	enum { MOST_THREADS = 64 };
	Count count = { .c = c, .heads = heads, .value = value };
	int64_t pieces = c->problem->shape.batch * (heads.end - heads.first) * c->problem->manifest->views;
	pthread_t thread[MOST_THREADS];
	int started = 0;

	while (started + 1 < c->threads && started + 1 < pieces && started < MOST_THREADS &&
	       pthread_create(&thread[started], NULL, count_work, &count) == 0)
		started++;
	count_work(&count);
	for (int t = 0; t < started; t++)
		pthread_join(thread[t], NULL);
	c->short_of_memory |= atomic_load(&count.failed);
	return atomic_load(&count.failed) || atomic_load(&count.nan) ? -1 : (int64_t)atomic_load(&count.survivors);
}

/* ---- the search ---- */

/* False where there is no count: the search ends there. */
static bool try_value(Search *s, double value)
{
	Probe probe = { value, count_survivors(s->c, s->heads, value) };

	if (probe.survivors < 0) {
		s->refused = value;
		return false;
	}
	if (s->probes == 0) {
		s->best = s->most = s->fewest = probe;
		s->lowest = s->highest = value;
	}
	s->lowest = fmin(s->lowest, value);
	s->highest = fmax(s->highest, value);
	if (fabs((double)probe.survivors - s->wanted) < fabs((double)s->best.survivors - s->wanted))
		s->best = probe;
	if (probe.survivors > s->most.survivors)
		s->most = probe;
	if (probe.survivors < s->fewest.survivors)
		s->fewest = probe;
	if ((double)probe.survivors >= s->wanted) {
		s->above = probe;
		s->has_above = true;
	} else {
		s->below = probe;
		s->has_below = true;
	}
	s->probes++;
	return true;
}

/* Steps away from `base` to both sides, each twice the one before, up to the parameter's bounds, until one value leaves
 * enough survivors and another too few. Which of them is larger says whether survivors rise or fall with the parameter. */
static void bracket(Search *s)
{
	const ManifestParam *param = &s->c->problem->manifest->params[s->c->param];
	double base = s->c->base;
	bool open[2] = { true, true };

	if (!try_value(s, base))
		return;
	for (double step = 0.25 * fmax(fabs(base), 1); step <= farthest * fmax(fabs(base), 1) && (open[0] || open[1]); step *= 2)
		for (int side = 0; side < 2 && !(s->has_above && s->has_below); side++) {
			double value = (float)fmin(fmax(base + (side ? step : -step), param->min), param->max);

			open[side] = open[side] && try_value(s, value) && value > param->min && value < param->max;
		}
}

static Outcome search(Search *s)
{
	bracket(s);
	while (s->has_above && s->has_below && (double)s->best.survivors != s->wanted) {
		double middle = (float)(0.5 * (s->above.value + s->below.value));

		if (middle == s->above.value || middle == s->below.value)
			break;                 /* neighbouring float32 */
		if (!try_value(s, middle))
			return OUTCOME_NAN;
	}
	if (s->probes == 0)
		return OUTCOME_NAN;
	if (fabs((double)s->best.survivors - s->wanted) <= tolerance * s->wanted)
		return REACHED;
	return s->has_above && s->has_below ? JUMPS : NO_VALUE;
}

/* ---- what it prints ---- */

/* Survivors, or zeros, of `heads` heads. */
static double measure(const Calibrator *c, CalibrateTarget target, int64_t heads, double survivors)
{
	const Problem *p = c->problem;
	double views = (double)(p->shape.batch * heads * p->manifest->views);

	return target == CALIBRATE_SURVIVORS ? survivors / (views * (double)c->rows)
	                                     : 1 - survivors / (views * (double)c->row_start[p->shape.q_len]);
}

static double wanted_pairs(const Calibrator *c, int64_t heads)
{
	double views = (double)(c->problem->shape.batch * heads * c->problem->manifest->views);

	return c->options->target == CALIBRATE_SURVIVORS
	               ? c->options->wanted * views * (double)c->rows
	               : (1 - c->options->wanted) * views * (double)c->row_start[c->problem->shape.q_len];
}

static const char *unit(const CalibrateOptions *o)
{
	return o->target == CALIBRATE_SURVIVORS ? "survivors a row" : "zeros";
}

static void explain(const Calibrator *c, const Found *found, FILE *out)
{
	const Search *s = &found->search;
	const CalibrateOptions *o = c->options;
	const char *name = c->problem->manifest->params[c->param].name;
	int64_t heads = s->heads.end - s->heads.first;
	bool too_few = (double)s->most.survivors < s->wanted;
	const Probe *end = too_few ? &s->most : &s->fewest;

	if (found->outcome == OUTCOME_NAN)
		fprintf(out, "the threshold of a row is NaN at %s = %.9g", name, s->refused);
	else if (found->outcome == JUMPS)
		fprintf(out, "no value of %s gives %.6g %s: it jumps from %.6g to %.6g at %s = %.9g, as counts are whole numbers",
		        name, o->wanted, unit(o), measure(c, o->target, heads, (double)s->above.survivors),
		        measure(c, o->target, heads, (double)s->below.survivors), name, s->best.value);
	else
		fprintf(out, "no value of %s gives %.6g %s: at %s %.6g, at %s = %.9g (tried from %.9g to %.9g)", name, o->wanted, unit(o),
		        too_few == (o->target == CALIBRATE_SURVIVORS) ? "most" : "least",
		        measure(c, o->target, heads, (double)end->survivors), name, end->value, s->lowest, s->highest);
}

static void print_row(const Calibrator *c, const char *head, double value, int64_t heads, int64_t survivors, FILE *out)
{
	char text[32] = "";

	if (!isnan(value))
		snprintf(text, sizeof(text), "%.9g", value);
	fprintf(out, "%5s %14s %16.4f %10.4f%%\n", head, text, measure(c, CALIBRATE_SURVIVORS, heads, (double)survivors),
	        100 * measure(c, CALIBRATE_ZEROS, heads, (double)survivors));
}

/* Returns how many heads cannot reach the target. */
static int64_t print_table(const Calibrator *c, const Found *found, FILE *out)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t failures = 0, total = 0;
	char head[24];

	fprintf(out, "%s, batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n", c->problem->manifest->spec_name,
	        (long long)shape->batch, (long long)shape->heads, (long long)shape->kv_heads, (long long)shape->q_len,
	        (long long)shape->k_len);
	fprintf(out, "%5s %14s %16s %11s\n", "head", c->problem->manifest->params[c->param].name, "survivors a row", "zeros");
	for (int64_t h = 0; h < shape->heads; h++) {
		snprintf(head, sizeof(head), "%lld", (long long)h);
		if (found[h].outcome == REACHED) {
			print_row(c, head, found[h].search.best.value, 1, found[h].survivors, out);
		} else {
			fprintf(out, "%5s  ", head);
			explain(c, &found[h], out);
			fputc('\n', out);
		}
		failures += found[h].outcome != REACHED;
		total += found[h].survivors;
	}
	if (failures == 0)
		print_row(c, "all", c->options->per == CALIBRATE_PER_HEAD ? NAN : found[0].search.best.value, shape->heads, total,
		          out);
	return failures;
}

/* ---- the whole ---- */

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void show_progress(const Calibrator *c, double started, int64_t done)
{
	if (seconds() - started > 1)
		fprintf(stderr, "\rcalibrated %lld of %lld heads", (long long)done, (long long)c->problem->shape.heads);
}

static void search_heads(Calibrator *c, Heads heads, Found *found)
{
	Found one = { .search = { .c = c, .heads = heads, .wanted = wanted_pairs(c, heads.end - heads.first) } };

	one.outcome = search(&one.search);
	for (int64_t h = heads.first; h < heads.end; h++) {
		found[h] = one;
		if (one.outcome == REACHED)
			found[h].survivors = count_survivors(c, (Heads){ h, h + 1 }, one.search.best.value);
	}
}

/* How many heads of k at a time: 0 after an error. */
static int64_t heads_at_once(const Calibrator *c)
{
	const tda_shape *shape = &c->problem->shape;
	double memory = 0.5 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
	double bytes = (double)sizeof(double) * (double)c->row_start[shape->q_len] *
	               (double)(shape->batch * (shape->heads / shape->kv_heads) * c->problem->manifest->views);
	bool by_head = c->options->per == CALIBRATE_PER_HEAD;
	int64_t needed = by_head ? 1 : shape->kv_heads;
	int64_t most = by_head && c->threads < shape->kv_heads ? c->threads : shape->kv_heads;

	if ((double)needed * bytes > memory) {
		tda_fail(TDA_UNSUPPORTED, "the scores of %s take %.1f GB, and half of this machine's memory is %.1f GB: give "
		         "shorter tensors%s", by_head ? "a head" : "all heads", 1e-9 * (double)needed * bytes, 1e-9 * memory,
		         by_head ? "" : ", or calibrate --per head");
		return 0;
	}
	while (most > needed && (double)most * bytes > memory)
		most--;
	return most;
}

static tda_status search_all(Calibrator *c, bool progress, Found *found)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t share = shape->heads / shape->kv_heads, step = heads_at_once(c);
	int64_t per_head = c->row_start[shape->q_len] * shape->batch * c->problem->manifest->views;
	double started = seconds();
	tda_status status = TDA_OK;

	if (step == 0)
		return TDA_UNSUPPORTED;
	if (!(c->scores = malloc(sizeof(double) * (size_t)(step * share * per_head))))
		return tda_fail_memory();
	for (int64_t first = 0; first < shape->kv_heads && !status; first += step) {
		int64_t end = first + step < shape->kv_heads ? first + step : shape->kv_heads;

		if ((status = compute_scores(c, first, end)))
			break;
		if (c->options->per != CALIBRATE_PER_HEAD)
			search_heads(c, c->kept, found);
		for (int64_t h = c->kept.first; h < c->kept.end && c->options->per == CALIBRATE_PER_HEAD; h++) {
			search_heads(c, (Heads){ h, h + 1 }, found);
			if (progress)
				show_progress(c, started, h + 1);
		}
	}
	if (progress && seconds() - started > 1)
		fputs("\r\033[K", stderr);
	return status;
}

static tda_status find_rows(Calibrator *c)
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

/* Where the parameter begins: at the arrays' one value, or at the initial one. */
static void find_base(const Problem *p, Calibration *found)
{
	const ManifestParam *param = &p->manifest->params[found->param];
	const Operand *given = &p->param[found->param];

	found->base = (float)param->init;
	found->given = found->given_alike = !given->absent;
	for (int64_t n = 1; n < given->dim && found->given; n++)
		found->given_alike &= dtype_load(TDA_F32, given->host, (size_t)n) == dtype_load(TDA_F32, given->host, 0);
	if (found->given_alike)
		found->base = dtype_load(TDA_F32, given->host, 0);
}

static tda_status calibrate_problem(Calibrator *c, bool progress, FILE *out, Calibration *calibration)
{
	int64_t heads = c->problem->shape.heads, failures;
	Found *found = calloc((size_t)heads + 1, sizeof(*found));
	tda_status status = found ? find_rows(c) : TDA_OK;

	calibration->heads = heads;
	calibration->value = calloc((size_t)heads + 1, sizeof(double));
	if (!found || !calibration->value)
		status = tda_fail_memory();
	if (!status)
		status = search_all(c, progress, found);
	if (!status && c->short_of_memory)
		status = tda_fail_memory();
	if (!status) {
		for (int64_t h = 0; h < heads; h++)
			calibration->value[h] = found[h].search.best.value;
		if ((failures = print_table(c, found, out)))
			status = tda_fail(TDA_BAD_ARGUMENT, "%lld of %lld heads cannot reach the target", (long long)failures,
			                  (long long)heads);
	}
	free(c->scores);
	free(c->row_start);
	free(found);
	return status;
}

tda_status calibrate_run(tda_kernel *kernel, const CalibrateOptions *options, bool progress, FILE *out,
                         Calibration *calibration)
{
	Problem p;
	Calibrator c = { .problem = &p, .options = options };
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	tda_status status;

	*calibration = (Calibration){0};
	c.threads = cores > 0 ? (int)cores : 1;
	if ((status = choose_param(kernel->manifest, options->param, &c.param)) ||
	    (status = inputs_load(options->in, kernel, options->layer, GRAD_UNUSED, &p)))
		return status;
	calibration->param = c.param;
	find_base(&p, calibration);
	c.base = fmin(fmax(calibration->base, kernel->manifest->params[c.param].min), kernel->manifest->params[c.param].max);
	status = calibrate_problem(&c, progress, out, calibration);
	problem_free(&p);
	return status;
}
