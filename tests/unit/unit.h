/* SPDX-License-Identifier: BSD-3-Clause */
/* The main() of a unit test. */
#ifndef DVMQ_UNIT_H
#define DVMQ_UNIT_H

#include <stdlib.h>

#include <CUnit/Basic.h>

/*
 * Runs the tests (CU_TEST_INFO_NULL ends them) with CUnit's report on stdout.
 * Exit code for main(): CU_basic_run_tests() returns 0 even when assertions fail.
 */
static inline int unit_run(const char *suite, CU_TestInfo *tests)
{
	CU_SuiteInfo suites[] = {{.pName = suite, .pTests = tests}, CU_SUITE_INFO_NULL};
	unsigned failures;

	if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
		return EXIT_FAILURE;
	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	failures = CU_get_number_of_failures();
	CU_cleanup_registry();
	return failures > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
