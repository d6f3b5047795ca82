/* Whole files. */
#ifndef TDA_FILE_H
#define TDA_FILE_H

#include <stddef.h>
#include "tda.h"

/* The file's bytes and a final NUL, freed with free(). */
tda_status file_read(const char *path, char **bytes, size_t *length);
/* Writes to a temporary name beside path, then renames: path holds all of it or is left as it was. `parts` arrays. */
tda_status file_write(const char *path, const void *const *parts, const size_t *lengths, int count);

#endif
