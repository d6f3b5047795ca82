#include "ir.h"

#include <stdarg.h>
#include <string.h>
#include <mlir-c/BuiltinAttributes.h>
#include <mlir-c/BuiltinTypes.h>
#include <mlir-c/Dialect/LLVM.h>

enum { ATTR_CACHE_SIZE = 1024, MAX_OPERANDS = 16 };

/* Attributes are written as text; each text is parsed once. */
struct AttrCache {
	struct { const char *text; MlirAttribute attr; } entry[ATTR_CACHE_SIZE];
	int used;
};

static const char *const type_names[IR_TYPE_COUNT] = {
	[IR_I1] = "i1", [IR_I16] = "i16", [IR_I32] = "i32", [IR_I64] = "i64", [IR_F16] = "f16", [IR_BF16] = "bf16",
	[IR_F32] = "f32", [IR_GLOBAL] = "!llvm.ptr<1>", [IR_SHARED] = "!llvm.ptr<3>",
	[IR_CLUSTER] = "!llvm.ptr<7>", [IR_POINTER] = "!llvm.ptr",
	[IR_V2F16] = "vector<2xf16>", [IR_V2BF16] = "vector<2xbf16>", [IR_V2F32] = "vector<2xf32>",
	[IR_V2I32] = "vector<2xi32>", [IR_V4I32] = "vector<4xi32>",
	[IR_S2I32] = "!llvm.struct<(i32, i32)>", [IR_S4I32] = "!llvm.struct<(i32, i32, i32, i32)>",
	[IR_S4F32] = "!llvm.struct<(f32, f32, f32, f32)>",
};

static MlirStringRef str(const char *text)
{
	return mlirStringRefCreateFromCString(text);
}

static Val null_val(void)
{
	return (Val){ NULL };
}

bool val_is_null(Val v)
{
	return mlirValueIsNull(v);
}

bool val_same(Val x, Val y)
{
	return mlirValueEqual(x, y);
}

bool ir_failed(const Builder *b)
{
	return b->failed;
}

void ir_fail(Builder *b, const char *what)
{
	if (!b->failed)
		diag_internal(b->diag, (Loc){ 0, 0 }, "building the IR failed: %s", what);
	b->failed = true;
}

void ir_init(Builder *b, MlirContext context, Arena *arena, Diag *diag)
{
	memset(b, 0, sizeof *b);
	b->context = context;
	b->arena = arena;
	b->diag = diag;
	b->attrs = ARENA_NEW(arena, AttrCache);
	b->location = mlirLocationUnknownGet(context);
	for (int i = 0; i < IR_TYPE_COUNT; i++) {
		b->types[i] = mlirTypeParseGet(context, str(type_names[i]));
		if (mlirTypeIsNull(b->types[i]))
			ir_fail(b, type_names[i]);
	}
}

void ir_at(Builder *b, Loc loc)
{
	if (loc.line > 0)
		b->location = mlirLocationFileLineColGet(b->context, str(diag_path(b->diag)), (unsigned)loc.line,
		                                         (unsigned)loc.column);
}

