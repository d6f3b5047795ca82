/*
 * How matrices reach shared memory with ENGINE_WGMMA: bulk copies of boxes through tensor maps, barriers that count their
 * bytes, and rings that a producer fills.
 *
 * A ring's slot holds one round. Of each slot there is a barrier for every stream, complete when its tile is there, and
 * one that is complete when every thread that computes is done with the round. A barrier's phases alternate in parity: the
 * n-th use of a slot waits for the phase of parity n % 2, and to write it for the first time needs no waiting, which a
 * barrier answers to parity 1 before its first phase is over.
 *
 * Each thread tells that it is done for itself. One lane could for its warp, behind a warp barrier, but compute-sanitizer's racecheck
 * does not follow that and reports what the other lanes have read; and it is no faster.
 */
#include "blocks.h"
#include "tile.h"
#include "tile_parts.h"

enum { BARRIER_BYTES = 8 };

void barrier_init(Kernel *k, Val barrier, int arrivals)
{
	Val count = val_i32(k->b, arrivals);
	ir_op(k->b, "nvvm.mbarrier.init", NULL, IR_TYPE_COUNT, 2, (Val[]){ barrier, count });
}

static void barrier_end(Kernel *k, Val barrier)
{
	ir_op(k->b, "nvvm.mbarrier.inval", NULL, IR_TYPE_COUNT, 1, &barrier);
}

static const char in_this_cta[] = "relaxed = false, scope = #nvvm.mem_scope<cta>";

void barrier_expect(Kernel *k, Val barrier, int bytes)
{
	Val count = val_i32(k->b, bytes);
	ir_op(k->b, "nvvm.mbarrier.arrive.expect_tx", in_this_cta, IR_I64, 2, (Val[]){ barrier, count });
}

void barrier_arrive(Kernel *k, Val barrier)
{
	ir_op(k->b, "nvvm.mbarrier.arrive", in_this_cta, IR_I64, 1, &barrier);
}

void barrier_wait(Kernel *k, Val barrier, Val parity)
{
	for (Until u = until_begin(k->b, NULL, 0); until_next(&u);)
		u.done = ir_op(k->b, "nvvm.mbarrier.try_wait", in_this_cta, IR_I1, 2, (Val[]){ barrier, parity });
}

int box_bytes(Box box)
{
	return shared_bytes(box.to);
}

static Val cluster_address(Kernel *k, Val shared)
{
	return ir_op(k->b, "llvm.addrspacecast", NULL, IR_CLUSTER, 1, &shared);
}

/* A dimension of stride 0 is one entry wide in the tensor map, so that every index means that entry. */
static Val map_coordinate(Kernel *k, const Matrix *m, Val index, const char *stride)
{
	return m->broadcast ? val_mul(k->b, index, kernel_i32(k, "min(1,%s.%s)", m->broadcast, stride)) : index;
}

void box_fetch(Kernel *k, Box box, Val barrier)
{
	static const char attrs[] = "isCTAOnly = false, mode = #nvvm.tma_load_mode<tile>, "
	                            "operandSegmentSizes = array<i32: 1, 1, 4, 1, 0, 0, 0, 0>";
	Builder *b = k->b;
	Val map = kernel_map(k, "%s %d %d", box.from.map, box.to.panel_cols, box.to.rows);
	Val head = map_coordinate(k, &box.from, box.from.head, "head_stride");
	Val batch = map_coordinate(k, &box.from, box.from.batch, "batch_stride");
	for (int p = 0; p < shared_panels(box.to); p++) {
		Val panel = val_offset_const(b, box.to.base, (int64_t)p * shared_panel_bytes(box.to));
		Val to = cluster_address(k, panel);
		Val column = val_i32(b, p * box.to.panel_cols);
		ir_op(b, "nvvm.cp.async.bulk.tensor.shared.cluster.global", attrs, IR_TYPE_COUNT, 7,
		      (Val[]){ to, map, column, box.first, head, batch, barrier });
	}
}

