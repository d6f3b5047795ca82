/* Modules, kernels and statements. Symbols are in ptx_symbols.c, operands in ptx_operand.c. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ptx_parse.h"

void parse_error(Parser *p, const char *format, ...)
{
	if (p->failed)
		return;
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	load_error(p->module, p->lexer.token.line, "%s", text);
	p->failed = true;
	p->lexer.token.kind = TOKEN_END;
}

bool parse_at(const Parser *p, char c)
{
	return p->lexer.token.kind == TOKEN_PUNCT && p->lexer.token.text[0] == c;
}

void parse_next(Parser *p)
{
	if (p->failed)
		return;
	lex_next(&p->lexer);
	if (p->lexer.token.kind == TOKEN_BAD)
		parse_error(p, "cannot read '%.*s'", (int)(p->lexer.token.length < 40 ? p->lexer.token.length : 40),
			p->lexer.token.text);
}

bool parse_accept(Parser *p, const char *text)
{
	if (!token_is(&p->lexer.token, text))
		return false;
	parse_next(p);
	return true;
}

static void unexpected(Parser *p, const char *wanted)
{
	const Token *t = &p->lexer.token;
	if (t->kind == TOKEN_END)
		parse_error(p, "the text ends where %s is expected", wanted);
	else
		parse_error(p, "%s expected before '%.*s'", wanted, (int)(t->length < 60 ? t->length : 60), t->text);
}

void parse_expect(Parser *p, const char *text)
{
	char quoted[32];
	if (parse_accept(p, text))
		return;
	snprintf(quoted, sizeof quoted, "'%s'", text);
	unexpected(p, quoted);
}

uint64_t parse_int(Parser *p)
{
	uint64_t value = p->lexer.token.value;
	if (p->lexer.token.kind != TOKEN_INT) {
		unexpected(p, "a number");
		return 0;
	}
	parse_next(p);
	return value;
}

Name parse_word(Parser *p)
{
	Name name = { p->lexer.token.text, p->lexer.token.length };
	if (p->lexer.token.kind != TOKEN_WORD) {
		unexpected(p, "a name");
		return (Name){ "", 0 };
	}
	parse_next(p);
	return name;
}

bool names_equal(Name a, Name b)
{
	return a.length == b.length && memcmp(a.text, b.text, a.length) == 0;
}

bool scope_sees(const Parser *p, uint32_t from, uint32_t scope)
{
	while (from != scope && from != 0)
		from = p->parents[from];
	return from == scope;
}

static void enter_scope(Parser *p)
{
	if (p->n_scopes >= MAX_SCOPES || !sim_grow(&p->parents, &p->cap_scopes, p->n_scopes + 1, sizeof *p->parents)) {
		parse_error(p, "too many { } blocks");
		return;
	}
	p->parents[p->n_scopes] = p->scope;
	p->scope = (uint32_t)p->n_scopes++;
}

static void skip_line(Parser *p, uint32_t line)
{
	while (p->lexer.token.kind != TOKEN_END && p->lexer.token.line == line)
		parse_next(p);
}

/* From a { to its }. */
static void skip_braces(Parser *p)
{
	int depth = 0;
	do {
		if (parse_at(p, '{'))
			depth++;
		else if (parse_at(p, '}'))
			depth--;
		else if (p->lexer.token.kind == TOKEN_END)
			unexpected(p, "'}'");
		parse_next(p);
	} while (depth > 0 && !p->failed);
}

static void parse_file(Parser *p)
{
	uint32_t line = p->lexer.token.line;
	uint64_t number = parse_int(p);
	if (p->lexer.token.kind != TOKEN_STRING || number > 4096) {
		unexpected(p, "a file number up to 4096 and its name");
		return;
	}
	SimModule *m = p->module;
	if (!sim_grow(&m->files, &p->cap_files, number + 1, sizeof *m->files)) {
		parse_error(p, "out of memory");
		return;
	}
	if (number >= m->n_files)
		m->n_files = (uint32_t)number + 1;
	free(m->files[number]);
	m->files[number] = strndup(p->lexer.token.text, p->lexer.token.length);
	skip_line(p, line);
}

static void parse_loc(Parser *p)
{
	uint32_t line = p->lexer.token.line;
	p->file = (uint32_t)parse_int(p);
	p->source_line = (uint32_t)parse_int(p);
	skip_line(p, line);
}

/* Directives that may stand anywhere. True when there was one. */
static bool parse_debug_directive(Parser *p)
{
	if (parse_accept(p, ".loc"))
		parse_loc(p);
	else if (parse_accept(p, ".file"))
		parse_file(p);
	else if (parse_accept(p, ".pragma"))
		parse_next(p), parse_expect(p, ";");
	else if (parse_accept(p, ".section")) {
		parse_next(p);
		skip_braces(p);
	} else
		return false;
	return true;
}

