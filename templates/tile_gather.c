/*
 * Gathering: marks to lists of rows, and lists to tiles.
 *
 * A span is PLAN_GATHER_SPAN blocks of the other side for each of the CTA's threads; its marks, few or many, are made a list. A group
 * is as many of them as there are threads. Each thread takes the mask of one; the running sums of their bits go to shared memory,
 * and column x of round r finds the (r * cols + x)-th set bit by bisection over the sums. So rounds are as full as marks allow,
 * however many blocks those are strewn over.
 */
#include "marks.h"
#include "tile_parts.h"

enum { MARK_PLACE_BYTES = 2 };             /* of an entry of a list of marks */

static int threads_of(const Kernel *k)
{
	return k->launch->warps * WARP;
}

static int span_blocks(const Kernel *k)
{
	return PLAN_GATHER_SPAN * threads_of(k);
}

static int streams_bytes(const Kernel *k, int cols, const Stream *streams, int count)
{
	int bytes = 0;
	for (int n = 0; n < count; n++)
		bytes += ring_slot_bytes(k->spec, cols, streams[n].matrix.cols, streams[n].term_count);
	return bytes;
}

/* Each thread finds the row of a column, so that lists of so many rounds are made at once. */
static int rounds_listed(const Gather *g)
{
	return threads_of(g->k) / g->cols;
}

/* Copies run so many rounds ahead of their use. */
static int rounds_ahead(const Gather *g)
{
	return g->k->launch->slots - 1;
}

/* More than are made at once: the rounds that are still to be used need theirs. */
static int list_count(const Gather *g)
{
	return rounds_listed(g) + (rounds_ahead(g) > 0 ? rounds_ahead(g) : 1);
}

Gather gather_new(Kernel *k, int cols, const Stream *streams, int count)
{
	Builder *b = k->b;
	Gather g = { .k = k, .cols = cols, .found = val_i32(b, 0) };
	int threads = threads_of(k), at = k->shared_bytes;
	g.slots = val_offset_const(b, k->shared, at);
	g.slot_bytes = streams_bytes(k, cols, streams, count);
	at += k->launch->slots * g.slot_bytes;
	g.masks = val_offset_const(b, k->shared, at);
	at += 8 * threads;
	g.ends = val_offset_const(b, k->shared, at);
	at += 4 * threads;
	g.blocks = val_offset_const(b, k->shared, at);
	at += 4 * threads;
	g.marks = val_offset_const(b, k->shared, at);
	at += k->spec->views * span_blocks(k) * MARK_PLACE_BYTES;
	g.ahead_masks = val_offset_const(b, k->shared, at);
	at += k->spec->views * 8 * threads;
	g.ahead_counts = val_offset_const(b, k->shared, at);
	at += k->spec->views * 4 * k->launch->warps;
	g.lists = val_offset_const(b, k->shared, at);
	at += list_count(&g) * 4 * cols;
	g.warp_sums = val_offset_const(b, k->shared, at);
	at += 4 * k->launch->warps;
	g.refines = k->launch->role == ROLE_FORWARD && plan_refines_marks(k->spec);
	if (g.refines) {
		g.numbers = val_offset_const(b, k->shared, at);
		at += 4 * threads;
		g.sources = val_offset_const(b, k->shared, at);
		at += list_count(&g) * 4 * cols;
		g.passed = val_offset_const(b, k->shared, at);
		at += 4;
	}
	k->shared_bytes = (at + CHUNK - 1) / CHUNK * CHUNK;
	return g;
}

/* Their addresses are found each time: all the while, they would be in registers. */
static Marks marks_at_hand(Kernel *k, const GatherWalk *w)
{
	return marks_of(k, taken_again(k, w->index));
}

