/* Operands of instructions, and the label and address fix-ups at a kernel's end. */
#include <string.h>
#include "ptx_parse.h"

static const struct { const char *name; uint8_t special; } specials[] = {
	{ "%tid.x", SPECIAL_TID_X }, { "%tid.y", SPECIAL_TID_Y }, { "%tid.z", SPECIAL_TID_Z },
	{ "%ntid.x", SPECIAL_NTID_X }, { "%ntid.y", SPECIAL_NTID_Y }, { "%ntid.z", SPECIAL_NTID_Z },
	{ "%ctaid.x", SPECIAL_CTAID_X }, { "%ctaid.y", SPECIAL_CTAID_Y }, { "%ctaid.z", SPECIAL_CTAID_Z },
	{ "%nctaid.x", SPECIAL_NCTAID_X }, { "%nctaid.y", SPECIAL_NCTAID_Y }, { "%nctaid.z", SPECIAL_NCTAID_Z },
	{ "%laneid", SPECIAL_LANEID }, { "%warpid", SPECIAL_WARPID }, { "%nwarpid", SPECIAL_NWARPID },
	{ "%lanemask_eq", SPECIAL_LANEMASK_EQ }, { "%lanemask_le", SPECIAL_LANEMASK_LE },
	{ "%lanemask_lt", SPECIAL_LANEMASK_LT }, { "%lanemask_ge", SPECIAL_LANEMASK_GE },
	{ "%lanemask_gt", SPECIAL_LANEMASK_GT }, { "%dynamic_smem_size", SPECIAL_DYNAMIC_SMEM },
	{ "%total_smem_size", SPECIAL_TOTAL_SMEM },
};

static Operand *append(Parser *p, OperandKind kind)
{
	KernelSource *s = &p->source;
	if (p->failed)
		return NULL;
	if (!sim_grow(&s->operands, &s->cap_operands, s->n_operands + 1, sizeof *s->operands)) {
		parse_error(p, "out of memory");
		return NULL;
	}
	Operand *operand = &s->operands[s->n_operands++];
	*operand = (Operand){ .kind = (uint8_t)kind };
	return operand;
}

static bool find_special(Name name, Slot *slot)
{
	for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
		if (strlen(specials[i].name) == name.length && memcmp(specials[i].name, name.text, name.length) == 0) {
			*slot = special_slot(specials[i].special);
			return true;
		}
	return false;
}

/* The address of a symbol as a constant in operand; a dynamic array's is known only at the kernel's end. */
static void use_symbol(Parser *p, Operand *operand, Name name)
{
	Symbol *symbol = find_symbol(p, name);
	if (!symbol) {
		parse_error(p, "'%.*s' is not declared", (int)name.length, name.text);
		return;
	}
	operand->value += place_symbol(p, symbol);
	if (!symbol->dynamic)
		return;
	if (!sim_grow(&p->dynamic, &p->cap_dynamic, p->n_dynamic + 1, sizeof *p->dynamic))
		parse_error(p, "out of memory");
	else
		p->dynamic[p->n_dynamic++] = (uint32_t)(operand - p->source.operands);
}

/* [+-]number, or nothing: 0. */
static uint64_t parse_displacement(Parser *p)
{
	bool plus = parse_accept(p, "+"), minus = parse_accept(p, "-");
	if (!plus && !minus)
		return 0;
	uint64_t value = parse_int(p);
	return minus ? 0 - value : value;
}

static void parse_address(Parser *p, Operand *operand)
{
	if (p->lexer.token.kind == TOKEN_INT || parse_at(p, '-')) {
		bool minus = parse_accept(p, "-");
		operand->value = parse_int(p);
		if (minus)
			operand->value = 0 - operand->value;
		operand->reg_class = REG_64;
	} else {
		Name name = parse_word(p);
		const RegDecl *reg = p->failed ? NULL : find_register(p, name, &operand->slot);
		operand->reg_class = reg ? (uint8_t)reg->reg_class : REG_64;
		if (!reg)
			operand->slot = 0, use_symbol(p, operand, name);
		else if (reg->reg_class != REG_32 && reg->reg_class != REG_64)
			parse_error(p, "an address register has 32 or 64 bits");
		operand->value += parse_displacement(p);
	}
}

static void use_label(Parser *p, Operand *operand, Name name)
{
	operand->kind = OPERAND_LABEL;
	if (!sim_grow(&p->uses, &p->cap_uses, p->n_uses + 1, sizeof *p->uses))
		parse_error(p, "out of memory");
	else
		p->uses[p->n_uses++] = (Label){ name, p->scope, (uint32_t)(operand - p->source.operands), p->lexer.token.line };
}

