/*
 * Scalar IR: a builder over MLIR that knows values, structured control flow and memory, but no kernels and no tiles.
 *
 * Errors stick to the builder: after the first one every function returns a null Val and does nothing, and
 * ir_failed() is asked once, at the end. Every op carries the location set last with ir_at().
 *
 * C leaves the order of argument evaluation open, so at most one call that emits may stand in an argument list.
 */
#ifndef TDAGEN_IR_H
#define TDAGEN_IR_H

#include <stdbool.h>
#include <stdint.h>
#include <mlir-c/IR.h>
#include "arena.h"
#include "diag.h"

typedef MlirValue Val;

typedef enum IrType {
	IR_I1, IR_I16, IR_I32, IR_I64, IR_F16, IR_BF16, IR_F32,
	IR_GLOBAL,                         /* pointer to global memory */
	IR_SHARED,                         /* pointer to shared memory */
	IR_CLUSTER,                        /* the same, as bulk copies want it */
	IR_POINTER,                        /* pointer to a kernel's parameter */
	IR_V2F16, IR_V2BF16, IR_V2F32, IR_V2I32, IR_V4I32,
	IR_S2I32, IR_S4I32, IR_S4F32,      /* structs that the matrix instructions return */
	IR_TYPE_COUNT
} IrType;

typedef struct AttrCache AttrCache;

typedef struct Builder {
	MlirContext context;
	Arena *arena;
	Diag *diag;
	MlirLocation location;
	MlirBlock block;                   /* where ops go */
	MlirType types[IR_TYPE_COUNT];
	AttrCache *attrs;
	bool failed;
} Builder;

void ir_init(Builder *b, MlirContext context, Arena *arena, Diag *diag);
void ir_at(Builder *b, Loc loc);
bool ir_failed(const Builder *b);
void ir_fail(Builder *b, const char *what);         /* reports the first failure, as an internal error */
bool val_is_null(Val v);
bool val_same(Val x, Val y);                       /* one value, known while generating */

/* A builtin.module with an empty gpu.module "kernels" in it, and the array that stands for dynamic shared memory
 * (gpu.dynamic_shared_memory lowers to one static byte). */
MlirOperation ir_kernel_module(Builder *b, MlirModule *module);
bool ir_verify(Builder *b, MlirModule module);
void ir_module_free(MlirModule *module);           /* leaves a null module */

/* Appends an op with at most one result. attrs is the inside of an attribute dictionary, or NULL; type is
 * IR_TYPE_COUNT for an op without a result. */
Val ir_op(Builder *b, const char *name, const char *attrs, IrType type, int count, const Val *operands);
/* The same with regions (which the op takes over) and any result types. */
MlirOperation ir_region_op(Builder *b, const char *name, const char *attrs, int count, const Val *operands, int results,
                           const MlirType *types, int regions, MlirRegion *region);
MlirAttribute ir_attr(Builder *b, const char *text);
/* Assembly with side effects. constraints name `results` outputs, which are of one type and go to result[], then inputs. */
void ir_asm(Builder *b, const char *text, const char *constraints, IrType type, int results, Val *result, int count,
            const Val *operands);

/* Integers (i32 or i64, both operands alike) and addresses. Division rounds towards zero; operands here are never
 * negative where it matters. */
Val val_i32(Builder *b, int32_t value);
Val val_i64(Builder *b, int64_t value);
Val val_true(Builder *b);
Val val_false(Builder *b);
Val val_add(Builder *b, Val x, Val y);
Val val_sub(Builder *b, Val x, Val y);
Val val_mul(Builder *b, Val x, Val y);
Val val_div(Builder *b, Val x, Val y);
Val val_rem(Builder *b, Val x, Val y);
Val val_min(Builder *b, Val x, Val y);
Val val_max(Builder *b, Val x, Val y);
Val val_and(Builder *b, Val x, Val y);
Val val_or(Builder *b, Val x, Val y);
Val val_xor(Builder *b, Val x, Val y);
Val val_shl(Builder *b, Val x, Val y);
Val val_shr(Builder *b, Val x, Val y);              /* unsigned */
Val val_sign_i32(Builder *b, Val x);                /* -1 where x is negative, else 0 */
Val val_add_i32(Builder *b, Val x, int32_t y);
Val val_mul_i32(Builder *b, Val x, int32_t y);
Val val_div_i32(Builder *b, Val x, int32_t y);
Val val_rem_i32(Builder *b, Val x, int32_t y);
Val val_to_i64(Builder *b, Val x);                  /* sign-extended */
Val val_widen_i32(Builder *b, Val x);               /* i64; unsigned */
Val val_low_i32(Builder *b, Val x);                 /* of an i64 */
Val val_high_i32(Builder *b, Val x);
Val val_low_i16(Builder *b, Val x);                 /* of an i32 */
Val val_widen_i16(Builder *b, Val x);               /* i32; unsigned */
Val val_join_i32(Builder *b, Val low, Val high);    /* i64 */
Val val_popc(Builder *b, Val x);                    /* bits that are set in an i32 */
typedef enum IrCompare { IR_EQ, IR_NE, IR_LT, IR_LE, IR_GT, IR_GE } IrCompare;
Val val_compare(Builder *b, IrCompare how, Val x, Val y);      /* signed; i1 */
Val val_select(Builder *b, Val condition, Val x, Val y);

