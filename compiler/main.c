/* tdagen: reads the command line, runs the pipeline, writes what was asked for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <llvm/Config/llvm-config.h>

#include "../runtime/run.h"
#include "header.h"
#include "licenses.h"
#include "main_cache.h"
#include "main_calibrate.h"
#include "main_diff.h"
#include "main_explore.h"
#include "main_read.h"
#include "options.h"
#include "output.h"
#include "pipeline.h"

static const Loc nowhere = { 0, 0 };

/* What emit_stage() needs. */
typedef struct Emission {
	const Options *options;
	int files;                         /* written to --dump-dir so far */
} Emission;

static bool write_stage(Compilation *c, StageId stage, const char *path)
{
	Output output;

	if (!output_open(c->arena, c->diag, path, &output))
		return false;
	pipeline_stages[stage].print(c, output.file);
	return output_commit(c->diag, &output);
}

static bool emit_stage(Compilation *c, StageId id, void *user)
{
	Emission *emission = user;
	const Options *options = emission->options;
	const Stage *stage = &pipeline_stages[id];
	bool emitted = options->emit == EMIT_ALL || options->emit == (int)id;

	if (emitted && options->dump_dir &&
			!write_stage(c, id, arena_printf(c->arena, "%s/%d-%s.%s", options->dump_dir, id + 1, stage->name,
			stage->extension)))
		return false;
	bool named = options->emit >= 0 && options->emit < STAGE_COUNT;
	StageId for_output = named ? (StageId)options->emit : STAGE_PTX;

	if (id != for_output)
		return true;
	if (options->output)
		return write_stage(c, id, options->output);
	return !named || options->dump_dir || write_stage(c, id, "-");
}

static StageId last_stage(const Options *options, Arena *arena)
{
	if (options->emit == EMIT_ALL)
		return ptxas_find(arena) ? STAGE_CUBIN : STAGE_PTX;
	if (options->emit == STAGE_CUBIN || options->explain || options->header || options->emit == EMIT_NOTHING)
		return options->emit == STAGE_CUBIN ? STAGE_CUBIN : STAGE_PTX;
	return (StageId)options->emit;
}

static void print_usage(const KernelUsage *usage, int count, const char *chip, FILE *out)
{
	fprintf(out, "\nptxas, for %s:\n", chip);
	for (int i = 0; i < count; i++) {
		fprintf(out, "  %-20s %3d registers", usage[i].entry, usage[i].registers);
		if (usage[i].spill_store_bytes || usage[i].spill_load_bytes || usage[i].stack_bytes) {
			fprintf(out, ", %d bytes of stack, spills of %d bytes stored and %d loaded", usage[i].stack_bytes,
				usage[i].spill_store_bytes, usage[i].spill_load_bytes);
		} else {
			fputs(", no spills", out);
		}
		fputc('\n', out);
	}
}

static bool explain(Compilation *c, FILE *out)
{
	const char *chip = target_name(c->plan_options.target);
	KernelUsage *usage;
	int count;

	plan_explain(c->plan, out);
	if (!ptxas_find(c->arena)) {
		fputs("\nptxas was not found (in CUDA_HOME or PATH): registers are not known\n", out);
		return true;
	}
	if (!ptxas_run(c->arena, c->diag, c->ptx, chip, NULL, NULL, &usage, &count))
		return false;
	print_usage(usage, count, chip, out);
	return true;
}

static bool write_header(Compilation *c, const char *path)
{
	Output output;

	if (!output_open(c->arena, c->diag, path, &output))
		return false;
	header_print(c->spec, c->plan, c->ptx, output.file);
	return output_commit(c->diag, &output);
}

static void print_timing(const Compilation *c)
{
	double total = 0;

	for (int id = 0; id < STAGE_COUNT; id++) {
		total += c->seconds[id];
		if (c->seconds[id] > 0)
			fprintf(stderr, "%-6s %8.1f ms\n", pipeline_stages[id].name, 1e3 * c->seconds[id]);
	}
	fprintf(stderr, "total  %8.1f ms\n", 1e3 * total);
}

