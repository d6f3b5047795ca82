/* tdagen cache. For main.c alone. */
#ifndef TDAGEN_MAIN_CACHE_H
#define TDAGEN_MAIN_CACHE_H

#include "arena.h"

/* words: what follows "cache" on the command line: list, verify or clear. Prints to standard output, complaints to standard
 * error. Returns the exit status: 1 where an entry was damaged or the folder can't be read, 2 for other words. */
int cache_main(Arena *arena, int count, char **words);

#endif
