/* The command line: one table of options, read by the parser, by --help and by the suggestions. */
#include "options.h"

#include <string.h>

#include "../runtime/number.h"
#include "suggest.h"

enum { FOR_COMPILE = 1 << COMMAND_COMPILE, FOR_CHECK = 1 << COMMAND_CHECK, FOR_RUN = 1 << COMMAND_RUN,
	FOR_KERNELS = FOR_COMPILE | FOR_CHECK | FOR_RUN, FOR_CALIBRATE = 1 << COMMAND_CALIBRATE,
	FOR_EXPLORE = 1 << COMMAND_EXPLORE, FOR_DIFF = 1 << COMMAND_DIFF,
	FOR_ALL = FOR_KERNELS | FOR_CALIBRATE | FOR_EXPLORE | FOR_DIFF };

typedef enum OptionId {
	OPTION_OUTPUT, OPTION_TARGET, OPTION_SET, OPTION_PLAN, OPTION_EMIT, OPTION_DUMP_DIR, OPTION_EXPLAIN, OPTION_HEADER,
	OPTION_LINEINFO, OPTION_TIMING, OPTION_DEFECT, OPTION_MARK_CAPACITY, OPTION_HEAVY_KEYS, OPTION_RUNTIME, OPTION_COUNT_BY, OPTION_WANTED, OPTION_PER,
	OPTION_PARAM, OPTION_TENSORS, OPTION_INPUTS, OPTION_LAYER, OPTION_SET_FIRST, OPTION_SET_SECOND, OPTION_SWEEP, OPTION_CSV, OPTION_JSON, OPTION_REPORT,
	OPTION_SOFTMAX, OPTION_NUMBER, OPTION_LAST_NUMBER = OPTION_NUMBER + NUMBER_COUNT - 1, OPTION_LICENSES, OPTION_VERSION, OPTION_HELP
} OptionId;

typedef struct OptionRow {
	OptionId id;
	const char *name;
	const char *value;                 /* what --help calls its value; NULL: it takes none */
	unsigned commands;
	const char *help;                  /* NULL: for tests, not shown */
} OptionRow;

