/*
 * What gathering would visit, by which blocks are shared out between launches (blocks.h).
 *
 *     row_keys  [view, batch, head][row blocks]       u32: keys that the row block gathers in the forward, counted by the screen,
 *     kept_keys the same                              u32: and in the backward, of the marks that pack_marks leaves it
 *     key_rows  [view, batch, kv_head][key tiles]     u32: rows that the key tile gathers there, over all query heads that read it
 *
 * Row blocks and key tiles are PLAN_MARK long. A mark without room counts as all of them. Integer sums don't depend on the order of
 * additions, so they may be made with atomics; a sum of 2^32 and more wraps.
 */
#ifndef TDAGEN_COUNTS_H
#define TDAGEN_COUNTS_H

#include "tile.h"

/* view * batch * heads + batch * heads + head; heads: the formula's name for them. */
Val count_index(Kernel *k, int view, const char *heads, Val batch_head);
/* Where a count is; of a row block's, that of the forward or the backward. */
Val row_keys_at(Kernel *k, bool backward, Val index, Val row_block);
Val key_rows_at(Kernel *k, Val kv_index, Val key_tile);

/* Before anything is marked: of a row block, or a block of keys, nothing is counted yet, under any view. */
void clear_row_keys(Kernel *k, Place place);
void clear_key_rows(Kernel *k, Place place);
/* Adds to a count, from several threads or CTAs; of a row block's, to that of the forward. */
void add_row_keys(Kernel *k, Val index, Val row_block, Val keys);
void add_key_rows(Kernel *k, Val kv_index, Val key_tile, Val rows);

#endif