void terms_fetch(Kernel *k, Val to, Val from, int count, Val barrier)
{
	Val target = cluster_address(k, to);
	Val bytes = val_i32(k->b, count * 4);
	ir_op(k->b, "nvvm.cp.async.bulk.shared.cluster.global", "operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0>",
	      IR_TYPE_COUNT, 4, (Val[]){ target, from, barrier, bytes });
}

/* ---- rings ---- */

static Shared stream_shape(Ring *ring, int stream)
{
	const Stream *s = &ring->streams[stream];
	Shared shape = shared_at(ring->k, ring->base, ring->tile_rows, s->matrix.cols);
	if (s->tile_bytes == 0)
		return shape;
	int rows = s->tile_bytes / shared_panels(shape) / PLAN_PANEL_BYTES;
	return shared_at(ring->k, ring->base, rows, s->matrix.cols);
}

void ring_boxes_layout(Ring *ring)
{
	Kernel *k = ring->k;
	int term_bytes = ring->tile_rows * 4;
	shared_align(k);
	ring->base = val_offset_const(k->b, k->shared, k->shared_bytes);
	ring->slot_bytes = 0;
	for (int i = 0; i < ring->count; i++) {
		ring->data_at[i] = ring->slot_bytes;
		ring->slot_bytes += shared_bytes(stream_shape(ring, i));
	}
	for (int i = 0; i < ring->count; i++) {
		ring->terms_at[i] = ring->slot_bytes;
		ring->slot_bytes += ring->streams[i].term_count * term_bytes;
	}
	ring->slot_bytes = (ring->slot_bytes + SWIZZLE_BYTES - 1) / SWIZZLE_BYTES * SWIZZLE_BYTES;
	k->shared_bytes += ring->slots * ring->slot_bytes;
	ring->barriers = val_offset_const(k->b, k->shared, k->shared_bytes);
	k->barriers = ring->barriers;
	k->barrier_count = ring->slots * (ring->count + 1) + 1;
	k->shared_bytes += k->barrier_count * BARRIER_BYTES;
}

/* The barrier of a stream's tile; for stream `count` the one of a free slot. */
static Val slot_barrier(Ring *ring, Val slot, int stream)
{
	Builder *b = ring->k->b;
	Val bytes = val_mul_i32(b, slot, (ring->count + 1) * BARRIER_BYTES);
	Val first = val_offset(b, ring->barriers, bytes);
	return val_offset_const(b, first, stream * BARRIER_BYTES);
}

static Val resident_barrier(Ring *ring)
{
	return val_offset_const(ring->k->b, ring->barriers, ring->slots * (ring->count + 1) * BARRIER_BYTES);
}

static RingTile slot_tile(Ring *ring, Val slot, int stream)
{
	Builder *b = ring->k->b;
	Val base = val_offset(b, ring->base, val_mul_i32(b, slot, ring->slot_bytes));
	RingTile tile = { .data = stream_shape(ring, stream) };
	tile.data.base = val_offset_const(b, base, ring->data_at[stream]);
	for (int i = 0; i < ring->streams[stream].term_count; i++)
		tile.terms[i] = val_offset_const(b, base, ring->terms_at[stream] + i * ring->tile_rows * 4);
	return tile;
}

static void next_slot(Ring *ring, Val *slot, Val *parity)
{
	Builder *b = ring->k->b;
	Val next = val_add_i32(b, *slot, 1);
	Val past = val_compare(b, IR_EQ, next, val_i32(b, ring->slots));
	Val other = val_xor(b, *parity, val_i32(b, 1));
	*slot = val_select(b, past, val_i32(b, 0), next);
	*parity = val_select(b, past, other, *parity);
}

/* Threads that fill a slot: one, or, where rounds are followed up, the warp that does that too. */
static int producers(const Ring *ring)
{
	return ring->work ? WARP : 1;
}

