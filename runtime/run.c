#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "check_case.h"
#include "error.h"
#include "inputs.h"
#include "number.h"
#include "run.h"
#include "stats.h"
#include "timing.h"

enum { EXIT_OK = 0, EXIT_BAD = 1, EXIT_USAGE = 2, EXIT_DEFECT = 3 };

/* ---- options ---- */

typedef struct RunOptions {
	bool check, stats, time, info, quick, backward, by_kernel;
	const char *in, *out;
	const char *device;
	int64_t layer, seed, repeats;
	int64_t batch, heads, kv_heads, q_len, k_len;  /* of --time and --stats; 0: not given */
} RunOptions;

typedef enum OptionType { OPTION_FLAG, OPTION_TEXT, OPTION_NUMBER, OPTION_POSITIVE } OptionType;

static const struct {
	const char *name;
	OptionType type;
	size_t offset;                 /* in RunOptions */
	const char *value;             /* as shown in the help */
	const char *help;
} options_table[] = {
	{ "--check",    OPTION_FLAG,   offsetof(RunOptions, check),    "",      "compare with the f64 reference" },
	{ "--quick",    OPTION_FLAG,   offsetof(RunOptions, quick),    "",      "with --check: the short list of cases" },
	{ "--seed",     OPTION_NUMBER, offsetof(RunOptions, seed),     " N",    "of random data (1)" },
	{ "--in",       OPTION_TEXT,   offsetof(RunOptions, in),       " X",    "inputs: a folder of .npy files, an .npz or a .safetensors; "
	                                                                         "with --check: instead of its cases; with "
	                                                                         "--time and --stats: instead of random ones" },
	{ "--out",      OPTION_TEXT,   offsetof(RunOptions, out),      " DIR",  "where outputs are written as .npy" },
	{ "--backward", OPTION_FLAG,   offsetof(RunOptions, backward), "",      "gradients too; the inputs then hold do" },
	{ "--layer",    OPTION_NUMBER, offsetof(RunOptions, layer),    " N",    "which entry of per-layer parameters (0)" },
	{ "--device",   OPTION_TEXT,   offsetof(RunOptions, device),   " D",    "gpu, sim; with --in also reference "
	                                                                         "(gpu where there is one, else sim)" },
	{ "--stats",    OPTION_FLAG,   offsetof(RunOptions, stats),    "",      "of a sparse plan: which pairs it visits, by view "
	                                                                         "and head" },
	{ "--info",     OPTION_FLAG,   offsetof(RunOptions, info),     "",      "what the file says about itself" },
	{ "--time",     OPTION_FLAG,   offsetof(RunOptions, time),     "",      "median times of forward and backward" },
	{ "--by-kernel", OPTION_FLAG,  offsetof(RunOptions, by_kernel), "",     "with --time: each kernel alone, too" },
	{ "--repeats",  OPTION_NUMBER, offsetof(RunOptions, repeats),  " N",    "with --time: launches for the median (20)" },
	{ "--batch",    OPTION_POSITIVE, offsetof(RunOptions, batch),    " N",    "with --time and --stats (1)" },
	{ "--heads",    OPTION_POSITIVE, offsetof(RunOptions, heads),    " N",    "with --time and --stats (16)" },
	{ "--kv-heads", OPTION_POSITIVE, offsetof(RunOptions, kv_heads), " N",    "with --time and --stats (as --heads)" },
	{ "--q-len",    OPTION_POSITIVE, offsetof(RunOptions, q_len),    " N",    "with --time and --stats (4096)" },
	{ "--k-len",    OPTION_POSITIVE, offsetof(RunOptions, k_len),    " N",    "with --time and --stats (as --q-len)" },
};
enum { OPTION_COUNT = sizeof(options_table) / sizeof(options_table[0]) };

void run_print_options(FILE *out)
{
	for (int o = 0; o < OPTION_COUNT; o++) {
		char name[32];

		snprintf(name, sizeof(name), "%s%s", options_table[o].name, options_table[o].value);
		fprintf(out, "  %-16s %s\n", name, options_table[o].help);
	}
}

static tda_status set_option(RunOptions *options, int o, const char *value)
{
	void *field = (char *)options + options_table[o].offset;

	if (options_table[o].type == OPTION_FLAG) {
		*(bool *)field = true;
	} else if (!value) {
		return tda_fail(TDA_BAD_ARGUMENT, "%s needs a value:%s", options_table[o].name, options_table[o].value);
	} else if (options_table[o].type == OPTION_TEXT) {
		*(const char **)field = value;
	} else {
		int least = options_table[o].type == OPTION_POSITIVE;

		if (!integer_parse(value, strlen(value), least, INT32_MAX, field))
			return tda_fail(TDA_BAD_ARGUMENT, "%s needs a number from %d to %d, not '%s'", options_table[o].name,
			                least, INT32_MAX, value);
	}
	return TDA_OK;
}

