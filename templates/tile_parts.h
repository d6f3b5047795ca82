/* What the parts of the vocabulary share with each other, and a few lane-level operations for kernels over rows. */
#ifndef TDAGEN_TILE_PARTS_H
#define TDAGEN_TILE_PARTS_H

#include "tile.h"

/* Two float32 values rounded to the spec's 16-bit dtype in one vector; and back, from 32 bits. */
Val pack_pair(Kernel *k, Val low, Val high);
void unpack_pair(Kernel *k, Val pair, Val *low, Val *high);
/* Over aligned groups of `lanes` lanes, a power of two; every lane gets the result, summed in a fixed order. */
Val lane_sum(Kernel *k, Val x, int lanes);
Val lane_max(Kernel *k, Val x, int lanes);   /* NaN if any is */

#endif