/* The mask of a mark: 0 where there is none, all ones where it had no room. `other` is its row block or key tile. */
static Val mask_of(Kernel *k, const GatherWalk *w, Val other)
{
	Builder *b = k->b;
	Val row_block = w->by_keys ? other : w->block;
	Val tile = w->by_keys ? w->block : other;
	Val mask = val_i64(b, 0);
	Val *changed[] = { &mask };
	Val inside = val_compare(b, IR_LT, other, w->end);
	inside = val_and(b, inside, val_compare(b, IR_GE, other, w->first));
	for (If f = if_begin(b, inside, changed, 1); if_next(&f);) {
		Marks marks = marks_at_hand(k, w);
		Val word = val_div_i32(b, tile, PLAN_WORD_MARKS), bit = val_rem_i32(b, tile, PLAN_WORD_MARKS);
		Val at = marks_words_at(k, &marks, row_block);
		at = val_offset(b, at, val_mul_i32(b, word, WORD_BYTES));
		Val pair = val_load(b, at, IR_V2I32);
		Val bits = val_vector_get(b, pair, 0, IR_I32);
		Val own = val_shl(b, val_i32(b, 1), bit);
		Val marked = val_compare(b, IR_NE, val_and(b, bits, own), val_i32(b, 0));
		for (If m = if_begin(b, marked, changed, 1); if_next(&m);) {
			Val below = val_and(b, bits, val_add_i32(b, own, -1));
			Val count = val_popc(b, below);
			Val number = val_add(b, val_vector_get(b, pair, 1, IR_I32), count);
			mask = val_i64(b, -1);
			Val room = val_compare(b, IR_LT, number, marks.room);
			for (If r = if_begin(b, room, changed, 1); if_next(&r);)
				mask = mark_mask(k, &marks, row_block, number, w->by_keys);
		}
	}
	return mask;
}

/* x summed over this thread and those below it; sets the sum over all. One barrier, and another is due before the next such sum. */
static Val running_sum(Gather *g, Val x, Val *total)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val end = warp_running_sum(k, x);
	Val last_lane = val_compare(b, IR_EQ, k->lane, val_i32(b, WARP - 1));
	for (If f = if_begin(b, last_lane, NULL, 0); if_next(&f);)
		val_store(b, val_offset(b, g->warp_sums, val_mul_i32(b, k->warp, 4)), end);
	kernel_barrier(k);
	Val before = val_i32(b, 0);
	*total = before;
	for (int w = 0; w < k->launch->warps; w++) {
		Val sum = val_load(b, val_offset_const(b, g->warp_sums, 4 * w), IR_I32);
		Val earlier = val_compare(b, IR_GT, k->warp, val_i32(b, w));
		before = val_add(b, before, val_select(b, earlier, sum, val_i32(b, 0)));
		*total = val_add(b, *total, sum);
	}
	return val_add(b, before, end);
}

/* ---- spans ---- */

/* Where a walk's first span begins: words are of a multiple of as many key tiles as a thread looks at. */
static Val first_span(Kernel *k, const GatherWalk *walk)
{
	Val down = val_div_i32(k->b, walk->first, PLAN_GATHER_SPAN);
	return val_mul_i32(k->b, down, PLAN_GATHER_SPAN);
}

/* The bits of a word, at a block that may have marks. */
static Val word_bits(Kernel *k, const GatherWalk *w, const Marks *marks, Val other)
{
	Builder *b = k->b;
	Val tile = w->by_keys ? w->block : other;
	Val at = marks_words_at(k, marks, w->by_keys ? other : w->block);
	Val word = val_div_i32(b, tile, PLAN_WORD_MARKS);
	return val_load(b, val_offset(b, at, val_mul_i32(b, word, WORD_BYTES)), IR_I32);
}

