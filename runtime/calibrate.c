/* The search for the values, and what it prints. The reference takes heads a few at a time, as memory allows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "calibrate_count.h"
#include "error.h"
#include "half.h"
#include "inputs.h"
#include "number.h"

static const double tolerance = 0.02;          /* of the pairs wanted, relative */
static const double farthest = 0x1p20;         /* from the initial value, times it where it is above 1; where a parameter has no bound */

/* What the search knows of one value: how many pairs survive, or are visited. */
typedef struct Probe {
	double value;
	int64_t pairs;
} Probe;

/*
 * A search asks for one value after the other, so that those of many heads can be counted at once. From `base` it steps away to both
 * sides, each step twice the one before, up to the parameter's bounds, until one value leaves enough pairs and another too few: which of
 * them is larger says whether pairs rise or fall with the parameter. Between them it bisects.
 */
typedef enum SearchState { SEARCH_BASE, SEARCH_BRACKET, SEARCH_BISECT, SEARCH_DONE } SearchState;

typedef struct Search {
	Calibrator *c;
	Heads heads;
	double wanted;                 /* pairs */
	SearchState state;
	double step;                   /* SEARCH_BRACKET: the next one, */
	int side;                      /* to this side; 2: both were tried */
	bool open[2];
	bool has_above, has_below;
	Probe above, below;            /* the last values tried with no fewer, and with fewer, pairs than wanted */
	Probe best, most, fewest;
	double lowest, highest;        /* of the values tried */
	int probes;
	bool ends_in_nan;
	double refused;                /* the value where the threshold of a row is NaN */
} Search;

typedef enum Outcome { REACHED, NO_VALUE, JUMPS, OUTCOME_NAN } Outcome;

typedef struct Found {
	Outcome outcome;
	Search search;
	Counted counted;               /* of the head alone */
} Found;

/* ---- options ---- */

