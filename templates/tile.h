/*
 * The tile vocabulary: what kernels are written in. A kernel is maths over tiles; how a tile lies in lanes, banks and
 * instructions is known here and nowhere else.
 *
 * A CTA has 1 to 16 warps that compute, and each owns 16 rows of the CTA's tile. With ENGINE_WGMMA four of them multiply
 * together, and a further warp group only fetches what the others read.
 *
 *   Tile    16 x cols float32 values of a warp (int32 from mma_int8), in registers
 *   Axis    one float32 per row, or per column, of a Tile
 *   Shared  a matrix of the spec's dtype in shared memory
 *   Matrix  the rows of one (batch, head) of a tensor in global memory
 *   Ring    a repeating sequence of shared tiles, fetched ahead of their use
 *
 * Lane -> coordinate (the layout of the matrix instructions' accumulators). Lane l holds, of every 8 columns n, four values:
 *
 *     element 4n + 0: row l/4,     column 8n + 2(l%4)          lane 0: (0,0)   lane 1: (0,2)   lane 4: (1,0)
 *     element 4n + 1: row l/4,     column 8n + 2(l%4) + 1      lane 0: (0,1)   lane 1: (0,3)   lane 4: (1,1)
 *     element 4n + 2: row l/4 + 8, column 8n + 2(l%4)          lane 0: (8,0)   lane 1: (8,2)   lane 4: (9,0)
 *     element 4n + 3: row l/4 + 8, column 8n + 2(l%4) + 1      lane 0: (8,1)   lane 1: (8,3)   lane 4: (9,1)
 */
#ifndef TDAGEN_TILE_H
#define TDAGEN_TILE_H

#include "../compiler/ir.h"
#include "../compiler/plan.h"

enum { WARP = 32, QUAD = 4, CHUNK = 16 };   /* QUAD: lanes that share the two rows of a tile */

/* One gpu.func under construction. */
typedef struct Kernel {
	Builder *b;
	const Spec *spec;
	const Plan *plan;
	Launch *launch;
	Val thread, lane, warp;            /* i32: of the CTA, or of the team (Launch.teams) */
	Val team;                          /* i32: null without teams */
	Val cta;                           /* i32: index in the grid; of a persistent launch, number of the item at hand; of BLOCKS_HEAVY, */
	                                   /* of the block at hand */
	Val shared;                        /* base of dynamic shared memory */
	int shared_bytes;                  /* taken so far */
	struct Box *residents;             /* ENGINE_WGMMA: what stays in shared memory and is yet to be fetched */
	struct ResidentTerms *resident_terms;
	struct Tile *under_way;            /* and tiles whose products are not complete */
	struct TileProduct *products;      /* and products that are yet to be started */
	int resident_count, resident_term_count, under_way_count, product_count;
	bool has_turn;                     /* products of rows have been started, and others wait to start theirs */
	If consumer;                       /* what the warps that compute do, from the ring's walk on */
	If own;                            /* what is done for a block of the launch's own (blocks.h) */
	Until search;                      /* BLOCKS_HEAVY: the search for them, */
	int search_at;                     /* and its state's place in shared memory */
	Val barriers;                      /* ENGINE_WGMMA: the ring's, */
	int barrier_count;                 /* all in a row */
	MlirRegion region;
	MlirBlock entry;
	MlirOperation gpu_module;
} Kernel;

enum { KERNEL_MAX_RESIDENTS = 2 * SPEC_MAX_VIEWS + 3, KERNEL_MAX_RESIDENT_TERMS = 4, KERNEL_MAX_UNDER_WAY = 4, KERNEL_MAX_PRODUCTS = 2 };
bool kernel_uses_groups(const Kernel *k);              /* ENGINE_WGMMA */

Kernel kernel_begin(Builder *b, MlirOperation gpu_module, const Spec *spec, const Plan *plan, Launch *launch);
bool kernel_end(Kernel *k);
/* Launch.begins_early: waits for the launch before this one, if that was not waited for by launching it. */
void kernel_wait(Kernel *k);