static void parse_guard(Parser *p, SrcInst *inst)
{
	inst->guard_negated = parse_accept(p, "!");
	Name name = parse_word(p);
	const RegDecl *reg = find_register(p, name, &inst->guard);
	if (!p->failed && (!reg || reg->reg_class != REG_PRED))
		parse_error(p, "'%.*s' is no predicate register", (int)name.length, name.text);
}

static void parse_instruction(Parser *p)
{
	KernelSource *s = &p->source;
	SrcInst inst = { .file = p->file, .source_line = p->source_line, .first = (uint32_t)s->n_operands };
	if (parse_accept(p, "@"))
		parse_guard(p, &inst);
	inst.line = p->lexer.token.line;
	Name opcode = parse_word(p);
	inst.opcode = opcode.text;
	inst.opcode_length = (uint32_t)opcode.length;
	bool branch = opcode.length >= 3 && memcmp(opcode.text, "bra", 3) == 0;
	while (!p->failed && !parse_at(p, ';')) {
		if (!parse_operand(p, branch))
			return;
		if (!parse_at(p, ';'))
			parse_expect(p, ",");
	}
	parse_expect(p, ";");
	inst.n = (uint32_t)s->n_operands - inst.first;
	if (p->failed)
		return;
	if (!sim_grow(&s->insts, &s->cap_insts, s->n_insts + 1, sizeof *s->insts))
		parse_error(p, "out of memory");
	else
		s->insts[s->n_insts++] = inst;
}

static void parse_label(Parser *p, Name name, uint32_t line)
{
	for (size_t i = 0; i < p->n_labels; i++)
		if (p->labels[i].scope == p->scope && names_equal(p->labels[i].name, name)) {
			parse_error(p, "label '%.*s' is there already, on line %u", (int)name.length, name.text, p->labels[i].line);
			return;
		}
	if (!sim_grow(&p->labels, &p->cap_labels, p->n_labels + 1, sizeof *p->labels)) {
		parse_error(p, "out of memory");
		return;
	}
	p->labels[p->n_labels++] = (Label){ name, p->scope, (uint32_t)p->source.n_insts, line };
}

static void parse_statement(Parser *p);

static void parse_block(Parser *p)
{
	uint32_t outer = p->scope;
	enter_scope(p);
	while (!p->failed && !parse_at(p, '}')) {
		if (p->lexer.token.kind == TOKEN_END)
			unexpected(p, "'}'");
		else
			parse_statement(p);
	}
	parse_expect(p, "}");
	p->scope = outer;
}

/* Blocks nest by recursion: the depth is bounded by the scopes that are open. */
static void parse_statement(Parser *p)
{
	if (parse_at(p, '{')) {
		uint32_t depth = 0;
		for (uint32_t s = p->scope; s; s = p->parents[s])
			depth++;
		if (depth > 100)
			parse_error(p, "blocks nest more than 100 deep");
		parse_next(p);
		parse_block(p);
	} else if (parse_accept(p, ";") || parse_debug_directive(p)) {
		return;
	} else if (parse_accept(p, ".reg")) {
		parse_registers(p);
	} else if (parse_accept(p, ".shared")) {
		parse_variable(p, SPACE_SHARED, false);
	} else if (parse_accept(p, ".local")) {
		parse_variable(p, SPACE_LOCAL, false);
	} else if (p->lexer.token.kind == TOKEN_WORD && p->lexer.token.text[0] == '.') {
		parse_error(p, "directive '%.*s' is not supported inside a kernel", (int)p->lexer.token.length,
			p->lexer.token.text);
	} else if (p->lexer.token.kind == TOKEN_WORD) {
		Lexer before = p->lexer;
		Name name = parse_word(p);
		if (parse_at(p, ':')) {
			parse_next(p);
			parse_label(p, name, before.token.line);
		} else if (!p->failed) {
			p->lexer = before;
			parse_instruction(p);
		}
	} else {
		parse_instruction(p);
	}
}

static void parse_performance_directives(Parser *p)
{
	Kernel *k = p->kernel;
	while (!p->failed && !parse_at(p, '{')) {
		if (parse_accept(p, ".explicitcluster"))
			continue;
		Name name = parse_word(p);
		uint64_t size[3] = { 1, 1, 1 };
		bool has_size = p->lexer.token.kind == TOKEN_INT;
		for (int i = 0; i < 3 && has_size; i++) {
			size[i] = parse_int(p);
			if (size[i] > 1024)
				parse_error(p, "a CTA has at most 1024 threads");
			if (!parse_accept(p, ","))
				break;
		}
		if (names_equal(name, (Name){ ".maxntid", 8 }))
			k->max_threads = (uint32_t)(size[0] * size[1] * size[2]);
		else if (names_equal(name, (Name){ ".reqntid", 8 }))
			for (int i = 0; i < 3; i++)
				k->required_threads[i] = (uint32_t)size[i];
		else if (names_equal(name, (Name){ ".reqnctapercluster", 18 })) {
			if (size[0] * size[1] * size[2] != 1)
				parse_error(p, "a cluster of several CTAs: the simulator has none");
		} else if (names_equal(name, (Name){ ".maxnreg", 8 }))
			k->max_registers = (uint32_t)size[0];
		else if (!names_equal(name, (Name){ ".minnctapersm", 13 }))
			parse_error(p, "directive '%.*s' is not supported before a kernel's body", (int)name.length, name.text);
	}
}

