/* Golden files: one per case beside it, compared whole, rewritten with --update. */
#ifndef TDAGEN_TESTS_GOLDEN_H
#define TDAGEN_TESTS_GOLDEN_H

#include <stdbool.h>
#include "spec.h"

/* The file's bytes and a final NUL; NULL when it can't be read. */
char *golden_read(Arena *arena, const char *path, size_t *length);
/* Calls run(path, name) for each .lua file of the folder, in alphabetic order; name has no ".lua". Their number. */
int golden_each(const char *folder, void (*run)(const char *path, const char *name));
/* Does the file at path hold `got`? With update it is written instead. Prints what differs. */
bool golden_matches(Arena *arena, const char *path, const char *got, bool update);
/* What write(spec or diag, stream) writes, in the arena. */
typedef void GoldenWriter(void *user, FILE *out);
char *golden_text(Arena *arena, GoldenWriter *write, void *user);

#endif
