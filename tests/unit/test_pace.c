/* SPDX-License-Identifier: BSD-3-Clause */
/* How soon the controller looks again, by a clock that the test sets. */
#include <stdint.h>

#include <dvmq/control.h>

#include "unit.h"

#define FAST 2 /* ms */
#define SOON (FAST / 2.0) /* the look after news */

static struct dvmq_pace pace;
static uint64_t now_ms;
static bool calm;

/* After a pause in which it has saved up all that it may. */
static void begin(void)
{
	pace = (struct dvmq_pace){0};
	now_ms += 1000000;
	calm = false;
	dvmq_pace_looked(&pace, now_ms, false, false, calm);
}

/* The next look, when it is due; how long that took, ms. */
static double look(bool news, bool pending)
{
	double ms = dvmq_pace_ms(&pace, FAST);

	now_ms += (uint64_t)ms;
	dvmq_pace_looked(&pace, now_ms, news, pending, calm);
	return ms;
}

/* Looks within a second, `news` in each of them. */
static unsigned looks_of_a_second(bool news)
{
	unsigned n = 0;

	for (uint64_t end = now_ms + 1000; now_ms < end; n++)
		look(news, false);
	return n;
}

static void test_calm(void)
{
	begin();
	CU_ASSERT_EQUAL(look(false, false), 20);
	CU_ASSERT_EQUAL(looks_of_a_second(false), 50);
	calm = true;
	CU_ASSERT_EQUAL(look(false, false), 20);
	CU_ASSERT_EQUAL(look(false, false), 50);
	CU_ASSERT_EQUAL(look(false, false), 100);
	CU_ASSERT_EQUAL(dvmq_pace_ms(&pace, 300), 300); /* never more often than it is to be */
	CU_ASSERT_EQUAL(look(false, false), 200);
	CU_ASSERT_EQUAL(looks_of_a_second(false), 5);
	/* Whatever happens, it is not calm. */
	dvmq_pace_hurry(&pace);
	while (look(false, false) < 50)
		;
	CU_ASSERT_EQUAL(look(false, false), 100);
	look(true, false);
	while (look(false, false) < 50)
		;
	CU_ASSERT_EQUAL(look(false, false), 100);
	look(false, true);
	look(false, false);
	CU_ASSERT_EQUAL(look(false, false), 50);
	calm = false;
	look(false, false);
	CU_ASSERT_EQUAL(look(false, false), 20);
	CU_ASSERT_EQUAL(dvmq_pace_ms(&pace, 25), 25);
}

static void test_alarm(void)
{
	unsigned n;

	begin();
	CU_ASSERT(dvmq_pace_may_hurry(&pace));
	dvmq_pace_hurry(&pace);
	CU_ASSERT_FALSE(dvmq_pace_may_hurry(&pace)); /* it does */
	for (n = 0; look(false, false) <= FAST; n++)
		;
	CU_ASSERT(n >= 3 && n <= 10);
	CU_ASSERT(dvmq_pace_may_hurry(&pace));
	/* As long as it finds something to do, it goes on. */
	dvmq_pace_hurry(&pace);
	for (n = 0; n < 30; n++)
		CU_ASSERT_EQUAL(look(true, false), SOON);
	CU_ASSERT_EQUAL(look(false, false), SOON);
	CU_ASSERT_EQUAL(look(false, false), FAST);
}

/* What waits for the next look does not wait long, whatever else there was. */
static void test_pending(void)
{
	begin();
	look(false, true);
	for (unsigned n = 0; n < 1000; n++)
		CU_ASSERT_EQUAL(look(false, true), FAST);
	CU_ASSERT_EQUAL(look(false, false), FAST);
	CU_ASSERT_EQUAL(look(false, false), 20);
}

/* Workers that flap: it looks often for a while, then as rarely as ever, and an alarm need not wake it. */
static void test_storm(void)
{
	unsigned n, fast = 0;

	begin();
	dvmq_pace_hurry(&pace);
	CU_ASSERT(looks_of_a_second(true) < 370);
	for (unsigned second = 0; second < 60; second++) {
		n = looks_of_a_second(true);
		CU_ASSERT(n <= 155);
	}
	n = 0;
	for (uint64_t end = now_ms + 1000; now_ms < end;) {
		if (dvmq_pace_may_hurry(&pace)) {
			dvmq_pace_hurry(&pace);
			n++;
		}
		look(true, false);
	}
	CU_ASSERT(n <= 30);
	/* One fast look alone would prove nothing. */
	for (n = 0; n < 1000; n++) {
		if (look(true, false) <= FAST) {
			fast++;
		} else {
			CU_ASSERT(fast == 0 || fast >= 3);
			fast = 0;
		}
	}
	/* And is quick again some time after that. */
	for (n = 0; n < 1000; n++)
		look(false, false);
	CU_ASSERT(dvmq_pace_may_hurry(&pace));
	dvmq_pace_hurry(&pace);
	CU_ASSERT_EQUAL(look(false, false), SOON);
}

int main(void)
{
	CU_TestInfo tests[] = {
	    {"calm", test_calm},
	    {"after an alarm", test_alarm},
	    {"work that waits", test_pending},
	    {"storm", test_storm},
	    CU_TEST_INFO_NULL,
	};

	return unit_run("pace", tests);
}
