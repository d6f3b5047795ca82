/*
 * NVVM dialect to LLVM IR to PTX text, through LLVM's C API.
 *
 * LLVM reports what it cannot do (an intrinsic that the target lacks) through a fatal-error handler after which it ends the
 * process. The handler here jumps back to the call instead. LLVM's data is then in an unknown state, so the module it
 * worked on is never touched or freed again: the tool is about to end with an internal failure anyway.
 */
#include "lower.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <llvm-c/Analysis.h>
#include <llvm-c/Core.h>
#include <llvm-c/Error.h>
#include <llvm-c/ErrorHandling.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <mlir-c/Target/LLVMIR.h>

#define TRIPLE "nvptx64-nvidia-cuda"

/* The templates unroll what should be unrolled, vectorise by hand and leave scheduling to ptxas, so that little is left to
 * do: fold, drop the dead, hoist. Measured on the shipped specs against "default<O3>": a quarter of its time, and as
 * many registers or fewer (forward of tda_f32: 127 instead of 163), since values live shorter. */
static const char llvm_passes[] =
	"function(early-cse,instcombine<no-verify-fixpoint>,simplifycfg,loop-mssa(licm),early-cse<memssa>,adce)";

struct LlvmModule {
	LLVMContextRef context;
	LLVMModuleRef module;
	LLVMTargetMachineRef machine;
	bool abandoned;                    /* a fatal error left it half changed */
};

static const Loc nowhere = { 0, 0 };

/* Where the fatal-error handler of this thread jumps; NULL outside of guarded calls. */
static _Thread_local jmp_buf *fatal_return;
static _Thread_local char fatal_reason[1000];

static void on_fatal_error(const char *reason)
{
	if (!fatal_return)
		return;                    /* not ours: LLVM goes on to end the process */
	strncpy(fatal_reason, reason, sizeof fatal_reason - 1);
	longjmp(*fatal_return, 1);
}

static void initialize_llvm(void)
{
	LLVMInitializeNVPTXTargetInfo();
	LLVMInitializeNVPTXTarget();
	LLVMInitializeNVPTXTargetMC();
	LLVMInitializeNVPTXAsmPrinter();
	LLVMInstallFatalErrorHandler(on_fatal_error);
}

static void collect_diagnostic(LLVMDiagnosticInfoRef info, void *user)
{
	Diag *diag = user;

	if (LLVMGetDiagInfoSeverity(info) != LLVMDSError)
		return;
	char *text = LLVMGetDiagInfoDescription(info);

	diag_internal(diag, nowhere, "LLVM: %s", text);
	LLVMDisposeMessage(text);
}

/* Runs step(module, argument); a fatal error of LLVM becomes a diagnostic and false. */
static bool guarded(LlvmModule *module, Diag *diag, bool (*step)(LlvmModule *, Diag *, void *), void *argument)
{
	jmp_buf here;
	int errors = diag_error_count(diag);

	LLVMContextSetDiagnosticHandler(module->context, collect_diagnostic, diag);
	if (setjmp(here)) {
		fatal_return = NULL;
		module->abandoned = true;
		diag_internal(diag, nowhere, "LLVM: %s", fatal_reason);
		return false;
	}
	fatal_return = &here;
	bool ok = step(module, diag, argument);

	fatal_return = NULL;
	return ok && diag_error_count(diag) == errors;
}

static MlirOperation find_gpu_module(MlirModule module)
{
	MlirOperation op = mlirBlockGetFirstOperation(mlirModuleGetBody(module));
	MlirStringRef wanted = mlirStringRefCreateFromCString("gpu.module");

	while (!mlirOperationIsNull(op) && !mlirStringRefEqual(mlirIdentifierStr(mlirOperationGetName(op)), wanted))
		op = mlirOperationGetNextInBlock(op);
	return op;
}

