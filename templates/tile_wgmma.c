/*
 * Matrix products of tiles with wgmma (ENGINE_WGMMA): four warps multiply 64 rows at once. Operands in shared memory are
 * named by descriptors; accumulators, and A where it is a tile, are registers in the layout of tile.h.
 *
 * An instruction is 64 rows, 8 to 256 columns and 32 bytes of depth. It runs on while its warps go on: what it reads and
 * writes may not be touched until wgmma_wait. In the IR the accumulators are results of the instruction already, so
 * waiting takes them and gives them back, or their uses could move before it.
 */
#include "tile.h"
#include "tile_parts.h"

#include <stdio.h>

enum { DEPTH = 16, DEPTH_BYTES = 32, GROUP_COLS = 64, A_REGS = 4, MAX_STEPS = SPEC_MAX_HEAD_DIM / DEPTH };

static int group_count(const Kernel *k)
{
	return k->launch->warps / PLAN_GROUP_WARPS;
}

/*
 * Warp groups take turns at starting the products of rows: each waits for its turn, starts them, and passes the turn on.
 * While one group's products run, the other works on what its own gave; all at once they would wait for the tensor cores
 * together, and then leave them idle together.
 */
static void turn_barrier(Kernel *k, const char *op, const char *attrs, Val group)
{
	Val id = turn_barrier_id(k, group);
	Val threads = val_i32(k->b, 2 * PLAN_GROUP_WARPS * WARP);      /* this group's, and those of the one before it */
	ir_op(k->b, op, attrs, IR_TYPE_COUNT, 2, (Val[]){ id, threads });
}

static Val own_group(Kernel *k)
{
	return val_div_i32(k->b, k->warp, PLAN_GROUP_WARPS);
}

static void take_turn(Kernel *k)
{
	if (k->launch->turns)
		turn_barrier(k, "nvvm.barrier", "operandSegmentSizes = array<i32: 1, 1, 0>", own_group(k));
}

static void pass_turn(Kernel *k)
{
	Builder *b = k->b;
	if (!k->launch->turns)
		return;
	Val next = val_add_i32(b, own_group(k), 1);
	Val past = val_compare(b, IR_EQ, next, val_i32(b, group_count(k)));
	turn_barrier(k, "nvvm.barrier.arrive", NULL, val_select(b, past, val_i32(b, 0), next));
}

void wgmma_first_turn(Kernel *k)
{
	Builder *b = k->b;
	if (!k->launch->turns)
		return;
	Val last = val_compare(b, IR_EQ, own_group(k), val_i32(b, group_count(k) - 1));
	for (If f = if_begin(b, last, NULL, 0); if_next(&f);)
		pass_turn(k);
}

void wgmma_last_turn(Kernel *k)
{
	Builder *b = k->b;
	if (!k->launch->turns)
		return;
	Val first = val_compare(b, IR_EQ, own_group(k), val_i32(b, 0));
	for (If f = if_begin(b, first, NULL, 0); if_next(&f);)
		take_turn(k);
}

/*
 * The lower half of a descriptor: where the matrix begins and, for a transposed operand, how far apart its panels are,
 * which an instruction may cross. Addresses and distances count in 16 bytes. The upper half is the same of all: 128-byte
 * swizzle, and 1024 bytes from eight rows to the next. Steps are added in the assembly, or LLVM would keep each sum in a
 * register.
 */
static const int32_t upper_half = 1 << 30 | SWIZZLE_BYTES / CHUNK;

static Val descriptor(Kernel *k, Val base, int panels)
{
	Builder *b = k->b;
	Val address = ir_op(b, "llvm.ptrtoint", NULL, IR_I32, 1, &base);
	Val chunk = val_shr(b, address, val_i32(b, 4));
	return val_or(b, chunk, val_i32(b, panels / CHUNK << 16));
}

/* Depth step s of an operand that is contiguous along the depth. */
static int depth_offset(Shared s, int step)
{
	int steps = PLAN_PANEL_BYTES / DEPTH_BYTES;
	return step / steps * shared_panel_bytes(s) + step % steps * DEPTH_BYTES;
}

typedef enum Element { ELEMENT_HALF, ELEMENT_INT8 } Element;    /* of the operands: the spec's 16-bit dtype, or int8 */

/* One product: `steps` instructions that add to the same accumulators. */
typedef struct Chain {
	Element element;
	int cols, steps;
	bool transposed;                   /* B lies [depth x cols] */
	Val from_a, from_b;                /* descriptors */
	int step_a[MAX_STEPS], step_b[MAX_STEPS];  /* and what each step adds to them, in bytes */
	bool in_registers;                 /* A is a tile instead */
	Val a[MAX_STEPS][A_REGS];
} Chain;

