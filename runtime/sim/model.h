/*
 * The data of the software device, shared by its parts and by nothing else.
 *
 *   ptx_lex, ptx_parse   text -> SrcInst (names resolved to register slots, opcodes still text)
 *   decode, sim_ops.def  SrcInst -> Inst (a handler and slots)
 *   cfg                  where diverged lanes meet again
 *   exec_*               the handlers
 *   mbarrier             barriers that lie in shared memory
 *   memory, shared       what is allocated, written, raced for
 *   cta                  warps, the reconvergence stack, barriers, launches
 *   report               the texts
 */
#ifndef TDA_SIM_MODEL_H
#define TDA_SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "sim.h"

enum {
	LANES = 32,
	SLOT_BYTES = 64,        /* registers are arrays of 32 lanes: a slot holds 32 x 16 bits, or a predicate's mask */
	MAX_WARPS = 32,
	MAX_OPERANDS = 16,      /* registers of one instruction */
	MAX_BARRIERS = 16,
	MAX_GROUPS = MAX_WARPS / 4,     /* warpgroups */
	MAX_MBARRIERS = 64,             /* of a CTA, dead ones included */
	MAX_ADDRESSES = 3,              /* of one instruction */
	CHUNK_BYTES = 16,               /* what the async proxy reads is made of whole, aligned ones */
	MAX_FRAMES = 2 * LANES + 2,     /* a divergence pushes two, and each has fewer lanes */
	MAX_ALTERNATIVES = 4,
	ERROR_BYTES = 4096,
	NAME_BYTES = 128,       /* longest name that a report shows whole */
};

typedef uint32_t Slot;          /* index into Warp.file in units of SLOT_BYTES, and into Warp.written */
typedef struct Inst Inst;
typedef struct Warp Warp;
typedef struct Cta Cta;
typedef bool (*Handler)(Warp *w, const Inst *in, uint32_t mask);     /* false: reported, the launch ends */

/* Generic addresses: everything that is not in one of these windows is global. Not canonical on any host, so no
 * allocation of sim_alloc can be there. */
#define SHARED_WINDOW UINT64_C(0x1000000000000000)
#define LOCAL_WINDOW  UINT64_C(0x2000000000000000)
#define PARAM_WINDOW  UINT64_C(0x3000000000000000)
#define WINDOW_BYTES  UINT64_C(0x0000000100000000)

/* Modifiers that change what a handler does; the others are told apart by the pattern that matched. */
typedef enum Modifier {
	MOD_FTZ = 1 << 0, MOD_SAT = 1 << 1, MOD_RELU = 1 << 2, MOD_NAN = 1 << 3, MOD_NC = 1 << 4, MOD_TRANS = 1 << 5,
} Modifier;

typedef enum Space { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL, SPACE_PARAM, SPACE_CONST } Space;

/* What an instruction's operands may do beyond "read the sources, write the destinations". */
typedef enum OpTrait {
	OP_POISON = 1 << 0,     /* passes never-written registers on; marks its own destinations as written */
	OP_BRANCH = 1 << 1,
	OP_EXIT = 1 << 2,
	OP_WHOLE_WARP = 1 << 3, /* every live lane of the warp must take part */
	OP_WGMMA = 1 << 4,
} OpTrait;

struct Inst {
	Handler run;
	uint32_t flags;         /* Modifier */
	uint8_t alt[MAX_ALTERNATIVES];  /* which of each {a,b,c} of the pattern the opcode's text had, in order */
	uint8_t n_dst, n_src;   /* op[0..n_dst) are written, the n_src after them are read */
	uint8_t dst_bytes, src_bytes;   /* width of the first register of each */
	uint8_t traits;         /* OpTrait */
	uint8_t n_vector;       /* elements of a register list that may have any length */
	uint8_t address_bytes[MAX_ADDRESSES];   /* widths of the address registers, 4 or 8, in order */
	Slot guard;             /* slot 0 is a predicate that is always true */
	uint32_t guard_flip;    /* ~0 for @!%p */
	Slot op[MAX_OPERANDS];
	uint32_t list;          /* accumulators, both read and written: where they begin in Kernel.lists */
	uint16_t n_list;
	int64_t displacement[MAX_ADDRESSES];    /* of the address operands, in order */
	uint32_t target;        /* of a branch: index into Kernel.code */
	uint32_t reconverge;    /* of a branch: where its lanes meet again; Kernel.n_code is the kernel's end */
	uint32_t line;          /* of the PTX text, from 1 */
	uint32_t file, source_line;     /* the last .loc; 0 where there was none */
};