static const OptionRow rows[] = {
	{ OPTION_OUTPUT, "-o", "FILE", FOR_COMPILE, "write the PTX (or what --emit names) to FILE; - is standard output" },
	{ OPTION_TARGET, "--target", "TARGET", FOR_KERNELS | FOR_EXPLORE | FOR_DIFF, "sm_80 (the default: this and every later GPU) or sm_90a" },
	{ OPTION_SET, "--set", "KEY=VALUE", FOR_ALL, "set an option() of the spec; may be repeated" },
	{ OPTION_PLAN, "--plan", "KIND", FOR_KERNELS | FOR_EXPLORE | FOR_DIFF, "dense, sparse, or auto, the default: both where the spec allows, and the shape decides; compiling: or count, pairs for tda_count" },
	{ OPTION_LINEINFO, "--lineinfo", NULL, FOR_KERNELS, "write the spec's lines into the PTX, for profilers" },
	{ OPTION_EMIT, "--emit", "STAGE", FOR_COMPILE, "print one stage, or with --dump-dir write it; all: every stage" },
	{ OPTION_DUMP_DIR, "--dump-dir", "DIR", FOR_COMPILE, "where --emit writes its numbered files" },
	{ OPTION_EXPLAIN, "--explain", NULL, FOR_COMPILE, "print what the kernels will do, what it costs and why" },
	{ OPTION_HEADER, "--header", "FILE", FOR_COMPILE, "write a C header with the PTX and its constants" },
	{ OPTION_RUNTIME, "--device", "DEVICE", FOR_CHECK | FOR_RUN, "gpu, sim or (run) reference; by default gpu where one is" },
	{ OPTION_COUNT_BY, "--device", "DEVICE", FOR_CALIBRATE | FOR_EXPLORE, "calibrate, explore: what counts: gpu, sim or reference; by default gpu where one is, else reference" },
	{ OPTION_RUNTIME, "--quick", NULL, FOR_CHECK, "fewer cases: what the simulator does in seconds" },
	{ OPTION_RUNTIME, "--seed", "N", FOR_CHECK, "of the random data, 1 by default" },
	{ OPTION_RUNTIME, "--in", "PATH", FOR_CHECK | FOR_RUN, "a folder of .npy files, an .npz or a .safetensors: q1, k1, ..., v, do, parameters" },
	{ OPTION_RUNTIME, "--out", "DIR", FOR_RUN, "where o, dq1, dk1, ..., dv and gradients of parameters go, as .npy" },
	{ OPTION_RUNTIME, "--backward", NULL, FOR_RUN, "run the backward too; needs do" },
	{ OPTION_RUNTIME, "--stats", NULL, FOR_RUN, "instead of --out: which pairs a sparse plan visits" },
	{ OPTION_RUNTIME, "--layer", "N", FOR_CHECK | FOR_RUN, "the layer whose parameters are used, from 0" },
	{ OPTION_WANTED, "--target", "NAME=N", FOR_CALIBRATE, "calibrate: survivors=N, pairs above the threshold a row, zeros=SHARE or visited=SHARE" },
	{ OPTION_PER, "--per", "WHAT", FOR_CALIBRATE, "calibrate: head (the default), layer or global: what has a value of its own" },
	{ OPTION_PARAM, "--param", "NAME", FOR_CALIBRATE, "calibrate: the learned parameter, where the threshold reads several" },
	{ OPTION_TENSORS, "--in", "PATH", FOR_CALIBRATE, "calibrate: as of run" },
	{ OPTION_LAYER, "--layer", "N", FOR_CALIBRATE, "calibrate: the layer that the tensors are of, from 0" },
	{ OPTION_OUTPUT, "-o", "FILE", FOR_CALIBRATE, "calibrate: write the spec with these values to FILE" },
	{ OPTION_INPUTS, "--in", "PATH", FOR_EXPLORE, "explore: as of run; again for the next layer; without it tensors are drawn" },
	{ OPTION_LAYER, "--layer", "N", FOR_EXPLORE, "explore: the layer that the first --in is of, from 0" },
	{ OPTION_SWEEP, "--sweep", "NAME=VALUES", FOR_EXPLORE, "explore: a learned parameter or option(), 0.5:1.5:0.25 or 1,2,3; may be repeated" },
	{ OPTION_SOFTMAX, "--softmax", NULL, FOR_EXPLORE, "explore: compare with dense softmax attention of view 1" },
	{ OPTION_REPORT, "--report", "FILE", FOR_EXPLORE, "explore: write one HTML file with plots (needs Python with plotly)" },
	{ OPTION_CSV, "--csv", "FILE", FOR_EXPLORE, "explore: write a line for each head; - is standard output" },
	{ OPTION_JSON, "--json", "FILE", FOR_EXPLORE, "explore: write all figures, maps too; - is standard output" },
	{ OPTION_NUMBER + NUMBER_SEED, "--seed", "N", FOR_EXPLORE, "explore: of what is drawn at random, 1 by default" },
	{ OPTION_NUMBER + NUMBER_BATCH, "--batch", "N", FOR_EXPLORE, "explore: of drawn tensors, 1 by default" },
	{ OPTION_NUMBER + NUMBER_HEADS, "--heads", "N", FOR_EXPLORE, "explore: of drawn tensors, 4 by default" },
	{ OPTION_NUMBER + NUMBER_KV_HEADS, "--kv-heads", "N", FOR_EXPLORE, "explore: of drawn tensors, as --heads by default" },
	{ OPTION_NUMBER + NUMBER_Q_LEN, "--q-len", "N", FOR_EXPLORE, "explore: of drawn tensors, 2048 by default" },
	{ OPTION_NUMBER + NUMBER_K_LEN, "--k-len", "N", FOR_EXPLORE, "explore: of drawn tensors, as --q-len by default" },
	{ OPTION_SET_FIRST, "--set-first", "KEY=VALUE", FOR_DIFF, "diff: as --set, of the first spec alone" },
	{ OPTION_SET_SECOND, "--set-second", "KEY=VALUE", FOR_DIFF, "diff: as --set, of the second spec alone" },
	{ OPTION_TENSORS, "--in", "PATH", FOR_DIFF, "diff: as of run: numbers on these arrays too" },
	{ OPTION_LAYER, "--layer", "N", FOR_DIFF, "diff: the layer that the tensors are of, from 0" },
	{ OPTION_TIMING, "--timing", NULL, FOR_ALL, "print the time each stage took to standard error" },
	{ OPTION_DEFECT, "--defect", "KIND", FOR_KERNELS, NULL },
	{ OPTION_MARK_CAPACITY, "--mark-capacity", "N", FOR_KERNELS, NULL },
	{ OPTION_HEAVY_KEYS, "--heavy-keys", "N", FOR_KERNELS, NULL },
	{ OPTION_LICENSES, "--licenses", NULL, FOR_ALL, "print the licences of tdagen and of what is linked into it" },
	{ OPTION_VERSION, "--version", NULL, FOR_ALL, "print the version" },
	{ OPTION_HELP, "--help", NULL, FOR_ALL, "print this" },
};
enum { ROW_COUNT = sizeof rows / sizeof *rows };

