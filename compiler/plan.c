#include "plan.h"

#include <string.h>

enum { WARP_LANES = 32, MAX_SLOTS = 4, SM_REGISTERS = 65536, SM_SHARED = 228 * 1024, ALL_REGISTERS = 255, MANY_REGISTERS = 168,
       F32_REGISTERS = 200 };

static const struct {
	const char *name, *features;
	int shared_limit;                  /* bytes a CTA: what every chip from the target on has */
} targets[TARGET_COUNT] = {
	[TARGET_SM_80] = { "sm_80", "+ptx80", 99 * 1024 },
	[TARGET_SM_90A] = { "sm_90a", "+ptx80", 227 * 1024 },
};

static const struct {
	const char *name, *what;
} roles[ROLE_COUNT] = {
	[ROLE_Q_TERMS] = { "q_terms", "1/|q| and thresholds of every row" },
	[ROLE_K_TERMS] = { "k_terms", "1/|k| of every key" },
	[ROLE_FORWARD] = { "forward", "scores, weights, o" },
	[ROLE_NORM_BACKWARD] = { "norm_backward", "do through the output norm" },
	[ROLE_BACKWARD_Q] = { "backward_q", "dq, partial sums of the parameters' gradients" },
	[ROLE_BACKWARD_KV] = { "backward_kv", "dk, dv" },
	[ROLE_REDUCE] = { "reduce", "partial sums to a parameter's gradient" },
};

const char *target_name(Target target)
{
	return targets[target].name;
}

const char *target_features(Target target)
{
	return targets[target].features;
}

bool target_from_name(const char *name, Target *target)
{
	for (int t = 0; t < TARGET_COUNT; t++)
		if (strcmp(targets[t].name, name) == 0) {
			*target = (Target)t;
			return true;
		}
	return false;
}

const char *role_name(Role role)
{
	return roles[role].name;
}

Target plan_target(const Plan *plan)
{
	return plan->options.target;
}

int plan_row_bytes(const Spec *spec, int cols)
{
	int depth = 32, chunk = 16;
	int bytes = (cols * dtype_size(spec->dtype) + depth - 1) / depth * depth;
	return (bytes / chunk | 1) * chunk;
}

bool plan_has_partials(const Plan *plan, int param)
{
	const Spec *spec = plan->spec;
	uint32_t bit = 1u << param, used = spec->threshold->params | spec->score->params | spec->weight->params;
	for (int v = 0; v < spec->views; v++)
		used |= spec->combine[v]->params;
	return used & bit;
}

bool plan_splits_output_gradient(const Spec *spec)
{
	return spec->rms_norm && spec->dtype != DTYPE_F32;
}

static const Launch *find_launch(const Plan *plan, Role role)
{
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == role)
			return &plan->launches[i];
	return NULL;
}

const char *plan_row_blocks(const Plan *plan, Arena *arena)
{
	return arena_printf(arena, "ceil_div(q_len,%d)", find_launch(plan, ROLE_BACKWARD_Q)->rows);
}

/*
 * Tiles. SM_REGISTERS and SM_SHARED are those of sm_90, where most of these kernels run. What a launch keeps in registers and in shared memory follows from its tile; the best tile is the one with the
 * least cost a pair: barriers and address arithmetic amortised over the columns, traffic over the rows, and everything
 * stretched where too few warps are resident to hide latency.
 */

/* What a kernel of the tiled kind needs, by number of tiles. */
typedef struct Needs {
	int views;                         /* streams of scores */
	int sums;                          /* loop-carried sums and row terms a view, in registers */
	int accumulators;                  /* columns, over all accumulators */
	int tiles;                         /* live tiles of pairs, in registers */
	int residents;                     /* bytes a row of what stays in shared memory */
	int slot_row;                      /* bytes a row of the widest streamed tile, terms included */
	int streams;                       /* tiles a round that stay readable at once when `retain` */
	bool can_retain;
	bool values_only, forward;
} Needs;

/*
 * An upper bound that was fitted to what ptxas makes of these kernels (views 1..4, head_dim 40..256, all dtypes): addresses and
 * row terms of every view, accumulators, live tiles, and operands on their way into the matrix instructions.
 */
