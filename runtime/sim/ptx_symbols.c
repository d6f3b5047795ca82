/* Registers, arrays and parameters: what their declarations mean and where they lie. */
#include <stdlib.h>
#include <string.h>
#include "ptx_parse.h"

static const struct { const char *name; uint8_t bytes; } types[] = {
	{ ".b8", 1 }, { ".u8", 1 }, { ".s8", 1 },
	{ ".b16", 2 }, { ".u16", 2 }, { ".s16", 2 }, { ".f16", 2 }, { ".bf16", 2 },
	{ ".b32", 4 }, { ".u32", 4 }, { ".s32", 4 }, { ".f32", 4 }, { ".f16x2", 4 }, { ".bf16x2", 4 }, { ".tf32", 4 },
	{ ".b64", 8 }, { ".u64", 8 }, { ".s64", 8 }, { ".f64", 8 },
	{ ".b128", 16 },
};

uint32_t type_bytes(const char *type, size_t length)
{
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (strlen(types[i].name) == length && memcmp(types[i].name, type, length) == 0)
			return types[i].bytes;
	return 0;
}

static bool reg_class_of(Name type, RegClass *reg_class)
{
	switch (type_bytes(type.text, type.length)) {
	case 2: *reg_class = REG_16; return true;
	case 4: *reg_class = REG_32; return true;
	case 8: *reg_class = REG_64; return true;
	case 16: *reg_class = REG_128; return true;
	}
	*reg_class = REG_PRED;
	return names_equal(type, (Name){ ".pred", 5 });
}

static uint32_t class_slots(RegClass reg_class)
{
	return reg_class == REG_PRED ? 1 : 1u << (reg_class - 1);
}

/* .b32 %r<100>, %x; */
void parse_registers(Parser *p)
{
	RegDecl decl = { .scope = p->scope };
	Name type = parse_word(p);
	if (!p->failed && !reg_class_of(type, &decl.reg_class))
		parse_error(p, "'%.*s' is no register type", (int)type.length, type.text);
	do {
		decl.name = parse_word(p);
		decl.base = p->source.n_slots;
		decl.count = 0;
		if (parse_accept(p, "<")) {
			uint64_t count = parse_int(p);
			parse_expect(p, ">");
			if (count == 0 || count > MAX_SLOTS)
				parse_error(p, "a register range has 1 to %d registers", MAX_SLOTS);
			decl.count = (uint32_t)count;
		}
		uint64_t slots = (uint64_t)(decl.count ? decl.count : 1) * class_slots(decl.reg_class);
		if (p->source.n_slots + slots > MAX_SLOTS)
			parse_error(p, "a kernel's registers take more than %d slots of %d bytes", MAX_SLOTS, SLOT_BYTES);
		if (!p->failed && !sim_grow(&p->regs, &p->cap_regs, p->n_regs + 1, sizeof *p->regs))
			parse_error(p, "out of memory");
		if (p->failed)
			return;
		p->source.n_slots += (uint32_t)slots;
		p->regs[p->n_regs++] = decl;
	} while (parse_accept(p, ","));
	parse_expect(p, ";");
}

/* Is name one of decl's registers, and which? */
static bool decl_holds(const RegDecl *decl, Name name, uint32_t *index)
{
	*index = 0;
	if (!decl->count)
		return names_equal(decl->name, name);
	size_t digits = name.length - decl->name.length;
	if (name.length <= decl->name.length || digits > 7 || memcmp(name.text, decl->name.text, decl->name.length) != 0)
		return false;
	for (size_t i = decl->name.length; i < name.length; i++) {
		if (name.text[i] < '0' || name.text[i] > '9')
			return false;
		*index = *index * 10 + (uint32_t)(name.text[i] - '0');
	}
	return *index < decl->count && (digits == 1 || name.text[decl->name.length] != '0');
}

/* The innermost declaration wins: later ones are inner ones, where they are seen at all. */
const RegDecl *find_register(const Parser *p, Name name, Slot *slot)
{
	for (size_t i = p->n_regs; i-- > 0;) {
		const RegDecl *decl = &p->regs[i];
		uint32_t index;
		if (decl_holds(decl, name, &index) && scope_sees(p, p->scope, decl->scope)) {
			*slot = decl->base + index * class_slots(decl->reg_class);
			return decl;
		}
	}
	return NULL;
}

