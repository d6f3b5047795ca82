/* What the parts of the vocabulary share with each other, and a few lane-level operations for kernels over rows. */
#ifndef TDAGEN_TILE_PARTS_H
#define TDAGEN_TILE_PARTS_H

#include "tile.h"

/*
 * Swizzled matrices: panels of columns, one after the other, each of 128 bytes a row. Of a panel's row r, the 16-byte
 * chunk c lies at place c ^ (r % 8), so that a column's chunks of eight rows lie in different banks. Columns beyond the
 * matrix's are 0.
 */
enum { SWIZZLE_BYTES = 8 * PLAN_PANEL_BYTES };
int panel_cols(const Kernel *k);           /* 64 of a 16-bit dtype */
int shared_panels(Shared s);
int shared_panel_bytes(Shared s);
void shared_align(Kernel *k);

/* A block of rows of a matrix on its way to shared memory through a tensor map. */
typedef struct Box {
	Shared to;
	Matrix from;
	Val first;
} Box;
int box_bytes(Box box);
/* Row terms, too. */
typedef struct ResidentTerms {
	Val to, from;
	int count;                         /* float32 */
} ResidentTerms;
/* Starts the fetch; `barrier` (shared) counts its bytes. One thread calls it. */
void box_fetch(Kernel *k, Box box, Val barrier);
/* The same for `count` float32 row terms. */
void terms_fetch(Kernel *k, Val to, Val from, int count, Val barrier);

/* Barriers in shared memory that count arrivals and bytes; a phase is complete when none is missing. */
void barrier_init(Kernel *k, Val barrier, int arrivals);
void barrier_expect(Kernel *k, Val barrier, int bytes);      /* an arrival, with so many bytes to come */
void barrier_arrive(Kernel *k, Val barrier);
void barrier_wait(Kernel *k, Val barrier, Val parity);       /* until the phase of this parity is complete */

/* The parts of ENGINE_WGMMA behind tile.h. */
typedef struct TileProduct TileProduct;
void ring_boxes_layout(Ring *ring);
void ring_boxes_walk(Ring *ring, Val rounds, Val **carry, int carry_count);
bool ring_boxes_round(Ring *ring);
void ring_boxes_items(Ring *ring);
bool ring_boxes_item(Ring *ring);
RingTile ring_boxes_next(Ring *ring);
RingTile ring_boxes_back(Ring *ring, int back);
void ring_boxes_end(Kernel *k);        /* nothing is under way: the walk's barriers cease to be, so that another one can begin */
void wgmma_rows(Kernel *k, Tile acc, Shared a, Shared b);
void wgmma_tile(Kernel *k, Tile acc, Tile p, Shared b);
Int8Rows wgmma_int8_rows(Kernel *k, Shared a);
void wgmma_int8(Kernel *k, Tile acc, Int8Rows a, Shared b);    /* acc = a . b^T, under way until wgmma_int8_wait */
void wgmma_int8_wait(Kernel *k, Tile acc);
void wgmma_wait(Kernel *k);
void wgmma_finish(Kernel *k);          /* products of tiles that were asked for are complete when this returns */
void wgmma_begin(Kernel *k);
/* Before the first product of a walk: gives the first turn to the first warp group. */
void wgmma_first_turn(Kernel *k);
/* After a walk: nobody has the turn, so that another walk can begin. */
void wgmma_last_turn(Kernel *k);
/* The warp group's registers a thread from here on, where the plan changes them; how: "increase" or "decrease". */
void change_registers(Kernel *k, const char *how, int registers);
/* The named barrier of this thread's warp group; of its turn at products of rows. */
Val group_barrier_id(Kernel *k);
Val turn_barrier_id(Kernel *k, Val group);

/* An i32 of which compilers don't know that they have it already: what is derived from it is derived again. */
Val taken_again(Kernel *k, Val x);

