#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "testing.h"

static int passed, failed;

void check(bool ok, const char *format, ...)
{
	va_list args;
	if (ok) {
		passed++;
		return;
	}
	failed++;
	printf("FAILED: ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

int tests_done(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}

bool says(const char *error, const char *report)
{
	char part[200];
	for (const char *at = report; *at;) {
		size_t length = strcspn(at, "|");
		snprintf(part, sizeof part, "%.*s", (int)length, at);
		if (strstr(error, part))
			return true;
		at += length + (at[length] == '|');
	}
	return false;
}

uint32_t random_bits(void)
{
	static uint64_t state = 88172645463325252u;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16);
}

uint32_t matrix_bits(int value, char type)
{
	float x = (float)value;
	uint32_t bits;
	memcpy(&bits, &x, 4);
	switch (type) {
	case 'h': return value ? ((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023)) : 0;
	case 'b': return bits >> 16;
	case 't': return bits | 0x1abc;         /* what tf32 does not have must not count */
	default: return (uint32_t)value & 255;
	}
}

char *kernel_text(const char *registers, const char *body)
{
	size_t size = strlen(registers) + strlen(body) + 1024;
	char *text = malloc(size);
	if (!text)
		abort();
	snprintf(text, size, ".version 8.0\n.target sm_90a\n.address_size 64\n"
		".extern .shared .align 16 .b8 dynamic[];\n"
		".visible .entry k(.param .u64 p_in, .param .u64 p_out)\n{\n"
		".reg .b64 %%in, %%out;\n.reg .b32 %%t, %%cta, %%n;\n%s\n"
		"ld.param.u64 %%in, [p_in];\ncvta.to.global.u64 %%in, %%in;\n"
		"ld.param.u64 %%out, [p_out];\ncvta.to.global.u64 %%out, %%out;\n"
		"mov.u32 %%t, %%tid.x;\nmov.u32 %%cta, %%ctaid.x;\nmov.u32 %%n, %%ntid.x;\n"
		"mad.lo.s32 %%t, %%cta, %%n, %%t;\n%s\nret;\n}\n", registers, body);
	return text;
}

bool run_text(Sim *sim, const char *text, uint32_t ctas, uint32_t threads, uint32_t dynamic_shared, void *in, void *out)
{
	SimModule *module = sim_load(sim, text, strlen(text));
	const uint32_t grid[3] = { ctas, 1, 1 }, block[3] = { threads, 1, 1 };
	const void *params[] = { &in, &out };
	return module && sim_launch(sim, module, "k", grid, block, dynamic_shared, params) == 0;
}

/* widths has a digit for each source: 1 a predicate (the word's lowest bit), 2, 4, 8 bytes. */
bool run_op(const char *opcode, const char *widths, int out_bytes, const uint64_t *in, uint64_t *out, size_t cases)
{
	static const char *const classes[] = { [1] = ".pred %p", [2] = ".b16 %h", [4] = ".b32 %r", [8] = ".b64 %d" };
	char registers[256], body[2048];
	size_t n_in = strlen(widths), at = 0;
	snprintf(registers, sizeof registers, ".reg .pred %%p<9>; .reg .b16 %%h<9>; .reg .b32 %%r<9>; .reg .b64 %%d<9>; "
		".reg .b64 %%a, %%w;");
	at += (size_t)snprintf(body + at, sizeof body - at, "mul.wide.u32 %%a, %%t, %zu;\nadd.s64 %%a, %%in, %%a;\n",
		8 * n_in);
	for (size_t i = 0; i < n_in; i++) {
		int bytes = widths[i] - '0';
		const char *prefix = strchr(classes[bytes], '%');
		if (bytes == 1)
			at += (size_t)snprintf(body + at, sizeof body - at, "ld.global.u64 %%w, [%%a+%zu];\nand.b64 %%w, %%w, 1;\n"
				"setp.ne.u64 %%p%zu, %%w, 0;\n", 8 * i, i + 1);
		else
			at += (size_t)snprintf(body + at, sizeof body - at, "ld.global.b%d %s%zu, [%%a+%zu];\n", 8 * bytes,
				prefix, i + 1,
				8 * i);
	}
	at += (size_t)snprintf(body + at, sizeof body - at, "%s %s0", opcode, strchr(classes[out_bytes], '%'));
	for (size_t i = 0; i < n_in; i++)
		at += (size_t)snprintf(body + at, sizeof body - at, ", %s%zu", strchr(classes[widths[i] - '0'], '%'), i + 1);
	at += (size_t)snprintf(body + at, sizeof body - at, ";\nmul.wide.u32 %%a, %%t, 8;\nadd.s64 %%a, %%out, %%a;\n");
	if (out_bytes == 1)
		at += (size_t)snprintf(body + at, sizeof body - at, "selp.b64 %%d0, 1, 0, %%p0;\n");
	else if (out_bytes == 2)
		at += (size_t)snprintf(body + at, sizeof body - at, "cvt.u64.u16 %%d0, %%h0;\n");
	else if (out_bytes == 4)
		at += (size_t)snprintf(body + at, sizeof body - at, "cvt.u64.u32 %%d0, %%r0;\n");
	snprintf(body + at, sizeof body - at, "st.global.b64 [%%a], %%d0;\n");

	Sim *sim = sim_new();
	size_t lanes = (cases + 31) / 32 * 32;
	uint64_t *padded = calloc(lanes * (n_in + 1), 8);
	if (!sim || !padded)
		abort();
	memcpy(padded, in, cases * n_in * 8);
	for (size_t i = cases; i < lanes; i++)
		memcpy(padded + i * n_in, in, n_in * 8);
	void *from = sim_alloc(sim, lanes * n_in * 8), *to = sim_alloc(sim, lanes * 8);
	sim_copy_in(sim, from, padded, lanes * n_in * 8);
	char *text = kernel_text(registers, body);
	bool ok = run_text(sim, text, (uint32_t)(lanes / 32), 32, 0, from, to)
		&& sim_copy_out(sim, out, to, cases * 8) == 0;
	if (!ok)
		printf("%s: %s\n", opcode, sim_error(sim));
	free(text);
	free(padded);
	sim_free(sim);
	return ok;
}

char *read_text(const char *path, size_t *length)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		return NULL;
	fseek(file, 0, SEEK_END);
	long size = ftell(file);
	rewind(file);
	char *text = size >= 0 ? malloc((size_t)size + 1) : NULL;
	*length = text ? fread(text, 1, (size_t)size, file) : 0;
	if (text)
		text[*length] = 0;
	fclose(file);
	return text;
}

bool patch_text(char *text, const char *old, const char *with, int skip)
{
	char *at = strstr(text, old);
	while (at && skip-- > 0)
		at = strstr(at + 1, old);
	if (!at)
		return false;
	memset(at, ' ', strlen(old));
	memcpy(at, with, strlen(with));
	return true;
}
