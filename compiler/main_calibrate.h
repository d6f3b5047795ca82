/* tdagen calibrate. For main.c alone. */
#ifndef TDAGEN_MAIN_CALIBRATE_H
#define TDAGEN_MAIN_CALIBRATE_H

#include "options.h"
#include "pipeline.h"

/* Of every command; EXIT_BAD_SPEC also for failed checks and targets that are not reached. */
enum { EXIT_BAD_SPEC = 1, EXIT_BAD_USAGE = 2, EXIT_INTERNAL = 3 };

/* Compiles the spec, finds the values, prints them, and writes the spec that has them where -o is given. Returns the exit
 * status. */
int calibrate_spec(Compilation *c, const Options *options);

#endif
