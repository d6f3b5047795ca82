/* Rings of streamed tiles: copies that run ahead of their use. */
#include "tile.h"
#include "tile_parts.h"

int ring_slot_bytes(const Spec *spec, int tile_rows, int cols, int terms)
{
	return tile_rows * plan_row_bytes(spec, cols) + terms * tile_rows * 4;
}

Ring ring_new(Kernel *k, const Stream *streams, int count, int tile_rows, int slots, int retain)
{
	Ring ring = { .k = k, .streams = streams, .count = count, .slots = slots, .tile_rows = tile_rows };
	if (kernel_uses_groups(k)) {
		ring_boxes_layout(&ring);
		return ring;
	}
	ring.ahead = slots - 1 - retain;
	for (int i = 0; i < count; i++) {
		int bytes = ring_slot_bytes(k->spec, tile_rows, streams[i].matrix.cols, streams[i].term_count);
		if (bytes > ring.slot_bytes)
			ring.slot_bytes = bytes;
	}
	ring.base = val_offset_const(k->b, k->shared, k->shared_bytes);
	k->shared_bytes += slots * ring.slot_bytes;
	return ring;
}

/* A group's part of a stream begins group * stride bytes further. */
Val ring_group_base(Ring *ring, Val base, Val group, Val stride)
{
	Builder *b = ring->k->b;
	if (val_is_null(stride))
		return base;
	Val group64 = val_to_i64(b, group);
	return val_offset(b, base, val_mul(b, group64, stride));
}

static RingTile slot_at(Ring *ring, Val offset, const Stream *stream)
{
	Kernel *k = ring->k;
	RingTile tile = { .data = shared_at(k, val_offset(k->b, ring->base, offset), ring->tile_rows, stream->matrix.cols) };
	for (int i = 0; i < stream->term_count; i++)
		tile.terms[i] = val_offset_const(k->b, tile.data.base, shared_bytes(tile.data) + i * ring->tile_rows * 4);
	return tile;
}

static Val next_slot(Ring *ring, Val offset)
{
	Builder *b = ring->k->b;
	Val next = val_add_i32(b, offset, ring->slot_bytes);
	Val past = val_compare(b, IR_EQ, next, val_i32(b, ring->slots * ring->slot_bytes));
	return val_select(b, past, val_i32(b, 0), next);
}

int ring_terms(const Ring *ring, const Stream *stream)
{
	return stream->terms_a_tile > 0 ? stream->terms_a_tile : ring->tile_rows;
}

Val ring_terms_at(Ring *ring, const Stream *stream, int term)
{
	Builder *b = ring->k->b;
	Val terms = ring_group_base(ring, stream->terms[term], ring->write_group, stream->terms_group_stride);
	return val_offset(b, terms, val_mul_i32(b, ring->write_tile, ring_terms(ring, stream) * 4));
}

/* (tile, group) of the next round: tiles run fastest. */
void ring_advance(Ring *ring, Val *tile, Val *group)
{
	Builder *b = ring->k->b;
	Val next = val_add_i32(b, *tile, 1);
	if (val_is_null(ring->groups)) {
		*tile = next;
		return;
	}
	Val wrap = val_compare(b, IR_GE, next, ring->end);
	*tile = val_select(b, wrap, ring->first, next);
	Val next_group = val_add_i32(b, *group, 1);
	*group = val_select(b, wrap, next_group, *group);
}

/* Starts the copy of the next tile in sequence, if the walk has one, and closes its group either way, so that counting
 * groups is counting steps. */
static void copy_ahead(Ring *ring)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	const Stream *stream = &ring->streams[ring->write_step % ring->count];
	Val valid = val_is_null(ring->groups) ? val_compare(b, IR_LT, ring->write_tile, ring->end)
	                                      : val_compare(b, IR_LT, ring->write_group, ring->groups);
	for (If f = if_begin(b, valid, NULL, 0); if_next(&f);) {
		RingTile to = slot_at(ring, ring->write_slot, stream);
		Matrix from = stream->matrix;
		from.base = ring_group_base(ring, from.base, ring->write_group, stream->group_stride);
		Val first = val_mul_i32(b, ring->write_tile, ring->tile_rows);
		shared_copy(k, to.data, from, first);
		for (int i = 0; i < stream->term_count; i++)
			shared_copy_terms(k, to.terms[i], ring_terms_at(ring, stream, i), ring_terms(ring, stream));
	}
	copies_commit(k);
	ring->write_slot = next_slot(ring, ring->write_slot);
	if (++ring->write_step % ring->count == 0)
		ring_advance(ring, &ring->write_tile, &ring->write_group);
}

void ring_loop(Ring *ring, Val rounds, Val **carry, int carry_count)
{
	enum { OWN = 6 };
	Builder *b = ring->k->b;
	Val *own[2][OWN] = {
		{ &ring->read_slot, &ring->read_tile, &ring->read_group, &ring->write_slot, &ring->write_tile, &ring->write_group },
		{ &ring->read_slot, &ring->read_tile, &ring->read_group, &ring->read_parity },
	};
	int engine = kernel_uses_groups(ring->k), own_count = engine ? 4 : OWN;
	Val **all = ARENA_ARRAY(b->arena, Val *, OWN + carry_count);
	for (int i = 0; i < own_count; i++)
		all[i] = own[engine][i];
	for (int i = 0; i < carry_count; i++)
		all[own_count + i] = carry[i];
	ring->loop = loop_begin(b, val_i32(b, 0), rounds, 1, all, own_count + carry_count);
}

