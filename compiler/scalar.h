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

/* Between which values scalar_emit's result lies, however its operations round and are fused, where every variable is what
 * the scope has: NaN or infinite where nothing better is known. Where the expression rises with a variable by its structure
 * alone (each operation rises or falls with each operand), `hi` also bounds all results at smaller values of it. */
typedef struct Bounds {
	Val lo, hi;
} Bounds;
Bounds scalar_bounds(Builder *b, const Expr *e, const Scope *scope);

/* Of these two files alone: a variable's value; one operation on its operands, of which the power of a POW with a constant
 * power is left out; is this such a POW? */
Val scalar_lookup(Builder *b, const Expr *e, const Scope *scope);
Val scalar_apply(Builder *b, const Expr *e, const Val *operands);
bool scalar_constant_power(const Expr *e);

#endif
