/* A session of exploring: many runs, of one spec with changing settings on one set of tensors each. */
#ifndef TDA_EXPLORE_RUN_H
#define TDA_EXPLORE_RUN_H

#include <stdbool.h>
#include <stdio.h>
#include "count_by.h"

typedef struct ExplorePoint {
	const char *in;                /* arrays (inputs.h); NULL: drawn at random */
	int layer;
	const char *const *settings;   /* a value for each swept name */
} ExplorePoint;

/* All of it is borrowed. */
typedef struct ExploreSetup {
	const char *spec;              /* path */
	uint64_t seed;                 /* of tensors, and of a do, that are drawn */
	tda_shape shape;               /* of drawn tensors */
	bool softmax;                  /* compare with a dense softmax */
	CountBy count_by;
	int sweep_count;
	const char *const *sweep_names;
	const bool *is_param;          /* set in the launch; other settings are compiled in */
	int run_count;
	const ExplorePoint *points;
	FILE *tables;
} ExploreSetup;

typedef struct ExploreSession ExploreSession;

tda_status explore_session_open(const ExploreSetup *setup, ExploreSession **session);
/* After all kernels are closed. NULL is allowed. */
void explore_session_free(ExploreSession *session);
/* Are kernels run? Then they need more than a manifest, and a counter. */
bool explore_session_runs_kernels(const ExploreSession *session);
/* Measures run n, the runs in order, and prints it: alone as tables, one of several as a line. The kernel stays open as long
 * as the session; counter: of the same spec, made for counting, where kernels are run. A progress bar shows on standard error where
 * that is a terminal, after a second. */
tda_status explore_session_run(ExploreSession *session, int run, tda_kernel *kernel, tda_kernel *counter);
/* Takes the progress bar away, and flushes the tables: before an error is printed. */
void explore_session_pause(ExploreSession *session);
void explore_session_write_csv(const ExploreSession *session, FILE *out);
void explore_session_write_json(const ExploreSession *session, FILE *out);

#endif