static tda_status parse_options(int argc, const char *const *argv, RunOptions *options)
{
	*options = (RunOptions){ .seed = 1, .repeats = 20 };
	for (int a = 0; a < argc; a++) {
		tda_status status;
		int o = 0;

		while (o < OPTION_COUNT && strcmp(argv[a], options_table[o].name) != 0)
			o++;
		if (o == OPTION_COUNT)
			return tda_fail(TDA_BAD_ARGUMENT, "unknown option '%s'", argv[a]);
		if ((status = set_option(options, o, a + 1 < argc ? argv[a + 1] : NULL)))
			return status;
		a += options_table[o].type != OPTION_FLAG;
	}
	if (options->repeats < 1 || options->repeats > 10000)
		return tda_fail(TDA_BAD_ARGUMENT, "--repeats needs a number from 1 to 10000");
	return TDA_OK;
}

static tda_status check_options(const RunOptions *o)
{
	static const char *const devices[] = { "gpu", "sim", "reference" };
	bool tensors = !o->check && !o->stats && !o->time && !o->info;
	bool known = !o->device;

	for (int d = 0; d < 3 && o->device; d++)
		known |= strcmp(o->device, devices[d]) == 0;
	if (!known)
		return tda_fail(TDA_BAD_ARGUMENT, "--device is gpu, sim or reference, not '%s'", o->device);
	if (!tensors && o->device && strcmp(o->device, "reference") == 0)
		return tda_fail(TDA_BAD_ARGUMENT, "--device reference is for --in and --out alone");
	if (o->check + o->stats + o->time + o->info > 1)
		return tda_fail(TDA_BAD_ARGUMENT, "--check, --stats, --time and --info exclude each other");
	if (tensors && !(o->in && o->out))
		return tda_fail(TDA_BAD_ARGUMENT, "say what to do: --check, --stats, --time, --info, or --in and --out");
	if (!tensors && (o->out || o->backward || (o->in && o->info)))
		return tda_fail(TDA_BAD_ARGUMENT, "--out and --backward don't go with --check, --stats, --time or --info, --in not "
		                "with --info");
	if (o->in && (o->batch || o->heads || o->kv_heads || o->q_len || o->k_len))
		return tda_fail(TDA_BAD_ARGUMENT, "--batch, --heads, --kv-heads, --q-len and --k-len don't go with --in, whose arrays "
		                "have a shape");
	if (o->in && o->quick)
		return tda_fail(TDA_BAD_ARGUMENT, "--quick shortens the list of cases: it does not go with --in");
	return TDA_OK;
}

static tda_status open_device(const RunOptions *o, Device **device)
{
	DeviceKind kind = !o->device ? DEVICE_DEFAULT : strcmp(o->device, "gpu") == 0 ? DEVICE_GPU : DEVICE_SIM;

	return device_open(kind, device);
}

/* ---- commands ---- */

static tda_status print_info(tda_kernel *kernel, FILE *out)
{
	static const char *const phases[PHASE_KINDS] = {
		[PHASE_FORWARD] = "forward", [PHASE_BACKWARD] = "backward", [PHASE_COUNTING] = "count",
	};
	tda_info info = TDA_INFO_INIT;
	tda_status status = tda_get_info(kernel, &info);

	if (status)
		return status;
	fprintf(out, "spec        %s\nhash        %s\ncompiler    tdagen %s\ntarget      %s\nplan        %s\n", info.name,
	        info.spec_hash, info.compiler, info.target, info.plan);
	fprintf(out, "dtype       %s%s\nhead_dim    %d\nvalue_dim   %d\nviews       %d\nnormalize   %s\n",
	        dtype_text(info.dtype), info.tf32 ? " (products in tf32)" : "", info.head_dim, info.value_dim, info.views,
	        info.l2_normalized ? "l2" : "none");
	fprintf(out, "mask        %s", info.causal ? "causal" : info.window ? "" : "full");
	if (info.window)
		fprintf(out, "%swindow %lld", info.causal ? ", " : "", (long long)info.window);
	fprintf(out, "\noutput norm %s\nexact zeros %s\ntolerance   %g forward, %g backward\n", info.rms_norm ? "rms" : "none",
	        info.zeros_proved ? "proved" : "not proved", info.forward_tolerance, info.backward_tolerance);
	for (int p = 0; p < info.param_count; p++)
		fprintf(out, "parameter   %s %s = %g in [%g, %g]\n", info.params[p].name, param_shape_text(info.params[p].shape),
		        info.params[p].init, info.params[p].min, info.params[p].max);
	for (int k = 0; k < kernel->manifest->kernel_count; k++) {
		const ManifestKernel *entry = &kernel->manifest->kernels[k];

		fprintf(out, "kernel      %-8s %s: %d threads, %u bytes of shared memory\n",
		        phases[entry->phase], entry->entry, entry->block, (unsigned)entry->shared);
	}
	return TDA_OK;
}

