/*
 * MLIR to the NVVM dialect: the context and the pass pipelines, which are textual so that a person can replay them
 * with mlir-opt.
 *
 * On entry: one builtin.module holding one gpu.module of gpu.func kernels. On exit: the same gpu.module holding llvm.func
 * with nvvm.kernel set, and nothing but the llvm and nvvm dialects.
 */
#include "lower.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <mlir-c/BuiltinAttributes.h>
#include <mlir-c/Conversion.h>
#include <mlir-c/Diagnostics.h>
#include <mlir-c/Dialect/Arith.h>
#include <mlir-c/Dialect/ControlFlow.h>
#include <mlir-c/Dialect/GPU.h>
#include <mlir-c/Dialect/LLVM.h>
#include <mlir-c/Dialect/Math.h>
#include <mlir-c/Dialect/NVVM.h>
#include <mlir-c/Dialect/SCF.h>
#include <mlir-c/Dialect/Vector.h>
#include <mlir-c/Pass.h>
#include <mlir-c/Support.h>
#include <mlir-c/Transforms.h>
#include <mlir/Dialect/LLVMIR/Transforms/Passes.capi.h.inc>

#include "mlir_register.h"

/* The dialects that templates build, and what their lowering passes through. */
static MlirDialectHandle (*const dialects[])(void) = {
	mlirGetDialectHandle__arith__, mlirGetDialectHandle__cf__, mlirGetDialectHandle__gpu__, mlirGetDialectHandle__llvm__,
	mlirGetDialectHandle__math__, mlirGetDialectHandle__nvvm__, mlirGetDialectHandle__scf__,
	mlirGetDialectHandle__vector__,
};

/* The passes that the pipelines below name; MLIR keeps them in a table of the whole process. */
static void register_passes(void)
{
	mlirRegisterTransformsCSE();
	mlirRegisterConversionSCFToControlFlowPass();
	mlirRegisterConversionConvertGpuOpsToNVVMOps();
	mlirRegisterConversionConvertNVVMToLLVMPass();
	mlirRegisterConversionReconcileUnrealizedCastsPass();
	mlirRegisterLLVMDIScopeForLLVMFuncOpPass();
}

/* No canonicalization: it took two thirds of this stage's time, and LLVM does the same faster. */
static const char pipeline_nvvm[] =
	"builtin.module(gpu.module("
		"cse,"
		"convert-scf-to-cf,"
		"convert-gpu-to-nvvm{use-bare-ptr-memref-call-conv=true index-bitwidth=64},"
		"convert-nvvm-to-llvm,"
		"reconcile-unrealized-casts))";

static const char pipeline_line_info[] =
	"builtin.module(ensure-debug-info-scope-on-llvm-func{emission-kind=DebugDirectivesOnly})";

/* Math ops that the hardware has. convert-gpu-to-nvvm would turn them into calls of CUDA's libdevice, and refuses the
 * llvm.intr ops of the same meaning; llvm.call_intrinsic passes through it untouched. Fast-math flags are dropped. */
static const struct MathIntrinsic {
	const char *op, *intrinsic;
} math_intrinsics[] = {
	{ "math.absf", "llvm.fabs" },
	{ "math.ceil", "llvm.ceil" },
	{ "math.copysign", "llvm.copysign" },
	{ "math.floor", "llvm.floor" },
	{ "math.fma", "llvm.fma" },
	{ "math.roundeven", "llvm.roundeven" },
	{ "math.sqrt", "llvm.sqrt" },
	{ "math.trunc", "llvm.trunc" },
	{ "llvm.intr.ceil", "llvm.ceil" },
	{ "llvm.intr.copysign", "llvm.copysign" },
	{ "llvm.intr.fabs", "llvm.fabs" },
	{ "llvm.intr.floor", "llvm.floor" },
	{ "llvm.intr.roundeven", "llvm.roundeven" },
	{ "llvm.intr.sqrt", "llvm.sqrt" },
};

enum { MESSAGE_MAX = 2000 };           /* bytes of a diagnostic that are kept: MLIR quotes whole operations */

typedef struct Message {
	char text[MESSAGE_MAX];
	size_t length;
} Message;

static MlirStringRef string_ref(const char *text)
{
	return mlirStringRefCreateFromCString(text);
}

