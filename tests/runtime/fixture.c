#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../compiler/sha256.h"
#include "fixture.h"

static int passed, failed;

bool fixture_pass(void)
{
	passed++;
	return true;
}

bool fixture_fail(const char *file, int line, const char *format, ...)
{
	va_list list;

	failed++;
	printf("%s:%d: ", file, line);
	va_start(list, format);
	vprintf(format, list);
	va_end(list);
	printf("\n");
	return false;
}

int fixture_result(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0 || passed == 0;
}

char *fixture_seal(const char *lines, const char *body)
{
	char hex[65];
	size_t size = strlen(lines) + strlen(body) + 200;
	char *text = malloc(size);

	if (!text)
		abort();
	sha256_hex(body, strlen(body), hex);
	snprintf(text, size, "//! tdagen-manifest 1.0\n%s//! end %s\n%s", lines, hex, body);
	return text;
}

const char fixture_tda_lines[] =
	"//! compiler 0.1.0\n"
	"//! target sm_80\n"
	"//! spec tda 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
	"//! plan dense\n"
	"//! dtype bf16\n"
	"//! precision ieee\n"
	"//! head_dim 64\n"
	"//! value_dim 64\n"
	"//! views 2\n"
	"//! normalize l2\n"
	"//! mask causal\n"
	"//! param beta per_head 1 -inf inf\n"
	"//! param lambda scalar 0.5 0 1\n"
	"//! threshold $beta 2 i 1 + log * 64 / sqrt *\n"
	"//! score s\n"
	"//! weight s tau - relu 2 ^\n"
	"//! combine 1 1\n"
	"//! combine 2 $lambda 0 1 clamp neg\n"
	"//! zeros proved\n"
	"//! tolerance 0.005 0.01\n"
	"//! slack 1e-6\n";

const char fixture_tda_kernels[] =
	"//! buffer tau saved batch*heads*round_up(q_len,64)*8\n"
	"//! buffer rows saved batch*heads*round_up(q_len,64)*16\n"
	"//! buffer partial backward batch*heads*ceil_div(q_len,64)*8\n"
	"//! kernel forward row_terms 128 0 batch*heads*ceil_div(q_len,64)\n"
	"//! arg ptr q1\n"
	"//! arg ptr q2\n"
	"//! arg ptr param.beta\n"
	"//! arg ptr buffer.tau\n"
	"//! arg ptr buffer.rows\n"
	"//! arg i32 heads\n"
	"//! arg i32 q_len\n"
	"//! arg i64 q1.batch_stride\n"
	"//! arg i64 q2.row_stride\n"
	"//! kernel forward forward 128 50000 batch*heads*ceil_div(q_len,64)\n"
	"//! arg ptr k1\n"
	"//! arg ptr v\n"
	"//! arg ptr o\n"
	"//! arg ptr buffer.rows\n"
	"//! arg i32 ceil_div(q_len,64)\n"
	"//! arg map k1 64 k_len 2*k1.row_stride kv_heads 2*k1.head_stride batch 2*k1.batch_stride 64 128\n"
	"//! kernel backward backward_q 128 60000 batch*heads*ceil_div(q_len,64)\n"
	"//! arg ptr do\n"
	"//! arg ptr dq1\n"
	"//! arg ptr dq2\n"
	"//! arg ptr buffer.tau\n"
	"//! arg ptr buffer.partial\n"
	"//! kernel backward backward_kv 128 60000 batch*kv_heads*ceil_div(k_len,64)\n"
	"//! arg ptr dk1\n"
	"//! arg ptr dk2\n"
	"//! arg ptr dv\n"
	"//! arg i32 heads/kv_heads\n"
	"//! kernel backward reduce_beta 256 0 heads\n"
	"//! when dparam.beta\n"
	"//! arg ptr buffer.partial\n"
	"//! arg ptr dparam.beta\n"
	"//! arg i64 layer*heads\n";

const char fixture_body[] =
	".version 8.0\n.target sm_80\n.address_size 64\n";

uint64_t fixture_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

double fixture_uniform(uint64_t *state)
{
	return (double)(fixture_random(state) >> 11) * 0x1p-53;
}

double fixture_normal(uint64_t *state)
{
	double radius = sqrt(-2 * log(1 - fixture_uniform(state)));

	return radius * cos(2 * 3.14159265358979323846 * fixture_uniform(state));
}
