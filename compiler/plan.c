#include "plan.h"
#include "plan_tile.h"

#include <string.h>

static const struct {
	const char *name, *features;
	int shared_limit;                  /* bytes a CTA: what every chip from the target on has */
	bool overlaps;                     /* a launch may start while one before it runs (griddepcontrol) */
} targets[TARGET_COUNT] = {
	[TARGET_SM_80] = { "sm_80", "+ptx80", 99 * 1024, false },
	[TARGET_SM_90A] = { "sm_90a", "+ptx80", 227 * 1024, true },
};

/* Launches of a stage don't need one another; they need those of the stages before theirs. */
enum { STAGE_TERMS, STAGE_SCREEN, STAGE_FORWARD, STAGE_PACK, STAGE_NORM, STAGE_BACKWARD, STAGE_REDUCE };

static const struct {
	const char *name, *what;
	int stage;
} roles[ROLE_COUNT] = {
	[ROLE_TERMS] = { "terms", "1/|q| and thresholds of every row, 1/|k| of every key", STAGE_TERMS },
	[ROLE_Q_TERMS] = { "q_terms", "1/|q| and thresholds of every row", STAGE_TERMS },
	[ROLE_K_TERMS] = { "k_terms", "1/|k| of every key", STAGE_TERMS },
	[ROLE_SCREEN] = { "screen", "int8 scores against thresholds: marks of pairs that may survive", STAGE_SCREEN },
	[ROLE_PACK_MARKS] = { "pack_marks", "the marks, closer together, for the backward", STAGE_PACK },
	[ROLE_FORWARD] = { "forward", "scores, weights, o", STAGE_FORWARD },
	[ROLE_NORM_BACKWARD] = { "norm_backward", "do through the output norm", STAGE_NORM },
	[ROLE_BACKWARD_Q] = { "backward_q", "dq, partial sums of the parameters' gradients", STAGE_BACKWARD },
	[ROLE_BACKWARD_KV] = { "backward_kv", "dk, dv", STAGE_BACKWARD },
	[ROLE_REDUCE] = { "reduce", "partial sums to a parameter's gradient", STAGE_REDUCE },
	[ROLE_COUNT_PAIRS] = { "count", "pairs that count, by row and by tile", STAGE_FORWARD },
	[ROLE_STATISTICS] = { "statistics", "sums over scores and weights", STAGE_FORWARD },
};

const char *target_name(Target target)
{
	return targets[target].name;
}

const char *target_features(Target target)
{
	return targets[target].features;
}

const char *role_name(Role role)
{
	return roles[role].name;
}

const char *role_purpose(Role role)
{
	return roles[role].what;
}

const char *plan_kind_name(const Plan *plan)
{
	return plan->counts ? "count" : plan->sparse ? "sparse" : "dense";
}

const char *phase_name(const Plan *plan, const Launch *launch)
{
	return plan->counts ? "count" : launch->backward ? "backward" : "forward";
}

const char *buffer_kind_name(BufferKind kind)
{
	static const char *const names[] = {
		[BUFFER_SAVED] = "saved", [BUFFER_FORWARD] = "forward", [BUFFER_BACKWARD] = "backward", [BUFFER_COUNTS] = "counts",
	};
	return names[kind];
}

