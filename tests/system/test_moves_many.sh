#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# test_moves.sh, with 10,000 moves.
DVMQ_TEST_MOVES=10000 exec "$(dirname "$0")/test_moves.sh"
