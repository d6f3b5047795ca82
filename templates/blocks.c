#include "blocks.h"
#include "counts.h"
#include "pairs.h"
#include "tile_parts.h"

/* ---- which blocks are heavy ---- */

/* What a launch's rows are. */
static const struct Side {
	const char *heads, *length;
	bool by_keys;
} row_side = { "heads", "q_len", false }, key_side = { "kv_heads", "k_len", true };

static const struct Side *side_of(const Kernel *k)
{
	return k->launch->role == ROLE_BACKWARD_KV ? &key_side : &row_side;
}

/* The last block of PLAN_MARK rows. */
static Val last_of(Kernel *k, const struct Side *side)
{
	return val_add_i32(k->b, kernel_i32(k, "ceil_div(%s,%d)", side->length, PLAN_MARK), -1);
}

/* Keys (or rows) that gathering visits for such a block, over all views; 0 of one that does not exist. i64. */
static Val visited_of(Kernel *k, const struct Side *side, bool backward, Val batch_head, Val block)
{
	Builder *b = k->b;
	Val last = last_of(k, side), zero = val_i32(b, 0), sum = val_i64(b, 0);
	Val exists = val_compare(b, IR_LE, block, last), within = val_min(b, block, last);
	for (int v = 0; v < k->spec->views; v++) {
		Val index = count_index(k, v, side->heads, batch_head);
		Val at = side->by_keys ? key_rows_at(k, index, within) : row_keys_at(k, backward, index, within);
		Val count = val_select(b, exists, val_load(b, at, IR_I32), zero);
		sum = val_add(b, sum, val_to_i64(b, count));
	}
	return sum;
}

/* Blocks of keys (or rows) that are there to be visited; likewise. */
static Val visible_of_block(Kernel *k, const struct Side *side, Val block)
{
	Builder *b = k->b;
	Val last = last_of(k, side), zero = val_i32(b, 0);
	Val first = val_mul_i32(b, val_min(b, block, last), PLAN_MARK);
	Span span = side->by_keys ? query_tiles(k, first, PLAN_MARK, PLAN_MARK) : key_tiles(k, first, PLAN_MARK, PLAN_MARK);
	Val tiles = val_max(b, val_sub(b, span.end, span.first), zero);
	return val_to_i64(b, val_select(b, val_compare(b, IR_LE, block, last), tiles, zero));
}

/* Are so many times PLAN_MARK rows a block for the dense kernels, of which this is one? Most have few keys, and then what they see is not
 * worked out. */
static Val are_heavy(Kernel *k, const struct Side *side, bool backward, int together, Val batch_head, Val block)
{
	Builder *b = k->b;
	Val first = val_mul_i32(b, val_div_i32(b, block, together), together), visited = val_i64(b, 0), heavy = val_false(b);
	for (int n = 0; n < together; n++)
		visited = val_add(b, visited, visited_of(k, side, backward, batch_head, val_add_i32(b, first, n)));
	Val *changed[] = { &heavy };
	Val many = val_compare(b, IR_GE, visited, val_i64(b, (int64_t)plan_heavy_keys(k->plan) * k->spec->views * together));
	for (If f = if_begin(b, many, changed, 1); if_next(&f);) {
		Val visible = val_i64(b, 0);
		for (int n = 0; n < together; n++)
			visible = val_add(b, visible, visible_of_block(k, side, val_add_i32(b, first, n)));
		Val a_tile = side->by_keys ? kernel_i64(k, "%d*(heads/kv_heads)", PLAN_MARK * k->spec->views)
		                           : val_i64(b, PLAN_MARK * k->spec->views);
		visible = val_mul(b, visible, a_tile);
		heavy = val_compare(b, IR_GE, val_mul(b, visited, val_i64(b, PLAN_HEAVY_PART)), visible);
	}
	return heavy;
}

/* Is the block that k->cta numbers, or the larger one that it is a part of? */
static Val is_heavy(Kernel *k)
{
	const struct Side *side = side_of(k);
	Place place = kernel_place(k, side->heads, side->length, k->launch->rows);
	Val block = val_div_i32(k->b, place.row0, PLAN_MARK);
	return are_heavy(k, side, k->launch->backward, k->launch->judged_rows / PLAN_MARK, place.batch_head, block);
}