/* Compiling has no word of its own. */
static const char *const command_names[COMMAND_COUNT] = { [COMMAND_CHECK] = "check", [COMMAND_RUN] = "run",
	[COMMAND_CALIBRATE] = "calibrate", [COMMAND_EXPLORE] = "explore", [COMMAND_DIFF] = "diff" };
static const char *const per_names[] = { "head", "layer", "global" };
static const char *const count_names[] = { "gpu", "sim", "reference" };
static const CountBy counts_by[] = { COUNT_BY_GPU, COUNT_BY_SIM, COUNT_BY_REFERENCE };
static const char *const plan_names[] = { "auto", "dense", "sparse", "count" };
static const PlanKind plan_kinds[] = { PLAN_AUTO, PLAN_DENSE, PLAN_SPARSE, PLAN_COUNT };
static const char *const defect_names[] = { "drop-tile", "shift-tau", "drop-mark" };
static const Defect defects[] = { DEFECT_DROP_TILE, DEFECT_SHIFT_TAU, DEFECT_DROP_MARK };

void options_print_help(FILE *out)
{
	fputs("tdagen compiles a spec of threshold attention, written in Lua, to forward and backward GPU kernels in PTX.\n\n"
		"  tdagen SPEC -o FILE [options]           compile\n"
		"  tdagen check SPEC [options]             compile, run, and compare with an f64 reference\n"
		"  tdagen run SPEC --in PATH --out DIR     compile, and run on arrays of yours\n"
		"  tdagen calibrate SPEC --in PATH --target NAME=N [-o FILE]\n"
		"                                          find a parameter's values for so many survivors or so much work\n"
		"  tdagen explore SPEC [--in PATH] [--sweep NAME=VALUES] [--report FILE]\n"
		"                                          what survives, by head and length, and what changes it\n"
		"  tdagen diff SPEC SPEC [--in PATH]       what changes from one spec to another\n"
		"  tdagen cache list|verify|clear          look after the specs that programs have compiled\n\n", out);
	for (int i = 0; i < ROW_COUNT; i++) {
		if (rows[i].help) {
			int width = fprintf(out, "  %s %s", rows[i].name, rows[i].value ? rows[i].value : "");

			fprintf(out, "%*s%s\n", 26 - width, "", rows[i].help);
		}
	}
	fputs("\nStages:", out);
	for (int id = 0; id < STAGE_COUNT; id++)
		fprintf(out, "%s %s (%s)", id ? "," : "", pipeline_stages[id].name, pipeline_stages[id].what);
	fputs("\nExit status: 0 done; 1 an error in the spec, or a failed check; 2 a wrong command line; "
		"3 a failure of tdagen.\n", out);
}

static bool usage_error(const char *problem, const char *word, const char *advice)
{
	fprintf(stderr, "tdagen: %s '%s'\n", problem, word);
	if (advice)
		fprintf(stderr, "tdagen: %s\n", advice);
	fputs("tdagen: see tdagen --help\n", stderr);
	return false;
}

