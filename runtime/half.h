/* The 16-bit floats: IEEE binary16 and bfloat16, to and from float. Rounding is to nearest, ties to even; NaN stays
 * NaN. */
#ifndef TDA_HALF_H
#define TDA_HALF_H

#include <stddef.h>
#include <stdint.h>
#include "tda.h"

float f16_to_float(uint16_t bits);
uint16_t f16_from_float(float value);
float bf16_to_float(uint16_t bits);
uint16_t bf16_from_float(float value);

/* Element n of an array of the dtype. */
double dtype_load(tda_dtype dtype, const void *array, size_t n);
/* Stores the value rounded to the dtype: once, from the double. */
void dtype_store(tda_dtype dtype, void *array, size_t n, double value);
/* The value as rounded to the dtype. */
double dtype_round(tda_dtype dtype, double value);

#endif