static int estimate_registers(const Spec *spec, const Needs *needs, int cols)
{
	int fixed = 30, view = 14, operands = cols / 4 + 12;
	if (spec->dtype == DTYPE_F32) {
		fixed += 24;
		operands = spec->precision == PRECISION_TF32 ? cols / 2 + 12 : cols + cols / 2 + 16;
	} else if (spec->dtype == DTYPE_F16) {
		fixed += 16;
	}
	if (spec->score->op != EXPR_VAR)
		fixed += 10;                   /* a score modifier and its derivative */
	/* Of float32, ptxas loads a whole tile of values ahead when nothing else is in the loop. */
	if (spec->dtype == DTYPE_F32 && needs->values_only)
		operands += needs->accumulators * cols / 32;
	return fixed + needs->views * (view + needs->sums) + needs->accumulators / 2 + needs->tiles * cols / 2 + operands;
}

static double tile_cost(const Spec *spec, const Launch *tile)
{
	double a_operand = spec->dtype == DTYPE_F32 ? 20 : 8;  /* loading and splitting A, spread over the columns */
	int by_registers = SM_REGISTERS / (tile->register_limit * tile->warps * WARP_LANES);
	int by_shared = SM_SHARED / (tile->shared_bytes + 1024);
	int warps = (by_registers < by_shared ? by_registers : by_shared) * tile->warps;
	double busy = warps < 8 ? warps / 8.0 : 1;
	return (1 + a_operand / tile->cols + 16.0 / tile->rows + (tile->slots == 2 ? 0.1 : 0)) / busy;
}

/* Left to itself ptxas spills a little in order to fit one CTA more, or keeps everything live that it can and spills then. So it is
 * told: three CTAs of 128 threads for a forward that fits without spills by the estimate, else two; float32 tiles fill
 * shared memory with two. */
static int register_limit(const Spec *spec, const Needs *needs, int rows, int estimate)
{
	if (rows < 64)
		return ALL_REGISTERS;
	if (spec->dtype == DTYPE_F32)
		return estimate <= 214 ? F32_REGISTERS : ALL_REGISTERS;
	return needs->forward && estimate <= 185 ? MANY_REGISTERS : ALL_REGISTERS;
}

static bool spills(const Spec *spec, const Launch *launch)
{
	return launch->register_estimate > (spec->dtype == DTYPE_F32 ? 216 : 235);
}

/* One candidate; true when it fits in shared memory, with its estimate and whether it retains. */
static bool tile_fits(const Plan *plan, const Needs *needs, Launch *tile)
{
	int shared = tile->rows * needs->residents + tile->slots * tile->cols * needs->slot_row + 1024;
	tile->warps = tile->rows / PLAN_WARP_ROWS;
	tile->register_estimate = estimate_registers(plan->spec, needs, tile->cols);
	tile->register_limit = register_limit(plan->spec, needs, tile->rows, tile->register_estimate);
	tile->shared_bytes = shared;
	tile->retain = needs->can_retain && tile->slots >= needs->streams + 1;
	return shared <= plan->shared_limit && (tile->slots <= MAX_SLOTS || tile->retain);
}

static double candidate_cost(const Plan *plan, const Needs *needs, const Launch *tile)
{
	double cost = tile_cost(plan->spec, tile);
	if (needs->can_retain && !tile->retain)
		cost += 0.1;
	/* It will spill: only where nothing else fits, and then the less the better. */
	if (spills(plan->spec, tile))
		cost += tile->register_estimate;
	return cost;
}