const char *counted_name(Counted counted)
{
	return counted == COUNT_ABOVE ? "above" : "weights";
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

int plan_panel_row_bytes(const Spec *spec, int cols)
{
	int bytes = cols * dtype_size(spec->dtype);
	return (bytes + PLAN_PANEL_BYTES - 1) / PLAN_PANEL_BYTES * PLAN_PANEL_BYTES;
}

int plan_threads(const Launch *launch)
{
	int teams = launch->teams > 0 ? launch->teams : 1;
	return (launch->warps * teams + launch->producer_warps) * 32;
}

int plan_int8_bytes(const Spec *spec)
{
	int depth = 32;
	return (spec->head_dim + depth - 1) / depth * depth;
}

int plan_int8_keys_a_row(const Spec *spec)
{
	return plan_int8_bytes(spec) <= PLAN_PANEL_BYTES / 2 ? 2 : 1;
}

int plan_int8_keys(const Spec *spec)
{
	return plan_int8_keys_a_row(spec) * 2 * PLAN_BOUND_KEYS;
}

int plan_int8_tile_bytes(const Spec *spec)
{
	int panels = (plan_int8_bytes(spec) + PLAN_PANEL_BYTES - 1) / PLAN_PANEL_BYTES;
	return plan_int8_keys(spec) / plan_int8_keys_a_row(spec) * PLAN_PANEL_BYTES * panels;
}

int plan_int8_lanes(int int8_bytes)
{
	int pieces = int8_bytes / 16, lanes = 2;        /* so that the threads of q_terms have one row each at a time, at most */
	while (2 * lanes < pieces)
		lanes *= 2;
	return lanes;
}

int plan_row_bound_bytes(const Spec *spec)
{
	return spec->normalize == NORMALIZE_NONE ? 16 : 8;
}

int plan_int8_key_bytes(const Plan *plan)
{
	return plan->int8_tiles ? plan_int8_tile_bytes(plan->spec) / plan_int8_keys(plan->spec) : plan_int8_bytes(plan->spec);
}

int plan_mark_capacity(const Plan *plan)
{
	int wanted = plan->options.mark_capacity;
	return wanted > 0 && wanted < PLAN_MARK_CAPACITY ? wanted : PLAN_MARK_CAPACITY;
}

int plan_packed_marks(const Plan *plan)
{
	return (plan_mark_capacity(plan) * PLAN_PACKED_MARKS + PLAN_MARK_CAPACITY - 1) / PLAN_MARK_CAPACITY;
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

/* It takes a bound on what scores of two kernels differ by: known for products of unit rows. */
bool plan_refines_marks(const Spec *spec)
{
	return spec->normalize == NORMALIZE_L2 && spec->score->op == EXPR_VAR;
}

const Launch *plan_launch(const Plan *plan, Role role)
{
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == role)
			return &plan->launches[i];
	return NULL;
}

int plan_count_rows(const Plan *plan)
{
	return plan_launch(plan, ROLE_COUNT_PAIRS)->rows;
}

int plan_moments(const Spec *spec)
{
	return PLAN_POWERS * spec->views + spec->views * (spec->views - 1) / 2;
}

int plan_tails(const Spec *spec)
{
	return PLAN_TAILS * spec->views;
}

int plan_heavy_rows(const Plan *plan)
{
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == ROLE_FORWARD)
			return plan->launches[i].judged_rows;
	return 0;
}

int plan_heavy_keys(const Plan *plan)
{
	return plan->options.heavy_keys > 0 ? plan->options.heavy_keys : PLAN_HEAVY_KEYS;
}

int plan_partial_rows(const Plan *plan)
{
	int rows = PLAN_MARK * 4;
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == ROLE_BACKWARD_Q && plan->launches[i].rows < rows)
			rows = plan->launches[i].rows;
	return rows;
}

const char *plan_row_blocks(const Plan *plan, Arena *arena)
{
	return arena_printf(arena, "ceil_div(q_len,%d)", plan_partial_rows(plan));
}

static int min_int(int a, int b)
{
	return a < b ? a : b;
}

/* Launches. */

static Launch *add_launch_of(Plan *plan, Arena *arena, Role role, Blocks blocks, const char *suffix)
{
	Launch *launch = &plan->launches[plan->launch_count++];
	memset(launch, 0, sizeof *launch);
	launch->role = role;
	launch->register_limit = PLAN_ALL_REGISTERS;
	const char *kind = plan->sparse && plan->crossover ? "sparse_" : "", *part = blocks == BLOCKS_HEAVY ? "heavy_" : "";
	launch->entry = arena_printf(arena, "tda_%s%s%s%s", kind, part, roles[role].name, suffix);
	launch->backward = role > ROLE_FORWARD && !plan->counts;
	launch->blocks = blocks;
	return launch;
}

static Launch *add_launch(Plan *plan, Arena *arena, Role role, const char *suffix)
{
	return add_launch_of(plan, arena, role, BLOCKS_ALL, suffix);
}

/* A CTA for each block; for heavy ones as many as run at once, each of which takes one block after the other. */
static void set_grid(Launch *launch, Arena *arena, const char *heads, const char *length)
{
	launch->grid = arena_printf(arena, "batch*%s*ceil_div(%s,%d)", heads, length, launch->rows);
	if (launch->blocks == BLOCKS_HEAVY)
		launch->grid = arena_printf(arena, "min(%s,%d*multiprocessors)", launch->grid, resident_ctas(launch));
}