typedef enum RegClass { REG_PRED, REG_16, REG_32, REG_64, REG_128 } RegClass;

/* An operand as parsed. A register list is one OPERAND_VECTOR whose elements follow it in Kernel.operands. */
typedef enum OperandKind { OPERAND_REG, OPERAND_CONST, OPERAND_FLOAT, OPERAND_SINK, OPERAND_ADDRESS, OPERAND_VECTOR,
	OPERAND_LABEL } OperandKind;

typedef struct Operand {
	uint8_t kind, reg_class;
	bool negated;           /* !%p */
	bool has_pair;          /* a|b: the next operand is b */
	uint32_t count;         /* of a vector */
	Slot slot;              /* register; base register of an address (0: none); label index */
	uint64_t value;         /* constant; bits of a double; displacement */
} Operand;

typedef struct SrcInst {
	const char *opcode;     /* in SimModule.text */
	uint32_t opcode_length;
	uint32_t line, file, source_line;
	Slot guard;             /* TRUE_SLOT: none */
	bool guard_negated;
	uint32_t first, n;      /* operands, vector elements included */
} SrcInst;

typedef struct Param { uint32_t offset, bytes; } Param;
typedef struct Constant { Slot slot; uint8_t reg_class; uint64_t value; } Constant;

enum {                          /* special registers with a slot of their own, in this order after slot 0 */
	SPECIAL_TID_X, SPECIAL_TID_Y, SPECIAL_TID_Z, SPECIAL_NTID_X, SPECIAL_NTID_Y, SPECIAL_NTID_Z,
	SPECIAL_CTAID_X, SPECIAL_CTAID_Y, SPECIAL_CTAID_Z, SPECIAL_NCTAID_X, SPECIAL_NCTAID_Y, SPECIAL_NCTAID_Z,
	SPECIAL_LANEID, SPECIAL_WARPID, SPECIAL_NWARPID, SPECIAL_LANEMASK_EQ, SPECIAL_LANEMASK_LE, SPECIAL_LANEMASK_LT,
	SPECIAL_LANEMASK_GE, SPECIAL_LANEMASK_GT, SPECIAL_DYNAMIC_SMEM, SPECIAL_TOTAL_SMEM, SPECIAL_COUNT
};
enum {
	TRUE_SLOT = 0,          /* a predicate that holds in every lane */
	SINK_SLOT = 2,          /* where results written to _ go; wide enough for any register */
	FIRST_SPECIAL_SLOT = 10,
	FIRST_FREE_SLOT = FIRST_SPECIAL_SLOT + 2 * SPECIAL_COUNT,
};
static inline Slot special_slot(int special) { return FIRST_SPECIAL_SLOT + 2 * (Slot)special; }

typedef struct Kernel {
	char *name;
	uint32_t line;
	Param *params;          uint32_t n_params;
	uint32_t param_bytes, static_shared, local_bytes;
	uint32_t required_threads[3];   /* .reqntid; 0: none */
	uint32_t max_threads;           /* .maxntid, all dimensions; 0: none */
	uint32_t max_registers;         /* .maxnreg; 0: none */
	Inst *code;             uint32_t n_code;
	Constant *constants;    uint32_t n_constants;
	Slot *lists;            uint32_t n_lists;       /* registers of wgmma */
	bool uses_wgmma;
	uint32_t n_registers;   /* slots of special and declared registers; those of the constants follow */
	uint32_t n_slots;
} Kernel;

struct SimModule {
	Sim *sim;
	SimModule *next;
	char *text;             /* a copy: opcodes and quoted lines point into it */
	size_t length;
	Kernel *kernels;        uint32_t n_kernels;
	char **files;           uint32_t n_files;       /* by the number of .file; NULL where unused */
	void **globals;         uint32_t n_globals;     /* .global and .const arrays: freed with the module */
};

