/* What calls leave for the next ones: schedules that are in use are not overwritten, however many there are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../runtime/module.h"
#include "fixture.h"

static tda_kernel *kernel;
static RecentSchedules recent;

static Prepared *take(int64_t length)
{
	int64_t vars[FORMULA_VARS] = { [SHAPE_BATCH] = 1, [SHAPE_HEADS] = 1, [SHAPE_KV_HEADS] = 1, [SHAPE_Q_LEN] = length,
	                               [SHAPE_K_LEN] = length };
	Prepared *p = recent_take(&recent, &kernel->lock, kernel->manifest, PHASE_FORWARD, vars);

	if (p && !p->ready)
		CHECK(schedule_fill(kernel->manifest, vars, p->schedule) == TDA_OK, "%s", tda_error_message());
	return p;
}

static void give_back(Prepared *p, bool ready)
{
	recent_give_back(p, &kernel->lock, ready);
}

static void test_schedules(void)
{
	Prepared *first = take(100), *second = take(100), *again;

	CHECK(first && second && first != second, "two calls fill one schedule");
	CHECK(first->schedule->grid[0] == 2 && first->schedule->values[5].narrow == 1 && first->schedule->values[6].narrow == 100,
	      "its contents");
	give_back(first, true);
	give_back(second, false);
	again = take(100);
	second = take(100);
	CHECK(again == first && second == first && first->ready && first->users == 2, "a schedule that is ready is not shared");
	give_back(again, true);
	give_back(second, true);
	CHECK(first->users == 0, "%d users are left", first->users);
}

static void test_all_in_use(void)
{
	Prepared *taken[RECENT_SCHEDULES], *more, *another;

	for (int n = 0; n < RECENT_SCHEDULES; n++)
		taken[n] = take(1 + n);
	more = take(64);
	CHECK(more && !more->kept && taken[RECENT_SCHEDULES - 1]->kept, "more calls than there are places");
	for (int n = 0; n < RECENT_SCHEDULES; n++)
		CHECK(taken[n]->schedule->vars[SHAPE_Q_LEN] == 1 + n && taken[n] != more, "schedule %d was overwritten", n);
	give_back(more, true);
	give_back(taken[3], true);
	another = take(65);
	CHECK(another == taken[3] && another->kept && !another->ready, "a place that is free is not used");
	give_back(another, true);
	for (int n = 0; n < RECENT_SCHEDULES; n++)
		if (n != 3)
			give_back(taken[n], true);
	give_back(take(1), true);
	another = take(66);
	CHECK(another == taken[1], "not the least recently used one made room");
	give_back(another, false);
	another = take(1);
	CHECK(another == taken[0] && another->ready, "a recent one made room");
	give_back(another, true);
}

static void test_sizes(void)
{
	for (int round = 0; round < 2; round++)
		for (int64_t n = 1; n <= 2 * RECENT_SIZES; n++) {
			int64_t vars[FORMULA_VARS] = { [SHAPE_BATCH] = n, [SHAPE_HEADS] = 1, [SHAPE_KV_HEADS] = 1, [SHAPE_Q_LEN] = 64 };
			int64_t sizes[2][BUFFER_KIND_COUNT];

			for (int again = 0; again < 2; again++)
				CHECK(module_sizes(kernel, vars, sizes[again]) == TDA_OK && sizes[again][BUFFER_SAVED] == n * 64 * 24, "sizes");
			CHECK(memcmp(sizes[0], sizes[1], sizeof(sizes[0])) == 0, "other sizes again");
		}
}

int main(void)
{
	char lines[4096], *text;

	snprintf(lines, sizeof(lines), "%s%s", fixture_tda_lines, fixture_tda_kernels);
	text = fixture_seal(lines, fixture_body);
	if (CHECK(tda_open_memory(text, strlen(text), &kernel) == TDA_OK, "%s", tda_error_message())) {
		test_schedules();
		test_all_in_use();
		test_sizes();
		recent_free(&recent);
		tda_close(kernel);
	}
	free(text);
	return fixture_result();
}
