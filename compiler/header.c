#include "header.h"

#include <ctype.h>
#include <string.h>

static void print_quoted(FILE *out, const char *text, size_t length)
{
	fputc('"', out);
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\t')
			fputs("\\t", out);
		else if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c == '?' || c < ' ' || c >= 127)
			fprintf(out, "\\%03o", c);     /* ? too: two of them may begin a trigraph */
		else
			fputc(c, out);
	}
}

/* A string literal a line, so that no compiler's limit on their length matters and the header can be read. */
static void print_lines(FILE *out, const char *text)
{
	while (*text) {
		size_t length = strcspn(text, "\n");

		fputc('\t', out);
		print_quoted(out, text, length);
		fputs(text[length] ? "\\n\"\n" : "\"\n", out);
		text += length + (text[length] == '\n');
	}
}

/* A spec's name as an identifier: other characters become underscores. */
static void make_prefix(char *prefix, size_t size, const char *name, int (*convert)(int))
{
	size_t i = 0;

	if (isdigit((unsigned char)*name) && size > 1)
		prefix[i++] = '_';
	for (; *name && i + 1 < size; name++)
		prefix[i++] = isalnum((unsigned char)*name) ? (char)convert((unsigned char)*name) : '_';
	prefix[i] = '\0';
}

static void print_params(const Spec *spec, const char *upper, const char *lower, FILE *out)
{
	fprintf(out, "\n/* Learned parameters: float32 tensors, in this order. */\nenum {\n");
	for (int i = 0; i < spec->param_count; i++) {
		fprintf(out, "\t%s_KERNEL_PARAM_%s = %d,    /* %s, initially %.9g */\n", upper, spec->params[i].name, i,
			param_shape_name(spec->params[i].shape), spec->params[i].init);
	}
	fprintf(out, "\t%s_KERNEL_PARAMS = %d\n};\n", upper, spec->param_count);
	if (spec->param_count == 0)
		return;
	fprintf(out, "static const char *const %s_kernel_param_names[%d] = {", lower, spec->param_count);
	for (int i = 0; i < spec->param_count; i++)
		fprintf(out, "%s \"%s\"", i ? "," : "", spec->params[i].name);
	fputs(" };\n", out);
}

void header_print(const Spec *spec, const Plan *plan, const char *ptx, FILE *out)
{
	enum { PREFIX_MAX = 128 };
	char upper[PREFIX_MAX], lower[PREFIX_MAX];

	make_prefix(upper, sizeof upper, spec->name, toupper);
	make_prefix(lower, sizeof lower, spec->name, tolower);
	fprintf(out, "/* The kernels of the spec %s, made by tdagen " TDAGEN_VERSION ". Open them with\n"
		" * tda_open_memory(%s_kernel_ptx, sizeof %s_kernel_ptx - 1, &kernel). */\n", spec->name, lower, lower);
	fprintf(out, "#ifndef %s_KERNEL_H\n#define %s_KERNEL_H\n\n", upper, upper);
	fprintf(out, "#define %s_KERNEL_NAME \"%s\"\n", upper, spec->name);
	fprintf(out, "#define %s_KERNEL_SPEC_HASH \"%s\"\n", upper, spec->hash);
	fprintf(out, "#define %s_KERNEL_TARGET \"%s\"\n", upper, target_name(plan_target(plan)));
	fprintf(out, "#define %s_KERNEL_DTYPE \"%s\"    /* of q, k, v, o and their gradients */\n", upper,
		dtype_name(spec->dtype));
	fprintf(out, "enum {\n\t%s_KERNEL_DTYPE_BYTES = %d,\n\t%s_KERNEL_HEAD_DIM = %d,    /* elements of a row of q and k */\n"
		"\t%s_KERNEL_VALUE_DIM = %d,   /* of v and o */\n\t%s_KERNEL_VIEWS = %d        /* pairs of q and k */\n};\n",
		upper, dtype_size(spec->dtype), upper, spec->head_dim, upper, spec->value_dim, upper, spec->views);
	print_params(spec, upper, lower, out);
	fprintf(out, "\nstatic const char %s_kernel_ptx[] =\n", lower);
	print_lines(out, ptx);
	fputs("\t;\n\n#endif\n", out);
}
