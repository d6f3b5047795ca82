/* What passes a threshold that moves: of scores that are kept, or counted anew on a device. For calibrate*.c alone. */
#ifndef TDA_CALIBRATE_COUNT_H
#define TDA_CALIBRATE_COUNT_H

#include <stdatomic.h>
#include "calibrate.h"
#include "counter.h"

enum { CALIBRATE_ROWS = 64 };          /* of a block that gathers keys */

typedef struct Heads {
	int64_t first, end;
} Heads;

typedef struct Calibrator {
	const Problem *problem;
	const CalibrateOptions *options;
	int param;
	double base;                   /* where the search begins */
	int64_t *row_start;            /* [q_len + 1]: a row's first score among those of one view, batch entry and head */
	int64_t rows;                  /* of a head that see a key */
	Heads kept;                    /* heads that can be counted: those whose scores are kept, or all on a device */
	Counter *counter;              /* on a device; NULL: */
	double *scores;                /* [batch, kept heads, views, row_start[q_len]] */
	atomic_llong not_finite;       /* 1 + batch_head * q_len + row of a score that is NaN or infinite; 0: none */
	int threads;
} Calibrator;

typedef struct Counted {
	int64_t survivors;             /* pairs above the threshold, over the views; -1: a threshold is NaN */
	int64_t visited;               /* visible pairs of a row and a key that survives, in any view, for one of its block's rows */
} Counted;

/* Sizes of rows: once, before all else. */
tda_status calibrate_find_rows(Calibrator *c);
/* Without a device: the scores of the heads that read heads first to end - 1 of k; refuses those that are not finite. */
tda_status calibrate_keep_scores(Calibrator *c, int64_t first, int64_t end);
/* Of each of the heads kept, with its value of the parameter; of those with NAN nothing. `visited` is left 0 where it is not wanted.
 * Both arrays are [kept heads]. */
tda_status calibrate_count(Calibrator *c, const double *value, bool visited, Counted *counted);
/* calibrate_device.c: the same by c->counter; refuses scores that are not finite. */
tda_status calibrate_count_on_device(Calibrator *c, const double *value, bool visited, Counted *counted);

#endif