/* "{$first, ..., $last}" */
static char *register_list(Kernel *k, int first, int count)
{
	enum { LONGEST = sizeof ", $1000" };
	char *text = ARENA_ARRAY(k->b->arena, char, count * LONGEST + 2);
	char *end = text + sprintf(text, "{$%d", first);
	for (int i = 1; i < count; i++)
		end += sprintf(end, ", $%d", first + i);
	sprintf(end, "}");
	return text;
}

/* "=f,=f,..." for `count` outputs, then ",0,1,..." where `tied`: the inputs that are those outputs' values before. */
static char *accumulator_constraints(Kernel *k, char kind, int count, bool tied)
{
	enum { LONGEST = sizeof ",=f,1000" };
	char *text = ARENA_ARRAY(k->b->arena, char, count * LONGEST + 1);
	char *end = text;
	for (int i = 0; i < count; i++)
		end += sprintf(end, i ? ",=%c" : "=%c", kind);
	for (int i = 0; tied && i < count; i++)
		end += sprintf(end, ",%d", i);
	return text;
}

/* Sets d0 or d1 to the descriptor in operand number `operand`, plus bytes. */
static char *set_descriptor(Kernel *k, char *text, int number, int operand, int bytes)
{
	return arena_printf(k->b->arena, "%s\\n\\tadd.s32 lo, $%d, %d;\\n\\tmov.b64 d%d, {lo, hi};", text, operand,
	                    bytes / CHUNK, number);
}

/* "wgmma.mma_async...;" for one step: its operands but the accumulators, and whether it adds to them. */
static const char *instruction(Kernel *k, const Chain *c, const char *list, const char *a, bool adds)
{
	Arena *arena = k->b->arena;
	const char *dtype = k->spec->dtype == DTYPE_BF16 ? "bf16" : "f16";
	if (c->element == ELEMENT_INT8)
		return arena_printf(arena, "wgmma.mma_async.sync.aligned.m64n%dk32.s32.s8.s8 %s, %s, d1, %d;", c->cols, list, a, adds);
	return arena_printf(arena, "wgmma.mma_async.sync.aligned.m64n%dk16.f32.%s.%s %s, %s, d1, %d, 1, 1%s, %d;", c->cols, dtype,
	                    dtype, list, a, adds, c->in_registers ? "" : ", 0", c->transposed);
}

/* acc += the chain's product, or = where `fresh`; under way when this returns. */
static void start_chain(Kernel *k, Val *acc, const Chain *c, bool fresh)
{
	Arena *arena = k->b->arena;
	IrType type = c->element == ELEMENT_INT8 ? IR_I32 : IR_F32;
	int values = c->cols / 2, count = 0;
	Val *operands = ARENA_ARRAY(arena, Val, values + MAX_STEPS * A_REGS + 2);
	char *list = register_list(k, 0, values);
	char *constraints = accumulator_constraints(k, type == IR_I32 ? 'r' : 'f', values, !fresh);
	for (int i = 0; !fresh && i < values; i++)
		operands[count++] = acc[i];
	int b_operand = values + count, a_operand = b_operand + 1;
	operands[count++] = c->from_b;
	if (!c->in_registers)
		operands[count++] = c->from_a;
	constraints = arena_printf(arena, c->in_registers ? "%s,r" : "%s,r,r", constraints);
	char *text = arena_printf(arena, "{\\n\\t.reg .b32 lo, hi;\\n\\t.reg .b64 d0, d1;\\n\\tmov.b32 hi, %d;\\n\\t"
	                          "wgmma.fence.sync.aligned;", upper_half);
	for (int s = 0; s < c->steps; s++) {
		char *a = "d0";
		if (c->in_registers) {
			a = register_list(k, a_operand + s * A_REGS, A_REGS);
			constraints = arena_printf(arena, "%s,r,r,r,r", constraints);
			for (int i = 0; i < A_REGS; i++)
				operands[count++] = c->a[s][i];
		} else {
			text = set_descriptor(k, text, 0, a_operand, c->step_a[s]);
		}
		text = set_descriptor(k, text, 1, b_operand, c->step_b[s]);
		text = arena_printf(arena, "%s\\n\\t%s", text, instruction(k, c, list, a, !(fresh && s == 0)));
	}
	text = arena_printf(arena, "%s\\n\\twgmma.commit_group.sync.aligned;\\n\\t}", text);
	ir_asm(k->b, text, constraints, type, values, acc, count, operands);
}

