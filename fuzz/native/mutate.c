/*
 * Changes sessions as what they are, a header and records (docs/session.md): a record goes, comes twice, changes its place or
 * its bytes. Every third change is libFuzzer's own, of any bytes.
 */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

#define HEADER 48
#define RECORDS 1024

/* Bytes of the record that begins at `at`; no more than there are. */
static size_t record_length(const uint8_t *data, size_t size, size_t at)
{
	static const uint8_t fixed[] = { 2, 1, 6, 9, 1, 4, 5, 5, 9, 3, 1, 4, 7, 9 };
	uint8_t type = data[at] % sizeof fixed;
	size_t length = fixed[type];

	if (type == 0 && at + 1 < size)
		length += data[at + 1] % 113;
	if (type == 3 && at + 8 < size) {
		size_t offset = (data[at + 5] | data[at + 6] << 8) & 4095, bytes = data[at + 7] | data[at + 8] << 8;
		length += bytes < 4096 - offset ? bytes : 4096 - offset;
	}
	return length < size - at ? length : size - at;
}

static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	return *state ^= *state << 5;
}

/* Puts `given` bytes in place of the `taken` bytes at `to`: what is behind them moves. Returns the new size. */
static size_t shift(uint8_t *data, size_t size, size_t to, size_t taken, size_t given)
{
	memmove(data + to + given, data + to + taken, size - to - taken);
	return size - taken + given;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
	size_t starts[RECORDS], count = 0;
	uint8_t copy[8192];
	uint32_t random = seed | 1;

	for (size_t at = HEADER; at < size && count < RECORDS; at += record_length(data, size, at))
		starts[count++] = at;
	uint32_t choice = next_random(&random) % 6;
	if (count == 0 || choice < 2)
		return LLVMFuzzerMutate(data, size, most);
	size_t from = starts[next_random(&random) % count], length = record_length(data, size, from);
	size_t to = starts[next_random(&random) % count];
	if (length > sizeof copy / 2)
		return LLVMFuzzerMutate(data, size, most);
	memcpy(copy, data + from, length);
	if (choice == 2)
		return shift(data, size, from, length, 0);
	if (choice == 3) {
		size_t changed = LLVMFuzzerMutate(copy, length, sizeof copy);
		if (size - length + changed > most)
			return LLVMFuzzerMutate(data, size, most);
		size = shift(data, size, from, length, changed);
		memcpy(data + from, copy, changed);
		return size;
	}
	if (choice == 4) {
		size = shift(data, size, from, length, 0);
		if (to > from)
			to -= length < to - from ? length : to - from;
	} else if (size + length > most) {
		return LLVMFuzzerMutate(data, size, most);
	}
	size = shift(data, size, to, 0, length);
	memcpy(data + to, copy, length);
	return size;
}