static void init_barriers(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	int readers = k->launch->warps * WARP;
	Val first = val_compare(b, IR_EQ, k->thread, val_i32(b, 0));
	for (If f = if_begin(b, first, NULL, 0); if_next(&f);) {
		barrier_init(k, resident_barrier(ring), 1);
		if (ring->work)
			barrier_init(k, ring->residents_free, readers);
		for (int s = 0; s < ring->slots; s++) {
			Val slot = val_i32(b, s);
			for (int i = 0; i < ring->count; i++)
				barrier_init(k, slot_barrier(ring, slot, i), producers(ring));
			barrier_init(k, slot_barrier(ring, slot, ring->count), readers);
		}
		ir_op(b, "nvvm.fence.mbarrier.init", NULL, IR_TYPE_COUNT, 0, NULL);
		ir_op(b, "nvvm.fence.proxy", "kind = #nvvm.proxy_kind<async.shared>, space = #nvvm.shared_space<cta>",
		      IR_TYPE_COUNT, 0, NULL);
	}
	kernel_barrier(k);
}

void ring_boxes_end(Kernel *k)
{
	Builder *b = k->b;
	Val first = val_compare(b, IR_EQ, k->thread, val_i32(b, 0));
	for (If f = if_begin(b, first, NULL, 0); if_next(&f);)
		for (int i = 0; i < k->barrier_count; i++)
			barrier_end(k, val_offset_const(b, k->barriers, i * BARRIER_BYTES));
}

static void fetch_residents(Ring *ring)
{
	Kernel *k = ring->k;
	Val barrier = resident_barrier(ring);
	int bytes = 0;
	for (int i = 0; i < k->resident_count; i++)
		bytes += box_bytes(k->residents[i]);
	for (int i = 0; i < k->resident_term_count; i++)
		bytes += 4 * k->resident_terms[i].count;
	barrier_expect(k, barrier, bytes);
	for (int i = 0; i < k->resident_count; i++)
		box_fetch(k, k->residents[i], barrier);
	for (int i = 0; i < k->resident_term_count; i++) {
		ResidentTerms *terms = &k->resident_terms[i];
		terms_fetch(k, terms->to, terms->from, terms->count, barrier);
	}
}

/* ---- what the warp that fetches keeps of its item, in shared memory: it has few registers ---- */

enum { ITEM_NOTE = 0, ITEM_PARITY = 8, ITEM_POINTERS = 16, POINTER_BYTES = 8, STREAM_POINTERS = 1 + STREAM_MAX_TERMS,
       ITEM_BYTES = ITEM_POINTERS + RING_MAX_STREAMS * STREAM_POINTERS * POINTER_BYTES };

static Val item_pointer_at(Ring *ring, int stream, int n)
{
	return val_offset_const(ring->k->b, ring->own_item, ITEM_POINTERS + (stream * STREAM_POINTERS + n) * POINTER_BYTES);
}

static Val is_first_lane(Kernel *k)
{
	return val_compare(k->b, IR_EQ, k->lane, val_i32(k->b, 0));
}

static If if_first_lane(Kernel *k)
{
	return if_begin(k->b, is_first_lane(k), NULL, 0);
}

static Val other_parity(Kernel *k, Val parity)
{
	return val_xor(k->b, parity, val_i32(k->b, 1));
}

static void keep_parity(Ring *ring, Val parity)
{
	Kernel *k = ring->k;
	for (If f = if_first_lane(k); if_next(&f);)
		val_store(k->b, val_offset_const(k->b, ring->own_item, ITEM_PARITY), parity);
	warp_sync(k);
}

/* Residents of the item before may be written over. Returns the parity of the one to come. */
static Val wait_for_residents(Ring *ring)
{
	Kernel *k = ring->k;
	Val before = val_load(k->b, val_offset_const(k->b, ring->own_item, ITEM_PARITY), IR_I32);
	Val parity = other_parity(k, before);
	barrier_wait(k, ring->residents_free, before);
	warp_sync(k);
	keep_parity(ring, parity);
	return parity;
}

/* Where the number of an item lies until the next but one: so it can be read again rather than be in a register all the while. Behind
 * it, its note. */