static void message_append(MlirStringRef part, void *user)
{
	Message *message = user;
	size_t room = sizeof message->text - 1 - message->length;
	size_t length = part.length < room ? part.length : room;

	memcpy(message->text + message->length, part.data, length);
	message->length += length;
}

/* The spec's line inside an MLIR location; the first one when several were fused. */
static Loc loc_of(MlirLocation location)
{
	while (!mlirLocationIsAFileLineColRange(location)) {
		if (mlirLocationIsAName(location)) {
			location = mlirLocationNameGetChildLoc(location);
		} else if (mlirLocationIsACallSite(location)) {
			location = mlirLocationCallSiteGetCallee(location);
		} else {
			return (Loc){ 0, 0 };
		}
	}
	return (Loc){ mlirLocationFileLineColRangeGetStartLine(location),
		mlirLocationFileLineColRangeGetStartColumn(location) };
}

static MlirLogicalResult collect_diagnostic(MlirDiagnostic diagnostic, void *user)
{
	Message message = { .length = 0 };
	Diag *diag = user;
	Loc loc = loc_of(mlirDiagnosticGetLocation(diagnostic));

	mlirDiagnosticPrint(diagnostic, message_append, &message);
	if (mlirDiagnosticGetSeverity(diagnostic) != MlirDiagnosticError)
		return mlirLogicalResultSuccess();
	diag_internal(diag, loc, "MLIR: %s", message.text);
	for (intptr_t i = 0; i < mlirDiagnosticGetNumNotes(diagnostic); i++) {
		Message note = { .length = 0 };
		MlirDiagnostic attached = mlirDiagnosticGetNote(diagnostic, i);

		mlirDiagnosticPrint(attached, message_append, &note);
		diag_note(diag, loc_of(mlirDiagnosticGetLocation(attached)), "%s", note.text);
	}
	return mlirLogicalResultSuccess();
}

MlirContext lower_context_new(Diag *diag)
{
	static pthread_once_t passes_registered = PTHREAD_ONCE_INIT;
	MlirDialectRegistry registry = mlirDialectRegistryCreate();
	MlirContext context = mlirContextCreateWithThreading(false);

	pthread_once(&passes_registered, register_passes);
	for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
		mlirDialectHandleInsertDialect(dialects[i](), registry);
	mlir_register_interfaces(registry);
	mlirContextAppendDialectRegistry(context, registry);
	mlirDialectRegistryDestroy(registry);
	mlirContextLoadAllAvailableDialects(context);
	mlirContextAttachDiagnosticHandler(context, collect_diagnostic, diag, NULL);
	return context;
}

static void set_attribute(MlirOperationState *state, MlirContext context, const char *name, MlirAttribute value)
{
	MlirNamedAttribute attribute = mlirNamedAttributeGet(mlirIdentifierGet(context, string_ref(name)), value);

	mlirOperationStateAddAttributes(state, 1, &attribute);
}

static void replace_by_intrinsic(MlirOperation op, const char *intrinsic)
{
	enum { MAX_OPERANDS = 3 };
	MlirContext context = mlirOperationGetContext(op);
	MlirOperationState state = mlirOperationStateGet(string_ref("llvm.call_intrinsic"), mlirOperationGetLocation(op));
	MlirValue operands[MAX_OPERANDS];
	int32_t count = 0;

	for (; count < mlirOperationGetNumOperands(op) && count < MAX_OPERANDS; count++)
		operands[count] = mlirOperationGetOperand(op, count);
	int32_t segments[2] = { count, 0 };            /* the arguments, and no operand bundles */
	MlirType type = mlirValueGetType(mlirOperationGetResult(op, 0));

	mlirOperationStateAddOperands(&state, count, operands);
	mlirOperationStateAddResults(&state, 1, &type);
	set_attribute(&state, context, "intrin", mlirStringAttrGet(context, string_ref(intrinsic)));
	set_attribute(&state, context, "op_bundle_sizes", mlirDenseI32ArrayGet(context, 0, NULL));
	set_attribute(&state, context, "operandSegmentSizes", mlirDenseI32ArrayGet(context, 2, segments));
	MlirOperation call = mlirOperationCreate(&state);

	mlirBlockInsertOwnedOperationBefore(mlirOperationGetBlock(op), op, call);
	mlirValueReplaceAllUsesOfWith(mlirOperationGetResult(op, 0), mlirOperationGetResult(call, 0));
	mlirOperationDestroy(op);
}