static void add_buffer(Plan *plan, Arena *arena, BufferKind kind, const char *name, const char *bytes)
{
	plan->buffers[plan->buffer_count++] = (Buffer){ arena_strdup(arena, name), kind, arena_strdup(arena, bytes) };
}

/*
 * Terms that a screen beside them reads as they are made: they wait for memory, the screen for tensor cores, so together they take less
 * time than one after the other. A CTA has a multiprocessor to itself. The launches of q and k share all of them by rows, and when the
 * first blocks are done, some go on: as large a part as terms are of the work, but two in five at least, so that the screen need not wait.
 */
static void spread_terms(const Spec *spec, Launch *launch, Arena *arena, const char *rows, int registers)
{
	enum { LEAST_PERCENT = 40, PARTS = 4 };
	enum { PAIRS_A_ROW = 1024 };       /* of a causal mask, seen or not, which the screen takes as long for as terms do for a row */
	const char *all = "(batch*heads*q_len+batch*kv_heads*k_len)";
	const char *keys = spec->window > 0 ? arena_printf(arena, "min(k_len,%lld)", 2 * (long long)spec->window) : "k_len";
	int warps = PLAN_SM_REGISTERS / PARTS / (registers * 32) * PARTS;       /* a multiprocessor is four parts with registers of their own */
	launch->teams = warps / launch->warps;
	launch->register_limit = registers;
	launch->all_blocks = launch->grid;
	launch->staying = arena_printf(arena, "max(%d,%d*%s/max(1,%d*%s+batch*heads*q_len*%s))", LEAST_PERCENT, 100 * PAIRS_A_ROW,
	                               all, PAIRS_A_ROW, all, keys);
	const char *needed = arena_printf(arena, "min(ceil_div(%s,%d),%d)", launch->grid, launch->teams, PLAN_MAX_TEAMS / launch->teams);
	launch->grid = arena_printf(arena, "max(1,min(%s,multiprocessors*%s/max(1,%s)))", needed, rows, all);
}

static void plan_terms(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	bool has_norms = spec->normalize == NORMALIZE_L2;
	Launch *q = add_launch(plan, arena, plan->sparse ? ROLE_Q_TERMS : ROLE_TERMS, "");
	q->rows = PLAN_TERM_ROWS;
	q->warps = 4;
	q->grid = arena_printf(arena, "batch*heads*ceil_div(q_len,%d)", PLAN_TERM_ROWS);
	if (!plan->sparse && has_norms)
		q->grid = arena_printf(arena, "%s+batch*kv_heads*ceil_div(k_len,%d)", q->grid, PLAN_TERM_ROWS);
	plan->tau_views = spec->threshold->vars & 1u << VAR_VIEW ? spec->views : 1;
	const char *q_bytes = arena_printf(arena, "4*batch*heads*round_up(q_len,%d)", PLAN_TERM_ROWS);
	const char *k_bytes = arena_printf(arena, "4*batch*kv_heads*round_up(k_len,%d)", PLAN_TERM_ROWS);
	BufferKind kind = plan->counts ? BUFFER_COUNTS : BUFFER_SAVED;
	for (int v = 0; v < plan->tau_views; v++)
		add_buffer(plan, arena, kind, arena_printf(arena, "tau%d", v + 1), q_bytes);
	if (plan->sparse) {
		int keys = plan_int8_keys(spec);
		Launch *k = add_launch(plan, arena, ROLE_K_TERMS, "");
		k->rows = PLAN_BOUND_KEYS;
		k->warps = plan_int8_lanes(plan_int8_key_bytes(plan)) * k->rows / PLAN_HELD_KEYS / 32;
		/* Left to itself ptxas takes twice as many, and half as many threads wait for memory. */
		k->register_limit = min_int(PLAN_HALF_REGISTERS, PLAN_SM_REGISTERS / plan_threads(k));
		k->grid = arena_printf(arena, "batch*kv_heads*%d*ceil_div(k_len,%d)", keys / PLAN_BOUND_KEYS, keys);
		if (plan->int8_tiles) {
			/* As few as it does with. */
			spread_terms(spec, q, arena, "batch*heads*q_len", spec->views > 2 ? PLAN_HALF_REGISTERS : PLAN_HALF_REGISTERS * 3 / 4);
			spread_terms(spec, k, arena, "batch*kv_heads*k_len", PLAN_HALF_REGISTERS);
			add_buffer(plan, arena, BUFFER_FORWARD, "progress", arena_printf(arena, "%d", 2 * 4 * PLAN_PROGRESS_WORDS));
		}
	}
	for (int v = 0; has_norms && v < spec->views; v++) {
		add_buffer(plan, arena, kind, arena_printf(arena, "inv_q%d", v + 1), q_bytes);
		add_buffer(plan, arena, kind, arena_printf(arena, "inv_k%d", v + 1), k_bytes);
	}
}