Val blocks_were_heavy(Kernel *k, Val batch_head, Val row_block)
{
	int rows = plan_heavy_rows(k->plan);
	return rows > 0 ? are_heavy(k, &row_side, false, rows / PLAN_MARK, batch_head, row_block) : val_false(k->b);
}

/* ---- the search for heavy blocks ---- */

/*
 * A warp looks at 32 of its CTA's blocks at once, each lane at one. Its state lies in shared memory, or it would take registers all
 * the while; each warp has its own, and all come to the same.
 */
enum {
	STATE_BLOCK,                       /* at hand */
	STATE_FIRST, STATE_NEXT,           /* round of lane 0; afterwards */
	STATE_FOUND,                       /* bits to do */
	STATE_ROUNDS, STATE_SHIFT,         /* of the launch */
	STATE_WORDS
};
enum { STATE_BYTES = STATE_WORDS * 4 };
_Static_assert(STATE_BYTES * 16 <= PLAN_SEARCH_BYTES, "the state of every warp of a CTA");

static Val state_address(Kernel *k, int word)
{
	Builder *b = k->b;
	Val own = val_mul_i32(b, val_div_i32(b, k->thread, WARP), STATE_BYTES);
	return val_offset(b, val_offset_const(b, k->shared, k->search_at + 4 * word), own);
}

static Val read_state(Kernel *k, int word)
{
	return shared_read_anew(k, state_address(k, word));
}

static void write_state(Kernel *k, int word, Val value)
{
	shared_write_through(k, state_address(k, word), value);
}

static Val last_block(Kernel *k)
{
	const struct Side *side = side_of(k);
	return val_add_i32(k->b, kernel_i32(k, "batch*%s*ceil_div(%s,%d)", side->heads, side->length, k->launch->rows), -1);
}

/* In a round, each CTA looks at one of as many blocks as there are CTAs; the last round may have fewer. */
static Val round_count(Kernel *k, Val grid)
{
	Builder *b = k->b;
	return val_add_i32(b, val_div(b, last_block(k), grid), 1);
}

/*
 * By so many CTAs a round is turned against the one before. In a head, rows at one end are heavy sooner than at the other, so a
 * CTA's blocks are to be spread over it. Unturned, each is `grid` after the one before: where that is nearly a multiple of a head's
 * blocks, they would stay near one place in all heads. There they move on by `step`, so that all rounds go through a head once.
 */
static Val round_shift(Kernel *k, Val grid)
{
	Builder *b = k->b;
	Val blocks = kernel_i32(k, "ceil_div(%s,%d)", side_of(k)->length, k->launch->rows), zero = val_i32(b, 0);
	Val part = val_div(b, blocks, round_count(k, grid));
	Val step = val_max(b, part, val_i32(b, 1));
	Val above = val_rem(b, val_add(b, grid, step), blocks);        /* below 2 steps: within one of a multiple */
	Val shift = val_max(b, val_sub(b, val_mul_i32(b, step, 2), above), zero);
	return val_rem(b, shift, grid);
}

/* The CTA's block of a round; where the round has none for it, another one that exists. */
static Val block_of_round(Kernel *k, Val round, Val *exists)
{
	Builder *b = k->b;
	Val grid = kernel_grid(k), zero = val_i32(b, 0), cta = kernel_cta(k);
	Val turned = val_rem(b, val_mul(b, read_state(k, STATE_SHIFT), round), grid);
	Val over = val_sub(b, cta, val_sub(b, grid, turned)), within = val_add(b, cta, turned);
	Val place = val_select(b, val_compare(b, IR_LT, over, zero), within, over);
	Val first = val_mul(b, round, grid);
	*exists = val_compare(b, IR_LE, place, val_sub(b, last_block(k), first));
	return val_add(b, first, val_select(b, *exists, place, zero));
}

/* The blocks of 32 rounds from `next`: sets which are heavy, and where to go on. */
static void look_ahead(Kernel *k, Val *first, Val *next, Val *found)
{
	Builder *b = k->b;
	Val left = val_sub(b, read_state(k, STATE_ROUNDS), *next), exists;
	Val ahead = val_min(b, k->lane, val_add_i32(b, left, -1));
	k->cta = block_of_round(k, val_add(b, *next, ahead), &exists);
	Val inside = val_compare(b, IR_LT, k->lane, left);
	Val heavy = is_heavy(k);
	*found = warp_ballot(k, val_and(b, val_and(b, inside, exists), heavy));
	*first = *next;
	*next = val_add(b, *next, val_min(b, left, val_i32(b, WARP)));
}

