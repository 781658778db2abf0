/*
 * Replays the vectors, as test/hosts/script.ts wrote them down, on a core in C: instance-c.c or instance-wasm2c.c. Reads the
 * script from standard input; ends with 1 and a line on standard error at the first difference.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blkif-core.h"
#include "instance.h"

static uint8_t *memory;
/* What memory must be. */
static uint8_t *expected;
static char *vector;
static char last_call[64];
static unsigned vectors, calls;

static void fail(const char *what, long number)
{
	fprintf(stderr, "%s: after \"%s\": %s %ld\n", vector ? vector : "before the first vector", last_call, what, number);
	exit(1);
}

static void compare(size_t from, size_t to)
{
	if (memcmp(memory + from, expected + from, to - from) == 0)
		return;
	while (memory[from] == expected[from])
		from++;
	fail("other than expected is the byte at", (long)from);
}

/* What the core may write, after each call; what the script does not speak of is compared at the end. */
static void compare_windows(void)
{
	compare(0, XBD_DATA);
	compare(XBD_SRING, XBD_PERSISTENT);
}

/* Writes "offset 0a0b" or "offset count*0a"; the host's bytes to both memories, the core's to the expected one. */
static void write_bytes(const char *text, int is_host)
{
	unsigned offset, value;
	size_t count;
	int length = 0;

	if (sscanf(text, "%u %n", &offset, &length) != 1)
		fail("a line without an offset, of length", (long)strlen(text));
	if (sscanf(text + length, "%zu*%2x", &count, &value) == 2) {
		memset(expected + offset, (int)value, count);
	} else {
		for (count = 0; sscanf(text + length + 2 * count, "%2x", &value) == 1; count++)
			expected[offset + count] = (uint8_t)value;
	}
	if (is_host)
		memcpy(memory + offset, expected + offset, count);
}

static void call(const char *text)
{
	char name[16];
	int argument, result, found;

	if (sscanf(text, "%15s %d %d", name, &argument, &result) != 3)
		fail("a call that is not understood, of length", (long)strlen(text));
	if (!call_export(name, argument, &found))
		fail("no such export, in call", (long)calls);
	snprintf(last_call, sizeof last_call, "%s", text);
	calls++;
	if (found != result)
		fail("it returned", found);
}

/* Compares when the lines about a call have ended. */
static void play(char *line)
{
	static int called;
	int is_core = strncmp(line, "core ", 5) == 0;

	if (called && !is_core) {
		compare_windows();
		called = 0;
	}
	if (is_core) {
		write_bytes(line + 5, 0);
	} else if (strncmp(line, "host ", 5) == 0) {
		write_bytes(line + 5, 1);
	} else if (strncmp(line, "call ", 5) == 0) {
		call(line + 5);
		called = 1;
	} else if (strncmp(line, "vector ", 7) == 0) {
		free(vector);
		vector = strdup(line + 7);
		begin_instance();
		vectors++;
	} else if (strcmp(line, "end") != 0) {
		fail("a line that is not understood, of length", (long)strlen(line));
	}
}

int main(void)
{
	char *line = NULL;
	size_t capacity = 0;
	char end[] = "end";

	memory = allocate_memory();
	expected = calloc(1, XBD_MEMORY_BYTES);
	if (!expected)
		fail("no memory, bytes", XBD_MEMORY_BYTES);
	for (ssize_t length; (length = getline(&line, &capacity, stdin)) > 0;) {
		line[length - 1] = '\0';
		play(line);
	}
	play(end);
	compare(0, XBD_MEMORY_BYTES);
	free(expected);
	free(vector);
	free(line);
	free_memory();
	printf("%u vectors, %u calls\n", vectors, calls);
	return 0;
}
