/* One table of cases that the simulator and a real GPU run with the same inputs. */
#ifndef SIM_HW_H
#define SIM_HW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	BLOCK = 64,             /* threads a CTA, and recorded of each case */
	CTAS = 64,
	MAX_IN = 12, MAX_OUT = 4,       /* 32-bit words a thread */
};

typedef enum Kind {             /* of an output word, for the distance between two */
	KIND_BITS, KIND_F32, KIND_F16X2, KIND_BF16X2
} Kind;

typedef struct HwCase {
	const char *name;
	const char *inputs;     /* a letter for each word: see hw_input */
	int n_out;
	Kind kind;
	double ulps;            /* allowed distance in units of the last place ... */
	double relative;        /* ... or, instead, relative to the largest finite result of the case */
	const char *body;       /* reads %i0.., writes %o0..; see hw_text for what is declared */
} HwCase;

extern const HwCase hw_cases[];
extern const size_t hw_n_cases;

uint32_t hw_input(char letter, uint32_t thread);
char *hw_text(const HwCase *c);         /* the case as PTX, kernel 'k'; malloc'ed; NULL when out of memory */

typedef enum GpuState { GPU_READY, GPU_NONE, GPU_FAILED } GpuState;

/* Not GPU_READY: tda_error_message says why. */
GpuState gpu_open(char *name, size_t name_size);
/* Runs the kernel 'k' of text on GPU 0: in[threads][n_in], out[threads][n_out]. False: *error says why. */
bool gpu_run(const char *text, const uint32_t *in, size_t in_bytes, uint32_t *out, size_t out_bytes, uint32_t ctas,
	const char **error);
void gpu_close(void);

#endif
