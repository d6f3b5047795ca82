#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "marks.h"

/* Where the buffers lie on the device, and how they are laid out. */
typedef struct MarkBuffers {
	const char *words, *marks, *whole;
	KeySpan *tiles;                /* [row_blocks]: key tiles that a row block sees */
} MarkBuffers;

/* Where a buffer lies on the device, and its size. */
static tda_status find_buffer(const Problem *p, const char *name, const char **at, int64_t *bytes)
{
	int64_t vars[FORMULA_VARS] = {0}, offset;
	int buffer = manifest_find_buffer(p->manifest, name);
	tda_status status = validate_shape(&p->shape, vars);

	if (status)
		return status;
	if (buffer < 0)
		return tda_fail(TDA_BAD_FILE, "the manifest has marks, but no buffer '%s'; compile the spec again", name);
	if ((status = launch_buffer(p->manifest, vars, buffer, &offset, bytes)))
		return status;
	*at = (const char *)p->workspace[p->manifest->buffers[buffer].kind] + offset;
	return TDA_OK;
}

static tda_status find_sized(const Problem *p, const char *name, int64_t expected, const char **at)
{
	int64_t bytes;
	tda_status status = find_buffer(p, name, at, &bytes);

	if (status)
		return status;
	if (bytes == 0 && expected > 0)
		return tda_fail(TDA_UNSUPPORTED, "the kernels have both plans, and this shape takes the dense one, which visits every "
		                "visible pair and keeps no marks; compile the spec with --plan sparse");
	if (bytes != expected)
		return tda_fail(TDA_BAD_FILE, "the buffer '%s' has %lld bytes where marks take %lld; compile the spec again", name,
		                (long long)bytes, (long long)expected);
	return TDA_OK;
}

static const MarkWord *words_of(const ScreenMarks *m, int64_t index, int64_t row_block)
{
	return m->word + (index * m->row_blocks + row_block) * m->words;
}

/* The number after a word's last mark. */
static int64_t word_end(MarkWord word)
{
	return (int64_t)word.first + __builtin_popcount(word.tiles);
}

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Where a mark with a place begins. */
static int64_t place_of(const ScreenMarks *m, int64_t index, int64_t row_block, int64_t number)
{
	if (m->set == MARKS_SCREENED)
		return 2 * ((index * m->row_blocks + row_block) * m->room + number);
	return index * m->room + number + least(number, m->whole[index]);
}

/* The marks of a word that have a place. */
static tda_status fetch_marks(const Problem *p, const ScreenMarks *m, const MarkBuffers *from, int64_t index, int64_t block,
                              MarkWord word)
{
	int64_t end = least(word_end(word), m->room), at, past;
	Device *device = p->device;

	if (word.first >= end)
		return TDA_OK;
	at = place_of(m, index, block, word.first);
	past = place_of(m, index, block, end);
	return device->ops->copy_out(device, m->place + at, from->marks + sizeof(MarkPlace) * (size_t)at,
	                             sizeof(MarkPlace) * (size_t)(past - at));
}

static tda_status fetch_whole(const Problem *p, const ScreenMarks *m, const MarkBuffers *from, int64_t indices)
{
	tda_status status = p->device->ops->copy_out(p->device, m->whole, from->whole, sizeof(*m->whole) * (size_t)indices);

	if (status)
		return tda_fail_within(status, "the numbers of whole marks: ");
	for (int64_t n = 0; n < indices; n++)
		if (m->whole[n] < 0 || m->whole[n] > m->room)
			return tda_fail(TDA_BAD_FILE, "%d of %lld marks are whole; compile the spec again", m->whole[n], (long long)m->room);
	return TDA_OK;
}

/* Of a row block there are words from the first to the last that hold a visible key tile. */
static tda_status fetch_row_block(const Problem *p, const ScreenMarks *m, const MarkBuffers *from, int64_t index,
                                  int64_t block)
{
	Device *device = p->device;
	KeySpan tiles = from->tiles[block];
	int64_t at = (index * m->row_blocks + block) * m->words;
	int64_t first = tiles.first / MARK_WORD, end = (tiles.end + MARK_WORD - 1) / MARK_WORD;
	tda_status status;

	if (tiles.first == tiles.end)
		return TDA_OK;
	status = device->ops->copy_out(device, m->word + at + first, from->words + sizeof(MarkWord) * (size_t)(at + first),
	                               sizeof(MarkWord) * (size_t)(end - first));
	if (status)
		return tda_fail_within(status, "the screen's words of marks: ");
	for (int64_t w = first; w < end && !status; w++)
		status = fetch_marks(p, m, from, index, block, m->word[at + w]);
	return status;
}

static void row_block_tiles(const Problem *p, int64_t block, KeySpan *tiles)
{
	int64_t shift = p->shape.k_len - p->shape.q_len, row = block * MARK_SIDE, last = row + MARK_SIDE - 1;

	if (last >= p->shape.q_len)
		last = p->shape.q_len - 1;
	*tiles = reference_visible_keys(p->manifest, row + shift, p->shape.k_len);
	tiles->end = reference_visible_keys(p->manifest, last + shift, p->shape.k_len).end;
	tiles->first /= MARK_SIDE;
	tiles->end = (tiles->end + MARK_SIDE - 1) / MARK_SIDE;
	if (tiles->end < tiles->first)
		tiles->end = tiles->first;
}

