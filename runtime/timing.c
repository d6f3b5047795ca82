#include <stdlib.h>
#include <string.h>
#include "check_case.h"
#include "error.h"
#include "inputs.h"
#include "timing.h"

enum { COPIES = 4, WARM_UP = 3 };      /* of the inputs; launches before the first that counts */

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof(values[0]), compare_doubles);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Median ms of one phase. The backward runs after a forward of the same copy, which is not timed. */
static tda_status time_phase(Problem *copies, Device *device, Phase phase, int repeats, double *samples, double *ms)
{
	tda_status status = TDA_OK;

	for (int n = -WARM_UP; n < repeats && !status; n++) {
		Problem *p = &copies[(n + WARM_UP) % COPIES];
		double elapsed = 0;

		if ((phase == PHASE_BACKWARD && (status = problem_launch(p, true, false))) ||
		    (status = device->ops->mark(device, 0)) ||
		    (status = problem_launch(p, phase == PHASE_FORWARD, phase == PHASE_BACKWARD)) ||
		    (status = device->ops->mark(device, 1)) || (status = device->ops->synchronize(device)) ||
		    (status = device->ops->elapsed(device, 0, 1, &elapsed)))
			break;
		if (n >= 0)
			samples[n] = elapsed;
	}
	*ms = status ? 0 : median(samples, repeats);
	return status;
}

/* A device that marks the time around every kernel it launches: mark 2k before kernel k, 2k + 1 after it. */
typedef struct MarkingDevice {
	Device base;
	Device *inner;
	bool launched[MANIFEST_MAX_KERNELS];
} MarkingDevice;

static tda_status marking_load(Device *device, tda_kernel *kernel)
{
	Device *inner = ((MarkingDevice *)device)->inner;
	tda_status status = inner->ops->load(inner, kernel);

	device->multiprocessors = inner->multiprocessors;
	return status;
}

static tda_status marking_launch(Device *device, const Manifest *m, int kernel, uint32_t grid, void **args)
{
	MarkingDevice *marking = (MarkingDevice *)device;
	Device *inner = marking->inner;
	tda_status status;

	if (2 * kernel + 1 >= DEVICE_MARKS)
		return inner->ops->launch(inner, m, kernel, grid, args);
	marking->launched[kernel] = true;
	if ((status = inner->ops->mark(inner, 2 * kernel)) || (status = inner->ops->launch(inner, m, kernel, grid, args)))
		return status;
	return inner->ops->mark(inner, 2 * kernel + 1);
}

static tda_status time_kernels(Problem *copies, Device *device, int repeats, double *samples, FILE *out)
{
	static const DeviceOps marking_ops = { .load = marking_load, .launch = marking_launch };
	MarkingDevice marking = { .base = { .ops = &marking_ops }, .inner = device };
	const Manifest *m = copies[0].manifest;
	tda_status status = TDA_OK;

	for (int n = 0; n < repeats && !status; n++) {
		Problem *p = &copies[n % COPIES];

		p->device = &marking.base;
		status = problem_launch(p, true, true);
		p->device = device;
		if (!status)
			status = device->ops->synchronize(device);
		for (int k = 0; k < m->kernel_count && !status; k++)
			if (marking.launched[k])
				status = device->ops->elapsed(device, 2 * k, 2 * k + 1, &samples[k * repeats + n]);
	}
	for (int k = 0; k < m->kernel_count && !status; k++)
		if (marking.launched[k])
			fprintf(out, "  %-40s %10.4f ms\n", m->kernels[k].entry, median(samples + k * repeats, repeats));
	return status;
}

/* Every head of every batch entry gets the data of `one`, a problem of one head: to draw all of it would take far longer
 * than the kernels do. */
static void repeat_head(Problem *to, const Problem *one)
{
	for (int t = 0; t < TENSOR_COUNT; t++) {
		size_t bytes = one->tensor[t].bytes;

		for (size_t at = 0; bytes && !to->tensor[t].output && at < to->tensor[t].bytes; at += bytes)
			memcpy(to->tensor[t].host + at, one->tensor[t].host, bytes);
	}
}

