/* What was explored, as a person or a program reads it. */
#ifndef TDA_EXPLORE_REPORT_H
#define TDA_EXPLORE_REPORT_H

#include "explore.h"
#include "predict.h"

/* ---- metrics: one table that the terminal, CSV, JSON and the HTML report share ---- */

typedef enum MetricUnit { METRIC_NUMBER, METRIC_COUNT, METRIC_SHARE, METRIC_MS, METRIC_FLAG } MetricUnit; /* flag: 1 or 0 */
typedef struct ExploreRun ExploreRun;
/* What must be there for a metric to have a value. */
enum { SHOW_COUNTS = 1, SHOW_NORMS = 2, SHOW_SWEEP = 4 };      /* tables of the terminal */
enum { NEEDS_VIEWS = 1, NEEDS_GRADIENTS = 2, NEEDS_SOFTMAX = 4, NEEDS_TIME = 8, NEEDS_HEADS = 16 };

typedef struct ExploreMetric {
	const char *key, *title;       /* of CSV and JSON; of tables and plots */
	MetricUnit unit;
	unsigned needs, show;
	double (*value)(const ExploreCounts *counts);  /* NAN: there is none */
	double (*of_run)(const ExploreRun *run);       /* instead, of all heads: times */
	const char *help;
} ExploreMetric;

extern const ExploreMetric explore_metrics[];
extern const int explore_metric_count;

/* ---- runs ---- */

/* One spec with its settings on one set of tensors. */
struct ExploreRun {
	const char *in;                /* NULL: drawn at random */
	int layer;
	const char *const *settings;   /* values of the swept names */
	tda_shape shape;
	const Manifest *manifest;      /* borrowed: alive until it is reported */
	unsigned has;                  /* NEEDS_ */
	double ms[TRAINING_PHASES];        /* with NEEDS_TIME */
	Exploration result;
	Prediction predicted;
};

typedef struct ExploreReport {
	const char *spec;              /* path */
	const char *device;            /* that counted, and that times are of where there are any */
	uint64_t seed;
	bool drawn_gradient;           /* do was drawn at random */
	int sweep_count;
	const char *const *sweep_names;
	int run_count;
	ExploreRun *runs;
} ExploreReport;

/* A run by head, its survivors by length and what theory assumes. */
void explore_print_run(const ExploreReport *report, const ExploreRun *run, FILE *out);
/* All runs, a line each; explore_print_sweep_head first. */
void explore_print_sweep_head(const ExploreReport *report, const ExploreRun *first, FILE *out);
void explore_print_sweep_line(const ExploreReport *report, const ExploreRun *run, FILE *out);
void explore_write_csv(const ExploreReport *report, FILE *out);
void explore_write_json(const ExploreReport *report, FILE *out);

double explore_value(const ExploreRun *run, const ExploreMetric *metric, const ExploreCounts *counts);

/* ---- what theory assumes ---- */

typedef enum Holds { HOLDS_NO, HOLDS_YES, HOLDS_UNKNOWN } Holds;
enum { EXPLORE_VERDICTS = 5, VERDICT_BYTES = 512 };

typedef struct ExploreVerdict {
	const char *key, *title;
	Holds holds;
	char text[VERDICT_BYTES];      /* a sentence: the figures and the rule */
} ExploreVerdict;

void explore_judge(const ExploreRun *run, ExploreVerdict verdicts[EXPLORE_VERDICTS]);
/* Of the scores of a head under a view. */
double explore_kurtosis(const ExploreCounts *counts, int view);        /* in excess of a Gaussian's 3 */
double explore_mean(const ExploreCounts *counts, int view);
double explore_variance(const ExploreCounts *counts, int view);
double explore_correlation(const ExploreCounts *counts, int view, int other);

/* From what was counted of a problem. */
void explore_predict(const Problem *problem, const ExploreCounts *counts, Prediction *prediction);

#endif