/* Which of the thread's blocks of a span have a mark, a bit each. Some block of the walk may have. */
static Val marked_blocks(Kernel *k, const GatherWalk *w, Val span)
{
	Builder *b = k->b;
	Marks marks = marks_at_hand(k, w);
	Val own = val_add(b, span, val_mul_i32(b, k->thread, PLAN_GATHER_SPAN));
	Val last = val_add_i32(b, w->end, -1), one = val_i32(b, 1), zero = val_i32(b, 0), found = zero, bits = zero;
	for (int n = 0; n < PLAN_GATHER_SPAN; n++) {
		Val other = val_add_i32(b, own, n);
		Val within = val_min(b, val_max(b, other, w->first), last);
		if (w->by_keys || n == 0)
			bits = word_bits(k, w, &marks, within);
		Val place = val_rem_i32(b, w->by_keys ? w->block : other, PLAN_WORD_MARKS);
		Val marked = val_and(b, val_shr(b, bits, place), one);
		marked = val_select(b, val_compare(b, IR_EQ, other, within), marked, zero);
		found = val_or(b, found, val_shl(b, marked, val_i32(b, n)));
	}
	return found;
}

static Val listed_at(Gather *g, const GatherWalk *w, Val n)
{
	Builder *b = g->k->b;
	Val list = val_offset_const(b, g->marks, w->list * span_blocks(g->k) * MARK_PLACE_BYTES);
	return val_offset(b, list, val_mul_i32(b, n, MARK_PLACE_BYTES));
}

/* Lists the blocks that have marks, in order; returns how many. */
static Val list_marks(Gather *g, const GatherWalk *w, Val span)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val marked = marked_blocks(k, w, span), total;
	Val count = val_popc(b, marked);
	Val first = val_sub(b, running_sum(g, count, &total), count);
	for (int n = 0; n < PLAN_GATHER_SPAN; n++) {
		Val below = val_and(b, marked, val_i32(b, (1 << n) - 1));
		Val own = val_and(b, marked, val_i32(b, 1 << n));
		Val place = val_add_i32(b, val_mul_i32(b, k->thread, PLAN_GATHER_SPAN), n);
		Val at = listed_at(g, w, val_add(b, first, val_popc(b, below)));
		for (If f = if_begin(b, val_compare(b, IR_NE, own, val_i32(b, 0)), NULL, 0); if_next(&f);)
			val_store(b, at, val_low_i16(b, place));
	}
	kernel_barrier(k);
	return total;
}

/* The block of mark n of the list, if there is one. */
static Val listed_block(Gather *g, const GatherWalk *w, Val span, Val count, Val n)
{
	Builder *b = g->k->b;
	Val block = val_i32(b, GATHER_NOTHING / PLAN_MARK);
	Val *changed[] = { &block };
	for (If f = if_begin(b, val_compare(b, IR_LT, n, count), changed, 1); if_next(&f);) {
		Val place = val_load(b, listed_at(g, w, n), IR_I16);
		block = val_add(b, span, val_widen_i16(b, place));
	}
	return block;
}

/* A span's list, and the masks of its first group. Where there are no more blocks than threads, the list is of them all: one read less
 * that others wait for. */
static GatherSpan read_span(Gather *g, const GatherWalk *w, Val span)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	GatherSpan read = { val_i32(b, 0), val_i64(b, 0) };
	Val left = val_sub(b, w->end, span);
	Val *changed[] = { &read.count, &read.mask };
	for (If f = if_begin(b, val_compare(b, IR_LT, w->first, w->end), changed, 2); if_next(&f);) {
		Val few = val_compare(b, IR_LE, left, val_i32(b, threads_of(k)));
		for (Either e = either_begin(b, few, changed, 1); either_next(&e);)
			if (e.otherwise) {
				read.count = list_marks(g, w, span);
			} else {
				Val at = listed_at(g, w, k->thread);
				val_store(b, at, val_low_i16(b, k->thread));
				read.count = left;
			}
		read.mask = mask_of(k, w, listed_block(g, w, span, read.count, k->thread));
	}
	return read;
}

/* ---- groups ---- */

/* In one sum, those of a group's marks and of their bits: 64 of a mark, and there are at most so many threads. */
enum { MARKS_SHIFT = 16 };
_Static_assert(PLAN_MARK * WARP * 16 < 1 << MARKS_SHIFT, "bits of a group");

static Val marks_and_bits(Kernel *k, Val mask)
{
	Builder *b = k->b;
	Val marked = val_compare(b, IR_NE, mask, val_i64(b, 0));
	Val one = val_select(b, marked, val_i32(b, 1 << MARKS_SHIFT), val_i32(b, 0));
	return val_or(b, one, count_bits(k, mask));
}