static MlirWalkResult lower_math(MlirOperation op, void *user)
{
	(void)user;
	MlirStringRef name = mlirIdentifierStr(mlirOperationGetName(op));

	for (size_t i = 0; i < sizeof math_intrinsics / sizeof *math_intrinsics; i++) {
		if (mlirStringRefEqual(name, string_ref(math_intrinsics[i].op))) {
			replace_by_intrinsic(op, math_intrinsics[i].intrinsic);
			break;
		}
	}
	return MlirWalkResultAdvance;
}

static bool run_pipeline(MlirModule module, Diag *diag, const char *pipeline)
{
	MlirPassManager manager = mlirPassManagerCreate(mlirModuleGetContext(module));
	int errors = diag_error_count(diag);
	Message message = { .length = 0 };
	bool ok = false;

	/* Verified below, once: between passes it takes a third longer. */
	mlirPassManagerEnableVerifier(manager, false);
	if (mlirLogicalResultIsFailure(mlirParsePassPipeline(mlirPassManagerGetAsOpPassManager(manager),
			string_ref(pipeline), message_append, &message))) {
		diag_internal(diag, (Loc){ 0, 0 }, "MLIR does not take the pass pipeline: %s", message.text);
	} else if (mlirLogicalResultIsFailure(mlirPassManagerRunOnOp(manager, mlirModuleGetOperation(module)))) {
		if (diag_error_count(diag) == errors)
			diag_internal(diag, (Loc){ 0, 0 }, "an MLIR pass failed without saying why");
		diag_note(diag, (Loc){ 0, 0 }, "the passes were %s", pipeline);
	} else if (!mlirOperationVerify(mlirModuleGetOperation(module))) {
		diag_internal(diag, (Loc){ 0, 0 }, "the IR is not valid after the passes %s", pipeline);
	} else {
		ok = true;
	}
	mlirPassManagerDestroy(manager);
	return ok;
}

/* gpu.func would refuse or lose these attributes, so they are set once it has become llvm.func. */
static MlirWalkResult mark_maps(MlirOperation op, void *user)
{
	MlirContext context = mlirOperationGetContext(op);
	MlirAttribute maps = mlirOperationGetDiscardableAttributeByName(op, string_ref(LOWER_MAPS));

	if (mlirAttributeIsNull(maps))
		return MlirWalkResultAdvance;
	MlirBlock entry = mlirRegionGetFirstBlock(mlirOperationGetRegion(op, 0));
	intptr_t count = mlirBlockGetNumArguments(entry);
	MlirAttribute *attrs = malloc(sizeof *attrs * (size_t)(count + 1));

	if (!attrs) {
		diag_internal(user, (Loc){ 0, 0 }, "out of memory");
		return MlirWalkResultInterrupt;
	}
	for (intptr_t i = 0; i < count; i++)
		attrs[i] = mlirAttributeParseGet(context, string_ref("{}"));
	for (intptr_t i = 0; i < mlirDenseArrayGetNumElements(maps); i++)
		attrs[mlirDenseI32ArrayGetElement(maps, i)] = mlirAttributeParseGet(context, string_ref(
			"{llvm.align = 64 : i64, llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant}"));
	mlirOperationSetAttributeByName(op, string_ref("arg_attrs"), mlirArrayAttrGet(context, count, attrs));
	mlirOperationRemoveDiscardableAttributeByName(op, string_ref(LOWER_MAPS));
	free(attrs);
	return MlirWalkResultAdvance;
}

bool lower_to_nvvm(MlirModule module, Diag *diag, bool line_info)
{
	mlirOperationWalk(mlirModuleGetOperation(module), lower_math, NULL, MlirWalkPostOrder);
	if (!run_pipeline(module, diag, pipeline_nvvm))
		return false;
	int errors = diag_error_count(diag);
	mlirOperationWalk(mlirModuleGetOperation(module), mark_maps, diag, MlirWalkPreOrder);
	if (diag_error_count(diag) > errors)
		return false;
	return !line_info || run_pipeline(module, diag, pipeline_line_info);
}
