/* Finds each statement's line in sim_ops.def and turns it into an Inst: a handler and register slots. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "exec.h"
#include "ptx_parse.h"

typedef struct OpInfo {
	const char *pattern, *operands;
	Handler handler;
	uint8_t traits;
} OpInfo;

static const OpInfo ops[] = {
#define OP(pattern, operands, handler, traits) { pattern, operands, op_##handler, traits },
#include "sim_ops.def"
#undef OP
};

enum { N_OPS = sizeof ops / sizeof *ops, CACHE_SIZE = 1024 };

static const struct { const char *name; Modifier flag; } modifiers[] = {
	{ ".ftz", MOD_FTZ }, { ".sat", MOD_SAT }, { ".satfinite", MOD_SAT }, { ".relu", MOD_RELU }, { ".NaN", MOD_NAN },
	{ ".nc", MOD_NC }, { ".trans", MOD_TRANS },
};

typedef struct Match {
	uint32_t flags, n_alternatives;
	uint8_t alternatives[MAX_ALTERNATIVES];
} Match;

typedef struct Decoder {
	SimModule *module;
	Kernel *kernel;
	const KernelSource *source;
	size_t cap_constants, cap_lists;
	uint32_t *constant_table;       /* hash -> 1 + index in Kernel.constants */
	size_t table_size;
	struct { const char *text; uint32_t length, first; } cache[CACHE_SIZE];       /* opcode -> first op that fits */
	char why[160];                  /* what did not fit the operands that an opcode's pattern wants */
} Decoder;

static uint32_t flag_of(const char *name, size_t length)
{
	for (size_t i = 0; i < sizeof modifiers / sizeof *modifiers; i++)
		if (strlen(modifiers[i].name) == length && memcmp(modifiers[i].name, name, length) == 0)
			return modifiers[i].flag;
	return 0;
}

/* Does the pattern fit text..end? Patterns are short: alternatives are tried in order, with backtracking. */
static bool match(const char *pattern, const char *text, const char *end, Match *m)
{
	for (; *pattern && *pattern != '{' && *pattern != '['; pattern++, text++)
		if (text == end || *text != *pattern)
			return false;
	if (!*pattern)
		return text == end;
	bool required = *pattern == '{';
	const char *close = strchr(pattern, required ? '}' : ']');
	uint8_t index = 0;
	for (const char *option = pattern + 1; option <= close; index++) {
		size_t length = strcspn(option, required ? ",}" : ",]");
		if ((size_t)(end - text) >= length && memcmp(option, text, length) == 0) {
			Match before = *m;
			m->flags |= flag_of(option, length);
			if (required && m->n_alternatives < MAX_ALTERNATIVES)
				m->alternatives[m->n_alternatives++] = index;
			if (match(close + 1, text + length, end, m))
				return true;
			*m = before;
		}
		option += length + 1;
	}
	return !required && match(close + 1, text, end, m);
}

static const char *class_name(unsigned reg_class)
{
	static const char *const names[] = { "predicate", "16-bit register", "32-bit register", "64-bit register",
		"128-bit register" };
	return names[reg_class];
}

static uint32_t class_bytes(unsigned reg_class) { return reg_class == REG_PRED ? 4 : 1u << reg_class; }

static bool grow_table(Decoder *d)
{
	size_t size = d->table_size ? 2 * d->table_size : 256;
	uint32_t *table = calloc(size, sizeof *table);
	if (!table)
		return false;
	for (uint32_t i = 0; i < d->kernel->n_constants; i++) {
		const Constant *c = &d->kernel->constants[i];
		size_t h = (c->value * UINT64_C(0x9e3779b97f4a7c15) >> 20) + c->reg_class;
		while (table[h & (size - 1)])
			h++;
		table[h & (size - 1)] = i + 1;
	}
	free(d->constant_table);
	d->constant_table = table;
	d->table_size = size;
	return true;
}

