#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "recent.h"

/* ---- sizes ---- */

static bool find_sizes(const RecentSizes *recent, const int64_t *vars, int64_t sizes[BUFFER_KIND_COUNT])
{
	for (int n = 0; n < recent->count; n++)
		if (memcmp(recent->entry[n].shape, vars, sizeof(recent->entry[n].shape)) == 0) {
			memcpy(sizes, recent->entry[n].sizes, sizeof(recent->entry[n].sizes));
			return true;
		}
	return false;
}

static void keep_sizes(RecentSizes *recent, const int64_t *vars, const int64_t sizes[BUFFER_KIND_COUNT])
{
	memcpy(recent->entry[recent->next].shape, vars, sizeof(recent->entry[0].shape));
	memcpy(recent->entry[recent->next].sizes, sizes, sizeof(recent->entry[0].sizes));
	recent->count += recent->count < RECENT_SIZES;
	recent->next = (recent->next + 1) % RECENT_SIZES;
}

tda_status recent_sizes(RecentSizes *recent, pthread_mutex_t *lock, const Manifest *m, const int64_t *vars,
                        int64_t sizes[BUFFER_KIND_COUNT])
{
	bool found;
	tda_status status;

	pthread_mutex_lock(lock);
	found = find_sizes(recent, vars, sizes);
	pthread_mutex_unlock(lock);
	if (found || (status = launch_sizes(m, vars, sizes)))
		return found ? TDA_OK : status;
	pthread_mutex_lock(lock);
	keep_sizes(recent, vars, sizes);
	pthread_mutex_unlock(lock);
	return TDA_OK;
}

/* ---- schedules ---- */

static void prepared_free(Prepared *p)
{
	if (!p)
		return;
	free(p->schedule);
	free(p->maps);
	free(p);
}

static Prepared *prepared_new(const Manifest *m, Phase phase)
{
	Prepared *p = calloc(1, sizeof(*p));
	size_t maps;

	if (p && !(p->schedule = schedule_new(m, phase))) {
		prepared_free(p);
		return NULL;
	}
	maps = p ? (size_t)p->schedule->map_count : 0;
	if (!p || !(p->maps = aligned_alloc(_Alignof(MadeMap), (maps + 1) * sizeof(MadeMap)))) {
		tda_fail_memory();
		prepared_free(p);
		return NULL;
	}
	return p;
}

static Prepared *find_ready(const RecentSchedules *recent, const int64_t *vars)
{
	for (int n = 0; n < RECENT_SCHEDULES && recent->entry[n]; n++)
		if (recent->entry[n]->ready && memcmp(recent->entry[n]->schedule->vars, vars, FORMULA_VARS * sizeof(*vars)) == 0)
			return recent->entry[n];
	return NULL;
}

/* The place of the entry that has not been used for the longest time: an empty one, if there is one. NULL where calls have
 * them all. */
static Prepared **find_place(RecentSchedules *recent)
{
	Prepared **oldest = NULL;

	for (int n = 0; n < RECENT_SCHEDULES; n++) {
		Prepared **place = &recent->entry[n];

		if (!*place)
			return place;
		if ((*place)->users == 0 && (!oldest || (*place)->last < (*oldest)->last))
			oldest = place;
	}
	return oldest;
}

static Prepared *take_locked(RecentSchedules *recent, const Manifest *m, Phase phase, const int64_t *vars)
{
	Prepared *p = find_ready(recent, vars), **place;

	if (!p) {
		place = find_place(recent);
		p = place && *place ? *place : prepared_new(m, phase);
		if (!p)
			return NULL;
		p->ready = false;
		p->kept = place != NULL;
		if (place)
			*place = p;
	}
	p->users++;
	p->last = ++recent->calls;
	return p;
}

Prepared *recent_take(RecentSchedules *recent, pthread_mutex_t *lock, const Manifest *m, Phase phase, const int64_t *vars)
{
	Prepared *p;

	pthread_mutex_lock(lock);
	p = take_locked(recent, m, phase, vars);
	pthread_mutex_unlock(lock);
	return p;
}

void recent_give_back(Prepared *p, pthread_mutex_t *lock, bool ready)
{
	bool kept;

	pthread_mutex_lock(lock);
	p->users--;
	if (!p->ready)                 /* who shares it may be reading this */
		p->ready = ready;
	kept = p->kept;
	pthread_mutex_unlock(lock);
	if (!kept)
		prepared_free(p);
}

void recent_free(RecentSchedules *recent)
{
	for (int n = 0; n < RECENT_SCHEDULES; n++)
		prepared_free(recent->entry[n]);
}
