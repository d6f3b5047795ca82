/*
 * Blocks that several launches share out among them.
 *
 * Gathering pays where few keys are marked; where many are, a dense kernel takes less time. So a sparse plan has launches of both
 * kinds for what it computes exactly, and each block of rows (backward_kv: of keys) belongs to one of them (plan.h, Blocks). Both
 * read the screen's counts of what gathering would visit (counts.h), and decide alike.
 */
#ifndef TDAGEN_BLOCKS_H
#define TDAGEN_BLOCKS_H

#include "tile.h"

/*
 * The body of a kernel is run for the launch's own blocks: k->cta is the number of the block at hand. A launch of BLOCKS_LIGHT has a
 * CTA for each block, which ends at once where the block is heavy. One of BLOCKS_HEAVY has as many CTAs as run at once; each looks
 * for heavy blocks and computes one after the other.
 */
void blocks_begin(Kernel *k);
/* ENGINE_WGMMA, BLOCKS_HEAVY: at the end of the body, by the warps that compute; by the producer; */
void blocks_end_consumers(Kernel *k);
void blocks_end_producer(Kernel *k);
/* and by all. */
void blocks_end(Kernel *k);
/* Did the forward leave the rows (a row block of PLAN_MARK) to a dense kernel? */
Val blocks_were_heavy(Kernel *k, Val batch_head, Val row_block);
/* The number of the block at hand, read once more (kernel_after_loop). */
Val blocks_at_hand(Kernel *k);

#endif