/* A constant is a register that is filled once, before the kernel starts. TRUE_SLOT when out of memory. */
static Slot constant_slot(Decoder *d, unsigned reg_class, uint64_t value)
{
	Kernel *k = d->kernel;
	if (reg_class == REG_16)
		value &= 0xffff;
	else if (reg_class == REG_32)
		value &= UINT32_MAX;
	if (2 * k->n_constants >= d->table_size && !grow_table(d))
		return TRUE_SLOT;
	size_t h = (value * UINT64_C(0x9e3779b97f4a7c15) >> 20) + reg_class;
	for (; d->constant_table[h & (d->table_size - 1)]; h++) {
		const Constant *c = &k->constants[d->constant_table[h & (d->table_size - 1)] - 1];
		if (c->value == value && c->reg_class == reg_class)
			return c->slot;
	}
	if (!sim_grow(&k->constants, &d->cap_constants, k->n_constants + 1, sizeof *k->constants))
		return TRUE_SLOT;
	Constant *c = &k->constants[k->n_constants++];
	*c = (Constant){ k->n_slots, (uint8_t)reg_class, value };
	k->n_slots += reg_class == REG_16 ? 1 : reg_class == REG_32 ? 2 : 4;
	d->constant_table[h & (d->table_size - 1)] = k->n_constants;
	return c->slot;
}

static bool misfit(Decoder *d, int number, const char *wanted)
{
	if (!d->why[0])
		snprintf(d->why, sizeof d->why, "operand %d should be %s", number, wanted);
	return false;
}

static bool add_slot(Decoder *d, Inst *in, bool is_dst, Slot slot, int number)
{
	if (in->n_dst + in->n_src >= MAX_OPERANDS)
		return misfit(d, number, "shorter: the instruction has too many registers");
	in->op[in->n_dst + in->n_src] = slot;
	if (is_dst)
		in->n_dst++;
	else
		in->n_src++;
	return true;
}

/* One register or constant where the signature has letter. *width gets its size in bytes. Letters that allow any width
 * give a constant the width of constant_class. */
static bool fit_scalar(Decoder *d, Inst *in, const Operand *o, char letter, bool is_dst, int number, uint8_t *width,
	unsigned constant_class)
{
	static const char letters[] = "phwdq";
	const char *at = strchr(letters, letter);
	unsigned wanted = at ? (unsigned)(at - letters) : 0;
	bool any = letter == 'x' || letter == 'v';
	if (o->kind == OPERAND_SINK && is_dst) {
		*width = (uint8_t)class_bytes(any ? constant_class : wanted);
		return add_slot(d, in, true, SINK_SLOT, number);
	}
	if (o->kind == OPERAND_REG) {
		if (any ? o->reg_class == REG_PRED || (o->reg_class == REG_128 && letter == 'x') : o->reg_class != wanted)
			return misfit(d, number, any ? "a 16, 32 or 64-bit register" : class_name(wanted));
		if (is_dst && o->slot < FIRST_FREE_SLOT)
			return misfit(d, number, "a register that can be written");
		if (o->negated && (letter != 'p' || is_dst))
			return misfit(d, number, "without '!'");
		in->alt[MAX_ALTERNATIVES - 1] |= o->negated;
		*width = (uint8_t)class_bytes(o->reg_class);
		return add_slot(d, in, is_dst, o->slot, number);
	}
	if (letter == 'p' && !is_dst && o->kind == OPERAND_CONST) {
		in->alt[MAX_ALTERNATIVES - 1] |= o->value == 0;        /* false is !true */
		*width = (uint8_t)class_bytes(REG_PRED);
		return add_slot(d, in, false, TRUE_SLOT, number);
	}
	if (is_dst || letter == 'p' || letter == 'q' || (o->kind != OPERAND_CONST && o->kind != OPERAND_FLOAT))
		return misfit(d, number, any ? "a register" : class_name(wanted));
	uint64_t value = o->value;
	if (o->kind == OPERAND_FLOAT && letter == 'w') {
		double x;
		memcpy(&x, &value, sizeof x);
		value = bits_of((float)x);
	} else if (o->kind == OPERAND_FLOAT && letter != 'd') {
		return misfit(d, number, "an integer or hexadecimal constant");
	}
	*width = (uint8_t)class_bytes(any ? constant_class : wanted);
	return add_slot(d, in, is_dst, constant_slot(d, any ? constant_class : wanted, value), number);
}

static bool fit_address(Decoder *d, Inst *in, const Operand *o, int number, int *n_addresses)
{
	if (o->kind != OPERAND_ADDRESS)
		return misfit(d, number, "an address [..]");
	uint8_t bytes = (uint8_t)(o->slot ? class_bytes(o->reg_class) : 8);
	in->address_bytes[*n_addresses] = bytes;
	in->displacement[(*n_addresses)++] = (int64_t)o->value;
	return add_slot(d, in, false, o->slot ? o->slot : constant_slot(d, REG_64, 0), number);
}

