/* What the readers of sets of arrays share. For npz.c and safetensors.c alone. */
#ifndef TDA_NPY_SET_H
#define TDA_NPY_SET_H

#include <stdbool.h>
#include "npy.h"

enum { MAX_MEMBERS = 256, NAME_BYTES = 128 };

typedef struct Member {
	char name[NAME_BYTES];
	size_t offset, packed, size;   /* of the data in an archive */
	int method;                    /* .npz: how it is packed */
	uint32_t crc;
	int dtype, rank;               /* .safetensors */
	int64_t shape[NPY_MAX_RANK];
} Member;

struct NpySet {
	char *path;
	unsigned char *archive;        /* NULL: a folder */
	size_t archive_size;
	bool safetensors;              /* the archive is no .npz */
	int count;
	Member members[MAX_MEMBERS];
};

tda_status npy_set_add(NpySet *set, const char *name, size_t length, Member **member);

tda_status safetensors_read_directory(NpySet *set);
tda_status safetensors_read(const NpySet *set, const Member *member, NpyArray *array);

#endif
