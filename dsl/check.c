/*
 * Looks at the values of a spec's functions at the initial parameters: the threshold for NaN, the others for anything
 * that is not finite. A finding names the operation that makes it.
 */
#include "dsl.h"

#include <math.h>

enum { FIRST_ROWS = 65536, MAX_ROW_LOG2 = 30, SCORE_STEPS = 64 };

typedef struct Check {
	Loader *loader;
	const Spec *spec;
	ExprEnv env;
	double init[SPEC_MAX_PARAMS];
} Check;

static bool is_nan(double value)
{
	return isnan(value);
}

static bool is_not_finite(double value)
{
	return !dsl_is_finite(value);
}

/* The innermost operation whose value is bad while its arguments are good. */
static const Expr *culprit(const Expr *e, const ExprEnv *env, bool (*bad)(double))
{
	bool chosen = e->op == EXPR_WHERE;
	bool first = chosen && expr_eval(e->arg[0], env) != 0;
	for (int k = chosen ? 1 : 0; k < e->arity; k++)
		if ((!chosen || first == (k == 1)) && bad(expr_eval(e->arg[k], env)))
			return culprit(e->arg[k], env, bad);
	return e;
}

/* A number without the sign that a NaN may or may not have. */
static const char *shown(const Check *check, double value)
{
	const char *beyond = isfinite(value) && !dsl_is_finite(value) ? " (beyond float32)" : "";
	return isnan(value) ? "NaN" : arena_printf(check->loader->arena, "%g%s", value, beyond);
}

/* "there log gets -0.5", "there ^ gets 0 and -1" */
static void note_operation(const Check *check, const Expr *e, const char *advice)
{
	const char *text = "";
	for (int k = 0; k < e->arity; k++)
		text = arena_printf(check->loader->arena, "%s%s%s", text, k ? " and " : "",
		                    shown(check, expr_eval(e->arg[k], &check->env)));
	if (e->arity > 0)
		diag_note(check->loader->diag, (Loc){ 0 }, "there '%s' gets %s; %s", expr_op_name(e->op), text, advice);
}

static Loc known(Loc loc, Loc otherwise)
{
	return loc.line > 0 ? loc : otherwise;
}

static void set_row(Check *check, double i)
{
	check->env.var[VAR_I] = i;
	check->env.var[VAR_Q_LEN] = check->env.var[VAR_K_LEN] = i + 1;
}

/* Evaluates the threshold in row i; false after reporting a NaN. */
static bool check_row(Check *check, double i)
{
	set_row(check, i);
	if (!isnan(expr_eval(check->spec->threshold, &check->env)))
		return true;
	const Expr *e = culprit(check->spec->threshold, &check->env, is_nan);
	const char *view = "";
	if (check->spec->views > 1)
		view = arena_printf(check->loader->arena, " (view %g)", check->env.var[VAR_VIEW]);
	diag_error(check->loader->diag, known(e->loc, check->spec->threshold_loc),
	           "the threshold is NaN at i = %.0f, with the initial parameters%s", i, view);
	note_operation(check, e, "keep its argument in range, for example with max(x, 0)");
	return false;
}

static bool check_threshold(Check *check)
{
	const uint32_t of_row = 1u << VAR_I | 1u << VAR_Q_LEN | 1u << VAR_K_LEN, vars = check->spec->threshold->vars;
	int rows = vars & of_row ? FIRST_ROWS : 1, views = vars >> VAR_VIEW & 1 ? check->spec->views : 1;
	for (int view = 1; view <= views; view++) {
		check->env.var[VAR_VIEW] = view;
		for (int i = 0; i < rows; i++)
			if (!check_row(check, i))
				return false;
		for (int log2 = 16; rows > 1 && log2 <= MAX_ROW_LOG2; log2++)
			if (!check_row(check, ldexp(1, log2)))
				return false;
	}
	return true;
}

/* The weight of a raw score in the current row; false after reporting one that is not finite. */
static bool check_score(Check *check, double s, double tau)
{
	const Spec *spec = check->spec;
	Diag *diag = check->loader->diag;
	check->env.var[VAR_S] = s;
	double score = expr_eval(spec->score, &check->env);
	if (!dsl_is_finite(score)) {
		const Expr *e = culprit(spec->score, &check->env, is_not_finite);
		diag_error(diag, known(e->loc, spec->score_loc), "the score is %s at s = %g", shown(check, score), s);
		note_operation(check, e, "a score must be finite for every s from -1 to 1");
		return false;
	}
	check->env.var[VAR_S] = score;
	check->env.var[VAR_TAU] = tau;
	double weight = expr_eval(spec->weight, &check->env);
	if (dsl_is_finite(weight))
		return true;
	const Expr *e = culprit(spec->weight, &check->env, is_not_finite);
	diag_error(diag, known(e->loc, spec->weight_loc), "the weight is %s at s = %g, tau = %g", shown(check, weight),
	           score, tau);
	bool power_of_zero = e->op == EXPR_POW && expr_eval(e->arg[0], &check->env) == 0;
	note_operation(check, e, power_of_zero ? "a power of 0 is finite for exponents above 0 only" :
	               "a weight must be finite for every score");
	if (tau == -INFINITY)
		diag_note(diag, spec->threshold_loc, "this threshold is -inf at i = %g: keep it above, with max(threshold, ...) say",
		          check->env.var[VAR_I]);
	return false;
}

/* Scores from -1 to 1, at the threshold and just beside it. */
static bool check_scores(Check *check, double tau)
{
	for (int k = -SCORE_STEPS; k <= SCORE_STEPS; k++)
		if (!check_score(check, (double)k / SCORE_STEPS, tau))
			return false;
	if (check->spec->score->op != EXPR_VAR || fabs(tau) > 1)
		return true;
	return check_score(check, tau, tau) && check_score(check, nextafterf((float)tau, -2), tau) &&
	       check_score(check, nextafterf((float)tau, 2), tau);
}

static bool check_weights(Check *check)
{
	static const double rows[] = { 0, 1, 2, 10, 100, 1000, 65535, 0x1p30 };
	for (int view = 1; view <= check->spec->views; view++) {
		check->env.var[VAR_VIEW] = view;
		for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
			set_row(check, rows[k]);
			if (!check_scores(check, expr_eval(check->spec->threshold, &check->env)))
				return false;
		}
	}
	return true;
}

static bool check_combine(Check *check)
{
	const Spec *spec = check->spec;
	set_row(check, 0);
	for (int k = 0; k < spec->views; k++) {
		double value = expr_eval(spec->combine[k], &check->env);
		if (dsl_is_finite(value))
			continue;
		const Expr *e = culprit(spec->combine[k], &check->env, is_not_finite);
		diag_error(check->loader->diag, known(e->loc, spec->combine_loc),
		           "coefficient %d of combine is %s with the initial parameters", k + 1, shown(check, value));
		note_operation(check, e, "a coefficient must be finite");
		return false;
	}
	return true;
}

bool dsl_check_values(Loader *loader)
{
	Check check = { .loader = loader, .spec = loader->spec };
	for (int k = 0; k < check.spec->param_count; k++)
		check.init[k] = check.spec->params[k].init;
	check.env.params = check.init;
	check.env.var[VAR_VIEW] = 1;
	return check_threshold(&check) && check_weights(&check) && check_combine(&check);
}
