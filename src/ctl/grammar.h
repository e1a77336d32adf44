/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands, as the socket and the prompt use them.  Control thread only. */
#ifndef DVMQ_GRAMMAR_H
#define DVMQ_GRAMMAR_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include <dvmq/conf.h>

#define DVMQ_LINE_LEN 4096 /* bytes of a command line, with its 0 */

/* What a command said: its output, or why it was refused. */
struct dvmq_reply {
	bool ok;
	char *text; /* ends with a newline unless it is empty */
	size_t len;
};

/*
 * Carries out one line; an empty line and a comment (# ...) do nothing.  json:
 * what is shown comes as JSON, not as a table.  The reply is valid until the
 * next call.
 */
const struct dvmq_reply *dvmq_command_run(const char *line, bool json);

/*
 * What the last, perhaps unfinished word of text can become: an object whose
 * keys are the words in the order of the grammar.  The value is true for a word
 * to insert, false for a description of what stands here (NAME).  A new
 * reference, NULL without memory.
 */
json_t *dvmq_command_complete(const char *text);

/* 0 or -ENOMEM.  dvmq_commands_free() is its mirror, also when it failed. */
int dvmq_commands_init(void);
void dvmq_commands_free(void);

/*
 * Prints a value for people: a list of objects as a table, an object as lines
 * "key value" with its lists and objects as blocks below.
 */
void dvmq_table_print(FILE *out, const json_t *value);

/* The configuration as JSON: the sections as objects, uplinks and ports as lists.  A new reference. */
json_t *dvmq_conf_json(const struct dvmq_conf *conf);

#endif