enum { ITEM_NUMBER_BYTES = 16, NUMBER_NOTE = 8 };

static Val item_number_at(Ring *ring, Val parity)
{
	return val_offset(ring->k->b, ring->item_at, val_mul_i32(ring->k->b, parity, ITEM_NUMBER_BYTES));
}

static Val item_exists(Ring *ring, Val item)
{
	return val_compare(ring->k->b, IR_LT, item, ring->work->count);
}

static void keep_item(Ring *ring, const RingTiles *tiles)
{
	Builder *b = ring->k->b;
	Val note = val_vector_pair(b, tiles->note[0], tiles->note[1], IR_V2I32);
	Val parity = val_load(b, val_offset_const(b, ring->own_item, ITEM_PARITY), IR_I32);
	val_store(b, val_offset_const(b, ring->own_item, ITEM_NOTE), note);
	val_store(b, val_offset_const(b, item_number_at(ring, parity), NUMBER_NOTE), note);
	for (int i = 0; i < ring->count; i++) {
		const Stream *s = &ring->streams[i];
		val_store(b, item_pointer_at(ring, i, 0), s->matrix.base);
		for (int t = 0; t < s->term_count; t++)
			val_store(b, item_pointer_at(ring, i, 1 + t), s->terms[t]);
	}
}

/* A stream of the walk, or of the item. */
static Stream stream_at_hand(Ring *ring, int i)
{
	Builder *b = ring->k->b;
	Stream s = ring->streams[i];
	if (!ring->work)
		return s;
	s.matrix.base = val_load(b, item_pointer_at(ring, i, 0), IR_GLOBAL);
	for (int t = 0; t < s.term_count; t++)
		s.terms[t] = val_load(b, item_pointer_at(ring, i, 1 + t), IR_GLOBAL);
	return s;
}

/* Blocks of row terms beyond the last one don't exist: such keys are hidden, so the last one's do as well. */
static void fetch_terms(Ring *ring, Val to, const Stream *stream, int term, const Box *box, Val barrier)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	if (stream->terms_a_tile > 0) {
		terms_fetch(k, to, ring_terms_at(ring, stream, term), stream->terms_a_tile, barrier);
		return;
	}
	Val terms = ring_group_base(ring, stream->terms[term], ring->write_group, stream->terms_group_stride);
	int rows = ring->tile_rows < PLAN_TERM_ROWS ? ring->tile_rows : PLAN_TERM_ROWS;
	for (int r = 0; r < ring->tile_rows; r += rows) {
		Val first = val_add_i32(b, box->first, r);
		if (r > 0) {
			Val last = val_div_i32(b, val_add_i32(b, box->from.rows, -1), PLAN_TERM_ROWS);
			first = val_min(b, first, val_mul_i32(b, last, PLAN_TERM_ROWS));
		}
		Val from = val_offset(b, terms, val_mul_i32(b, first, 4));
		terms_fetch(k, val_offset_const(b, to, 4 * r), from, rows, barrier);
	}
}

static void fetch_tile(Ring *ring, int i)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Stream at_hand = stream_at_hand(ring, i), *stream = &at_hand;
	Val barrier = slot_barrier(ring, ring->write_slot, i);
	RingTile tile = slot_tile(ring, ring->write_slot, i);
	Box box = { tile.data, stream->matrix, val_mul_i32(b, ring->write_tile, ring->tile_rows) };
	if (!val_is_null(stream->group_stride))
		box.from.head = val_add(b, box.from.head, ring->write_group);
	barrier_expect(k, barrier, box_bytes(box) + stream->term_count * ring_terms(ring, stream) * 4);
	if (stream->tile_bytes > 0) {
		Val skipped = val_mul(b, val_to_i64(b, ring->write_tile), val_i64(b, stream->tile_bytes));
		terms_fetch(k, tile.data.base, val_offset(b, stream->matrix.base, skipped), stream->tile_bytes / 4, barrier);
	} else {
		box_fetch(k, box, barrier);
	}
	for (int t = 0; t < stream->term_count; t++)
		fetch_terms(ring, tile.terms[t], stream, t, &box, barrier);
}