/* Arguments come into being when first asked for; the manifest lists them in that order. */
Val kernel_pointer(Kernel *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
Val kernel_i32(Kernel *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
Val kernel_i64(Kernel *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A tensor map; the text is what follows "map" in the manifest. */
Val kernel_map(Kernel *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Of all warps, or of those that compute once the ring's walk has begun, or of the team. */
void kernel_barrier(Kernel *k);
/* Of the four warps that share 64 rows. */
void kernel_group_barrier(Kernel *k);
/* From here to the kernel's end is done by the warps that compute alone. */
void kernel_split(Kernel *k);
/* Reads thread and CTA once more, so that nothing derived from them before a long loop must stay in registers, or spill,
 * until after it. Places and addresses are to be derived anew then. */
void kernel_after_loop(Kernel *k);
/* The thread alone. */
void kernel_read_thread(Kernel *k);
/* At the end of a branch in which it was called: what it read there has no value behind it. */
void kernel_as_before(Kernel *k, const Kernel *before);

/* A row block of one (batch, head): CTAs are numbered (batch, head, block), the block fastest and from the last to the
 * first, so that under a causal mask the long ones start first. Launches that gather number them (block, batch, head), so that those of all
 * heads do; blocks of keys from the first on, which are the long ones then. */
typedef struct Place {
	Val batch, head, block;            /* i32 */
	Val batch_head;                    /* batch * heads + head */
	Val row0;                          /* first row of the block */
} Place;
Place kernel_place(Kernel *k, const char *heads, const char *length, int rows);

/* The rows of one (batch, head) of a tensor. Strides are formulas in bytes: as arguments they, and their multiples, are operands from
 * constant memory, which cost no registers in the loops. */
typedef struct Matrix {
	Val base;                          /* global pointer */
	const char *row_bytes;             /* from one row to the next */
	Val rows;                          /* i32 */
	int cols;
	const char *map;                   /* pointer, extents and strides as a tensor map's words in the manifest */
	Val head, batch;                   /* i32: coordinates in it */
	bool in_tiles;                     /* int8 keys as wgmma reads them: rows can't be addressed one by one */
	const char *broadcast;             /* the tensor whose strides may be 0; NULL: not one */
} Matrix;
Val matrix_stride(Kernel *k, Matrix m, int rows);      /* i64: bytes of `rows` rows */
/* tensor is its name ("q1", "dv"); length names its number of rows. */
Matrix matrix_of(Kernel *k, const char *tensor, Val batch, Val head, const char *length, int cols);
/* A float32 row term of this library's own making (1/|q|, tau ...): [batch * heads, round_up(length, 64)]. */
Val terms_of(Kernel *k, const char *buffer, Val batch_head, const char *length);

/* Tiles. */
typedef struct Tile {
	int cols;
	Val *e;                            /* cols / 2 values a lane, in the order above */
} Tile;
Tile tile_new(Kernel *k, int cols);                /* values unset */
Tile tile_zero(Kernel *k, int cols);
static inline int tile_count(Tile t) { return t.cols / 2; }

typedef enum Along { ALONG_ROWS, ALONG_COLS } Along;
typedef struct Axis {
	Along along;
	int count;                         /* 2 along rows; cols / 4 along columns */
	Val *at;
	Kernel *k;                         /* of indices along columns with ENGINE_WGMMA: at is null, and each is made where */
	Val first;                         /* it is asked for, from the lane's first: they would take many registers */
} Axis;
Axis axis_new(Kernel *k, Along along, int cols);
Val axis_at(Axis axis, int n);
Val axis_get(Axis axis, int element);              /* the value that applies to a tile's element */
/* Index of each row (or column) of this lane's elements, from `first` (i32): the first row of the warp, or of the tile. */
Axis axis_index(Kernel *k, Along along, int cols, Val first);
/* t *= axis, in place; an empty axis leaves it as it is. */
void tile_scale(Kernel *k, Tile t, Axis by);
/* Reads float32 terms from global memory at those indices; always in bounds, since terms are padded to 64 rows. */
Axis axis_load_global(Kernel *k, Axis index, Val terms);
/* Reads terms (IR_V2F32: float32, IR_V2I32: i32) that lie in shared memory in the order of the tile's columns. */
Axis axis_load_shared(Kernel *k, int cols, Val terms, IrType pair);
/* Sums each row of a warp's tile over the four lanes that share it; of i32 values; and is this the first of the four (i1)? */
void row_sum_lanes(Kernel *k, Val row[2]);
void row_count_lanes(Kernel *k, Val row[2]);
Val row_first_lane(Kernel *k);
/* A tile of at most 64 columns as an i32, bit e for the lane's element e: only those of its row 0 or 1; and, of the lower 16 bits, bit c
 * for column c of 32 where either row has it, so that warp_or of it is the warp's mask of columns. */
Val row_bits(Kernel *k, Val bits, int row);
Val column_bits(Kernel *k, Val bits);
/* Of a tile of at most 32 columns, the other way round: lane c gets 16 bits (i32), of column c's rows; lanes beyond the columns get
 * anything. lanes[e]: a bit for each lane (warp_ballot), of its element e. */
Val rows_of_column(Kernel *k, int cols, const Val *lanes);

/* Shared matrices. */
typedef struct Shared {
	Val base;                          /* shared pointer */
	int rows, cols;                    /* as stored: cols without padding */
	int row_bytes;                     /* of a row, or of a panel's row */
	int panel_cols, panel_bytes;       /* of a panel: columns, and from one to the next */
	int offset;                        /* of shared_rows: its bytes from the base on, apart as wgmma adds them itself */
	bool swizzled;                     /* in panels of 128 bytes a row, as wgmma reads them (tile_shared.c) */
} Shared;
Shared shared_new(Kernel *k, int rows, int cols);
Shared shared_at(Kernel *k, Val base, int rows, int cols);
int shared_bytes(Shared s);
/* Rows [first, first + rows) of a matrix as mma_int8's b, first a multiple of 8. Past its last row they are those that share its
 * rows' second halves (plan_int8_keys_a_row). */
Shared shared_rows(Shared s, int first, int rows);
/* Copies rows first.. of a matrix, asynchronously; rows past its end and padding columns become 0. */
void shared_copy(Kernel *k, Shared to, Matrix from, Val first);
/* Copies the rows of a matrix that a list in shared memory names (i32, one a row of `to`); rows outside of it become 0. */
void shared_gather(Kernel *k, Shared to, Matrix from, Val list);
/* The same for float32 terms, one a row. */
void shared_gather_terms(Kernel *k, Val to, Val from, Val list, int count, Val rows);
/* Copies `count` float32 terms, a multiple of 4, asynchronously. */
void shared_copy_terms(Kernel *k, Val to, Val from, int count);
/* The address of columns 8n .. 8n + 7 of a row. */
Val shared_address(Kernel *k, Shared s, Val row, int n);
/* What was copied is there; with ENGINE_WGMMA once a ring's walk has begun. */
void shared_arrived(Kernel *k);
void copies_commit(Kernel *k);
/* Waits until at most `pending` of this thread's committed groups are under way. */
void copies_wait(Kernel *k, int pending);

/* acc += a . b^T, a: this warp's 16 rows of a shared matrix, b: [acc.cols x depth]; both contiguous along the depth. The
 * product may be under way until mma_wait; till then acc must not be touched. */
void mma_rows(Kernel *k, Tile acc, Shared a, Shared b);
void mma_wait(Kernel *k);
/* Products of int8 rows, which lie in shared memory as bytes: what a warp needs of its 16 rows of a, and the sums (i32) of
 * those rows with the rows of b, a multiple of 16. */
typedef struct Int8Rows {
	Shared from;
	Val *registers;                    /* NULL with ENGINE_WGMMA where they are too many: then `from` must stay */
} Int8Rows;
Int8Rows int8_rows(Kernel *k, Shared a);
Tile mma_int8(Kernel *k, Int8Rows rows, Shared b);       /* must not be touched until mma_int8_wait, nor be passed on by a branch */
void mma_int8_wait(Kernel *k, Tile products);
/* acc += p . b, p: a tile in registers, rounded to the spec's dtype, b: [p.cols x acc.cols]. Where exact zeros are proved, a
 * warp whose part of p is all zeros skips it; ENGINE_WGMMA skips what is all zeros in a warp group, and may do the rest as
 * late as at the round's end: acc must not be touched till then. */
void mma_tile(Kernel *k, Tile acc, Tile p, Shared b);
/* The same with p as the sum of two tiles of the dtype: twice as many bits of p count. Not of ENGINE_WGMMA. */
void mma_tile_twice(Kernel *k, Tile acc, Tile p, Shared b);

/* Rounds to the spec's dtype and writes the rows below m.rows; row0: the first row of the warp. */
void tile_store(Kernel *k, Matrix m, Val row0, Tile t);
void tile_store_f32(Kernel *k, Matrix m, Val row0, Tile t);    /* as it is, to a float32 matrix */
/* Zeros to the CTA's rows, row0 being its first one: those below m.rows. */
void zero_rows(Kernel *k, Matrix m, Val row0);

/*
 * Rings. A ring repeats a sequence of streams: step s of a walk brings tile number `tile` of stream s % count.
 *
 * ENGINE_MMA_SYNC: copies run slots - 1 tiles ahead (less what is retained); each step costs one barrier.
 * ENGINE_WGMMA: a slot holds a round, and so all of it is retained. One thread of the producer, where there are several
 * walks a warp, fetches boxes and waits for slots to be free; the others wait for tiles to be full. ring_walk emits the
 * producer, and all that follows it is the consumers'.
 */
enum { RING_MAX_STREAMS = SPEC_MAX_VIEWS + 3, STREAM_MAX_TERMS = 2 };
typedef struct Stream {
	Matrix matrix;                     /* of the walk's first group */
	Val group_stride;                  /* i64 bytes from one group to the next; null: one group */
	Val terms[STREAM_MAX_TERMS];       /* float32 row terms that travel with the tile */
	Val terms_group_stride;            /* i64 bytes; null: one group */
	int term_count;
	int terms_a_tile;                  /* float32 of each that belong to a tile, at most its rows; 0: one a row */
	int tile_bytes;                    /* ENGINE_WGMMA: a tile is so many bytes in a row, in the order of shared memory; 0: rows */
} Stream;

typedef struct RingTile {
	Shared data;
	Val terms[STREAM_MAX_TERMS];       /* shared pointers to the tile's terms */
} RingTile;

/*
 * Several walks, one for each item of work. A persistent launch's CTAs take items, numbered as CTAs would be, from a counter, so that
 * none is idle while there are any; other launches' CTAs have one each. The producer fetches for the next item while the others are at
 * this one's: it alone works out what an item is, `begin`, which copies residents, sets the ring's streams, and returns the tiles of
 * the walk; the others are told by its note, `enter`. Where all warps fetch there is no `enter`.
 *
 *     for (ring_items(&ring, &work); ring_item(&ring);) {
 *             what begin copied is there
 *             ring_residents_done(&ring);         and no longer needed
 *             for (ring_walk(&ring, ...); ring_round(&ring);) ...
 *     }
 *
 * `done` is emitted for a whole warp, which comes to it once for each round, in order, when all are through with it; with
 * ENGINE_WGMMA it is the producer's, which has nothing else to do. It sees what was written to shared memory in that round, and what it
 * writes there is seen in rounds that have the same buffer.
 */
typedef struct RingTiles {
	Val first, end;
	Val note[2];                       /* i32: of what item they are, for `enter` and `done` */
} RingTiles;
typedef struct RingDone {
	Val note[2], tile;                 /* i32 */
	Val buffer;                        /* i32: ring_buffer's in that round */
	Val is_last;                       /* i1: of its item */
} RingDone;
typedef struct RingItems {
	Val counter;                       /* global i32, 0 before the launch */
	Val count;                         /* i32: items in all */
	RingTiles (*begin)(void *owner);
	void (*enter)(void *owner, const Val note[2]);
	void (*done)(void *owner, const RingDone *round);
	void *owner;
} RingItems;

typedef struct Ring {
	Kernel *k;
	const Stream *streams;
	int count;                         /* streams in the sequence */
	int slots, ahead, tile_rows;
	int slot_bytes;
	int data_at[RING_MAX_STREAMS], terms_at[RING_MAX_STREAMS];     /* ENGINE_WGMMA: a stream's place in a slot */
	Val base, barriers;
	Val first, end, groups;            /* i32: tiles [first, end) of each group */
	Val read_slot, write_slot;         /* i32 byte offsets, or numbers with ENGINE_WGMMA; carried */
	Val read_parity, write_parity;     /* i32, carried: of a slot's uses so far */
	Val write_tile, write_group;       /* i32, carried: the tile that the next copy brings */
	Val read_tile, read_group;         /* i32, carried: the tile at hand */
	int read_step, write_step;         /* position in the sequence, known while generating */
	const RingItems *work;             /* NULL: one walk */
	Val residents_free;                /* of several: a barrier, */
	Val item_at;                       /* shared: two items' numbers and notes, in turn, */
	Val item_parity;                   /* the parity of the next item's uses of barriers, carried, */
	Val *item_carry[3];
	Val notes;                         /* shared, of each slot: what `done` will be told of its round, */
	Val own_item;                      /* shared, the fetching warp's: of the item that it is at, */
	RingTiles tiles;                   /* without slots: the item's, */
	Until items;                       /* and while there are any: the item at hand, if it exists */
	If item;
	Loop loop;
} Ring;

/* retain: how many earlier tiles of the same round stay readable. groups may be null: one. */
Ring ring_new(Kernel *k, const Stream *streams, int count, int tile_rows, int slots, int retain);
/* for (ring_walk(...); ring_round(&ring);) { ring_next(&ring) count times } */
void ring_walk(Ring *ring, Val first, Val end, Val groups, Val **carry, int carry_count);
bool ring_round(Ring *ring);
RingTile ring_next(Ring *ring);

void ring_items(Ring *ring, const RingItems *work);
bool ring_item(Ring *ring);
void ring_residents_done(Ring *ring);
/* i32, below ring_buffers: rounds have them in turn. */
Val ring_buffer(Ring *ring);
int ring_buffers(const Ring *ring);
/* A retained tile: `back` steps before the last one taken. */
RingTile ring_back(Ring *ring, int back);
int ring_slot_bytes(const Spec *spec, int tile_rows, int cols, int terms);

#endif
