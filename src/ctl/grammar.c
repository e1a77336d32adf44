/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A line and the command table: which command it is, how it can go on, and where
 * it left the grammar.  One grammar serves the socket, the prompt and script
 * files; librte_cmdline matches it.
 */
#include "grammar.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <cmdline.h>
#include <rte_common.h>

#include "commands.h"
#include "conf_keys.h"

#define END_OF_LINE "#\r\n" /* as librte_cmdline sees it */
#define MAX_LISTED  16	    /* words that an error text lists */

struct dvmq_said dvmq_said;

static struct cmdline *matcher;
static struct dvmq_reply reply; /* what dvmq_said.out writes */

/* ---- names ---- */

static int parse_name(cmdline_parse_token_hdr_t *hdr, const char *buf, void *result, unsigned size)
{
	const struct dvmq_name_token *token = container_of(hdr, struct dvmq_name_token, hdr);
	size_t len;

	len = strcspn(buf, token->to_end ? END_OF_LINE : END_OF_LINE " \t");
	while (len && isblank((unsigned char)buf[len - 1]))
		len--;
	if (len == 0 || len >= token->size)
		return -1;
	if (token->refuse && strlen(token->refuse) == len && strncmp(buf, token->refuse, len) == 0)
		return -1;
	if (result) {
		if (size <= len)
			return -1;
		memcpy(result, buf, len);
		((char *)result)[len] = '\0';
	}
	return len;
}

static int count_names(cmdline_parse_token_hdr_t *hdr)
{
	const struct dvmq_name_token *token = container_of(hdr, struct dvmq_name_token, hdr);
	char name[DVMQ_WORD_LEN];
	int n = 0;

	while (token->name_at && token->name_at(n, name, sizeof(name)))
		n++;
	return n + (token->first ? 1 : 0);
}

static int get_name(cmdline_parse_token_hdr_t *hdr, int index, char *buf, unsigned size)
{
	const struct dvmq_name_token *token = container_of(hdr, struct dvmq_name_token, hdr);

	if (token->first && index-- == 0)
		return snprintf(buf, size, "%s", token->first) < (int)size ? 0 : -1;
	return token->name_at && token->name_at(index, buf, size) ? 0 : -1;
}

static int get_label(cmdline_parse_token_hdr_t *hdr, char *buf, unsigned size)
{
	const struct dvmq_name_token *token = container_of(hdr, struct dvmq_name_token, hdr);

	return snprintf(buf, size, "%s", token->label) < (int)size ? 0 : -1;
}

struct cmdline_token_ops dvmq_name_ops = {
    .parse = parse_name,
    .complete_get_nb = count_names,
    .complete_get_elt = get_name,
    .get_help = get_label,
};

/* ---- how a line goes on ---- */

/* Whether the first n words of text match the first n tokens of a command. */
static bool matches(cmdline_parse_inst_t *command, const char *text, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int len;

		if (!command->tokens[i])
			return false;
		text += strspn(text, " \t");
		len = command->tokens[i]->ops->parse(command->tokens[i], text, NULL, 0);
		if (len < 0 || !cmdline_isendoftoken(text[len]))
			return false;
		text += len;
	}
	return true;
}

/* Adds what a token can be to words, as dvmq_command_complete() returns it. */
static void add_words(cmdline_parse_token_hdr_t *token, const char *begin, json_t *words)
{
	int n = token->ops->complete_get_nb(token);
	char word[DVMQ_WORD_LEN];

	for (int i = 0; i < n; i++) {
		if (token->ops->complete_get_elt(token, i, word, sizeof(word)) == 0 &&
		    strncmp(word, begin, strlen(begin)) == 0)
			json_object_set_new(words, word, json_true());
	}
	if (n == 0 && token->ops->get_help(token, word, sizeof(word)) == 0)
		json_object_set_new(words, word, json_false());
}

/* The words that may stand at place n after the first n of text.  *ret_end: the line may also end there. */
static json_t *words_at(const char *text, unsigned n, const char *begin, bool *ret_matched, bool *ret_end)
{
	json_t *words = json_object();

	*ret_matched = *ret_end = false;
	for (unsigned i = 0; words && dvmq_commands[i]; i++) {
		if (!matches(dvmq_commands[i], text, n))
			continue;
		*ret_matched = true;
		if (dvmq_commands[i]->tokens[n])
			add_words(dvmq_commands[i]->tokens[n], begin, words);
		else
			*ret_end = true;
	}
	return words;
}

/* Words of text that are complete, that is followed by a blank; *ret_last is where the unfinished one begins. */
static unsigned complete_words(const char *text, const char **ret_last)
{
	unsigned n = 0;

	for (;;) {
		text += strspn(text, " \t");
		*ret_last = text;
		text += strcspn(text, " \t");
		if (!*text)
			return n;
		n++;
	}
}

