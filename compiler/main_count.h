/* Kernels that count, for explore and calibrate. */
#ifndef TDAGEN_MAIN_COUNT_H
#define TDAGEN_MAIN_COUNT_H

#include "../runtime/tda.h"
#include "pipeline.h"

/* Compiles the spec of another compilation, with its settings, to kernels that count, for every GPU that tdagen knows. False after a
 * message on standard error, which `program` begins; on success *kernel is closed by the caller. */
bool count_compile(const Compilation *of, Counted counted, const char *program, tda_kernel **kernel);

#endif
