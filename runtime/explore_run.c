#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "check_case.h"
#include "error.h"
#include "explore_report.h"
#include "explore_run.h"
#include "half.h"
#include "inputs.h"
#include "number.h"
#include "timing.h"

enum { REPEATS = 20 };                 /* of timed launches */

struct ExploreSession {
	const ExploreSetup *setup;
	Device *device;                /* that kernels run on; NULL: the reference does it all */
	ExploreReport report;
	int done;                      /* runs */
	bool shown;                    /* the progress bar */
	double started, last;          /* seconds */
};

/* ---- progress ---- */

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void show_progress(void *user, double share)
{
	enum { WIDTH = 40 };
	ExploreSession *s = user;
	double now = seconds(), all = (s->done + share) / s->report.run_count;

	if (!isatty(STDERR_FILENO) || now - s->started < 1 || now - s->last < 0.1)
		return;
	s->last = now;
	s->shown = true;
	fputs("\r[", stderr);
	for (int n = 0; n < WIDTH; n++)
		fputc(n < (int)(WIDTH * all) ? '#' : '.', stderr);
	fprintf(stderr, "] %3.0f %%", 100 * all);
	if (s->report.run_count > 1)
		fprintf(stderr, ", run %d of %d", s->done + 1, s->report.run_count);
	fflush(stderr);
}

void explore_session_pause(ExploreSession *s)
{
	if (s->shown)
		fputs("\r\033[K", stderr);
	s->shown = false;
	fflush(s->setup->tables);
}

/* ---- one run ---- */

static tda_status load_problem(ExploreSession *s, const ExploreRun *run, tda_kernel *kernel, Problem *p)
{
	tda_shape shape = s->setup->shape;
	tda_status status;

	shape.layer = run->layer;
	if (!run->in) {
		s->report.drawn_gradient = true;
		return check_random_problem(&shape, kernel, s->setup->seed, p);
	}
	status = inputs_load(run->in, kernel, run->layer, GRAD_OPTIONAL, p);
	if (!status && p->tensor[TENSOR_DO].absent) {
		check_random_grad(p, s->setup->seed);
		s->report.drawn_gradient = true;
	}
	return status;
}

static void set_params(const ExploreSetup *setup, const ExploreRun *run, Problem *p)
{
	for (int n = 0; n < setup->sweep_count; n++) {
		int index = manifest_find_param(p->manifest, setup->sweep_names[n], strlen(setup->sweep_names[n]));
		double value = 0;

		if (!setup->is_param[n] || index < 0)
			continue;
		number_parse(run->settings[n], strlen(run->settings[n]), &value);
		p->param[index].absent = false;
		for (int64_t at = 0; at < p->param[index].dim; at++)
			dtype_store(TDA_F32, p->param[index].host, (size_t)at, value);
	}
}

static tda_status measure(ExploreSession *s, ExploreRun *run, Problem *p, tda_kernel *counter)
{
	ExploreOptions options = {
		.gradients = true, .softmax = s->setup->softmax, .device = s->device, .counter = counter, .progress = show_progress,
		.user = s,
	};
	tda_status status;

	set_params(s->setup, run, p);
	run->manifest = p->manifest;
	run->shape = p->shape;
	run->has = NEEDS_GRADIENTS | (p->manifest->views > 1 ? NEEDS_VIEWS : 0) | (options.softmax ? NEEDS_SOFTMAX : 0);
	status = explore_measure(p, &options, &run->result);
	if (status == TDA_BAD_ARGUMENT && run->in)
		tda_fail_within(status, "%s: ", run->in);
	if (!status)
		explore_predict(p, &run->result.all, &run->predicted);
	if (!status && s->device && s->device->ops->mark && !(status = time_problem(p, s->device, REPEATS, run->ms)))
		run->has |= NEEDS_TIME;
	return status;
}

/* Maps are large, and those of the first settings show where pairs survive. */
static void keep_map(const ExploreSession *s, ExploreRun *run)
{
	for (int n = 0; n < s->setup->sweep_count; n++)
		if (strcmp(run->settings[n], s->report.runs[0].settings[n]) != 0) {
			free(run->result.map);
			run->result.map = NULL;
			return;
		}
}

static void print_run(ExploreSession *s, const ExploreRun *run)
{
	FILE *out = s->setup->tables;

	explore_session_pause(s);
	if (s->report.run_count == 1) {
		explore_print_run(&s->report, run, out);
		return;
	}
	if (run == s->report.runs)
		explore_print_sweep_head(&s->report, run, out);
	explore_print_sweep_line(&s->report, run, out);
	fflush(out);
}

tda_status explore_session_run(ExploreSession *s, int n, tda_kernel *kernel, tda_kernel *counter)
{
	ExploreRun *run = &s->report.runs[n];
	Problem p;
	tda_status status = load_problem(s, run, kernel, &p);

	if (status)
		return status;
	if (!(status = measure(s, run, &p, counter))) {
		keep_map(s, run);
		print_run(s, run);
	}
	problem_free(&p);
	s->done++;
	return status;
}

/* ---- sessions ---- */

tda_status explore_session_open(const ExploreSetup *setup, ExploreSession **session)
{
	ExploreSession *s = calloc(1, sizeof(*s));
	ExploreRun *runs = calloc((size_t)setup->run_count + 1, sizeof(*runs));
	tda_status status = s && runs ? device_for_counting(setup->count_by, &s->device) : tda_fail_memory();

	*session = NULL;
	if (status) {
		free(s);
		free(runs);
		return status;
	}
	for (int r = 0; r < setup->run_count; r++) {
		runs[r].in = setup->points[r].in;
		runs[r].layer = setup->points[r].layer;
		runs[r].settings = setup->points[r].settings;
	}
	s->setup = setup;
	s->started = seconds();
	s->report = (ExploreReport){
		.spec = setup->spec, .device = device_name(s->device), .seed = setup->seed,
		.sweep_count = setup->sweep_count, .sweep_names = setup->sweep_names, .run_count = setup->run_count, .runs = runs,
	};
	*session = s;
	return TDA_OK;
}

void explore_session_free(ExploreSession *s)
{
	if (!s)
		return;
	for (int r = 0; r < s->report.run_count; r++)
		explore_free(&s->report.runs[r].result);
	free(s->report.runs);
	device_close(s->device);
	free(s);
}

bool explore_session_runs_kernels(const ExploreSession *s)
{
	return s->device != NULL;
}

void explore_session_write_csv(const ExploreSession *s, FILE *out)
{
	explore_write_csv(&s->report, out);
}

void explore_session_write_json(const ExploreSession *s, FILE *out)
{
	explore_write_json(&s->report, out);
}
