/* SPDX-License-Identifier: BSD-3-Clause */
/* JSON to text for people.  Units come from the names of the keys, so that no table needs code of its own. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grammar.h"

#define CELL_LEN 128

static bool ends_with(const char *key, const char *end)
{
	size_t len = strlen(key);
	size_t end_len = strlen(end);

	return len >= end_len && strcmp(key + len - end_len, end) == 0;
}

/* 1234567 with step 1000 is "1.23 M". */
static void scaled(char *buf, size_t size, double value, double step, const char *const units[])
{
	unsigned i = 0;

	while (value >= step && units[i + 1]) {
		value /= step;
		i++;
	}
	if (i == 0)
		snprintf(buf, size, "%.0f%s%s", value, *units[0] ? " " : "", units[0]);
	else
		snprintf(buf, size, "%.*f %s", value < 10 ? 2 : value < 100 ? 1 : 0, value, units[i]);
}

/* Seconds since 1970 as local time. */
static void clock_text(char *buf, size_t size, double seconds)
{
	time_t whole = (time_t)seconds;
	struct tm tm;
	size_t len;

	localtime_r(&whole, &tm);
	len = strftime(buf, size, "%F %T", &tm);
	snprintf(buf + len, size - len, ".%03d", (int)((seconds - (double)whole) * 1000));
}

