/* --header: a C header that holds the PTX and what a host program would otherwise type by hand. */
#ifndef TDAGEN_HEADER_H
#define TDAGEN_HEADER_H

#include <stdio.h>
#include "plan.h"

/* ptx is the whole artifact. Names begin with the spec's name: NAME_KERNEL_... and name_kernel_ptx. */
void header_print(const Spec *spec, const Plan *plan, const char *ptx, FILE *out);

#endif