/* Other memory in each, so that no launch finds the inputs of the one before in a cache. */
static tda_status random_copies(Problem *copies, Device *device, tda_kernel *kernel, const TimeOptions *options)
{
	tda_shape head = options->shape;
	Problem one;
	tda_status status;

	head.batch = head.heads = head.kv_heads = 1;
	if ((status = check_random_problem(&head, kernel, options->seed, &one)))
		return status;
	for (int c = 0; c < COPIES && !status; c++) {
		if ((status = problem_new(&copies[c], kernel, options->shape, LAYOUT_PACKED)))
			break;
		repeat_head(&copies[c], &one);
		status = problem_place(&copies[c], device);
	}
	problem_free(&one);
	return status;
}

static tda_status loaded_copies(Problem *copies, Device *device, tda_kernel *kernel, const TimeOptions *options)
{
	tda_status status = TDA_OK;

	for (int c = 0; c < COPIES && !status; c++) {
		status = inputs_load(options->in, kernel, options->shape.layer, GRAD_OPTIONAL, &copies[c]);
		if (!status && copies[c].tensor[TENSOR_DO].absent)
			check_random_grad(&copies[c], options->seed);
		if (!status)
			status = problem_place(&copies[c], device);
	}
	return status;
}

static tda_status copied(Problem *copies, Device *device, const Problem *from)
{
	tda_status status = TDA_OK;

	for (int c = 0; c < COPIES && !status; c++) {
		if ((status = problem_new(&copies[c], from->kernel, from->shape, LAYOUT_PACKED)))
			break;
		for (int t = 0; t < TENSOR_COUNT; t++)
			if (problem_has_tensor(from, t))
				memcpy(copies[c].tensor[t].host, from->tensor[t].host, from->tensor[t].bytes);
		for (int n = 0; n < from->manifest->param_count; n++) {
			copies[c].param[n].absent = from->param[n].absent;
			memcpy(copies[c].param[n].host, from->param[n].host, from->param[n].bytes);
		}
		status = problem_place(&copies[c], device);
	}
	return status;
}

tda_status time_problem(const Problem *problem, Device *device, int repeats, double ms[TRAINING_PHASES])
{
	Problem copies[COPIES] = {0};
	double *samples = calloc((size_t)repeats, sizeof(double));
	tda_status status = samples ? copied(copies, device, problem) : tda_fail_memory();

	for (int phase = 0; phase < TRAINING_PHASES && !status; phase++)
		status = time_phase(copies, device, (Phase)phase, repeats, samples, &ms[phase]);
	for (int c = 0; c < COPIES; c++)
		if (copies[c].kernel)
			problem_free(&copies[c]);
	free(samples);
	return status;
}

tda_status time_run(tda_kernel *kernel, Device *device, const TimeOptions *options, FILE *out)
{
	Problem copies[COPIES] = {0};
	const tda_shape *shape = &copies[0].shape;
	double *samples = calloc((size_t)options->repeats * MANIFEST_MAX_KERNELS, sizeof(double));
	double ms[TRAINING_PHASES] = {0};
	tda_status status = samples ? TDA_OK : tda_fail_memory();

	if (!device->ops->mark)
		status = tda_fail(TDA_UNSUPPORTED, "the simulator has no clock: --time needs --device gpu");
	else if (!status)
		status = (options->in ? loaded_copies : random_copies)(copies, device, kernel, options);
	for (int phase = 0; phase < TRAINING_PHASES && !status; phase++)
		status = time_phase(copies, device, (Phase)phase, options->repeats, samples, &ms[phase]);
	if (!status) {
		fprintf(out, "%s on %s, batch %lld, heads %lld:%lld, q_len %lld, k_len %lld: forward %.4f ms, backward %.4f ms "
		        "(medians of %d)\n", kernel->manifest->spec_name, device->description, (long long)shape->batch,
		        (long long)shape->heads, (long long)shape->kv_heads, (long long)shape->q_len, (long long)shape->k_len,
		        ms[PHASE_FORWARD], ms[PHASE_BACKWARD], options->repeats);
		if (options->by_kernel)
			status = time_kernels(copies, device, options->repeats, samples, out);
	}
	for (int c = 0; c < COPIES; c++)
		if (copies[c].kernel)
			problem_free(&copies[c]);
	free(samples);
	return status;
}