/* Sets rows, cols, slots and what follows from them; false when nothing fits. */
static bool choose_tile(const Plan *plan, const Needs *needs, Launch *launch)
{
	int least_cols = plan->spec->dtype == DTYPE_F32 ? 8 : 16, most_slots = MAX_SLOTS;
	Launch tile = *launch;
	double best = 0;
	if (needs->can_retain)
		most_slots += needs->streams;
	for (tile.rows = 64; tile.rows >= PLAN_WARP_ROWS; tile.rows /= 2)
		for (tile.cols = 64; tile.cols >= least_cols; tile.cols /= 2)
			for (tile.slots = most_slots; tile.slots >= 2; tile.slots--) {
				if (!tile_fits(plan, needs, &tile))
					continue;
				double cost = candidate_cost(plan, needs, &tile);
				if (best == 0 || cost < best) {
					best = cost;
					*launch = tile;
				}
			}
	return best != 0;
}

static int max_int(int a, int b)
{
	return a > b ? a : b;
}

static int terms_bytes(const Spec *spec, int terms)
{
	return spec->normalize == NORMALIZE_L2 ? 4 * terms : 4 * (terms - 1);
}

static Needs forward_needs(const Spec *spec)
{
	int head = plan_row_bytes(spec, spec->head_dim), value = plan_row_bytes(spec, spec->value_dim);
	return (Needs){ .forward = true, .views = spec->views, .sums = 8, .accumulators = spec->value_dim, .tiles = 2, .residents = spec->views * head,
		.slot_row = max_int(head + 4, value) };
}

static Needs backward_q_needs(const Spec *spec, int views)
{
	int head = plan_row_bytes(spec, spec->head_dim), value = plan_row_bytes(spec, spec->value_dim);
	int gradients = 1 + plan_splits_output_gradient(spec);
	return (Needs){ .views = views, .sums = 6, .accumulators = views * spec->head_dim, .tiles = 2,
		.residents = views * head + gradients * value,
		.slot_row = max_int(head + 4, value) };
}

static Needs backward_kv_needs(const Spec *spec, int views, bool values)
{
	int head = plan_row_bytes(spec, spec->head_dim), value = plan_row_bytes(spec, spec->value_dim);
	int scored = values ? spec->views : views;
	Needs needs = { .views = scored, .accumulators = views * spec->head_dim + (values ? spec->value_dim : 0) };
	needs.tiles = 2 + (views > 0) + values;        /* scores, row terms of the columns, dA, weights */
	needs.residents = scored * head + (views > 0 ? value : 0);
	needs.slot_row = max_int(head + terms_bytes(spec, 2), value);
	needs.streams = scored + 1 + plan_splits_output_gradient(spec);
	needs.can_retain = values && views > 0;
	needs.values_only = views == 0;
	return needs;
}

/* Launches. */

static Launch *add_launch(Plan *plan, Arena *arena, Role role, const char *suffix)
{
	Launch *launch = &plan->launches[plan->launch_count++];
	memset(launch, 0, sizeof *launch);
	launch->role = role;
	launch->register_limit = ALL_REGISTERS;
	launch->entry = arena_printf(arena, "tda_%s%s", roles[role].name, suffix);
	launch->backward = role != ROLE_Q_TERMS && role != ROLE_K_TERMS && role != ROLE_FORWARD;
	return launch;
}

static void add_buffer(Plan *plan, Arena *arena, BufferKind kind, const char *name, const char *bytes)
{
	plan->buffers[plan->buffer_count++] = (Buffer){ arena_strdup(arena, name), kind, arena_strdup(arena, bytes) };
}

static void plan_terms(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	Launch *q = add_launch(plan, arena, ROLE_Q_TERMS, "");
	q->rows = PLAN_TERM_ROWS;
	q->warps = 4;
	q->grid = arena_printf(arena, "batch*heads*ceil_div(q_len,%d)", PLAN_TERM_ROWS);
	plan->tau_views = spec->threshold->vars & 1u << VAR_VIEW ? spec->views : 1;
	const char *q_bytes = arena_printf(arena, "4*batch*heads*round_up(q_len,%d)", PLAN_TERM_ROWS);
	const char *k_bytes = arena_printf(arena, "4*batch*kv_heads*round_up(k_len,%d)", PLAN_TERM_ROWS);
	for (int v = 0; v < plan->tau_views; v++)
		add_buffer(plan, arena, BUFFER_SAVED, arena_printf(arena, "tau%d", v + 1), q_bytes);
	if (spec->normalize == NORMALIZE_NONE)
		return;
	Launch *k = add_launch(plan, arena, ROLE_K_TERMS, "");
	k->rows = PLAN_TERM_ROWS;
	k->warps = 4;
	k->grid = arena_printf(arena, "batch*kv_heads*ceil_div(k_len,%d)", PLAN_TERM_ROWS);
	for (int v = 0; v < spec->views; v++) {
		add_buffer(plan, arena, BUFFER_SAVED, arena_printf(arena, "inv_q%d", v + 1), q_bytes);
		add_buffer(plan, arena, BUFFER_SAVED, arena_printf(arena, "inv_k%d", v + 1), k_bytes);
	}
}