static void fetch_round(Ring *ring)
{
	for (int i = 0; i < ring->count; i++)
		fetch_tile(ring, i);
}

/* A slot's note: the item's two, the tile, and whether it is the item's last; there is no round of tile -1. */
enum { NOTE_BYTES = 16, NOTE_TILE = 8 };

static Val note_at(Ring *ring, Val slot)
{
	return val_offset(ring->k->b, ring->notes, val_mul_i32(ring->k->b, slot, NOTE_BYTES));
}

static void clear_notes(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Val none = val_i32(b, -1);
	for (If f = if_begin(b, val_compare(b, IR_LT, k->lane, val_i32(b, ring->slots)), NULL, 0); if_next(&f);)
		for (int half = 0; half < NOTE_BYTES; half += NOTE_BYTES / 2) {
			Val at = val_offset_const(b, note_at(ring, k->lane), half);
			val_store(b, at, val_vector_pair(b, none, none, IR_V2I32));
		}
	warp_sync(k);
}

static void write_note(Ring *ring, const RingTiles *tiles)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Val at = note_at(ring, ring->write_slot);
	Val is_last = val_compare(b, IR_GE, val_add_i32(b, ring->write_tile, 1), tiles->end);
	Val last = val_select(b, is_last, val_i32(b, 1), val_i32(b, 0));
	Val more = val_vector_pair(b, ring->write_tile, last, IR_V2I32);
	val_store(b, at, val_load(b, val_offset_const(b, ring->own_item, ITEM_NOTE), IR_V2I32));
	val_store(b, val_offset_const(b, at, NOTE_TILE), more);
}

/* The slot is free: `done` for the round that was in it. */
static void end_round(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Val at = note_at(ring, ring->write_slot);
	Val note = val_load(b, at, IR_V2I32), more = val_load(b, val_offset_const(b, at, NOTE_TILE), IR_V2I32);
	RingDone round = { .tile = val_vector_get(b, more, 0, IR_I32), .buffer = ring->write_slot };
	for (int n = 0; n < 2; n++)
		round.note[n] = val_vector_get(b, note, n, IR_I32);
	round.is_last = val_compare(b, IR_NE, val_vector_get(b, more, 1, IR_I32), val_i32(b, 0));
	for (If f = if_begin(b, val_compare(b, IR_GE, round.tile, val_i32(b, 0)), NULL, 0); if_next(&f);)
		ring->work->done(ring->work->owner, &round);
	warp_sync(k);
}

/* What the lanes that fetch nothing did to the slot before is behind them. */
static void others_arrive(Ring *ring)
{
	for (int i = 0; i < ring->count; i++)
		barrier_arrive(ring->k, slot_barrier(ring, ring->write_slot, i));
}

/* Everything that a walk will read, in order, as slots become free. tiles: those of an item, of which a whole warp takes care; or
 * NULL. */
static void produce_rounds(Ring *ring, Val rounds, const RingTiles *tiles)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Val *carry[] = { &ring->write_slot, &ring->write_parity, &ring->write_tile, &ring->write_group };
	for (Loop l = loop_begin(b, val_i32(b, 0), rounds, 1, carry, 4); loop_next(&l);) {
		barrier_wait(k, slot_barrier(ring, ring->write_slot, ring->count), ring->write_parity);
		if (tiles) {
			end_round(ring);
			for (Either e = either_begin(b, is_first_lane(k), NULL, 0); either_next(&e);) {
				if (e.otherwise) {
					others_arrive(ring);
					continue;
				}
				write_note(ring, tiles);
				fetch_round(ring);
			}
			warp_sync(k);
		} else {
			fetch_round(ring);
		}
		next_slot(ring, &ring->write_slot, &ring->write_parity);
		ring_advance(ring, &ring->write_tile, &ring->write_group);
	}
}