/* What the screen reads: int8 images, bounds of rows and of key tiles. What it writes: marks. */
static void plan_screen(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	const char *q = arena_printf(arena, "%d*batch*heads", spec->views);
	const char *k = arena_printf(arena, "%d*batch*kv_heads", spec->views);
	const char *q_rows = arena_printf(arena, "round_up(q_len,%d)", PLAN_TERM_ROWS);
	int keys = plan_int8_keys(spec);
	const char *groups = arena_printf(arena, "ceil_div(k_len,%d)", keys);
	const char *blocks = arena_printf(arena, "ceil_div(q_len,%d)", PLAN_MARK);
	const char *tiles = arena_printf(arena, "ceil_div(k_len,%d)", PLAN_MARK);
	int bytes = plan_int8_bytes(spec);
	add_buffer(plan, arena, BUFFER_FORWARD, "q8", arena_printf(arena, "%d*%s*%s", bytes, q, q_rows));
	int group_bytes = plan->int8_tiles ? plan_int8_tile_bytes(spec) : keys * bytes;
	add_buffer(plan, arena, BUFFER_FORWARD, "k8", arena_printf(arena, "%d*%s*%s", group_bytes, k, groups));
	add_buffer(plan, arena, BUFFER_FORWARD, "row_bound", arena_printf(arena, "%d*%s*%s", plan_row_bound_bytes(spec), q, q_rows));
	add_buffer(plan, arena, BUFFER_FORWARD, "tile_bound", arena_printf(arena, "%d*%s*%s", 16 * keys / PLAN_BOUND_KEYS, k, groups));
	add_buffer(plan, arena, BUFFER_SAVED, "row_keys", arena_printf(arena, "4*%s*%s", q, blocks));
	add_buffer(plan, arena, BUFFER_SAVED, "kept_keys", arena_printf(arena, "4*%s*%s", q, blocks));
	add_buffer(plan, arena, BUFFER_SAVED, "key_rows", arena_printf(arena, "4*%s*%s", k, tiles));
	const char *word_bytes = arena_printf(arena, "8*%s*%s*ceil_div(k_len,%d)", q, blocks, PLAN_MARK * PLAN_WORD_MARKS);
	add_buffer(plan, arena, BUFFER_FORWARD, "mark_words", word_bytes);
	const char *mark_bytes = arena_printf(arena, "16*%s*%s*min(%s,%d)", q, blocks, tiles, plan_mark_capacity(plan));
	add_buffer(plan, arena, BUFFER_FORWARD, "marks", mark_bytes);
	if (plan_refines_marks(spec))
		add_buffer(plan, arena, BUFFER_FORWARD, "refined_marks", mark_bytes);
	add_buffer(plan, arena, BUFFER_SAVED, "packed_words", word_bytes);
	add_buffer(plan, arena, BUFFER_SAVED, "packed_marks",
	           arena_printf(arena, "8*%s*%s*min(%s,%d)", q, blocks, tiles, plan_packed_marks(plan)));
	add_buffer(plan, arena, BUFFER_SAVED, "whole_marks", arena_printf(arena, "4*%s", q));
	Launch *launch = add_launch(plan, arena, ROLE_SCREEN, "");
	choose_screen_tile(plan, launch);
	launch->grid = arena_printf(arena, "%s*ceil_div(q_len,%d)", q, launch->rows);
	if (launch->persistent) {
		add_buffer(plan, arena, BUFFER_FORWARD, "screened", "4");
		launch->grid = arena_printf(arena, "min(%s,multiprocessors)", launch->grid);
	}
}

static void plan_pack_marks(Plan *plan, Arena *arena)
{
	enum { REGISTERS = 64 };           /* of a thread, so that an SM has room for two CTAs */
	Launch *launch = add_launch(plan, arena, ROLE_PACK_MARKS, "");
	launch->warps = PLAN_PACK_BLOCKS;
	launch->rows = PLAN_PACK_BLOCKS * PLAN_MARK;
	launch->begins_early = true;
	launch->register_limit = REGISTERS;
	launch->grid = arena_printf(arena, "%d*batch*heads*ceil_div(q_len,%d)", plan->spec->views, launch->rows);
}