/* A list of count registers (any number for 0), or one without braces. *used: operands consumed. */
static bool fit_list(Decoder *d, Inst *in, const Operand *o, char letter, uint32_t count, bool is_dst, int number,
	uint8_t *width, uint32_t *used)
{
	bool braces = o->kind == OPERAND_VECTOR;
	uint32_t n = braces ? o->count : 1;
	char wanted[48];
	snprintf(wanted, sizeof wanted, "a list of %u registers in braces", count);
	if ((count ? n != count : n == 0 || n > 8) || (!braces && count > 1))
		return misfit(d, number, count ? wanted : "a register or a list of up to 8");
	const Operand *elements = braces ? o + 1 : o;
	unsigned list_class = REG_64;
	for (uint32_t i = n; i-- > 0;)
		if (elements[i].kind == OPERAND_REG)
			list_class = elements[i].reg_class;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t this_width = 0;
		if (!fit_scalar(d, in, &elements[i], letter, is_dst, number, &this_width, list_class))
			return false;
		if (i > 0 && this_width != *width)
			return misfit(d, number, "a list of registers of one width");
		*width = this_width;
	}
	in->n_vector = (uint8_t)n;
	*used = braces ? n + 1 : 1;
	return true;
}

/* Registers that are kept aside. */
static bool fit_accumulators(Decoder *d, Inst *in, const Operand *o, int number, uint32_t *used)
{
	Kernel *k = d->kernel;
	if (o->kind != OPERAND_VECTOR)
		return misfit(d, number, "a list of registers in braces");
	if (!sim_grow(&k->lists, &d->cap_lists, k->n_lists + o->count, sizeof *k->lists))
		return misfit(d, number, "shorter: out of memory");
	in->list = k->n_lists;
	in->n_list = (uint16_t)o->count;
	for (uint32_t i = 1; i <= o->count; i++) {
		if (o[i].kind != OPERAND_REG || o[i].reg_class != REG_32 || o[i].slot < FIRST_FREE_SLOT || o[i].negated)
			return misfit(d, number, "a list of 32-bit registers");
		k->lists[in->list + i - 1] = o[i].slot;
	}
	*used = o->count + 1;
	return true;
}

/* Do the statement's operands fit the signature? Fills in's operands. */
static bool fit_operands(Decoder *d, const SrcInst *src, const char *signature, Inst *in)
{
	uint32_t at = 0;
	int number = 0, n_addresses = 0;
	bool is_dst = true;
	const Operand *operands = src->n ? &d->source->operands[src->first] : NULL;
	for (const char *s = signature; *s; s++) {
		if (*s == '=') {
			is_dst = false;
			continue;
		}
		const Operand *o = at < src->n ? &operands[at] : NULL;
		const Operand *before = at > 0 ? &operands[at - 1] : NULL;
		bool is_list = s[0] == 'v' || (s[1] >= '1' && s[1] <= '9');
		bool paired = before && before->has_pair;
		uint8_t width = 0, *first = is_dst ? &in->dst_bytes : &in->src_bytes;
		uint32_t used = 1;
		number++;
		if (*s == 'P' && !paired) {
			if (!add_slot(d, in, true, SINK_SLOT, number))
				return false;
			number--;
			continue;
		}
		if ((*s == 'o' || *s == 'O') && !o)
			continue;
		if (!o)
			return misfit(d, number, "there");
		if (paired != (*s == 'P'))
			return misfit(d, number, "without '|'");
		if (*s == 'a') {
			if (!fit_address(d, in, o, number, &n_addresses))
				return false;
		} else if (*s == 'A') {
			if (!fit_accumulators(d, in, o, number, &used))
				return false;
		} else if (*s == 'l') {
			if (o->kind != OPERAND_LABEL)
				return misfit(d, number, "a label");
			in->target = (uint32_t)o->value;
		} else if (is_list) {
			if (!fit_list(d, in, o, *s, *s == 'v' ? 0 : (uint32_t)(s[1] - '0'), is_dst, number, &width, &used))
				return false;
			s += *s != 'v';
		} else if (!fit_scalar(d, in, o, *s == 'P' ? 'p' : *s == 'o' ? 'w' : *s == 'O' ? 'd' : *s, is_dst, number, &width,
			REG_64)) {
			return false;
		}
		if (width && !*first)
			*first = width;
		at += used;
	}
	return at == src->n ? true : misfit(d, number + 1, "left out");
}

