/*
 * Inside dsl/: running a spec file in Lua and turning what it returns into a Spec.
 *
 * load.c     spec_load: the order of things
 * sandbox.c  the Lua state: limits, environment, protected calls, Lua's own errors as diagnostics
 * report.c   places in the source, suggestions, raising an error out of Lua
 * values.c   what a spec builds its table from: option, learned, constant, masks, rms_norm, attention
 * fields.c   the table given to attention, field by field
 * trace.c    symbolic values, and calling a spec's functions with them
 * check.c    values at the initial parameters: NaN thresholds, infinite weights
 */
#ifndef TDAGEN_DSL_H
#define TDAGEN_DSL_H

#include <float.h>
#include <lauxlib.h>
#include <lua.h>
#include <math.h>
#include <time.h>
#include "spec.h"

enum { MAX_CONSTANTS = 64, MAX_OPTIONS = 64 };

/* Which function of a spec is being traced. */
typedef enum Scope { SCOPE_NONE, SCOPE_THRESHOLD, SCOPE_SCORE, SCOPE_WEIGHT, SCOPE_COMBINE } Scope;

typedef struct Constant {
	const char *name;
	double value;
} Constant;

/* One run of one spec file; reached from Lua through loader_of. */
typedef struct Loader {
	Arena *arena;
	Diag *diag;
	const char *source;
	lua_State *L;
	SpecOption *options;
	int option_count;
	const char *seen_options[MAX_OPTIONS];     /* names that option() was asked for */
	int seen_option_count;
	Spec *spec;
	Constant constants[MAX_CONSTANTS];
	int constant_count;
	bool exhausted;                            /* a limit was passed: nothing more is run */
	int learned_count;                         /* learned() calls so far: the order of parameters */
	Scope scope;
	size_t memory_used, memory_total;          /* bytes held by Lua; bytes ever given to it */
	bool memory_refused;
	long instructions;                         /* executed, in steps of the hook */
	struct timespec started;                   /* of this thread's CPU clock */
} Loader;

Loader *loader_of(lua_State *L);

/* Kernels compute in float32: a number beyond it is infinite there. */
static inline bool dsl_is_finite(double value)
{
	return fabs(value) <= FLT_MAX;
}

/* report.c */
/* The column of word in a line of the spec, 0 if it isn't there. An identifier is matched whole. */
int dsl_column(const Loader *loader, int line, const char *word);
/* The spec's line that is being executed, with the column of word (NULL: no column). */
Loc dsl_here(lua_State *L, const char *word);
/* Where a table constructor that begins at `from` sets the field; `from` when it can't be found. */
Loc dsl_field_loc(const Loader *loader, Loc from, const char *field);
/* ", did you mean 'x'?", or "". */
const char *dsl_did_you_mean(Loader *loader, const char *word, const char *const *names, int count);
/* Reports an error and its note (NULL: none) and raises it in Lua; dsl_call knows it as reported. */
_Noreturn void dsl_fail(lua_State *L, Loc loc, const char *note, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* The message that stands for "reported already" as a Lua error value. */
void dsl_push_reported(lua_State *L);
bool dsl_is_reported(lua_State *L, int index);

/* sandbox.c */
lua_State *dsl_state_new(Loader *loader);
/* Pushes the environment of specs. */
void dsl_push_environment(lua_State *L);
/* lua_pcall; false after an error, which is then in the diagnostics and off the stack. */
bool dsl_call(Loader *loader, int arguments, int results);
/* Pushes the compiled file; false after an error. */
bool dsl_load_source(Loader *loader, size_t length);

/* values.c */
typedef enum ValueKind {
	VALUE_SHAPE, VALUE_LEARNED, VALUE_CONSTANT, VALUE_MASK, VALUE_NORM, VALUE_ATTENTION
} ValueKind;

typedef struct Value {
	ValueKind kind;
	Loc loc;
	ParamShape shape;                          /* SHAPE, LEARNED */
	double init, min, max;                     /* LEARNED; CONSTANT: init */
	bool bounded;                              /* LEARNED: min or max was given */
	int serial;                                /* LEARNED: counts the calls */
	bool causal;                               /* MASK */
	int64_t window;                            /* MASK: 0 is none */
	double eps;                                /* NORM; its gain is user value 1 */
	/* ATTENTION: its table is user value 1 */
} Value;

void dsl_register_values(lua_State *L);            /* into the table on top of the stack */
/* NULL if there is no such value at index. */
Value *dsl_value(lua_State *L, int index, ValueKind kind);
/* How a user would name the value at index in "not ..."; in the arena. */
const char *dsl_shown(lua_State *L, int index);

/* fields.c */
/* Reads the table on top of the stack (taken off) into loader->spec; false after errors. */
bool dsl_read_fields(Loader *loader, Loc loc);

/* trace.c */
extern const char *const dsl_context_names[];      /* what c offers besides parameters */
extern const int dsl_context_name_count;
void dsl_register_trace(lua_State *L);             /* into the table on top of the stack */
/* "a symbolic value", "a comparison", or NULL for anything else. */
const char *dsl_symbol_kind(lua_State *L, int index);
/* Each calls the function on top of the stack (taken off); false after errors. */
bool dsl_trace_function(Loader *loader, Scope scope, Loc loc, const Expr **result);
bool dsl_trace_combine(Loader *loader, Loc loc);

/* check.c */
bool dsl_check_values(Loader *loader);

#endif
