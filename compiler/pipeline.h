/* The whole compiler on one page: the stages a spec goes through, in order. */
#ifndef TDAGEN_PIPELINE_H
#define TDAGEN_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"
#include "lower.h"
#include "plan.h"
#include "spec.h"

typedef enum StageId {
	STAGE_SPEC, STAGE_EXPR, STAGE_PLAN, STAGE_MLIR, STAGE_NVVM, STAGE_LLVM, STAGE_PTX, STAGE_CUBIN, STAGE_COUNT
} StageId;

/* One compilation. Fields fill up from top to bottom; everything but the IR lives in the arena. */
typedef struct Compilation {
	Arena *arena;
	Diag *diag;
	const char *path, *source;         /* the spec; source has `length` bytes and a final NUL */
	size_t length;
	SpecOption *settings;              /* --set */
	int setting_count;
	PlanOptions plan_options;
	Spec *spec;
	Plan *plan;                        /* and its `next` */
	MlirContext context;
	MlirModule module;                 /* changed in place: mlir, then nvvm */
	LlvmModule *llvm;
	char *ptx;                         /* the whole artifact, manifest and body */
	unsigned char *cubin;
	size_t cubin_size;
	double seconds[STAGE_COUNT];       /* wall clock */
} Compilation;

typedef struct Stage {
	const char *name, *extension, *what;
	bool (*run)(Compilation *c);       /* false after a diagnostic. NULL: there is nothing to make, only to show */
	void (*print)(Compilation *c, FILE *out);
} Stage;

extern const Stage pipeline_stages[STAGE_COUNT];

/* Runs the stages up to and with `last`. after (if not NULL) is called when a stage has run and before the next changes
 * what it made; it returns false to stop, after a diagnostic. */
bool pipeline_run(Compilation *c, StageId last, bool (*after)(Compilation *c, StageId stage, void *user), void *user);

/* Frees the IR; the arena stays with its owner. */
void pipeline_end(Compilation *c);

#endif
