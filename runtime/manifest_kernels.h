/* The lines of a manifest that are about kernels: handlers for its reader's table (manifest.c). */
#ifndef TDA_MANIFEST_KERNELS_H
#define TDA_MANIFEST_KERNELS_H

#include "manifest_words.h"

/* In the second pass: they name buffers and parameters. `when`, `beside`, `follows` and `arg` are of the kernel above them. */
tda_status manifest_read_kernel(Reader *r);
tda_status manifest_read_when(Reader *r);
tda_status manifest_read_beside(Reader *r);
tda_status manifest_read_follows(Reader *r);
tda_status manifest_read_arg(Reader *r);
void manifest_free_kernels(Manifest *manifest);

/* A size in bytes: a formula over the shape, freed by whoever has it. */
tda_status manifest_read_bytes(const Reader *r, Word word, Formula **formula);

#endif
