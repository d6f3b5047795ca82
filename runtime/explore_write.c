/* CSV and JSON, for programs. */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include "explore_report.h"

/* ---- CSV: a line for each head of each run, and one for all heads ---- */

static void write_csv_text(const char *text, FILE *out)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"')
			fputc('"', out);
		fputc(*text, out);
	}
	fputc('"', out);
}

static void write_csv_line(const ExploreReport *report, const ExploreRun *run, const char *head, const ExploreCounts *counts,
                           FILE *out)
{
	write_csv_text(run->in ? run->in : "", out);
	fprintf(out, ",%d,", run->layer);
	for (int n = 0; n < report->sweep_count; n++) {
		write_csv_text(run->settings[n], out);
		fputc(',', out);
	}
	fputs(head, out);
	for (int n = 0; n < explore_metric_count; n++) {
		double value = explore_value(run, &explore_metrics[n], counts);

		fputc(',', out);
		if (isfinite(value))
			fprintf(out, "%.9g", value);
	}
	fputc('\n', out);
}

void explore_write_csv(const ExploreReport *report, FILE *out)
{
	fputs("input,layer", out);
	for (int n = 0; n < report->sweep_count; n++)
		fprintf(out, ",%s", report->sweep_names[n]);
	fputs(",head", out);
	for (int n = 0; n < explore_metric_count; n++)
		fprintf(out, ",%s", explore_metrics[n].key);
	fputc('\n', out);
	for (int r = 0; r < report->run_count; r++) {
		const ExploreRun *run = &report->runs[r];
		char head[24];

		for (int64_t h = 0; h < run->result.heads; h++) {
			snprintf(head, sizeof(head), "%" PRId64, h);
			write_csv_line(report, run, head, &run->result.head[h], out);
		}
		write_csv_line(report, run, "all", &run->result.all, out);
	}
}

/* ---- JSON ---- */

static void write_text(const char *text, FILE *out)
{
	fputc('"', out);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if (iscntrl((unsigned char)*text))
			fprintf(out, "\\u%04x", (unsigned char)*text);
		else
			fputc(*text, out);
	}
	fputc('"', out);
}

static void write_key(const char *key, FILE *out)
{
	write_text(key, out);
	fputc(':', out);
}

static void write_number(double value, FILE *out)
{
	if (isfinite(value))
		fprintf(out, "%.9g", value);
	else
		fputs("null", out);
}

static void write_metrics(FILE *out)
{
	static const char *const units[] = { "number", "count", "share", "ms", "flag" };

	fputs("\"metrics\":[", out);
	for (int n = 0; n < explore_metric_count; n++) {
		const ExploreMetric *metric = &explore_metrics[n];

		fputs(n ? ",\n{\"key\":" : "\n{\"key\":", out);
		write_text(metric->key, out);
		fputs(",\"title\":", out);
		write_text(metric->title, out);
		fprintf(out, ",\"unit\":\"%s\",\"help\":", units[metric->unit]);
		write_text(metric->help, out);
		fputc('}', out);
	}
	fputs("]", out);
}

static void write_scores(const ExploreRun *run, const ExploreCounts *c, FILE *out)
{
	int views = run->manifest->views;

	fputs(",\"scores\":[", out);
	for (int v = 0; v < views; v++) {
		fprintf(out, "%s{\"view\":%d,\"mean\":", v ? "," : "", v + 1);
		write_number(explore_mean(c, v), out);
		fputs(",\"variance\":", out);
		write_number(explore_variance(c, v), out);
		fputs(",\"excess_kurtosis\":", out);
		write_number(explore_kurtosis(c, v), out);
		fputs(",\"share_above_tail\":[", out);
		for (int t = 0; t < EXPLORE_TAILS; t++) {
			fputs(t ? "," : "", out);
			write_number((double)c->above[v][t] / (double)c->visible, out);
		}
		fputs("],\"correlation\":[", out);
		for (int w = 0; w < v; w++) {
			fputs(w ? "," : "", out);
			write_number(explore_correlation(c, v, w), out);
		}
		fputs("]}", out);
	}
	fputc(']', out);
}

static void write_lengths(const ExploreRun *run, const ExploreCounts *c, FILE *out)
{
	bool first = true;

	fputs(",\"lengths\":[", out);
	for (int n = 0; n < EXPLORE_OCTAVES; n++) {
		const ExploreOctave *o = &c->octave[n];
		double chances = (double)o->rows * run->manifest->views;

		if (o->rows == 0)
			continue;
		fprintf(out, "%s{\"keys\":%lld,\"rows\":%" PRId64 ",\"survivors\":", first ? "" : ",", 1LL << n, o->rows);
		write_number((double)o->survivors / chances, out);
		fputs(",\"at_most\":", out);
		write_number(explore_bounded(run->manifest) ? o->bound / chances : NAN, out);
		fprintf(out, ",\"dead_rows\":%.9g,\"consensus\":%" PRId64 ",\"by_chance\":", (double)o->dead / (double)o->rows,
		        o->consensus);
		write_number(o->by_chance, out);
		fputc('}', out);
		first = false;
	}
	fputc(']', out);
}

static void write_counts(const ExploreRun *run, const ExploreCounts *c, FILE *out)
{
	fputs("{", out);
	for (int n = 0; n < explore_metric_count; n++) {
		fputs(n ? "," : "", out);
		write_key(explore_metrics[n].key, out);
		write_number(explore_value(run, &explore_metrics[n], c), out);
	}
	write_lengths(run, c, out);
	write_scores(run, c, out);
}

