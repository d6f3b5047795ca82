/* Pairs that tda_count counted on a device, and its arrays on the host. */
#ifndef TDA_COUNTER_H
#define TDA_COUNTER_H

#include "problem.h"

/* Arrays of tda_count_sizes, whose shapes tda.h has; thresholds by view. */
typedef enum CounterArray {
	COUNTER_TAU, COUNTER_SURVIVORS = COUNTER_TAU + TDA_MAX_VIEWS, COUNTER_CONSENSUS, COUNTER_MASKS, COUNTER_TILES,
	COUNTER_ROW_WEIGHT, COUNTER_ROW_SINK, COUNTER_MOMENTS, COUNTER_TAILS, COUNTER_ARRAYS
} CounterArray;

enum { COUNTER_ROWS = 64, COUNTER_KEYS = 64 }; /* of a block and a tile, as counter_mask has them */

/* What makes scores and thresholds no numbers. */
#define COUNTER_SCORE_RULE "q or k holds such a value or, with l2, a norm is not in 2^-60 to 2^60"
#define COUNTER_THRESHOLD_RULE "the parameters that it reads do not allow it"

typedef struct Counter {
	const Problem *problem;
	tda_kernel *kernel;
	tda_count_sizes sizes;
	int64_t planes;                /* batch * heads */
	int64_t rows;                  /* of a plane: q_len rounded up to whole blocks of sizes.block_rows */
	int64_t blocks, tiles;         /* of COUNTER_ROWS rows, and COUNTER_KEYS keys */
	void *memory;                  /* the device's, as all of these */
	void *param[TDA_MAX_PARAMS];
	void *array[COUNTER_ARRAYS];   /* on the host: NULL until it is fetched */
} Counter;

/* The problem is placed on a device (problem_place), and stays as long as the counter. kernel: of the problem's spec, made for counting.
 * Parameters are the problem's. Freed with counter_close, after a failure too. */
tda_status counter_open(Counter *counter, const Problem *problem, tda_kernel *kernel);
void counter_close(Counter *counter);

/* Gives a parameter a value for each head, [heads]. */
tda_status counter_set(Counter *counter, int param, const double *value);
tda_status counter_run(Counter *counter);
/* Runs again, and says how long that took on a device with a clock; NAN on others, where nothing is run. */
tda_status counter_time(Counter *counter, double *milliseconds);
/* Copies an array of the last run, and waits for it. */
tda_status counter_fetch(Counter *counter, CounterArray array);
/* COUNTER_SURVIVORS is fetched. TDA_BAD_ARGUMENT where a row that sees a key sees a score that is no number, or has a threshold that
 * is NaN: the message says which. */
tda_status counter_check_scores(const Counter *counter);
tda_status counter_check_thresholds(const Counter *counter);

/* Pairs of a row under a view that count; they are not to be asked of rows that fail those checks. */
int64_t counter_survivors(const Counter *counter, int view, int64_t plane, int64_t row);
/* COUNTER_MASKS is fetched. Keys of a tile that a pair of the block counts for, as bits. */
uint64_t counter_mask(const Counter *counter, int view, int64_t plane, int64_t block, int64_t tile);
/* Visible pairs of a row of the block with such a key: of any view. */
int64_t counter_visited(const Counter *counter, int64_t plane, int64_t block, int64_t tile);

#endif
