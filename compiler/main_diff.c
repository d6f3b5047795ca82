/*
 * tdagen diff: what changes from one spec to another. Specs and formulas are compared as --emit spec and --emit expr print
 * them, line by line; a line is known by what it begins with. Kernels are compared as the plan has them.
 */
#include <stdlib.h>
#include <string.h>

#include "../runtime/diff.h"
#include "../runtime/number.h"
#include "main_diff.h"
#include "main_read.h"

static const Loc nowhere = { 0, 0 };

typedef struct Variant {
	Compilation *c;
	KernelUsage *usage;                /* of ptxas; usage_count is 0 where there is none */
	int usage_count;
} Variant;

/* ---- lines ---- */

typedef struct Lines {
	char **text, **key;                /* key: what tells a line from the others of its kind */
	int count;
} Lines;

/* "param beta", "combine 2", "threshold"; of formulas, what stands before " = ". */
static char *key_of(Arena *arena, const char *line)
{
	const char *equals = strstr(line, " = ");
	size_t length = equals ? (size_t)(equals - line) : strcspn(line, " ");

	if (!equals && (strncmp(line, "param ", 6) == 0 || strncmp(line, "combine ", 8) == 0))
		length += 1 + strcspn(line + length + 1, " ");
	return arena_strndup(arena, line, length);
}

/* Of what `print` prints; of lines that pass `keep`. */
static Lines lines_of(Arena *arena, const Spec *spec, void (*print)(const Spec *, FILE *), bool (*keep)(const char *))
{
	char *text = NULL;
	size_t length = 0;
	FILE *memory = open_memstream(&text, &length);
	Lines lines = {0};

	if (!memory)
		return lines;
	print(spec, memory);
	fclose(memory);
	lines.text = ARENA_ARRAY(arena, char *, length + 1);
	lines.key = ARENA_ARRAY(arena, char *, length + 1);
	for (const char *at = text; *at; at += *at == '\n') {
		size_t line = strcspn(at, "\n");
		char *copy = arena_strndup(arena, at, line);

		at += line;
		if (!keep(copy))
			continue;
		lines.text[lines.count] = copy;
		lines.key[lines.count++] = key_of(arena, copy);
	}
	free(text);
	return lines;
}

static int find_line(const Lines *lines, const char *key)
{
	int n = 0;

	while (n < lines->count && strcmp(lines->key[n], key) != 0)
		n++;
	return n < lines->count ? n : -1;
}

/* "- " and "+ " lines, those of one key together. */
static void print_changes(const char *title, const Lines *a, const Lines *b, FILE *out)
{
	int changes = 0;

	fprintf(out, "\n%s\n", title);
	for (int n = 0; n < a->count; n++) {
		int other = find_line(b, a->key[n]);

		if (other >= 0 && strcmp(a->text[n], b->text[other]) == 0)
			continue;
		fprintf(out, "- %s\n", a->text[n]);
		if (other >= 0)
			fprintf(out, "+ %s\n", b->text[other]);
		changes++;
	}
	for (int n = 0; n < b->count; n++) {
		if (find_line(a, b->key[n]) >= 0)
			continue;
		fprintf(out, "+ %s\n", b->text[n]);
		changes++;
	}
	if (changes == 0)
		fputs("  no difference\n", out);
}

static bool keep_all(const char *line)
{
	(void)line;
	return true;
}

/* The formulas themselves are the spec's, and intervals follow from them. */
static bool keep_derived(const char *line)
{
	return strncmp(line, "d ", 2) == 0 || strncmp(line, "zeros ", 6) == 0 || strstr(line, "in s") == line + strlen(line) - 4;
}

/* ---- kernels ---- */

/* "forward", "sparse_forward": entries begin with "tda_". */
static const char *kernel_name(const Launch *launch)
{
	return strncmp(launch->entry, "tda_", 4) == 0 ? launch->entry + 4 : launch->entry;
}

static const Launch *find_launch(const Plan *plan, const char *name)
{
	for (; plan; plan = plan->next)
		for (int n = 0; n < plan->launch_count; n++)
			if (strcmp(kernel_name(&plan->launches[n]), name) == 0)
				return &plan->launches[n];
	return NULL;
}