/* A piece of device memory. Shadows are one entry a byte, of the same length as the memory. */
typedef struct Allocation {
	uint64_t base, size;
	uint8_t *memory;        /* what malloc gave; base lies inside */
	uint8_t *written;       /* 1: has a value */
	uint32_t *writer;       /* tag of the CTA that wrote last: Sim.first_tag + CTA, see memory.c */
	uint32_t *reader;       /* tag of the CTA that read last; Sim.many_tag when several of this launch */
	bool released;
} Allocation;

struct Sim {
	Allocation *allocations;        /* sorted by base; released ones stay a while, to be named in reports */
	size_t n_allocations, cap_allocations;
	size_t last_hit;
	uint32_t first_tag;             /* tags below belong to earlier launches */
	uint32_t many_tag, next_tag;
	size_t released_bytes;          /* of allocations that are kept only to be named */
	SimModule *modules;
	SimCounts counts;
	char error[ERROR_BYTES];
};

/* ---- run time ---- */

/*
 * Who accesses shared memory: the warps; the tensor cores of a warpgroup, which read for wgmma; and for each mbarrier
 * the bulk copies that it counts. Each stamps its accesses with a clock of its own: see shared.c.
 */
enum {
	GROUP_AGENT = MAX_WARPS,
	MBARRIER_AGENT = GROUP_AGENT + MAX_GROUPS,
	MAX_AGENTS = MBARRIER_AGENT + MAX_MBARRIERS,
};

typedef struct Clock {
	uint32_t known[MAX_AGENTS];     /* accesses of agent u stamped <= known[u] happened before */
	uint32_t visible[MAX_WARPS];    /* and those stamped <= visible[u] are before a fence.proxy.async too */
} Clock;

/* One byte of shared memory is the same index in each array. */
typedef struct SharedMemory {
	uint8_t *bytes;
	uint32_t size, capacity;
	uint32_t *write_stamp;  /* 0: never written */
	uint64_t *readers;      /* agents that read since the last write */
	uint32_t *read_stamp;   /* [plane][byte]: of that agent's last read; valid where it is one of the readers */
	uint32_t n_warps;
	uint8_t *writer;        /* agent, and WRITER_ATOMIC */
	uint8_t *in_flight;     /* 1 + warp of a cp.async that has not been waited for; 0: none; or MBARRIER_HERE */
	uint16_t *held;         /* [chunk]: asynchronous reads that have not been waited for */
	uint8_t *holder;        /* [chunk]: agent of the last of them */
	uint32_t n_held;        /* sum of held */
} SharedMemory;

/* What an asynchronous read depends on: the latest write of each agent among the bytes, and where it is. */
typedef struct AsyncRead { uint32_t latest[MAX_AGENTS], where[MAX_AGENTS]; } AsyncRead;

typedef struct Frame { uint32_t pc, reconverge, mask; } Frame;

typedef struct AsyncCopy {      /* one lane's cp.async, its source already read */
	uint32_t to, group;
	uint32_t stamp;         /* of the cp.async.mbarrier.arrive */
	uint8_t mbarrier;       /* 1 + index of the one whose phase it completes with; 0: none */
	uint8_t lane, bytes;
	uint8_t data[16];
} AsyncCopy;

typedef struct BulkRead {       /* one lane's bulk copy from shared memory */
	uint32_t address, bytes, group;
	uint8_t lane;
	const Inst *in;
} BulkRead;

typedef struct IssuedWgmma { const Inst *in; uint32_t group, number; } IssuedWgmma;

enum { BUSY_SUM = 1, BUSY_SOURCE = 2 };         /* a register of an unfinished wgmma: of D, of A */

typedef enum WarpState { WARP_READY, WARP_WAITING, WARP_DONE } WarpState;
typedef enum WaitsFor { WAITS_FOR_BARRIER, WAITS_FOR_MBARRIER, WAITS_FOR_WGMMA, WAITS_FOR_REGISTERS } WaitsFor;