/* What rings of both engines do alike. */
int ring_terms(const Ring *ring, const Stream *stream);      /* float32 of each term that travel with a tile */
Val ring_terms_at(Ring *ring, const Stream *stream, int term);       /* those of the tile that is written next */
Val ring_group_base(Ring *ring, Val base, Val group, Val stride);
void ring_advance(Ring *ring, Val *tile, Val *group);
/* Carries the ring's own variables, and the walk's. */
void ring_loop(Ring *ring, Val rounds, Val **carry, int carry_count);

/* f16 only: scales each row of p in place by a power of two that brings it into the dtype's range; back: what scales
 * back. */
void scale_rows(Kernel *k, Tile p, Val back[2]);
Tile tile_copy(Kernel *k, Tile t);
/* 0 (i32) if all of a lane's elements are +0 or -0. */
Val tile_bits(Kernel *k, Tile t);
/* Is the tile as tile_zero made it? Known while generating. */
bool tile_is_zero(Tile t);
/* The four registers of A for step s of 16 of depth of a tile in registers, of a 16-bit dtype. */
void tile_operand(Kernel *k, Tile p, int s, Val a[4]);

/* Two float32 values rounded to the spec's 16-bit dtype in one vector; and back, from 32 bits. */
Val pack_pair(Kernel *k, Val low, Val high);
void unpack_pair(Kernel *k, Val pair, Val *low, Val *high);
/* Over aligned groups of `lanes` lanes, a power of two; every lane gets the result, summed in a fixed order. */
Val lane_sum(Kernel *k, Val x, int lanes);
/* Over all lanes of the warp: does the condition (i1) hold in any; a bit for each lane (i32) where it does; i32 values, or'ed. */
Val warp_any(Kernel *k, Val condition);
Val warp_ballot(Kernel *k, Val condition);
Val warp_or(Kernel *k, Val x);
Val warp_min(Kernel *k, Val x);              /* of i32 values, in every lane; */
Val warp_max(Kernel *k, Val x);              /* unsigned; */
Val warp_sum(Kernel *k, Val x);
Val warp_running_sum(Kernel *k, Val x);      /* over this lane and those below it */
Val lane_value(Kernel *k, Val x, Val lane);  /* the i32 of a lane, which each lane names for itself */
void warp_sync(Kernel *k);
/* Shared memory of the team's own, or the CTA's. */
Val team_memory(Kernel *k, int bytes);
/* The next launch may start once all CTAs have called it. */
void kernel_lets_next_start(Kernel *k);
/* Of all warps, those that only fetch too, wherever they are: each may come from an instruction of its own. */
void kernel_meet(Kernel *k);
Val kernel_grid(Kernel *k);                  /* i32: how many CTAs there are; and which one this is, whatever k->cta says */
Val kernel_cta(Kernel *k);
/* An i32 at a shared pointer that is read and written each time it is asked for, so that no register holds it in between. */
Val shared_read_anew(Kernel *k, Val at);
void shared_read_pair_anew(Kernel *k, Val at, Val pair[2]);
void shared_write_through(Kernel *k, Val at, Val value);
/* An i32 at a global pointer that several CTAs use while they run: adds to it; sets bits of it; */
void add_atomically(Kernel *k, Val at, Val value);
void or_atomically(Kernel *k, Val at, Val bits);
/* writes it; and so that whoever reads this value, and then calls global_fence, sees what the thread wrote or saw before; */
void word_write(Kernel *k, Val at, Val value);
void word_publish(Kernel *k, Val at, Val value);
/* reads it each time it is asked for; and four in a row, at a multiple of 16 bytes. */
Val word_read(Kernel *k, Val at);
void word_read_four(Kernel *k, Val at, Val values[4]);
/* What the thread wrote or saw before comes before what it writes or reads afterwards; bulk copies that it starts see that, too. */
void global_fence(Kernel *k);
void global_fence_copies(Kernel *k);
Val lane_max(Kernel *k, Val x, int lanes);   /* NaN if any is */

#endif
