/* Arrays in NumPy's .npy format (version 1 to 3): little-endian f16, f32 or f64, C order. Files are not trusted. */
#ifndef TDA_NPY_H
#define TDA_NPY_H

#include <stddef.h>
#include <stdint.h>
#include "tda.h"

enum { NPY_MAX_RANK = 4 };

typedef struct NpyArray {
	int rank;                      /* 0..NPY_MAX_RANK */
	int64_t shape[NPY_MAX_RANK];
	int64_t count;                 /* product of the shape */
	double *values;                /* freed with free() */
} NpyArray;

/* The bytes of a whole .npy file. The message does not name the file. */
tda_status npy_parse(const void *bytes, size_t length, NpyArray *array);
/* Writes float32. */
tda_status npy_write(const char *path, int rank, const int64_t *shape, const float *values);

/* ---- npz.c: a set of named arrays, from an .npz or .safetensors file or a folder of .npy files ---- */

typedef struct NpySet NpySet;

tda_status npy_set_open(const char *path, NpySet **set);
void npy_set_close(NpySet *set);       /* NULL is allowed */
int npy_set_count(const NpySet *set);
/* Without ".npy". */
const char *npy_set_name(const NpySet *set, int index);
tda_status npy_set_read(const NpySet *set, int index, NpyArray *array);

#endif