void wgmma_wait(Kernel *k)
{
	int count = 0;
	for (int t = 0; t < k->under_way_count; t++)
		count += tile_count(k->under_way[t]);
	if (count == 0)
		return;
	if (k->has_turn)
		pass_turn(k);
	k->has_turn = false;
	Val *values = ARENA_ARRAY(k->b->arena, Val, count);
	Val **places = ARENA_ARRAY(k->b->arena, Val *, count);
	int at = 0;
	for (int t = 0; t < k->under_way_count; t++)
		at = carry_array(places, at, k->under_way[t].e, tile_count(k->under_way[t]));
	for (int i = 0; i < count; i++)
		values[i] = *places[i];
	ir_asm(k->b, "wgmma.wait_group.sync.aligned 0;", accumulator_constraints(k, 'f', count, true), IR_F32, count, values,
	       count, values);
	for (int i = 0; i < count; i++)
		*places[i] = values[i];
	k->under_way_count = 0;
}

/* Notes that a tile is under way: the same one may be so twice. */
static void put_under_way(Kernel *k, Tile t)
{
	for (int i = 0; i < k->under_way_count; i++)
		if (k->under_way[i].e == t.e)
			return;
	k->under_way[k->under_way_count++] = t;
}

/* The warp group's rows of a by the rows of b, both contiguous along a depth of so many bytes. */
static Chain *rows_chain(Kernel *k, Element element, Shared a, Shared b, int depth_bytes)
{
	Builder *builder = k->b;
	Chain *c = ARENA_NEW(builder->arena, Chain);
	c->element = element;
	c->cols = b.rows;
	c->steps = (depth_bytes + DEPTH_BYTES - 1) / DEPTH_BYTES;
	Val first_row = val_mul_i32(builder, own_group(k), PLAN_GROUP_WARPS * PLAN_WARP_ROWS * PLAN_PANEL_BYTES);
	c->from_a = descriptor(k, val_offset(builder, a.base, first_row), 0);
	c->from_b = descriptor(k, b.base, 0);
	for (int s = 0; s < c->steps; s++) {
		c->step_a[s] = depth_offset(a, s);
		c->step_b[s] = b.offset + depth_offset(b, s);
	}
	return c;
}

/* Of rows that are a panel wide at most; wider ones would not fit beside the sums. */
Int8Rows wgmma_int8_rows(Kernel *k, Shared a)
{
	Builder *b = k->b;
	Int8Rows rows = { .from = a };
	int steps = plan_int8_bytes(k->spec) / DEPTH_BYTES;
	if (shared_panels(a) > 1)
		return rows;
	rows.registers = ARENA_ARRAY(b->arena, Val, steps * A_REGS);
	Val in_chunk = val_mul_i32(b, val_rem_i32(b, k->lane, 4), 4);
	for (int half = 0; half < 2; half++) {
		Val in_warp = val_add_i32(b, val_div_i32(b, k->lane, 4), 8 * half);
		Val row = val_add(b, val_mul_i32(b, k->warp, PLAN_WARP_ROWS), in_warp);
		Val turn = val_rem_i32(b, row, 8);
		Val start = val_offset(b, a.base, val_add(b, val_mul_i32(b, row, PLAN_PANEL_BYTES), in_chunk));
		for (int c = 0; c < 2 * steps; c++) {
			Val place = val_xor(b, turn, val_i32(b, c));
			Val at = val_offset(b, start, val_mul_i32(b, place, CHUNK));
			rows.registers[c / 2 * A_REGS + c % 2 * 2 + half] = val_load(b, at, IR_I32);
		}
	}
	return rows;
}

void wgmma_int8(Kernel *k, Tile acc, Int8Rows a, Shared b)
{
	Chain *c = rows_chain(k, ELEMENT_INT8, a.from, b, plan_int8_bytes(k->spec));
	c->in_registers = a.registers;
	for (int i = 0; c->in_registers && i < c->steps * A_REGS; i++)
		c->a[i / A_REGS][i % A_REGS] = a.registers[i];
	start_chain(k, acc.e, c, true);
}

void wgmma_int8_wait(Kernel *k, Tile acc)
{
	ir_asm(k->b, "wgmma.wait_group.sync.aligned 0;", accumulator_constraints(k, 'r', tile_count(acc), true), IR_I32,
	       tile_count(acc), acc.e, tile_count(acc), acc.e);
}

void wgmma_rows(Kernel *k, Tile acc, Shared a, Shared b)
{
	wgmma_finish(k);
	Chain *c = rows_chain(k, ELEMENT_HALF, a, b, a.cols * dtype_size(k->spec->dtype));
	if (!k->has_turn)
		take_turn(k);
	k->has_turn = true;
	start_chain(k, acc.e, c, tile_is_zero(acc));
	put_under_way(k, acc);
}

/* Does any lane of the warp group have a bit set? */
static Val group_any(Kernel *k, Val bits)
{
	Builder *b = k->b;
	Val own = val_compare(b, IR_NE, bits, val_i32(b, 0));
	Val id = group_barrier_id(k);
	Val threads = val_i32(b, PLAN_GROUP_WARPS * WARP);
	return val_intrinsic(b, "llvm.nvvm.barrier.cta.red.or.aligned.count", IR_I1, 3, (Val[]){ id, threads, own });
}