static Val number_at(Gather *g, Val place)
{
	return val_offset(g->k->b, g->numbers, val_mul_i32(g->k->b, place, 4));
}

/* The number of this thread's mark, if it has one: marks are numbered as they come. Takes the marks from the sums; returns how many there
 * were with this group's. */
static Val number_marks(Gather *g, Val *end, Val *total)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val shift = val_i32(b, MARKS_SHIFT), bits = val_i32(b, (1 << MARKS_SHIFT) - 1), before = val_load(b, g->passed, IR_I32);
	Val number = val_add(b, before, val_add_i32(b, val_shr(b, *end, shift), -1));
	val_store(b, number_at(g, k->thread), number);
	Val passed = val_add(b, before, val_shr(b, *total, shift));
	*end = val_and(b, *end, bits);
	*total = val_and(b, *total, bits);
	return passed;
}

static void store_passed(Gather *g, Val passed)
{
	Builder *b = g->k->b;
	for (If f = if_begin(b, val_compare(b, IR_EQ, g->k->thread, val_i32(b, 0)), NULL, 0); if_next(&f);)
		val_store(b, g->passed, passed);
}

/* Masks, their blocks and running sums of a group, for all threads to read; returns the group's sum. */
static Val share_group(Gather *g, Val mask, Val block)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val total, passed;
	Val end = running_sum(g, g->refines ? marks_and_bits(k, mask) : count_bits(k, mask), &total);
	if (g->refines)
		passed = number_marks(g, &end, &total);
	val_store(b, val_offset(b, g->ends, val_mul_i32(b, k->thread, 4)), end);
	val_store(b, val_offset(b, g->blocks, val_mul_i32(b, k->thread, 4)), block);
	val_store(b, val_offset(b, g->masks, val_mul_i32(b, k->thread, 8)), mask);
	kernel_barrier(k);
	if (g->refines)
		store_passed(g, passed);
	return total;
}

/* The row of entry number `entry` of the group; where marks are refined, its mark's number and its place there, too. */
static Val entry_row(Gather *g, Val entry, Val *source)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val mark = val_i32(b, 0), zero = mark;
	for (int step = threads_of(k) / 2; step > 0; step /= 2) {
		Val probe = val_mul_i32(b, val_add_i32(b, mark, step - 1), 4);
		Val end = val_load(b, val_offset(b, g->ends, probe), IR_I32);
		Val past = val_compare(b, IR_LE, end, entry);
		mark = val_add(b, mark, val_select(b, past, val_i32(b, step), zero));
	}
	Val end = val_load(b, val_offset(b, g->ends, val_mul_i32(b, mark, 4)), IR_I32);
	Val at = mark, mask = val_load(b, val_offset(b, g->masks, val_mul_i32(b, mark, 8)), IR_I64);
	Val count = count_bits(k, mask);
	Val number = val_sub(b, entry, val_sub(b, end, count));
	Val block = val_load(b, val_offset(b, g->blocks, val_mul_i32(b, mark, 4)), IR_I32);
	Val row0 = val_mul_i32(b, block, PLAN_MARK);
	Val place = nth_bit(k, mask, number);
	if (g->refines)
		*source = val_add(b, place, val_mul_i32(b, val_load(b, number_at(g, at), IR_I32), PLAN_MARK));
	return val_add(b, row0, place);
}

static Val list_at(Gather *g, Val lists, Val round)
{
	Builder *b = g->k->b;
	Val number = val_rem_i32(b, round, list_count(g));
	return val_offset(b, lists, val_mul_i32(b, number, 4 * g->cols));
}

/* From here on what is written and copied, or read, is that round's. */
static void at_round(Gather *g, Val round)
{
	Builder *b = g->k->b;
	Val number = val_rem_i32(b, round, g->k->launch->slots);
	g->list = list_at(g, g->lists, round);
	if (g->refines)
		g->source = list_at(g, g->sources, round);
	g->slot = val_offset(b, g->slots, val_mul_i32(b, number, g->slot_bytes));
}

