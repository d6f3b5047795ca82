#include <stdlib.h>
#include <string.h>
#include "error.h"
#include "marks.h"

/* Where the buffers lie on the device, and how they are laid out. */
typedef struct MarkBuffers {
	const char *words, *marks;
	KeySpan *tiles;                /* [row_blocks]: key tiles that a row block sees */
} MarkBuffers;

static tda_status find_buffer(const Problem *p, const char *name, int64_t expected, const char **at)
{
	int64_t vars[FORMULA_VARS] = {0}, offset, bytes;
	int buffer = manifest_find_buffer(p->manifest, name);
	tda_status status = validate_shape(&p->shape, vars);

	if (status)
		return status;
	if (buffer < 0 || p->manifest->buffers[buffer].kind != BUFFER_SAVED)
		return tda_fail(TDA_BAD_FILE, "the manifest has marks, but no saved buffer '%s'; compile the spec again", name);
	if ((status = launch_buffer(p->manifest, vars, buffer, &offset, &bytes)))
		return status;
	if (bytes == 0 && expected > 0)
		return tda_fail(TDA_UNSUPPORTED, "the kernels have both plans, and this shape takes the dense one, which visits every "
		                "visible pair and keeps no marks; compile the spec with --plan sparse");
	if (bytes != expected)
		return tda_fail(TDA_BAD_FILE, "the buffer '%s' has %lld bytes where marks take %lld; compile the spec again", name,
		                (long long)bytes, (long long)expected);
	*at = (const char *)p->workspace[BUFFER_SAVED] + offset;
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

/* The marks of a word that have a place. */
static tda_status fetch_marks(const Problem *p, const ScreenMarks *m, const MarkBuffers *from, int64_t index, MarkWord word)
{
	int64_t end = least(word_end(word), m->room), at = index * m->room + word.first;
	Device *device = p->device;

	if (word.first >= end)
		return TDA_OK;
	return device->ops->copy_out(device, m->mark + at, from->marks + sizeof(PackedMark) * (size_t)at,
	                             sizeof(PackedMark) * (size_t)(end - word.first));
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
		status = fetch_marks(p, m, from, index, m->word[at + w]);
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

static tda_status fetch_all(const Problem *p, int64_t indices, ScreenMarks *m, MarkBuffers *from)
{
	int64_t words = indices * m->row_blocks * m->words, marks = indices * m->room;
	tda_status status;

	m->word = calloc((size_t)words + 1, sizeof(*m->word));
	m->mark = calloc((size_t)marks + 1, sizeof(*m->mark));
	from->tiles = calloc((size_t)m->row_blocks + 1, sizeof(*from->tiles));
	if (!m->word || !m->mark || !from->tiles)
		return tda_fail_memory();
	if ((status = find_buffer(p, "packed_words", words * (int64_t)sizeof(*m->word), &from->words)) ||
	    (status = find_buffer(p, "packed_marks", marks * (int64_t)sizeof(*m->mark), &from->marks)))
		return status;
	for (int64_t block = 0; block < m->row_blocks; block++)
		row_block_tiles(p, block, &from->tiles[block]);
	status = p->device->ops->synchronize(p->device);
	for (int64_t index = 0; index < indices; index++)
		for (int64_t block = 0; block < m->row_blocks && !status; block++)
			status = fetch_row_block(p, m, from, index, block);
	return status;
}

tda_status marks_fetch(const Problem *p, ScreenMarks *m)
{
	const ManifestMarks *layout = &p->manifest->marks;
	int64_t indices = p->manifest->views * p->shape.batch * p->shape.heads;
	MarkBuffers from = {0};
	tda_status status;

	*m = (ScreenMarks){
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
	m->room = m->row_blocks * least(m->key_tiles, layout->room);
	status = fetch_all(p, indices, m, &from);
	free(from.tiles);
	if (status)
		marks_free(m);
	return status;
}

void marks_free(ScreenMarks *m)
{
	free(m->word);
	free(m->mark);
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
		PackedMark packed = m->mark[index * m->room + number];

		return (Mark){ unpacked_half(packed.keys), unpacked_half(packed.rows) };
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