struct Warp {
	Cta *cta;
	uint8_t *file;          /* n_slots x SLOT_BYTES; aligned to SLOT_BYTES */
	uint32_t *written;      /* lanes that hold a value, by slot */
	uint32_t pc, active, live;
	uint32_t reconverge;    /* where the active lanes wait for the others; NO_RECONVERGENCE at the bottom */
	Frame stack[MAX_FRAMES]; uint32_t depth;
	uint32_t number;        /* in the CTA */
	WarpState state;
	WaitsFor waits_for;
	uint32_t barrier;       /* number of that one */
	bool yields;            /* its turn ends */
	uint32_t registers;     /* of a thread, where .maxnreg says how many there are at first */
	const Inst *waiting_at;
	uint64_t executed;
	Clock clock;            /* what happened before what the warp does now */
	AsyncCopy *copies;      size_t n_copies, cap_copies;
	uint32_t group[LANES];  /* cp.async groups committed so far, by lane */
	BulkRead *bulk;         size_t n_bulk, cap_bulk;
	uint32_t bulk_group[LANES];     /* groups of bulk copies to global memory committed so far, by lane */
	IssuedWgmma *wgmma;     size_t n_wgmma, cap_wgmma;      /* unfinished ones, in order */
	uint32_t n_issued, wgmma_group; /* wgmma instructions and groups so far */
	uint8_t *busy;          /* by slot; NULL where the kernel has no wgmma */
	uint16_t busy_shape;    /* registers of the last one's D */
	uint8_t *local;         /* [LANES][local_bytes] */
	uint8_t *local_written;
};

typedef struct Barrier {
	uint32_t arrived, expected;     /* warps; expected 0: nobody is there */
	uint32_t waiting;               /* warps to wake, as a mask */
	bool any;                       /* of bar.red.or: some lane's predicate holds */
	Clock joined;                   /* what its participants knew on arrival */
} Barrier;

typedef struct Mbarrier {
	uint32_t address;       /* shared offset */
	bool live;              /* between init and inval */
	uint32_t expected, pending;     /* arrivals a phase, and those still to come */
	int64_t tx;             /* bytes expected less bytes arrived, in this phase */
	uint32_t first_phase, phase;    /* phases count on through init, as stamps do */
	uint32_t init_warp, init_stamp;
	const Inst *last;       /* that changed tx */
	Clock arriving, completed;      /* of the phase that runs, and of the one before */
} Mbarrier;

typedef struct WgmmaOp WgmmaOp;
typedef struct Warpgroup {
	WgmmaOp *ops;           size_t n_ops, cap_ops;  /* issued by at least one warp and not finished */
	uint32_t n_finished;
} Warpgroup;

struct Cta {
	Sim *sim;
	SimModule *module;
	const Kernel *kernel;
	Warp *warps;            uint32_t n_warps;
	uint32_t grid[3], block[3], id[3];
	uint32_t tag;           /* of this CTA's accesses to global memory */
	uint32_t time;          /* counts barrier arrivals: see shared.c */
	uint8_t *params;
	SharedMemory shared;
	Barrier barriers[MAX_BARRIERS];
	Mbarrier mbarriers[MAX_MBARRIERS]; uint32_t n_mbarriers;
	Warpgroup groups[MAX_GROUPS];
	uint32_t free_registers;        /* of a lane: what setmaxnreg.dec gave back */
	uint32_t dynamic_shared;
};

#define NO_RECONVERGENCE UINT32_MAX
#define WRITER_ATOMIC 0x80
#define MBARRIER_HERE 0xff
#define TAG_ATOMIC UINT32_C(0x80000000)   /* the last write was an atomic: not in conflict with other atomics */