/* The rows of a round's tile, and of those after it, one thread a column. */
static void write_lists(Gather *g, Val round)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val entry = val_add(b, val_mul_i32(b, round, g->cols), k->thread);
	Val own = val_add(b, round, val_div_i32(b, k->thread, g->cols)), column = val_mul_i32(b, val_rem_i32(b, k->thread, g->cols), 4);
	Val row = val_i32(b, GATHER_NOTHING), source = val_i32(b, 0);
	Val *changed[] = { &row, &source };
	for (If e = if_begin(b, val_compare(b, IR_LT, entry, g->total), changed, 2); if_next(&e);)
		row = entry_row(g, entry, &source);
	val_store(b, val_offset(b, list_at(g, g->lists, own), column), row);
	if (g->refines)
		val_store(b, val_offset(b, list_at(g, g->sources, own), column), source);
	kernel_barrier(k);
}

static void begin_lists(Gather *g, Val round)
{
	Builder *b = g->k->b;
	Val of_those = val_rem_i32(b, round, rounds_listed(g));
	for (If f = if_begin(b, val_compare(b, IR_EQ, of_those, val_i32(b, 0)), NULL, 0); if_next(&f);)
		write_lists(g, round);
}

/* Tiles lie one after the other. */
RingTile gather_tile(Gather *g, int stream)
{
	Kernel *k = g->k;
	const Stream *s = &g->walk->streams[stream];
	Val base = val_offset_const(k->b, g->slot, streams_bytes(k, g->cols, g->walk->streams, stream));
	RingTile tile = { .data = shared_at(k, base, g->cols, s->matrix.cols) };
	for (int t = 0; t < s->term_count; t++)
		tile.terms[t] = val_offset_const(k->b, tile.data.base, shared_bytes(tile.data) + t * g->cols * 4);
	return tile;
}

static void copy_stream(Gather *g, int n)
{
	Kernel *k = g->k;
	const Stream *s = &g->walk->streams[n];
	RingTile to = gather_tile(g, n);
	shared_gather(k, to.data, s->matrix, g->list);
	for (int t = 0; t < s->term_count; t++)
		shared_gather_terms(k, to.terms[t], s->terms[t], g->list, g->cols, s->matrix.rows);
}

static void copy_round(Gather *g, Val round)
{
	Builder *b = g->k->b;
	Val exists = val_compare(b, IR_LT, val_mul_i32(b, round, g->cols), g->total);
	at_round(g, round);
	for (If f = if_begin(b, exists, NULL, 0); if_next(&f);) {
		begin_lists(g, round);
		for (int n = 0; n < g->walk->stream_count; n++)
			copy_stream(g, n);
	}
	copies_commit(g->k);
}

static void copy_residents(Gather *g)
{
	for (int n = 0; n < g->walk->resident_count; n++) {
		const Resident *r = &g->walk->residents[n];
		shared_copy(g->k, r->to, r->from, r->row0);
	}
}

/* What a group's first round needs: once, as most row blocks have but one round, if any. Two barriers ago at least, everyone was done
 * with all rounds before. */
static void begin_copies(Gather *g)
{
	Builder *b = g->k->b;
	Val some = val_compare(b, IR_GT, g->total, val_i32(b, 0));
	for (If f = if_begin(b, some, NULL, 0); if_next(&f);) {
		copy_residents(g);
		for (int round = 0; round < rounds_ahead(g); round++)
			copy_round(g, val_i32(b, round));
	}
}

static Val ahead_mask_at(Gather *g, int list)
{
	Builder *b = g->k->b;
	Val of_list = val_offset_const(b, g->ahead_masks, list * 8 * threads_of(g->k));
	return val_offset(b, of_list, val_mul_i32(b, g->k->thread, 8));
}

