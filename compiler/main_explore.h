/* tdagen explore. For main.c alone. */
#ifndef TDAGEN_MAIN_EXPLORE_H
#define TDAGEN_MAIN_EXPLORE_H

#include "main_calibrate.h"

/* Compiles the spec with every setting of the sweeps, counts what survives on every input, prints tables and writes files.
 * Returns the exit status. */
int explore_spec(Compilation *c, const Options *options);

#endif