static void produce_walk(Ring *ring, Val rounds)
{
	fetch_residents(ring);
	ring->write_parity = val_i32(ring->k->b, 1);
	produce_rounds(ring, rounds, NULL);
}

/* What of the ring lives from one item to the next, in registers; slot and parity are the producer's or the others'. */
static void items_loop(Ring *ring, Val *slot, Val *parity, int carried)
{
	Builder *b = ring->k->b;
	*slot = val_i32(b, 0);
	ring->item_carry[0] = slot;
	ring->item_carry[1] = parity;
	ring->item_carry[2] = &ring->item_parity;
	ring->items = until_begin(b, ring->item_carry, carried);
}

/* The first lane takes it for the warp. */
static Val take_item(Kernel *k, Val counter)
{
	Builder *b = k->b;
	Val zero = val_i32(b, 0), item = zero;
	Val *changed[] = { &item };
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->lane, zero), changed, 1); if_next(&f);)
		ir_asm(b, "atom.global.add.u32 $0, [$1], 1;", "=r,l", IR_I32, 1, &item, 1, &counter);
	return lane_value(k, item, zero);
}

/* Waits for all rounds that there are still to be. */
static void end_rounds(Ring *ring)
{
	Builder *b = ring->k->b;
	Val *carry[] = { &ring->write_slot, &ring->write_parity };
	for (Loop l = loop_begin(b, val_i32(b, 0), val_i32(b, ring->slots), 1, carry, 2); loop_next(&l);) {
		barrier_wait(ring->k, slot_barrier(ring, ring->write_slot, ring->count), ring->write_parity);
		end_round(ring);
		next_slot(ring, &ring->write_slot, &ring->write_parity);
	}
}

static void produce_item(Ring *ring, Val item)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	Kernel outside = *k;
	k->resident_count = k->resident_term_count = 0;
	k->cta = item;
	RingTiles tiles = ring->work->begin(ring->work->owner);
	for (If f = if_first_lane(k); if_next(&f);) {
		keep_item(ring, &tiles);
		fetch_residents(ring);
	}
	warp_sync(k);
	ring->write_tile = tiles.first;
	ring->write_group = val_i32(b, 0);
	Val end = val_max(b, tiles.first, tiles.end);
	produce_rounds(ring, val_sub(b, end, tiles.first), &tiles);
	kernel_as_before(k, &outside);
}

/* A warp takes items, passes their numbers on, the first that does not exist too, and fetches. */
static void produce_items(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	clear_notes(ring);
	ring->write_parity = val_i32(b, 1);
	keep_parity(ring, ring->write_parity);
	items_loop(ring, &ring->write_slot, &ring->write_parity, 2);
	while (until_next(&ring->items)) {
		Val item = take_item(k, ring->work->counter);
		Val at = item_number_at(ring, wait_for_residents(ring));
		for (If f = if_first_lane(k); if_next(&f);)
			val_store(b, at, item);
		for (Either e = either_begin(b, item_exists(ring, item), ring->item_carry, 2); either_next(&e);) {
			if (!e.otherwise) {
				produce_item(ring, item);
				continue;
			}
			for (If f = if_first_lane(k); if_next(&f);)
				barrier_arrive(k, resident_barrier(ring));
			end_rounds(ring);
		}
		Val parity = val_load(b, val_offset_const(b, ring->own_item, ITEM_PARITY), IR_I32);
		item = val_load(b, item_number_at(ring, parity), IR_I32);
		ring->items.done = val_compare(b, IR_GE, item, ring->work->count);
	}
}