Symbol *find_symbol(Parser *p, Name name)
{
	for (size_t i = p->n_symbols; i-- > 0;)
		if (names_equal(p->symbols[i].name, name) && scope_sees(p, p->scope, p->symbols[i].scope))
			return &p->symbols[i];
	return NULL;
}

static uint32_t round_up(uint32_t value, uint32_t alignment)
{
	return (value + alignment - 1) / alignment * alignment;
}

uint64_t place_symbol(Parser *p, Symbol *symbol)
{
	Kernel *k = p->kernel;
	bool shared = symbol->space == SPACE_SHARED;
	if (symbol->dynamic || (!shared && symbol->space != SPACE_LOCAL) || symbol->placed_in == p->module->n_kernels)
		return symbol->address;
	uint32_t *top = shared ? &k->static_shared : &k->local_bytes;
	symbol->address = round_up(*top, symbol->alignment);
	symbol->placed_in = p->module->n_kernels;
	if (symbol->address + symbol->bytes > (shared ? MAX_SHARED : MAX_LOCAL))
		parse_error(p, "the kernel's %s arrays are larger than %d bytes", shared ? ".shared" : ".local",
			shared ? MAX_SHARED : MAX_LOCAL);
	else
		*top = (uint32_t)symbol->address + symbol->bytes;
	return symbol->address;
}

static uint32_t parse_alignment(Parser *p)
{
	if (!parse_accept(p, ".align"))
		return 0;
	uint64_t alignment = parse_int(p);
	if (!p->failed && (alignment == 0 || alignment > 1024 || (alignment & (alignment - 1))))
		parse_error(p, ".align takes a power of two up to 1024");
	return p->failed ? 1 : (uint32_t)alignment;
}

/* [4][8]: 32 elements; [] is 0 of them, for .extern and initialised arrays. */
static uint64_t parse_dimensions(Parser *p, bool *open)
{
	uint64_t elements = 1;
	*open = false;
	while (parse_accept(p, "[")) {
		if (parse_at(p, ']')) {
			*open = true;
			elements = 0;
		} else {
			uint64_t n = parse_int(p);
			if (n > MAX_GLOBAL || elements * n > MAX_GLOBAL)
				parse_error(p, "an array has more than %d elements", MAX_GLOBAL);
			else
				elements *= n;
		}
		parse_expect(p, "]");
	}
	return elements;
}

/* One number, as the bytes of the array's element type. */
static void parse_initial_value(Parser *p, uint8_t *to, uint32_t bytes, bool is_float)
{
	bool minus = parse_accept(p, "-");
	Token t = p->lexer.token;
	uint64_t bits = t.value;
	if (t.kind == TOKEN_F64 && bytes == 4) {
		double x;
		memcpy(&x, &bits, sizeof x);
		float f = (float)(minus ? -x : x);
		memcpy(&bits, &f, sizeof f);
	} else if (t.kind == TOKEN_INT ? is_float : t.kind != (bytes == 4 ? TOKEN_F32 : TOKEN_F64)) {
		parse_error(p, "an initialiser holds numbers of the array's type; addresses and others are not supported");
	} else if (minus) {
		bits = 0 - bits;
	}
	parse_next(p);
	memcpy(to, &bits, bytes);
}

static void parse_initialiser(Parser *p, uint8_t *memory, uint64_t elements, uint32_t bytes, bool is_float)
{
	if (!parse_at(p, '{')) {
		parse_initial_value(p, memory, bytes, is_float);
		return;
	}
	int depth = 0;
	uint64_t i = 0;
	do {
		if (parse_accept(p, "{")) {
			depth++;
		} else if (parse_accept(p, "}")) {
			depth--;
		} else if (!parse_accept(p, ",")) {
			if (i == elements)
				parse_error(p, "more initial values than the %llu elements", (unsigned long long)elements);
			else
				parse_initial_value(p, memory + i++ * bytes, bytes, is_float);
		}
	} while (depth > 0 && !p->failed);
}