static Val ahead_count_at(Gather *g, int list)
{
	Builder *b = g->k->b;
	Val of_list = val_offset_const(b, g->ahead_counts, list * 4 * g->k->launch->warps);
	return val_offset(b, of_list, val_mul_i32(b, g->k->warp, 4));
}

/* All reads first, then what they gave: it waits in shared memory, where warps read their own alone. In registers it would be live
 * through all walks but the last. */
void gather_ahead(Gather *g, const GatherWalk *walks, int count)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	GatherSpan spans[SPEC_MAX_VIEWS];
	for (int n = 0; n < count; n++)
		spans[n] = read_span(g, &walks[n], first_span(k, &walks[n]));
	warp_sync(k);                      /* all lanes have read the count of a walk before */
	for (int n = 0; n < count; n++) {
		val_store(b, ahead_mask_at(g, walks[n].list), spans[n].mask);
		for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&f);)
			val_store(b, ahead_count_at(g, walks[n].list), spans[n].count);
	}
	warp_sync(k);
}

static GatherSpan read_ahead(Gather *g, int list)
{
	Builder *b = g->k->b;
	GatherSpan span;
	kernel_read_thread(g->k);
	span.mask = val_load(b, ahead_mask_at(g, list), IR_I64);
	span.count = val_load(b, ahead_count_at(g, list), IR_I32);
	return span;
}

void gather_walk(Gather *g, const GatherWalk *walk, Val **carry, int carry_count)
{
	enum { OWN = 3 };
	Builder *b = g->k->b;
	g->walk = walk;
	g->span = read_ahead(g, walk->list);
	if (g->refines)
		store_passed(g, val_i32(b, 0));
	Val **all = ARENA_ARRAY(b->arena, Val *, carry_count + OWN);
	all[0] = &g->span.count;
	all[1] = &g->found;
	all[2] = &g->span.mask;
	for (int i = 0; i < carry_count; i++)
		all[OWN + i] = carry[i];
	g->spans = loop_begin(b, first_span(g->k, walk), walk->end, span_blocks(g->k), all, carry_count + OWN);
}

static void enter_span(Gather *g)
{
	Val **within = g->spans.carry + 1;                     /* all but the count */
	g->groups = loop_begin(g->k->b, val_i32(g->k->b, 0), g->span.count, threads_of(g->k), within, g->spans.count - 1);
}

static void leave_span(Gather *g)
{
	Builder *b = g->k->b;
	Val next = val_add_i32(b, g->spans.index, span_blocks(g->k));
	Val *changed[] = { &g->span.count, &g->span.mask };
	for (If f = if_begin(b, val_compare(b, IR_LT, next, g->walk->end), changed, 2); if_next(&f);) {
		kernel_barrier(g->k);                          /* everyone has read the list */
		kernel_read_thread(g->k);
		g->span = read_span(g, g->walk, next);
	}
}

/* A group's marks, then the loop over its rounds. */
static void enter_group(Gather *g)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	kernel_read_thread(k);
	Val own = val_add(b, g->groups.index, k->thread);
	Val block = listed_block(g, g->walk, g->spans.index, g->span.count, own);
	g->total = share_group(g, g->span.mask, block);
	/* The next group's, under way while this one is worked on. */
	Val next = val_add_i32(b, own, threads_of(k));
	g->span.mask = mask_of(k, g->walk, listed_block(g, g->walk, g->spans.index, g->span.count, next));
	g->found = val_add(b, g->found, g->total);
	begin_copies(g);
	Val up = val_add_i32(b, g->total, g->cols - 1);
	g->rounds = loop_begin(b, val_i32(b, 0), val_div_i32(b, up, g->cols), 1, g->groups.carry, g->groups.count);
}

/* One barrier says both that everyone's copies are there and that everyone is done with the slot that the next ones take. */
static void enter_round(Gather *g)
{
	Kernel *k = g->k;
	Val round = g->rounds.index;
	kernel_read_thread(k);
	int ahead = rounds_ahead(g);
	if (ahead == 0) {
		kernel_barrier(k);
		copy_round(g, round);
	}
	copies_wait(k, ahead > 0 ? ahead - 1 : 0);
	kernel_barrier(k);
	if (ahead > 0)
		copy_round(g, val_add_i32(k->b, round, ahead));
	at_round(g, round);
	g->index = axis_load_shared(k, g->cols, g->list, IR_V2I32);
}