static void parse_name(Parser *p, Operand *operand, bool branch)
{
	Name name = parse_word(p);
	if (p->failed)
		return;
	const RegDecl *reg = find_register(p, name, &operand->slot);
	if (reg) {
		operand->kind = OPERAND_REG;
		operand->reg_class = (uint8_t)reg->reg_class;
	} else if (find_special(name, &operand->slot)) {
		operand->kind = OPERAND_REG;
		operand->reg_class = REG_32;
	} else if (names_equal(name, (Name){ "_", 1 })) {
		operand->kind = OPERAND_SINK;
	} else if (names_equal(name, (Name){ "WARP_SZ", 7 })) {
		operand->value = LANES;
	} else if (name.text[0] == '%') {
		parse_error(p, "register '%.*s' is not declared, and no special register that the simulator knows",
			(int)name.length, name.text);
	} else if (branch) {
		use_label(p, operand, name);
	} else {
		use_symbol(p, operand, name);
		operand->value += parse_displacement(p);
	}
}

static void parse_number(Parser *p, Operand *operand)
{
	bool minus = parse_accept(p, "-");
	const Token *t = &p->lexer.token;
	operand->value = t->value;
	if (t->kind == TOKEN_INT)
		operand->value = minus ? 0 - t->value : t->value;
	else if (t->kind == TOKEN_F64)
		operand->kind = OPERAND_FLOAT, operand->value ^= minus ? UINT64_C(1) << 63 : 0;
	else if (t->kind != TOKEN_F32 || minus)
		parse_error(p, "'%.*s' is no operand", (int)(t->length < 40 ? t->length : 40), t->text);
	parse_next(p);
}

/* Elements of a vector are plain operands. */
static void parse_scalar(Parser *p, bool branch)
{
	Operand *operand = append(p, OPERAND_CONST);
	if (!operand)
		return;
	if (parse_accept(p, "!")) {
		operand->negated = true;
		if (p->lexer.token.kind != TOKEN_WORD)
			parse_error(p, "a predicate expected after '!'");
	}
	if (p->lexer.token.kind == TOKEN_WORD)
		parse_name(p, operand, branch);
	else
		parse_number(p, operand);
}

/* The rest of {a, b}. */
static void parse_list(Parser *p)
{
	size_t first = p->source.n_operands;
	append(p, OPERAND_VECTOR);
	while (!p->failed && !parse_at(p, '}')) {
		parse_scalar(p, false);
		if (!parse_at(p, '}'))
			parse_expect(p, ",");
	}
	parse_expect(p, "}");
	if (!p->failed)
		p->source.operands[first].count = (uint32_t)(p->source.n_operands - first - 1);
}

Operand *parse_operand(Parser *p, bool branch)
{
	size_t first = p->source.n_operands;
	if (parse_accept(p, "[")) {
		Operand *operand = append(p, OPERAND_ADDRESS);
		if (operand)
			parse_address(p, operand);
		if (parse_accept(p, ",")) {     /* coordinates of a tensor's box */
			parse_expect(p, "{");
			parse_list(p);
		}
		parse_expect(p, "]");
	} else if (parse_accept(p, "{")) {
		parse_list(p);
	} else {
		parse_scalar(p, branch);
		if (parse_accept(p, "|")) {
			if (!p->failed)
				p->source.operands[first].has_pair = true;
			parse_scalar(p, false);
		}
	}
	return p->failed ? NULL : &p->source.operands[first];
}

void resolve_labels(Parser *p)
{
	for (size_t u = 0; u < p->n_uses && !p->failed; u++) {
		const Label *use = &p->uses[u], *found = NULL;
		for (size_t i = 0; i < p->n_labels; i++) {
			const Label *label = &p->labels[i];
			if (names_equal(label->name, use->name) && scope_sees(p, use->scope, label->scope)
			    && (!found || scope_sees(p, label->scope, found->scope)))
				found = label;
		}
		if (found)
			p->source.operands[use->target].value = found->target;
		else {
			load_error(p->module, use->line, "label '%.*s' is not defined", (int)use->name.length, use->name.text);
			p->failed = true;
		}
	}
}

/* Dynamic shared memory begins behind the static arrays, where its alignment allows. */
void resolve_dynamic(Parser *p)
{
	uint32_t alignment = 16;
	for (size_t i = 0; i < p->n_symbols; i++)
		if (p->symbols[i].dynamic && p->symbols[i].alignment > alignment)
			alignment = p->symbols[i].alignment;
	if (p->failed || !p->n_dynamic)
		return;
	p->kernel->static_shared = (p->kernel->static_shared + alignment - 1) & ~(alignment - 1);
	for (size_t i = 0; i < p->n_dynamic; i++)
		p->source.operands[p->dynamic[i]].value += p->kernel->static_shared;
}