MlirAttribute ir_attr(Builder *b, const char *text)
{
	uint32_t hash = 2166136261u;
	for (const char *p = text; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	uint32_t at = hash % ATTR_CACHE_SIZE;
	while (b->attrs->entry[at].text && strcmp(b->attrs->entry[at].text, text) != 0)
		at = (at + 1) % ATTR_CACHE_SIZE;
	if (b->attrs->entry[at].text)
		return b->attrs->entry[at].attr;
	MlirAttribute attr = mlirAttributeParseGet(b->context, str(text));
	if (mlirAttributeIsNull(attr))
		ir_fail(b, text);
	if (b->attrs->used < ATTR_CACHE_SIZE / 2) {
		b->attrs->used++;
		b->attrs->entry[at].text = arena_strdup(b->arena, text);
		b->attrs->entry[at].attr = attr;
	}
	return attr;
}

/* The state of an op whose attributes are given as the inside of a dictionary. */
static MlirOperationState op_state(Builder *b, const char *name, const char *attrs)
{
	MlirOperationState state = mlirOperationStateGet(str(name), b->location);
	if (attrs) {
		MlirAttribute dict = ir_attr(b, arena_printf(b->arena, "{%s}", attrs));
		if (!mlirAttributeIsNull(dict))
			for (intptr_t i = 0; i < mlirDictionaryAttrGetNumElements(dict); i++) {
				MlirNamedAttribute named = mlirDictionaryAttrGetElement(dict, i);
				mlirOperationStateAddAttributes(&state, 1, &named);
			}
	}
	return state;
}

static MlirOperation finish(Builder *b, MlirOperationState *state)
{
	MlirOperation op = mlirOperationCreate(state);
	if (mlirOperationIsNull(op))
		ir_fail(b, "an op could not be created");
	else
		mlirBlockAppendOwnedOperation(b->block, op);
	return op;
}

static bool any_null(int count, const Val *operands)
{
	for (int i = 0; i < count; i++)
		if (val_is_null(operands[i]))
			return true;
	return false;
}

Val ir_op(Builder *b, const char *name, const char *attrs, IrType type, int count, const Val *operands)
{
	if (b->failed)
		return null_val();
	if (any_null(count, operands)) {
		ir_fail(b, name);
		return null_val();
	}
	MlirOperationState state = op_state(b, name, attrs);
	mlirOperationStateAddOperands(&state, count, operands);
	if (type != IR_TYPE_COUNT)
		mlirOperationStateAddResults(&state, 1, &b->types[type]);
	MlirOperation op = finish(b, &state);
	return b->failed || type == IR_TYPE_COUNT ? null_val() : mlirOperationGetResult(op, 0);
}

MlirOperation ir_region_op(Builder *b, const char *name, const char *attrs, int count, const Val *operands, int results,
                           const MlirType *types, int regions, MlirRegion *region)
{
	MlirOperationState state = op_state(b, name, attrs);
	mlirOperationStateAddOperands(&state, count, operands);
	mlirOperationStateAddResults(&state, results, types);
	mlirOperationStateAddOwnedRegions(&state, regions, region);
	return finish(b, &state);
}

static MlirType struct_type(Builder *b, IrType type, int count)
{
	MlirType *fields = ARENA_ARRAY(b->arena, MlirType, count);
	for (int i = 0; i < count; i++)
		fields[i] = b->types[type];
	return mlirLLVMStructTypeLiteralGet(b->context, count, fields, false);
}

void ir_asm(Builder *b, const char *text, const char *constraints, IrType type, int results, Val *result, int count,
            const Val *operands)
{
	if (b->failed)
		return;
	if (any_null(count, operands)) {
		ir_fail(b, text);
		return;
	}
	MlirType whole_type = results == 0   ? (MlirType){ NULL }
	                      : results == 1 ? b->types[type]
	                                     : struct_type(b, type, results);
	const char *attrs = arena_printf(b->arena, "asm_string = \"%s\", constraints = \"%s\", has_side_effects", text,
	                                 constraints);
	MlirOperation op = ir_region_op(b, "llvm.inline_asm", attrs, count, operands, results > 0, &whole_type, 0,
	                                NULL);
	if (b->failed || results == 0)
		return;
	Val whole = mlirOperationGetResult(op, 0);
	for (int i = 0; i < results; i++)
		result[i] = results == 1 ? whole : val_extract(b, whole, i, type);
}

MlirOperation ir_kernel_module(Builder *b, MlirModule *module)
{
	*module = mlirModuleCreateParse(b->context, str(
		"module attributes {gpu.container_module} { gpu.module @kernels {"
		"llvm.mlir.global external @dynamic_shared() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>"
		"} }"));
	if (mlirModuleIsNull(*module)) {
		ir_fail(b, "the module");
		return (MlirOperation){ NULL };
	}
	return mlirBlockGetFirstOperation(mlirModuleGetBody(*module));
}

bool ir_verify(Builder *b, MlirModule module)
{
	if (!mlirOperationVerify(mlirModuleGetOperation(module)))
		ir_fail(b, "the kernels do not verify");
	return !b->failed;
}

void ir_module_free(MlirModule *module)
{
	if (!mlirModuleIsNull(*module))
		mlirModuleDestroy(*module);
	*module = (MlirModule){ NULL };
}

static Val unary(Builder *b, const char *name, const char *attrs, IrType type, Val x)
{
	return ir_op(b, name, attrs, type, 1, &x);
}

static Val binary(Builder *b, const char *name, const char *attrs, IrType type, Val x, Val y)
{
	return ir_op(b, name, attrs, type, 2, (Val[]){ x, y });
}

static IrType type_of(Builder *b, Val x)
{
	if (val_is_null(x))
		return IR_I32;
	MlirType type = mlirValueGetType(x);
	for (int i = 0; i < IR_TYPE_COUNT; i++)
		if (mlirTypeEqual(type, b->types[i]))
			return (IrType)i;
	ir_fail(b, "a value has a type that the builder does not know");
	return IR_I32;
}

/* Integers. */

static Val constant(Builder *b, IrType type, int64_t value)
{
	if (b->failed)
		return null_val();
	MlirOperationState state = mlirOperationStateGet(str("arith.constant"), b->location);
	MlirNamedAttribute named = mlirNamedAttributeGet(mlirIdentifierGet(b->context, str("value")),
	                                                 mlirIntegerAttrGet(b->types[type], value));
	mlirOperationStateAddAttributes(&state, 1, &named);
	mlirOperationStateAddResults(&state, 1, &b->types[type]);
	return mlirOperationGetResult(finish(b, &state), 0);
}

Val val_i32(Builder *b, int32_t value)
{
	return constant(b, IR_I32, value);
}

Val val_i64(Builder *b, int64_t value)
{
	return constant(b, IR_I64, value);
}

Val val_true(Builder *b)
{
	return constant(b, IR_I1, 1);
}

Val val_false(Builder *b)
{
	return constant(b, IR_I1, 0);
}

#define INT_BINARY(function, op)                                              \
	Val function(Builder *b, Val x, Val y)                                \
	{                                                                     \
		return binary(b, op, NULL, type_of(b, x), x, y);              \
	}
INT_BINARY(val_add, "arith.addi")
INT_BINARY(val_sub, "arith.subi")
INT_BINARY(val_mul, "arith.muli")
INT_BINARY(val_div, "arith.divsi")
INT_BINARY(val_rem, "arith.remsi")
INT_BINARY(val_min, "arith.minsi")
INT_BINARY(val_max, "arith.maxsi")
INT_BINARY(val_and, "arith.andi")
INT_BINARY(val_or, "arith.ori")
INT_BINARY(val_xor, "arith.xori")
INT_BINARY(val_shl, "arith.shli")
INT_BINARY(val_shr, "arith.shrui")

/* With a constant on the right; identities emit nothing. */
Val val_add_i32(Builder *b, Val x, int32_t y)
{
	return y == 0 ? x : val_add(b, x, val_i32(b, y));
}

Val val_mul_i32(Builder *b, Val x, int32_t y)
{
	return y == 1 ? x : val_mul(b, x, val_i32(b, y));
}

/* Never negative here, so powers of two become shifts and masks. */
Val val_div_i32(Builder *b, Val x, int32_t y)
{
	return y == 1 ? x : binary(b, "arith.divui", NULL, IR_I32, x, val_i32(b, y));
}

Val val_rem_i32(Builder *b, Val x, int32_t y)
{
	return binary(b, "arith.remui", NULL, IR_I32, x, val_i32(b, y));
}

Val val_to_i64(Builder *b, Val x)
{
	return unary(b, "arith.extsi", NULL, IR_I64, x);
}

Val val_widen_i32(Builder *b, Val x)
{
	return unary(b, "arith.extui", NULL, IR_I64, x);
}

Val val_sign_i32(Builder *b, Val x)
{
	return binary(b, "arith.shrsi", NULL, IR_I32, x, val_i32(b, 31));
}

Val val_low_i32(Builder *b, Val x)
{
	return unary(b, "arith.trunci", NULL, IR_I32, x);
}

Val val_low_i16(Builder *b, Val x)
{
	return unary(b, "arith.trunci", NULL, IR_I16, x);
}

Val val_widen_i16(Builder *b, Val x)
{
	return unary(b, "arith.extui", NULL, IR_I32, x);
}

Val val_high_i32(Builder *b, Val x)
{
	return val_low_i32(b, val_shr(b, x, val_i64(b, 32)));
}

Val val_join_i32(Builder *b, Val low, Val high)
{
	Val wide = unary(b, "arith.extui", NULL, IR_I64, low);
	Val upper = unary(b, "arith.extui", NULL, IR_I64, high);
	return val_or(b, wide, val_shl(b, upper, val_i64(b, 32)));
}

Val val_popc(Builder *b, Val x)
{
	return unary(b, "llvm.intr.ctpop", NULL, IR_I32, x);
}

Val val_compare(Builder *b, IrCompare how, Val x, Val y)
{
	static const char *const predicate[] = {
		[IR_EQ] = "predicate = 0 : i64", [IR_NE] = "predicate = 1 : i64", [IR_LT] = "predicate = 2 : i64",
		[IR_LE] = "predicate = 3 : i64", [IR_GT] = "predicate = 4 : i64", [IR_GE] = "predicate = 5 : i64",
	};
	return binary(b, "arith.cmpi", predicate[how], IR_I1, x, y);
}

Val val_select(Builder *b, Val condition, Val x, Val y)
{
	return ir_op(b, "arith.select", NULL, type_of(b, x), 3, (Val[]){ condition, x, y });
}

/* float32. */

Val val_f32(Builder *b, double value)
{
	if (b->failed)
		return null_val();
	MlirOperationState state = mlirOperationStateGet(str("arith.constant"), b->location);
	MlirNamedAttribute named = mlirNamedAttributeGet(mlirIdentifierGet(b->context, str("value")),
	                                                 mlirFloatAttrDoubleGet(b->context, b->types[IR_F32], (float)value));
	mlirOperationStateAddAttributes(&state, 1, &named);
	mlirOperationStateAddResults(&state, 1, &b->types[IR_F32]);
	return mlirOperationGetResult(finish(b, &state), 0);
}

bool val_is_zero_f32(Val x)
{
	if (val_is_null(x) || !mlirValueIsAOpResult(x))
		return false;
	MlirAttribute value = mlirOperationGetAttributeByName(mlirOpResultGetOwner(x), str("value"));
	return !mlirAttributeIsNull(value) && mlirAttributeIsAFloat(value) && mlirFloatAttrGetValueDouble(value) == 0;
}

static const char contract[] = "fastmath = #arith.fastmath<contract>";
static const char strict[] = "fastmath = #arith.fastmath<none>";

#define FLOAT_BINARY(function, op, flags)                                     \
	Val function(Builder *b, Val x, Val y)                                \
	{                                                                     \
		return binary(b, op, flags, IR_F32, x, y);                    \
	}
FLOAT_BINARY(val_fadd, "arith.addf", contract)
FLOAT_BINARY(val_fsub, "arith.subf", contract)
FLOAT_BINARY(val_fmul, "arith.mulf", contract)
FLOAT_BINARY(val_fmul_alone, "arith.mulf", strict)
FLOAT_BINARY(val_fsub_alone, "arith.subf", strict)
FLOAT_BINARY(val_fdiv, "arith.divf", strict)
FLOAT_BINARY(val_fmin, "arith.minimumf", strict)
FLOAT_BINARY(val_fmax, "arith.maximumf", strict)

Val val_fma(Builder *b, Val x, Val y, Val z)
{
	return ir_op(b, "math.fma", strict, IR_F32, 3, (Val[]){ x, y, z });
}

Val val_fneg(Builder *b, Val x)
{
	return unary(b, "arith.negf", strict, IR_F32, x);
}

Val val_fabs(Builder *b, Val x)
{
	return unary(b, "llvm.intr.fabs", NULL, IR_F32, x);
}

Val val_fsqrt(Builder *b, Val x)
{
	return unary(b, "llvm.intr.sqrt", NULL, IR_F32, x);
}

Val val_fsqrt_near(Builder *b, Val x)
{
	return val_intrinsic(b, "llvm.nvvm.sqrt.approx.f", IR_F32, 1, &x);
}

Val val_finverse_near(Builder *b, Val x)
{
	return val_intrinsic(b, "llvm.nvvm.rcp.approx.ftz.f", IR_F32, 1, &x);
}

Val val_fcompare(Builder *b, IrCompare how, Val x, Val y)
{
	static const char *const predicate[] = {        /* oeq une olt ole ogt oge */
		[IR_EQ] = "predicate = 1 : i64", [IR_NE] = "predicate = 13 : i64", [IR_LT] = "predicate = 4 : i64",
		[IR_LE] = "predicate = 5 : i64", [IR_GT] = "predicate = 2 : i64", [IR_GE] = "predicate = 3 : i64",
	};
	return binary(b, "arith.cmpf", predicate[how], IR_I1, x, y);
}

Val val_funless(Builder *b, IrCompare how, Val x, Val y)
{
	static const char *const predicate[] = {        /* une oeq uge ugt ule ult */
		[IR_EQ] = "predicate = 13 : i64", [IR_NE] = "predicate = 1 : i64", [IR_LT] = "predicate = 10 : i64",
		[IR_LE] = "predicate = 9 : i64", [IR_GT] = "predicate = 12 : i64", [IR_GE] = "predicate = 11 : i64",
	};
	return binary(b, "arith.cmpf", predicate[how], IR_I1, x, y);
}

Val val_i32_to_f32(Builder *b, Val x)
{
	return unary(b, "arith.sitofp", NULL, IR_F32, x);
}

Val val_floor_i32(Builder *b, Val x)
{
	return val_intrinsic(b, "llvm.nvvm.f2i.rm", IR_I32, 1, &x);
}

Val val_low_bytes(Builder *b, const Val x[4])
{
	Val pair = val_i32(b, 0x0040), both = val_i32(b, 0x5410);      /* which bytes, of the first and the second operand */
	Val low = val_intrinsic(b, "llvm.nvvm.prmt", IR_I32, 3, (Val[]){ x[0], x[1], pair });
	Val high = val_intrinsic(b, "llvm.nvvm.prmt", IR_I32, 3, (Val[]){ x[2], x[3], pair });
	return val_intrinsic(b, "llvm.nvvm.prmt", IR_I32, 3, (Val[]){ low, high, both });
}

Val val_bitcast(Builder *b, Val x, IrType type)
{
	return unary(b, "llvm.bitcast", NULL, type, x);
}

Val val_intrinsic(Builder *b, const char *name, IrType type, int count, const Val *operands)
{
	const char *attrs = arena_printf(b->arena, "intrin = \"%s\", op_bundle_sizes = array<i32>, "
	                                 "operandSegmentSizes = array<i32: %d, 0>", name, count);
	return ir_op(b, "llvm.call_intrinsic", attrs, type, count, operands);
}

/* Memory. */

Val val_offset(Builder *b, Val pointer, Val bytes)
{
	return binary(b, "llvm.getelementptr", "elem_type = i8, noWrapFlags = 0 : i32, "
	              "rawConstantIndices = array<i32: -2147483648>", type_of(b, pointer), pointer, bytes);
}

Val val_offset_const(Builder *b, Val pointer, int64_t bytes)
{
	if (bytes == 0)
		return pointer;
	if (bytes != (int32_t)bytes || bytes == INT32_MIN)
		return val_offset(b, pointer, val_i64(b, bytes));
	return unary(b, "llvm.getelementptr", arena_printf(b->arena, "elem_type = i8, noWrapFlags = 0 : i32, "
	             "rawConstantIndices = array<i32: %d>", (int)bytes), type_of(b, pointer), pointer);
}

static const char *alignment(IrType type)
{
	switch (type) {
	case IR_I16: case IR_F16: case IR_BF16:
		return "alignment = 2 : i64, ordering = 0 : i64";
	case IR_V4I32:
		return "alignment = 16 : i64, ordering = 0 : i64";
	case IR_I64: case IR_V2F32: case IR_V2I32: case IR_GLOBAL: case IR_POINTER:
		return "alignment = 8 : i64, ordering = 0 : i64";
	default:
		return "alignment = 4 : i64, ordering = 0 : i64";
	}
}

Val val_load(Builder *b, Val pointer, IrType type)
{
	return unary(b, "llvm.load", alignment(type), type, pointer);
}

void val_store(Builder *b, Val pointer, Val value)
{
	binary(b, "llvm.store", alignment(type_of(b, value)), IR_TYPE_COUNT, value, pointer);
}

Val val_extract(Builder *b, Val structure, int index, IrType type)
{
	return unary(b, "llvm.extractvalue", arena_printf(b->arena, "position = array<i64: %d>", index), type, structure);
}

Val val_vector_get(Builder *b, Val vector, int index, IrType type)
{
	return binary(b, "llvm.extractelement", NULL, type, vector, val_i32(b, index));
}

Val val_vector_pair(Builder *b, Val x, Val y, IrType type)
{
	Val none = ir_op(b, "llvm.mlir.poison", NULL, type, 0, NULL);
	Val zero = val_i32(b, 0), one = val_i32(b, 1);
	Val half = ir_op(b, "llvm.insertelement", NULL, type, 3, (Val[]){ none, x, zero });
	return ir_op(b, "llvm.insertelement", NULL, type, 3, (Val[]){ half, y, one });
}

Val val_vector_four(Builder *b, const Val x[4])
{
	Val vector = ir_op(b, "llvm.mlir.poison", NULL, IR_V4I32, 0, NULL);
	for (int i = 0; i < 4; i++) {
		Val at = val_i32(b, i);
		vector = ir_op(b, "llvm.insertelement", NULL, IR_V4I32, 3, (Val[]){ vector, x[i], at });
	}
	return vector;
}

Val val_is_null_pointer(Builder *b, Val pointer)
{
	Val null = ir_op(b, "llvm.mlir.zero", NULL, IR_GLOBAL, 0, NULL);
	return binary(b, "llvm.icmp", "predicate = 0 : i64", IR_I1, pointer, null);
}
