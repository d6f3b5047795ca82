/* Structured control flow: the C loops of ir.h, as scf operations. */
#include "ir.h"

#include <string.h>

static MlirType *types_of(Builder *b, const Val *values, int count)
{
	MlirType *types = ARENA_ARRAY(b->arena, MlirType, count + 1);
	for (int i = 0; i < count; i++)
		types[i] = mlirValueGetType(values[i]);
	return types;
}

static Val *current(Builder *b, Val **variables, int count)
{
	Val *values = ARENA_ARRAY(b->arena, Val, count + 1);
	for (int i = 0; i < count; i++) {
		values[i] = *variables[i];
		if (val_is_null(values[i]))
			ir_fail(b, "a carried variable has no value");
	}
	return values;
}

static void yield(Builder *b, const Val *values, int count)
{
	ir_op(b, "scf.yield", NULL, IR_TYPE_COUNT, count, values);
}

static void take_results(MlirOperation op, Val **variables, int count)
{
	for (int i = 0; i < count; i++)
		*variables[i] = mlirOperationGetResult(op, i);
}

Loop loop_begin(Builder *b, Val lo, Val hi, int step, Val **carry, int count)
{
	Loop loop = { .b = b, .lo = lo, .hi = hi, .step = step, .count = count, .carry = carry };
	loop.initial = current(b, carry, count);
	return loop;
}

static void loop_enter(Loop *loop)
{
	Builder *b = loop->b;
	loop->outer = b->block;
	loop->body = mlirBlockCreate(0, NULL, NULL);
	loop->region = mlirRegionCreate();
	mlirRegionAppendOwnedBlock(loop->region, loop->body);
	loop->index = mlirBlockAddArgument(loop->body, b->types[IR_I32], b->location);
	MlirType *types = types_of(b, loop->initial, loop->count);
	for (int i = 0; i < loop->count; i++)
		*loop->carry[i] = mlirBlockAddArgument(loop->body, types[i], b->location);
	b->block = loop->body;
}

static void loop_leave(Loop *loop)
{
	Builder *b = loop->b;
	Val *last = current(b, loop->carry, loop->count);
	yield(b, last, loop->count);
	b->block = loop->outer;
	Val *operands = ARENA_ARRAY(b->arena, Val, loop->count + 3);
	operands[0] = loop->lo;
	operands[1] = loop->hi;
	operands[2] = val_i32(b, loop->step);
	memcpy(operands + 3, loop->initial, sizeof(Val) * (size_t)loop->count);
	if (b->failed)
		return;
	MlirOperation op = ir_region_op(b, "scf.for", NULL, loop->count + 3, operands, loop->count,
	                                types_of(b, loop->initial, loop->count), 1, &loop->region);
	take_results(op, loop->carry, loop->count);
}

bool loop_next(Loop *loop)
{
	if (loop->b->failed)
		return false;
	if (!loop->entered) {
		loop->entered = true;
		loop_enter(loop);
		return true;
	}
	loop_leave(loop);
	return false;
}

If if_begin(Builder *b, Val condition, Val **changed, int count)
{
	If f = { .b = b, .condition = condition, .count = count, .changed = changed };
	f.initial = current(b, changed, count);
	return f;
}

static MlirBlock new_region(MlirRegion *region)
{
	MlirBlock block = mlirBlockCreate(0, NULL, NULL);
	*region = mlirRegionCreate();
	mlirRegionAppendOwnedBlock(*region, block);
	return block;
}

/* Ends both regions with their values, and makes the op. */
static void finish_if(If *f, Val *then, Val *otherwise, MlirRegion regions[2], MlirBlock blocks[2])
{
	Builder *b = f->b;
	b->block = blocks[0];
	yield(b, then, f->count);
	b->block = blocks[1];
	yield(b, otherwise, f->count);
	b->block = f->outer;
	if (b->failed)
		return;
	MlirOperation op = ir_region_op(b, "scf.if", NULL, 1, &f->condition, f->count,
	                                types_of(b, f->initial, f->count), 2, regions);
	take_results(op, f->changed, f->count);
}

bool if_next(If *f)
{
	Builder *b = f->b;
	if (b->failed)
		return false;
	if (!f->entered) {
		f->entered = true;
		f->outer = b->block;
		f->body = new_region(&f->region);
		b->block = f->body;
		return true;
	}
	Val *last = current(b, f->changed, f->count);
	MlirRegion regions[2] = { f->region };
	MlirBlock blocks[2] = { b->block, new_region(&regions[1]) };
	finish_if(f, last, f->initial, regions, blocks);
	return false;
}

Either either_begin(Builder *b, Val condition, Val **changed, int count)
{
	return (Either){ .branch = if_begin(b, condition, changed, count) };
}

bool either_next(Either *e)
{
	If *f = &e->branch;
	Builder *b = f->b;
	if (b->failed)
		return false;
	if (e->pass++ == 0)
		return if_next(f);
	if (e->pass == 2) {
		e->first = current(b, f->changed, f->count);
		e->then = f->region;
		for (int i = 0; i < f->count; i++)
			*f->changed[i] = f->initial[i];
		b->block = new_region(&f->region);
		e->otherwise = true;
		return true;
	}
	MlirRegion regions[2] = { e->then, f->region };
	MlirBlock blocks[2] = { f->body, b->block };
	finish_if(f, e->first, current(b, f->changed, f->count), regions, blocks);
	return false;
}

/* Makes block arguments of so many values, and returns them. */
static Val *add_arguments(Builder *b, MlirBlock block, const Val *values, int count)
{
	Val *arguments = ARENA_ARRAY(b->arena, Val, count + 1);
	for (int i = 0; i < count; i++)
		arguments[i] = mlirBlockAddArgument(block, mlirValueGetType(values[i]), b->location);
	return arguments;
}

Until until_begin(Builder *b, Val **carry, int count)
{
	return (Until){ .b = b, .count = count, .carry = carry, .initial = current(b, carry, count) };
}

bool until_next(Until *u)
{
	Builder *b = u->b;
	if (b->failed)
		return false;
	if (!u->entered) {
		u->entered = true;
		u->outer = b->block;
		u->body = new_region(&u->region);
		Val *arguments = add_arguments(b, u->body, u->initial, u->count);
		for (int i = 0; i < u->count; i++)
			*u->carry[i] = arguments[i];
		b->block = u->body;
		return true;
	}
	Val *last = ARENA_ARRAY(b->arena, Val, u->count + 1);
	last[0] = val_compare(b, IR_EQ, u->done, val_false(b));
	memcpy(last + 1, current(b, u->carry, u->count), (size_t)u->count * sizeof *last);
	ir_op(b, "scf.condition", NULL, IR_TYPE_COUNT, 1 + u->count, last);
	MlirRegion regions[2] = { u->region };
	b->block = new_region(&regions[1]);
	yield(b, add_arguments(b, b->block, u->initial, u->count), u->count);
	b->block = u->outer;
	if (b->failed)
		return false;
	MlirType *types = types_of(b, u->initial, u->count);
	MlirOperation op = ir_region_op(b, "scf.while", NULL, u->count, u->initial, u->count, types, 2, regions);
	take_results(op, u->carry, u->count);
	return false;
}

int carry_array(Val **carry, int at, Val *values, int count)
{
	for (int i = 0; i < count; i++)
		carry[at++] = &values[i];
	return at;
}
