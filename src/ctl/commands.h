/* SPDX-License-Identifier: BSD-3-Clause */
/* Between the command table (commands.c) and what matches lines with it (grammar.c).  Control thread only. */
#ifndef DVMQ_COMMANDS_H
#define DVMQ_COMMANDS_H

#include <stdbool.h>
#include <stdio.h>

#include <cmdline_parse.h>

#define DVMQ_WORD_LEN 128 /* STR_TOKEN_SIZE: what librte_cmdline stores of a word */

extern cmdline_parse_ctx_t dvmq_commands[]; /* ends with NULL */

/*
 * librte_cmdline calls handlers without a way to return anything: the reply
 * under way is here, which one control thread makes safe.
 */
struct dvmq_said {
	FILE *out;
	bool json; /* is asked for */
	bool failed;
};

extern struct dvmq_said dvmq_said;

/* A token that stands for a name or a free text; what people read of it is label. */
struct dvmq_name_token {
	struct cmdline_token_hdr hdr;
	const char *label;
	const char *first;  /* offered before the names: "all" */
	const char *refuse; /* a word of the grammar that is no name here */
	bool (*name_at)(unsigned index, char *buf, size_t size);
	size_t size; /* of the result; a rest of line has room for more than a word */
	bool to_end; /* takes the rest of the line */
};

extern struct cmdline_token_ops dvmq_name_ops;

#endif