static bool gathers(const Plan *plan, Blocks blocks)
{
	return plan->sparse && blocks != BLOCKS_HEAVY;
}

/* Not of float32: its dense kernels multiply as those that gather do, and take a third of a second to compile. */
static bool has_heavy_launches(const Plan *plan)
{
	return plan->spec->dtype != DTYPE_F32;
}

static bool plan_forward(Plan *plan, Arena *arena, Blocks blocks)
{
	const Spec *spec = plan->spec;
	Launch *launch = add_launch_of(plan, arena, ROLE_FORWARD, blocks, "");
	launch->view_count = spec->views;
	Needs needs = forward_needs(spec, gathers(plan, blocks));
	if (!choose_tile(plan, &needs, launch))
		return false;
	set_grid(launch, arena, "heads", "q_len");
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
static bool plan_backward_q(Plan *plan, Arena *arena, Blocks blocks)
{
	const Spec *spec = plan->spec;
	Launch tile = { .blocks = blocks };
	bool gathered = gathers(plan, blocks);
	int together = spec->views, passes = 0;
	for (; together > 0 && !gathered; together--) {
		Needs needs = backward_q_needs(spec, together, false);
		if (choose_tile(plan, &needs, &tile) && (!tile_is_cramped(plan, &tile) || together == 1))
			break;
	}
	if (together == 0)
		return false;
	for (int v = 0; v < spec->views; v += together) {
		bool split = together < spec->views;
		Launch *launch = add_launch_of(plan, arena, ROLE_BACKWARD_Q, blocks,
		                                   split ? arena_printf(arena, "_view%d", v + 1) : "");
		launch->first_view = v;
		launch->view_count = spec->views - v < together ? spec->views - v : together;
		launch->pass = launch->last_pass = passes++;
		Needs needs = backward_q_needs(spec, gathered ? 1 : together, gathered);
		if (!choose_tile(plan, &needs, launch))
			return false;
		set_grid(launch, arena, "heads", "q_len");
	}
	if (passes > plan->backward_q_passes)
		plan->backward_q_passes = passes;
	return true;
}

/* Light and heavy blocks may take different numbers of passes, and each has an entry in all. */
static void plan_partials(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	for (int i = 0; i < plan->launch_count; i++) {
		Launch *launch = &plan->launches[i];
		bool last = i + 1 == plan->launch_count || plan->launches[i + 1].role != ROLE_BACKWARD_Q ||
		            plan->launches[i + 1].blocks != launch->blocks;
		if (launch->role == ROLE_BACKWARD_Q && last)
			launch->last_pass = plan->backward_q_passes - 1;
	}
	for (int p = 0; p < spec->param_count; p++)
		if (plan_has_partials(plan, p))
			add_buffer(plan, arena, BUFFER_BACKWARD, arena_printf(arena, "partial_%s", spec->params[p].name),
			           arena_printf(arena, "%d*batch*heads*%s", 4 * plan->backward_q_passes,
			                        plan_row_blocks(plan, arena)));
}

static bool add_kv_pass(Plan *plan, Arena *arena, Blocks blocks, int first, int views, bool values, const char *suffix)
{
	bool gathered = gathers(plan, blocks);
	Needs needs = backward_kv_needs(plan->spec, gathered ? views > 0 : views, values, gathered);
	Launch *launch = add_launch_of(plan, arena, ROLE_BACKWARD_KV, blocks, suffix);
	if (!choose_tile(plan, &needs, launch))
		return false;
	launch->first_view = first;
	launch->view_count = views;
	launch->values = values;
	set_grid(launch, arena, "kv_heads", "k_len");
	return true;
}

/* All in one where it fits with columns enough; else dv by itself and dk in as few passes as possible. */
static bool plan_backward_kv(Plan *plan, Arena *arena, Blocks blocks)
{
	const Spec *spec = plan->spec;
	bool gathered = gathers(plan, blocks);
	Needs all = backward_kv_needs(spec, gathered ? 1 : spec->views, true, gathered);
	Launch tile = { .blocks = blocks };
	if (choose_tile(plan, &all, &tile) && !tile_is_cramped(plan, &tile))
		return add_kv_pass(plan, arena, blocks, 0, spec->views, true, "");
	int together = spec->views;
	for (; together > 1 && !gathered; together--) {
		Needs needs = backward_kv_needs(spec, together, false, false);
		if (choose_tile(plan, &needs, &tile) && !tile_is_cramped(plan, &tile))
			break;
	}
	for (int v = 0; v < spec->views; v += together) {
		int views = spec->views - v < together ? spec->views - v : together;
		if (!add_kv_pass(plan, arena, blocks, v, views, false, arena_printf(arena, "_k%d", v + 1)))
			return false;
	}
	return add_kv_pass(plan, arena, blocks, 0, 0, true, "_v");
}

typedef bool (*MakeLaunches)(Plan *plan, Arena *arena, Blocks blocks);

/* Blocks of one role are light or heavy by the rows of its largest. */
static void set_judged_rows(Plan *plan, Role role)
{
	int rows = PLAN_MARK;
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == role && plan->launches[i].rows > rows)
			rows = plan->launches[i].rows;
	for (int i = 0; i < plan->launch_count; i++)
		if (plan->launches[i].role == role)
			plan->launches[i].judged_rows = rows;
}

