/* What a sparse plan's screen found, read back from the saved workspace of a forward. docs/screen.md has the layout. */
#ifndef TDA_MARKS_H
#define TDA_MARKS_H

#include "problem.h"

enum { MARK_SIDE = 64, MARK_WORD = 32 };       /* rows, and keys, of a mark; key tiles of a word */

/* Of a row block and a key tile: a bit for each key, and for each row, of a pair that may survive. Both 0: there is none. */
typedef struct Mark {
	uint64_t keys, rows;
} Mark;

typedef struct MarkWord {
	uint32_t tiles, before;        /* which key tiles have a mark; how many marks earlier words have */
} MarkWord;

/* index = (view * batch + batch entry) * heads + head. */
typedef struct ScreenMarks {
	int64_t row_blocks, key_tiles, words, capacity;
	MarkWord *word;                /* [index, row_blocks, words]; where nothing is visible 0 */
	Mark *mark;                    /* [index, row_blocks, capacity] */
} ScreenMarks;

/* After a forward of a placed problem. Refuses kernels without a screen. Freed with marks_free. */
tda_status marks_fetch(const Problem *problem, ScreenMarks *marks);
void marks_free(ScreenMarks *marks);

/* A mark without room is all ones: its key tile is visited whole. */
Mark marks_get(const ScreenMarks *marks, int64_t index, int64_t row_block, int64_t key_tile);
/* Marks of a row block, those without room among them. */
int64_t marks_count(const ScreenMarks *marks, int64_t index, int64_t row_block);

#endif
