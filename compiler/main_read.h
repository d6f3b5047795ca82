/* The file of a spec. For the main files alone. */
#ifndef TDAGEN_MAIN_READ_H
#define TDAGEN_MAIN_READ_H

#include <stddef.h>
#include "arena.h"
#include "diag.h"

/* The whole text and a final NUL, in the arena; NULL after a diagnostic. */
char *main_read_spec(Arena *arena, Diag *diag, const char *path, size_t *length);

#endif
