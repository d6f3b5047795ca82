/* The tables of the terminal. */
#include <math.h>
#include <string.h>
#include "explore_report.h"

static int width_of(const ExploreMetric *metric)
{
	int title = (int)strlen(metric->title);

	return title < 8 ? 8 : title;
}

static bool is_shown(const ExploreRun *run, const ExploreMetric *metric, unsigned table)
{
	return metric->show & table && !(metric->needs & ~run->has & ~NEEDS_HEADS);
}

/* At most 8 characters: 99.9891%, 0.3942, 123456. */
static void print_value(MetricUnit unit, double value, int width, FILE *out)
{
	char text[32];

	if (isnan(value))
		snprintf(text, sizeof(text), "-");
	else if (unit == METRIC_SHARE && (value == 0 || value == 1))
		snprintf(text, sizeof(text), "%.0f%%", 100 * value);
	else if (unit == METRIC_SHARE)
		snprintf(text, sizeof(text), "%.*f%%", value > 0.995 && value < 1 ? 4 : value >= 0.1 ? 2 : 3, 100 * value);
	else if (unit == METRIC_FLAG)
		snprintf(text, sizeof(text), "%s", value ? "yes" : "no");
	else if (unit == METRIC_COUNT)
		snprintf(text, sizeof(text), "%.0f", value);
	else
		snprintf(text, sizeof(text), "%.4g", value);
	fprintf(out, " %*s", width, text);
}

static void print_titles(const ExploreRun *run, unsigned table, FILE *out)
{
	for (int n = 0; n < explore_metric_count; n++)
		if (is_shown(run, &explore_metrics[n], table))
			fprintf(out, " %*s", width_of(&explore_metrics[n]), explore_metrics[n].title);
	fputc('\n', out);
}

static void print_values(const ExploreRun *run, const ExploreCounts *counts, unsigned table, FILE *out)
{
	for (int n = 0; n < explore_metric_count; n++)
		if (is_shown(run, &explore_metrics[n], table))
			print_value(explore_metrics[n].unit, explore_value(run, &explore_metrics[n], counts),
			            width_of(&explore_metrics[n]), out);
	fputc('\n', out);
}

static void print_shape(const ExploreReport *report, const ExploreRun *run, FILE *out)
{
	const tda_shape *s = &run->shape;

	fprintf(out, "%s on %s", run->manifest->spec_name, run->in ? run->in : "random tensors");
	if (!run->in)
		fprintf(out, " (seed %llu)", (unsigned long long)report->seed);
	fprintf(out, ", layer %d, batch %lld, heads %lld:%lld, q_len %lld, k_len %lld\n", run->layer, (long long)s->batch,
	        (long long)s->heads, (long long)s->kv_heads, (long long)s->q_len, (long long)s->k_len);
	fprintf(out, "device: %s\n", report->device);
	if (report->drawn_gradient)
		fprintf(out, "do: drawn at random, seed %llu\n", (unsigned long long)report->seed);
	if (!run->manifest->zeros_proved)
		fputs("no exact zeros are proved for this spec: its plan is dense, whatever survives\n", out);
}

static void print_heads(const ExploreRun *run, unsigned table, FILE *out)
{
	fputs(" head", out);
	print_titles(run, table, out);
	for (int64_t h = 0; h < run->result.heads; h++) {
		fprintf(out, "%5lld", (long long)h);
		print_values(run, &run->result.head[h], table, out);
	}
	fputs("  all", out);
	print_values(run, &run->result.all, table, out);
}

static void print_gradients(const ExploreRun *run, FILE *out)
{
	const Manifest *m = run->manifest;

	if (!(run->has & NEEDS_GRADIENTS) || m->param_count == 0)
		return;
	fputs("gradients of parameters:", out);
	for (int p = 0; p < m->param_count; p++) {
		int64_t length = manifest_param_length(m, p, run->shape.heads, run->shape.layers);
		double square = 0;

		for (int64_t n = 0; n < length; n++)
			square += run->result.dparam[p][n] * run->result.dparam[p][n];
		fprintf(out, "%s |d%s| %.4g", p ? "," : "", m->params[p].name, sqrt(square));
	}
	fputc('\n', out);
}

static void print_predicted(const ExploreRun *run, FILE *out)
{
	const Prediction *p = &run->predicted;

	fprintf(out, "predicted time on one " PREDICT_DEVICE ", kernels for %s:\n", run->manifest->target);
	for (int plan = 0; plan < PREDICT_PLANS; plan++) {
		const PlanTimes *times = &p->plan[plan];

		if (!times->known)
			continue;
		fprintf(out, "%8s plan: forward %.4f ms, backward %.4f ms%s\n", predict_plan_names[plan], times->ms[PHASE_FORWARD],
		        times->ms[PHASE_BACKWARD], p->taken == (PredictPlan)plan ? "; this shape takes it" : "");
		if (*times->beyond)
			fprintf(out, "%15s extrapolated, as nothing was timed with: %s\n", "", times->beyond);
	}
}

