/*
 * The plan: which kernels a spec becomes on a target, with which tiles, and what that costs. Plain data, decided before
 * anything is emitted; templates read it and decide nothing of the kind themselves.
 */
#ifndef TDAGEN_PLAN_H
#define TDAGEN_PLAN_H

#include <stdbool.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"
#include "spec.h"

typedef enum Target { TARGET_SM_80, TARGET_SM_90A, TARGET_COUNT } Target;
typedef enum PlanKind { PLAN_AUTO, PLAN_DENSE, PLAN_SPARSE } PlanKind;

/* A deliberate defect, so that tests can show that the checks find it. */
typedef enum Defect { DEFECT_NONE, DEFECT_DROP_TILE, DEFECT_SHIFT_TAU } Defect;

typedef struct PlanOptions {
	Target target;
	PlanKind kind;
	Defect defect;
	bool line_info;                    /* .loc lines in the PTX */
} PlanOptions;

typedef struct Plan Plan;

/* NULL after a diagnostic. Allocated in the arena. */
Plan *plan_make(Arena *arena, Diag *diag, const Spec *spec, PlanOptions options);
/* The whole plan as text: --emit=plan. */
void plan_print(const Plan *plan, FILE *out);
/* For people: tiles, stages, shared memory, why this plan, whether exact zeros are proved and by which factor. */
void plan_explain(const Plan *plan, FILE *out);

Target plan_target(const Plan *plan);
const char *target_name(Target target);            /* sm_80, sm_90a */
const char *target_features(Target target);        /* LLVM's feature string, "+ptx80" */
bool target_from_name(const char *name, Target *target);

#endif