static bool make_target_machine(LlvmModule *module, Diag *diag, Target target)
{
	LLVMTargetRef nvptx;
	char *error = NULL;

	if (LLVMGetTargetFromTriple(TRIPLE, &nvptx, &error)) {
		diag_internal(diag, nowhere, "this LLVM has no NVPTX back end: %s", error);
		LLVMDisposeMessage(error);
		return false;
	}
	module->machine = LLVMCreateTargetMachine(nvptx, TRIPLE, target_name(target), target_features(target),
		LLVMCodeGenLevelDefault, LLVMRelocDefault, LLVMCodeModelDefault);
	return true;
}

static bool verify(LlvmModule *module, Diag *diag, const char *when)
{
	char *error = NULL;
	bool broken = LLVMVerifyModule(module->module, LLVMReturnStatusAction, &error);

	if (broken)
		diag_internal(diag, nowhere, "the LLVM IR is not valid %s: %s", when, error);
	LLVMDisposeMessage(error);
	return !broken;
}

static bool translate(LlvmModule *module, Diag *diag, void *argument)
{
	MlirOperation gpu_module = find_gpu_module(*(MlirModule *)argument);

	if (mlirOperationIsNull(gpu_module)) {
		diag_internal(diag, nowhere, "no gpu.module to translate");
		return false;
	}
	module->module = mlirTranslateModuleToLLVMIR(gpu_module, module->context);
	if (!module->module) {
		diag_internal(diag, nowhere, "MLIR could not translate the kernels to LLVM IR");
		return false;
	}
	LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(module->machine);

	LLVMSetTarget(module->module, TRIPLE);
	LLVMSetModuleDataLayout(module->module, layout);
	LLVMDisposeTargetData(layout);
	return verify(module, diag, "as translated");
}

static bool optimize(LlvmModule *module, Diag *diag, void *argument)
{
	LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();

	(void)argument;
	LLVMErrorRef error = LLVMRunPasses(module->module, llvm_passes, module->machine, options);

	LLVMDisposePassBuilderOptions(options);
	if (error) {
		char *text = LLVMGetErrorMessage(error);

		diag_internal(diag, nowhere, "LLVM does not take the passes %s: %s", llvm_passes, text);
		LLVMDisposeErrorMessage(text);
	}
	return !error && verify(module, diag, "after LLVM's passes");
}

LlvmModule *lower_to_llvm(MlirModule mlir, Diag *diag, Target target)
{
	static pthread_once_t llvm_initialized = PTHREAD_ONCE_INIT;
	LlvmModule *module = calloc(1, sizeof *module);

	if (!module) {
		diag_internal(diag, nowhere, "out of memory");
		return NULL;
	}
	pthread_once(&llvm_initialized, initialize_llvm);
	module->context = LLVMContextCreate();
	if (make_target_machine(module, diag, target) && guarded(module, diag, translate, &mlir) &&
			guarded(module, diag, optimize, NULL))
		return module;
	llvm_module_free(module);
	return NULL;
}

char *llvm_module_print(Arena *arena, const LlvmModule *module)
{
	char *text = LLVMPrintModuleToString(module->module);
	char *copy = arena_strdup(arena, text);

	LLVMDisposeMessage(text);
	return copy;
}

static bool emit(LlvmModule *module, Diag *diag, void *argument)
{
	LLVMMemoryBufferRef *ptx = argument;
	char *error = NULL;

	if (!LLVMTargetMachineEmitToMemoryBuffer(module->machine, module->module, LLVMAssemblyFile, &error, ptx))
		return true;
	diag_internal(diag, nowhere, "LLVM could not write PTX: %s", error);
	LLVMDisposeMessage(error);
	return false;
}

char *lower_to_ptx(Arena *arena, Diag *diag, LlvmModule *module)
{
	LLVMMemoryBufferRef buffer = NULL;
	char *ptx = NULL;

	if (guarded(module, diag, emit, &buffer))
		ptx = arena_strndup(arena, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
	if (buffer)
		LLVMDisposeMemoryBuffer(buffer);
	return ptx;
}

void llvm_module_free(LlvmModule *module)
{
	if (!module)
		return;
	if (!module->abandoned) {
		if (module->module)
			LLVMDisposeModule(module->module);
		if (module->machine)
			LLVMDisposeTargetMachine(module->machine);
		LLVMContextDispose(module->context);
	}
	free(module);
}
