/* Kernels as functions: entry, arguments, place in the grid. */
#include "blocks.h"
#include "tile.h"
#include "tile_parts.h"

#include "../compiler/lower.h"
#include <stdarg.h>
#include <string.h>
#include <mlir-c/BuiltinAttributes.h>
#include <mlir-c/BuiltinTypes.h>

/* gpu.thread_id and its like yield `index`; everything here counts in i32. */
static Val coordinate(Builder *b, const char *op)
{
	MlirType index_type = mlirIndexTypeGet(b->context);
	MlirOperation read = ir_region_op(b, op, "dimension = #gpu<dim x>", 0, NULL, 1, &index_type, 0, NULL);
	Val index = mlirOperationGetResult(read, 0);
	return ir_op(b, "arith.index_cast", NULL, IR_I32, 1, &index);
}

Val taken_again(Kernel *k, Val x)
{
	return ir_op(k->b, "llvm.inline_asm", "asm_string = \"mov.b32 $0, $1;\", constraints = \"=r,r\", has_side_effects", IR_I32, 1, &x);
}

static void split_thread(Kernel *k)
{
	if (k->launch->teams > 0) {
		k->team = val_div_i32(k->b, k->thread, k->launch->warps * WARP);
		k->thread = val_rem_i32(k->b, k->thread, k->launch->warps * WARP);
	}
	k->lane = val_rem_i32(k->b, k->thread, WARP);
	k->warp = val_div_i32(k->b, k->thread, WARP);
}

/* The side effect keeps compilers from taking it for the value that is known already. */
static Val read_again(Kernel *k, const char *assembly)
{
	const char *attrs = arena_printf(k->b->arena, "asm_string = \"%s\", constraints = \"=r\", has_side_effects", assembly);
	return ir_op(k->b, "llvm.inline_asm", attrs, IR_I32, 0, NULL);
}

void kernel_read_thread(Kernel *k)
{
	k->thread = read_again(k, "mov.u32 $0, %tid.x;");
	split_thread(k);
}

void kernel_after_loop(Kernel *k)
{
	kernel_read_thread(k);
	if (k->launch->blocks == BLOCKS_HEAVY)
		k->cta = blocks_at_hand(k);
	else if (k->launch->persistent)
		k->cta = taken_again(k, k->cta);
	else
		k->cta = read_again(k, "mov.u32 $0, %ctaid.x;");
}

bool kernel_uses_groups(const Kernel *k)
{
	return k->launch->engine == ENGINE_WGMMA;
}

void kernel_as_before(Kernel *k, const Kernel *before)
{
	k->thread = before->thread;
	k->lane = before->lane;
	k->warp = before->warp;
	k->team = before->team;
	k->cta = before->cta;
}

static void wait_for_launch_before(Builder *b)
{
	ir_op(b, "nvvm.griddepcontrol", "kind = #nvvm<grid_dep_action wait>", IR_TYPE_COUNT, 0, NULL);
}

void kernel_wait(Kernel *k)
{
	if (k->launch->follows)
		wait_for_launch_before(k->b);
}

void kernel_lets_next_start(Kernel *k)
{
	if (plan_is_followed(k->plan, k->launch))
		ir_op(k->b, "nvvm.griddepcontrol", "kind = #nvvm<grid_dep_action launch_dependents>", IR_TYPE_COUNT, 0, NULL);
}

Val team_memory(Kernel *k, int bytes)
{
	Val at = val_offset_const(k->b, k->shared, k->shared_bytes);
	k->shared_bytes += bytes * (k->launch->teams > 0 ? k->launch->teams : 1);
	return k->launch->teams > 0 ? val_offset(k->b, at, val_mul_i32(k->b, k->team, bytes)) : at;
}

