/* Diagnostics as a compiler's user reads them: path:line:column, the line, a caret, then notes that say what to do. */
#ifndef TDAGEN_DIAG_H
#define TDAGEN_DIAG_H

#include <stdbool.h>
#include <stdio.h>
#include "arena.h"

/* A place in a spec. line and column count from 1; 0 means unknown, and a zero column prints no caret. */
typedef struct Loc {
	int line;
	int column;
} Loc;

typedef struct Diag Diag;

/* path and source are borrowed for the life of the Diag; source may be NULL (then no line is quoted). */
Diag *diag_new(Arena *arena, const char *path, const char *source);

void diag_error(Diag *diag, Loc loc, const char *format, ...) __attribute__((format(printf, 3, 4)));
void diag_warning(Diag *diag, Loc loc, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Belongs to the error or warning before it. */
void diag_note(Diag *diag, Loc loc, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A failure of tdagen itself (the IR did not verify, a backend refused): the tool exits with 3, not 1. */
void diag_internal(Diag *diag, Loc loc, const char *format, ...) __attribute__((format(printf, 3, 4)));

int diag_error_count(const Diag *diag);
bool diag_has_internal(const Diag *diag);
/* Prints what was collected, in order, and forgets it. */
void diag_print(Diag *diag, FILE *out);
const char *diag_path(const Diag *diag);

#endif
