/* How long the kernels of a file would take on one H100: from the shape, and from what survives where a sparse plan runs. The
 * model is in docs/explore.md, its rates are in predict.c. */
#ifndef TDA_PREDICT_H
#define TDA_PREDICT_H

#include "manifest.h"

#define PREDICT_DEVICE "NVIDIA H100 80GB HBM3"

typedef enum PredictPlan { PREDICT_DENSE, PREDICT_SPARSE, PREDICT_PLANS } PredictPlan;
typedef enum PredictKernel {
	PREDICT_TERMS, PREDICT_Q_TERMS, PREDICT_K_TERMS, PREDICT_SCREEN, PREDICT_FORWARD, PREDICT_NORM_BACKWARD, PREDICT_BACKWARD_Q,
	PREDICT_BACKWARD_KV, PREDICT_REDUCE, PREDICT_KERNELS
} PredictKernel;
enum { PREDICT_TEXT = 256 };

typedef struct PlanTimes {
	bool known;                    /* the file has the plan, and there are counts if it needs them */
	double kernel_ms[PREDICT_KERNELS];     /* reduce: over all parameters */
	double ms[TRAINING_PHASES];
	char beyond[PREDICT_TEXT];     /* in which respects nothing like it was timed: "f16, length 256"; empty: in none */
} PlanTimes;

typedef struct Prediction {
	PredictPlan taken;             /* by a launch of this shape */
	PlanTimes plan[PREDICT_PLANS];
} Prediction;

/* What survives, over all heads and the batch. */
typedef struct PredictCounts {
	int64_t gathered[TDA_MAX_VIEWS];       /* blocks of 64 rows and a key that survives, in that view, for a row of it */
	double tiles;                  /* share of the tiles of 64 x 64 with a visible pair in which one survives, in any view */
} PredictCounts;

extern const char *const predict_plan_names[PREDICT_PLANS];
extern const char *const predict_kernel_names[PREDICT_KERNELS];

/* The shape is valid. counts: NULL where they are not known. */
void predict(const Manifest *manifest, const tda_shape *shape, const PredictCounts *counts, Prediction *prediction);

/* Which plan a launch takes; the manifest says it. */
PredictPlan predict_taken(const Manifest *manifest, const tda_shape *shape);

#endif