Kernel kernel_begin(Builder *b, MlirOperation gpu_module, const Spec *spec, const Plan *plan, Launch *launch)
{
	Kernel k = { .b = b, .spec = spec, .plan = plan, .launch = launch, .gpu_module = gpu_module };
	ir_at(b, spec->loc);
	launch->arg_count = 0;
	k.region = mlirRegionCreate();
	k.entry = mlirBlockCreate(0, NULL, NULL);
	mlirRegionAppendOwnedBlock(k.region, k.entry);
	b->block = k.entry;
	k.thread = coordinate(b, "gpu.thread_id");
	k.cta = coordinate(b, "gpu.block_id");
	split_thread(&k);
	if (launch->teams > 0)
		k.cta = val_add(b, val_mul_i32(b, k.cta, launch->teams), k.team);
	/* In this order: what comes beside this launch does not wait by itself. */
	if (!launch->begins_early)
		kernel_wait(&k);
	if (launch->teams == 0)
		kernel_lets_next_start(&k);
	k.shared = ir_op(b, "llvm.mlir.addressof", "global_name = @dynamic_shared", IR_SHARED, 0, NULL);
	blocks_begin(&k);
	if (kernel_uses_groups(&k)) {
		/* The producer's threads read the terms of rows that are there, though they don't use them. */
		k.warp = val_min(b, k.warp, val_i32(b, launch->warps - 1));
		k.residents = ARENA_ARRAY(b->arena, Box, KERNEL_MAX_RESIDENTS);
		k.resident_terms = ARENA_ARRAY(b->arena, ResidentTerms, KERNEL_MAX_RESIDENT_TERMS);
		wgmma_begin(&k);
	}
	return k;
}

/* A launch that ran beside others does not end before them, so that what comes next waits for all. One CTA is enough for that: the
 * last one keeps no other from starting, and of those with teams the first one goes on for long. */
static void wait_for_others(Kernel *k)
{
	Builder *b = k->b;
	Val waits = k->launch->teams > 0 ? val_i32(b, 0) : val_add_i32(b, kernel_grid(k), -1);
	for (If f = if_begin(b, val_compare(b, IR_EQ, kernel_cta(k), waits), NULL, 0); if_next(&f);)
		wait_for_launch_before(b);
}

/* Which arguments are tensor maps: lowering makes them what they must be. */
static const char *map_arguments(Kernel *k)
{
	const char *text = "array<i32", *separator = ": ";
	for (int i = 0; i < k->launch->arg_count; i++)
		if (k->launch->args[i].kind == ARG_MAP) {
			text = arena_printf(k->b->arena, "%s%s%d", text, separator, i);
			separator = ", ";
		}
	return arena_printf(k->b->arena, "%s>", text);
}

bool kernel_end(Kernel *k)
{
	Builder *b = k->b;
	Launch *launch = k->launch;
	if (k->consumer.entered) {
		blocks_end_consumers(k);
		if_next(&k->consumer);
	}
	blocks_end(k);
	if (launch->beside)
		wait_for_others(k);
	ir_op(b, "gpu.return", NULL, IR_TYPE_COUNT, 0, NULL);
	launch->shared_bytes = k->shared_bytes;
	if (k->shared_bytes > k->plan->shared_limit) {
		diag_internal(b->diag, k->spec->loc, "%s takes %d bytes of shared memory; the plan allows %d", launch->entry,
		              k->shared_bytes, k->plan->shared_limit);
		b->failed = true;
	}
	if (b->failed) {
		mlirRegionDestroy(k->region);
		return false;
	}
	MlirType inputs[PLAN_MAX_ARGS];
	for (int i = 0; i < launch->arg_count; i++)
		inputs[i] = mlirValueGetType(mlirBlockGetArgument(k->entry, i));
	MlirType type = mlirFunctionTypeGet(b->context, launch->arg_count, inputs, 0, NULL);
	MlirOperationState state = mlirOperationStateGet(mlirStringRefCreateFromCString("gpu.func"), b->location);
	MlirNamedAttribute attrs[] = {
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString("function_type")),
		                      mlirTypeAttrGet(type)),
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString("sym_name")),
		                      mlirStringAttrGet(b->context, mlirStringRefCreateFromCString(launch->entry))),
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString("gpu.kernel")),
		                      mlirUnitAttrGet(b->context)),
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString("known_block_size")),
		                      ir_attr(b, arena_printf(b->arena, "array<i32: %d, 1, 1>", plan_threads(launch)))),
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString(LOWER_MAPS)),
		                      ir_attr(b, map_arguments(k))),
		mlirNamedAttributeGet(mlirIdentifierGet(b->context, mlirStringRefCreateFromCString("nvvm.maxnreg")),
		                      ir_attr(b, arena_printf(b->arena, "%d : i32", launch->register_limit))),
	};
	mlirOperationStateAddAttributes(&state, sizeof attrs / sizeof *attrs, attrs);
	mlirOperationStateAddOwnedRegions(&state, 1, &k->region);
	MlirOperation func = mlirOperationCreate(&state);
	MlirBlock body = mlirRegionGetFirstBlock(mlirOperationGetRegion(k->gpu_module, 0));
	mlirBlockAppendOwnedOperation(body, func);
	return true;
}

