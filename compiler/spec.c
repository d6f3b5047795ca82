/* A spec as text. Every field is written, in a fixed order, so that the text identifies the spec. */
#include "spec.h"

#include <math.h>
#include <string.h>
#include "expr_internal.h"

static const struct {
	const char *name;
	int size;
} dtypes[] = { [DTYPE_F32] = { "f32", 4 }, [DTYPE_F16] = { "f16", 2 }, [DTYPE_BF16] = { "bf16", 2 } };

static const char *const shape_names[] = {
	[PARAM_SCALAR] = "scalar",
	[PARAM_PER_HEAD] = "per_head",
	[PARAM_PER_LAYER] = "per_layer",
	[PARAM_PER_LAYER_HEAD] = "per_layer_head",
	[PARAM_PER_CHANNEL] = "per_channel",
};

const char *dtype_name(DType dtype)
{
	return dtypes[dtype].name;
}

int dtype_size(DType dtype)
{
	return dtypes[dtype].size;
}

const char *param_shape_name(ParamShape shape)
{
	return shape_names[shape];
}

const char *const *spec_param_names(const Spec *spec)
{
	return spec->param_names;
}

static char *infix(Arena *arena, const Spec *spec, const Expr *e)
{
	return expr_print(arena, e, spec_param_names(spec));
}

static void print_masks(const Spec *spec, FILE *out)
{
	fprintf(out, "mask%s", spec->causal || spec->window ? "" : " full");
	if (spec->causal)
		fprintf(out, " causal");
	if (spec->window)
		fprintf(out, " window(%lld)", (long long)spec->window);
	fputc('\n', out);
}

static void print_param(const Param *param, FILE *out)
{
	char init[EXPR_NUMBER_SIZE], min[EXPR_NUMBER_SIZE], max[EXPR_NUMBER_SIZE];
	fprintf(out, "param %s %s init %s min %s max %s\n", param->name, param_shape_name(param->shape),
	        expr_number_text(param->init, init), expr_number_text(param->min, min), expr_number_text(param->max, max));
}

static void print_norm(const Spec *spec, FILE *out)
{
	char eps[EXPR_NUMBER_SIZE];
	if (!spec->rms_norm)
		fprintf(out, "output none\n");
	else
		fprintf(out, "output rms_norm eps %s gain %s\n", expr_number_text(spec->rms_eps, eps),
		        spec->gain >= 0 ? spec->params[spec->gain].name : "none");
}

void spec_print(const Spec *spec, FILE *out)
{
	Arena *arena = arena_new();
	if (!arena)
		return;
	fprintf(out, "name %s\n", spec->name);
	fprintf(out, "dtype %s\n", dtype_name(spec->dtype));
	fprintf(out, "precision %s\n", spec->precision == PRECISION_TF32 ? "tf32" : "ieee");
	fprintf(out, "head_dim %d\nvalue_dim %d\nviews %d\n", spec->head_dim, spec->value_dim, spec->views);
	fprintf(out, "normalize %s\n", spec->normalize == NORMALIZE_L2 ? "l2" : "none");
	print_masks(spec, out);
	for (int k = 0; k < spec->param_count; k++)
		print_param(&spec->params[k], out);
	fprintf(out, "threshold %s\n", infix(arena, spec, spec->threshold));
	fprintf(out, "score %s\n", infix(arena, spec, spec->score));
	fprintf(out, "weight %s\n", infix(arena, spec, spec->weight));
	for (int k = 0; k < spec->views; k++)
		fprintf(out, "combine %d %s\n", k + 1, infix(arena, spec, spec->combine[k]));
	print_norm(spec, out);
	arena_free(arena);
}

static void print_with_interval(Arena *arena, const Spec *spec, const char *label, const Expr *e, FILE *out)
{
	IntervalEnv env = expr_proof_env();
	Interval x = expr_interval(e, &env);
	fprintf(out, "%s = %s\n", label, infix(arena, spec, e));
	fprintf(out, "    in [%.6g, %.6g]%s\n", x.lo + 0.0, x.hi + 0.0,   /* -0 as 0 */
	        x.nan ? " or nan" : "");
}

static void print_derivative(Arena *arena, const Spec *spec, const char *label, const Expr *e, ExprVar var, int param,
                             FILE *out)
{
	const char *by = var == VAR_PARAM ? spec->params[param].name : expr_var_name(var);
	const Expr *d = expr_derivative(spec->pool, e, var, param);
	print_with_interval(arena, spec, arena_printf(arena, "d %s / d %s", label, by), d, out);
}

static void print_function(Arena *arena, const Spec *spec, const char *label, const Expr *e, FILE *out)
{
	print_with_interval(arena, spec, label, e, out);
	for (ExprVar var = VAR_S; var <= VAR_TAU; var++)
		if (e->vars >> var & 1)
			print_derivative(arena, spec, label, e, var, 0, out);
	for (int k = 0; k < spec->param_count; k++)
		if (e->params >> k & 1)
			print_derivative(arena, spec, label, e, VAR_PARAM, k, out);
}

static void print_proof(Arena *arena, const Spec *spec, FILE *out)
{
	const Expr *factor, *obstacle;
	if (expr_prove_zero_below(spec->pool, spec->weight, &factor, &obstacle))
		fprintf(out, "zeros proved: weight is 0 for s <= tau by %s\n", infix(arena, spec, factor));
	else
		fprintf(out, "zeros none: %s may be other than 0 for s <= tau, or not finite\n", infix(arena, spec, obstacle));
	bool increases = expr_is_increasing_in_s(spec->pool, spec->score);
	fprintf(out, "score %s in s\n", increases ? "increases" : "may not increase");
}

void spec_print_expressions(const Spec *spec, FILE *out)
{
	Arena *arena = arena_new();
	if (!arena)
		return;
	print_function(arena, spec, "threshold", spec->threshold, out);
	print_function(arena, spec, "score", spec->score, out);
	print_function(arena, spec, "weight", spec->weight, out);
	for (int k = 0; k < spec->views; k++)
		print_function(arena, spec, arena_printf(arena, "combine %d", k + 1), spec->combine[k], out);
	print_proof(arena, spec, out);
	arena_free(arena);
}

void spec_params_by_head(Spec *spec)
{
	for (int p = 0; p < spec->param_count; p++)
		if (spec->params[p].shape != PARAM_PER_CHANNEL)
			spec->params[p].shape = PARAM_PER_HEAD;
}
