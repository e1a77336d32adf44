/* SPDX-License-Identifier: BSD-3-Clause */
/* The ring of decisions.  It starts empty and is never emptied, so the tests build on each other. */
#include <stdio.h>
#include <string.h>

#include <dvmq/control.h>

#include "unit.h"

static const struct dvmq_decision *list[DVMQ_DECISIONS];

static const struct dvmq_decision *newest(void)
{
	unsigned n = dvmq_decisions(list);

	CU_ASSERT_FATAL(n > 0);
	return list[n - 1];
}

static void test_empty(void)
{
	CU_ASSERT_EQUAL(dvmq_decisions(list), 0);
	CU_ASSERT_EQUAL(dvmq_decision_count("move"), 0);
}

static void test_order(void)
{
	dvmq_decide("move", "up0/rx0", 1, 2, "core 1 is full");
	dvmq_decide("activate", "3", -1, 3, "no room");
	CU_ASSERT_EQUAL(dvmq_decisions(list), 2);
	CU_ASSERT_STRING_EQUAL(list[0]->action, "move");
	CU_ASSERT_STRING_EQUAL(list[0]->thing, "up0/rx0");
	CU_ASSERT_EQUAL(list[0]->from, 1);
	CU_ASSERT_EQUAL(list[0]->to, 2);
	CU_ASSERT_STRING_EQUAL(list[0]->reason, "core 1 is full");
	CU_ASSERT(list[0]->unix_ms > 1600000000000); /* the calendar's time, in ms */
	CU_ASSERT_STRING_EQUAL(list[1]->action, "activate");
	CU_ASSERT_EQUAL(list[1]->to, 3);
}

static void test_repeated(void)
{
	unsigned n = dvmq_decisions(list);

	for (unsigned i = 0; i < 5; i++)
		dvmq_decide("saturated", "up0/rx1", -1, -1, "needs 1.4 cores");
	CU_ASSERT_EQUAL(dvmq_decisions(list), n + 1);	      /* a state that lasts is told once ... */
	CU_ASSERT_EQUAL(dvmq_decision_count("saturated"), 5); /* ... but counted */
	dvmq_decide("saturated", "up0/rx1", -1, -1, "needs 1.5 cores");
	dvmq_decide("saturated", "up0/rx2", -1, -1, "needs 1.5 cores");
	CU_ASSERT_EQUAL(dvmq_decisions(list), n + 2); /* another figure is the same state */
	for (unsigned i = 0; i < 2; i++)	      /* a deed is told each time */
		dvmq_decide("move", "up0/rx2", 2, 1, "back again");
	CU_ASSERT_EQUAL(dvmq_decisions(list), n + 4);
	dvmq_decide("saturated", "up0/rx2", -1, -1, "needs 1.5 cores"); /* again after something else */
	CU_ASSERT_EQUAL(dvmq_decisions(list), n + 5);
}

static void test_totals(void)
{
	CU_ASSERT_EQUAL(dvmq_decision_count("move"), 3);
	CU_ASSERT_EQUAL(dvmq_decision_count("activate"), 1);
	CU_ASSERT_EQUAL(dvmq_decision_count("saturated"), 8);
	CU_ASSERT_EQUAL(dvmq_decision_count("park"), 0);
	CU_ASSERT_EQUAL(dvmq_decision_count(""), 0);
}

static void test_wrap(void)
{
	char thing[16];
	unsigned wrong = 0;

	for (unsigned i = 0; i < 3 * DVMQ_DECISIONS + 5; i++) {
		snprintf(thing, sizeof(thing), "q%u", i);
		dvmq_decide("park", thing, i, i + 1, "for the test");
		CU_ASSERT_STRING_EQUAL(newest()->thing, thing);
	}
	CU_ASSERT_EQUAL(dvmq_decisions(list), DVMQ_DECISIONS);
	for (unsigned i = 0; i < DVMQ_DECISIONS; i++)
		wrong += list[i]->from != (int)(2 * DVMQ_DECISIONS + 5 + i);
	CU_ASSERT_EQUAL(wrong, 0); /* the last 256, oldest first */
	CU_ASSERT_EQUAL(dvmq_decision_count("park"), 3 * DVMQ_DECISIONS + 5);
	CU_ASSERT_EQUAL(dvmq_decision_count("move"), 3);
}

static void test_long_words(void)
{
	char text[4 * DVMQ_BALANCE_REASON];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	dvmq_decide("refuse", text, -1, -1, text);
	CU_ASSERT_EQUAL(strlen(newest()->thing), DVMQ_QUEUE_NAME_LEN - 1);
	CU_ASSERT_EQUAL(strlen(newest()->reason), DVMQ_BALANCE_REASON - 1);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"empty", test_empty},   {"order", test_order},	   {"what is repeated", test_repeated},
	    {"totals", test_totals}, {"more than fit", test_wrap}, {"long words", test_long_words},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("decisions", tests);
}
