/*
 * tdagen explore: the runs are all combinations of the sweeps' values, each on every input. A swept learned parameter is set
 * in the launch; a swept option compiles the spec again, as far as its manifest, which is all that the reference needs. Where a device
 * counts, kernels are made: those of the spec, for o, gradients and times, and those that count.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/explore_run.h"
#include "../runtime/number.h"
#include "main_count.h"
#include "main_explore.h"
#include "manifest.h"
#include "output.h"
#include "main_report.h"
#include "sweep.h"

enum { MOST_RUNS = 10000 };

static const Loc nowhere = { 0, 0 };

typedef struct Explore {
	Compilation *c;                    /* the spec with --set alone */
	const Options *options;
	Sweep *sweeps;                     /* as many as names in the setup */
	bool *is_param;                    /* of each: a learned parameter, not an option() */
	ExploreSetup setup;
	ExplorePoint *points;              /* the setup's, */
	tda_kernel **kernels, **counters;  /* and of each; neighbours may share one. No counters: the reference counts */
	ExploreSession *session;
} Explore;

/* ---- what is swept ---- */

static bool parse_sweeps(Explore *e)
{
	const Options *options = e->options;
	Arena *arena = e->c->arena;
	const char *problem, **names = ARENA_ARRAY(arena, const char *, options->sweep_count + 1);
	double runs = options->input_count ? options->input_count : 1;

	e->sweeps = ARENA_ARRAY(arena, Sweep, options->sweep_count + 1);
	e->is_param = ARENA_ARRAY(arena, bool, options->sweep_count + 1);
	for (int n = 0; n < options->sweep_count; n++) {
		if (!sweep_parse(arena, options->sweeps[n], &e->sweeps[n], &problem)) {
			fprintf(stderr, "tdagen: --sweep %s: %s\n", options->sweeps[n], problem);
			return false;
		}
		names[n] = e->sweeps[n].name;
		runs *= e->sweeps[n].count;
		for (int other = 0; other < n; other++)
			if (strcmp(names[other], names[n]) == 0) {
				fprintf(stderr, "tdagen: --sweep is given twice for '%s'\n", names[n]);
				return false;
			}
		for (int s = 0; s < options->setting_count; s++)
			if (strcmp(options->settings[s].key, names[n]) == 0) {
				fprintf(stderr, "tdagen: '%s' is both in --set and in --sweep\n", names[n]);
				return false;
			}
	}
	if (runs > MOST_RUNS) {
		fprintf(stderr, "tdagen: these sweeps make %.0f runs, and %d is the most: give fewer values\n", runs, MOST_RUNS);
		return false;
	}
	e->setup.run_count = (int)runs;
	e->setup.sweep_count = options->sweep_count;
	e->setup.sweep_names = names;
	e->setup.is_param = e->is_param;
	return true;
}

/* Which sweeps name a learned parameter, and are their values allowed for it? */
static bool sort_sweeps(Explore *e)
{
	const Spec *spec = e->c->spec;

	for (int n = 0; n < e->setup.sweep_count; n++) {
		const Sweep *sweep = &e->sweeps[n];
		const Param *param = NULL;

		for (int p = 0; p < spec->param_count; p++)
			if (strcmp(spec->params[p].name, sweep->name) == 0)
				param = &spec->params[p];
		e->is_param[n] = param != NULL;
		for (int k = 0; k < sweep->count && param; k++) {
			double value;

			if (!number_parse(sweep->values[k], strlen(sweep->values[k]), &value) || !isfinite(value)) {
				diag_error(e->c->diag, nowhere, "--sweep %s: the values of a learned parameter are numbers, not '%s'",
					sweep->name, sweep->values[k]);
				return false;
			}
			if (value < param->min || value > param->max) {
				diag_error(e->c->diag, nowhere, "--sweep %s: %s is outside of its bounds, %.9g to %.9g, to which the spec clamps it",
					sweep->name, sweep->values[k], param->min, param->max);
				return false;
			}
		}
	}
	return true;
}