static const KernelUsage *find_usage(const Variant *v, const Launch *launch)
{
	for (int n = 0; n < v->usage_count; n++)
		if (strcmp(v->usage[n].entry, launch->entry) == 0)
			return &v->usage[n];
	return NULL;
}

static void print_number(const char *what, int a, int b, int *changes, FILE *out)
{
	if (a != b)
		fprintf(out, "%s %s %d -> %d", (*changes)++ ? "," : "", what, a, b);
}

/* Prints a line where the two differ; returns whether they do. */
static bool print_kernel(const Variant v[2], const char *name, const Launch *a, const Launch *b, FILE *out)
{
	const KernelUsage *usage[2] = { find_usage(&v[0], a), find_usage(&v[1], b) };
	char *text = NULL;
	size_t length = 0;
	FILE *line = open_memstream(&text, &length);
	int changes = 0;

	if (!line)
		return false;
	if (a->rows != b->rows || a->cols != b->cols)
		fprintf(line, "%s tile %dx%d -> %dx%d", changes++ ? "," : "", a->rows, a->cols, b->rows, b->cols);
	print_number("threads", plan_threads(a), plan_threads(b), &changes, line);
	print_number("slots", a->slots, b->slots, &changes, line);
	print_number("bytes of shared memory", a->shared_bytes, b->shared_bytes, &changes, line);
	if (a->engine != b->engine)
		fprintf(line, "%s %s", changes++ ? "," : "", b->engine == ENGINE_WGMMA ? "mma.sync -> wgmma" : "wgmma -> mma.sync");
	if (usage[0] && usage[1]) {
		print_number("registers", usage[0]->registers, usage[1]->registers, &changes, line);
		print_number("bytes of stack", usage[0]->stack_bytes, usage[1]->stack_bytes, &changes, line);
	}
	fclose(line);
	if (changes)
		fprintf(out, "  %-22s%s\n", name, text);
	free(text);
	return changes > 0;
}

static void print_alone(const char *sign, const Launch *launch, FILE *out)
{
	fprintf(out, "%s %-22s %d bytes of shared memory\n", sign, kernel_name(launch), launch->shared_bytes);
}

static void print_kernels(const Variant v[2], FILE *out)
{
	int alike = 0;

	fputs("\nkernels\n", out);
	for (const Plan *plan = v[0].c->plan; plan; plan = plan->next)
		for (int n = 0; n < plan->launch_count; n++) {
			const char *name = kernel_name(&plan->launches[n]);
			const Launch *other = find_launch(v[1].c->plan, name);

			if (!other)
				print_alone("-", &plan->launches[n], out);
			else
				alike += !print_kernel(v, name, &plan->launches[n], other, out);
		}
	for (const Plan *plan = v[1].c->plan; plan; plan = plan->next)
		for (int n = 0; n < plan->launch_count; n++)
			if (!find_launch(v[0].c->plan, kernel_name(&plan->launches[n])))
				print_alone("+", &plan->launches[n], out);
	fprintf(out, "  %d kernel%s alike%s\n", alike, alike == 1 ? " is" : "s are",
		v[0].usage_count && v[1].usage_count ? "" : "; registers are not known, as ptxas was not found");
}

/* ---- cost ---- */

/* What each visible pair costs a dense plan, at least: scores and sums of values; for the backward, scores twice, do.v twice, and
 * the sums for dq, dk and dv. */
static void multiply_adds(const Spec *s, int cost[2])
{
	cost[0] = s->views * s->head_dim + s->value_dim;
	cost[1] = 4 * s->views * s->head_dim + 3 * s->value_dim;
}

/* Which pairs a launch computes exactly. */
static const char *computed(const Plan *plan)
{
	if (plan->next)
		return "every visible pair, or those visited, by the shape";
	return plan->sparse ? "the pairs visited" : "every visible pair";
}

static void print_cost(const Variant v[2], FILE *out)
{
	const char *pairs[2] = { computed(v[0].c->plan), computed(v[1].c->plan) };
	int a[2], b[2];

	multiply_adds(v[0].c->spec, a);
	multiply_adds(v[1].c->spec, b);
	fprintf(out, "\nwork\n  multiply-adds of a pair: forward %d -> %d, backward %d -> %d\n",
		a[0], b[0], a[1], b[1]);
	if (strcmp(pairs[0], pairs[1]) == 0)
		fprintf(out, "  pairs computed exactly: %s\n", pairs[0]);
	else
		fprintf(out, "  pairs computed exactly: %s -> %s\n", pairs[0], pairs[1]);
}

