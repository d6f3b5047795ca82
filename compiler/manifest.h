/* Writes the manifest (docs/manifest.md) that heads every PTX file. */
#ifndef TDAGEN_MANIFEST_H
#define TDAGEN_MANIFEST_H

#include "plan.h"

/* The complete artifact: manifest, then the body `ptx`. Returned in the arena. */
char *manifest_attach(Arena *arena, const Spec *spec, const Plan *plan, const char *ptx);

#endif
