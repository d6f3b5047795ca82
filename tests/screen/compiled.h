/* Specs compiled by tdagen, for the tests of sparse plans. */
#ifndef COMPILED_H
#define COMPILED_H

#include "../../runtime/module.h"

/* What `TDAGEN SPEC OPTIONS -o -` prints: a PTX text; freed by the caller. NULL after a failed check. */
char *compiled_text(const char *tdagen, const char *spec, const char *options);
/* The same, opened. */
tda_kernel *compiled_kernel(const char *tdagen, const char *spec, const char *options);
/* The same, compiled only the first time that it is asked for: compiling takes longer than most cases do. Closed by compiled_close(). */
tda_kernel *compiled_once(const char *tdagen, const char *spec, const char *options);
void compiled_close(void);

#endif
