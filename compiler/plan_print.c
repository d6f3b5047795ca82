/* The plan as text, for people. */
#include "plan.h"

#include "expr.h"

/* Whose outputs a launch computes. */
static const char *const blocks_text[] = {
	[BLOCKS_ALL] = "", [BLOCKS_LIGHT] = " of light blocks", [BLOCKS_HEAVY] = " of heavy blocks",
};

static bool counts(const Launch *launch)
{
	return launch->role == ROLE_COUNT_PAIRS || launch->role == ROLE_STATISTICS;
}

static bool is_tiled(const Launch *launch)
{
	return launch->role == ROLE_FORWARD || launch->role == ROLE_BACKWARD_Q || launch->role == ROLE_BACKWARD_KV || counts(launch);
}

/* Which outputs a tiled launch makes: "dk1 dk2 dv". */
static void print_outputs(const Launch *launch, FILE *out)
{
	if (counts(launch)) {
		fputs(role_purpose(launch->role), out);
		return;
	}
	if (launch->role == ROLE_FORWARD)
		fputs("o", out);
	const char *separator = "";
	for (int v = launch->first_view; launch->role != ROLE_FORWARD && v < launch->first_view + launch->view_count; v++) {
		fprintf(out, "%sd%c%d", separator, launch->role == ROLE_BACKWARD_Q ? 'q' : 'k', v + 1);
		separator = " ";
	}
	if (launch->values)
		fprintf(out, "%sdv", separator);
	fputs(blocks_text[launch->blocks], out);
}

static const char *engine_name(const Launch *launch)
{
	return launch->engine == ENGINE_WGMMA ? "wgmma" : "mma.sync";
}

static int count_role(const Plan *plan, Role role, Blocks blocks)
{
	int count = 0;
	for (int i = 0; i < plan->launch_count; i++)
		count += plan->launches[i].role == role && plan->launches[i].blocks == blocks;
	return count;
}

static void print_proof(const Plan *plan, FILE *out)
{
	Arena *arena = arena_new();
	if (!arena)
		return;
	const char *const *names = spec_param_names(plan->spec);
	if (plan->zeros_proved && plan->factor)
		fprintf(out, "exact zeros   proved: %s is 0, with zero derivatives, wherever s <= tau\n",
		        expr_print(arena, plan->factor, names));
	else if (plan->zeros_proved)
		fprintf(out, "exact zeros   proved\n");
	else if (plan->obstacle)
		fprintf(out, "exact zeros   not proved: %s stands in the way\n", expr_print(arena, plan->obstacle, names));
	else
		fprintf(out, "exact zeros   not proved\n");
	arena_free(arena);
}

/* ", where ...", or nothing for a plan that every shape takes. */
static void print_where(const Plan *plan, FILE *out)
{
	const Crossover *crossover = plan->crossover;
	if (crossover)
		fprintf(out, plan->sparse ? ", where q_len >= %d and k_len >= %d" : ", where q_len < %d or k_len < %d",
		        crossover->q_len, crossover->k_len);
}

static void print_plan(const Plan *plan, FILE *out)
{
	fprintf(out, "plan %s for %s, at most %d bytes of shared memory a CTA", plan_kind_name(plan),
	        target_name(plan->options.target), plan->shared_limit);
	print_where(plan, out);
	fputc('\n', out);
	print_proof(plan, out);
	for (int i = 0; i < plan->buffer_count; i++)
		fprintf(out, "buffer %-8s %-14s %s\n", buffer_kind_name(plan->buffers[i].kind), plan->buffers[i].name,
		        plan->buffers[i].bytes);
	for (int i = 0; i < plan->launch_count; i++) {
		const Launch *launch = &plan->launches[i];
		fprintf(out, "launch %-8s %-26s threads %d, CTAs %s", phase_name(plan, launch), launch->entry,
		        plan_threads(launch), launch->grid);
		if (is_tiled(launch)) {
			fprintf(out, ", tile %dx%d, slots %d%s, %s, registers ~%d, makes ", launch->rows, launch->cols, launch->slots,
			        launch->retain ? " (do retained)" : "", engine_name(launch), launch->register_estimate);
			print_outputs(launch, out);
		}
		if (launch->when)
			fprintf(out, ", when %s", launch->when);
		fputc('\n', out);
	}
}

void plan_print(const Plan *plan, FILE *out)
{
	for (; plan; plan = plan->next)
		print_plan(plan, out);
}

static void explain_passes(const Plan *plan, Blocks blocks, FILE *out)
{
	int q = count_role(plan, ROLE_BACKWARD_Q, blocks), kv = count_role(plan, ROLE_BACKWARD_KV, blocks);
	if (q > 1)
		fprintf(out, "note          dq%s takes %d passes, because the accumulators of %d views of head_dim %d don't fit in"
		        " registers together; each further pass computes do.v again\n", blocks_text[blocks], q, plan->spec->views,
		        plan->spec->head_dim);
	if (kv > 1)
		fprintf(out, "note          dk and dv%s take %d passes, because their accumulators don't fit in registers together;"
		        " each further pass computes scores or do.v again\n", blocks_text[blocks], kv);
}

static void explain_small_tiles(const Plan *plan, FILE *out)
{
	for (int i = 0; i < plan->launch_count; i++) {
		const Launch *launch = &plan->launches[i];
		if (is_tiled(launch) && launch->rows < 64)
			fprintf(out, "note          %s works on %d rows at a time, not 64, to stay within %d bytes of shared memory:"
			        " keys and values are read %d times as often\n", launch->entry, launch->rows,
			        plan->shared_limit, 64 / launch->rows);
	}
}

