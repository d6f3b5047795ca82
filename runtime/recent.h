/*
 * What recent calls computed, kept for the next of the same shape: they evaluate no formula and make no tensor map anew. Of
 * each kind a few are kept, the least recently used one makes room for another. Calls in other threads use them at the
 * same time.
 */
#ifndef TDA_RECENT_H
#define TDA_RECENT_H

#include <pthread.h>
#include "cuda.h"
#include "launch.h"

enum { RECENT_SIZES = 8, RECENT_SCHEDULES = 16 };

/* Of workspaces, by shape. */
typedef struct RecentSizes {
	struct {
		int64_t shape[SHAPE_COUNT], sizes[BUFFER_KIND_COUNT];
	} entry[RECENT_SIZES];
	int count, next;               /* the oldest, once all are there */
} RecentSizes;

/* launch_sizes of the SHAPE_* entries of vars; lock is of the recent sizes. */
tda_status recent_sizes(RecentSizes *recent, pthread_mutex_t *lock, const Manifest *manifest, const int64_t *vars,
                        int64_t sizes[BUFFER_KIND_COUNT]);

/* A tensor map of a schedule, made for the address that a call had. */
typedef struct MadeMap {
	CUtensorMap map;
	uint64_t address;
	bool made;                     /* false: by no call so far; each makes its own */
} MadeMap;

/* A schedule, with its maps as they are in one CUDA context. Only who has it alone may write to it. */
typedef struct Prepared {
	Schedule *schedule;
	MadeMap *maps;
	int users;                     /* calls that have it now */
	bool ready;                    /* may be shared */
	bool kept;                     /* else freed after its only call */
	unsigned long long last;       /* the number of the last call that took it */
} Prepared;

/* Of a phase in one context. */
typedef struct RecentSchedules {
	Prepared *entry[RECENT_SCHEDULES];     /* NULL: not used yet */
	unsigned long long calls;
} RecentSchedules;

/* One that is ready for vars, or one to fill, which nobody else has. NULL after tda_fail. */
Prepared *recent_take(RecentSchedules *recent, pthread_mutex_t *lock, const Manifest *manifest, Phase phase,
                      const int64_t *vars);
/* After the call. ready: it is complete, and may serve others. */
void recent_give_back(Prepared *prepared, pthread_mutex_t *lock, bool ready);
void recent_free(RecentSchedules *recent);

#endif