/* Sets those of 32 bits in a mask of 64 that begins at `mask`; word: 0 or 1. */
static void set_bits(Kernel *k, Val mask, Val word, Val bits)
{
	or_atomically(k, val_offset(k->b, mask, val_mul_i32(k->b, word, 4)), bits);
}

/* Without those of hidden pairs; each lane has the rows of a column. */
static Val visible_rows(Gather *g, Val rows, Val row0, Val has_hidden)
{
	Kernel *k = g->k;
	Builder *b = k->b;
	Val *changed[] = { &rows };
	for (If f = if_begin(b, has_hidden, changed, 1); if_next(&f);) {
		Val zero = val_i32(b, 0), visible = zero, column = val_min(b, k->lane, val_i32(b, g->cols - 1));
		Val key = val_load(b, val_offset(b, g->list, val_mul_i32(b, column, 4)), IR_I32);
		for (int r = 0; r < PLAN_WARP_ROWS; r++) {
			Val seen = pair_visible(k, val_add_i32(b, row0, r), key, false);
			visible = val_or(b, visible, val_select(b, seen, val_i32(b, 1 << r), zero));
		}
		rows = val_and(b, rows, visible);
	}
	return rows;
}

void gather_refine(Gather *g, const Val *may, Val row0, Val has_hidden)
{
	enum { WARPS_A_WORD = WARP / PLAN_WARP_ROWS };
	Kernel *k = g->k;
	Builder *b = k->b;
	Val rows = visible_rows(g, rows_of_column(k, g->cols, may), row0, has_hidden);
	Val some = val_compare(b, IR_NE, rows, val_i32(b, 0));
	some = val_and(b, some, val_compare(b, IR_LT, k->lane, val_i32(b, g->cols)));
	for (If f = if_begin(b, some, NULL, 0); if_next(&f);) {
		Marks screened = marks_at_hand(k, g->walk), marks = refined_marks(&screened);
		Val source = val_load(b, val_offset(b, g->source, val_mul_i32(b, k->lane, 4)), IR_I32);
		Val number = val_div_i32(b, source, PLAN_MARK);
		for (If r = if_begin(b, val_compare(b, IR_LT, number, marks.room), NULL, 0); if_next(&r);) {
			Val mark = mark_at(k, &marks, g->walk->block, number), key = val_rem_i32(b, source, PLAN_MARK);
			Val word = val_div_i32(b, key, WARP);
			set_bits(k, mark, word, val_shl(b, val_i32(b, 1), val_rem_i32(b, key, WARP)));
			Val up = val_mul_i32(b, val_rem_i32(b, k->warp, WARPS_A_WORD), PLAN_WARP_ROWS), of_rows = val_shl(b, rows, up);
			word = val_div_i32(b, k->warp, WARPS_A_WORD);
			set_bits(k, val_offset_const(b, mark, MARK_BYTES / 2), word, of_rows);
		}
	}
}

Range gather_range(Gather *g)
{
	Builder *b = g->k->b;
	Val first = val_load(b, g->list, IR_I32);
	Val last = val_load(b, val_offset_const(b, g->list, 4 * (g->cols - 1)), IR_I32);
	return (Range){ first, val_add_i32(b, last, 1) };
}

bool gather_round(Gather *g)
{
	if (!g->spans.entered) {
		if (!loop_next(&g->spans))
			return false;
		enter_span(g);
		if (!loop_next(&g->groups))
			return false;
		enter_group(g);
		if (!loop_next(&g->rounds))
			return false;
		enter_round(g);
		return true;
	}
	loop_next(&g->rounds);
	loop_next(&g->groups);
	leave_span(g);
	loop_next(&g->spans);
	kernel_read_thread(g->k);
	return false;
}
