/*
 * Marks: what the screen found, and what later kernels read of it.
 *
 * Rows and keys are taken in blocks of PLAN_MARK = 64. A mark belongs to a row block and a key tile that hold a pair that may
 * survive: a mask of the keys and a mask of the rows that take part in such a pair, 64 bits each. Marks have numbers, in the order
 * of the key tiles; one whose number is at or above the room for them has none, and its key tile is visited whole. Per view, batch
 * and head:
 *
 *     words [row blocks][ceil(key tiles / 32)]   { u32 bits, u32 first }   which key tiles have a mark; the number of the first one
 *     marks [...]                                { u64 keys, u64 rows }
 *
 * They are there twice. As the screen leaves them, for the forward, marks are [row blocks][capacity], and numbers and room are those
 * of a row block: the words are `mark_words`, the marks `marks`. For the backward, `packed_words` and `packed_marks` have them one
 * after the other, and numbers and room are those of a head (pack_marks.c). A packed mark is { u32 keys, u32 rows }, and each of them
 * stands for at least the mask: up to five places, 6 bits each, the lowest first, of which some may be the same; or, with bit 31, a bit
 * for each of 30 pairs and one for the last four.
 *
 * Of a row block, words are written from the first to the last that hold a key tile which the mask leaves visible (key_tiles); no
 * others are read.
 */
#ifndef TDAGEN_MARKS_H
#define TDAGEN_MARKS_H

#include "pairs.h"
#include "tile.h"

enum { MARK_BYTES = 16, PACKED_BYTES = 8, WORD_BYTES = 8 };

/* The marks of one (view, batch, head). */
typedef struct Marks {
	Val words, marks;                  /* global pointers */
	Val refined;                       /* of unpacked ones: to as many others, for what the forward leaves of them; or null */
	Val words_a_row, marks_a_row;      /* i64: bytes of a row block; none of packed marks */
	Val room;                          /* i32: a mark with this number, or a larger one, has none */
	bool packed;                       /* and numbers are those of the head, not of a row block */
	Val whole;                         /* packed: i32, so many of the head's marks, the first ones, are whole all the same; or null: */
	Val whole_at;                      /* and where that is to be read */
} Marks;
/* index: view * batch * heads + batch * heads + head, as i32. */
Marks screened_marks(Kernel *k, Val index);
Marks packed_marks(Kernel *k, Val index);
/* Those of the launch's phase. */
Marks marks_of(Kernel *k, Val index);
/* Where a row block's words begin; where a mark lies. */
Val marks_words_at(Kernel *k, const Marks *marks, Val row_block);
Val mark_at(Kernel *k, const Marks *marks, Val row_block, Val number);
/* The same marks as the forward left them. */
Marks refined_marks(const Marks *marks);
/* Half a packed mark (i32) of a mask (i64); and a mask that has its bits and maybe others. */
Val packed_half(Kernel *k, Val mask);
Val unpacked_half(Kernel *k, Val half);
/* Of a mark that has room: the mask of its keys, or of its rows; i64. */
Val mark_mask(Kernel *k, const Marks *marks, Val row_block, Val number, bool rows);

Val count_bits(Kernel *k, Val mask);               /* i32, of an i64 */
Val nth_bit(Kernel *k, Val mask, Val n);           /* the place of the n-th set bit, from 0, of an i64 that has more than n */

/*
 * A walk over the rows that marks name, packed into tiles: of the keys that a row block needs, or of the rows that a key tile
 * needs. They come in ascending order, so that sums have an order that the data alone decides.
 *
 *     Gather gather = gather_new(k, launch->cols, streams, count);
 *     gather_ahead(&gather, &walk, 1);
 *     for (gather_walk(&gather, &walk, carry, count); gather_round(&gather);) {
 *             RingTile tile = gather_tile(&gather, n) for each stream
 *     }
 */
enum { GATHER_NOTHING = 1 << 30 };         /* the row that stands for none: at or beyond every length */

typedef struct Resident {
	Shared to;
	Matrix from;
	Val row0;
} Resident;

/* The marks of as many blocks of the other side as are looked at together. */
typedef struct GatherSpan {
	Val count;                         /* i32: marks there are */
	Val mask;                          /* i64: of this thread's mark in the group at hand; 0 where there is none */
} GatherSpan;

typedef struct GatherWalk {
	Val index;                         /* of the marks */
	bool by_keys;                      /* the rows of the key tile `block`, else the keys of the row block `block` */
	Val block;                         /* i32 */
	Val first, end;                    /* i32: blocks of the other side that may have marks: [first, end) */
	int list;                          /* which of the gather's lists of marks it uses */
	const Stream *streams;             /* what is gathered: all of it each round; group strides are not used */
	int stream_count;
	const Resident *residents;         /* copied before the first round that finds anything */
	int resident_count;
} GatherWalk;

typedef struct Gather {
	Kernel *k;
	int cols;
	Val ends, masks, blocks, warp_sums;            /* in shared memory: of a group */
	Val marks;                         /* a list of marks a view: of a span, each as its block's place in that */
	bool refines;                      /* gather_refine may be called; for that, in shared memory too, */
	Val numbers, sources;              /* of a group, the numbers of its marks; of rounds, each row's mark and its place there; */
	Val passed;                        /* and how many marks of the walk's row block came before the group */
	Val ahead_masks, ahead_counts;     /* gather_ahead's: of each list a mask a thread, a count a warp */
	Val lists, slots;                  /* of rounds, in turn; there are launch->slots of the latter */
	const GatherWalk *walk;
	GatherSpan span;                   /* carried */
	Val total;                         /* rows that the group's marks name */
	Val found;                         /* carried: rows of all walks since it was set to 0 */
	int slot_bytes;
	Val list, slot, source;            /* of the round at hand */
	Axis index;                        /* of each column: its row in the streams' matrices, or GATHER_NOTHING */
	Loop spans, groups, rounds;
} Gather;

/* Shared memory for walks over such streams. */
Gather gather_new(Kernel *k, int cols, const Stream *streams, int count);
/* Starts to read the first marks of some walks, long before the walks: they take dependent reads of global memory. A list that one
 * of them uses is that walk's until its end. */
void gather_ahead(Gather *gather, const GatherWalk *walks, int count);
void gather_walk(Gather *gather, const GatherWalk *walk, Val **carry, int carry_count);
bool gather_round(Gather *gather);
RingTile gather_tile(Gather *gather, int stream);
/* Of the tile at hand, may[e] has a bit for each lane (warp_ballot) whose element e may survive: of those pairs, refined marks get what is
 * visible. row0: the warp's first row. */
void gather_refine(Gather *gather, const Val *may, Val row0, Val has_hidden);
/* From the least row of the tile to beyond the largest, GATHER_NOTHING included. */
Range gather_range(Gather *gather);

#endif