/*
 * What is computed exactly, of the roles of a stage: by one launch each, or a few passes; in a sparse plan by those of heavy blocks,
 * first, as they may leave much of the device to the others, and by those of light ones, whose blocks may be smaller.
 *
 * Gradients of keys take longer than those of queries, so they come first, and the others fill what they leave idle at their end.
 */
static bool plan_exact(Plan *plan, Arena *arena, bool backward)
{
	static const MakeLaunches makes[2][2] = { { plan_forward }, { plan_backward_kv, plan_backward_q } };
	static const Blocks shared_out[] = { BLOCKS_HEAVY, BLOCKS_LIGHT }, all[] = { BLOCKS_ALL };
	bool shares = plan->sparse && has_heavy_launches(plan);
	int first = plan->launch_count, count = backward ? 2 : 1;
	for (int kind = 0; kind < (shares ? 2 : 1); kind++)
		for (int n = 0; n < count; n++) {
			if (!makes[backward][n](plan, arena, (shares ? shared_out : all)[kind]))
				return false;
		}
	for (int i = first; i < plan->launch_count && shares; i++)
		set_judged_rows(plan, plan->launches[i].role);
	return true;
}

static void plan_overlap(Plan *plan)
{
	for (int i = 1; i < plan->launch_count; i++) {
		Launch *launch = &plan->launches[i];
		bool overlaps = targets[plan->options.target].overlaps && launch->backward == launch[-1].backward;
		/* The screen waits for each head's terms by itself. */
		launch->beside = overlaps && (roles[launch->role].stage == roles[launch[-1].role].stage || launch[-1].teams > 0);
		launch->follows = overlaps && !launch->beside;
	}
}

bool plan_is_followed(const Plan *plan, const Launch *launch)
{
	return launch + 1 < plan->launches + plan->launch_count && (launch[1].beside || launch[1].follows);
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
		launch->warps = 32;            /* so many partial sums are under way at once */
		launch->register_limit = PLAN_SM_REGISTERS / plan_threads(launch);
		launch->rows = 0;
		launch->param = p;
		launch->when = arena_printf(arena, "dparam.%s", param->name);
		launch->grid = param->shape == PARAM_PER_CHANNEL ? arena_printf(arena, "%d", spec->value_dim)
		                                                 : entries[param->shape];
	}
}

