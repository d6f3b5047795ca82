#include "kernels.h"
#include "kernels_parts.h"

static BuildKernel *const builders[ROLE_COUNT] = {
	[ROLE_TERMS] = build_terms,
	[ROLE_Q_TERMS] = build_q_terms,
	[ROLE_K_TERMS] = build_k_terms,
	[ROLE_SCREEN] = build_screen,
	[ROLE_PACK_MARKS] = build_pack_marks,
	[ROLE_FORWARD] = build_forward,
	[ROLE_NORM_BACKWARD] = build_norm_backward,
	[ROLE_BACKWARD_Q] = build_backward_q,
	[ROLE_BACKWARD_KV] = build_backward_kv,
	[ROLE_REDUCE] = build_reduce,
	[ROLE_COUNT_PAIRS] = build_count,
	[ROLE_STATISTICS] = build_statistics,
};

MlirModule kernels_build(MlirContext context, Arena *arena, Diag *diag, const Spec *spec, Plan *plan)
{
	Builder builder, *b = &builder;
	ir_init(b, context, arena, diag);
	MlirModule module;
	MlirOperation gpu_module = ir_kernel_module(b, &module);
	for (; plan; plan = plan->next)
		for (int i = 0; i < plan->launch_count && !ir_failed(b); i++) {
			Launch *launch = &plan->launches[i];
			builders[launch->role](b, gpu_module, spec, plan, launch);
		}
	if (!ir_failed(b) && ir_verify(b, module))
		return module;
	ir_module_free(&module);
	return module;
}
