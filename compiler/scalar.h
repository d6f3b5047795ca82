/* Emits expressions of a spec as float32 operations. */
#ifndef TDAGEN_SCALAR_H
#define TDAGEN_SCALAR_H

#include "ir.h"
#include "spec.h"

/* Values of variables at one place of a kernel. Unset ones are null; reading one is an internal error. */
typedef struct Scope {
	const struct Scope *outer;         /* asked for what is unset here; may be NULL */
	Val var[VAR_COUNT];                /* float32, integers among them converted */
	Val params[SPEC_MAX_PARAMS];
} Scope;

Scope scope_inside(const Scope *outer);

/* Errors relative to the exact value stay near float32's: a few units in the last place for + - * / sqrt exp log tanh sigmoid,
 * and (1 + |y log2 x|) 2^-22 for powers that are not multiples of 1/2. */
Val scalar_emit(Builder *b, const Expr *e, const Scope *scope);
/* The same, and the sum of the sizes of all subexpressions: what rounding errors are relative to. */
Val scalar_emit_sized(Builder *b, const Expr *e, const Scope *scope, Val *size);

#endif