/* Run r is the r-th combination: inputs change first, then the last sweep. */
static void lay_out_runs(Explore *e, int layer)
{
	const Options *options = e->options;
	int inputs = options->input_count ? options->input_count : 1;

	e->points = ARENA_ARRAY(e->c->arena, ExplorePoint, e->setup.run_count);
	e->kernels = ARENA_ARRAY(e->c->arena, tda_kernel *, e->setup.run_count);
	e->counters = ARENA_ARRAY(e->c->arena, tda_kernel *, e->setup.run_count);
	e->setup.points = e->points;
	for (int r = 0; r < e->setup.run_count; r++) {
		const char **settings = ARENA_ARRAY(e->c->arena, const char *, e->setup.sweep_count + 1);
		int rest = r / inputs;

		for (int n = e->setup.sweep_count - 1; n >= 0; n--) {
			settings[n] = e->sweeps[n].values[rest % e->sweeps[n].count];
			rest /= e->sweeps[n].count;
		}
		e->points[r] = (ExplorePoint){
			.in = options->input_count ? options->inputs[r % inputs] : NULL, .layer = layer + r % inputs, .settings = settings,
		};
	}
}

/* ---- compiling ---- */

static bool fail(Explore *e)
{
	explore_session_pause(e->session);
	fprintf(stderr, "tdagen explore %s: error: %s\n", e->options->spec, tda_error_message());
	return false;
}

static void explain_setting(Explore *e, Diag *diag, const SpecOption *setting)
{
	const Spec *spec = e->c->spec;

	for (int n = 0; n < spec->constant_count; n++)
		if (strcmp(spec->constant_names[n], setting->key) == 0) {
			diag_note(diag, nowhere, "'%s' is a constant: constant(option(\"%s\", 1)) can be swept, as every option() can",
				setting->key, setting->key);
			return;
		}
	diag_note(diag, nowhere, "--sweep takes a learned parameter or an option() of the spec");
}

/* Compiles run r with its settings; the kernels are closed by the caller. */
static bool compile_run(Explore *e, int r)
{
	const ExplorePoint *point = &e->points[r];
	Compilation c = {
		.arena = e->c->arena, .path = e->c->path, .source = e->c->source, .length = e->c->length,
		.plan_options = e->options->plan, .diag = diag_new(e->c->arena, e->c->path, e->c->source),
		.setting_count = e->options->setting_count,
	};
	bool runs = explore_session_runs_kernels(e->session), ok;

	c.settings = ARENA_ARRAY(c.arena, SpecOption, c.setting_count + e->setup.sweep_count + 1);
	memcpy(c.settings, e->options->settings, sizeof(SpecOption) * (size_t)c.setting_count);
	for (int n = 0; n < e->setup.sweep_count; n++)
		if (!e->is_param[n])
			c.settings[c.setting_count++] = (SpecOption){ .key = e->sweeps[n].name, .value = point->settings[n] };
	ok = pipeline_run(&c, runs ? STAGE_PTX : STAGE_PLAN, NULL, NULL);
	if (ok && !runs)
		c.ptx = manifest_attach(c.arena, c.spec, c.plan, "");
	for (int n = e->options->setting_count; n < c.setting_count && !ok && !c.spec; n++)
		if (!c.settings[n].used)
			explain_setting(e, c.diag, &c.settings[n]);
	if (diag_error_count(c.diag))
		explore_session_pause(e->session);
	diag_print(c.diag, stderr);
	pipeline_end(&c);
	if (!ok)
		return false;
	if (tda_open_memory(c.ptx, strlen(c.ptx), &e->kernels[r]))
		return fail(e);
	return !runs || count_compile(&c, COUNT_WEIGHTS, arena_printf(c.arena, "tdagen explore %s", e->options->spec), &e->counters[r]);
}