/* The producer's part: `rounds` of a walk, by one of its threads, or all items, by one of its warps. */
static void produce(Ring *ring, Val rounds)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	int first_thread = k->launch->warps * WARP;
	init_barriers(ring);
	Val fetches = val_compare(b, IR_GE, k->thread, val_i32(b, first_thread));
	Kernel outside = *k;
	for (If f = if_begin(b, fetches, NULL, 0); if_next(&f);) {
		change_registers(k, "decrease", k->launch->producer_registers);
		Val chosen = val_compare(b, IR_LT, k->thread, val_i32(b, first_thread + producers(ring)));
		for (If one = if_begin(b, chosen, NULL, 0); if_next(&one);) {
			if (ring->work)
				produce_items(ring);
			else
				produce_walk(ring, rounds);
		}
		kernel_as_before(k, &outside);
		blocks_end_producer(k);
	}
	kernel_split(k);
	wgmma_first_turn(k);
}

void ring_boxes_items(Ring *ring)
{
	Kernel *k = ring->k;
	ring->residents_free = val_offset_const(k->b, k->shared, k->shared_bytes);
	ring->item_at = val_offset_const(k->b, ring->residents_free, BARRIER_BYTES);
	ring->notes = val_offset_const(k->b, ring->item_at, 2 * ITEM_NUMBER_BYTES);
	ring->own_item = val_offset_const(k->b, ring->notes, ring->slots * NOTE_BYTES);
	k->shared_bytes += BARRIER_BYTES + 2 * ITEM_NUMBER_BYTES + ring->slots * NOTE_BYTES + ITEM_BYTES;
	produce(ring, (Val){ NULL });
	ring->read_parity = ring->item_parity = val_i32(k->b, 0);
	items_loop(ring, &ring->read_slot, &ring->read_parity, 3);
}

/* The body stands in the branch of an item that exists. */
bool ring_boxes_item(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	if (ring->item.entered) {
		if_next(&ring->item);
		Val item = val_load(b, item_number_at(ring, other_parity(k, ring->item_parity)), IR_I32);
		ring->items.done = val_compare(b, IR_GE, item, ring->work->count);
		until_next(&ring->items);
		return false;
	}
	if (!until_next(&ring->items))
		return false;
	barrier_wait(k, resident_barrier(ring), ring->item_parity);
	Val at = item_number_at(ring, ring->item_parity), item = val_load(b, at, IR_I32), note[2];
	ring->item_parity = taken_again(k, other_parity(k, ring->item_parity));        /* or the number's address would be in one */
	ring->item = if_begin(b, item_exists(ring, item), ring->item_carry, 3);
	if (!if_next(&ring->item))
		return false;
	Val both = val_load(b, val_offset_const(b, at, NUMBER_NOTE), IR_V2I32);
	for (int n = 0; n < 2; n++)
		note[n] = val_vector_get(b, both, n, IR_I32);
	ring->work->enter(ring->work->owner, note);
	return true;
}

void ring_residents_done(Ring *ring)
{
	Kernel *k = ring->k;
	if (!kernel_uses_groups(k))
		return;
	barrier_arrive(k, ring->residents_free);
}

void ring_boxes_walk(Ring *ring, Val rounds, Val **carry, int carry_count)
{
	Kernel *k = ring->k;
	produce(ring, rounds);
	ring->read_parity = val_i32(k->b, 0);
	barrier_wait(k, resident_barrier(ring), ring->read_parity);
	ring_loop(ring, rounds, carry, carry_count);
}

bool ring_boxes_round(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	if (ring->loop.entered && !b->failed) {
		wgmma_finish(k);
		mma_wait(k);
		barrier_arrive(k, slot_barrier(ring, ring->read_slot, ring->count));
		next_slot(ring, &ring->read_slot, &ring->read_parity);
		ring_advance(ring, &ring->read_tile, &ring->read_group);
	}
	return loop_next(&ring->loop);
}

RingTile ring_boxes_next(Ring *ring)
{
	int stream = ring->read_step++ % ring->count;
	barrier_wait(ring->k, slot_barrier(ring, ring->read_slot, stream), ring->read_parity);
	return slot_tile(ring, ring->read_slot, stream);
}

RingTile ring_boxes_back(Ring *ring, int back)
{
	return slot_tile(ring, ring->read_slot, (ring->read_step - 1 - back) % ring->count);
}
