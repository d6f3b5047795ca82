/* Sets of arrays: folders, .npz, and what safetensors.c reads. A zip file's members are found through its central
 * directory; sizes there are checked against the file before they are believed. Zip64, encryption and other methods than
 * stored and deflate are refused. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include "error.h"
#include "file.h"
#include "npy_set.h"

enum { END_BYTES = 22, ENTRY_BYTES = 46, LOCAL_BYTES = 30, MAX_COMMENT = 65535 };
enum { METHOD_STORED = 0, METHOD_DEFLATE = 8 };
/* Deflate can't expand more than this, so a larger claim is a lie. */
enum { MOST_EXPANSION = 1032 };

static uint32_t read_u16(const unsigned char *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint32_t read_u32(const unsigned char *at)
{
	return read_u16(at) | read_u16(at + 2) << 16;
}

tda_status npy_set_add(NpySet *set, const char *name, size_t length, Member **member)
{
	if (length >= NAME_BYTES || memchr(name, 0, length))
		return tda_fail(TDA_BAD_FILE, "a member has a name that is too long or malformed");
	if (set->count == MAX_MEMBERS)
		return tda_fail(TDA_BAD_FILE, "there are more than %d arrays", MAX_MEMBERS);
	*member = &set->members[set->count++];
	memcpy((*member)->name, name, length);
	(*member)->name[length] = 0;
	return TDA_OK;
}

/* Adds a member if its name ends with .npy; the name is kept without that. */
static tda_status add_npy(NpySet *set, const char *name, size_t length, Member **member)
{
	static const char suffix[] = ".npy";
	size_t suffix_length = sizeof(suffix) - 1;

	*member = NULL;
	if (length <= suffix_length || memcmp(name + length - suffix_length, suffix, suffix_length) != 0)
		return TDA_OK;
	return npy_set_add(set, name, length - suffix_length, member);
}

/* ---- archives ---- */

static tda_status damaged(void)
{
	return tda_fail(TDA_BAD_FILE, "the archive is truncated or damaged");
}

static tda_status read_entry(NpySet *set, const unsigned char *entry, size_t room, size_t *used)
{
	const unsigned char *local;
	Member *member;
	size_t name_length, offset, skip;
	tda_status status;

	if (room < ENTRY_BYTES || read_u32(entry) != 0x02014b50)
		return damaged();
	name_length = read_u16(entry + 28);
	*used = ENTRY_BYTES + name_length + read_u16(entry + 30) + read_u16(entry + 32);
	if (*used > room)
		return damaged();
	if ((status = add_npy(set, (const char *)entry + ENTRY_BYTES, name_length, &member)) || !member)
		return status;
	if (read_u16(entry + 8) & 1)
		return tda_fail(TDA_BAD_FILE, "the archive is encrypted");
	member->method = (int)read_u16(entry + 10);
	member->crc = read_u32(entry + 16);
	member->packed = read_u32(entry + 20);
	member->size = read_u32(entry + 24);
	offset = read_u32(entry + 42);
	if (member->packed == UINT32_MAX || member->size == UINT32_MAX || offset == UINT32_MAX)
		return tda_fail(TDA_BAD_FILE, "arrays of 4 GiB and more in an .npz are not supported: use a folder of .npy files");
	if (offset > set->archive_size || set->archive_size - offset < LOCAL_BYTES)
		return damaged();
	local = set->archive + offset;
	skip = LOCAL_BYTES + read_u16(local + 26) + read_u16(local + 28);
	if (read_u32(local) != 0x04034b50 || skip > set->archive_size - offset ||
	    member->packed > set->archive_size - offset - skip)
		return damaged();
	member->offset = offset + skip;
	return TDA_OK;
}

static tda_status read_directory(NpySet *set)
{
	const unsigned char *end = NULL;
	size_t size = set->archive_size, at, used = 0, entries;
	tda_status status;

	for (size_t back = END_BYTES; back <= size && back <= END_BYTES + MAX_COMMENT && !end; back++)
		if (read_u32(set->archive + size - back) == 0x06054b50)
			end = set->archive + size - back;
	if (!end)
		return tda_fail(TDA_BAD_FILE, "this is not an .npz archive, or it is truncated");
	entries = read_u16(end + 10);
	at = read_u32(end + 16);
	if (entries == UINT16_MAX || at == UINT32_MAX)
		return tda_fail(TDA_BAD_FILE, "archives of 4 GiB and more are not supported: use a folder of .npy files");
	for (size_t n = 0; n < entries; n++, at += used) {
		if (at > size)
			return damaged();
		if ((status = read_entry(set, set->archive + at, size - at, &used)))
			return status;
	}
	return TDA_OK;
}

static bool inflate_all(const unsigned char *from, size_t packed, unsigned char *to, size_t size)
{
	z_stream stream = {
		.next_in = (unsigned char *)from, .avail_in = (uInt)packed, .next_out = to, .avail_out = (uInt)size,
	};
	int result;

	if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
		return false;
	result = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	return result == Z_STREAM_END && stream.total_out == size;
}

static tda_status read_member(const NpySet *set, const Member *member, NpyArray *array)
{
	const unsigned char *data = set->archive + member->offset;
	unsigned char *unpacked = NULL;
	tda_status status = TDA_OK;

	if (member->method == METHOD_STORED && member->packed != member->size)
		return damaged();
	if (member->method == METHOD_DEFLATE) {
		if (member->size / MOST_EXPANSION > member->packed + 1)
			return damaged();
		unpacked = malloc(member->size + 1);
		if (!unpacked)
			return tda_fail_memory();
		if (!inflate_all(data, member->packed, unpacked, member->size))
			status = damaged();
		data = unpacked;
	} else if (member->method != METHOD_STORED) {
		return tda_fail(TDA_BAD_FILE, "compression method %d is not supported: use numpy.savez or savez_compressed",
		                member->method);
	}
	if (!status && crc32(0, data, (uInt)member->size) != member->crc)
		status = damaged();
	if (!status)
		status = npy_parse(data, member->size, array);
	free(unpacked);
	return status;
}

/* ---- folders ---- */

static int compare_members(const void *a, const void *b)
{
	return strcmp(((const Member *)a)->name, ((const Member *)b)->name);
}

static tda_status read_folder(NpySet *set, DIR *folder)
{
	struct dirent *entry;
	Member *member;
	tda_status status = TDA_OK;

	while (!status && (entry = readdir(folder)))
		status = add_npy(set, entry->d_name, strlen(entry->d_name), &member);
	qsort(set->members, (size_t)set->count, sizeof(Member), compare_members);
	return status;
}

static tda_status read_file(const NpySet *set, const Member *member, NpyArray *array)
{
	size_t size = strlen(set->path) + NAME_BYTES + 8, length;
	char *path = malloc(size), *bytes;
	tda_status status;

	if (!path)
		return tda_fail_memory();
	snprintf(path, size, "%s/%s.npy", set->path, member->name);
	status = file_read(path, &bytes, &length);
	free(path);
	if (status)
		return status;
	status = npy_parse(bytes, length, array);
	free(bytes);
	return status;
}

/* ---- sets ---- */

static bool ends_with(const char *path, const char *suffix)
{
	return strlen(path) >= strlen(suffix) && strcmp(path + strlen(path) - strlen(suffix), suffix) == 0;
}

tda_status npy_set_open(const char *path, NpySet **result)
{
	NpySet *set = calloc(1, sizeof(*set));
	DIR *folder = opendir(path);
	tda_status status;

	*result = NULL;
	if (set)
		set->path = strdup(path);
	if (!set || !set->path)
		status = tda_fail_memory();
	else if (folder)
		status = read_folder(set, folder);
	else if (!(status = file_read(path, (char **)&set->archive, &set->archive_size)))
		status = (set->safetensors = ends_with(path, ".safetensors")) ? safetensors_read_directory(set) : read_directory(set);
	if (folder)
		closedir(folder);
	if (!status && set->count == 0)
		status = tda_fail(TDA_BAD_FILE, set->safetensors ? "there is no tensor in it" : "there is no .npy array in it");
	if (status) {
		npy_set_close(set);
		return tda_fail_within(status, "%s: ", path);
	}
	*result = set;
	return TDA_OK;
}

void npy_set_close(NpySet *set)
{
	if (!set)
		return;
	free(set->archive);
	free(set->path);
	free(set);
}

int npy_set_count(const NpySet *set)
{
	return set->count;
}

const char *npy_set_name(const NpySet *set, int index)
{
	return set->members[index].name;
}

tda_status npy_set_read(const NpySet *set, int index, NpyArray *array)
{
	const Member *member = &set->members[index];
	tda_status status = set->safetensors ? safetensors_read(set, member, array)
	                    : set->archive   ? read_member(set, member, array) : read_file(set, member, array);

	return status ? tda_fail_within(status, "%s: %s: ", set->path, member->name) : TDA_OK;
}