/* report.c: all set Sim.error; the bool ones return false. */
bool report_at(Warp *w, const Inst *in, int lane, const char *format, ...) __attribute__((format(printf, 4, 5)));
bool report_plain(Sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *describe_address(Sim *sim, uint64_t address, char *buffer, size_t size);
/* The text of a line, trimmed, into buffer. */
const char *module_line(const SimModule *module, uint32_t line, char *buffer, size_t size);

/* memory.c: false after a report. */
typedef enum AccessKind {
	ACCESS_PLAIN,
	ACCESS_ORDERED,         /* atomic, or .relaxed and stronger: no conflict with others of its kind */
	ACCESS_CONSTANT,        /* ld.global.nc */
	ACCESS_COPY,            /* cp.async into shared memory: not there before it has been waited for */
} AccessKind;
bool global_read(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes, AccessKind kind);
bool global_write(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes, AccessKind kind);
/* The same for n lanes from lane on, each of which accesses the bytes behind those of the one before. */
bool global_read_lanes(Warp *w, const Inst *in, int lane, int n, uint64_t address, uint32_t bytes, AccessKind kind);
bool global_write_lanes(Warp *w, const Inst *in, int lane, int n, uint64_t address, uint32_t bytes, AccessKind kind);
void *memory_alloc(Sim *sim, size_t bytes);
bool memory_begin_launch(Sim *sim, uint64_t n_ctas);
void memory_free_all(Sim *sim);

/* shared.c */
bool shared_memory_new(SharedMemory *shared, uint32_t bytes, uint32_t n_warps);
void shared_free(SharedMemory *shared);
void shared_reset(SharedMemory *shared);
bool shared_bounds(Warp *w, const Inst *in, int lane, uint64_t address, uint32_t bytes);
bool shared_read(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes);
bool shared_write(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, AccessKind kind);
/* The same for n lanes from lane on, each of which accesses the bytes behind those of the one before. */
bool shared_read_lanes(Warp *w, const Inst *in, int lane, int n, uint32_t address, uint32_t bytes);
bool shared_write_lanes(Warp *w, const Inst *in, int lane, int n, uint32_t address, uint32_t bytes, AccessKind kind);
/* The bytes of a cp.async arrive, stamped as given. */
void shared_land(Warp *w, uint32_t address, uint32_t bytes, uint32_t stamp);
/*
 * The async proxy. Reads: each piece, whole chunks, is surveyed; then what all pieces depend on is checked, and they are
 * held until the read has been waited for. The release counts as agent's read at stamp.
 */
bool shared_survey(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, AsyncRead *read);
bool shared_check(Warp *w, const Inst *in, int lane, const AsyncRead *read);
void shared_hold(SharedMemory *s, uint32_t address, uint32_t bytes, uint32_t agent);
void shared_release(SharedMemory *s, uint32_t address, uint32_t bytes, uint32_t agent, uint32_t stamp);
/* A bulk copy that w issues and the mbarrier agent completes. */
bool shared_bulk_write(Warp *w, const Inst *in, int lane, uint32_t address, uint32_t bytes, uint32_t agent, uint32_t stamp);
void clock_join(Clock *clock, const Clock *with);
/* What the warp knows and did so far goes to clock; returns the stamp of what it did. */
uint32_t clock_publish(Warp *w, Clock *clock);
void count_bank_conflicts(Warp *w, const uint32_t *address, uint32_t mask, uint32_t bytes);

/* exec_bulk.c */
/* The lane's copy reads these bytes of shared memory until its group has been waited for. */
bool bulk_begin_read(Warp *w, const Inst *in, int l, uint32_t from, uint32_t bytes);
bool bulk_done(Warp *w);                        /* at the end of a CTA */

/* exec_wgmma.c */
bool wgmma_watch(Warp *w, const Inst *in);      /* does an ordinary instruction leave registers of unfinished ones alone? */
bool wgmma_done(Warp *w);                       /* at the end of a CTA */
void wgmma_reset(Cta *cta);
void wgmma_free(Cta *cta);

/* mbarrier.c */
/* The mbarrier that address operand number a of lane names; NULL after a report. */
Mbarrier *mbarrier_at(Warp *w, const Inst *in, int lane, Slot slot, int a);
uint32_t mbarrier_agent(const Cta *cta, const Mbarrier *m);
bool mbarrier_complete_tx(Warp *w, const Inst *in, int lane, Mbarrier *m, int64_t bytes);
void describe_mbarrier(const Mbarrier *m, char *buffer, size_t size);
/* At the end of a CTA. */
bool mbarriers_done(Cta *cta);

/* ptx_parse.c, decode.c, cfg.c, cta.c: false after an error, which is in Sim.error */
bool parse_module(SimModule *module);
bool find_reconvergence(Sim *sim, Kernel *kernel);
bool run_kernel(Sim *sim, SimModule *module, const Kernel *kernel, const uint32_t grid[3], const uint32_t block[3],
	uint32_t dynamic_shared, const void *const *params);

/* Room for need elements; false when out of memory (nothing is lost). Memory that is new is zeroed. */
bool sim_grow(void *array_pointer, size_t *capacity, size_t need, size_t element);

#endif
