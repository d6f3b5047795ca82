/*
 * mma.sync m16n8: D = A B + C, 16 x 8 results a warp. With g = lane / 4 and t = lane % 4, and E elements of an
 * operand in a register (1 tf32, 2 of 16 bits, 4 of 8 bits), register r of A holds row g + 8 (r % 2), columns E (t +
 * 4 (r / 2)) on; register r of B rows E (t + 4 r) on of column g; C and D rows g and g + 8, columns 2t and 2t + 1.
 * Products are exact. The sum of one instruction is taken in double and rounded once; hardware's order and rounding
 * of it are not architecturally defined, so results agree with it within rounding only. Integer results are exact.
 */
#include "exec.h"

enum { M = 16, N = 8, MAX_K = 32 };

static bool whole_warp(Warp *w, const Inst *in, uint32_t mask)
{
	w->cta->sim->counts.mma++;
	return mask == UINT32_MAX
		|| report_at(w, in, -1, "a matrix instruction needs all 32 lanes, only 0x%08x are there", mask);
}

/* The four lanes of a group hold 4 E neighbours of one row of A, or of one column of B: as memory, a register is a
 * small matrix already, of 8 such pieces. */
#define UNPACK(name, T, E, element) \
WIDE static void name(const T *from, float (*to)[MAX_K], int column) \
{ \
	for (int g = 0; g < 8; g++) \
		for (int i = 0; i < 4 * E; i++) { \
			T x = from[4 * E * g + i]; \
			to[g][column + i] = element; \
		} \
}

UNPACK(unpack_tf32, uint32_t, 1, float_of(x & ~0x1fffu))
UNPACK(unpack_f16, uint16_t, 2, half_to_float(x))
UNPACK(unpack_bf16, uint16_t, 2, bf16_to_float(x))

/* A row by row, B column by column; n_a registers of A and n_a / 2 of B begin at op[first]. */
static void unpack_floats(Warp *w, const Inst *in, int first, int n_a, Format format, float a[M][MAX_K],
	float b[N][MAX_K])
{
	int piece = format == FORMAT_TF32 ? 4 : 8;
	for (int r = 0; r < n_a + n_a / 2; r++) {
		const void *from = reg(w, in->op[first + r]);
		float (*to)[MAX_K] = r < n_a ? &a[8 * (r % 2)] : b;
		int column = piece * (r < n_a ? r / 2 : r - n_a);
		if (format == FORMAT_TF32)
			unpack_tf32(from, to, column);
		else if (format == FORMAT_BF16)
			unpack_bf16(from, to, column);
		else
			unpack_f16(from, to, column);
	}
}

WIDE static void multiply(const float a[M][MAX_K], const float b[N][MAX_K], int k, double d[M][N])
{
	double rows[MAX_K][N];
	for (int j = 0; j < k; j++)
		for (int n = 0; n < N; n++)
			rows[j][n] = b[n][j];
	for (int m = 0; m < M; m++) {
		double sum[N] = { 0 };
		for (int j = 0; j < k; j++) {
			double x = a[m][j];
			for (int n = 0; n < N; n++)
				sum[n] += x * rows[j][n];
		}
		for (int n = 0; n < N; n++)
			d[m][n] += sum[n];
	}
}

/* Row l / 4 and column 2 (l % 4) of a matrix of 8 columns is its element 2 l. */
WIDE static void widen_accumulator(const float *c, double *d)
{
	for (int l = 0; l < LANES; l++)
		d[2 * l] = c[l];
}

WIDE static void narrow_accumulator(const double *d, float *c)
{
	for (int l = 0; l < LANES; l++)
		c[l] = canonical((float)d[2 * l]);
}

static bool mma_to_f32(Warp *w, const Inst *in, uint32_t mask, Format format)
{
	float a[M][MAX_K], b[N][MAX_K];
	double d[M][N];
	int n_a = (in->n_src - 4) * 2 / 3;
	if (!whole_warp(w, in, mask))
		return false;
	unpack_floats(w, in, 4, n_a, format, a, b);
	for (int r = 0; r < 4; r++)
		widen_accumulator(reg(w, in->op[4 + n_a + n_a / 2 + r]), &d[8 * (r / 2)][r % 2]);
	multiply(a, b, (format == FORMAT_TF32 ? 2 : 4) * n_a, d);
	for (int r = 0; r < 4; r++)
		narrow_accumulator(&d[8 * (r / 2)][r % 2], reg(w, in->op[r]));
	return true;
}

