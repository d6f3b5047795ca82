/*
 * The parser's state, and what it hands to the decoder: one kernel's statements, names resolved to register slots,
 * constants and addresses, opcodes still text. After the first error every function does nothing.
 */
#ifndef TDA_SIM_PTX_PARSE_H
#define TDA_SIM_PTX_PARSE_H

#include "model.h"
#include "ptx_lex.h"

enum {
	MAX_SLOTS = 1 << 19,            /* 32 MiB a warp: more is a damaged file */
	MAX_SHARED = 227 * 1024,        /* the most that any supported GPU gives a CTA */
	MAX_PARAM_BYTES = 4096,
	MAX_LOCAL = 1 << 16,
	MAX_GLOBAL = 1 << 26,
	MAX_SCOPES = 1 << 16,
};

typedef struct Name { const char *text; size_t length; } Name;

typedef struct RegDecl {
	Name name;
	uint32_t count;         /* %r<count>; 0: the name alone */
	uint32_t scope;
	Slot base;
	RegClass reg_class;
} RegDecl;

typedef struct Symbol {
	Name name;
	uint32_t scope;         /* 0: the module */
	Space space;
	uint64_t address;       /* of module-level .shared and .local: valid in the kernel that placed it */
	uint32_t bytes, alignment;
	uint32_t placed_in;     /* 1 + number of that kernel */
	bool dynamic;           /* .extern .shared: begins behind the kernel's other arrays */
} Symbol;

typedef struct Label { Name name; uint32_t scope, target, line; } Label;

typedef struct KernelSource {
	SrcInst *insts;         size_t n_insts, cap_insts;
	Operand *operands;      size_t n_operands, cap_operands;
	uint32_t n_slots;       /* registers declared so far; constants come after them */
} KernelSource;

typedef struct Parser {
	SimModule *module;
	Lexer lexer;
	bool failed;
	Kernel *kernel;         /* that is being parsed */
	KernelSource source;
	RegDecl *regs;          size_t n_regs, cap_regs;
	Symbol *symbols;        size_t n_symbols, cap_symbols;
	Label *labels;          size_t n_labels, cap_labels;
	Label *uses;            size_t n_uses, cap_uses;        /* target: index of the operand to fill in */
	uint32_t *dynamic;      size_t n_dynamic, cap_dynamic;  /* operands that hold a dynamic array's address */
	uint32_t *parents;      size_t n_scopes, cap_scopes;    /* scope 0 is the module */
	uint32_t scope;
	uint32_t file, source_line;
	size_t cap_kernels, cap_files, cap_globals, cap_params;
} Parser;

bool decode_kernel(SimModule *module, Kernel *kernel, const KernelSource *source);
bool load_error(SimModule *module, uint32_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Shared by ptx_parse.c, ptx_symbols.c and ptx_operand.c. All are no-ops after an error. */
void parse_error(Parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool parse_at(const Parser *p, char c);
void parse_next(Parser *p);
bool parse_accept(Parser *p, const char *text);
void parse_expect(Parser *p, const char *text);
uint64_t parse_int(Parser *p);
Name parse_word(Parser *p);
bool names_equal(Name a, Name b);
bool scope_sees(const Parser *p, uint32_t from, uint32_t scope);
uint32_t type_bytes(const char *type, size_t length);   /* of ".b32": 4; 0 when it is no type */

void parse_registers(Parser *p);                        /* after .reg */
void parse_variable(Parser *p, Space space, bool external);     /* after .shared, .global, .const, .local */
void parse_param(Parser *p);                            /* after .param */
Symbol *find_symbol(Parser *p, Name name);
const RegDecl *find_register(const Parser *p, Name name, Slot *slot);
uint64_t place_symbol(Parser *p, Symbol *symbol);       /* its address in the current kernel's address spaces */

Operand *parse_operand(Parser *p, bool branch);         /* appends to source.operands; NULL after an error */
void resolve_labels(Parser *p);
void resolve_dynamic(Parser *p);

#endif
