/* Where explore's counts come from, and what both sources share. For explore*.c alone. */
#ifndef TDA_EXPLORE_COUNT_H
#define TDA_EXPLORE_COUNT_H

#include "explore.h"

/* What is counted, and where it goes. */
typedef struct ExploreWork {
	const ExploreOptions *options;
	Exploration *result;           /* whose map is laid out; a device says how long it counted */
	ExploreCounts *counts;         /* [batch * heads], all 0 before */
	int64_t *maps;                 /* [batch * heads, map_rows, map_cols], all 0 before */
} ExploreWork;

/* Fill the counts, but for norms, and *outputs with o and, where gradients are wanted, do and all gradients, contiguous: freed with
 * problem_reference_free, after a failure too. TDA_BAD_ARGUMENT where a score is no number or a threshold is NaN. */
tda_status explore_by_reference(const ExploreWork *work, const Problem *problem, Reference *outputs);
tda_status explore_on_device(const ExploreWork *work, Problem *problem, Reference *outputs);

/* The keys that a row sees; that one of the rows first to end - 1 sees, which are neighbours, as the masks move by a key a row. */
KeySpan explore_keys_of_row(const Problem *problem, int64_t row);
KeySpan explore_keys_of_rows(const Problem *problem, int64_t first, int64_t end);

typedef struct ExploreRow {
	int64_t keys;                  /* that it sees, 1 or more */
	int64_t survivors[TDA_MAX_VIEWS], consensus;
} ExploreRow;
/* Returns the survivors of all views. */
int64_t explore_add_row(ExploreCounts *counts, int views, const ExploreRow *row);
/* Of a row with a survivor: `sum` is that of |combined weight| over its keys, of which `first` is key 0's. */
void explore_add_sink(ExploreCounts *counts, KeySpan keys, double first, double sum);
void explore_add_bound(ExploreCounts *counts, const Manifest *manifest, int64_t keys, double tau);
/* at: batch_head * q_len + row. */
tda_status explore_bad_row(const Problem *problem, int64_t at, const char *what, const char *why);

#endif