/* Module-level arrays are allocated at once, zero where not initialised. */
static void allocate_global(Parser *p, Symbol *symbol, uint32_t element, uint64_t elements, bool is_float)
{
	SimModule *m = p->module;
	if (!sim_grow(&m->globals, &p->cap_globals, m->n_globals + 1, sizeof *m->globals)) {
		parse_error(p, "out of memory");
		return;
	}
	void *memory = memory_alloc(m->sim, symbol->bytes);
	if (!memory) {
		parse_error(p, "out of memory");
		return;
	}
	m->globals[m->n_globals++] = memory;
	sim_fill(m->sim, memory, 0, symbol->bytes);
	symbol->address = (uint64_t)(uintptr_t)memory;
	if (parse_accept(p, "="))
		parse_initialiser(p, memory, elements, element, is_float);
}

void parse_variable(Parser *p, Space space, bool external)
{
	Symbol symbol = { .space = space, .scope = p->scope };
	symbol.alignment = parse_alignment(p);
	Name type = parse_word(p);
	if (names_equal(type, (Name){ ".attribute", 10 }))
		parse_error(p, ".attribute is not supported");
	uint32_t element = type_bytes(type.text, type.length);
	if (!p->failed && !element)
		parse_error(p, "'%.*s' is no type of an array", (int)type.length, type.text);
	bool open;
	symbol.name = parse_word(p);
	uint64_t elements = parse_dimensions(p, &open);
	if (p->failed)
		return;
	symbol.bytes = (uint32_t)(elements * element);
	if (symbol.alignment < element)
		symbol.alignment = element;
	symbol.dynamic = open && external && space == SPACE_SHARED;
	if (elements * element > MAX_GLOBAL)
		parse_error(p, "the array is larger than %d bytes", MAX_GLOBAL);
	else if (!symbol.dynamic && (open || external))
		parse_error(p, "'%.*s': only .extern .shared arrays may be external or have no size", (int)symbol.name.length,
			symbol.name.text);
	else if (space == SPACE_GLOBAL || space == SPACE_CONST)
		allocate_global(p, &symbol, element, elements, strchr(type.text, 'f') && type.text[1] == 'f');
	parse_expect(p, ";");
	if (!p->failed && !sim_grow(&p->symbols, &p->cap_symbols, p->n_symbols + 1, sizeof *p->symbols))
		parse_error(p, "out of memory");
	if (!p->failed)
		p->symbols[p->n_symbols++] = symbol;
}

/* .align 16 .b8 name[64], or .u64 .ptr .global .align 16 name */
void parse_param(Parser *p)
{
	Kernel *k = p->kernel;
	Symbol symbol = { .space = SPACE_PARAM, .scope = p->scope };
	symbol.alignment = parse_alignment(p);
	Name type = parse_word(p);
	uint32_t element = type_bytes(type.text, type.length);
	if (!p->failed && !element)
		parse_error(p, "'%.*s' is no type of a parameter", (int)type.length, type.text);
	if (parse_accept(p, ".ptr")) {
		if (!parse_accept(p, ".global") && !parse_accept(p, ".shared") && !parse_accept(p, ".const"))
			parse_accept(p, ".local");
		parse_alignment(p);
	}
	bool open;
	symbol.name = parse_word(p);
	uint64_t elements = parse_dimensions(p, &open);
	if (p->failed)
		return;
	if (symbol.alignment < element)
		symbol.alignment = element;
	symbol.bytes = (uint32_t)(elements * element);
	symbol.address = round_up(k->param_bytes, symbol.alignment);
	if (open || elements * element > MAX_PARAM_BYTES || symbol.address + symbol.bytes > MAX_PARAM_BYTES) {
		parse_error(p, "the parameters take more than %d bytes", MAX_PARAM_BYTES);
		return;
	}
	if (!sim_grow(&p->symbols, &p->cap_symbols, p->n_symbols + 1, sizeof *p->symbols)
	    || !sim_grow(&k->params, &p->cap_params, k->n_params + 1, sizeof *k->params)) {
		parse_error(p, "out of memory");
		return;
	}
	p->symbols[p->n_symbols++] = symbol;
	k->param_bytes = (uint32_t)symbol.address + symbol.bytes;
	k->params[k->n_params++] = (Param){ (uint32_t)symbol.address, symbol.bytes };
}