static bool unknown(Arena *arena, const char *problem, const char *word, const char *const *known, int count)
{
	const char *near = suggest_word(word, known, count);
	char *advice = arena_strdup(arena, near ? arena_printf(arena, "did you mean '%s'?", near) : "it can be");

	for (int i = 0; i < count && !near; i++)
		advice = arena_printf(arena, "%s%s %s", advice, i ? "," : "", known[i]);
	return usage_error(problem, word, advice);
}

/* The row for a word of the command line, "--name" or "--name=value", whose value is then given back: the command's own,
 * or else another command's. */
static const OptionRow *find_row(Command command, const char *word, const char **value)
{
	size_t length = strcspn(word, "=");
	const OptionRow *other = NULL;

	*value = word[length] == '=' ? word + length + 1 : NULL;
	for (int i = 0; i < ROW_COUNT; i++) {
		if (strlen(rows[i].name) != length || strncmp(rows[i].name, word, length) != 0)
			continue;
		if (rows[i].commands & 1u << command)
			return &rows[i];
		other = &rows[i];
	}
	return other;
}

static bool unknown_option(Arena *arena, Command command, const char *word)
{
	const char *names[ROW_COUNT];
	int count = 0;

	for (int i = 0; i < ROW_COUNT; i++) {
		if (rows[i].help && (rows[i].commands & 1u << command))
			names[count++] = rows[i].name;
	}
	const char *near = suggest_word(arena_strndup(arena, word, strcspn(word, "=")), names, count);

	return usage_error("unknown option", word, near ? arena_printf(arena, "did you mean '%s'?", near) : NULL);
}

static bool set_choice(Arena *arena, const char *option, const char *value, const char *const *names, int count,
                       int *chosen)
{
	for (int i = 0; i < count; i++) {
		if (strcmp(value, names[i]) == 0) {
			*chosen = i;
			return true;
		}
	}
	return unknown(arena, arena_printf(arena, "unknown value of %s:", option), value, names, count);
}

static bool set_target(Arena *arena, Options *options, const char *value)
{
	const char *names[TARGET_COUNT];
	int chosen;

	for (int i = 0; i < TARGET_COUNT; i++)
		names[i] = target_name((Target)i);
	if (!set_choice(arena, "--target", value, names, TARGET_COUNT, &chosen))
		return false;
	options->plan.target = (Target)chosen;
	return true;
}

static bool set_emit(Arena *arena, Options *options, const char *value)
{
	const char *names[STAGE_COUNT + 1];

	for (int id = 0; id < STAGE_COUNT; id++)
		names[id] = pipeline_stages[id].name;
	names[EMIT_ALL] = "all";
	return set_choice(arena, "--emit", value, names, STAGE_COUNT + 1, &options->emit);
}

static bool add_setting(Arena *arena, const char *option, SpecOption *settings, int *count, const char *value)
{
	size_t key = strcspn(value, "=");

	if (key == 0 || value[key] != '=')
		return usage_error(arena_printf(arena, "%s takes KEY=VALUE, not", option), value, NULL);
	for (int i = 0; i < *count; i++) {
		if (strlen(settings[i].key) == key && strncmp(settings[i].key, value, key) == 0)
			return usage_error(arena_printf(arena, "%s given twice for one key:", option), value, NULL);
	}
	settings[(*count)++] = (SpecOption){ .key = arena_strndup(arena, value, key), .value = value + key + 1 };
	return true;
}

static bool set_number(Arena *arena, Options *options, const OptionRow *row, const char *value)
{
	int number = row->id - OPTION_NUMBER;
	int least = number != NUMBER_SEED;

	if (integer_parse(value, strlen(value), least, 1 << 30, &options->number[number]))
		return true;
	return usage_error(arena_printf(arena, "%s takes a number from %d to 2^30, not", row->name, least), value, NULL);
}

static bool set_count(Arena *arena, const char *option, const char *value, int *to)
{
	int64_t count;

	if (!integer_parse(value, strlen(value), 1, INT32_MAX, &count))
		return usage_error(arena_printf(arena, "%s takes a number from 1, not", option), value, NULL);
	*to = (int)count;
	return true;
}