static bool make_dump_dir(Compilation *c, const char *path)
{
	if (!path || mkdir(path, 0777) == 0 || errno == EEXIST)
		return true;
	diag_error(c->diag, nowhere, "cannot make the folder %s: %s", path, strerror(errno));
	return false;
}

static bool compile(Compilation *c, const Options *options)
{
	Emission emission = { .options = options };
	bool artifact_on_stdout = (options->output && strcmp(options->output, "-") == 0) ||
		(!options->output && !options->dump_dir && options->emit != EMIT_NOTHING);

	if (!make_dump_dir(c, options->dump_dir) || !pipeline_run(c, last_stage(options, c->arena), emit_stage, &emission))
		return false;
	if (options->header && !write_header(c, options->header))
		return false;
	return !options->explain || explain(c, artifact_on_stdout ? stderr : stdout);
}

/* tdagen check, tdagen run: what tdarun does with a file, done with the PTX just compiled. Returns the exit status. */
static int run_kernels(Compilation *c, const Options *options)
{
	bool check = options->command == COMMAND_CHECK;
	RunInput input = { .program = arena_printf(c->arena, "tdagen %s %s", check ? "check" : "run", options->spec) };

	if (!pipeline_run(c, STAGE_PTX, NULL, NULL))
		return EXIT_BAD_SPEC;
	input.ptx = c->ptx;
	input.length = strlen(c->ptx);
	return run_main(&input, check ? RUN_CHECK : RUN_TENSORS, options->runtime_arg_count, options->runtime_args, stdout,
		stderr);
}

static int run_command(Arena *arena, const Options *options)
{
	Compilation c = {
		.arena = arena, .path = options->spec, .settings = options->settings,
		.setting_count = options->setting_count, .plan_options = options->plan,
	};
	Diag *unread = diag_new(arena, options->spec, NULL);
	int status = EXIT_BAD_SPEC;

	c.source = main_read_spec(arena, unread, options->spec, &c.length);
	c.diag = c.source ? diag_new(arena, options->spec, c.source) : unread;
	if (c.source && options->command == COMMAND_CALIBRATE)
		status = calibrate_spec(&c, options);
	else if (c.source && options->command == COMMAND_EXPLORE)
		status = explore_spec(&c, options);
	else if (c.source && options->command == COMMAND_DIFF)
		status = diff_specs(&c, options);
	else if (c.source && options->command != COMMAND_COMPILE)
		status = run_kernels(&c, options);
	else if (c.source && compile(&c, options))
		status = 0;
	if (options->timing)
		print_timing(&c);
	pipeline_end(&c);
	diag_print(c.diag, stderr);
	return diag_has_internal(c.diag) ? EXIT_INTERNAL : status;
}

int main(int argc, char **argv)
{
	Arena *arena = arena_new();
	Options options;
	int status = 0;

	if (!arena) {
		fputs("tdagen: out of memory\n", stderr);
		return EXIT_INTERNAL;
	}
	if (argc > 1 && strcmp(argv[1], "cache") == 0)
		status = cache_main(arena, argc - 2, argv + 2);
	else if (!options_parse(arena, argc, argv, &options))
		status = EXIT_BAD_USAGE;
	else if (options.help)
		options_print_help(stdout);
	else if (options.version)
		puts("tdagen " TDAGEN_VERSION " (LLVM " LLVM_VERSION_STRING ")");
	else if (options.licenses)
		fputs(licenses_text, stdout);
	else
		status = run_command(arena, &options);
	arena_free(arena);
	if (fflush(stdout) != 0 && status == 0) {
		perror("tdagen: cannot write to standard output");
		status = EXIT_BAD_SPEC;
	}
	return status;
}
