#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# timeout: 400
#
# test_promotions.sh, with 10,000 changes.
DVMQ_TEST_CHANGES=10000 exec "$(dirname "$0")/test_promotions.sh"
