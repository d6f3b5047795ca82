/* What a sparse plan's screen found, read back from the saved workspace of a forward: what the backward goes by. docs/screen.md has
 * the layout. */
#ifndef TDA_MARKS_H
#define TDA_MARKS_H

#include "problem.h"

enum { MARK_SIDE = 64, MARK_WORD = 32 };       /* rows, and keys, of a mark; key tiles of a word */

/* Of a row block and a key tile: a bit for each key, and for each row, of a pair that may survive. Both 0: there is none. */
typedef struct Mark {
	uint64_t keys, rows;
} Mark;

typedef struct PackedMark {
	uint32_t keys, rows;
} PackedMark;

typedef struct MarkWord {
	uint32_t tiles, first;         /* which key tiles have a mark; the number of the first one */
} MarkWord;

/* index = (view * batch + batch entry) * heads + head. */
typedef struct ScreenMarks {
	int64_t row_blocks, key_tiles, words;
	int64_t room;                  /* marks whose numbers are below have a place */
	MarkWord *word;                /* [index, row_blocks, words]; where nothing is visible 0 */
	PackedMark *mark;              /* [index, room], by number */
} ScreenMarks;

/* After a forward of a placed problem. Refuses kernels without a screen. Freed with marks_free. */
tda_status marks_fetch(const Problem *problem, ScreenMarks *marks);
void marks_free(ScreenMarks *marks);

/* What the backward makes of it: one of many bits may have others beside them, one without room is all ones. */
Mark marks_get(const ScreenMarks *marks, int64_t index, int64_t row_block, int64_t key_tile);
/* Marks of a row block, those without room among them. */
int64_t marks_count(const ScreenMarks *marks, int64_t index, int64_t row_block);
/* Has a row block a mark without room? */
bool marks_overflow(const ScreenMarks *marks, int64_t index, int64_t row_block);

#endif
