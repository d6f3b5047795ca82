/* Files that appear whole or not at all. */
#ifndef TDAGEN_OUTPUT_H
#define TDAGEN_OUTPUT_H

#include <stdbool.h>
#include <stdio.h>
#include "arena.h"
#include "diag.h"

typedef struct Output {
	const char *path;                  /* "-": standard output */
	char *temporary;                   /* written first, renamed to path at the end; NULL: path is written directly */
	FILE *file;
} Output;

/* False after a diagnostic. */
bool output_open(Arena *arena, Diag *diag, const char *path, Output *output);
/* Closes the file and gives it its name. False, after a diagnostic, when any write failed: then nothing is left. */
bool output_commit(Diag *diag, Output *output);
/* Removes what was written. */
void output_discard(Output *output);

#endif