json_t *dvmq_command_complete(const char *text)
{
	bool matched, end;
	const char *last;
	unsigned n = complete_words(text, &last);

	return words_at(text, n, last, &matched, &end);
}

/* The words that can follow, as people read them. */
static void list_words(FILE *out, json_t *words)
{
	const char *key;
	json_t *value;
	unsigned n = 0;

	json_object_foreach (words, key, value) {
		if (n < MAX_LISTED)
			fprintf(out, "%s%s", n ? ", " : "", key);
		n++;
	}
	if (n > MAX_LISTED)
		fprintf(out, ", ... (%u more)", n - MAX_LISTED);
}

/* First the end of text's first n words, then the beginning of the word after them. */
static const char *after_words(const char *text, unsigned n, const char **ret_next)
{
	const char *end = text;

	while (n--) {
		end += strspn(end, " \t");
		end += strcspn(end, " \t#\n");
	}
	*ret_next = end + strspn(end, " \t");
	return end;
}

static void explain_first_word(const char *word, int len)
{
	const char *similar;
	char first[DVMQ_WORD_LEN];
	bool matched, end;
	json_t *words = words_at("", 0, "", &matched, &end);
	const char *known[MAX_LISTED + 1];
	const char *key;
	json_t *value;
	unsigned n = 0;

	json_object_foreach (words, key, value)
		if (n < MAX_LISTED)
			known[n++] = key;
	known[n] = NULL;
	snprintf(first, sizeof(first), "%.*s", len, word);
	similar = dvmq_similar_word(first, known);
	if (similar)
		fprintf(dvmq_said.out, "unknown command \"%s\", did you mean \"%s\"? \"help\" lists the commands\n",
			first, similar);
	else
		fprintf(dvmq_said.out, "unknown command \"%s\", \"help\" lists the commands\n", first);
	json_decref(words);
}

/* Says where a line left the grammar: after the longest run of words that some command begins with. */
static void explain(const char *text)
{
	const char *done, *next, *last;
	bool matched = false, end = false;
	json_t *words = NULL;
	unsigned n = complete_words(text, &last) + (*last ? 1 : 0);
	int len;

	dvmq_said.failed = true;
	for (;; n--) {
		words = words_at(text, n, "", &matched, &end);
		if (matched || n == 0)
			break;
		json_decref(words);
	}
	done = after_words(text, n, &next);
	text += strspn(text, " \t");
	len = strcspn(next, " \t#\n");
	if (n == 0) {
		explain_first_word(next, len);
	} else if (len == 0) {
		fprintf(dvmq_said.out, "\"%.*s\" is not complete, next comes one of: ", (int)(done - text), text);
		list_words(dvmq_said.out, words);
		fputc('\n', dvmq_said.out);
	} else if (json_object_size(words) == 0) {
		fprintf(dvmq_said.out, "\"%.*s\" is too much after \"%.*s\"\n", len, next, (int)(done - text), text);
	} else {
		fprintf(dvmq_said.out, "\"%.*s\" cannot stand after \"%.*s\", possible: ", len, next,
			(int)(done - text), text);
		list_words(dvmq_said.out, words);
		fputs(end ? ", or nothing\n" : "\n", dvmq_said.out);
	}
	json_decref(words);
}

static void run_line(const char *text)
{
	char line[DVMQ_LINE_LEN + 2]; /* librte_cmdline wants a newline at the end */
	size_t len = strcspn(text, "\r\n");

	if (len >= DVMQ_LINE_LEN) {
		fprintf(dvmq_said.out, "the line has %zu characters, at most %d are possible\n", len,
			DVMQ_LINE_LEN - 1);
		dvmq_said.failed = true;
		return;
	}
	memcpy(line, text, len);
	strcpy(line + len, "\n");
	if (cmdline_parse(matcher, line) < 0) {
		line[len] = '\0';
		line[strcspn(line, "#")] = '\0';
		explain(line);
	}
}

const struct dvmq_reply *dvmq_command_run(const char *line, bool json)
{
	static char no_memory_text[] = "out of memory\n";
	static const struct dvmq_reply no_memory = {.text = no_memory_text, .len = sizeof(no_memory_text) - 1};

	free(reply.text);
	reply = (struct dvmq_reply){0};
	dvmq_said.json = json;
	dvmq_said.failed = false;
	dvmq_said.out = open_memstream(&reply.text, &reply.len);
	if (!dvmq_said.out)
		return &no_memory;
	run_line(line);
	if (fclose(dvmq_said.out) != 0)
		return &no_memory;
	reply.ok = !dvmq_said.failed;
	return &reply;
}

int dvmq_commands_init(void)
{
	/* Without descriptors: it only matches lines, see prompt.c for the terminal. */
	matcher = cmdline_new(dvmq_commands, "", -1, -1);
	return matcher ? 0 : -ENOMEM;
}

void dvmq_commands_free(void)
{
	cmdline_free(matcher);
	matcher = NULL;
	free(reply.text);
	reply = (struct dvmq_reply){0};
}
