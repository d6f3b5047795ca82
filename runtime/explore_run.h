/* A session of exploring: many runs, of one spec with changing settings on one set of tensors each. */
#ifndef TDA_EXPLORE_RUN_H
#define TDA_EXPLORE_RUN_H

#include <stdbool.h>
#include <stdio.h>
#include "tda.h"

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
	int sweep_count;
	const char *const *sweep_names;
	const bool *is_param;          /* set in the launch; other settings are compiled in */
	int run_count;
	const ExplorePoint *points;
	FILE *tables;
} ExploreSetup;

typedef struct ExploreSession ExploreSession;

ExploreSession *explore_session_new(const ExploreSetup *setup);        /* NULL: no memory */
void explore_session_free(ExploreSession *session);
/* Kernels are timed, so that they need more than a manifest. */
bool explore_session_has_gpu(const ExploreSession *session);
/* Measures run n, the runs in order, and prints it: alone as tables, one of several as a line. The kernel stays open as long
 * as the session. A progress bar shows on standard error where that is a terminal, after a second. */
tda_status explore_session_run(ExploreSession *session, int run, tda_kernel *kernel);
/* Takes the progress bar away, and flushes the tables: before an error is printed. */
void explore_session_pause(ExploreSession *session);
void explore_session_write_csv(const ExploreSession *session, FILE *out);
void explore_session_write_json(const ExploreSession *session, FILE *out);

#endif