/* Survivors by cell; null where no pair is visible. */
static void write_map(const Exploration *r, int64_t head, FILE *out)
{
	if (!r->map) {
		fputs("}", out);
		return;
	}
	fputs(",\"map\":[", out);
	for (int64_t row = 0; row < r->map_rows; row++) {
		fputs(row ? ",\n[" : "[", out);
		for (int64_t col = 0; col < r->map_cols; col++) {
			int64_t count = r->map[(head * r->map_rows + row) * r->map_cols + col];

			fputs(col ? "," : "", out);
			if (count < 0)
				fputs("null", out);
			else
				fprintf(out, "%" PRId64, count);
		}
		fputc(']', out);
	}
	fputs("]}", out);
}

static void write_verdicts(const ExploreRun *run, FILE *out)
{
	static const char *const holds[] = { "false", "true", "null" };
	ExploreVerdict verdicts[EXPLORE_VERDICTS];

	explore_judge(run, verdicts);
	fputs(",\n\"theory\":[", out);
	for (int n = 0; n < EXPLORE_VERDICTS; n++) {
		fprintf(out, "%s{\"key\":\"%s\",\"title\":\"%s\",\"holds\":%s,\"text\":", n ? ",\n" : "", verdicts[n].key,
		        verdicts[n].title, holds[verdicts[n].holds]);
		write_text(verdicts[n].text, out);
		fputc('}', out);
	}
	fputc(']', out);
}

static void write_gradients(const ExploreRun *run, FILE *out)
{
	const Manifest *m = run->manifest;

	fputs(",\n\"parameter_gradients\":{", out);
	for (int p = 0; p < m->param_count && run->has & NEEDS_GRADIENTS; p++) {
		int64_t length = manifest_param_length(m, p, run->shape.heads, run->shape.layers);

		fputs(p ? "," : "", out);
		write_key(m->params[p].name, out);
		for (int64_t n = 0; n < length; n++) {
			fputc(n ? ',' : '[', out);
			write_number(run->result.dparam[p][n], out);
		}
		fputc(']', out);
	}
	fputc('}', out);
}

static void write_prediction(const ExploreRun *run, FILE *out)
{
	fprintf(out, ",\n\"prediction\":{\"device\":\"" PREDICT_DEVICE "\",\"target\":\"%s\",\"taken\":\"%s\",\"plans\":{",
	        run->manifest->target, predict_plan_names[run->predicted.taken]);
	for (int plan = 0; plan < PREDICT_PLANS; plan++) {
		const PlanTimes *times = &run->predicted.plan[plan];

		fputs(plan ? "," : "", out);
		write_key(predict_plan_names[plan], out);
		if (!times->known) {
			fputs("null", out);
			continue;
		}
		fprintf(out, "{\"forward_ms\":%.9g,\"backward_ms\":%.9g,\"not_timed\":", times->ms[PHASE_FORWARD], times->ms[PHASE_BACKWARD]);
		write_text(times->beyond, out);
		fputs(",\"kernels\":{", out);
		for (int k = 0; k < PREDICT_KERNELS; k++)
			fprintf(out, "%s\"%s\":%.9g", k ? "," : "", predict_kernel_names[k], times->kernel_ms[k]);
		fputs("}}", out);
	}
	fputs("}}", out);
}

static void write_run(const ExploreReport *report, const ExploreRun *run, FILE *out)
{
	const tda_shape *s = &run->shape;

	fputs("{\"input\":", out);
	if (run->in)
		write_text(run->in, out);
	else
		fputs("null", out);
	fprintf(out, ",\"layer\":%d,\"settings\":{", run->layer);
	for (int n = 0; n < report->sweep_count; n++) {
		fputs(n ? "," : "", out);
		write_key(report->sweep_names[n], out);
		write_text(run->settings[n], out);
	}
	fputs("},\"spec\":", out);
	write_text(run->manifest->spec_name, out);
	fprintf(out, ",\"spec_hash\":\"%s\",\"dtype\":\"%s\",\"head_dim\":%d,\"views\":%d,\"zeros_proved\":%s,\"batch\":%" PRId64
	        ",\"heads\":%" PRId64 ",\"kv_heads\":%" PRId64 ",\"q_len\":%" PRId64 ",\"k_len\":%" PRId64 ",\"map_side\":%" PRId64
	        ",\n\"all\":", run->manifest->spec_hash, dtype_text(run->manifest->dtype), run->manifest->head_dim,
	        run->manifest->views, run->manifest->zeros_proved ? "true" : "false", s->batch, s->heads, s->kv_heads, s->q_len, s->k_len,
	        run->result.map_side);
	write_counts(run, &run->result.all, out);
	fputs("},\n\"by_head\":[", out);
	for (int64_t h = 0; h < run->result.heads; h++) {
		fputs(h ? ",\n" : "\n", out);
		write_counts(run, &run->result.head[h], out);
		write_map(&run->result, h, out);
	}
	fputc(']', out);
	write_gradients(run, out);
	write_prediction(run, out);
	write_verdicts(run, out);
	fputc('}', out);
}

void explore_write_json(const ExploreReport *report, FILE *out)
{
	fputs("{\"format\":1,\"spec\":", out);
	write_text(report->spec, out);
	fputs(",\"device\":", out);
	write_text(report->device, out);
	fprintf(out, ",\"seed\":%" PRIu64 ",\"drawn_gradient\":%s,\"sweep\":[", report->seed, report->drawn_gradient ? "true" : "false");
	for (int n = 0; n < report->sweep_count; n++) {
		fputs(n ? "," : "", out);
		write_text(report->sweep_names[n], out);
	}
	fputs("],\n", out);
	write_metrics(out);
	fputs(",\n\"runs\":[", out);
	for (int r = 0; r < report->run_count; r++) {
		fputs(r ? ",\n" : "\n", out);
		write_run(report, &report->runs[r], out);
	}
	fputs("]}\n", out);
}