static tda_status check_inputs(tda_kernel *kernel, Device *device, const RunOptions *o, FILE *out, int *failures)
{
	const char *slash = strrchr(o->in, '/');
	Problem problem;
	tda_status status = inputs_load(o->in, kernel, (int)o->layer, GRAD_OPTIONAL, &problem);

	if (status)
		return status;
	if (problem.tensor[TENSOR_DO].absent) {
		check_random_grad(&problem, (uint64_t)o->seed);
		fprintf(out, "do: not in %s; drawn at random, seed %lld\n", o->in, (long long)o->seed);
	}
	status = check_problem(&problem, slash && slash[1] ? slash + 1 : o->in, device, out, failures);
	if (status == TDA_BAD_ARGUMENT)
		tda_fail_within(status, "%s: ", o->in);
	problem_free(&problem);
	return status;
}

static tda_status run_check(tda_kernel *kernel, Device *device, const RunOptions *o, FILE *out, int *failures)
{
	CheckOptions options = { .quick = o->quick, .seed = (uint64_t)o->seed };

	fprintf(out, "device: %s\n", device->description);
	options.large = device->ops->mark != NULL;
	return o->in ? check_inputs(kernel, device, o, out, failures) : check_run(kernel, device, &options, out, failures);
}

static tda_shape shape_of(const RunOptions *o)
{
	tda_shape shape = TDA_SHAPE_INIT;

	shape.batch = o->batch ? o->batch : 1;
	shape.heads = o->heads ? o->heads : 16;
	shape.kv_heads = o->kv_heads ? o->kv_heads : shape.heads;
	shape.q_len = o->q_len ? o->q_len : 4096;
	shape.k_len = o->k_len ? o->k_len : shape.q_len;
	shape.layer = (int32_t)o->layer;
	return shape;
}

static tda_status run_time(tda_kernel *kernel, Device *device, const RunOptions *o, FILE *out)
{
	TimeOptions options = { .repeats = (int)o->repeats, .by_kernel = o->by_kernel, .seed = (uint64_t)o->seed, .in = o->in,
		.shape = shape_of(o) };

	return time_run(kernel, device, &options, out);
}

static tda_status run_stats(tda_kernel *kernel, Device *device, const RunOptions *o, FILE *out)
{
	StatsOptions options = { .seed = (uint64_t)o->seed, .in = o->in, .shape = shape_of(o) };

	return stats_run(kernel, device, &options, out);
}

static tda_status run_on_device(Problem *p, Device *device, const RunOptions *o, FILE *out)
{
	enum { POISON = 0xff };
	tda_status status;

	fprintf(out, "device: %s\n", device->description);
	if (!(status = problem_place(p, device)) && !(status = problem_poison(p, POISON)) &&
	    !(status = problem_launch(p, true, o->backward)) && !(status = problem_fetch(p, POISON, o->backward)))
		status = outputs_write(o->out, p, o->backward);
	problem_displace(p);
	return status;
}

static tda_status run_on_reference(const Problem *p, const RunOptions *o, FILE *out)
{
	Reference reference;
	tda_status status = problem_reference(p, o->backward, &reference);

	if (status)
		return status;
	fprintf(out, "device: %s\n%lld of %lld pairs survive\n", device_name(NULL), (long long)reference.survivors,
	        (long long)reference.visible);
	status = outputs_write_reference(o->out, p, &reference, o->backward);
	problem_reference_free(&reference);
	return status;
}

static tda_status run_tensors(tda_kernel *kernel, Device *device, const RunOptions *o, FILE *out)
{
	Problem problem;
	tda_status status = inputs_load(o->in, kernel, (int)o->layer, o->backward ? GRAD_NEEDED : GRAD_UNUSED, &problem);

	if (status)
		return status;
	status = device ? run_on_device(&problem, device, o, out) : run_on_reference(&problem, o, out);
	problem_free(&problem);
	return status;
}

static bool needs_device(const RunOptions *o)
{
	return !o->info && !(o->device && strcmp(o->device, "reference") == 0);
}

int run_main(const RunInput *input, RunMode mode, int argc, const char *const *argv, FILE *out, FILE *err)
{
	RunOptions options;
	tda_kernel *kernel = NULL;
	Device *device = NULL;
	int failures = 0;
	tda_status status = parse_options(argc, argv, &options);

	options.check |= mode == RUN_CHECK;
	if (!status)
		status = check_options(&options);
	if (status) {
		fprintf(err, "%s: error: %s\n", input->program, tda_error_message());
		return EXIT_USAGE;
	}
	status = input->path ? tda_open_file(input->path, &kernel) : tda_open_memory(input->ptx, input->length, &kernel);
	if (!status && needs_device(&options))
		status = open_device(&options, &device);
	if (!status)
		status = options.info    ? print_info(kernel, out)
		         : options.check ? run_check(kernel, device, &options, out, &failures)
		         : options.stats ? run_stats(kernel, device, &options, out)
		         : options.time  ? run_time(kernel, device, &options, out)
		                         : run_tensors(kernel, device, &options, out);
	tda_close(kernel);              /* before the device: its modules lie in the device's context */
	if (device)
		device->ops->close(device);
	fflush(out);
	if (status)
		fprintf(err, "%s: error: %s\n", input->program, tda_error_message());
	if (status == TDA_INTERNAL)
		return EXIT_DEFECT;
	return status || failures ? EXIT_BAD : EXIT_OK;
}