static bool apply(Arena *arena, Options *options, const OptionRow *row, const char *value)
{
	int chosen = 0;

	if (row->id >= OPTION_NUMBER && row->id <= OPTION_LAST_NUMBER)
		return set_number(arena, options, row, value);
	switch ((int)row->id) {
	case OPTION_OUTPUT: options->output = value; return true;
	case OPTION_HEADER: options->header = value; return true;
	case OPTION_DUMP_DIR: options->dump_dir = value; return true;
	case OPTION_EXPLAIN: options->explain = true; return true;
	case OPTION_LINEINFO: options->plan.line_info = true; return true;
	case OPTION_TIMING: options->timing = true; return true;
	case OPTION_LICENSES: options->licenses = true; return true;
	case OPTION_VERSION: options->version = true; return true;
	case OPTION_HELP: options->help = true; return true;
	case OPTION_TARGET: return set_target(arena, options, value);
	case OPTION_SET: return add_setting(arena, row->name, options->settings, &options->setting_count, value);
	case OPTION_SET_FIRST:
		return add_setting(arena, row->name, options->first_settings, &options->first_setting_count, value);
	case OPTION_SET_SECOND:
		return add_setting(arena, row->name, options->second_settings, &options->second_setting_count, value);
	case OPTION_EMIT: return set_emit(arena, options, value);
	case OPTION_PLAN:
		if (!set_choice(arena, row->name, value, plan_names, 4, &chosen))
			return false;
		options->plan.kind = plan_kinds[chosen];
		return true;
	case OPTION_DEFECT:
		if (!set_choice(arena, row->name, value, defect_names, 3, &chosen))
			return false;
		options->plan.defect = defects[chosen];
		return true;
	case OPTION_COUNT_BY:
		if (!set_choice(arena, row->name, value, count_names, 3, &chosen))
			return false;
		options->count_by = counts_by[chosen];
		return true;
	case OPTION_WANTED: options->calibrate_target = value; return true;
	case OPTION_PARAM: options->param = value; return true;
	case OPTION_TENSORS: options->in = value; return true;
	case OPTION_INPUTS: options->inputs[options->input_count++] = value; return true;
	case OPTION_LAYER: options->layer = value; return true;
	case OPTION_SWEEP: options->sweeps[options->sweep_count++] = value; return true;
	case OPTION_REPORT: options->report = value; return true;
	case OPTION_CSV: options->csv = value; return true;
	case OPTION_JSON: options->json = value; return true;
	case OPTION_SOFTMAX: options->softmax = true; return true;
	case OPTION_PER: return set_choice(arena, row->name, value, per_names, 3, &options->per);
	case OPTION_MARK_CAPACITY: return set_count(arena, row->name, value, &options->plan.mark_capacity);
	case OPTION_HEAVY_KEYS: return set_count(arena, row->name, value, &options->plan.heavy_keys);
	case OPTION_RUNTIME:
		options->runtime_args[options->runtime_arg_count++] = row->name;
		if (row->value)
			options->runtime_args[options->runtime_arg_count++] = value;
		return true;
	}
	return false;
}

/* The option at argv[*at]; moves *at to its last word. */
static bool parse_option(Arena *arena, Options *options, int argc, char **argv, int *at)
{
	const char *word = argv[*at], *value;
	const OptionRow *row = find_row(options->command, word, &value);

	if (!row)
		return unknown_option(arena, options->command, word);
	if (!(row->commands & 1u << options->command)) {
		return usage_error(arena_printf(arena, "%s has no option", options->command == COMMAND_COMPILE ?
			"compiling" : command_names[options->command]), row->name, NULL);
	}
	if (!row->value && value)
		return usage_error("this option takes no value:", word, NULL);
	if (row->value && !value) {
		if (*at + 1 >= argc)
			return usage_error(arena_printf(arena, "%s is missing after", row->value), word, NULL);
		value = argv[++*at];
	}
	if (row->value && !*value)
		return usage_error(arena_printf(arena, "%s is empty after", row->value), row->name, NULL);
	return apply(arena, options, row, value);
}

