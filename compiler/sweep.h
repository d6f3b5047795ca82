/* --sweep NAME=VALUES: 0.5:1.5:0.25 from, to and with, by; or 1,2,3. */
#ifndef TDAGEN_SWEEP_H
#define TDAGEN_SWEEP_H

#include <stdbool.h>
#include "arena.h"

enum { SWEEP_MAX_VALUES = 1000 };

typedef struct Sweep {
	const char *name;
	const char **values;               /* as --set and the tables have them */
	int count;
} Sweep;

/* False after *problem says what is wrong with the text. Everything lives in the arena. */
bool sweep_parse(Arena *arena, const char *text, Sweep *sweep, const char **problem);

#endif