/* The next heavy block's number, if `*found`; it is in the state then, and is not looked at again. */
static Val next_block(Kernel *k, Val *found)
{
	Builder *b = k->b;
	Val first = read_state(k, STATE_FIRST), next = read_state(k, STATE_NEXT), zero = val_i32(b, 0), exists;
	*found = read_state(k, STATE_FOUND);
	Val *changed[] = { &first, &next, found };
	for (If f = if_begin(b, val_compare(b, IR_EQ, *found, zero), changed, 3); if_next(&f);)
		look_ahead(k, &first, &next, found);
	Val lower = val_add_i32(b, *found, -1), block = zero;          /* bits up to the lowest change */
	Val *of_found[] = { &block };
	for (If f = if_begin(b, val_compare(b, IR_NE, *found, zero), of_found, 1); if_next(&f);) {
		Val below = val_and(b, lower, val_xor(b, *found, val_i32(b, -1)));
		block = block_of_round(k, val_add(b, first, val_popc(b, below)), &exists);
	}
	warp_sync(k);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, zero), NULL, 0); if_next(&f);) {
		write_state(k, STATE_BLOCK, block);
		write_state(k, STATE_FIRST, first);
		write_state(k, STATE_NEXT, next);
		write_state(k, STATE_FOUND, val_and(b, *found, lower));
	}
	warp_sync(k);
	return block;
}

static void begin_heavy(Kernel *k)
{
	Builder *b = k->b;
	k->search_at = k->shared_bytes;
	k->shared_bytes += PLAN_SEARCH_BYTES;
	Val zero = val_i32(b, 0), grid = kernel_grid(k);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, zero), NULL, 0); if_next(&f);) {
		write_state(k, STATE_ROUNDS, round_count(k, grid));
		write_state(k, STATE_SHIFT, round_shift(k, grid));
		write_state(k, STATE_NEXT, zero);
		write_state(k, STATE_FIRST, zero);
		write_state(k, STATE_FOUND, zero);
	}
	warp_sync(k);
	k->search = until_begin(b, NULL, 0);
	until_next(&k->search);
	kernel_read_thread(k);
	Val found;
	k->cta = next_block(k, &found);
	k->own = if_begin(b, val_compare(b, IR_NE, found, zero), NULL, 0);
	if_next(&k->own);
}

static void end_heavy(Kernel *k)
{
	Builder *b = k->b;
	kernel_read_thread(k);
	if (kernel_uses_groups(k))
		ring_boxes_end(k);
	else
		kernel_meet(k);
	if_next(&k->own);
	kernel_read_thread(k);
	Val nothing = val_compare(b, IR_EQ, read_state(k, STATE_FOUND), val_i32(b, 0));
	Val next = read_state(k, STATE_NEXT);
	k->search.done = val_and(b, nothing, val_compare(b, IR_GE, next, read_state(k, STATE_ROUNDS)));
	until_next(&k->search);
}

void blocks_begin(Kernel *k)
{
	if (k->launch->blocks == BLOCKS_HEAVY)
		begin_heavy(k);
	if (k->launch->blocks != BLOCKS_LIGHT)
		return;
	Val light = val_compare(k->b, IR_EQ, is_heavy(k), val_false(k->b));
	k->own = if_begin(k->b, light, NULL, 0);
	if_next(&k->own);
}

void blocks_end_consumers(Kernel *k)
{
	if (k->launch->blocks != BLOCKS_HEAVY)
		return;
	wgmma_last_turn(k);
	change_registers(k, "decrease", k->launch->register_limit);
	kernel_meet(k);
}

void blocks_end_producer(Kernel *k)
{
	if (k->launch->blocks != BLOCKS_HEAVY)
		return;
	/* Not before the others have given theirs back, which they may not have taken yet: the producer runs ahead. */
	warp_sync(k);
	kernel_meet(k);
	change_registers(k, "increase", k->launch->register_limit);
}

void blocks_end(Kernel *k)
{
	if (k->launch->blocks == BLOCKS_HEAVY)
		end_heavy(k);
	else if (k->launch->blocks == BLOCKS_LIGHT)
		if_next(&k->own);
}

Val blocks_at_hand(Kernel *k)
{
	return read_state(k, STATE_BLOCK);
}
