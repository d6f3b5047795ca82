#include "progress.h"
#include "tile_parts.h"

enum { WORD = 4, VECTOR = 4, HEADER = VECTOR };
static const int32_t EVERY = INT32_MAX;
_Static_assert(HEADER + PLAN_MAX_TEAMS + VECTOR - 1 <= PLAN_PROGRESS_WORDS, "the last team's vector, which begin() fills");

static Val row_at(Kernel *k, Role role)
{
	Val rows = kernel_pointer(k, "buffer.progress");
	return val_offset_const(k->b, rows, role == ROLE_K_TERMS ? WORD * PLAN_PROGRESS_WORDS : 0);
}

static Val word_of_team(Kernel *k, Role role, Val team)
{
	Val bytes = val_to_i64(k->b, val_mul_i32(k->b, val_add_i32(k->b, team, HEADER), WORD));
	return val_offset(k->b, row_at(k, role), bytes);
}

/* ---- who makes them ---- */

static Val own_number(Kernel *k)
{
	Builder *b = k->b;
	return val_add(b, val_mul_i32(b, kernel_cta(k), k->launch->teams), k->team);
}

static Val team_count(Kernel *k)
{
	return val_mul_i32(k->b, kernel_grid(k), k->launch->teams);
}

/* The words of a vector beyond the last team's are those of one that has nothing to do. */
static void begin(Kernel *k)
{
	Builder *b = k->b;
	Role role = k->launch->role;
	Val number = own_number(k), zero = val_i32(b, 0);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, zero), NULL, 0); if_next(&f);) {
		word_write(k, word_of_team(k, role, number), number);
		for (If first = if_begin(b, val_compare(b, IR_EQ, number, zero), NULL, 0); if_next(&first);) {
			Val count = team_count(k);
			word_write(k, row_at(k, role), count);
			for (int n = 0; n < VECTOR - 1; n++)
				word_write(k, word_of_team(k, role, val_add_i32(b, count, n)), val_i32(b, EVERY));
		}
		global_fence(k);
	}
	kernel_meet(k);
	kernel_lets_next_start(k);
}

/* From the second one on, of the teams that go on. */
static Val block_after(Kernel *k, Val block)
{
	Builder *b = k->b;
	Val staying = val_div_i32(b, val_mul(b, kernel_grid(k), kernel_i32(k, "%s", k->launch->staying)), 100);
	Val stay = val_mul_i32(b, val_max(b, staying, val_i32(b, 1)), k->launch->teams), count = team_count(k);
	Val step = val_select(b, val_compare(b, IR_LT, block, count), count, stay), next = val_add(b, block, step);
	return val_select(b, val_compare(b, IR_LT, own_number(k), stay), next, val_i32(b, EVERY));
}

static void tell(Kernel *k, Val block)
{
	Builder *b = k->b;
	kernel_barrier(k);
	for (If f = if_begin(b, val_compare(b, IR_EQ, k->thread, val_i32(b, 0)), NULL, 0); if_next(&f);)
		word_publish(k, word_of_team(k, k->launch->role, own_number(k)), block);
}

void progress_tell(Kernel *k)
{
	if (k->launch->teams > 0)
		tell(k, k->cta);
}

void progress_blocks(Kernel *k, void (*make)(Kernel *k))
{
	Builder *b = k->b;
	if (k->launch->teams == 0) {
		make(k);
		return;
	}
	begin(k);
	Kernel outside = *k;
	Val block = k->cta, all = kernel_i32(k, "%s", k->launch->all_blocks);
	Val *carry[] = { &block };
	for (Until u = until_begin(b, carry, 1); until_next(&u);) {
		kernel_read_thread(k);
		k->cta = block;
		for (If f = if_begin(b, val_compare(b, IR_LT, block, all), NULL, 0); if_next(&f);)
			make(k);
		kernel_read_thread(k);
		block = block_after(k, block);
		u.done = val_compare(b, IR_GE, block, all);
	}
	kernel_as_before(k, &outside);
	tell(k, val_i32(b, EVERY));
}

/* ---- who waits for them ---- */

/* So many blocks of the launch are done, from the first on. */
static Val find_done(Kernel *k, Role role)
{
	Builder *b = k->b;
	Val count = word_read(k, row_at(k, role)), done = val_i32(b, EVERY), *carry[] = { &done };
	Val first = val_mul_i32(b, k->lane, VECTOR);
	for (Loop l = loop_begin(b, first, count, WARP * VECTOR, carry, 1); loop_next(&l);) {
		Val word[VECTOR];
		word_read_four(k, word_of_team(k, role, l.index), word);
		for (int n = 0; n < VECTOR; n++)
			done = val_min(b, done, word[n]);
	}
	return warp_min(k, done);
}

void progress_wait(Kernel *k, Val known, Val q_blocks, Val k_blocks)
{
	Builder *b = k->b;
	Val pair[2];
	shared_read_pair_anew(k, known, pair);
	Val lacks_k = val_compare(b, IR_LT, pair[1], k_blocks), lacks_q = val_compare(b, IR_LT, pair[0], q_blocks);
	for (If f = if_begin(b, val_or(b, lacks_q, lacks_k), NULL, 0); if_next(&f);) {
		Val done[2] = { pair[0], pair[1] }, *carry[] = { &done[0], &done[1] };
		for (Until u = until_begin(b, carry, 2); until_next(&u);) {
			/* One after the other: the warp that waits has few registers. */
			done[0] = find_done(k, ROLE_Q_TERMS);
			done[1] = find_done(k, ROLE_K_TERMS);
			Val has_k = val_compare(b, IR_GE, done[1], k_blocks), has_q = val_compare(b, IR_GE, done[0], q_blocks);
			u.done = val_and(b, has_q, has_k);
		}
		global_fence(k);
		warp_sync(k);
		for (If first = if_begin(b, val_compare(b, IR_EQ, k->lane, val_i32(b, 0)), NULL, 0); if_next(&first);)
			val_store(b, known, val_vector_pair(b, done[0], done[1], IR_V2I32));
		global_fence_copies(k);
		warp_sync(k);
	}
}