/* Why there is no sparse plan beside the dense one. */
static void explain_dense_alone(const Plan *plan, FILE *out)
{
	if (!plan->zeros_proved)
		fputs("; a sparse plan needs a weight that is proved to be 0 wherever s <= tau", out);
	else if (!plan->screens && plan->spec->score->vars & 1u << VAR_J)
		fputs("; a sparse plan needs a score that does not read c.j", out);
	else if (!plan->screens)
		fputs("; a sparse plan needs a score that is proved to increase with s", out);
	else if (plan->options.kind == PLAN_AUTO)
		fprintf(out, "; a window of %lld keys is too narrow for a sparse plan to pay, but --plan sparse makes one",
		        (long long)plan->spec->window);
	else
		fputs("; --plan sparse would compute exact scores only of pairs that may survive", out);
}

static void explain_kind(const Plan *plan, FILE *out)
{
	fprintf(out, "plan          %s", plan_kind_name(plan));
	print_where(plan, out);
	if (plan->counts)
		fprintf(out, ": pairs %s, of every tile that the mask leaves", plan->options.counted == COUNT_ABOVE ? "above the threshold" :
		        "with a weight");
	else if (plan->sparse)
		fprintf(out, ": the screen, in int8, marks each key that may survive for a row of a block of %d; the other kernels"
		        " visit marked keys alone%s", PLAN_MARK, plan_heavy_rows(plan) > 0 ? ", but of blocks that are dense in them" : "");
	else
		fputs(": every tile that the mask leaves is computed", out);
	if (!plan->sparse && !plan->next && !plan->counts)
		explain_dense_alone(plan, out);
	fputc('\n', out);
}

static void explain_crossover(const Plan *plan, FILE *out)
{
	if (!plan->crossover)
		return;
	fputs("crossover     ", out);
	if (plan->crossover->timed)
		fprintf(out, "extrapolated: both plans were timed from %d keys on", plan->crossover->timed);
	else
		fputs("extrapolated from other dtypes, dims or views: no pair of plans like these was timed", out);
	fputs("; --plan dense and --plan sparse make files of one plan\n", out);
}

static void explain_gathering(const Plan *plan, FILE *out)
{
	if (!plan->sparse)
		return;
	fprintf(out, "note          up to %d key tiles of a row block have room for marks; those beyond are visited whole. Backward"
	        " kernels have room for %d a row block, which those of a head share\n", plan_mark_capacity(plan),
	        plan_packed_marks(plan));
	if (plan_heavy_rows(plan) > 0)
		fprintf(out, "note          a block is heavy where gathering would visit 1/%d of what it sees, or more, and %d keys a view for each"
		        " 64 rows: then it is computed as in a dense plan, in a launch that takes one heavy block after the other\n",
		        PLAN_HEAVY_PART, plan_heavy_keys(plan));
	if (plan->spec->views > 1)
		fprintf(out, "note          views are visited one after the other, each with its own marked keys: values of a key that %s"
		        " marked, and do, are read again for each\n", plan->spec->views == 2 ? "both" : "several");
}

static void explain_launch(const Plan *plan, const Launch *launch, FILE *out)
{
	char tile[24] = "-", slots[8] = "-";
	bool multiplies = is_tiled(launch) || launch->role == ROLE_SCREEN;
	if (multiplies) {
		snprintf(tile, sizeof tile, "%dx%d", launch->rows, launch->cols);
		snprintf(slots, sizeof slots, "%d", launch->slots);
	}
	fprintf(out, "%-26s %8d %8s %6s %10d %10s  ", launch->entry, plan_threads(launch), tile, slots, launch->shared_bytes,
	        multiplies ? engine_name(launch) : "-");
	if (is_tiled(launch))
		print_outputs(launch, out);
	else if (launch->role == ROLE_REDUCE)
		fprintf(out, "d%s", plan->spec->params[launch->param].name);
	else
		fputs(role_name(launch->role), out);
	fputc('\n', out);
}

static void explain_plan(const Plan *plan, FILE *out)
{
	explain_kind(plan, out);
	fprintf(out, "%-26s %8s %8s %6s %10s %10s  %s\n", "kernel", "threads", "tile", "slots", "shared", "products", "computes");
	for (int i = 0; i < plan->launch_count; i++)
		explain_launch(plan, &plan->launches[i], out);
	explain_gathering(plan, out);
	for (Blocks blocks = BLOCKS_ALL; blocks <= BLOCKS_HEAVY; blocks++)
		explain_passes(plan, blocks, out);
	explain_small_tiles(plan, out);
}

void plan_explain(const Plan *plan, FILE *out)
{
	const Spec *spec = plan->spec;
	fprintf(out, "spec          %s: %d view%s, %s, head_dim %d, value_dim %d\n", spec->name, spec->views,
	        spec->views > 1 ? "s" : "", dtype_name(spec->dtype), spec->head_dim, spec->value_dim);
	print_proof(plan, out);
	fprintf(out, plan->options.target == TARGET_SM_90A ? "target        %s alone; at most %d KB of shared memory a CTA\n"
	        : "target        %s and later; at most %d KB of shared memory a CTA, so that it runs on every such chip\n",
	        target_name(plan->options.target), plan->shared_limit / 1024);
	explain_crossover(plan, out);
	for (; plan; plan = plan->next)
		explain_plan(plan, out);
}