static bool same_kernel(const Explore *e, int r)
{
	for (int n = 0; n < e->setup.sweep_count; n++)
		if (!e->is_param[n] && e->points[r].settings[n] != e->points[r - 1].settings[n])
			return false;
	return true;
}

static bool run_all(Explore *e)
{
	for (int r = 0; r < e->setup.run_count; r++) {
		if (r > 0 && same_kernel(e, r)) {
			e->kernels[r] = e->kernels[r - 1];
			e->counters[r] = e->counters[r - 1];
		} else if (!compile_run(e, r)) {
			return false;
		}
		if (explore_session_run(e->session, r, e->kernels[r], e->counters[r]))
			return fail(e);
	}
	return true;
}

/* ---- files ---- */

static bool write_file(Explore *e, const char *path, void (*write)(const ExploreSession *, FILE *))
{
	Output output;

	if (!path)
		return true;
	if (!output_open(e->c->arena, e->c->diag, path, &output))
		return false;
	write(e->session, output.file);
	return output_commit(e->c->diag, &output);
}

static void write_report_data(const void *session, FILE *out)
{
	explore_session_write_json(session, out);
}

static bool is_stdout(const char *path)
{
	return path && strcmp(path, "-") == 0;
}

/* ---- the whole ---- */

static int64_t number(const Options *options, NumberOption option, int64_t otherwise)
{
	return options->number[option] >= 0 ? options->number[option] : otherwise;
}

static void set_up(Explore *e, int layer)
{
	const Options *o = e->options;
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = number(o, NUMBER_BATCH, 1);
	shape.heads = number(o, NUMBER_HEADS, 4);
	shape.kv_heads = number(o, NUMBER_KV_HEADS, shape.heads);
	shape.q_len = number(o, NUMBER_Q_LEN, 2048);
	shape.k_len = number(o, NUMBER_K_LEN, shape.q_len);
	e->setup.spec = o->spec;
	e->setup.seed = (uint64_t)number(o, NUMBER_SEED, 1);
	e->setup.shape = shape;
	e->setup.softmax = o->softmax;
	e->setup.count_by = o->count_by;
	e->setup.tables = is_stdout(o->csv) || is_stdout(o->json) ? stderr : stdout;
	lay_out_runs(e, layer);
}

int explore_spec(Compilation *c, const Options *options)
{
	Explore e = { .c = c, .options = options };
	int64_t layer = 0;
	bool ok;

	if (options->layer && !integer_parse(options->layer, strlen(options->layer), 0, INT32_MAX / 2, &layer)) {
		fprintf(stderr, "tdagen: --layer takes a number from 0, not '%s'\n", options->layer);
		return EXIT_BAD_USAGE;
	}
	if (!parse_sweeps(&e))
		return EXIT_BAD_USAGE;
	set_up(&e, (int)layer);
	if (!pipeline_run(c, STAGE_SPEC, NULL, NULL) || !sort_sweeps(&e) || (options->report && !report_check(c->diag)))
		return EXIT_BAD_SPEC;          /* before the work, not after it */
	if (explore_session_open(&e.setup, &e.session)) {
		fprintf(stderr, "tdagen explore %s: error: %s\n", options->spec, tda_error_message());
		return EXIT_BAD_SPEC;
	}
	ok = run_all(&e) && write_file(&e, options->csv, explore_session_write_csv) &&
		write_file(&e, options->json, explore_session_write_json) &&
		(!options->report || report_write(c->arena, c->diag, options->report, write_report_data, e.session));
	for (int r = 0; r < e.setup.run_count; r++)
		if (r == 0 || e.kernels[r] != e.kernels[r - 1]) {
			tda_close(e.kernels[r]);
			tda_close(e.counters[r]);
		}
	explore_session_free(e.session);
	return ok ? 0 : EXIT_BAD_SPEC;
}
