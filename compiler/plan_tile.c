/*
 * What a launch keeps in registers and in shared memory follows from its tile; the best tile is the one with the least cost a
 * pair: barriers and address arithmetic amortised over the columns, traffic over the rows, and everything stretched where too
 * few warps are resident to hide latency. SM_REGISTERS and SM_SHARED are those of sm_90, where most of these kernels run.
 */
#include "plan_tile.h"

enum { WARP_LANES = 32, MAX_SLOTS = 4, SM_REGISTERS = 65536, SM_SHARED = 228 * 1024, MANY_REGISTERS = 168,
       F32_REGISTERS = 208, WORTHWHILE_COLS = 16, WORTHWHILE_GROUP_COLS = 32, GATHER_COLS = 32,
       GATHER_REGISTERS = 128 };

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

int resident_ctas(const Launch *launch)
{
	int by_registers = SM_REGISTERS / (launch->register_limit * plan_threads(launch));
	int by_shared = SM_SHARED / (launch->shared_bytes + 1024);
	return by_registers < by_shared ? by_registers : by_shared;
}

static double tile_cost(const Spec *spec, const Launch *tile)
{
	double a_operand = spec->dtype == DTYPE_F32 ? 20 : 8;  /* loading and splitting A, spread over the columns */
	int warps = resident_ctas(tile) * tile->warps;
	double busy = warps < 8 ? warps / 8.0 : 1;
	int scarce = tile->gathered ? 1 : 2;           /* slots with which copies are waited for */
	return (1 + a_operand / tile->cols + 16.0 / tile->rows + (tile->slots == scarce ? 0.1 : 0)) / busy;
}

/* Left to itself ptxas spills a little in order to fit one CTA more, or keeps everything live that it can and spills then. So it is
 * told: three CTAs of 128 threads for a forward that fits without spills by the estimate, else two; float32 tiles fill
 * shared memory with two. */
static int register_limit(const Spec *spec, const Needs *needs, int rows, int estimate)
{
	if (rows < 64)
		return PLAN_ALL_REGISTERS;
	/* Most lists fit one tile, and then a kernel waits for memory rather than multiplies: four CTAs hide more of it. */
	if (needs->gathered) {
		/* Beyond this, factors that are split or scaled leave too little for addresses. */
		int many = spec->dtype == DTYPE_BF16 ? 200 : 180;
		return estimate <= 140 ? GATHER_REGISTERS : estimate <= many ? MANY_REGISTERS : PLAN_ALL_REGISTERS;
	}
	if (spec->dtype == DTYPE_F32)
		return estimate <= 214 ? F32_REGISTERS : PLAN_ALL_REGISTERS;
	return needs->forward && estimate <= 185 ? MANY_REGISTERS : PLAN_ALL_REGISTERS;
}

static bool spills(const Spec *spec, const Launch *launch)
{
	return launch->register_estimate > (spec->dtype == DTYPE_F32 ? 216 : 235);
}

static int search_bytes(const Launch *tile)
{
	return tile->blocks == BLOCKS_HEAVY ? PLAN_SEARCH_BYTES : 0;
}

