/*
 * The software device: executes PTX text on the CPU, warp by warp, and reports what real hardware would do silently
 * wrong: accesses out of bounds or misaligned, reads of memory that nothing wrote, shared-memory races between
 * barriers, diverged barriers. It checks the artifact itself, not a model of it.
 */
#ifndef TDA_SIM_H
#define TDA_SIM_H

#include <stddef.h>
#include <stdint.h>

typedef struct Sim Sim;                /* a device: its memory and its loaded modules; one thread at a time */
typedef struct SimModule SimModule;

Sim *sim_new(void);
void sim_free(Sim *sim);               /* frees its modules and its memory too */

/* Parses a PTX module (comments, a manifest among them, are skipped). NULL on error: see sim_error. */
SimModule *sim_load(Sim *sim, const char *ptx, size_t length);

/* Device memory: addresses are ordinary host addresses, but a kernel may touch only what was allocated here, and every
 * byte is "unwritten" until sim_copy_in, sim_fill or a kernel writes it. Aligned to 256 bytes, with guard space
 * around. */
void *sim_alloc(Sim *sim, size_t bytes);
void sim_release(Sim *sim, void *memory);
void sim_copy_in(Sim *sim, void *to, const void *from, size_t bytes);
void sim_fill(Sim *sim, void *to, int byte, size_t bytes);
/* Forgets that the range was written (a workspace whose contents are undefined). */
void sim_forget(Sim *sim, void *at, size_t bytes);
/* 0, or -1 (see sim_error) where a byte of the range was never written: an output that a kernel left out. */
int sim_copy_out(Sim *sim, void *to, const void *from, size_t bytes);

/* Runs one kernel to its end. params[k] points to the value of parameter k (as in cuLaunchKernel). Returns 0, or -1 when
 * anything was reported; the kernel stops at the first report. */
int sim_launch(Sim *sim, SimModule *module, const char *entry, const uint32_t grid[3], const uint32_t block[3],
               uint32_t dynamic_shared_bytes, const void *const *params);

/*
 * What CUtensorMap is to the GPU: a kernel takes it by value, as .param .align 64 .b8 name[128]. sim_tensor_map fills it
 * from what cuTensorMapEncodeTiled takes, by the same rules, without interleaving and with zeros outside of the tensor:
 *   type       the number of a CUtensorMapDataType, 0 (uint8) to 9 (bfloat16)
 *   sizes      [rank] elements, dimension 0 being contiguous
 *   strides    [rank - 1] bytes, of dimension 1 on
 *   box        [rank] elements of one copy
 *   element_strides    [rank], all 1
 *   swizzle    the number of a CUtensorMapSwizzle: 0 none, 1, 2, 3 for 32, 64, 128 bytes, which box[0] must fill
 * Returns 0, or -1 (see sim_error).
 */
enum { SIM_TENSOR_RANK = 5 };
typedef struct SimTensorMap {
	_Alignas(64) uint64_t base;
	uint64_t sizes[SIM_TENSOR_RANK];
	uint64_t strides[SIM_TENSOR_RANK];     /* bytes; [0] is an element */
	uint32_t box[SIM_TENSOR_RANK];
	uint32_t mark;
	uint8_t rank, element, span;           /* bytes of an element, and of the swizzle (16: none) */
} SimTensorMap;
_Static_assert(sizeof(SimTensorMap) == 128, "as large as a CUtensorMap");
int sim_tensor_map(Sim *sim, SimTensorMap *map, int type, uint32_t rank, const void *base, const uint64_t *sizes,
	const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides, int swizzle);

/* The text of the last report: what happened, where (kernel, CTA, warp, lane, PTX line, source line from .loc where there
 * is one), the addresses, and what to look at. Valid until the next call. */
const char *sim_error(const Sim *sim);

typedef struct SimCounts {             /* since sim_new or the last reset */
	uint64_t warp_instructions;
	uint64_t mma;                      /* warp-level matrix instructions */
	uint64_t global_load_bytes, global_store_bytes;
	uint64_t global_transactions;      /* 32-byte sectors */
	uint64_t shared_bank_conflicts;    /* extra cycles: ways - 1, summed */
} SimCounts;
SimCounts sim_counts(const Sim *sim);
void sim_reset_counts(Sim *sim);

#endif