static Val argument(Kernel *k, ArgKind kind, IrType type, const char *source)
{
	Launch *launch = k->launch;
	for (int i = 0; i < launch->arg_count; i++)
		if (launch->args[i].kind == kind && strcmp(launch->args[i].source, source) == 0)
			return mlirBlockGetArgument(k->entry, i);
	if (launch->arg_count == PLAN_MAX_ARGS) {
		diag_internal(k->b->diag, k->spec->loc, "%s has more than %d arguments", launch->entry, PLAN_MAX_ARGS);
		k->b->failed = true;
		return (Val){ NULL };
	}
	launch->args[launch->arg_count++] = (LaunchArg){ kind, source };
	return mlirBlockAddArgument(k->entry, k->b->types[type], k->b->location);
}

#define ARGUMENT(function, kind, type)                                        \
	Val function(Kernel *k, const char *format, ...)                      \
	{                                                                     \
		char text[160];                                               \
		va_list list;                                                 \
		va_start(list, format);                                       \
		vsnprintf(text, sizeof text, format, list);                   \
		va_end(list);                                                 \
		return argument(k, kind, type, arena_strdup(k->b->arena, text)); \
	}
ARGUMENT(kernel_pointer, ARG_PTR, IR_GLOBAL)
ARGUMENT(kernel_i32, ARG_I32, IR_I32)
ARGUMENT(kernel_i64, ARG_I64, IR_I64)
ARGUMENT(kernel_map, ARG_MAP, IR_POINTER)

enum { CONSUMERS = 1, FIRST_TEAM = 1, FIRST_GROUP = 2, FIRST_TURN = 6 };       /* named barriers; 0 is everyone's */

static void named_barrier(Kernel *k, Val id, int warps)
{
	Builder *b = k->b;
	Val threads = val_i32(b, warps * WARP);
	ir_op(b, "nvvm.barrier", "operandSegmentSizes = array<i32: 1, 1, 0>", IR_TYPE_COUNT, 2, (Val[]){ id, threads });
}

Val group_barrier_id(Kernel *k)
{
	Val group = val_div_i32(k->b, k->warp, PLAN_GROUP_WARPS);
	return val_add_i32(k->b, group, FIRST_GROUP);
}

Val turn_barrier_id(Kernel *k, Val group)
{
	return val_add_i32(k->b, group, FIRST_TURN);
}

void kernel_group_barrier(Kernel *k)
{
	if (k->launch->warps == PLAN_GROUP_WARPS)
		kernel_barrier(k);
	else
		named_barrier(k, group_barrier_id(k), PLAN_GROUP_WARPS);
}

void kernel_barrier(Kernel *k)
{
	Builder *b = k->b;
	if (k->launch->teams > 0) {
		named_barrier(k, val_add_i32(b, k->team, FIRST_TEAM), k->launch->warps);
		return;
	}
	if (!k->consumer.entered) {
		ir_op(b, "gpu.barrier", NULL, IR_TYPE_COUNT, 0, NULL);
		return;
	}
	named_barrier(k, val_i32(b, CONSUMERS), k->launch->warps);
}

/* Not the aligned bar.sync, of which synccheck wants all warps of a CTA to execute the same one. */
void kernel_meet(Kernel *k)
{
	Val everyone = val_i32(k->b, 0);
	val_intrinsic(k->b, "llvm.nvvm.barrier.cta.sync.all", IR_TYPE_COUNT, 1, &everyone);
}

