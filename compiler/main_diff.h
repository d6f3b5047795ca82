/* tdagen diff. For main.c alone. */
#ifndef TDAGEN_MAIN_DIFF_H
#define TDAGEN_MAIN_DIFF_H

#include "main_calibrate.h"

/* Compiles both specs and prints what differs, with --in on tensors too. Returns the exit status. */
int diff_specs(Compilation *first, const Options *options);

#endif