/* float32. Multiplications and additions may contract to fused ones. */
Val val_f32(Builder *b, double value);
bool val_is_zero_f32(Val x);                        /* the constant 0, known while building */
Val val_fadd(Builder *b, Val x, Val y);
Val val_fsub(Builder *b, Val x, Val y);
Val val_fmul(Builder *b, Val x, Val y);
Val val_fma(Builder *b, Val x, Val y, Val z);
/* Rounded as they stand: never fused with another operation. */
Val val_fmul_alone(Builder *b, Val x, Val y);
Val val_fsub_alone(Builder *b, Val x, Val y);
Val val_fneg(Builder *b, Val x);
Val val_fabs(Builder *b, Val x);
Val val_fmin(Builder *b, Val x, Val y);             /* NaN if either is */
Val val_fmax(Builder *b, Val x, Val y);             /* NaN if either is */
Val val_fdiv(Builder *b, Val x, Val y);             /* correctly rounded */
Val val_fsqrt(Builder *b, Val x);                   /* correctly rounded */
Val val_fsqrt_near(Builder *b, Val x);              /* within 2^-22 of it, relatively, in one instruction */
Val val_finverse_near(Builder *b, Val x);           /* 1/x, likewise; x from 2^-126 to 2^125 */
/* Ordered comparisons are false on NaN; IR_NE is true on it. `unless` is the negation: unless(IR_LE) holds on NaN. */
Val val_fcompare(Builder *b, IrCompare how, Val x, Val y);
Val val_funless(Builder *b, IrCompare how, Val x, Val y);
Val val_i32_to_f32(Builder *b, Val x);
Val val_floor_i32(Builder *b, Val x);               /* saturates; 0 for NaN */
Val val_bitcast(Builder *b, Val x, IrType type);
Val val_low_bytes(Builder *b, const Val x[4]);      /* the lowest byte of four i32, the first one's lowest */
Val val_intrinsic(Builder *b, const char *name, IrType type, int count, const Val *operands);

/* Memory. Pointers advance in bytes. */
Val val_offset(Builder *b, Val pointer, Val bytes);             /* bytes: i32 or i64 */
Val val_offset_const(Builder *b, Val pointer, int64_t bytes);
Val val_load(Builder *b, Val pointer, IrType type);
void val_store(Builder *b, Val pointer, Val value);
Val val_extract(Builder *b, Val structure, int index, IrType type);
Val val_vector_get(Builder *b, Val vector, int index, IrType type);
Val val_vector_pair(Builder *b, Val x, Val y, IrType type);
Val val_vector_four(Builder *b, const Val x[4]);                /* IR_V4I32 */
Val val_is_null_pointer(Builder *b, Val pointer);               /* i1 */

/*
 * Structured control flow, written as C loops:
 *
 *     Val *carry[] = { &sum };
 *     for (Loop l = loop_begin(b, lo, hi, 1, carry, 1); loop_next(&l);)
 *         sum = val_fadd(b, sum, ...l.index...);
 *
 * The body is built once. Variables that change in it must be listed: they become block arguments on entry, results after.
 * carry and what it points to must outlive the loop. lo, hi and index are i32.
 */
typedef struct Loop {
	Builder *b;
	Val index;
	Val lo, hi;
	int step;
	int count;
	Val **carry;
	Val *initial;
	MlirBlock outer, body;
	MlirRegion region;
	bool entered;
} Loop;
Loop loop_begin(Builder *b, Val lo, Val hi, int step, Val **carry, int count);
bool loop_next(Loop *loop);

/* for (If f = if_begin(b, condition, changed, n); if_next(&f);) ...: where the condition is false the variables keep their values. */
typedef struct If {
	Builder *b;
	Val condition;
	int count;
	Val **changed;
	Val *initial;
	MlirBlock outer, body;
	MlirRegion region;
	bool entered;
} If;
If if_begin(Builder *b, Val condition, Val **changed, int count);
bool if_next(If *f);

/* for (Either e = either_begin(b, condition, changed, n); either_next(&e);) ...: the body is built twice, first for where the condition
 * holds, then for where it does not (`otherwise`); both begin with the variables as they were. */
typedef struct Either {
	If branch;
	Val *first;                        /* the variables' values after the first body */
	MlirRegion then;
	int pass;
	bool otherwise;
} Either;
Either either_begin(Builder *b, Val condition, Val **changed, int count);
bool either_next(Either *e);

/* for (Until u = until_begin(b, carry, count); until_next(&u);) u.done = ...: the body runs until its condition (i1) holds. */
typedef struct Until {
	Builder *b;
	Val done;
	int count;
	Val **carry;
	Val *initial;
	MlirBlock outer, body;
	MlirRegion region;
	bool entered;
} Until;
Until until_begin(Builder *b, Val **carry, int count);
bool until_next(Until *u);

/* Pointers to the elements of an array of values, for carry lists. */
int carry_array(Val **carry, int at, Val *values, int count);

#endif