/* What libtda finds by these names (runtime/count.h). */
static void plan_count(Plan *plan, Arena *arena)
{
	const Spec *spec = plan->spec;
	bool above = plan->options.counted == COUNT_ABOVE;
	Launch *launches[2] = { add_launch(plan, arena, ROLE_COUNT_PAIRS, "") };
	choose_count_tile(plan, launches[0]);
	int rows = launches[0]->rows;
	const char *planes = "batch*heads", *q_rows = arena_printf(arena, "round_up(q_len,%d)", rows);
	const char *blocks = arena_printf(arena, "ceil_div(q_len,%d)*ceil_div(k_len,%d)", rows, PLAN_MARK);
	add_buffer(plan, arena, BUFFER_COUNTS, "survivors", arena_printf(arena, "%d*%s*%s", 4 * spec->views, planes, q_rows));
	add_buffer(plan, arena, BUFFER_COUNTS, "consensus", arena_printf(arena, "4*%s*%s", planes, q_rows));
	add_buffer(plan, arena, BUFFER_COUNTS, "masks", arena_printf(arena, "%d*%s*%s", 8 * spec->views, planes, blocks));
	add_buffer(plan, arena, BUFFER_COUNTS, "tiles", arena_printf(arena, "4*%s*%s", planes, blocks));
	if (!above) {
		const char *warps = arena_printf(arena, "%s*%s/%d", planes, q_rows, PLAN_WARP_ROWS);
		launches[1] = add_launch(plan, arena, ROLE_STATISTICS, "");
		choose_statistics_tile(plan, rows, launches[1]);
		add_buffer(plan, arena, BUFFER_COUNTS, "row_weight", arena_printf(arena, "4*%s*%s", planes, q_rows));
		add_buffer(plan, arena, BUFFER_COUNTS, "row_sink", arena_printf(arena, "4*%s*%s", planes, q_rows));
		add_buffer(plan, arena, BUFFER_COUNTS, "moments", arena_printf(arena, "%d*%s", 4 * plan_moments(spec), warps));
		add_buffer(plan, arena, BUFFER_COUNTS, "tails", arena_printf(arena, "%d*%s", 4 * plan_tails(spec), warps));
	}
	for (int n = 0; n < 2 - above; n++) {
		launches[n]->view_count = spec->views;
		set_grid(launches[n], arena, "heads", "q_len");
	}
}

static bool plan_proof(Plan *plan, Diag *diag, const Spec *spec)
{
	plan->zeros_proved = expr_prove_zero_below(spec->pool, spec->weight, &plan->factor, &plan->obstacle);
	plan->counts = plan->options.kind == PLAN_COUNT;
	plan->screens = plan->zeros_proved && expr_is_increasing_in_s(spec->pool, spec->score);
	plan->sparse = plan->options.kind == PLAN_SPARSE;
	plan->int8_tiles = plan->sparse && plan->options.target == TARGET_SM_90A;
	if (plan->sparse && !plan->zeros_proved) {
		diag_error(diag, spec->weight_loc, "--plan sparse needs a weight that is proved to be 0 wherever s <= tau");
		diag_note(diag, (Loc){ 0, 0 }, "--explain says what stands in the way; --plan dense takes every spec");
		return false;
	}
	if (plan->sparse && !plan->screens) {
		diag_error(diag, spec->score_loc, "--plan sparse needs a score that is proved to increase with s and does not read c.j");
		diag_note(diag, (Loc){ 0, 0 }, "only then does a threshold on the score give one on the product of q and k; "
		          "--plan dense takes every spec");
		return false;
	}
	return true;
}

static Plan *make_plan(Arena *arena, Diag *diag, const Spec *spec, PlanOptions options, const Crossover *crossover)
{
	Plan *plan = ARENA_NEW(arena, Plan);
	plan->spec = spec;
	plan->crossover = crossover;
	plan->options = options;
	plan->shared_limit = targets[options.target].shared_limit;
	if (!plan_proof(plan, diag, spec))
		return NULL;
	plan_terms(plan, arena);
	if (plan->counts) {
		plan_count(plan, arena);
		return plan;
	}
	if (plan->sparse)
		plan_screen(plan, arena);
	bool fits = plan_exact(plan, arena, false);
	if (plan->sparse)
		plan_pack_marks(plan, arena);
	if (spec->rms_norm)
		plan_norm_backward(plan, arena);
	fits = fits && plan_exact(plan, arena, true);
	if (!fits) {
		diag_internal(diag, spec->loc, "no tile fits views = %d, head_dim = %d, value_dim = %d in %d bytes of shared memory",
		              spec->views, spec->head_dim, spec->value_dim, plan->shared_limit);
		return NULL;
	}
	plan_partials(plan, arena);
	plan_reduce(plan, arena);
	plan_overlap(plan);
	return plan;
}

Plan *plan_make(Arena *arena, Diag *diag, const Spec *spec, PlanOptions options)
{
	Plan *plan = make_plan(arena, diag, spec, options, NULL);
	if (!plan || options.kind != PLAN_AUTO || !plan->screens)
		return plan;
	plan->crossover = plan_crossover(spec, options.target);
	if (!plan->crossover)
		return plan;
	options.kind = PLAN_SPARSE;
	plan->next = make_plan(arena, diag, spec, options, plan->crossover);
	return plan->next ? plan : NULL;
}
