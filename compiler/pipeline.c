/* The stages of a compilation: one table, run in order, each able to print what it made. */
#include "pipeline.h"

#include <string.h>
#include <time.h>

#include "../templates/kernels.h"
#include "manifest.h"

static const Loc nowhere = { 0, 0 };

static bool run_spec(Compilation *c)
{
	c->spec = spec_load(c->arena, c->diag, c->path, c->source, c->length, c->settings, c->setting_count);
	return c->spec != NULL;
}

static void print_spec(Compilation *c, FILE *out)
{
	spec_print(c->spec, out);
}

static void print_expr(Compilation *c, FILE *out)
{
	spec_print_expressions(c->spec, out);
}

static bool run_plan(Compilation *c)
{
	if (c->plan_options.kind == PLAN_COUNT)
		spec_params_by_head(c->spec);
	c->plan = plan_make(c->arena, c->diag, c->spec, c->plan_options);
	return c->plan != NULL;
}

static void print_plan(Compilation *c, FILE *out)
{
	plan_print(c->plan, out);
}

static bool run_mlir(Compilation *c)
{
	c->context = lower_context_new(c->diag);
	c->module = kernels_build(c->context, c->arena, c->diag, c->spec, c->plan);
	if (mlirModuleIsNull(c->module))
		return false;
	if (mlirOperationVerify(mlirModuleGetOperation(c->module)))
		return true;
	diag_internal(c->diag, nowhere, "the kernels as built are not valid MLIR");
	return false;
}

static void write_part(MlirStringRef part, void *out)
{
	fwrite(part.data, 1, part.length, out);
}

/* With --lineinfo, operations are printed with the Lua lines they come from. */
static void print_module(Compilation *c, FILE *out)
{
	MlirOpPrintingFlags flags = mlirOpPrintingFlagsCreate();

	mlirOpPrintingFlagsEnableDebugInfo(flags, c->plan_options.line_info, false);
	mlirOperationPrintWithFlags(mlirModuleGetOperation(c->module), flags, write_part, out);
	mlirOpPrintingFlagsDestroy(flags);
	fputc('\n', out);
}

static bool run_nvvm(Compilation *c)
{
	return lower_to_nvvm(c->module, c->diag, c->plan_options.line_info);
}

static bool run_llvm(Compilation *c)
{
	c->llvm = lower_to_llvm(c->module, c->diag, c->plan_options.target);
	return c->llvm != NULL;
}

static void print_llvm(Compilation *c, FILE *out)
{
	fputs(llvm_module_print(c->arena, c->llvm), out);
}

static bool run_ptx(Compilation *c)
{
	char *body = lower_to_ptx(c->arena, c->diag, c->llvm);

	if (body)
		c->ptx = manifest_attach(c->arena, c->spec, c->plan, body);
	return c->ptx != NULL;
}

static void print_ptx(Compilation *c, FILE *out)
{
	fputs(c->ptx, out);
}

static bool run_cubin(Compilation *c)
{
	KernelUsage *usage;
	int count;

	return ptxas_run(c->arena, c->diag, c->ptx, target_name(c->plan_options.target), &c->cubin, &c->cubin_size, &usage,
		&count);
}

static void print_cubin(Compilation *c, FILE *out)
{
	fwrite(c->cubin, 1, c->cubin_size, out);
}

const Stage pipeline_stages[STAGE_COUNT] = {
	[STAGE_SPEC]  = { "spec",  "txt",   "the spec with every default filled in", run_spec, print_spec },
	[STAGE_EXPR]  = { "expr",  "txt",   "its formulas, derivatives and proofs", NULL, print_expr },
	[STAGE_PLAN]  = { "plan",  "txt",   "kernels, tiles, buffers and launches", run_plan, print_plan },
	[STAGE_MLIR]  = { "mlir",  "mlir",  "the kernels as the templates build them", run_mlir, print_module },
	[STAGE_NVVM]  = { "nvvm",  "mlir",  "the same in the LLVM and NVVM dialects", run_nvvm, print_module },
	[STAGE_LLVM]  = { "llvm",  "ll",    "LLVM IR, optimised", run_llvm, print_llvm },
	[STAGE_PTX]   = { "ptx",   "ptx",   "PTX with its manifest: the artifact", run_ptx, print_ptx },
	[STAGE_CUBIN] = { "cubin", "cubin", "machine code, by ptxas", run_cubin, print_cubin },
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

bool pipeline_run(Compilation *c, StageId last, bool (*after)(Compilation *c, StageId stage, void *user), void *user)
{
	for (int id = 0; id <= (int)last; id++) {
		int errors = diag_error_count(c->diag);
		double start = now();
		bool ok = !pipeline_stages[id].run || pipeline_stages[id].run(c);

		c->seconds[id] = now() - start;
		if (!ok && diag_error_count(c->diag) == errors)
			diag_internal(c->diag, nowhere, "stage %s failed without saying why", pipeline_stages[id].name);
		if (!ok || (after && !after(c, (StageId)id, user)))
			return false;
	}
	return true;
}

void pipeline_end(Compilation *c)
{
	llvm_module_free(c->llvm);
	if (c->module.ptr)
		mlirModuleDestroy(c->module);
	if (c->context.ptr)
		mlirContextDestroy(c->context);
	c->llvm = NULL;
	c->module.ptr = NULL;
	c->context.ptr = NULL;
}