/* One candidate; true when it fits in shared memory, with its estimate and whether it retains. */
static bool tile_fits(const Plan *plan, const Needs *needs, Launch *tile)
{
	int shared = tile->rows * needs->residents + tile->slots * tile->cols * needs->slot_row + search_bytes(tile) + 1024;
	tile->warps = tile->rows / PLAN_WARP_ROWS;
	if (needs->gathered)
		shared += gather_bytes(plan->spec, tile->warps, tile->cols, tile->slots,
		                       needs->forward && plan_refines_marks(plan->spec));
	tile->gathered = needs->gathered;
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

/*
 * ENGINE_WGMMA: a warp group computes 64 rows, one more fetches. The limits are what setmaxnreg shares out: a CTA has
 * the SM to itself, and its registers are handed from the producer to the consumers.
 */
static const struct GroupShape {
	int groups, register_limit, producer_registers, consumer_registers;
	int most_views;                    /* their addresses are what the producer's registers hold; of heavy blocks, which are found as it */
	                                   /* goes, one view less: it would spill in its loop */
} group_shapes[] = {
	{ 2, 168, 40, 232, 2 },
	{ 2, 168, 56, 224, SPEC_MAX_VIEWS + 1 },
	{ 1, 168, 104, 232, SPEC_MAX_VIEWS + 1 },
};

static bool may_use_groups(const Plan *plan)
{
	return plan->options.target == TARGET_SM_90A && plan->spec->dtype != DTYPE_F32;
}

static int estimate_group_registers(const Spec *spec, const Needs *needs, int cols)
{
	int fixed = 36, view = 8, operands = cols < 64 ? cols / 4 : 16;
	if (spec->dtype == DTYPE_F16)
		fixed += 40;                   /* products on their way back from a row's scale */
	if (spec->score->op != EXPR_VAR)
		fixed += 40;                   /* a score modifier and its derivative */
	int sums = needs->accumulators / 2 + needs->group_tiles * cols / 2;
	return fixed + (needs->views - 1) * 10 + needs->views * (view + needs->sums) + sums + operands;
}

/* Bytes of barriers: one a tile of the ring, one a slot, one for the residents; and what rounding up to panels takes. */
static int group_shared(const Needs *needs, const Launch *tile)
{
	enum { SPARE = 3 * 1024 };
	return tile->rows * needs->box_residents + tile->slots * tile->cols * needs->box_round + search_bytes(tile) + SPARE;
}

static bool group_tile_fits(const Plan *plan, const Needs *needs, const struct GroupShape *shape, Launch *tile)
{
	tile->rows = shape->groups * PLAN_GROUP_WARPS * PLAN_WARP_ROWS;
	tile->warps = shape->groups * PLAN_GROUP_WARPS;
	tile->producer_warps = PLAN_GROUP_WARPS;
	tile->turns = shape->groups > 1;
	tile->register_limit = shape->register_limit;
	tile->producer_registers = shape->producer_registers;
	tile->consumer_registers = shape->consumer_registers;
	tile->register_estimate = estimate_group_registers(plan->spec, needs, tile->cols);
	tile->shared_bytes = group_shared(needs, tile);
	tile->retain = needs->can_retain;
	tile->engine = ENGINE_WGMMA;
	return needs->views + (tile->blocks == BLOCKS_HEAVY) <= shape->most_views && tile->register_estimate <= shape->consumer_registers &&
	       tile->shared_bytes <= plan->shared_limit;
}

/* Rows save traffic, columns save waiting, slots hide it: in this order. */
static bool choose_group_tile(const Plan *plan, const Needs *needs, Launch *launch)
{
	enum { LEAST_COLS = 16, LEAST_SLOTS = 2 };
	if (!may_use_groups(plan) || needs->gathered)
		return false;
	Launch tile = *launch;
	for (size_t s = 0; s < sizeof group_shapes / sizeof *group_shapes; s++)
		for (tile.cols = needs->most_cols; tile.cols >= LEAST_COLS; tile.cols /= 2)
			for (tile.slots = MAX_SLOTS; tile.slots >= LEAST_SLOTS; tile.slots--)
				if (group_tile_fits(plan, needs, &group_shapes[s], &tile)) {
					*launch = tile;
					return true;
				}
	return false;
}

/* With one more, long lists wait for memory less; with another, no less. Not where fewer CTAs would have room. */
static void add_slot(const Plan *plan, const Needs *needs, Launch *launch)
{
	Launch tile = *launch;
	tile.slots++;
	if (launch->slots > 1 && tile_fits(plan, needs, &tile) && resident_ctas(&tile) == resident_ctas(launch))
		*launch = tile;
}

bool choose_tile(const Plan *plan, const Needs *needs, Launch *launch)
{
	if (choose_group_tile(plan, needs, launch))
		return true;
	int least_cols = plan->spec->dtype == DTYPE_F32 ? 8 : 16;
	int most_cols = needs->gathered ? GATHER_COLS : 64;
	int most_slots = needs->gathered ? 2 : MAX_SLOTS, least_slots = needs->gathered ? 1 : 2;
	Launch tile = *launch;
	double best = 0;
	if (needs->can_retain)
		most_slots += needs->streams;
	for (tile.rows = 64; tile.rows >= PLAN_WARP_ROWS; tile.rows /= 2)
		for (tile.cols = most_cols; tile.cols >= least_cols; tile.cols /= 2)
			for (tile.slots = most_slots; tile.slots >= least_slots; tile.slots--) {
				if (!tile_fits(plan, needs, &tile))
					continue;
				double cost = candidate_cost(plan, needs, &tile);
				if (best == 0 || cost < best) {
					best = cost;
					*launch = tile;
				}
			}
	if (needs->gathered && best != 0)
		add_slot(plan, needs, launch);
	return best != 0;
}

/*
 * ENGINE_WGMMA: the products of one warp group run while others look at theirs, so as many groups as registers allow. The limit is
 * what a thread of such a CTA can have; setmaxnreg moves what the producer leaves to the groups, within the same sum.
 * One H100, head_dim 64, T = 16384: 1195 TOP/s. Before the launch was persistent, 940 with four groups, 860 with three; 710 with two CTAs
 * of two groups and one fetching warp.
 */
void choose_screen_tile(const Plan *plan, Launch *launch)
{
	enum { GROUPS = 4, REGISTERS = 96, PRODUCER_REGISTERS = 32, CONSUMER_REGISTERS = 112 };
	launch->slots = plan_int8_bytes(plan->spec) > PLAN_PANEL_BYTES ? 2 : 4;
	if (plan->options.target != TARGET_SM_90A) {
		launch->rows = PLAN_MARK;
		launch->cols = PLAN_BOUND_KEYS;
		launch->warps = PLAN_GROUP_WARPS;
		return;
	}
	launch->engine = ENGINE_WGMMA;
	launch->rows = GROUPS * PLAN_MARK;
	launch->cols = plan_int8_keys(plan->spec);
	launch->persistent = true;
	launch->warps = GROUPS * PLAN_GROUP_WARPS;
	launch->producer_warps = PLAN_GROUP_WARPS;
	launch->register_limit = REGISTERS;
	launch->producer_registers = PRODUCER_REGISTERS;
	launch->consumer_registers = CONSUMER_REGISTERS;
}

/* For each thread a mask of 64 bits, a sum and a block, and for each view some places of marks and another mask; for each warp a sum,
 * and for each view a count; and the rows of as many tiles as there are threads for, and of those that are still to be used then. Where
 * marks are refined, a number for each thread and for each row, and a count. */
int gather_bytes(const Spec *spec, int warps, int cols, int slots, bool refines)
{
	int thread = 8 + 4 + 4 + (2 * PLAN_GATHER_SPAN + 8) * spec->views;
	int rows = warps * WARP_LANES + (slots > 2 ? slots - 1 : 1) * cols;
	int bytes = warps * (WARP_LANES * thread + 4 + 4 * spec->views) + 4 * rows;
	return refines ? bytes + 4 * (warps * WARP_LANES + rows) + 16 : bytes;
}

bool tile_is_cramped(const Plan *plan, const Launch *tile)
{
	if (may_use_groups(plan) && !tile->gathered)
		return tile->engine != ENGINE_WGMMA || tile->cols < WORTHWHILE_GROUP_COLS;
	return tile->cols < WORTHWHILE_COLS || spills(plan->spec, tile);
}

static int max_int(int a, int b)
{
	return a > b ? a : b;
}

static int terms_bytes(const Spec *spec, int terms)
{
	return spec->normalize == NORMALIZE_L2 ? 4 * terms : 4 * (terms - 1);
}

/* The widths of a row of q or k, and of v. */
typedef struct Widths {
	int head, value;                   /* padded */
	int box_head, box_value;           /* swizzled */
} Widths;

static Widths row_widths(const Spec *spec)
{
	return (Widths){ plan_row_bytes(spec, spec->head_dim), plan_row_bytes(spec, spec->value_dim),
		plan_panel_row_bytes(spec, spec->head_dim), plan_panel_row_bytes(spec, spec->value_dim) };
}

/* Bytes a row of what a round streams: slot by slot, or, gathered, all of it. */
static int streamed_row(int scored, int weighted, bool gathered)
{
	return gathered ? scored + weighted : max_int(scored, weighted);
}

/* The widest tile that fits without spills, or else the narrowest; of it, with slots to spare. mma.sync on every target: a count is
 * made once, and what runs everywhere serves. */
static bool choose_widest(const Plan *plan, const Needs *needs, int most_cols, Launch *launch)
{
	int least_cols = plan->spec->dtype == DTYPE_F32 ? 8 : 16;
	Launch tile = *launch;
	bool found = false;
	for (tile.cols = most_cols; tile.cols >= least_cols; tile.cols /= 2)
		for (tile.slots = MAX_SLOTS - 1; tile.slots >= 2; tile.slots--) {
			if (!tile_fits(plan, needs, &tile))
				continue;
			*launch = tile;
			found = true;
			if (!spills(plan->spec, &tile))
				return true;
			break;
		}
	return found;
}

static Needs scored_needs(const Spec *spec)
{
	Widths w = row_widths(spec);
	return (Needs){ .views = spec->views, .residents = spec->views * w.head, .slot_row = w.head + 4 };
}

void choose_count_tile(const Plan *plan, Launch *launch)
{
	Needs needs = scored_needs(plan->spec);
	needs.forward = true;
	needs.sums = 18;
	needs.tiles = 1;
	for (launch->rows = 64; launch->rows > PLAN_WARP_ROWS; launch->rows /= 2)
		if (choose_widest(plan, &needs, 64, launch))
			return;
	choose_widest(plan, &needs, 64, launch);
}

void choose_statistics_tile(const Plan *plan, int rows, Launch *launch)
{
	Needs needs = scored_needs(plan->spec);
	needs.sums = 18 + PLAN_POWERS + PLAN_TAILS;
	needs.tiles = plan->spec->views + 1;
	launch->rows = rows;
	choose_widest(plan, &needs, 32, launch);
}

Needs forward_needs(const Spec *spec, bool gathered)
{
	Widths w = row_widths(spec);
	int views = gathered ? 1 : spec->views;
	return (Needs){ .forward = true, .gathered = gathered, .views = views, .sums = 8, .accumulators = spec->value_dim,
		.tiles = 2, .residents = views * w.head, .slot_row = streamed_row(w.head + 4, w.value, gathered),
		.group_tiles = views > 1 ? 2 : 1, .most_cols = 128,
		.box_residents = views * w.box_head, .box_round = views * (w.box_head + 4) + w.box_value };
}

Needs backward_q_needs(const Spec *spec, int views, bool gathered)
{
	Widths w = row_widths(spec);
	int gradients = 1 + plan_splits_output_gradient(spec);
	/* A second gradient's addresses and operands; boxes have none of the former, wgmma none of the latter. */
	int sums = gathered && gradients > 1 ? 42 : 6;
	return (Needs){ .gathered = gathered, .views = views, .sums = sums, .accumulators = views * spec->head_dim, .tiles = 2,
		.residents = views * w.head + gradients * w.value, .slot_row = streamed_row(w.head + 4, w.value, gathered),
		.group_tiles = 2, .most_cols = views > 1 ? 64 : 128,
		.box_residents = views * w.box_head + gradients * w.box_value, .box_round = views * (w.box_head + 4) + w.box_value };
}

Needs backward_kv_needs(const Spec *spec, int views, bool values, bool gathered)
{
	Widths w = row_widths(spec);
	int terms = terms_bytes(spec, 2), rests = plan_splits_output_gradient(spec), all = gathered ? 1 : spec->views;
	int scored = values ? all : views;
	Needs needs = { .gathered = gathered, .views = scored };
	needs.accumulators = views * spec->head_dim + (values ? spec->value_dim : 0);
	needs.tiles = 2 + (views > 0) + values;        /* scores, row terms of the columns, dA, weights */
	needs.residents = scored * w.head + (views > 0 ? w.value : 0);
	needs.slot_row = streamed_row(w.head + terms, (gathered ? 1 + rests : 1) * w.value, gathered);
	needs.streams = scored + 1 + rests;
	needs.can_retain = values && views > 0 && !gathered;
	needs.values_only = views == 0;
	needs.group_tiles = 1 + (views > 0) + values;
	needs.most_cols = 64;
	needs.box_residents = scored * w.box_head + (views > 0 ? w.box_value : 0);
	needs.box_round = scored * (w.box_head + terms) + (1 + (views > 0 && rests)) * w.box_value;
	return needs;
}
