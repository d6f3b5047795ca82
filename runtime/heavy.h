/* Which row blocks of a sparse plan's forward are dense in marked keys, and so computed by dense kernels. docs/kernels.md says when. */
#ifndef TDA_HEAVY_H
#define TDA_HEAVY_H

#include "problem.h"

/* After a forward of a placed problem whose manifest has `marks`: for each batch entry, head and block of `heavy.rows` rows, whether
 * it is; freed by the caller. *blocks: how many a head has; 0 where the manifest has no `heavy`. */
tda_status heavy_fetch(const Problem *problem, bool **heavy, int64_t *blocks);

#endif
