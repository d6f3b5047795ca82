/*
 * The spec that calibrate writes is the given one, unchanged, below a few lines of Lua. Those hide `learned`, `attention`
 * and `option` behind functions of the same names, which put values in: specs have no other way to be changed from outside,
 * and what the lines do to one spec they can do to what they made, layer by layer.
 */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../runtime/calibrate.h"
#include "../runtime/number.h"
#include "main_calibrate.h"
#include "main_count.h"
#include "manifest.h"
#include "output.h"

static const Loc nowhere = { 0, 0 };

/* What the lines above the spec are made of. */
typedef struct Written {
	const Compilation *c;
	const Options *options;
	const Calibration *found;
	const Param *param;
	bool one_layer;                    /* the values are for the layer of --layer alone */
	int layer;
	bool as_init;                      /* the value simply is the initial one */
} Written;

/* A line of a comment, whatever is in the text. */
static void print_in_comment(const char *text, FILE *out)
{
	for (; *text; text++)
		fputc(iscntrl((unsigned char)*text) ? '?' : *text, out);
}

static void print_head_comment(const Written *w, FILE *out)
{
	static const char *const each[] = { "by head", "for a layer", "for all heads" };
	const char *name = w->param->name;

	fputs("-- Made by tdagen calibrate from ", out);
	print_in_comment(w->c->path, out);
	fprintf(out, ", which follows unchanged below:\n-- %s %s, so that ", name, each[w->options->per]);
	print_in_comment(w->options->calibrate_target, out);
	fputs(" on ", out);
	print_in_comment(w->options->in, out);
	fputs(".\n", out);
	if (!w->as_init)
		fprintf(out, "-- %s is learned as before, from %.9g: that stands for the calibrated values, and what it moves by from "
			"there\n-- is added to them.\n", name, w->found->base);
}

/* A string of Lua, whatever is in the text. */
static void print_quoted(const char *text, FILE *out)
{
	fputc('"', out);
	for (; *text; text++) {
		if (isalnum((unsigned char)*text) || strchr("_-.,:/ ", *text))
			fputc(*text, out);
		else
			fprintf(out, "\\%03d", (unsigned char)*text);
	}
	fputc('"', out);
}

/* --set becomes the default. */
static void print_options(const Written *w, FILE *out)
{
	if (w->c->setting_count == 0)
		return;
	fputs("local option = (function(option)\n  local set = {", out);
	for (int k = 0; k < w->c->setting_count; k++) {
		fputs(" [", out);
		print_quoted(w->c->settings[k].key, out);
		fputs("] = ", out);
		print_quoted(w->c->settings[k].value, out);
		fputc(',', out);
	}
	fputs(" }\n"
		"  return function(name, default)\n"
		"    local text = set[name]\n"
		"    if text and type(default) == \"number\" then text = tonumber(text) end\n"
		"    if text and type(default) == \"boolean\" then return option(name, text == \"true\") end\n"
		"    return option(name, text or default)\n"
		"  end\n"
		"end)(option)\n", out);
}

static void print_learned(const Written *w, FILE *out)
{
	double value = w->as_init ? w->found->value[0] : w->found->base;

	fprintf(out, "local learned = (function(learned)\n"
		"  local calls = 0\n"
		"  return function(shape, init, bounds)\n"
		"    calls = calls + 1\n"
		"    if calls == %d then return learned(shape, %.17g%s) end\n"
		"    return learned(shape, init, bounds)\n"
		"  end\n"
		"end)(learned)\n", w->param->call + 1, value, w->as_init ? ", bounds" : "");
}

/* The function that gives the parameter's value in the place of c.NAME. */
static void print_value(const Written *w, FILE *out)
{
	const Param *p = w->param;
	bool by_head = w->options->per == CALIBRATE_PER_HEAD;
	int64_t count = by_head ? w->found->heads : 1;
	const char *low = isfinite(p->min) ? "max(" : "", *high = isfinite(p->max) ? "min(" : "";

	fprintf(out, "  local base, values = %.17g, {", w->found->base);
	for (int64_t h = 0; h < count; h++)
		fprintf(out, "%s%.17g", h ? ", " : " ", w->found->value[h]);
	fputs(" }\n  local function calibrated(c)\n", out);
	if (by_head)
		fputs("    local change = 0\n"
			"    for n = #values, 1, -1 do change = where(eq(c.head, n - 1), values[n] - base, change) end\n", out);
	else
		fputs("    local change = values[1] - base\n", out);
	if (w->one_layer)
		fprintf(out, "    change = where(eq(c.layer, %d), change, 0)\n", w->layer);
	fprintf(out, "    return %s%sc.%s + change", high, low, p->name);
	if (low[0])
		fprintf(out, ", %.17g)", p->min);
	if (high[0])
		fprintf(out, ", %.17g)", p->max);
	fputs("\n  end\n", out);
}