/* ---- the whole ---- */

static bool compile_variant(Variant *v, const Options *options, const SpecOption *more, int more_count)
{
	Compilation *c = v->c;
	SpecOption *settings = ARENA_ARRAY(c->arena, SpecOption, options->setting_count + more_count + 1);

	memcpy(settings, options->settings, sizeof(*settings) * (size_t)options->setting_count);
	memcpy(settings + options->setting_count, more, sizeof(*settings) * (size_t)more_count);
	c->settings = settings;
	c->setting_count = options->setting_count + more_count;
	if (!pipeline_run(c, STAGE_PTX, NULL, NULL))
		return false;
	return !ptxas_find(c->arena) || ptxas_run(c->arena, c->diag, c->ptx, target_name(c->plan_options.target), NULL, NULL,
		&v->usage, &v->usage_count);
}

static void print_all(Arena *arena, const Variant v[2], FILE *out)
{
	const Spec *a = v[0].c->spec, *b = v[1].c->spec;
	Lines spec[2] = { lines_of(arena, a, spec_print, keep_all), lines_of(arena, b, spec_print, keep_all) };
	Lines derived[2] = {
		lines_of(arena, a, spec_print_expressions, keep_derived), lines_of(arena, b, spec_print_expressions, keep_derived),
	};

	fprintf(out, "--- %s\n+++ %s\n", v[0].c->path, v[1].c->path);
	print_changes("spec", &spec[0], &spec[1], out);
	print_changes("derivatives and proofs", &derived[0], &derived[1], out);
	print_kernels(v, out);
	print_cost(v, out);
}

/* Of tensors, where there are some; or a prediction alone. */
static int run_numbers(const Variant v[2], const Options *options, int layer)
{
	DiffOptions diff = { .in = options->in, .layer = layer, .seed = 1 };
	tda_kernel *kernels[2] = { NULL, NULL };
	tda_status status = TDA_OK;

	for (int n = 0; n < 2 && !status; n++)
		status = tda_open_memory(v[n].c->ptx, strlen(v[n].c->ptx), &kernels[n]);
	putchar('\n');
	if (!status && options->in)
		status = diff_run(kernels, &diff, stdout);
	else if (!status)
		diff_predict(kernels, stdout);
	if (status) {
		fflush(stdout);
		fprintf(stderr, "tdagen diff: error: %s\n", tda_error_message());
	}
	tda_close(kernels[0]);
	tda_close(kernels[1]);
	return status == TDA_INTERNAL ? EXIT_INTERNAL : status ? EXIT_BAD_SPEC : 0;
}

int diff_specs(Compilation *first, const Options *options)
{
	Arena *arena = first->arena;
	Diag *unread = diag_new(arena, options->other, NULL);
	Compilation second = { .arena = arena, .path = options->other, .plan_options = options->plan };
	Variant v[2] = { { .c = first }, { .c = &second } };
	int64_t layer = 0;
	int status = EXIT_BAD_SPEC;

	if (options->layer && !integer_parse(options->layer, strlen(options->layer), 0, INT32_MAX - 1, &layer)) {
		fprintf(stderr, "tdagen: --layer takes a number from 0, not '%s'\n", options->layer);
		return EXIT_BAD_USAGE;
	}
	second.source = main_read_spec(arena, unread, options->other, &second.length);
	second.diag = second.source ? diag_new(arena, options->other, second.source) : unread;
	if (compile_variant(&v[0], options, options->first_settings, options->first_setting_count) && second.source &&
			compile_variant(&v[1], options, options->second_settings, options->second_setting_count)) {
		print_all(arena, v, stdout);
		status = run_numbers(v, options, (int)layer);
	}
	if (diag_has_internal(second.diag))
		diag_internal(first->diag, nowhere, "the second spec could not be compiled");
	diag_print(second.diag, stderr);
	pipeline_end(&second);
	return status;
}