static void print_times(const ExploreReport *report, const ExploreRun *run, FILE *out)
{
	if (run->has & NEEDS_TIME)
		fprintf(out, "measured time on %s, kernels for %s: forward %.4f ms, backward %.4f ms; counting pairs took "
		        "%.4f ms\n", report->device, run->manifest->target, run->ms[PHASE_FORWARD], run->ms[PHASE_BACKWARD],
		        run->result.count_ms);
	else
		fputs("measured time: none, as no kernel ran on a GPU\n", out);
}

static void print_lengths(const ExploreRun *run, FILE *out)
{
	bool bounded = explore_bounded(run->manifest);

	fprintf(out, "\nSurvivors of a row and view, by how many keys the row sees%s:\n%13s %9s %10s %10s %10s\n",
	        bounded ? "; at most, for scores that are sub-Gaussian with variance 1 / head_dim" : "", "keys", "rows", "survivors",
	        bounded ? "at most" : "", "dead rows");
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		const ExploreOctave *o = &run->result.all.octave[n];
		double chances = (double)o->rows * run->manifest->views;
		char keys[48], bound[32] = "";

		if (o->rows == 0)
			continue;
		long long last = (2LL << n) - 1 < run->shape.k_len ? (2LL << n) - 1 : (long long)run->shape.k_len;

		if (last == 1LL << n)
			snprintf(keys, sizeof(keys), "%lld", last);
		else
			snprintf(keys, sizeof(keys), "%lld-%lld", 1LL << n, last);
		if (bounded)
			snprintf(bound, sizeof(bound), "%.4f", o->bound / chances);
		fprintf(out, "%13s %9lld %10.4f %10s %9.2f%%\n", keys, (long long)o->rows, (double)o->survivors / chances, bound,
		        100 * (double)o->dead / (double)o->rows);
	}
}

/* The sentence, wrapped under its verdict. */
static void print_verdict(const ExploreVerdict *v, FILE *out)
{
	enum { INDENT = 25, WIDTH = 120 };
	static const char *const words[] = { "no", "yes", "-" };
	int column = fprintf(out, "%20s %3s ", v->title, words[v->holds]);
	const char *at = v->text;

	while (*at) {
		int length = (int)strcspn(at, " ");

		if (column + 1 + length > WIDTH) {
			fprintf(out, "\n%*s", INDENT - 1, "");
			column = INDENT - 1;
		}
		column += fprintf(out, " %.*s", length, at);
		at += length;
		at += *at == ' ';
	}
	fputc('\n', out);
}

void explore_print_run(const ExploreReport *report, const ExploreRun *run, FILE *out)
{
	ExploreVerdict verdicts[EXPLORE_VERDICTS];

	print_shape(report, run, out);
	print_heads(run, SHOW_COUNTS, out);
	if (run->result.all.dead_heads)
		fprintf(out, "%lld of %lld heads have no survivor\n", (long long)run->result.all.dead_heads,
		        (long long)run->result.heads);
	fputc('\n', out);
	print_heads(run, SHOW_NORMS, out);
	print_gradients(run, out);
	print_predicted(run, out);
	print_times(report, run, out);
	print_lengths(run, out);
	fputs("\nDo these tensors have what theory assumes?\n", out);
	explore_judge(run, verdicts);
	for (int n = 0; n < EXPLORE_VERDICTS; n++)
		print_verdict(&verdicts[n], out);
}

/* ---- sweeps ---- */

static int name_width(const ExploreReport *report, int n)
{
	size_t width = strlen(report->sweep_names[n]);

	for (int r = 0; r < report->run_count; r++)
		if (report->runs[r].settings && strlen(report->runs[r].settings[n]) > width)
			width = strlen(report->runs[r].settings[n]);
	return width < 6 ? 6 : (int)width;
}

static bool has_layers(const ExploreReport *report)
{
	for (int r = 1; r < report->run_count; r++)
		if (report->runs[r].layer != report->runs[0].layer)
			return true;
	return false;
}

void explore_print_sweep_head(const ExploreReport *report, const ExploreRun *first, FILE *out)
{
	if (!has_layers(report))
		print_shape(report, first, out);
	else
		fprintf(out, "%s by layer%s\ndevice: %s\n", first->manifest->spec_name, report->drawn_gradient ? ", do drawn at random" : "",
		        report->device);
	if (has_layers(report))
		fputs(" layer", out);
	for (int n = 0; n < report->sweep_count; n++)
		fprintf(out, "%s%*s", n ? " " : "", name_width(report, n), report->sweep_names[n]);
	print_titles(first, SHOW_SWEEP, out);
}

void explore_print_sweep_line(const ExploreReport *report, const ExploreRun *run, FILE *out)
{
	if (has_layers(report))
		fprintf(out, "%6d", run->layer);
	for (int n = 0; n < report->sweep_count; n++)
		fprintf(out, "%s%*s", n ? " " : "", name_width(report, n), run->settings[n]);
	print_values(run, &run->result.all, SHOW_SWEEP, out);
}