static void number_text(char *buf, size_t size, const char *key, const json_t *value)
{
	static const char *const bytes[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", NULL};
	static const char *const rates[] = {"", "k", "M", "G", "T", NULL};
	double number = json_number_value(value);

	if (strcmp(key, "time") == 0)
		clock_text(buf, size, number);
	else if (ends_with(key, "bytes"))
		scaled(buf, size, number, 1024, bytes);
	else if (ends_with(key, "pps") || ends_with(key, "bps"))
		scaled(buf, size, number, 1000, rates);
	else if (json_is_integer(value))
		snprintf(buf, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (ends_with(key, "load") || ends_with(key, "busy") || ends_with(key, "occupancy"))
		snprintf(buf, size, "%.1f %%", number * 100);
	else
		snprintf(buf, size, "%.*f", number < 10 ? 3 : 1, number);
}

static void scalar_text(char *buf, size_t size, const char *key, const json_t *value)
{
	if (!value || json_is_null(value))
		snprintf(buf, size, "-");
	else if (json_is_boolean(value))
		snprintf(buf, size, "%s", json_is_true(value) ? "yes" : "no");
	else if (json_is_number(value))
		number_text(buf, size, key, value);
	else if (json_is_string(value))
		snprintf(buf, size, "%s", json_string_value(value));
	else
		snprintf(buf, size, "%s", json_is_object(value) ? "{...}" : "[...]");
}

/* A list in a cell is joined by commas. */
static void cell_text(char *buf, size_t size, const char *key, const json_t *value)
{
	size_t len = 0;
	size_t i;
	json_t *item;

	if (!json_is_array(value)) {
		scalar_text(buf, size, key, value);
		return;
	}
	snprintf(buf, size, "%s", json_array_size(value) ? "" : "-");
	json_array_foreach (value, i, item) {
		char text[CELL_LEN];

		scalar_text(text, sizeof(text), key, item);
		if (len < size)
			len += snprintf(buf + len, size - len, "%s%s", i ? "," : "", text);
	}
}

static bool is_table(const json_t *value)
{
	return json_is_array(value) && json_is_object(json_array_get(value, 0));
}

/* A switch has many reasons to drop and few of them happen: a column of zeros only hides the others. */
static bool is_quiet_drop(const json_t *rows, const char *key)
{
	size_t i;
	json_t *row;

	if (strncmp(key, "drop_", 5))
		return false;
	json_array_foreach (rows, i, row) {
		if (json_number_value(json_object_get(row, key)) != 0)
			return false;
	}
	return true;
}

struct column {
	int width;
	bool right; /* numbers */
};

/* The keys of all rows in the order of their first appearance. */
static json_t *table_columns(const json_t *rows, bool *ret_quiet)
{
	json_t *columns = json_object();
	const char *key;
	json_t *row, *value;
	size_t i;

	*ret_quiet = false;
	json_array_foreach (rows, i, row) {
		json_object_foreach (row, key, value) {
			if (json_object_get(columns, key))
				continue;
			if (is_quiet_drop(rows, key))
				*ret_quiet = true;
			else
				json_object_set_new(columns, key, json_true());
		}
	}
	return columns;
}

static struct column measure_column(const json_t *rows, const char *key)
{
	struct column column = {.width = strlen(key)};
	char text[CELL_LEN];
	json_t *row;
	size_t i;

	json_array_foreach (rows, i, row) {
		const json_t *value = json_object_get(row, key);
		int width;

		cell_text(text, sizeof(text), key, value);
		width = strlen(text);
		if (width > column.width)
			column.width = width;
		column.right |= json_is_number(value);
	}
	return column;
}

static void print_cell(FILE *out, const char *text, const struct column *column, bool last)
{
	if (column->right)
		fprintf(out, "%*s", column->width, text);
	else if (last)
		fputs(text, out);
	else
		fprintf(out, "%-*s", column->width, text);
	fputs(last ? "\n" : "  ", out);
}

static void print_table(FILE *out, const json_t *rows, int indent)
{
	bool quiet;
	json_t *columns = table_columns(rows, &quiet);
	size_t n = json_object_size(columns);
	struct column *shape = calloc(n ? n : 1, sizeof(*shape));
	char text[CELL_LEN];
	const char *key;
	json_t *row, *ignored;
	size_t i, c;

	if (!shape) {
		json_decref(columns);
		return;
	}
	c = 0;
	fprintf(out, "%*s", indent, "");
	json_object_foreach (columns, key, ignored) {
		shape[c] = measure_column(rows, key);
		print_cell(out, key, &shape[c], c + 1 == n);
		c++;
	}
	json_array_foreach (rows, i, row) {
		c = 0;
		fprintf(out, "%*s", indent, "");
		json_object_foreach (columns, key, ignored) {
			cell_text(text, sizeof(text), key, json_object_get(row, key));
			print_cell(out, text, &shape[c], c + 1 == n);
			c++;
		}
	}
	if (quiet)
		fprintf(out, "%*s(reasons to drop that are 0 everywhere are left out)\n", indent, "");
	free(shape);
	json_decref(columns);
}

static void print_object(FILE *out, const json_t *object, int indent);

static void print_block(FILE *out, const char *key, const json_t *value, int indent)
{
	fprintf(out, "%*s%s:\n", indent, "", key);
	if (json_is_object(value))
		print_object(out, value, indent + 2);
	else
		print_table(out, value, indent + 2);
}

/* First the plain members, aligned, then the blocks. */
static void print_object(FILE *out, const json_t *object, int indent)
{
	/* jansson's iteration macros take no const object, though they change nothing. */
	json_t *members = (json_t *)object;
	char text[1024];
	const char *key;
	json_t *value;
	int width = 0;

	json_object_foreach (members, key, value) {
		if (!json_is_object(value) && !is_table(value) && (int)strlen(key) > width)
			width = strlen(key);
	}
	json_object_foreach (members, key, value) {
		if (json_is_object(value) || is_table(value))
			continue;
		cell_text(text, sizeof(text), key, value);
		fprintf(out, "%*s%-*s  %s\n", indent, "", width, key, text);
	}
	json_object_foreach (members, key, value) {
		if (json_is_object(value) || is_table(value))
			print_block(out, key, value, indent);
	}
}

void dvmq_table_print(FILE *out, const json_t *value)
{
	char text[1024];

	if (json_is_object(value)) {
		print_object(out, value, 0);
	} else if (is_table(value)) {
		print_table(out, value, 0);
	} else if (json_is_array(value) && json_array_size(value) == 0) {
		fprintf(out, "(none)\n");
	} else {
		cell_text(text, sizeof(text), "", value);
		fprintf(out, "%s\n", text);
	}
}