static void print_attention(const Written *w, FILE *out)
{
	const Spec *spec = w->c->spec;

	fputs("local attention = (function(attention)\n", out);
	print_value(w, out);
	fputs("  local function context(c)\n"
		"    return { i = c.i, view = c.view, head = c.head, layer = c.layer, head_dim = c.head_dim,\n"
		"             q_len = c.q_len, k_len = c.k_len", out);
	for (int p = 0; p < spec->param_count; p++)
		if (&spec->params[p] != w->param && spec->params[p].shape != PARAM_PER_CHANNEL)
			fprintf(out, ", %s = c.%s", spec->params[p].name, spec->params[p].name);
	for (int n = 0; n < spec->constant_count; n++)
		fprintf(out, ", %s = c.%s", spec->constant_names[n], spec->constant_names[n]);
	fprintf(out, ",\n             %s = calibrated(c) }\n"
		"  end\n"
		"  local function pair(c) local all = context(c); all.j = c.j; return all end\n"
		"  return function(spec)\n"
		"    local threshold, score, weight, combine = spec.threshold, spec.score, spec.weight, spec.combine\n"
		"    spec.threshold = function(c) return threshold(context(c)) end\n"
		"    spec.score = score and function(s, c) return score(s, pair(c)) end\n"
		"    spec.weight = function(s, tau, c) return weight(s, tau, pair(c)) end\n"
		"    spec.combine = combine and function(c) return combine(context(c)) end\n"
		"    return attention(spec)\n"
		"  end\n"
		"end)(attention)\n\n", w->param->name);
}

static void print_spec(const Written *w, FILE *out)
{
	const char *source = w->c->source;
	size_t mark = strncmp(source, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;     /* of UTF-8, in front alone */

	print_head_comment(w, out);
	print_options(w, out);
	print_learned(w, out);
	if (!w->as_init)
		print_attention(w, out);
	fwrite(source + mark, 1, w->c->length - mark, out);
}

/* Nothing is written that does not load. */
static bool write_spec(Compilation *c, const Written *w)
{
	char *text = NULL;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);
	Output output;
	bool ok = memory != NULL;

	if (ok) {
		print_spec(w, memory);
		ok = fclose(memory) == 0;
	}
	if (!ok) {
		diag_internal(c->diag, nowhere, "out of memory");
		return false;
	}
	Diag *written = diag_new(c->arena, w->options->output, text);

	ok = spec_load(c->arena, written, w->options->output, text, length, NULL, 0) != NULL;
	if (!ok)
		diag_note(written, nowhere, "the spec with the calibrated values is not written");
	ok = ok && output_open(c->arena, c->diag, w->options->output, &output);
	if (ok) {
		fwrite(text, 1, length, output.file);
		ok = output_commit(c->diag, &output);
	}
	diag_print(written, stderr);
	free(text);
	return ok;
}

static bool is_by_layer(ParamShape shape)
{
	return shape == PARAM_PER_LAYER || shape == PARAM_PER_LAYER_HEAD;
}

static bool write_calibrated(Compilation *c, const Options *options, const Calibration *found, int layer)
{
	const Param *param = &c->spec->params[found->param];
	Written w = {
		.c = c, .options = options, .found = found, .param = param, .layer = layer,
		.one_layer = options->per == CALIBRATE_PER_LAYER ||
			(options->per == CALIBRATE_PER_HEAD && is_by_layer(param->shape)),
		.as_init = options->per == CALIBRATE_PER_GLOBAL && !found->given,
	};

	if (found->given && !found->given_alike)
		fprintf(stderr, "tdagen: %s gives %s several values; the spec begins at %.9g: leave them out to run it with the "
			"calibrated ones\n", options->in, param->name, found->base);
	return write_spec(c, &w);
}

static bool read_options(const Options *options, CalibrateOptions *calibrate)
{
	int64_t layer = 0;

	*calibrate = (CalibrateOptions){ .in = options->in, .param = options->param, .per = (CalibratePer)options->per };
	if (options->layer && !integer_parse(options->layer, strlen(options->layer), 0, INT32_MAX - 1, &layer)) {
		fprintf(stderr, "tdagen: --layer takes a number from 0, not '%s'\n", options->layer);
		return false;
	}
	calibrate->layer = (int)layer;
	if (calibrate_parse_target(options->calibrate_target, &calibrate->target, &calibrate->wanted)) {
		fprintf(stderr, "tdagen: %s\n", tda_error_message());
		return false;
	}
	return true;
}

int calibrate_spec(Compilation *c, const Options *options)
{
	CalibrateOptions calibrate;
	Calibration found = {0};
	tda_kernel *kernel = NULL;
	tda_status failed;
	const char *program = arena_printf(c->arena, "tdagen calibrate %s", options->spec);
	int status = 0;
	FILE *table = options->output && strcmp(options->output, "-") == 0 ? stderr : stdout;

	if (!read_options(options, &calibrate))
		return EXIT_BAD_USAGE;
	c->plan_options.kind = PLAN_DENSE;     /* none of its kernels is run: its manifest is enough */
	if (!pipeline_run(c, STAGE_PLAN, NULL, NULL))
		return EXIT_BAD_SPEC;
	c->ptx = manifest_attach(c->arena, c->spec, c->plan, "");
	if (!(failed = device_for_counting(options->count_by, &calibrate.device)) && calibrate.device &&
			!count_compile(c, COUNT_ABOVE, program, &calibrate.counter)) {
		device_close(calibrate.device);
		return EXIT_BAD_SPEC;
	}
	if (!failed && !(failed = tda_open_memory(c->ptx, strlen(c->ptx), &kernel)))
		failed = calibrate_run(kernel, &calibrate, isatty(STDERR_FILENO), table, &found);
	if (failed) {
		fflush(table);
		fprintf(stderr, "%s: error: %s%s\n", program, tda_error_message(), options->output ? "; no spec is written" : "");
		status = failed == TDA_INTERNAL ? EXIT_INTERNAL : EXIT_BAD_SPEC;
	} else if (options->output && !write_calibrated(c, options, &found, calibrate.layer)) {
		status = EXIT_BAD_SPEC;
	}
	tda_close(kernel);
	tda_close(calibrate.counter);
	device_close(calibrate.device);
	free(found.value);
	return status;
}