static void forget_kernel_names(Parser *p)
{
	size_t kept = 0;
	for (size_t i = 0; i < p->n_symbols; i++)
		if (p->symbols[i].scope == 0)
			p->symbols[kept++] = p->symbols[i];
	p->n_symbols = kept;
	p->n_regs = p->n_labels = p->n_uses = p->n_dynamic = 0;
	p->n_scopes = 1;
	p->scope = 0;
	p->file = p->source_line = 0;
	p->source.n_insts = p->source.n_operands = 0;
	p->source.n_slots = FIRST_FREE_SLOT;
	p->cap_params = 0;
}

static void parse_entry(Parser *p)
{
	SimModule *m = p->module;
	uint32_t line = p->lexer.token.line;
	Name name = parse_word(p);
	if (p->failed)
		return;
	for (uint32_t i = 0; i < m->n_kernels; i++)
		if (strlen(m->kernels[i].name) == name.length && memcmp(m->kernels[i].name, name.text, name.length) == 0) {
			parse_error(p, "kernel '%.*s' is there already", (int)name.length, name.text);
			return;
		}
	if (!sim_grow(&m->kernels, &p->cap_kernels, m->n_kernels + 1, sizeof *m->kernels)) {
		parse_error(p, "out of memory");
		return;
	}
	Kernel *k = p->kernel = &m->kernels[m->n_kernels++];
	*k = (Kernel){ .name = strndup(name.text, name.length), .line = line };
	if (!k->name)
		parse_error(p, "out of memory");
	forget_kernel_names(p);
	enter_scope(p);
	if (parse_accept(p, "(")) {
		while (!p->failed && !parse_at(p, ')')) {
			parse_expect(p, ".param");
			parse_param(p);
			if (!parse_at(p, ')'))
				parse_expect(p, ",");
		}
		parse_expect(p, ")");
	}
	parse_performance_directives(p);
	parse_expect(p, "{");
	parse_block(p);
	resolve_labels(p);
	resolve_dynamic(p);
	if (!p->failed && (!decode_kernel(m, k, &p->source) || !find_reconvergence(m->sim, k)))
		p->failed = true;
}

static void parse_function(Parser *p, bool external)
{
	if (!external) {
		parse_error(p, ".func: the simulator has no calls; let the compiler inline device functions");
		return;
	}
	while (!p->failed && p->lexer.token.kind != TOKEN_END && !parse_at(p, ';'))
		parse_next(p);
	parse_expect(p, ";");
}

static void parse_declaration(Parser *p)
{
	bool external = false;
	for (;;) {
		if (parse_accept(p, ".extern"))
			external = true;
		else if (!parse_accept(p, ".visible") && !parse_accept(p, ".weak") && !parse_accept(p, ".common"))
			break;
	}
	uint32_t line = p->lexer.token.line;
	if (parse_accept(p, ".version") || parse_accept(p, ".target") || parse_accept(p, ".address_size"))
		skip_line(p, line);
	else if (parse_debug_directive(p))
		return;
	else if (parse_accept(p, ".entry"))
		parse_entry(p);
	else if (parse_accept(p, ".func"))
		parse_function(p, external);
	else if (parse_accept(p, ".shared"))
		parse_variable(p, SPACE_SHARED, external);
	else if (parse_accept(p, ".global"))
		parse_variable(p, SPACE_GLOBAL, external);
	else if (parse_accept(p, ".const"))
		parse_variable(p, SPACE_CONST, external);
	else if (p->lexer.token.kind == TOKEN_WORD && p->lexer.token.text[0] != '.') {
		parse_next(p);        /* a label between debug sections */
		parse_expect(p, ":");
	} else
		unexpected(p, "a kernel or a declaration");
}

static void parser_free(Parser *p)
{
	free(p->source.insts);
	free(p->source.operands);
	free(p->regs);
	free(p->symbols);
	free(p->labels);
	free(p->uses);
	free(p->dynamic);
	free(p->parents);
}

bool parse_module(SimModule *module)
{
	Parser p = { .module = module };
	lex_start(&p.lexer, module->text, module->length);
	enter_scope(&p);
	if (p.lexer.token.kind == TOKEN_END)
		parse_error(&p, "the PTX text is empty");
	else if (!token_is(&p.lexer.token, ".version"))
		unexpected(&p, ".version");
	while (!p.failed && p.lexer.token.kind != TOKEN_END)
		parse_declaration(&p);
	parser_free(&p);
	return !p.failed;
}
