/* The one door to the templates: builds every kernel of a file's plans. */
#ifndef TDAGEN_KERNELS_H
#define TDAGEN_KERNELS_H

#include <mlir-c/IR.h>
#include "../compiler/plan.h"

/* A builtin.module that holds one gpu.module named "kernels", verified; a null module after a diagnostic. The caller
 * destroys it. Records in the plans what each launch takes as arguments, for the manifest. */
MlirModule kernels_build(MlirContext context, Arena *arena, Diag *diag, const Spec *spec, Plan *plan);

#endif