tda_status calibrate_parse_target(const char *text, CalibrateTarget *target, double *wanted)
{
	size_t key = strcspn(text, "=");
	const char *value = text[key] ? text + key + 1 : "";
	static const char *const names[] = {
		[CALIBRATE_SURVIVORS] = "survivors", [CALIBRATE_ZEROS] = "zeros", [CALIBRATE_VISITED] = "visited",
	};
	int found = 0;

	while (found < CALIBRATE_TARGETS && !(strlen(names[found]) == key && strncmp(text, names[found], key) == 0))
		found++;
	if (found == CALIBRATE_TARGETS)
		return tda_fail(TDA_BAD_ARGUMENT, "unknown target '%s': it can be survivors=N (a row), zeros=SHARE or visited=SHARE",
		                text);
	*target = (CalibrateTarget)found;
	if (!number_parse(value, strlen(value), wanted) || !isfinite(*wanted) || *wanted <= 0 ||
	    (*target != CALIBRATE_SURVIVORS && *wanted >= 1))
		return tda_fail(TDA_BAD_ARGUMENT, "the target %s needs a number %s, not '%s'", names[found],
		                *target == CALIBRATE_SURVIVORS ? "above 0" : "between 0 and 1", value);
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

/* ---- the search ---- */

static bool has_both(const Search *s)
{
	return s->has_above && s->has_below;
}

static double scale(const Search *s)
{
	return fmax(fabs(s->c->base), 1);
}

/* The next value of the bracket, if there is one. */
static bool next_step(Search *s, double *value)
{
	const ManifestParam *param = &s->c->problem->manifest->params[s->c->param];

	while (!has_both(s) && (s->open[0] || s->open[1]) && s->step <= farthest * scale(s)) {
		if (s->side < 2 && s->open[s->side]) {
			*value = (float)fmin(fmax(s->c->base + (s->side ? s->step : -s->step), param->min), param->max);
			return true;
		}
		s->step *= s->side == 2 ? 2 : 1;
		s->side = s->side == 2 ? 0 : s->side + 1;
	}
	return false;
}

static bool next_middle(const Search *s, double *value)
{
	if (!has_both(s) || (double)s->best.pairs == s->wanted)
		return false;
	*value = (float)(0.5 * (s->above.value + s->below.value));
	return *value != s->above.value && *value != s->below.value;   /* neighbouring float32 */
}

/* The value to be counted next; false: the search is over. */
static bool search_next(Search *s, double *value)
{
	if (s->state == SEARCH_BASE)
		*value = s->c->base;
	if (s->state == SEARCH_BRACKET && !next_step(s, value))
		s->state = SEARCH_BISECT;
	if (s->state == SEARCH_BISECT && !next_middle(s, value))
		s->state = SEARCH_DONE;
	return s->state != SEARCH_DONE;
}

static void note(Search *s, Probe probe)
{
	if (s->probes == 0) {
		s->best = s->most = s->fewest = probe;
		s->lowest = s->highest = probe.value;
	}
	s->lowest = fmin(s->lowest, probe.value);
	s->highest = fmax(s->highest, probe.value);
	if (fabs((double)probe.pairs - s->wanted) < fabs((double)s->best.pairs - s->wanted))
		s->best = probe;
	if (probe.pairs > s->most.pairs)
		s->most = probe;
	if (probe.pairs < s->fewest.pairs)
		s->fewest = probe;
	if ((double)probe.pairs >= s->wanted) {
		s->above = probe;
		s->has_above = true;
	} else {
		s->below = probe;
		s->has_below = true;
	}
	s->probes++;
}

/* What was counted with the value that search_next gave. Where a threshold is NaN, a bracket ends on that side, and the rest at once. */
static void search_take(Search *s, double value, Counted counted)
{
	const ManifestParam *param = &s->c->problem->manifest->params[s->c->param];
	bool known = counted.survivors >= 0;

	if (known)
		note(s, (Probe){ value, s->c->options->target == CALIBRATE_VISITED ? counted.visited : counted.survivors });
	else
		s->refused = value;
	if (s->state == SEARCH_BRACKET) {
		s->open[s->side++] = known && value > param->min && value < param->max;
		return;
	}
	s->ends_in_nan = !known;
	if (!known) {
		s->state = SEARCH_DONE;
	} else if (s->state == SEARCH_BASE) {
		s->state = SEARCH_BRACKET;
		s->step = 0.25 * scale(s);
		s->open[0] = s->open[1] = true;
	}
}

static Outcome search_outcome(const Search *s)
{
	if (s->ends_in_nan)
		return OUTCOME_NAN;
	if (fabs((double)s->best.pairs - s->wanted) <= tolerance * s->wanted)
		return REACHED;
	return has_both(s) ? JUMPS : NO_VALUE;
}

/* ---- what it prints ---- */

/* How many pairs of `heads` heads could count towards the target; for survivors, how many rows and views. */
static double chances(const Calibrator *c, CalibrateTarget target, int64_t heads)
{
	double planes = (double)(c->problem->shape.batch * heads), visible = (double)c->row_start[c->problem->shape.q_len];

	if (target == CALIBRATE_VISITED)
		return planes * visible;
	return planes * c->problem->manifest->views * (target == CALIBRATE_SURVIVORS ? (double)c->rows : visible);
}

static double measure(const Calibrator *c, CalibrateTarget target, int64_t heads, double pairs)
{
	double share = pairs / chances(c, target, heads);

	return target == CALIBRATE_ZEROS ? 1 - share : share;
}

static double wanted_pairs(const Calibrator *c, int64_t heads)
{
	const CalibrateOptions *o = c->options;

	return chances(c, o->target, heads) * (o->target == CALIBRATE_ZEROS ? 1 - o->wanted : o->wanted);
}

static const char *unit(const CalibrateOptions *o)
{
	static const char *const units[] = {
		[CALIBRATE_SURVIVORS] = "survivors a row", [CALIBRATE_ZEROS] = "zeros", [CALIBRATE_VISITED] = "visited",
	};

	return units[o->target];
}

static void explain(const Calibrator *c, const Found *found, FILE *out)
{
	const Search *s = &found->search;
	const CalibrateOptions *o = c->options;
	const char *name = c->problem->manifest->params[c->param].name;
	int64_t heads = s->heads.end - s->heads.first;
	bool too_few = (double)s->most.pairs < s->wanted;
	const Probe *end = too_few ? &s->most : &s->fewest;

	if (found->outcome == OUTCOME_NAN)
		fprintf(out, "the threshold of a row is NaN at %s = %.9g", name, s->refused);
	else if (found->outcome == JUMPS)
		fprintf(out, "no value of %s gives %.6g %s: it jumps from %.6g to %.6g at %s = %.9g, as counts are whole numbers",
		        name, o->wanted, unit(o), measure(c, o->target, heads, (double)s->above.pairs),
		        measure(c, o->target, heads, (double)s->below.pairs), name, s->best.value);
	else
		fprintf(out, "no value of %s gives %.6g %s: at %s %.6g, at %s = %.9g (tried from %.9g to %.9g)", name, o->wanted, unit(o),
		        too_few == (o->target != CALIBRATE_ZEROS) ? "most" : "least",
		        measure(c, o->target, heads, (double)end->pairs), name, end->value, s->lowest, s->highest);
}

static void print_row(const Calibrator *c, const char *head, double value, int64_t heads, Counted counted, FILE *out)
{
	double survivors = (double)counted.survivors;
	char text[32] = "";

	if (!isnan(value))
		snprintf(text, sizeof(text), "%.9g", value);
	fprintf(out, "%5s %14s %16.4f %10.4f%%", head, text, measure(c, CALIBRATE_SURVIVORS, heads, survivors),
	        100 * measure(c, CALIBRATE_ZEROS, heads, survivors));
	if (c->options->target == CALIBRATE_VISITED)
		fprintf(out, " %10.4f%%", 100 * measure(c, CALIBRATE_VISITED, heads, (double)counted.visited));
	fputc('\n', out);
}

/* Returns how many heads cannot reach the target. */
static int64_t print_table(const Calibrator *c, const Found *found, FILE *out)
{
	const tda_shape *shape = &c->problem->shape;
	int64_t failures = 0;
	Counted total = {0};
	char head[24];

	fprintf(out, "%s, batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n", c->problem->manifest->spec_name,
	        (long long)shape->batch, (long long)shape->heads, (long long)shape->kv_heads, (long long)shape->q_len,
	        (long long)shape->k_len);
	fprintf(out, "device: %s\n", device_name(c->options->device));
	fprintf(out, "%5s %14s %16s %11s%s\n", "head", c->problem->manifest->params[c->param].name, "survivors a row", "zeros",
	        c->options->target == CALIBRATE_VISITED ? "     visited" : "");
	for (int64_t h = 0; h < shape->heads; h++) {
		snprintf(head, sizeof(head), "%lld", (long long)h);
		if (found[h].outcome == REACHED) {
			print_row(c, head, found[h].search.best.value, 1, found[h].counted, out);
		} else {
			fprintf(out, "%5s  ", head);
			explain(c, &found[h], out);
			fputc('\n', out);
		}
		failures += found[h].outcome != REACHED;
		total.survivors += found[h].counted.survivors;
		total.visited += found[h].counted.visited;
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

static tda_status count(Calibrator *c, const double *value, Counted *counted)
{
	bool visited = c->options->target == CALIBRATE_VISITED;

	return (c->counter ? calibrate_count_on_device : calibrate_count)(c, value, visited, counted);
}

static void give(const Search *s, double value, double *values)
{
	for (int64_t h = s->heads.first; h < s->heads.end; h++)
		values[h - s->c->kept.first] = value;
}

static Counted sum_heads(const Search *s, const Counted *counted)
{
	Counted sum = { 0, 0 };

	for (int64_t h = s->heads.first; h < s->heads.end; h++) {
		const Counted *one = &counted[h - s->c->kept.first];

		sum.survivors = sum.survivors < 0 || one->survivors < 0 ? -1 : sum.survivors + one->survivors;
		sum.visited += one->visited;
	}
	return sum;
}

/* Steps of all searches are counted together, until the last one is over. */
static tda_status run_searches(Calibrator *c, Search *searches, int64_t searching, double *values, Counted *counted)
{
	tda_status status = TDA_OK;
	bool more = true;

	while (more && !status) {
		more = false;
		for (int64_t n = 0; n < searching; n++) {
			double value = NAN;
			bool asks = search_next(&searches[n], &value);

			give(&searches[n], asks ? value : NAN, values);
			more |= asks;
		}
		if (more)
			status = count(c, values, counted);
		for (int64_t n = 0; n < searching && more && !status; n++) {
			double value = values[searches[n].heads.first - c->kept.first];

			if (!isnan(value))
				search_take(&searches[n], value, sum_heads(&searches[n], counted));
		}
	}
	return status;
}

/* What each head has at the values that were found. */
static tda_status keep_found(Calibrator *c, const Search *searches, int64_t searching, double *values, Counted *counted, Found *found)
{
	tda_status status;

	for (int64_t n = 0; n < searching; n++)
		give(&searches[n], search_outcome(&searches[n]) == REACHED ? searches[n].best.value : NAN, values);
	if ((status = count(c, values, counted)))
		return status;
	for (int64_t n = 0; n < searching; n++)
		for (int64_t h = searches[n].heads.first; h < searches[n].heads.end; h++)
			found[h] = (Found){ search_outcome(&searches[n]), searches[n], counted[h - c->kept.first] };
	return TDA_OK;
}

/* The heads that can be counted: each by itself, or all together. */
static tda_status search_kept(Calibrator *c, Found *found)
{
	bool by_head = c->options->per == CALIBRATE_PER_HEAD;
	int64_t heads = c->kept.end - c->kept.first, searching = by_head ? heads : 1;
	Search *searches = calloc((size_t)searching, sizeof(*searches));
	double *values = calloc((size_t)heads, sizeof(*values));
	Counted *counted = calloc((size_t)heads, sizeof(*counted));
	tda_status status = searches && values && counted ? TDA_OK : tda_fail_memory();

	for (int64_t n = 0; n < searching && !status; n++) {
		Heads own = by_head ? (Heads){ c->kept.first + n, c->kept.first + n + 1 } : c->kept;

		searches[n] = (Search){ .c = c, .heads = own, .wanted = wanted_pairs(c, own.end - own.first) };
	}
	if (!status)
		status = run_searches(c, searches, searching, values, counted);
	if (!status)
		status = keep_found(c, searches, searching, values, counted, found);
	free(searches);
	free(values);
	free(counted);
	return status;
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

/* A few heads at a time, whose scores the reference keeps. */
static tda_status search_by_reference(Calibrator *c, bool progress, Found *found)
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

		if (!(status = calibrate_keep_scores(c, first, end)))
			status = search_kept(c, found);
		if (!status && progress)
			show_progress(c, started, c->kept.end);
	}
	if (progress && seconds() - started > 1)
		fputs("\r\033[K", stderr);
	return status;
}

static tda_status search_on_device(Calibrator *c, Problem *p, Found *found)
{
	Counter counter = {0};
	tda_status status = problem_place(p, c->options->device);

	if (!status)
		status = counter_open(&counter, p, c->options->counter);
	c->counter = &counter;
	c->kept = (Heads){ 0, p->shape.heads };
	if (!status)
		status = search_kept(c, found);
	counter_close(&counter);
	problem_displace(p);
	return status;
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

static tda_status calibrate_problem(Calibrator *c, Problem *p, bool progress, FILE *out, Calibration *calibration)
{
	int64_t heads = c->problem->shape.heads, failures;
	Found *found = calloc((size_t)heads + 1, sizeof(*found));
	tda_status status = found ? calibrate_find_rows(c) : TDA_OK;

	calibration->heads = heads;
	calibration->value = calloc((size_t)heads + 1, sizeof(double));
	if (!found || !calibration->value)
		status = tda_fail_memory();
	if (!status)
		status = c->options->device ? search_on_device(c, p, found) : search_by_reference(c, progress, found);
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
	status = calibrate_problem(&c, &p, progress, out, calibration);
	problem_free(&p);
	return status;
}
