/*
 * How far launches of terms are, for a launch beside them that reads what they make as they make it.
 *
 *     progress   u32 [q_terms, k_terms][4 + PLAN_MAX_TEAMS + 4]: how many teams there are, padding; then of each the block that it is at,
 *                and padding
 *
 * A team takes its blocks in ascending order, so all blocks below the least of these numbers are done. The first block of team t is t.
 * Then the last CTAs end, so that the launch beside has their multiprocessors; the teams of the others share out what is left in turn.
 *
 * Nobody waits forever: a launch starts when all CTAs of the launches before it run, or have ended. And nothing needs to be zero before:
 * teams write their words before the next launch may start.
 */
#ifndef TDAGEN_PROGRESS_H
#define TDAGEN_PROGRESS_H

#include "tile.h"

/* The work of a launch of terms: `make` is emitted for the block that k->cta numbers, in a loop where there are teams. */
void progress_blocks(Kernel *k, void (*make)(Kernel *k));
/* `make` calls it when it has asked for what it reads, so that there is something else to wait for: all blocks of the team before this one
 * are done. Nothing without teams. */
void progress_tell(Kernel *k);

/* Waits until the first so many blocks (i32) of both launches are done, and then sees what they made, as do copies in bulk. For a whole
 * warp. known: two shared i32, what it knows to be done, 0 at first. */
void progress_wait(Kernel *k, Val known, Val q_blocks, Val k_blocks);
enum { PROGRESS_KNOWN_BYTES = 8 };

#endif
