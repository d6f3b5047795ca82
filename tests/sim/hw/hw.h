/* One table of cases that the simulator and a real GPU run with the same inputs. */
#ifndef SIM_HW_H
#define SIM_HW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	BLOCK = 64,             /* threads a CTA, and recorded of each case */
	GROUP = 128,            /* the same for cases of sm_90a: a warpgroup */
	CTAS = 64,
	MAX_IN = 12, MAX_OUT = 8,       /* 32-bit words a thread */
	MAP_RANK = 3,
};

typedef enum Kind {             /* of an output word, for the distance between two */
	KIND_BITS, KIND_F32, KIND_F16X2, KIND_BF16X2
} Kind;

/* A wgmma. Distances in bytes; swizzle: 0 none, 1, 2, 3 for 128, 64, 32 bytes, as in a descriptor. */
typedef struct HwOperand { int start, leading, stride, swizzle; bool mn_major; } HwOperand;
typedef struct HwProduct {
	const char *shape;      /* what follows m64nN; NULL: the case is none */
	int n;
	HwOperand a, b;
	bool a_in_registers, adds, negates;     /* adds: to D = 0; negates: B */
} HwProduct;

/* A copy of a box out of the first CTA's inputs. */
typedef struct HwBox {
	int type;               /* of CUtensorMapDataType */
	unsigned rank;          /* 0: the case is none */
	unsigned long long sizes[MAP_RANK], strides[MAP_RANK - 1];      /* elements, bytes */
	unsigned box[MAP_RANK];
	int swizzle;            /* of CUtensorMapSwizzle */
	int at[MAP_RANK];
} HwBox;

typedef struct HwCase {
	const char *name;
	const char *inputs;     /* a letter for each word: see hw_input */
	int n_out;
	Kind kind;
	double ulps;            /* allowed distance in units of the last place ... */
	double relative;        /* ... or, instead, relative to the largest finite result of the case */
	const char *body;       /* reads %i0.., writes %o0..; see hw_text for what is declared */
} HwCase;

typedef struct HopperCase {     /* its body, a product, or a box */
	HwCase base;
	HwProduct product;
	HwBox box;
} HopperCase;

extern const HwCase hw_cases[];
extern const HopperCase hopper_cases[];
extern const size_t hw_n_cases, hopper_n_cases;

uint32_t hw_input(char letter, uint32_t thread);
char *hw_text(const HwCase *c);         /* the case as PTX, kernel 'k'; malloc'ed; NULL when out of memory */
char *hopper_text(const HopperCase *c); /* a third parameter is the tensor map */

typedef enum GpuState { GPU_READY, GPU_NONE, GPU_FAILED } GpuState;

/* Not GPU_READY: tda_error_message says why. */
GpuState gpu_open(char *name, size_t name_size, bool *is_sm_90a);
/* Runs the kernel 'k' of text on GPU 0: in[threads][n_in], out[threads][n_out]; box may be NULL. False: *error says why. */
bool gpu_run(const char *text, const HwBox *box, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes,
	uint32_t ctas,
	uint32_t block, const char **error);
void gpu_close(void);

#endif
