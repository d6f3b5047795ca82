/* What a sparse plan's screen found, read back after a forward: as the forward went by it, and what it left of it for the backward.
 * docs/screen.md has the layouts. */
#ifndef TDA_MARKS_H
#define TDA_MARKS_H

#include "problem.h"

enum { MARK_SIDE = 64, MARK_WORD = 32 };       /* rows, and keys, of a mark; key tiles of a word */

/* Of a row block and a key tile: a bit for each key, and for each row, of a pair that may survive. Both 0: there is none. */
typedef struct Mark {
	uint64_t keys, rows;
} Mark;

/* 8 bytes of marks: half a whole one, or both halves of one that is packed. */
typedef union MarkPlace {
	uint64_t half;
	struct { uint32_t keys, rows; } packed;
} MarkPlace;

typedef struct MarkWord {
	uint32_t tiles, first;         /* which key tiles have a mark; the number of the first one */
} MarkWord;

/* SCREENED  the forward's, in its scratch: marks are numbered within a row block, and all are whole
 * KEPT      the backward's, saved: marks are numbered within a head */
typedef enum MarkSet { MARKS_SCREENED, MARKS_KEPT } MarkSet;

/* index = (view * batch + batch entry) * heads + head. */
typedef struct ScreenMarks {
	MarkSet set;
	int64_t row_blocks, key_tiles, words;
	int64_t room;                  /* marks whose numbers are below have a place */
	MarkWord *word;                /* [index, row_blocks, words]; where nothing is visible 0 */
	int32_t *whole;                /* MARKS_KEPT: [index]: marks whose numbers are below are whole and take two places */
	MarkPlace *place;              /* [index, room], by number; MARKS_SCREENED: [index, row_blocks, room, 2] */
} ScreenMarks;

/* After a forward of a placed problem. Refuses kernels without a screen. Freed with marks_free. */
tda_status marks_fetch(const Problem *problem, MarkSet set, ScreenMarks *marks);
void marks_free(ScreenMarks *marks);

/* What is visited for it: one that is packed and has many bits may have others beside them, one without room is all ones. */
Mark marks_get(const ScreenMarks *marks, int64_t index, int64_t row_block, int64_t key_tile);
/* Marks of a row block, those without room among them. */
int64_t marks_count(const ScreenMarks *marks, int64_t index, int64_t row_block);
/* Has a row block a mark without room? */
bool marks_overflow(const ScreenMarks *marks, int64_t index, int64_t row_block);

#endif
