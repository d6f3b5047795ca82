/* The one place where libtda's errors are worded into a message: per thread, kept until the next failure. */
#ifndef TDA_ERROR_H
#define TDA_ERROR_H

#include "tda.h"

/* Stores the message and returns status, so that a check reads: return tda_fail(TDA_BAD_ARGUMENT, "..."). */
tda_status tda_fail(tda_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
tda_status tda_fail_memory(void);
/* Puts words in front of the stored message ("q1: " ...) and returns status. */
tda_status tda_fail_within(tda_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