/* alt[0]: {.f16.f16,.bf16.bf16} */
bool op_mma_half_f32(Warp *w, const Inst *in, uint32_t mask)
{
	return mma_to_f32(w, in, mask, in->alt[0] ? FORMAT_BF16 : FORMAT_F16);
}
bool op_mma_tf32(Warp *w, const Inst *in, uint32_t mask) { return mma_to_f32(w, in, mask, FORMAT_TF32); }

/* C and D of f16: register r holds row g + 8 r. */
bool op_mma_f16(Warp *w, const Inst *in, uint32_t mask)
{
	float a[M][MAX_K], b[N][MAX_K];
	double d[M][N];
	int n_a = (in->n_src - 2) * 2 / 3;
	if (!whole_warp(w, in, mask))
		return false;
	unpack_floats(w, in, 2, n_a, FORMAT_F16, a, b);
	for (int r = 0; r < 2; r++) {
		const uint32_t *c = reg(w, in->op[2 + n_a + n_a / 2 + r]);
		for (int l = 0; l < LANES; l++)
			for (int e = 0; e < 2; e++)
				d[l / 4 + 8 * r][2 * (l % 4) + e] = half_to_float(c[l] >> 16 * e & 0xffff);
	}
	multiply(a, b, 4 * n_a, d);
	for (int r = 0; r < 2; r++) {
		uint32_t *to = reg(w, in->op[r]);
		for (int l = 0; l < LANES; l++) {
			const double *pair = &d[l / 4 + 8 * r][2 * (l % 4)];
			to[l] = (uint32_t)(format_encode(pair[1], FORMAT_F16, ROUND_NEAREST) << 16
				| format_encode(pair[0], FORMAT_F16, ROUND_NEAREST));
		}
	}
	return true;
}

static int32_t element_8(uint32_t bits, bool is_unsigned) { return is_unsigned ? (int32_t)(bits & 255) : (int8_t)bits; }

WIDE static void multiply_int(const int32_t a[M][MAX_K], const int32_t b[MAX_K][N], int k, int32_t sum[M][N])
{
	for (int m = 0; m < M; m++)
		for (int j = 0; j < k; j++)
			for (int n = 0; n < N; n++)
				sum[m][n] += a[m][j] * b[j][n];
}

/* alt: {.s8,.u8} of A, of B. The sum wraps, or saturates once at the end: a step's products stay below 2^22. */
bool op_mma_int8(Warp *w, const Inst *in, uint32_t mask)
{
	int32_t a[M][MAX_K], b[MAX_K][N], sum[M][N] = { 0 };
	int n_a = (in->n_src - 4) * 2 / 3;
	if (!whole_warp(w, in, mask))
		return false;
	for (int r = 0; r < n_a + n_a / 2; r++) {
		const uint32_t *s = reg(w, in->op[4 + r]);
		for (int l = 0; l < LANES; l++)
			for (int e = 0; e < 4; e++) {
				if (r < n_a)
					a[l / 4 + 8 * (r % 2)][4 * (l % 4 + 4 * (r / 2)) + e] = element_8(s[l] >> 8 * e, in->alt[0]);
				else
					b[4 * (l % 4 + 4 * (r - n_a)) + e][l / 4] = element_8(s[l] >> 8 * e, in->alt[1]);
			}
	}
	multiply_int(a, b, 8 * n_a, sum);
	for (int r = 0; r < 4; r++) {
		const int32_t *c = reg(w, in->op[4 + n_a + n_a / 2 + r]);
		int32_t *to = reg(w, in->op[r]);
		for (int l = 0; l < LANES; l++) {
			int64_t x = (int64_t)c[l] + sum[l / 4 + 8 * (r / 2)][2 * (l % 4) + r % 2];
			if (in->flags & MOD_SAT)
				x = x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : x;
			to[l] = (int32_t)(uint32_t)x;
		}
	}
	return true;
}