static bool plan_forward(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	Launch *launch = add_launch(plan, arena, ROLE_FORWARD, "");
	launch->view_count = spec->views;
	Needs needs = forward_needs(spec);
	if (!choose_tile(plan, &needs, launch))
		return false;
	launch->grid = arena_printf(arena, "batch*heads*ceil_div(q_len,%d)", launch->rows);
	return true;
}

static void plan_norm_backward(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	const char *rows = arena_printf(arena, "%d*batch*heads*q_len", dtype_size(spec->dtype) * spec->value_dim);
	add_buffer(plan, arena, BUFFER_SAVED, "inv_rms",
	           arena_printf(arena, "4*batch*heads*round_up(q_len,%d)", PLAN_TERM_ROWS));
	add_buffer(plan, arena, BUFFER_SAVED, "o_raw", arena_printf(arena, "%d*batch*heads*q_len", 4 * spec->value_dim));
	add_buffer(plan, arena, BUFFER_BACKWARD, "do_raw", rows);
	if (plan_splits_output_gradient(spec))
		add_buffer(plan, arena, BUFFER_BACKWARD, "do_rest", rows);
	Launch *launch = add_launch(plan, arena, ROLE_NORM_BACKWARD, "");
	launch->rows = PLAN_TERM_ROWS;
	launch->warps = 4;
	launch->grid = arena_printf(arena, "batch*heads*ceil_div(q_len,%d)", PLAN_TERM_ROWS);
	if (spec->gain >= 0)
		add_buffer(plan, arena, BUFFER_BACKWARD, arena_printf(arena, "partial_%s", spec->params[spec->gain].name),
		           arena_printf(arena, "%d*batch*heads*ceil_div(q_len,%d)", 4 * spec->value_dim, PLAN_TERM_ROWS));
}

/* As many views a pass as registers and shared memory allow; the passes share a tile, for the partial sums' sake. */
static bool plan_backward_q(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	Launch tile = { 0 };
	int together = spec->views;
	for (; together > 0; together--) {
		Needs needs = backward_q_needs(spec, together);
		if (choose_tile(plan, &needs, &tile) && ((tile.cols >= 16 && !spills(spec, &tile)) || together == 1))
			break;
	}
	if (together == 0)
		return false;
	for (int v = 0; v < spec->views; v += together) {
		bool split = together < spec->views;
		Launch *launch = add_launch(plan, arena, ROLE_BACKWARD_Q, split ? arena_printf(arena, "_view%d", v + 1) : "");
		launch->first_view = v;
		launch->view_count = spec->views - v < together ? spec->views - v : together;
		launch->pass = plan->backward_q_passes++;
		Needs needs = backward_q_needs(spec, together);
		choose_tile(plan, &needs, launch);
		launch->grid = arena_printf(arena, "batch*heads*ceil_div(q_len,%d)", launch->rows);
	}
	for (int p = 0; p < spec->param_count; p++)
		if (plan_has_partials(plan, p))
			add_buffer(plan, arena, BUFFER_BACKWARD, arena_printf(arena, "partial_%s", spec->params[p].name),
			           arena_printf(arena, "%d*batch*heads*%s", 4 * plan->backward_q_passes,
			                        plan_row_blocks(plan, arena)));
	return true;
}