Val kernel_grid(Kernel *k)
{
	Val result;
	ir_asm(k->b, "mov.u32 $0, %nctaid.x;", "=r", IR_I32, 1, &result, 0, NULL);
	return result;
}

Val kernel_cta(Kernel *k)
{
	Val result;
	ir_asm(k->b, "mov.u32 $0, %ctaid.x;", "=r", IR_I32, 1, &result, 0, NULL);
	return result;
}

void change_registers(Kernel *k, const char *how, int registers)
{
	if (registers > 0)
		ir_op(k->b, "nvvm.setmaxregister", arena_printf(k->b->arena, "action = #nvvm<action %s>, regCount = %d : i32", how,
		                                                registers), IR_TYPE_COUNT, 0, NULL);
}

void kernel_split(Kernel *k)
{
	Builder *b = k->b;
	Val computes = val_compare(b, IR_LT, k->thread, val_i32(b, k->launch->warps * WARP));
	k->consumer = if_begin(b, computes, NULL, 0);
	if_next(&k->consumer);
	change_registers(k, "increase", k->launch->consumer_registers);
}

Place kernel_place(Kernel *k, const char *heads, const char *length, int rows)
{
	Builder *b = k->b;
	Place place;
	Val blocks = kernel_i32(k, "ceil_div(%s,%d)", length, rows);
	Val count = kernel_i32(k, "%s", heads);
	bool across = k->launch->gathered;
	Val inner = across ? kernel_i32(k, "batch*%s", heads) : blocks;
	Val outer = val_div(b, k->cta, inner), within = val_rem(b, k->cta, inner);
	Val nth = across ? outer : within;
	bool ascends = across && k->launch->role == ROLE_BACKWARD_KV;
	place.block = ascends ? nth : val_sub(b, val_add_i32(b, blocks, -1), nth);
	place.batch_head = across ? within : outer;
	place.batch = val_div(b, place.batch_head, count);
	place.head = val_rem(b, place.batch_head, count);
	place.row0 = val_mul_i32(b, place.block, rows);
	return place;
}

Val matrix_stride(Kernel *k, Matrix m, int rows)
{
	return rows == 1 ? kernel_i64(k, "%s", m.row_bytes) : kernel_i64(k, "%d*%s", rows, m.row_bytes);
}

Matrix matrix_of(Kernel *k, const char *tensor, Val batch, Val head, const char *length, int cols)
{
	Builder *b = k->b;
	Val pointer = kernel_pointer(k, "%s", tensor);
	int size = dtype_size(k->spec->dtype);
	Val batch_stride = kernel_i64(k, "%d*%s.batch_stride", size, tensor);
	Val head_stride = kernel_i64(k, "%d*%s.head_stride", size, tensor);
	Val batch64 = val_to_i64(b, batch);
	Val head64 = val_to_i64(b, head);
	Val by_batch = val_mul(b, batch64, batch_stride);
	Val by_head = val_mul(b, head64, head_stride);
	Val bytes = val_add(b, by_batch, by_head);
	Matrix m = { .base = val_offset(b, pointer, bytes), .cols = cols };
	m.row_bytes = arena_printf(b->arena, "%d*%s.row_stride", size, tensor);
	m.rows = kernel_i32(k, "%s", length);
	const char *heads = strcmp(length, "q_len") == 0 ? "heads" : "kv_heads";
	m.map = arena_printf(b->arena, "%s %d %s %d*%s.row_stride %s %d*%s.head_stride batch %d*%s.batch_stride", tensor, cols,
	                     length, size, tensor, heads, size, tensor, size, tensor);
	m.head = head;
	m.batch = batch;
	m.broadcast = tensor;
	return m;
}

Val terms_of(Kernel *k, const char *buffer, Val batch_head, const char *length)
{
	Builder *b = k->b;
	Val pointer = kernel_pointer(k, "buffer.%s", buffer);
	Val stride = kernel_i64(k, "4*round_up(%s,%d)", length, PLAN_TERM_ROWS);
	Val index = val_to_i64(b, batch_head);
	return val_offset(b, pointer, val_mul(b, index, stride));
}