void ring_walk(Ring *ring, Val first, Val end, Val groups, Val **carry, int carry_count)
{
	Builder *b = ring->k->b;
	Val zero = val_i32(b, 0);
	ring->first = first;
	ring->end = val_max(b, first, end);
	Val rounds = val_sub(b, ring->end, first);
	ring->groups = groups;
	if (!ring->work || !kernel_uses_groups(ring->k))
		ring->read_slot = ring->write_slot = zero;
	ring->read_tile = ring->write_tile = first;
	ring->read_group = ring->write_group = zero;
	if (!val_is_null(groups)) {
		/* No tiles at all: no groups either, or a copy would start. */
		Val empty = val_compare(b, IR_EQ, rounds, zero);
		ring->groups = val_select(b, empty, zero, groups);
		rounds = val_mul(b, rounds, groups);
	}
	if (kernel_uses_groups(ring->k)) {
		if (ring->work)
			ring_loop(ring, rounds, carry, carry_count);
		else
			ring_boxes_walk(ring, rounds, carry, carry_count);
		return;
	}
	for (int i = 0; i < ring->ahead; i++)
		copy_ahead(ring);
	ring_loop(ring, rounds, carry, carry_count);
}

void ring_items(Ring *ring, const RingItems *work)
{
	ring->work = work;
	ring->item = (If){ 0 };
	if (kernel_uses_groups(ring->k))
		ring_boxes_items(ring);
}

bool ring_item(Ring *ring)
{
	if (kernel_uses_groups(ring->k))
		return ring_boxes_item(ring);
	if (ring->item.entered)
		return false;
	ring->item.entered = true;
	ring->tiles = ring->work->begin(ring->work->owner);
	shared_arrived(ring->k);
	return true;
}

int ring_buffers(const Ring *ring)
{
	return kernel_uses_groups(ring->k) ? ring->slots : 2;
}

Val ring_buffer(Ring *ring)
{
	return kernel_uses_groups(ring->k) ? ring->read_slot : val_rem_i32(ring->k->b, ring->read_tile, 2);
}

/* The first warp does what is to be done after the round of a tile, if there was one. */
static void after_round(Ring *ring, Val tile, Val is_last)
{
	Kernel *k = ring->k;
	Builder *b = k->b;
	if (!ring->work)
		return;
	Val was_one = val_compare(b, IR_GE, tile, ring->first);
	for (If f = if_begin(b, val_and(b, was_one, val_compare(b, IR_EQ, k->warp, val_i32(b, 0))), NULL, 0); if_next(&f);) {
		RingDone round = { { ring->tiles.note[0], ring->tiles.note[1] }, tile, val_rem_i32(b, tile, 2), is_last };
		ring->work->done(ring->work->owner, &round);
	}
}

bool ring_round(Ring *ring)
{
	if (kernel_uses_groups(ring->k))
		return ring_boxes_round(ring);
	if (ring->loop.entered && !ring->k->b->failed)
		ring_advance(ring, &ring->read_tile, &ring->read_group);
	bool inside = loop_next(&ring->loop);
	if (!inside && !ring->k->b->failed) {
		/* Nothing may be under way when shared memory is used for something else. */
		copies_wait(ring->k, 0);
		kernel_barrier(ring->k);
		after_round(ring, val_add_i32(ring->k->b, ring->end, -1), val_true(ring->k->b));
	}
	return inside;
}

RingTile ring_next(Ring *ring)
{
	Kernel *k = ring->k;
	if (kernel_uses_groups(k))
		return ring_boxes_next(ring);
	const Stream *stream = &ring->streams[ring->read_step++ % ring->count];
	copies_wait(k, ring->ahead - 1);
	/* Everyone's part of this tile is there, and everyone is done with the tile whose slot the next copy takes. */
	kernel_barrier(k);
	after_round(ring, val_add_i32(k->b, ring->read_tile, -1), val_false(k->b));
	copy_ahead(ring);
	RingTile tile = slot_at(ring, ring->read_slot, stream);
	ring->read_slot = next_slot(ring, ring->read_slot);
	return tile;
}

RingTile ring_back(Ring *ring, int back)
{
	Builder *b = ring->k->b;
	if (kernel_uses_groups(ring->k))
		return ring_boxes_back(ring, back);
	/* read_slot already points at the step to come, hence one more. */
	int distance = (back + 1) * ring->slot_bytes;
	Val offset = val_add_i32(b, ring->read_slot, -distance);
	Val before = val_compare(b, IR_LT, offset, val_i32(b, 0));
	Val wrapped = val_add_i32(b, offset, ring->slots * ring->slot_bytes);
	int stream = (ring->read_step - 1 - back) % ring->count;
	return slot_at(ring, val_select(b, before, wrapped, offset), &ring->streams[stream]);
}
