/* From MLIR to machine code: contexts, pass pipelines, LLVM and ptxas. The only users of pass names. */
#ifndef TDAGEN_LOWER_H
#define TDAGEN_LOWER_H

#include <mlir-c/IR.h>
#include "arena.h"
#include "diag.h"
#include "plan.h"

/* A single-threaded context with just the dialects and translations that tdagen needs; MLIR's own diagnostics go to
 * diag as internal failures. Destroyed with mlirContextDestroy. */
MlirContext lower_context_new(Diag *diag);

/* An attribute of a gpu.func, array<i32>: its arguments that are tensor maps. They are built as pointers, and become 128 bytes of the
 * kernel's parameters, which bulk copies take the address of. */
#define LOWER_MAPS "tdagen.maps"

/* gpu dialect to NVVM dialect, in place. */
bool lower_to_nvvm(MlirModule module, Diag *diag, bool line_info);

typedef struct LlvmModule LlvmModule;
/* NVVM dialect to LLVM IR, optimised for the target. NULL after a diagnostic. */
LlvmModule *lower_to_llvm(MlirModule module, Diag *diag, Target target);
char *llvm_module_print(Arena *arena, const LlvmModule *module);
/* PTX text, without a manifest. */
char *lower_to_ptx(Arena *arena, Diag *diag, LlvmModule *module);
void llvm_module_free(LlvmModule *module);

/* What ptxas says of one kernel. */
typedef struct KernelUsage {
	const char *entry;
	int registers, stack_bytes, spill_store_bytes, spill_load_bytes, static_shared_bytes;
} KernelUsage;

/* ptxas as found in PATH or CUDA_HOME; NULL when there is none. In the arena. */
char *ptxas_find(Arena *arena);
/* Assembles PTX for `chip` (sm_80, sm_120 ...). *cubin may be NULL when only the usage is wanted. False after a diagnostic. */
bool ptxas_run(Arena *arena, Diag *diag, const char *ptx, const char *chip, unsigned char **cubin, size_t *cubin_size,
               KernelUsage **usage, int *usage_count);

#endif
