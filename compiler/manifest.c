#include "manifest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sha256.h"

#ifndef TDAGEN_VERSION
#define TDAGEN_VERSION "0.1.0"
#endif

/* Relative 2-norm of outputs; gradients get twice that. f32 stands for "ieee". */
static double tolerance(const Spec *spec)
{
	if (spec->dtype == DTYPE_F16)
		return 1e-3;
	if (spec->dtype == DTYPE_BF16)
		return 5e-3;
	return spec->precision == PRECISION_TF32 ? 2e-3 : 1e-5;
}

/*
 * How far a kernel's score may lie from the exact one. Products of f16 and bf16 are exact and only the sum rounds: at most
 * head_dim additions, each 2^-23 of a partial sum that Cauchy-Schwarz keeps under |q||k| = 1 for unit rows, times the square
 * root that random signs leave; "ieee" adds 2^-22 a product; tf32 rounds each operand to 2^-11.
 */
static double slack(const Spec *spec)
{
	return spec->dtype == DTYPE_F32 && spec->precision == PRECISION_TF32 ? 1e-3 : 2e-6;
}

static const char *number(Arena *arena, double x)
{
	return arena_printf(arena, "%.17g", x);
}

static void print_expressions(Arena *arena, const Spec *spec, FILE *out)
{
	const char *const *names = spec_param_names(spec);
	fprintf(out, "//! threshold %s\n", expr_postfix(arena, spec->threshold, names));
	fprintf(out, "//! score %s\n", expr_postfix(arena, spec->score, names));
	fprintf(out, "//! weight %s\n", expr_postfix(arena, spec->weight, names));
	for (int v = 0; v < spec->views; v++)
		fprintf(out, "//! combine %d %s\n", v + 1, expr_postfix(arena, spec->combine[v], names));
}

static void print_spec(Arena *arena, const Spec *spec, const Plan *plan, FILE *out)
{
	fprintf(out, "//! tdagen-manifest 1.5\n//! compiler %s\n//! target %s\n", TDAGEN_VERSION,
	        target_name(plan->options.target));
	fprintf(out, "//! spec %s %s\n//! plan %s\n", spec->name, spec->hash, plan->next ? "auto" : plan_kind_name(plan));
	fprintf(out, "//! dtype %s\n//! precision %s\n", dtype_name(spec->dtype),
	        spec->precision == PRECISION_TF32 ? "tf32" : "ieee");
	fprintf(out, "//! head_dim %d\n//! value_dim %d\n//! views %d\n", spec->head_dim, spec->value_dim, spec->views);
	fprintf(out, "//! normalize %s\n", spec->normalize == NORMALIZE_L2 ? "l2" : "none");
	if (spec->causal)
		fprintf(out, "//! mask causal\n");
	if (spec->window > 0)
		fprintf(out, "//! mask window %lld\n", (long long)spec->window);
	for (int p = 0; p < spec->param_count; p++) {
		const Param *param = &spec->params[p];
		fprintf(out, "//! param %s %s %s %s %s\n", param->name, param_shape_name(param->shape),
		        number(arena, param->init), number(arena, param->min), number(arena, param->max));
	}
	if (spec->rms_norm)
		fprintf(out, "//! rms_norm %s %s\n", number(arena, spec->rms_eps),
		        spec->gain >= 0 ? spec->params[spec->gain].name : "-");
	print_expressions(arena, spec, out);
	fprintf(out, "//! zeros %s\n", plan->zeros_proved ? "proved" : "none");
	fprintf(out, "//! tolerance %s %s\n", number(arena, tolerance(spec)), number(arena, 2 * tolerance(spec)));
	fprintf(out, "//! slack %s\n", number(arena, slack(spec)));
}

static const Buffer *find_buffer(const Plan *plan, const char *name)
{
	for (int i = 0; i < plan->buffer_count; i++)
		if (strcmp(plan->buffers[i].name, name) == 0)
			return &plan->buffers[i];
	return NULL;
}

/* A size or a number of CTAs: 0 where the other plan is taken. */
static const char *where_taken(Arena *arena, const Plan *plan, const char *formula)
{
	const char *taken = plan_taken(plan, arena);
	return taken ? arena_printf(arena, "%s*(%s)", taken, formula) : formula;
}

/* A buffer that both plans have is one buffer, with the size that the plan which is taken gives it. */
static const char *buffer_bytes(Arena *arena, const Plan *plan, const Buffer *buffer)
{
	const Buffer *other = plan->next ? find_buffer(plan->next, buffer->name) : NULL;
	const char *bytes = where_taken(arena, plan, buffer->bytes);
	if (!other)
		return bytes;
	if (strcmp(buffer->bytes, other->bytes) == 0)
		return buffer->bytes;
	return arena_printf(arena, "%s+%s", bytes, where_taken(arena, plan->next, other->bytes));
}

static void print_buffers(Arena *arena, const Plan *first, FILE *out)
{
	for (const Plan *plan = first; plan; plan = plan->next) {
		if (plan->sparse)
			fprintf(out, "//! kept %d %d %d\n", PLAN_MARK, PLAN_WORD_MARKS, plan_packed_marks(plan));
		if (plan->counts)
			fprintf(out, "//! count %s %d\n", counted_name(plan->options.counted), plan_count_rows(plan));
		if (plan_heavy_rows(plan) > 0)
			fprintf(out, "//! heavy %d %d %d\n", PLAN_HEAVY_PART, plan_heavy_keys(plan), plan_heavy_rows(plan));
		for (int i = 0; i < plan->buffer_count; i++) {
			const Buffer *buffer = &plan->buffers[i];
			if (plan == first || !find_buffer(first, buffer->name))
				fprintf(out, "//! buffer %s %s %s\n", buffer->name, buffer_kind_name(buffer->kind),
				        buffer_bytes(arena, plan, buffer));
		}
	}
}

static void print_launches(Arena *arena, const Plan *plan, FILE *out)
{
	static const char *const args[] = { [ARG_PTR] = "ptr", [ARG_I32] = "i32", [ARG_I64] = "i64", [ARG_MAP] = "map" };
	for (int i = 0; i < plan->launch_count; i++) {
		const Launch *launch = &plan->launches[i];
		fprintf(out, "//! kernel %s %s %d %d %s\n", phase_name(plan, launch), launch->entry,
		        plan_threads(launch), launch->shared_bytes, where_taken(arena, plan, launch->grid));
		if (launch->when)
			fprintf(out, "//! when %s\n", launch->when);
		if (launch->beside)
			fprintf(out, "//! beside\n");
		if (launch->follows)
			fprintf(out, "//! follows\n");
		for (int a = 0; a < launch->arg_count; a++)
			fprintf(out, "//! arg %s %s\n", args[launch->args[a].kind], launch->args[a].source);
	}
}

char *manifest_attach(Arena *arena, const Spec *spec, const Plan *plan, const char *ptx)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	if (!out)
		return NULL;
	print_spec(arena, spec, plan, out);
	print_buffers(arena, plan, out);
	for (; plan; plan = plan->next)
		print_launches(arena, plan, out);
	fclose(out);
	char hex[65];
	sha256_hex(ptx, strlen(ptx), hex);
	char *whole = arena_printf(arena, "%s//! end %s\n%s", text, hex, ptx);
	free(text);
	return whole;
}