static bool add_kv_pass(Plan *plan, Arena *arena, int first, int views, bool values, const char *suffix)
{
	Needs needs = backward_kv_needs(plan->spec, views, values);
	Launch tile = { 0 };
	if (!choose_tile(plan, &needs, &tile))
		return false;
	Launch *launch = add_launch(plan, arena, ROLE_BACKWARD_KV, suffix);
	choose_tile(plan, &needs, launch);
	launch->first_view = first;
	launch->view_count = views;
	launch->values = values;
	launch->grid = arena_printf(arena, "batch*kv_heads*ceil_div(k_len,%d)", launch->rows);
	return true;
}

/* All in one where it fits with columns enough; else dv by itself and dk in as few passes as possible. */
static bool plan_backward_kv(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	Needs all = backward_kv_needs(spec, spec->views, true);
	Launch tile = { 0 };
	if (choose_tile(plan, &all, &tile) && tile.cols >= 16 && !spills(spec, &tile))
		return add_kv_pass(plan, arena, 0, spec->views, true, "");
	int together = spec->views;
	for (; together > 1; together--) {
		Needs needs = backward_kv_needs(spec, together, false);
		if (choose_tile(plan, &needs, &tile) && tile.cols >= 16 && !spills(spec, &tile))
			break;
	}
	for (int v = 0; v < spec->views; v += together) {
		int views = spec->views - v < together ? spec->views - v : together;
		if (!add_kv_pass(plan, arena, v, views, false, arena_printf(arena, "_k%d", v + 1)))
			return false;
	}
	return add_kv_pass(plan, arena, 0, 0, true, "_v");
}

static void plan_reduce(Plan *plan, Arena *arena)
{
	static const char *const entries[] = {
		[PARAM_SCALAR] = "1", [PARAM_PER_HEAD] = "heads", [PARAM_PER_LAYER] = "layers",
		[PARAM_PER_LAYER_HEAD] = "layers*heads",
	};
	const Spec *spec = plan->spec;
	for (int p = 0; p < spec->param_count; p++) {
		const Param *param = &spec->params[p];
		Launch *launch = add_launch(plan, arena, ROLE_REDUCE, arena_printf(arena, "_%s", param->name));
		launch->warps = 4;
		launch->rows = 0;
		launch->param = p;
		launch->when = arena_printf(arena, "dparam.%s", param->name);
		launch->grid = param->shape == PARAM_PER_CHANNEL ? arena_printf(arena, "%d", spec->value_dim)
		                                                 : entries[param->shape];
	}
}

static bool plan_proof(Plan *plan, Diag *diag, const Spec *spec)
{
	plan->zeros_proved = expr_prove_zero_below(spec->pool, spec->weight, &plan->factor, &plan->obstacle);
	if (plan->options.kind == PLAN_SPARSE) {
		diag_error(diag, spec->loc, "the sparse plan is not available in this version");
		diag_note(diag, (Loc){ 0, 0 }, "leave out --plan, or ask for --plan dense");
		return false;
	}
	if (plan->options.target == TARGET_SM_90A) {
		diag_error(diag, spec->loc, "target sm_90a is not available in this version");
		diag_note(diag, (Loc){ 0, 0 }, "use --target sm_80: its PTX runs on every later GPU, sm_90 among them");
		return false;
	}
	return true;
}

Plan *plan_make(Arena *arena, Diag *diag, const Spec *spec, PlanOptions options)
{
	Plan *plan = ARENA_NEW(arena, Plan);
	plan->spec = spec;
	plan->options = options;
	plan->shared_limit = targets[options.target].shared_limit;
	if (!plan_proof(plan, diag, spec))
		return NULL;
	plan_terms(plan, arena);
	bool fits = plan_forward(plan, arena);
	if (spec->rms_norm)
		plan_norm_backward(plan, arena);
	fits = fits && plan_backward_q(plan, arena) && plan_backward_kv(plan, arena);
	if (!fits) {
		diag_internal(diag, spec->loc, "no tile fits views = %d, head_dim = %d, value_dim = %d in %d bytes of shared memory",
		              spec->views, spec->head_dim, spec->value_dim, plan->shared_limit);
		return NULL;
	}
	plan_reduce(plan, arena);
	return plan;
}