/* .v4 in the opcode asks for a list of 4, none for one register. */
static bool check_vector(Decoder *d, const SrcInst *src, const Inst *in, const char *signature)
{
	uint32_t n = 1;
	if (!strchr(signature, 'v'))
		return true;
	for (uint32_t i = 0; i + 2 < src->opcode_length; i++)
		if (src->opcode[i] == '.' && src->opcode[i + 1] == 'v' && src->opcode[i + 2] >= '2'
			&& src->opcode[i + 2] <= '8')
			n = (uint32_t)(src->opcode[i + 2] - '0');
	if (n == in->n_vector)
		return true;
	snprintf(d->why, sizeof d->why, "the opcode moves %u elements, the list has %u", n, in->n_vector);
	return false;
}

/* alt[0] of a wgmma: N / 8 - 1; a warp has N / 2 registers of D. */
static bool check_list(Decoder *d, const Inst *in, const Match *m)
{
	uint32_t wanted = 4 * (m->alternatives[0] + 1u);
	if (!(in->traits & OP_WGMMA))
		return true;
	if (in->n_list == wanted) {
		d->kernel->n_lists += wanted;
		d->kernel->uses_wgmma = true;
		return true;
	}
	snprintf(d->why, sizeof d->why, "D of this shape has %u registers, the list has %u", wanted, in->n_list);
	return false;
}

/* Index of the first op whose pattern fits, N_OPS when none does. Opcodes repeat, so the answer is kept. */
static uint32_t first_match(Decoder *d, const SrcInst *src)
{
	uint32_t hash = 2166136261u;
	for (uint32_t i = 0; i < src->opcode_length; i++)
		hash = (hash ^ (unsigned char)src->opcode[i]) * 16777619u;
	uint32_t slot = (hash ^ hash >> 16) % CACHE_SIZE;
	if (d->cache[slot].text && d->cache[slot].length == src->opcode_length
	    && memcmp(d->cache[slot].text, src->opcode, src->opcode_length) == 0)
		return d->cache[slot].first;
	uint32_t i = 0;
	for (Match m = { 0 }; i < N_OPS && !match(ops[i].pattern, src->opcode, src->opcode + src->opcode_length, &m); i++)
		m = (Match){ 0 };
	d->cache[slot].text = src->opcode;
	d->cache[slot].length = src->opcode_length;
	d->cache[slot].first = i;
	return i;
}

static bool decode_inst(Decoder *d, const SrcInst *src, Inst *out)
{
	d->why[0] = 0;
	for (uint32_t i = first_match(d, src); i < N_OPS; i++) {
		Match m = { 0 };
		if (!match(ops[i].pattern, src->opcode, src->opcode + src->opcode_length, &m))
			continue;
		Inst in = {
			.run = ops[i].handler, .traits = ops[i].traits, .flags = m.flags, .guard = src->guard,
			.guard_flip = src->guard_negated ? UINT32_MAX : 0, .line = src->line, .file = src->file,
			.source_line = src->source_line,
		};
		if (!fit_operands(d, src, ops[i].operands, &in) || !check_vector(d, src, &in, ops[i].operands)
		    || !check_list(d, &in, &m))
			continue;
		uint8_t negated = in.alt[MAX_ALTERNATIVES - 1];
		memcpy(in.alt, m.alternatives, sizeof in.alt);
		in.alt[MAX_ALTERNATIVES - 1] |= negated;
		*out = in;
		return true;
	}
	int length = (int)(src->opcode_length < 120 ? src->opcode_length : 120);
	if (d->why[0])
		return load_error(d->module, src->line, "'%.*s': %s", length, src->opcode, d->why);
	return load_error(d->module, src->line, "the simulator does not know the instruction '%.*s'", length, src->opcode);
}

bool decode_kernel(SimModule *module, Kernel *kernel, const KernelSource *source)
{
	Decoder *d = calloc(1, sizeof *d);
	kernel->n_slots = kernel->n_registers = source->n_slots;
	kernel->code = calloc(source->n_insts + 1, sizeof *kernel->code);
	bool ok = d && kernel->code;
	if (!ok)
		load_error(module, kernel->line, "out of memory");
	if (d) {
		d->module = module;
		d->kernel = kernel;
		d->source = source;
	}
	for (size_t i = 0; ok && i < source->n_insts; i++, kernel->n_code++)
		ok = decode_inst(d, &source->insts[i], &kernel->code[i]);
	if (d)
		free(d->constant_table);
	free(d);
	return ok;
}
