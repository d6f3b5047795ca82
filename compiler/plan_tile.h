/* The choice of a launch's tile: rows, columns, slots. */
#ifndef TDAGEN_PLAN_TILE_H
#define TDAGEN_PLAN_TILE_H

#include "plan.h"

/* What a kernel of the tiled kind needs, by number of tiles. */
typedef struct Needs {
	int views;                         /* streams of scores */
	int sums;                          /* loop-carried sums and row terms a view, in registers */
	int accumulators;                  /* columns, over all accumulators */
	int tiles;                         /* live tiles of pairs, in registers */
	int group_tiles, most_cols;        /* ENGINE_WGMMA: the same, and the widest tile of pairs */
	int residents;                     /* bytes a row of what stays in shared memory */
	int slot_row;                      /* bytes a row of the widest streamed tile, terms included */
	int box_residents, box_round;      /* ENGINE_WGMMA: of residents, and of all streamed tiles of a round */
	int streams;                       /* tiles a round that stay readable at once when `retain` */
	bool can_retain;
	bool values_only, forward;
	bool gathered;                     /* one view at a time, and all streams of a round at once */
} Needs;

Needs forward_needs(const Spec *spec, bool gathered);
/* dq of so many views a launch (at a time, when gathered: 1). */
Needs backward_q_needs(const Spec *spec, int views, bool gathered);
/* dk of so many views a launch (at a time, when gathered: 0 or 1), and dv if `values`. */
Needs backward_kv_needs(const Spec *spec, int views, bool values, bool gathered);

/* Bytes of shared memory that lists of gathered rows take, for a CTA of so many warps, a tile of so many columns and so many slots;
 * and what else does where it refines marks. */
int gather_bytes(const Spec *spec, int warps, int cols, int slots, bool refines);

/* Sets rows, cols, slots and what follows from them; false when nothing fits in shared memory. */
bool choose_tile(const Plan *plan, const Needs *needs, Launch *launch);
/* The screen's: always fits. */
void choose_screen_tile(const Plan *plan, Launch *launch);
/* Those of a plan that counts. Statistics have tiles of the rows that counts have; both always fit. */
void choose_count_tile(const Plan *plan, Launch *launch);
void choose_statistics_tile(const Plan *plan, int rows, Launch *launch);
/* CTAs that a multiprocessor holds at once, at least. */
int resident_ctas(const Launch *launch);
/* By the estimate, and with columns enough to be worth it: would this tile rather be split into passes? */
bool tile_is_cramped(const Plan *plan, const Launch *tile);

#endif