/* Starts acc += p . b for columns [first, first + c->cols) of b and of acc. */
static void start_tile(Kernel *k, Chain *c, Val *acc, Shared b, int first, bool fresh)
{
	c->from_b = descriptor(k, b.base, shared_panel_bytes(b));
	for (int s = 0; s < c->steps; s++)
		c->step_b[s] = first / GROUP_COLS * shared_panel_bytes(b) + s * DEPTH * PLAN_PANEL_BYTES;
	start_chain(k, acc, c, fresh);
	put_under_way(k, (Tile){ c->cols, acc });
}

/* A product that mma_tile asked for, not started yet. */
struct TileProduct {
	Tile acc;
	Chain chain;
	Shared b;
	Val bits;                          /* 0 if this lane's part of the factor is all zeros */
	bool scaled;
	Val back[2];                       /* f16: what scales the product's rows back */
};

/* f16: the product of a scaled tile, a panel of columns at a time, and scaled back as it is added. */
static void multiply_scaled(Kernel *k, TileProduct *p)
{
	for (int first = 0; first < p->acc.cols; first += GROUP_COLS) {
		p->chain.cols = p->acc.cols - first < GROUP_COLS ? p->acc.cols - first : GROUP_COLS;
		Tile product = tile_new(k, p->chain.cols);
		start_tile(k, &p->chain, product.e, p->b, first, true);
		wgmma_wait(k);
		for (int e = 0; e < tile_count(product); e++) {
			Val *sum = &p->acc.e[first / 2 + e];
			*sum = val_fma(k->b, product.e[e], p->back[e % 4 / 2], *sum);
		}
	}
}

static void multiply_all(Kernel *k)
{
	for (int i = 0; i < k->product_count; i++) {
		TileProduct *p = &k->products[i];
		if (p->scaled)
			multiply_scaled(k, p);
		else
			start_tile(k, &p->chain, p->acc.e, p->b, 0, false);
	}
	wgmma_wait(k);
}

/* Where exact zeros are proved, one vote for all of them. Nothing may be under way across its branch. */
void wgmma_finish(Kernel *k)
{
	Builder *b = k->b;
	if (k->product_count == 0)
		return;
	wgmma_wait(k);
	if (!k->plan->zeros_proved) {
		multiply_all(k);
		k->product_count = 0;
		return;
	}
	Val bits = k->products[0].bits;
	int values = 0, count = 0;
	for (int i = 0; i < k->product_count; i++) {
		bits = i > 0 ? val_or(b, bits, k->products[i].bits) : bits;
		values += tile_count(k->products[i].acc);
	}
	Val **changed = ARENA_ARRAY(b->arena, Val *, values);
	for (int i = 0; i < k->product_count; i++)
		count = carry_array(changed, count, k->products[i].acc.e, tile_count(k->products[i].acc));
	Val needed = group_any(k, bits);
	for (If f = if_begin(b, needed, changed, count); if_next(&f);)
		multiply_all(k);
	k->product_count = 0;
}

/* The operand's bits, or of f16 the tile's own: some that are not 0 there become 0 without their scale. */
static Val operand_bits(Kernel *k, const Chain *c, Tile p)
{
	Builder *b = k->b;
	if (k->spec->dtype == DTYPE_F16)
		return tile_bits(k, p);
	Val bits = val_i32(b, 0);
	for (int s = 0; s < c->steps; s++)
		for (int i = 0; i < A_REGS; i++)
			bits = val_or(b, bits, c->a[s][i]);
	return val_and(b, bits, val_i32(b, 0x7fff7fff));
}

/* Started together with others of the round, before the next product of rows or at the round's end: shared tiles stay
 * till then. */
void wgmma_tile(Kernel *k, Tile acc, Tile p, Shared b)
{
	if (k->product_count == KERNEL_MAX_PRODUCTS)
		wgmma_finish(k);
	TileProduct *product = &k->products[k->product_count++];
	*product = (TileProduct){ .acc = acc, .b = b, .scaled = k->spec->dtype == DTYPE_F16 };
	product->chain = (Chain){ .cols = acc.cols, .steps = p.cols / DEPTH, .transposed = true, .in_registers = true };
	Tile a = p;
	if (product->scaled) {
		a = tile_copy(k, p);
		scale_rows(k, a, product->back);
	}
	for (int s = 0; s < product->chain.steps; s++)
		tile_operand(k, a, s, product->chain.a[s]);
	if (k->plan->zeros_proved)
		product->bits = operand_bits(k, &product->chain, p);
}

void wgmma_begin(Kernel *k)
{
	k->under_way = ARENA_ARRAY(k->b->arena, Tile, KERNEL_MAX_UNDER_WAY);
	k->products = ARENA_ARRAY(k->b->arena, TileProduct, KERNEL_MAX_PRODUCTS);
}