static bool check_explore(const Options *options)
{
	const char *const files[] = { options->csv, options->json };

	for (int n = NUMBER_BATCH; n < NUMBER_COUNT && options->input_count; n++)
		if (options->number[n] >= 0)
			return usage_error("--batch, --heads, --kv-heads, --q-len and --k-len don't go with --in, whose arrays have a shape:",
				options->inputs[0], NULL);
	if (options->report && strcmp(options->report, "-") == 0)
		return usage_error("--report needs the name of a file, not", options->report, NULL);
	if (files[0] && files[1] && strcmp(files[0], files[1]) == 0)
		return usage_error("--csv and --json name the same file:", files[0], NULL);
	return true;
}

/* What only the whole command line can tell. */
static bool check_combination(const Options *options)
{
	bool to_files = options->emit == EMIT_ALL || options->dump_dir;

	if (options->help || options->version || options->licenses)
		return true;
	if (!options->spec) {
		fputs("tdagen: no spec given\n"
			"tdagen: for example: tdagen dsl/specs/tda.lua -o tda.ptx; see tdagen --help\n", stderr);
		return false;
	}
	if (options->plan.kind == PLAN_COUNT && options->command != COMMAND_COMPILE)
		return usage_error("kernels that count compute no attention: compile them with -o, not with --plan", "count",
			options->command == COMMAND_EXPLORE ? "explore makes its own, where --device is not reference" : NULL);
	if (options->command == COMMAND_CALIBRATE && !(options->in && options->calibrate_target))
		return usage_error("calibrate needs the option", options->in ? "--target" : "--in",
			"for example: tdagen calibrate dsl/specs/tda.lua --in heads.npz --target survivors=2");
	if (options->command == COMMAND_EXPLORE)
		return check_explore(options);
	if (options->command == COMMAND_DIFF && !options->other)
		return usage_error("diff needs a second spec beside", options->spec, "for example: tdagen diff dsl/specs/tra.lua "
			"dsl/specs/tda.lua");
	if (options->command != COMMAND_COMPILE)
		return true;
	if (options->emit == EMIT_ALL && !options->dump_dir)
		return usage_error("this needs --dump-dir DIR:", "--emit all", NULL);
	if (options->dump_dir && options->emit == EMIT_NOTHING)
		return usage_error("this needs --emit STAGE:", "--dump-dir", "did you mean --emit all?");
	if (!options->output && !to_files && options->emit == EMIT_NOTHING && !options->explain && !options->header)
		return usage_error("nothing to do with", options->spec, "give -o FILE, --emit STAGE, --explain or --header FILE");
	return true;
}

bool options_parse(Arena *arena, int argc, char **argv, Options *options)
{
	bool only_files = false;               /* after -- */
	int first = 1;

	*options = (Options){ .emit = EMIT_NOTHING };
	for (int n = 0; n < NUMBER_COUNT; n++)
		options->number[n] = -1;
	options->first_settings = ARENA_ARRAY(arena, SpecOption, argc + 1);
	options->second_settings = ARENA_ARRAY(arena, SpecOption, argc + 1);
	options->inputs = ARENA_ARRAY(arena, const char *, argc + 1);
	options->sweeps = ARENA_ARRAY(arena, const char *, argc + 1);
	options->settings = ARENA_ARRAY(arena, SpecOption, argc + 1);
	options->runtime_args = ARENA_ARRAY(arena, const char *, 2 * argc + 1);
	for (int command = COMMAND_CHECK; argc > 1 && command < COMMAND_COUNT; command++) {
		if (strcmp(argv[1], command_names[command]) == 0) {
			options->command = (Command)command;
			first = 2;
		}
	}
	for (int at = first; at < argc; at++) {
		if (!only_files && strcmp(argv[at], "--") == 0) {
			only_files = true;
		} else if (!only_files && argv[at][0] == '-' && argv[at][1]) {
			if (!parse_option(arena, options, argc, argv, &at))
				return false;
		} else if (options->command == COMMAND_DIFF && options->spec && !options->other) {
			options->other = argv[at];
		} else if (options->spec) {
			const char *near = suggest_word(options->spec, command_names + 1, COMMAND_COUNT - 1);

			return usage_error(options->other ? "two specs at a time; a third was given:" : "one spec at a time; a second was given:", argv[at],
				near ? arena_printf(arena, "did you mean 'tdagen %s'?", near) : NULL);
		} else {
			options->spec = argv[at];
		}
	}
	return check_combination(options);
}
