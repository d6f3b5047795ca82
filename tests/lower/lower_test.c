/*
 * Lowers hand-written MLIR and looks at the PTX: that the instructions meant are there, that attributes of kernels survive,
 * that what cannot be lowered is a diagnostic and not the end of the process, and that equal input gives equal bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lower.h"

static int passed, failed;

static void expect(bool ok, const char *what)
{
	if (ok) {
		passed++;
	} else {
		failed++;
		printf("FAILED: %s\n", what);
	}
}

static char *read_text(Arena *arena, const char *folder, const char *name)
{
	FILE *file = fopen(arena_printf(arena, "%s/%s", folder, name), "rb");
	enum { MAX = 1 << 20 };
	char *text = arena_alloc(arena, MAX);

	if (!file) {
		perror(name);
		exit(2);
	}
	text[fread(text, 1, MAX - 1, file)] = '\0';
	fclose(file);
	return text;
}

/* PTX of MLIR text, or NULL; *llvm (if wanted) is the optimised LLVM IR. */
static char *lower(Arena *arena, Diag *diag, const char *text, bool line_info, char **llvm)
{
	MlirContext context = lower_context_new(diag);
	MlirModule module = mlirModuleCreateParse(context, mlirStringRefCreateFromCString(text));
	LlvmModule *lowered = NULL;
	char *ptx = NULL;

	if (!mlirModuleIsNull(module) && lower_to_nvvm(module, diag, line_info) &&
			(lowered = lower_to_llvm(module, diag, TARGET_SM_80))) {
		if (llvm)
			*llvm = llvm_module_print(arena, lowered);
		ptx = lower_to_ptx(arena, diag, lowered);
	}
	llvm_module_free(lowered);
	if (!mlirModuleIsNull(module))
		mlirModuleDestroy(module);
	mlirContextDestroy(context);
	return ptx;
}

static void test_instructions(Arena *arena, Diag *diag, const char *text)
{
	static const char *const wanted[] = {
		".version 8.0", ".target sm_80", ".visible .entry scalar(", ".visible .entry matrix(", ".reqntid 128",
		".minnctapersm 2", ".maxntid 32", ".extern .shared .align 1024 .b8 shared[]", "abs.f32", "cvt.rmi.f32.f32",
		"sqrt.rn.f32", "fma.rn.f32", "ex2.approx.ftz.f32", "max.NaN.f32", "div.rn.f32", "st.global.f32", "bar",
		"cp.async.cg.shared.global", "cp.async.commit_group", "cp.async.wait_group",
		"ldmatrix.sync.aligned.m8n8.x4.shared.b16", "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16",
		"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
		"shfl.sync.bfly.b32", "vote.sync.any.pred", "vote.sync.ballot.b32", "cvt.rn.bf16x2.f32",
	};
	static const char *const unwanted[] = { "call.uni", "__nv_", ".local", "mad.rn", ".loc" };
	char *llvm = NULL;
	char *ptx = lower(arena, diag, text, false, &llvm);

	diag_print(diag, stdout);
	expect(ptx != NULL, "kernels.mlir lowers to PTX");
	if (!ptx)
		return;
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
		expect(strstr(ptx, wanted[i]), wanted[i]);
	for (size_t i = 0; i < sizeof unwanted / sizeof *unwanted; i++)
		expect(!strstr(ptx, unwanted[i]), arena_printf(arena, "no %s in the PTX", unwanted[i]));
	expect(strstr(llvm, "ptx_kernel void @scalar("), "the LLVM IR has the kernel");
	if (failed)
		puts(ptx);

	char *again = lower(arena, diag, text, false, NULL);

	expect(again && strcmp(ptx, again) == 0, "the same input gives the same PTX");
}

static void test_line_info(Arena *arena, Diag *diag, const char *text)
{
	char *ptx = lower(arena, diag, text, true, NULL);

	expect(ptx && strstr(ptx, ".loc\t"), "line information gives .loc lines");
	expect(ptx && strstr(ptx, ".file\t"), "line information gives a .file line");
}

static void test_refusal(Arena *arena, const char *text, const char *what, const char *wanted)
{
	Diag *diag = diag_new(arena, "test.mlir", NULL);
	char *ptx = lower(arena, diag, text, false, NULL);
	char *report = NULL;
	size_t size = 0;
	FILE *memory = open_memstream(&report, &size);

	expect(!ptx, arena_printf(arena, "%s gives no PTX", what));
	expect(diag_has_internal(diag), arena_printf(arena, "%s is an internal failure", what));
	diag_print(diag, memory);
	fclose(memory);
	expect(strstr(report, wanted), arena_printf(arena, "%s is reported as '%s', not as:\n%s", what, wanted, report));
	free(report);
}

static void test_ptxas(Arena *arena, Diag *diag, const char *text)
{
	KernelUsage *usage;
	unsigned char *cubin;
	size_t size;
	int count;
	char *ptx = lower(arena, diag, text, true, NULL);

	if (!ptxas_find(arena)) {
		puts("ptxas was not found: its tests are left out");
		return;
	}
	bool ok = ptx && ptxas_run(arena, diag, ptx, "sm_80", &cubin, &size, &usage, &count);

	expect(ok, "ptxas takes the PTX");
	if (!ok)
		return;
	expect(size > 4 && memcmp(cubin, "\177ELF", 4) == 0, "the cubin is an ELF file");
	expect(count == 2, "both kernels' usage is found");
	for (int i = 0; i < count; i++) {
		expect(usage[i].registers > 0, "registers are reported");
		expect(usage[i].stack_bytes == 0 && usage[i].spill_store_bytes == 0, "no spills");
	}
	expect(!ptxas_run(arena, diag, "no PTX at all", "sm_80", NULL, NULL, &usage, &count), "ptxas refuses nonsense");
	expect(diag_has_internal(diag), "which is an internal failure");
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
		return 2;
	}
	Arena *arena = arena_new();
	Diag *diag = diag_new(arena, "kernels.mlir", NULL);
	char *kernels = read_text(arena, argv[1], "kernels.mlir");

	test_instructions(arena, diag, kernels);
	test_line_info(arena, diag, kernels);
	test_ptxas(arena, diag, kernels);
	test_refusal(arena, read_text(arena, argv[1], "cannot_select.mlir"), "an instruction that sm_80 lacks",
		"Cannot select");
	test_refusal(arena, read_text(arena, argv[1], "not_lowerable.mlir"), "a cast that nothing resolves",
		"unrealized_conversion_cast");
	test_refusal(arena, "module { gpu.module @kernels { llvm.nonsense } }", "an unknown op", "nonsense");
	test_refusal(arena, "module { }", "a module without kernels", "no gpu.module");
	arena_free(arena);
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