/* Places of all marks. What the screen has room for in a row block, the size of its buffer says. */
static tda_status find_marks(const Problem *p, int64_t indices, ScreenMarks *m, MarkBuffers *from, int64_t *places)
{
	int64_t room = p->manifest->marks.room, row_blocks = indices * m->row_blocks, bytes;
	tda_status status;

	if (m->set == MARKS_KEPT) {
		m->room = m->row_blocks * least(m->key_tiles, room);
		*places = indices * m->room;
		status = find_sized(p, "whole_marks", indices * (int64_t)sizeof(*m->whole), &from->whole);
		return status ? status : find_sized(p, "packed_marks", *places * (int64_t)sizeof(*m->place), &from->marks);
	}
	if ((status = find_buffer(p, "marks", &from->marks, &bytes)))
		return status;
	m->room = row_blocks > 0 ? bytes / (2 * (int64_t)sizeof(*m->place)) / row_blocks : 0;
	*places = 2 * row_blocks * m->room;
	return find_sized(p, "marks", *places * (int64_t)sizeof(*m->place), &from->marks);
}

static tda_status fetch_all(const Problem *p, int64_t indices, ScreenMarks *m, MarkBuffers *from)
{
	int64_t words = indices * m->row_blocks * m->words, places;
	const char *name = m->set == MARKS_KEPT ? "packed_words" : "mark_words";
	tda_status status = find_sized(p, name, words * (int64_t)sizeof(*m->word), &from->words);

	if (status || (status = find_marks(p, indices, m, from, &places)))
		return status;
	m->word = calloc((size_t)words + 1, sizeof(*m->word));
	m->whole = calloc((size_t)indices + 1, sizeof(*m->whole));
	m->place = calloc((size_t)places + 1, sizeof(*m->place));
	from->tiles = calloc((size_t)m->row_blocks + 1, sizeof(*from->tiles));
	if (!m->word || !m->whole || !m->place || !from->tiles)
		return tda_fail_memory();
	for (int64_t block = 0; block < m->row_blocks; block++)
		row_block_tiles(p, block, &from->tiles[block]);
	status = p->device->ops->synchronize(p->device);
	if (!status && m->set == MARKS_KEPT && words > 0)
		status = fetch_whole(p, m, from, indices);
	for (int64_t index = 0; index < indices; index++)
		for (int64_t block = 0; block < m->row_blocks && !status; block++)
			status = fetch_row_block(p, m, from, index, block);
	return status;
}

tda_status marks_fetch(const Problem *p, MarkSet set, ScreenMarks *m)
{
	const ManifestMarks *layout = &p->manifest->marks;
	int64_t indices = p->manifest->views * p->shape.batch * p->shape.heads;
	MarkBuffers from = {0};
	tda_status status;

	*m = (ScreenMarks){
		.set = set,
		.row_blocks = (p->shape.q_len + MARK_SIDE - 1) / MARK_SIDE,
		.key_tiles = (p->shape.k_len + MARK_SIDE - 1) / MARK_SIDE,
	};
	if (layout->side == 0)
		return tda_fail(TDA_UNSUPPORTED, "the kernels have a dense plan, which visits every visible pair and keeps no "
		                "marks; compile the spec with --plan sparse");
	if (layout->side != MARK_SIDE || layout->word != MARK_WORD)
		return tda_fail(TDA_UNSUPPORTED, "this libtda reads marks of %d rows in words of %d, not of %d in words of %d",
		                MARK_SIDE, MARK_WORD, layout->side, layout->word);
	m->words = (m->key_tiles + MARK_WORD - 1) / MARK_WORD;
	status = fetch_all(p, indices, m, &from);
	free(from.tiles);
	if (status)
		marks_free(m);
	return status;
}

void marks_free(ScreenMarks *m)
{
	free(m->word);
	free(m->whole);
	free(m->place);
	memset(m, 0, sizeof(*m));
}

/* The mask that half a packed mark stands for: five places; or, with bit 31, 30 pairs and a group of four. */
static uint64_t unpacked_half(uint32_t half)
{
	uint64_t mask = 0;

	if (!(half >> 31)) {
		for (int n = 0; n < 5; n++)
			mask |= (uint64_t)1 << (half >> 6 * n & 63);
		return mask;
	}
	for (int pair = 0; pair < 30; pair++)
		if (half >> pair & 1)
			mask |= (uint64_t)3 << 2 * pair;
	return half >> 30 & 1 ? mask | (uint64_t)15 << 60 : mask;
}

Mark marks_get(const ScreenMarks *m, int64_t index, int64_t row_block, int64_t key_tile)
{
	MarkWord word = words_of(m, index, row_block)[key_tile / MARK_WORD];
	uint32_t own = (uint32_t)1 << key_tile % MARK_WORD;
	int64_t number = (int64_t)word.first + __builtin_popcount(word.tiles & (own - 1));

	if (!(word.tiles & own))
		return (Mark){ 0, 0 };
	if (number < m->room) {
		const MarkPlace *at = &m->place[place_of(m, index, row_block, number)];

		if (m->set == MARKS_SCREENED || number < m->whole[index])
			return (Mark){ at[0].half, at[1].half };
		return (Mark){ unpacked_half(at->packed.keys), unpacked_half(at->packed.rows) };
	}
	return (Mark){ ~(uint64_t)0, ~(uint64_t)0 };
}

int64_t marks_count(const ScreenMarks *m, int64_t index, int64_t row_block)
{
	const MarkWord *words = words_of(m, index, row_block);
	int64_t count = 0;

	for (int64_t w = 0; w < m->words; w++)
		count += __builtin_popcount(words[w].tiles);
	return count;
}

bool marks_overflow(const ScreenMarks *m, int64_t index, int64_t row_block)
{
	const MarkWord *words = words_of(m, index, row_block);

	for (int64_t w = 0; w < m->words; w++)
		if (words[w].tiles && word_end(words[w]) > m->room)
			return true;
	return false;
}
